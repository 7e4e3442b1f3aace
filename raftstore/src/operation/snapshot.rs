//! Bringing a follower up by the data itself, when the log no longer has what it lacks.
//!
//! ```text
//!  leader                                                       follower
//!  raft wants one ─► GenerateSnapshot                           (empty, or far behind)
//!  SnapshotGenerated ─► laid ready; raft takes it
//!  MsgSnapshot ─► Effects::snapshots ═══════ chunks ═════════►  SnapshotReceived
//!  SnapshotSent ─► raft probes on                               checks; raft takes it
//!                                                               InstallSnapshot (clear, write, sync)
//!                                                               SnapshotInstalled ─► log begins anew
//!                 ◄──────────────── acknowledgement ──────────  Serving
//! ```
//!
//! **Generate.** One view of the engine holds the data, the region and the applied index as of the same
//! moment, so the snapshot owns a description that no later change touches ([`describe`]). Membership is
//! that of the region.
//!
//! **Receive.** Refused unless this peer is among the region's, and no other region here covers part of the
//! range: the follower may be late to apply a split, or hold a stale peer, which is asked to find out.
//!
//! **Install.** First everything handed to the applier must be applied. Then, in one atomic batch, the
//! range is cleared, the data written, and region and applied index set ([`Install`]); it is synced, and
//! only then the log begins anew behind it. A crash in between leaves the data ahead of the log, which
//! opening the log repairs. Meanwhile the peer is silent; what arrives is lost, and said again.
//!
//! **Forget.** A snapshot's data is deleted with its last holder, wherever that is: sent, installed, refused,
//! never taken by raft, or made by a leader that leads no more.
//!
//! **Fail.** If the file turns out damaged nothing was changed, but raft has taken the snapshot for
//! installed. The peer is built again from what is on disk, as after a restart.
//!
//! Left out: ingesting sorted files; one batch must fit into memory. Regions are split long before.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::{KeyRange, PeerId, RegionId, metapb, raft_serverpb};
use raft::ProgressState;
use raft::eraftpb::Message;

use crate::effects::OutgoingSnapshot;
use crate::engine::{Change, ColumnFamily, GroupWrite, LogEngine, Snapshot, WriteBatch};
use crate::error::Fault;
use crate::group::TakenReady;
use crate::msg::{ApplyTask, BackgroundTask, GeneratedSnapshot, SnapshotSource};
use crate::peer::{Peer, Phase, Round};
use crate::plant::Bug;
use crate::storage::group_log::Position;
use crate::storage::{
    RegionState, applied_state, conf_state_of, put_applied, put_region, region_state,
};

/// Version of the data that follows a snapshot message.
const FORMAT: u64 = 1;

/// Snapshots on their way through a peer.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Received, and offered to raft, which may not want it.
    arriving: Option<Arriving>,
    /// Taken by raft, on its way into the engine.
    installing: Option<Box<Installing>>,
    /// Being generated for these followers, since this tick.
    making: BTreeMap<PeerId, u64>,
    /// Laid ready for raft, since this tick.
    made: BTreeMap<PeerId, (u64, SnapshotSource)>,
    /// On the way to these followers, since this tick.
    sent: BTreeMap<PeerId, u64>,
}

#[derive(Debug)]
struct Arriving {
    region: metapb::Region,
    source: SnapshotSource,
}

#[derive(Debug)]
struct Installing {
    number: u64,
    at: Position,
    region: metapb::Region,
    /// Until the background worker has it.
    source: Option<SnapshotSource>,
    /// Held back until the data is in the engine.
    write: Option<GroupWrite>,
    messages: Vec<Message>,
    outcome: Option<bool>,
}

impl Snapshots {
    /// The region that a snapshot would bring, if one is on its way in.
    pub(crate) fn incoming(&self) -> Option<&metapb::Region> {
        let arriving = self.arriving.as_ref().map(|arriving| &arriving.region);
        arriving.or(self.installing.as_ref().map(|installing| &installing.region))
    }

    /// Whether the background worker is at it.
    pub(crate) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Whether none is on its way in or out.
    pub(crate) fn is_idle(&self) -> bool {
        self.sending() == 0 && self.incoming().is_none()
    }

    /// How many are on their way out.
    pub(crate) fn sending(&self) -> usize {
        self.making.len() + self.made.len() + self.sent.len()
    }
}

impl<L: LogEngine> Peer<L> {
    /// Raft wants snapshots for followers: has them made.
    pub(crate) fn request_snapshots(&mut self, round: &mut Round<'_>) {
        // Raft looks at an arriving snapshot in the round in which it came.
        self.snapshots.arriving = None;
        let tick = self.ticker.ticks();
        let retry = round.config.snapshot_retry_ticks;
        for to in self.group.log_mut().take_wanted_snapshots() {
            let is_making =
                self.snapshots.making.get(&to).is_some_and(|since| tick - since < retry);
            if is_making || self.leader().is_none() {
                continue;
            }
            self.snapshots.making.insert(to, tick);
            round.effects.background.push(BackgroundTask::GenerateSnapshot {
                region_id: self.region_id(),
                peer_id: self.id(),
                to,
            });
        }
    }

    /// A snapshot was made, or could not be.
    pub(crate) fn on_snapshot_generated(
        &mut self,
        to: PeerId,
        generated: Option<Box<GeneratedSnapshot>>,
    ) {
        self.snapshots.making.remove(&to);
        let Some(generated) = generated.filter(|_| self.leader().is_some()) else { return };
        let described = raft_serverpb::RaftSnapshotData {
            region: Some(generated.region.clone()),
            file_size: generated.bytes,
            version: FORMAT,
            ..Default::default()
        };
        let mut snapshot = raft::eraftpb::Snapshot {
            data: described.encode_to_vec().into(),
            ..Default::default()
        };
        let metadata = snapshot.mut_metadata();
        metadata.index = generated.index;
        metadata.term = generated.term;
        metadata.set_conf_state(conf_state_of(&generated.region));
        self.group.log_mut().offer_snapshot(to, snapshot);
        let tick = self.ticker.ticks();
        self.snapshots.made.insert(to, (tick, generated.source));
    }

    /// The role in which snapshots were made is over: those that lie ready go. Those on their way are
    /// answered by the shell.
    pub(crate) fn forget_made_snapshots(&mut self) {
        self.snapshots.making.clear();
        self.snapshots.made.clear();
        self.group.log_mut().withdraw_snapshots();
    }

    /// Raft has taken a snapshot that was laid ready: it goes on a stream of its own.
    pub(crate) fn post_snapshot(&mut self, message: Message, round: &mut Round<'_>) {
        let to = PeerId(message.to);
        let source = self.snapshots.made.remove(&to).map(|(_, source)| source);
        match (self.envelope(message), source) {
            (Some(message), Some(source)) => {
                self.snapshots.sent.insert(to, self.ticker.ticks());
                round.effects.snapshots.push(OutgoingSnapshot { message, source });
            }
            _ => self.group.report_snapshot(to, false),
        }
    }

    /// The shell is done sending.
    pub(crate) fn on_snapshot_sent(&mut self, to: PeerId, ok: bool) {
        if self.snapshots.sent.remove(&to).is_some() {
            self.group.report_snapshot(to, ok);
        }
    }

    /// Gives up on snapshots of which nothing was heard, and on those that raft does not take: the
    /// follower found another way, or is gone.
    pub(crate) fn tick_snapshots(&mut self, round: &Round<'_>) {
        let tick = self.ticker.ticks();
        let retry = round.config.snapshot_retry_ticks;
        self.snapshots.made.retain(|_, (since, _)| tick - *since < retry);
        let lost: Vec<PeerId> = self
            .snapshots
            .sent
            .iter()
            .filter(|(_, since)| tick - **since >= retry)
            .map(|(to, _)| *to)
            .collect();
        for to in lost {
            let is_waiting = self
                .group
                .raft()
                .prs()
                .get(to.0)
                .is_some_and(|progress| progress.state == ProgressState::Snapshot);
            self.on_snapshot_sent(to, !is_waiting);
        }
    }

    /// A snapshot arrived, and nothing here stands in its way: raft decides whether it wants it.
    pub(crate) fn receive_snapshot(
        &mut self,
        from: metapb::Peer,
        mut message: Message,
        region: metapb::Region,
        source: SnapshotSource,
        round: &mut Round<'_>,
    ) {
        // Membership comes from the region, so that both cannot disagree.
        let keeps_own = self.planted.has(Bug::SnapshotMembersIgnored) && self.is_initialized();
        let members = conf_state_of(if keeps_own { &self.region } else { &region });
        message.mut_snapshot().mut_metadata().set_conf_state(members);
        self.snapshots.arriving = Some(Arriving { region, source });
        self.step(from, message, round);
    }

    /// Raft has taken a snapshot: everything of this ready waits until it is in the engine.
    pub(crate) fn begin_install(
        &mut self,
        mut ready: TakenReady,
        messages: Vec<Message>,
        round: &mut Round<'_>,
    ) {
        let arrived = self.snapshots.arriving.take();
        let arrived = arrived.expect("raft is given snapshots by receive_snapshot only");
        let snapshot = ready.snapshot.take().unwrap_or_default();
        let metadata = snapshot.get_metadata();
        self.phase = Phase::Installing;
        self.snapshots.installing = Some(Box::new(Installing {
            number: ready.number,
            at: Position { index: metadata.index, term: metadata.term },
            region: arrived.region,
            source: Some(arrived.source),
            write: ready.write.take(),
            messages,
            outcome: None,
        }));
        if self.planted.has(Bug::LogBeforeSnapshotData)
            && let Some(installing) = &mut self.snapshots.installing
        {
            let write = installing.write.take();
            self.persist(write, None, round);
        }
        self.maybe_install(round);
    }

    /// Hands the snapshot to the background worker once the applier is done with what came before.
    pub(crate) fn maybe_install(&mut self, round: &mut Round<'_>) {
        let peer_id = self.id();
        if self.applied.index < self.handed_index {
            return;
        }
        if let Some(installing) = &mut self.snapshots.installing
            && let Some(source) = installing.source.take()
        {
            round.effects.background.push(BackgroundTask::InstallSnapshot {
                region: installing.region.clone(),
                peer_id,
                index: installing.at.index,
                term: installing.at.term,
                source,
            });
        }
    }

    /// The background worker is done. Returns whether it failed, and the peer must be built again.
    pub(crate) fn on_snapshot_installed(&mut self, ok: bool, round: &mut Round<'_>) -> bool {
        let Some(mut installing) = self.snapshots.installing.take() else { return false };
        installing.outcome = Some(ok);
        if !ok {
            self.snapshots.installing = Some(installing);
            return true;
        }
        self.hashes.forget();
        self.set_region(installing.region.clone());
        self.applied = installing.at;
        self.handed_index = installing.at.index;
        round.effects.apply.push(ApplyTask::Start {
            region: self.region.clone(),
            peer_id: self.id(),
            applied_index: self.applied.index,
            applied_term: self.applied.term,
        });
        self.persist(installing.write.take(), Some(installing.number), round);
        let messages = std::mem::take(&mut installing.messages);
        self.post(messages, round, |effects| &mut effects.send_after_persist);
        // What was proposed here and is covered by the snapshot may have been committed or not.
        let unknown = proto::Refusal::UndeterminedResult {
            message: "a snapshot took the place of the proposal's entry".into(),
        };
        for (_, replies) in self.proposals.take_applied(self.applied.index) {
            round.refuse_all(replies, &unknown);
        }
        self.snapshots.installing = Some(installing);
        false
    }

    /// Readies up to here are durable: the log behind an installed snapshot may be among them.
    pub(crate) fn on_persisted(&mut self, number: u64) {
        self.group.on_persisted(number);
        let is_over = |installing: &mut Box<Installing>| {
            installing.outcome == Some(true) && installing.number <= number
        };
        if self.snapshots.installing.take_if(is_over).is_some() {
            self.group.applied_to(self.applied.index);
            self.phase = Phase::Serving;
        }
    }

    /// Whether an installation failed and nothing else of this peer is on its way to the disk.
    pub(crate) fn may_rebuild(&self) -> bool {
        let failed = |installing: &Installing| installing.outcome == Some(false);
        self.snapshots.installing.as_deref().is_some_and(failed)
            && self.group.unpersisted_readies() <= 1
    }
}

/// What a snapshot from this view of the engine describes: the region, and how far it is applied. `None`
/// when there is no such region here.
pub fn describe(
    snapshot: &impl Snapshot,
    region_id: RegionId,
) -> Result<Option<(metapb::Region, Position)>, Fault> {
    let Some(RegionState::Normal(region)) = region_state(snapshot, region_id)? else {
        return Ok(None);
    };
    Ok(applied_state(snapshot, region_id)?.map(|applied| (region, applied)))
}

/// Builds the one batch that installs a snapshot.
#[derive(Debug)]
pub struct Install {
    batch: WriteBatch,
}

impl Install {
    /// Begins: clears the range, and sets the region and its applied index.
    pub fn new(region: &metapb::Region, index: u64, term: u64) -> Self {
        let mut batch = clear(&KeyRange::of(region));
        put_region(&mut batch, region);
        put_applied(&mut batch, RegionId(region.id), Position { index, term });
        Self { batch }
    }

    /// Adds a key of the region's data.
    pub fn put(
        &mut self,
        cf: ColumnFamily,
        key: impl Into<bytes::Bytes>,
        value: impl Into<bytes::Bytes>,
    ) {
        self.batch.push(Change::Put { cf, key: key.into(), value: value.into() });
    }

    /// The batch, to be written and synced.
    pub fn finish(self) -> WriteBatch {
        self.batch
    }
}

/// The batch that clears a range in all data families.
pub fn clear(range: &KeyRange) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for cf in ColumnFamily::DATA {
        batch.delete_range(cf, range.clone());
    }
    batch
}

/// What a snapshot's first message says of its region; `None` when it is not one of ours.
pub(crate) fn described(message: &proto::eraftpb::Message) -> Option<metapb::Region> {
    let data = message.snapshot.as_ref()?.data.clone();
    let described = raft_serverpb::RaftSnapshotData::decode(data).ok()?;
    (described.version == FORMAT).then_some(())?;
    described.region
}
