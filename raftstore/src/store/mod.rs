//! All peers of a store. The shell calls:
//!
//! ```text
//!  open                     once; the effects start the applier
//!  step(message)            for each message drained
//!  tick                     once a tick interval
//!  flush                    once a round, after the steps: gathers what the touched peers are ready for
//!  on_persisted, on_applied as the effects are performed; then flush again, until nothing is left
//! ```
//!
//! Each call adds to one [`Effects`]; `flush` is called once for each, so that a group appears once in
//! its log write. What concerns one peer only is done when that peer has its turn, at the flush; turns
//! of different peers may be taken side by side ([`turns`]).
//!
//! Invariants: the region map holds exactly the ranges of the peers that have data, and no two overlap;
//! a region has at most one peer here; a peer that was removed does not come back.

mod lifecycle;
pub(crate) mod region_map;
mod sleepers;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::{KeyRange, Refusal, RegionId, StoreId, metapb, raft_serverpb::RaftMessage, region};

use crate::command::Command;
use crate::config::Config;
use crate::effects::{Effects, PersistedReady, Report};
use crate::engine::{DataEngine, LogEngine};
use crate::error::Fault;
use crate::lanes::{Lanes, OneLane};
use crate::msg::{
    Answer, Applied, ApplyTask, BackgroundTask, Now, Outcome, Reply, StoreMsg, Target,
};
use crate::peer::mail::{AppliedData, PeerMsg};
use crate::peer::sleep::Cause;
use crate::peer::{Peer, Phase, Round};
use crate::read_view::ReadViews;
use crate::storage::Tombstone;
use crate::storage::group_log::Position;
use lifecycle::Dying;
use region_map::RegionMap;
use sleepers::Sleepers;
pub use turns::PeerShare;

/// Siblings told to a caller whose epoch is old, at most.
const SIBLINGS_MAX: usize = 10;

/// A sync of the data engine that was not answered for so many ticks is asked for again.
const SYNC_RETRY_TICKS: u64 = 200;

/// A store full of peers.
pub struct Store<D: DataEngine, L: LogEngine> {
    pub(crate) id: StoreId,
    pub(crate) config: Arc<Config>,
    pub(crate) data: D,
    pub(crate) log: L,
    /// In boxes, so that a peer moves to a lane by its address.
    pub(crate) peers: BTreeMap<RegionId, Box<Peer<L>>>,
    pub(crate) tombstones: BTreeMap<RegionId, Tombstone>,
    /// Bytes and keys applied since the last report.
    pub(crate) written: (u64, u64),
    pub(crate) region_map: RegionMap,
    views: ReadViews,
    /// Peers to flush; those with mail are among them.
    pub(crate) touched: BTreeSet<RegionId>,
    /// Messages in the mail of all peers.
    unread: usize,
    lanes: Box<dyn Lanes<PeerShare<D, L>>>,
    sleepers: Sleepers,
    /// Votes for regions that a split has yet to create here.
    early_votes: VecDeque<RaftMessage>,
    /// Regions that a split on its way to the applier will create, with the region it is of.
    splitting: BTreeMap<RegionId, RegionId>,
    /// Destroyed peers whose logs wait to be cleared.
    dying: BTreeMap<RegionId, Dying>,
    syncs: Syncs,
    ticks: u64,
    last_tick: Option<Now>,
    opened: Now,
    next_ask: u64,
    /// Peers made so far, in this life.
    generation: u64,
}

/// Requests to make the data engine durable.
#[derive(Debug, Default)]
struct Syncs {
    /// The number of the next request; what is registered now waits for it.
    next: u64,
    is_wanted: bool,
    /// The tick at which the last request left, until it is answered.
    asked_at: Option<u64>,
}

impl Syncs {
    /// The request after which everything written so far is durable.
    fn want(&mut self) -> u64 {
        self.is_wanted = true;
        self.next
    }
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Opens the store on its engines: peers, tombstones, votes are as they were left. A region whose
    /// only voter is here has a leader at once.
    pub fn open(
        id: StoreId,
        config: Config,
        data: D,
        log: L,
        now: Now,
        effects: &mut Effects,
    ) -> Result<Self, Fault> {
        let mut store = Self {
            id,
            config: Arc::new(config),
            data,
            log,
            peers: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            written: (0, 0),
            region_map: RegionMap::default(),
            views: ReadViews::new(id),
            touched: BTreeSet::new(),
            unread: 0,
            lanes: Box::new(OneLane),
            sleepers: Sleepers::default(),
            early_votes: VecDeque::new(),
            splitting: BTreeMap::new(),
            dying: BTreeMap::new(),
            syncs: Syncs::default(),
            ticks: 0,
            last_tick: None,
            opened: now,
            next_ask: 0,
            generation: 0,
        };
        store.load(effects)?;
        Ok(store)
    }

    /// What RPC tasks may see of the regions.
    pub fn read_views(&self) -> &ReadViews {
        &self.views
    }

    /// Which store this is.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Whether leaders here may answer reads alone from now on. What was published is taken back at once.
    pub fn use_leases(&mut self, may: bool) {
        if self.config.leases == may {
            return;
        }
        Arc::make_mut(&mut self.config).leases = may;
        if !may {
            self.peers.values().for_each(|peer| peer.publisher.set_lease(None));
        }
    }

    /// Something happened. What concerns one peer only goes into its mail.
    pub fn step(
        &mut self,
        message: StoreMsg,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        match message {
            StoreMsg::Write { target, batch, reply } => match self.admit(&target) {
                Ok(()) => {
                    self.mail(target.region_id, now, PeerMsg::Write { target, batch, reply });
                }
                Err(refusal) => effects.replies.push((reply, Err(refusal))),
            },
            StoreMsg::ReadBarrier { target, reply } => match self.admit(&target) {
                Ok(()) => {
                    self.mail(target.region_id, now, PeerMsg::ReadBarrier { target, reply });
                }
                Err(refusal) => effects.replies.push((reply, Err(refusal))),
            },
            StoreMsg::Split { target, keys, reply } => match self.admit(&target) {
                Ok(()) => {
                    let ask = self.next_ask();
                    self.mail(target.region_id, now, PeerMsg::Split { keys, reply, ask });
                }
                Err(refusal) => effects.replies.extend(reply.map(|reply| (reply, Err(refusal)))),
            },
            StoreMsg::Order(order) => {
                let ask = self.next_ask();
                self.mail(RegionId(order.region_id), now, PeerMsg::Order { order, ask });
            }
            StoreMsg::Raft(message) => {
                let region_id = RegionId(message.region_id);
                if self.is_between_members(&message) {
                    self.note_sign_of_life(&message);
                    self.mail(region_id, now, PeerMsg::Raft(message));
                } else {
                    self.read_mail_of(region_id, effects);
                    self.on_raft(*message, now, effects)?;
                }
            }
            StoreMsg::CheckConsistency { region_id, reply } => {
                self.read_mail_of(region_id, effects);
                self.on_check_consistency(region_id, reply, now, effects);
            }
            StoreMsg::HashComputed { region_id, peer_id, index, hash } => {
                self.read_mail_of(region_id, effects);
                self.on_hash_computed((region_id, peer_id), index, hash, now, effects);
            }
            StoreMsg::SnapshotReceived { message, source } => {
                self.read_mail(effects);
                self.on_snapshot_received(*message, source, now, effects);
            }
            StoreMsg::SnapshotSent { region_id, to, ok } => {
                self.mail(region_id, now, PeerMsg::SnapshotSent { to, ok });
            }
            StoreMsg::Unreachable { store_id } => {
                self.read_mail(effects);
                self.on_unreachable(store_id);
            }
            StoreMsg::SnapshotGenerated { region_id, peer_id, to, generated } => {
                let message = PeerMsg::SnapshotGenerated { peer_id, to, generated };
                self.mail(region_id, now, message);
            }
            StoreMsg::SnapshotInstalled { region_id, peer_id, ok } => {
                self.read_mail_of(region_id, effects);
                self.on_snapshot_installed(region_id, peer_id, ok, now, effects)?;
            }
            StoreMsg::SplitIds { region_id, ask, ids } => {
                self.mail(region_id, now, PeerMsg::SplitIds { ask, ids });
            }
            StoreMsg::HandOver { region_id, term, to } => {
                self.mail(region_id, now, PeerMsg::HandOver { term, to });
            }
            StoreMsg::SplitKeysFound { region_id, epoch, keys, size } => {
                let ask = self.next_ask();
                self.mail(region_id, now, PeerMsg::SplitKeysFound { epoch, keys, size, ask });
            }
            StoreMsg::DataSynced { ticket } => {
                self.read_mail(effects);
                self.on_data_synced(ticket);
            }
        }
        Ok(())
    }

    /// One tick passed. A tick that comes early is not one: followers would lose patience sooner than
    /// the lease of their leader allows. So a shell never makes up for ticks it has missed.
    pub fn tick(&mut self, now: Now, effects: &mut Effects) -> Result<(), Fault> {
        let shortest = self.config.tick_micros() / 10 * 9;
        if self.last_tick.is_some_and(|last| now.since(last) < shortest) {
            return Ok(());
        }
        self.read_mail(effects);
        self.last_tick = Some(now);
        self.ticks += 1;
        let (mut failed, mut agreed) = (Vec::new(), Vec::new());
        for region_id in self.sleepers.awake() {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let mut round = Round { config: &self.config, now, effects };
            if Self::tick_peer(peer, &mut round) {
                self.touched.insert(region_id);
            }
            if peer.may_rebuild() {
                failed.push(region_id);
            }
            if peer.has_agreement() {
                agreed.push(region_id);
            }
        }
        // Those that wake now have had this tick in their sleep.
        self.tick_sleepers(agreed, now, effects);
        for region_id in failed {
            self.rebuild(region_id, now, effects)?;
        }
        if self.ticks.is_multiple_of(self.config.store_heartbeat_ticks) {
            let stats = self.store_stats();
            effects.reports.push(Report::StoreHeartbeat(Box::new(stats)));
        }
        if self.syncs.asked_at.is_some_and(|asked| self.ticks - asked >= SYNC_RETRY_TICKS) {
            self.syncs.asked_at = None;
            self.syncs.is_wanted = true;
        }
        Ok(())
    }

    fn tick_peer(peer: &mut Peer<L>, round: &mut Round<'_>) -> bool {
        let due = peer.ticker.tick(round.config);
        peer.tick_abandoned(round);
        if peer.phase == Phase::Quarantined {
            peer.tick_quarantined(round);
        }
        if peer.phase != Phase::Serving {
            return false;
        }
        let mut is_touched = peer.group.tick();
        peer.refuse_late_writes(round);
        peer.tick_reads(round);
        peer.tick_snapshots(round);
        peer.tick_split(due.split_check, round);
        peer.tick_stale(round);
        is_touched |= peer.tick_members(round);
        peer.tick_check(round);
        if due.compact_log {
            peer.tick_compact_log(round);
        }
        // What was said of a follower that lacks entries holds the scheduler up: it is taken back soon.
        if due.compact_log || peer.has_news_of_followers() {
            peer.tick_heartbeat(false);
            is_touched = true;
        }
        if due.region_heartbeat || peer.is_report_due() {
            peer.tick_heartbeat(true);
            is_touched = true;
        }
        if due.forget_cache {
            let applied = peer.applied.index;
            peer.group.log_mut().forget_cached(applied);
        }
        peer.tick_sleep(round);
        is_touched || peer.has_new_reads()
    }

    /// Gathers what touched peers are ready for.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        let tasks_before = effects.apply.len();
        self.take_turns(Some(now), effects);
        self.look_for_splits(tasks_before, effects);
        self.clear_logs(effects);
        if self.syncs.is_wanted && self.syncs.asked_at.is_none() {
            let ticket = self.syncs.next;
            self.syncs.next += 1;
            self.syncs.is_wanted = false;
            self.syncs.asked_at = Some(self.ticks);
            effects.background.push(BackgroundTask::SyncData { ticket });
        }
    }

    /// A split on its way to the applier will create regions: no message may create them meanwhile, and
    /// those whose newer peers are known here are left out.
    fn look_for_splits(&mut self, from: usize, effects: &mut Effects) {
        for task in &mut effects.apply[from..] {
            let ApplyTask::Entries { region_id: parent, entries, skip_children, .. } = task else {
                continue;
            };
            for entry in entries.iter().filter(|entry| Command::is_split(&entry.data)) {
                let Ok(Command::Split(split)) = Command::decode(entry.data.clone()) else {
                    continue;
                };
                for part in split.parts {
                    let newest = part.peer_ids.iter().max();
                    let is_newer = |id| newest.is_none_or(|newest| id > *newest);
                    let known = self.peers.get(&part.region_id);
                    let removed = self.tombstones.get(&part.region_id);
                    if known.is_some_and(|peer| peer.is_initialized() || is_newer(peer.id()))
                        || removed.is_some_and(|tombstone| {
                            is_newer(tombstone.peer_id)
                                || part.peer_ids.contains(&tombstone.peer_id)
                        })
                    {
                        skip_children.push(part.region_id);
                    }
                    self.splitting.insert(part.region_id, *parent);
                }
            }
        }
    }

    /// The log writes of these readies, and of all before them, are durable.
    pub fn on_persisted(
        &mut self,
        persisted: Vec<PersistedReady>,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        for ready in persisted {
            let region_id = ready.region_id;
            let peer = self.peers.get(&region_id);
            let Some(peer) = peer.filter(|peer| peer.generation() == ready.generation) else {
                self.on_log_cleared(&ready);
                continue;
            };
            if peer.phase == Phase::Serving {
                self.mail(region_id, now, PeerMsg::Persisted { number: ready.number });
            } else {
                self.read_mail_of(region_id, effects);
                self.with_peer(region_id, now, effects, |peer, _| peer.on_persisted(ready.number));
                if self.peers.get(&region_id).is_some_and(|peer| peer.may_rebuild()) {
                    self.rebuild(region_id, now, effects)?;
                }
            }
        }
        Ok(())
    }

    /// Entries were applied; everything up to `applied_index` is in the engine.
    pub fn on_applied(
        &mut self,
        applied: Applied,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let region_id = applied.region_id;
        if self.peers.get(&region_id).is_none_or(|peer| peer.id() != applied.peer_id) {
            return Ok(());
        }
        self.written.0 += applied.bytes_written;
        self.written.1 += applied.keys_written;
        let mut data = AppliedData {
            at: Position { index: applied.applied_index, term: applied.applied_term },
            bytes: applied.bytes_written,
            keys: applied.keys_written,
            cut: None,
        };
        for outcome in &applied.outcomes {
            if let Outcome::LogCut { index, term } = *outcome {
                data.cut = Some((Position { index, term }, self.syncs.want()));
            }
        }
        let concerns_peer_only =
            applied.outcomes.iter().all(|outcome| matches!(outcome, Outcome::LogCut { .. }));
        if concerns_peer_only {
            self.splitting.retain(|_, parent| *parent != region_id);
            self.mail(region_id, now, PeerMsg::Applied(data));
            return Ok(());
        }
        self.read_mail(effects);
        self.on_outcomes(region_id, applied.outcomes, data, now, effects)
    }

    /// Entries were applied, and changed more than data.
    fn on_outcomes(
        &mut self,
        region_id: RegionId,
        outcomes: Vec<Outcome>,
        data: AppliedData,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let mut answers: BTreeMap<u64, Reply> = BTreeMap::new();
        let mut tombstone = None;
        let mut odd = None;
        // In log order: a change of membership after a split knows of the split.
        for outcome in outcomes {
            match outcome {
                Outcome::Refused { index, refusal } => {
                    answers.insert(index, Err(refusal));
                }
                Outcome::ConfChanged { index, change, region } => {
                    self.with_peer(region_id, now, effects, |peer, round| {
                        peer.on_conf_changed(index, &change, region, round);
                    });
                }
                Outcome::Split { index, regions, skipped } => {
                    answers.insert(index, Ok(Answer::Regions(regions.clone())));
                    self.on_region_split(region_id, regions, &skipped, now, effects)?;
                }
                // In `data`.
                Outcome::LogCut { .. } => {}
                Outcome::HashDue { job } => {
                    self.with_peer(region_id, now, effects, |peer, round| {
                        peer.begin_hash(job, round);
                    });
                }
                Outcome::HashAgreed { index, hash } => {
                    let peer = self.peers.get_mut(&region_id);
                    odd = odd.or(peer.and_then(|peer| peer.on_hash_agreed(index, hash)));
                }
                Outcome::Removed { tombstone: found } => tombstone = Some(found),
            }
        }
        self.splitting.retain(|_, parent| *parent != region_id);
        for answer in answers.values_mut() {
            if let Err(refusal) = answer {
                *refusal = self.with_siblings(refusal.clone(), None);
            }
        }
        let is_removed = tombstone.is_some();
        self.with_peer(region_id, now, effects, |peer, round| {
            peer.log_use.cut = data.cut.or(peer.log_use.cut.take());
            peer.on_applied(data, answers, round);
            if !is_removed {
                peer.go_on(round);
            }
        });
        if let Some(tombstone) = tombstone {
            self.destroy(tombstone, now, effects);
        }
        if let Some(odd) = odd {
            self.quarantine(region_id, odd, now, effects);
        }
        Ok(())
    }

    /// Does something to a peer, if it is there, and flushes it later. A peer that is wanted does not sleep.
    fn with_peer(
        &mut self,
        region_id: RegionId,
        now: Now,
        effects: &mut Effects,
        act: impl FnOnce(&mut Peer<L>, &mut Round<'_>),
    ) {
        self.wake(region_id, Cause::Wanted, now);
        if let Some(peer) = self.peers.get_mut(&region_id) {
            act(peer, &mut Round { config: &self.config, now, effects });
            self.touched.insert(region_id);
        }
    }

    /// Whether a request may enter.
    fn admit(&self, target: &Target) -> Result<(), Refusal> {
        if let Some(requested) = target.store_id.filter(|requested| *requested != self.id) {
            return Err(Refusal::StoreNotMatch { requested: requested.0, actual: self.id.0 });
        }
        let region_id = target.region_id;
        let peer = self.peers.get(&region_id);
        let Some(peer) = peer.filter(|peer| peer.phase != Phase::Quarantined) else {
            return Err(Refusal::RegionNotFound { region_id: region_id.0 });
        };
        match (peer.view().admit(target, self.id), &peer.phase) {
            (Err(refusal), _) => Err(self.with_siblings(refusal, Some(&target.epoch))),
            (Ok(()), Phase::Serving) => Ok(()),
            (Ok(()), Phase::Installing) => {
                Err(Refusal::Other { message: "peer is applying snapshot".into() })
            }
            (Ok(()), Phase::Leaving | Phase::Quarantined) => {
                Err(Refusal::RegionNotFound { region_id: region_id.0 })
            }
        }
    }

    /// A caller whose epoch is old is told of the regions next to the one it knew, too: they may have
    /// been part of it.
    fn with_siblings(&self, refusal: Refusal, known: Option<&metapb::RegionEpoch>) -> Refusal {
        let Refusal::EpochNotMatch { mut current_regions } = refusal else { return refusal };
        if let [current] = &current_regions[..] {
            let version = region::epoch(current).version;
            let behind = known.map_or(1, |known| version.saturating_sub(known.version));
            let count = (behind as usize).min(SIBLINGS_MAX / 2);
            let siblings = self.region_map.neighbours(&KeyRange::of(current), count);
            let siblings = siblings.iter().filter_map(|id| self.peers.get(id));
            current_regions.extend(siblings.map(|peer| peer.region.clone()));
        }
        Refusal::EpochNotMatch { current_regions }
    }

    fn on_unreachable(&mut self, store_id: StoreId) {
        self.doubt_store(store_id);
        for peer in self.peers.values_mut().filter(|peer| peer.leader().is_some()) {
            if let Some(there) = region::peer_on(&peer.region, store_id) {
                let there = proto::PeerId(there.id);
                peer.group.report_unreachable(there);
            }
        }
    }

    /// The data engine is durable up to this request: logs may be begun or cut, and those of destroyed
    /// peers cleared.
    fn on_data_synced(&mut self, ticket: u64) {
        if ticket + 1 == self.syncs.next {
            self.syncs.asked_at = None;
        }
        for (region_id, peer) in &mut self.peers {
            if peer.on_data_synced(ticket) {
                self.touched.insert(*region_id);
            }
        }
        for dying in self.dying.values_mut() {
            dying.on_synced(ticket);
        }
    }

    fn next_ask(&mut self) -> u64 {
        self.next_ask += 1;
        self.next_ask
    }
}

#[cfg(test)]
mod tests;
