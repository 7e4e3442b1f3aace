//! How a peer comes to be, and is destroyed.
//!
//! | comes to be by | with | its log begins |
//! |---|---|---|
//! | loading, after bootstrap or a restart | what is on disk | as it was left |
//! | a split of a region that was here | the data, in place | at the first position |
//! | an initial message of its group | nothing | empty; a snapshot follows |
//!
//! A peer made by a message is empty and never campaigns: it is not among the voters it knows, since it
//! knows none. A peer that a split made keeps still until the data engine is synced: were its log durable
//! and the split that made it lost, a restart would find a log, with promises, that belongs to no region.
//! The message must pass:
//!
//! - it is a vote request, or a heartbeat to a member that has acknowledged nothing;
//! - no tombstone says that this peer, or a newer one, was removed;
//! - its range covers no key of a region here. If it does, that region is probably late to split; the
//!   vote is kept and delivered when it has;
//! - no split on its way to the applier will create the region.
//!
//! **Destroyed.** First the tombstone is in the engine (in the batch that removed the peer, or written for
//! it). Then the peer is gone from every map and everybody who waited is answered. The data is cleared in
//! the background. The log is cleared once the tombstone is durable: without both, a restart would find a
//! peer that has forgotten its votes. The term and vote stay for ever: a later peer of the region on this
//! store keeps their promise. Until the log is cleared no new peer of the region is made.

use std::collections::VecDeque;

use proto::{KeyRange, PeerId, RegionId, metapb, raft_serverpb::RaftMessage, region};
use raft::eraftpb::HardState;

use super::Store;
use crate::effects::{Effects, PersistedReady, Report};
use crate::engine::{DataEngine, GroupWrite, LogEngine, LogState};
use crate::error::Fault;
use crate::msg::{ApplyTask, BackgroundTask, Now};
use crate::peer::sleep::Cause;
use crate::peer::{Peer, PeerStart, Phase, Round, is_initial};
use crate::plant::Bug;
use crate::storage::group_log::{GroupLog, Position};
use crate::storage::{
    FIRST_POSITION, RegionState, Tombstone, applied_state, conf_state_of, quarantine_of,
    region_states,
};
use crate::wire;

/// Votes kept for regions that are not there yet; the oldest are forgotten.
const EARLY_VOTES_MAX: usize = 128;

/// A destroyed peer whose log is not cleared yet.
#[derive(Debug)]
pub(super) struct Dying {
    peer_id: PeerId,
    promised: HardState,
    /// The sync after which the tombstone is durable; `None` when it is.
    awaits_sync: Option<u64>,
    is_clearing: bool,
}

impl Dying {
    pub(super) fn on_synced(&mut self, ticket: u64) {
        self.awaits_sync.take_if(|wanted| *wanted <= ticket);
    }
}

/// What a new peer is made of.
struct NewPeer {
    meta: metapb::Peer,
    region: metapb::Region,
    applied: Position,
    /// What an earlier peer of the region promised here and may not be on disk yet.
    promised: Option<HardState>,
    votes_from: Now,
    /// The sync after which the region is durable; `None` when it is.
    awaits_sync: Option<u64>,
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Makes a peer for every region on disk, and has cleared what belongs to none.
    pub(super) fn load(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        let snapshot = self.data.snapshot();
        for (region_id, state) in region_states(&self.data)? {
            let region = match state {
                RegionState::Normal(region) => region,
                RegionState::Tombstone(tombstone) => {
                    self.bury_again(region_id, &tombstone)?;
                    self.tombstones.insert(region_id, tombstone);
                    continue;
                }
            };
            let applied = applied_state(&snapshot, region_id)?
                .ok_or_else(|| Fault::Missing { what: format!("applied state of {region_id}") })?;
            let Some(meta) = region::peer_on(&region, self.id).cloned() else {
                return Err(Fault::Corrupt {
                    place: format!("state of {region_id}"),
                    detail: format!("no peer on {}", self.id),
                });
            };
            let has_log = self.log.state(region_id)?.is_some();
            if !has_log && applied != FIRST_POSITION {
                return Err(Fault::Missing { what: format!("raft log of {region_id}") });
            }
            // Whoever was heard before the restart may still count on this peer's patience.
            let patience = if has_log { self.config.election_micros() } else { 0 };
            let votes_from = self.opened.plus(patience);
            self.region_map.insert(KeyRange::of(&region), region_id);
            // What is found after a crash of the process may still be lost with the power.
            let awaits_sync = (!has_log).then(|| self.syncs.want());
            let odd = quarantine_of(&snapshot, region_id, PeerId(meta.id))?;
            let new = NewPeer { meta, region, applied, promised: None, votes_from, awaits_sync };
            self.add_peer(new, effects)?;
            if odd.is_some() {
                self.set_aside(region_id);
            }
        }
        for range in self.region_map.gaps() {
            effects.background.push(BackgroundTask::ClearRange { range });
        }
        Ok(())
    }

    /// The peer is in quarantine: nobody sees it, and it does nothing.
    pub(crate) fn set_aside(&mut self, region_id: RegionId) {
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.phase = Phase::Quarantined;
            self.views.remove(region_id, &peer.publisher);
        }
    }

    /// What was and will be written in this round shall be durable soon.
    pub(crate) fn want_sync(&mut self) {
        self.syncs.want();
    }

    /// A crash may fall between a tombstone and the clearing of its log.
    fn bury_again(&mut self, region_id: RegionId, tombstone: &Tombstone) -> Result<(), Fault> {
        let Some(state) = self.log.state(region_id)? else { return Ok(()) };
        if state.last_index > 0 {
            let dying = Dying {
                peer_id: tombstone.peer_id,
                promised: wire::hard_state_from_wire(&state.hard_state),
                awaits_sync: Some(self.syncs.want()),
                is_clearing: false,
            };
            self.dying.insert(region_id, dying);
        }
        Ok(())
    }

    fn add_peer(&mut self, new: NewPeer, effects: &mut Effects) -> Result<(), Fault> {
        let NewPeer { meta, region, applied, promised, votes_from, awaits_sync } = new;
        let region_id = region::id(&region);
        let mut log = GroupLog::open(
            self.log.clone(),
            region_id,
            conf_state_of(&region),
            applied,
            self.config.entry_cache_bytes,
        )?;
        log.planted = self.config.planted;
        if let Some(promised) = &promised {
            log.adopt_vote(promised);
        }
        if !region.peers.is_empty() {
            effects.apply.push(ApplyTask::Start {
                region: region.clone(),
                peer_id: PeerId(meta.id),
                applied_index: applied.index,
                applied_term: applied.term,
            });
        }
        self.generation += 1;
        let generation = self.generation;
        let start = PeerStart { meta, region, log, applied, votes_from, awaits_sync, generation };
        let mut peer = Peer::new(start, &self.config)?;
        if peer.group.is_only_voter() {
            peer.group.campaign();
        }
        self.views.insert(region_id, &peer.publisher);
        self.peers.insert(region_id, Box::new(peer));
        self.sleepers.rouse(region_id);
        self.touched.insert(region_id);
        Ok(())
    }

    /// A message came for a region that has no peer here: makes one if the message may.
    pub(crate) fn maybe_create(
        &mut self,
        message: RaftMessage,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let region_id = RegionId(message.region_id);
        let inner = message.message.clone().and_then(wire::message_from_wire);
        let (Some(inner), Some(meta)) = (inner, message.to_peer) else { return Ok(()) };
        if !is_initial(&inner) || self.dying.contains_key(&region_id) {
            return Ok(());
        }
        let range = KeyRange::from_wire(message.start_key.clone(), message.end_key.clone());
        let is_vote = inner.msg_type != raft::eraftpb::MessageType::MsgHeartbeat;
        if self.splitting.contains_key(&region_id)
            || !self.region_map.overlapping(&range).is_empty()
        {
            if is_vote {
                self.keep_early_vote(message);
            }
            return Ok(());
        }
        tracing::info!(store = %self.id, region = %region_id, peer = meta.id, "an empty peer is made");
        let region = metapb::Region { id: region_id.0, ..Default::default() };
        let applied = Position::default();
        let new =
            NewPeer { meta, region, applied, promised: None, votes_from: now, awaits_sync: None };
        self.add_peer(new, effects)?;
        self.deliver(message, now, effects);
        Ok(())
    }

    fn keep_early_vote(&mut self, message: RaftMessage) {
        // The newest of a candidate says all that the older ones said.
        self.early_votes.retain(|kept| {
            kept.region_id != message.region_id || kept.from_peer != message.from_peer
        });
        if self.early_votes.len() == EARLY_VOTES_MAX {
            self.early_votes.pop_front();
        }
        self.early_votes.push_back(message);
    }

    /// The applier has cut a region: the parts become peers.
    pub(super) fn on_region_split(
        &mut self,
        parent: RegionId,
        regions: Vec<metapb::Region>,
        skipped: &[RegionId],
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(peer) = self.peers.get_mut(&parent) else { return Ok(()) };
        let leads = peer.leader().is_some();
        self.region_map.remove(&KeyRange::of(&peer.region), parent);
        let share = regions.len() as u64;
        peer.traffic.size_bytes /= share;
        peer.traffic.size_keys /= share;
        let (size_bytes, size_keys) = (peer.traffic.size_bytes, peer.traffic.size_keys);
        if leads {
            effects.reports.push(Report::RegionsSplit(regions.clone()));
        }
        for region in regions {
            let region_id = region::id(&region);
            let range = KeyRange::of(&region);
            if region_id == parent {
                if let Some(peer) = self.peers.get_mut(&parent) {
                    peer.set_region(region);
                    let round = Round { config: &self.config, now, effects };
                    peer.publish(&round);
                }
                self.region_map.insert(range, parent);
                continue;
            }
            let own = region::peer_on(&region, self.id).cloned();
            let Some(meta) = own.filter(|_| !skipped.contains(&region_id)) else {
                effects.background.push(BackgroundTask::ClearRange { range });
                continue;
            };
            let promised = self.remove_empty_peer(region_id, now, effects);
            self.region_map.insert(range, region_id);
            let applied = FIRST_POSITION;
            let awaits_sync = Some(self.syncs.want());
            let new = NewPeer { meta, region, applied, promised, votes_from: now, awaits_sync };
            self.add_peer(new, effects)?;
            if let Some(child) = self.peers.get_mut(&region_id) {
                child.traffic.size_bytes = size_bytes;
                child.traffic.size_keys = size_keys;
                if leads {
                    child.group.campaign();
                }
            }
            self.deliver_early_votes(region_id, now, effects);
        }
        Ok(())
    }

    fn deliver_early_votes(&mut self, region_id: RegionId, now: Now, effects: &mut Effects) {
        let (due, rest): (VecDeque<_>, _) = std::mem::take(&mut self.early_votes)
            .into_iter()
            .partition(|kept| kept.region_id == region_id.0);
        self.early_votes = rest;
        for message in due {
            let is_for_it = self.peers.get(&region_id).is_some_and(|peer| {
                message.to_peer.as_ref().is_some_and(|to| to.id == peer.meta.id)
            });
            if is_for_it {
                self.deliver(message, now, effects);
            }
        }
    }

    /// Takes an empty peer out of the way of its successor; what it promised goes on.
    pub(crate) fn remove_empty_peer(
        &mut self,
        region_id: RegionId,
        now: Now,
        effects: &mut Effects,
    ) -> Option<HardState> {
        let mut peer = self.peers.remove(&region_id)?;
        self.sleepers.forget(region_id);
        assert!(!peer.is_initialized(), "{region_id} has data and is not in the way");
        assert!(!peer.snapshots.is_installing(), "{region_id} is about to have data");
        self.views.remove(region_id, &peer.publisher);
        let mut round = Round { config: &self.config, now, effects };
        peer.refuse_everybody(&mut round);
        Some(peer.group.raft().hard_state())
    }

    /// An empty peer turned out to be older than the one a message is for.
    pub(crate) fn replace_empty_peer(
        &mut self,
        meta: metapb::Peer,
        region_id: RegionId,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let promised = self.remove_empty_peer(region_id, now, effects);
        let region = metapb::Region { id: region_id.0, ..Default::default() };
        let applied = Position::default();
        let new = NewPeer { meta, region, applied, promised, votes_from: now, awaits_sync: None };
        self.add_peer(new, effects)
    }

    /// A peer must go, by no entry of its own log: has its tombstone written. `destroy` follows.
    pub(crate) fn begin_destroy(&mut self, region_id: RegionId, now: Now, effects: &mut Effects) {
        self.wake(region_id, Cause::Wanted, now);
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        match peer.phase {
            // What is being installed would be written over its grave.
            Phase::Installing | Phase::Leaving => {}
            Phase::Serving if !peer.is_initialized() => {
                self.remove_empty_peer(region_id, now, effects);
            }
            Phase::Serving | Phase::Quarantined => {
                peer.phase = Phase::Leaving;
                peer.publisher.set_lease(None);
                let peer_id = peer.id();
                effects.apply.push(ApplyTask::Destroy { region_id, peer_id });
            }
        }
    }

    /// The tombstone is in the engine: the peer is no more.
    pub(super) fn destroy(&mut self, tombstone: Tombstone, now: Now, effects: &mut Effects) {
        let region_id = region::id(&tombstone.region);
        let Some(mut peer) = self.peers.remove(&region_id) else { return };
        self.sleepers.forget(region_id);
        tracing::info!(store = %self.id, region = %region_id, peer = %peer.id(), "a peer is destroyed");
        let led = peer.leader().map(|leader| leader.term);
        let mut round = Round { config: &self.config, now, effects };
        peer.refuse_everybody(&mut round);
        if let Some(term) = led {
            let region = peer.region.clone();
            effects.reports.push(Report::LeaderChanged { region, term, is_leader: false });
        }
        self.views.remove(region_id, &peer.publisher);
        self.touched.remove(&region_id);
        self.splitting.retain(|_, parent| *parent != region_id);
        let range = KeyRange::of(&peer.region);
        if !self.config.planted.has(Bug::RangeKeptOfDestroyed) {
            self.region_map.remove(&range, region_id);
        }
        if !self.config.planted.has(Bug::LateClearing) {
            effects.background.push(BackgroundTask::ClearRange { range });
        }
        let dying = Dying {
            peer_id: peer.id(),
            promised: peer.group.raft().hard_state(),
            awaits_sync: Some(self.syncs.want()),
            is_clearing: false,
        };
        self.dying.insert(region_id, dying);
        self.tombstones.insert(region_id, tombstone);
    }

    /// Clears the logs of destroyed peers whose tombstones are durable.
    pub(super) fn clear_logs(&mut self, effects: &mut Effects) {
        for (region_id, dying) in &mut self.dying {
            if dying.awaits_sync.is_some() || dying.is_clearing {
                continue;
            }
            dying.is_clearing = true;
            let mut hard_state = wire::hard_state_to_wire(&dying.promised);
            hard_state.commit = 0;
            let state = Some(LogState { hard_state, ..LogState::default() });
            let write = GroupWrite { clear: true, state, ..GroupWrite::default() };
            effects.log.groups.push((*region_id, write));
            effects.persisted.push(PersistedReady {
                region_id: *region_id,
                peer_id: dying.peer_id,
                generation: 0,
                number: 0,
            });
        }
    }

    /// The log of a destroyed peer is cleared: its region may come back, under a new peer.
    pub(super) fn on_log_cleared(&mut self, persisted: &PersistedReady) {
        let PersistedReady { region_id, peer_id, generation, .. } = *persisted;
        let is_it =
            |dying: &Dying| dying.is_clearing && dying.peer_id == peer_id && generation == 0;
        if self.dying.get(&region_id).is_some_and(is_it) {
            self.dying.remove(&region_id);
        }
    }

    /// Builds a peer again from what is on disk: raft took a snapshot whose data then failed.
    pub(crate) fn rebuild(
        &mut self,
        region_id: RegionId,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(mut peer) = self.peers.remove(&region_id) else { return Ok(()) };
        tracing::warn!(store = %self.id, region = %region_id, "a snapshot failed; the peer starts anew");
        self.views.remove(region_id, &peer.publisher);
        let mut round = Round { config: &self.config, now, effects };
        peer.refuse_everybody(&mut round);
        let new = NewPeer {
            meta: peer.meta,
            region: peer.region.clone(),
            applied: peer.applied,
            promised: Some(peer.group.raft().hard_state()),
            votes_from: now.plus(self.config.election_micros()),
            awaits_sync: None,
        };
        self.add_peer(new, effects)
    }
}
