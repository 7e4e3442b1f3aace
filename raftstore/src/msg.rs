//! Everything said inside a store: to the [`Store`](crate::store::Store), to the
//! [`Applier`](crate::applier::Applier), and back.
//!
//! ```text
//!  network, RPC, clock ── StoreMsg ──► Store ── ApplyTask ──► Applier
//!                            ▲          ▲  └── BackgroundTask ─► │
//!                            └──────────┼── answers as StoreMsg  │
//!                                       └─────── Applied ◄───────┘
//! ```
//!
//! Replies are ids: the machine says `(reply, answer)`, the shell knows who waits.

use std::sync::Arc;

use bytes::Bytes;
use proto::{KeyRange, PeerId, Refusal, RegionId, StoreId, kvrpcpb, metapb, pdpb, raft_serverpb};

use crate::engine::snapshot_file::SnapshotFile;
use crate::engine::{RangeSize, WriteBatch};
use crate::operation::split_keys::SplitSearch;
use crate::storage::Quarantine;
use crate::storage::region_hash::{HashJob, RegionHash};

/// A moment on the shell's monotonic clock, in microseconds. Machines compare, they never ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl Now {
    /// The moment this many microseconds later.
    pub fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds since an earlier moment; 0 when it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Who waits for an answer. The shell gives them out and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// What a reply says: an answer, or why not. A refusal means that nothing happened and nothing will,
/// except [`Refusal::UndeterminedResult`].
pub type Reply = Result<Answer, Refusal>;

/// The good answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A write: applied here and durable on a quorum. A barrier: a new snapshot of the engine sees
    /// every write acknowledged before the barrier was asked for.
    Done,
    /// A split: the regions that the old one became, in key order.
    Regions(Vec<metapb::Region>),
}

/// Which replica of which region a caller means, and what it knows of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// The region.
    pub region_id: RegionId,
    /// The store the caller meant to reach, if it said so.
    pub store_id: Option<StoreId>,
    /// The peer the caller meant to reach, if it said so.
    pub peer_id: Option<PeerId>,
    /// The region's epoch as the caller knows it.
    pub epoch: metapb::RegionEpoch,
    /// The term as the caller knows it, if it does.
    pub term: Option<u64>,
    /// A follower may answer (reads only).
    pub replica_read: bool,
    /// After this moment nobody waits for the answer.
    pub deadline: Option<Now>,
}

impl Target {
    /// What a request's context says. The wire's zeros become absences. The deadline is left open:
    /// only the shell knows when the request came.
    pub fn of(context: &kvrpcpb::Context) -> Result<Self, Refusal> {
        let Some(epoch) = context.region_epoch else {
            return Err(Refusal::Other { message: "missing epoch!".into() });
        };
        let peer = context.peer.as_ref();
        let present = |id: u64| (id != 0).then_some(id);
        Ok(Self {
            region_id: RegionId(context.region_id),
            store_id: peer.and_then(|peer| present(peer.store_id)).map(StoreId),
            peer_id: peer.and_then(|peer| present(peer.id)).map(PeerId),
            epoch,
            term: present(context.term),
            replica_read: context.replica_read,
            deadline: None,
        })
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_late(&self, now: Now) -> bool {
        self.deadline.is_some_and(|deadline| deadline < now)
    }
}

/// Something happened. Each variant says who sends it and what becomes of it when it is lost.
#[derive(Clone, Debug)]
pub enum StoreMsg {
    /// A caller wants to write. Not lost: a full inbox refuses it.
    Write {
        /// Where.
        target: Target,
        /// What.
        batch: WriteBatch,
        /// Who waits.
        reply: ReplyId,
    },
    /// A caller wants to read and found no lease. Not lost: a full inbox refuses it.
    ReadBarrier {
        /// Where.
        target: Target,
        /// Who waits.
        reply: ReplyId,
    },
    /// A caller wants a region cut at these keys. Not lost: a full inbox refuses it.
    Split {
        /// Where.
        target: Target,
        /// First keys of the new parts, any order; those outside the region are an error.
        keys: Vec<Bytes>,
        /// Who waits, if anybody does.
        reply: Option<ReplyId>,
    },
    /// Somebody wants to know whether all replicas of a region are the same. Not lost: a full inbox refuses it.
    CheckConsistency {
        /// Which region.
        region_id: RegionId,
        /// Who waits.
        reply: ReplyId,
    },
    /// The scheduler answered a region heartbeat with an order. Lost: it is given again.
    Order(Box<pdpb::RegionHeartbeatResponse>),
    /// Another store's peer speaks. Lost: raft says it again.
    Raft(Box<raft_serverpb::RaftMessage>),
    /// A snapshot arrived whole and its checksums held. Lost: raft sends another.
    SnapshotReceived {
        /// The message that came first on the stream.
        message: Box<raft_serverpb::RaftMessage>,
        /// The data.
        source: SnapshotSource,
    },
    /// The shell is done sending a snapshot. Lost: sent again after `snapshot_retry_ticks`.
    SnapshotSent {
        /// Whose.
        region_id: RegionId,
        /// To whom.
        to: PeerId,
        /// Whether all of it was taken by the other side.
        ok: bool,
    },
    /// A store does not answer. Lost: raft finds out by itself, later.
    Unreachable {
        /// Which.
        store_id: StoreId,
    },
    /// Answer to [`BackgroundTask::GenerateSnapshot`].
    SnapshotGenerated {
        /// Whose.
        region_id: RegionId,
        /// Which peer asked.
        peer_id: PeerId,
        /// For which follower.
        to: PeerId,
        /// The snapshot, or `None` when it could not be made now.
        generated: Option<Box<GeneratedSnapshot>>,
    },
    /// Answer to [`BackgroundTask::InstallSnapshot`].
    SnapshotInstalled {
        /// Whose.
        region_id: RegionId,
        /// Which peer.
        peer_id: PeerId,
        /// Whether the data is in the engine, synced. `false`: the file was damaged or gone, and
        /// nothing was changed.
        ok: bool,
    },
    /// Answer to [`Report::AskSplit`](crate::effects::Report::AskSplit).
    SplitIds {
        /// Which region is to be split.
        region_id: RegionId,
        /// Which ask this answers.
        ask: u64,
        /// Ids for each new region, or `None` when the scheduler gave none.
        ids: Option<Vec<pdpb::SplitId>>,
    },
    /// Answer to [`Report::HandingOver`](crate::effects::Report::HandingOver): the shell has written what it kept
    /// in memory, or gives it up.
    HandOver {
        /// The region.
        region_id: RegionId,
        /// In which term it was to be handed over.
        term: u64,
        /// To whom.
        to: PeerId,
    },
    /// Answer to [`BackgroundTask::FindSplitKeys`].
    SplitKeysFound {
        /// Which region was looked at.
        region_id: RegionId,
        /// Its epoch then.
        epoch: metapb::RegionEpoch,
        /// Where to cut; none when it is not large enough.
        keys: Vec<Bytes>,
        /// How much it holds, roughly.
        size: RangeSize,
    },
    /// Answer to [`BackgroundTask::ComputeHash`].
    HashComputed {
        /// Whose.
        region_id: RegionId,
        /// Which peer.
        peer_id: PeerId,
        /// As of which entry.
        index: u64,
        /// What its data came to; `None` when a new safe point made it incomparable meanwhile.
        hash: Option<RegionHash>,
    },
    /// Answer to [`BackgroundTask::SyncData`].
    DataSynced {
        /// Which request this answers.
        ticket: u64,
    },
}

/// A region's data on its way, as the shell keeps it. Machines only pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotSource {
    /// A file, deleted with the last of these.
    File(Arc<SnapshotFile>),
    /// The same bytes in memory.
    Bytes(Bytes),
}

/// A snapshot made by the shell from one view of the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedSnapshot {
    /// The region as it was at that instant: an owned copy that later changes do not touch.
    pub region: metapb::Region,
    /// Applied index at that instant.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The data.
    pub source: SnapshotSource,
    /// Size of the data in bytes.
    pub bytes: u64,
}

/// Work that takes long and decides nothing, done in the order given; only a sync may overtake the rest.
/// Except for installing, a task may be lost: it is asked for again, or (clearing) done at the next start.
#[derive(Clone, Debug, PartialEq)]
pub enum BackgroundTask {
    /// Write a region's data down as it is now. Answer: [`StoreMsg::SnapshotGenerated`].
    GenerateSnapshot {
        /// Whose.
        region_id: RegionId,
        /// Which peer asks.
        peer_id: PeerId,
        /// For which follower.
        to: PeerId,
    },
    /// Replace a region's data by a snapshot's, and sync. Answer: [`StoreMsg::SnapshotInstalled`],
    /// always: the peer is silent until then. A worker that cannot take the task answers `ok: false`;
    /// one that has answered so must not perform it any more.
    InstallSnapshot {
        /// The region as the snapshot describes it.
        region: metapb::Region,
        /// Which peer.
        peer_id: PeerId,
        /// Applied index of the snapshot.
        index: u64,
        /// Its term.
        term: u64,
        /// The data.
        source: SnapshotSource,
    },
    /// Remove what a destroyed peer left behind. No answer.
    ClearRange {
        /// Which keys, in all data families.
        range: KeyRange,
    },
    /// Look how large a region is and where it could be cut. Answer: [`StoreMsg::SplitKeysFound`].
    FindSplitKeys {
        /// Which region, as it is now.
        region: metapb::Region,
        /// What to look for.
        search: SplitSearch,
    },
    /// Compute the hash of a region's data. Answer: [`StoreMsg::HashComputed`].
    ComputeHash {
        /// Whose.
        region_id: RegionId,
        /// Which peer.
        peer_id: PeerId,
        /// The data.
        job: HashJob,
    },
    /// Make all written data durable. Answer: [`StoreMsg::DataSynced`].
    SyncData {
        /// Comes back with the answer.
        ticket: u64,
    },
}

/// Something to apply. Tasks of one region are performed in the order given.
#[derive(Clone, Debug)]
pub enum ApplyTask {
    /// A peer begins to apply, or begins anew after a snapshot.
    Start {
        /// Its region.
        region: metapb::Region,
        /// The peer.
        peer_id: PeerId,
        /// Applied already.
        applied_index: u64,
        /// The term of that entry.
        applied_term: u64,
    },
    /// Committed entries.
    Entries {
        /// Whose.
        region_id: RegionId,
        /// Which peer's; entries of an earlier peer of the region are ignored.
        peer_id: PeerId,
        /// Consecutive, following what was applied.
        entries: Vec<raft::eraftpb::Entry>,
        /// Regions that a split among the entries must not create here: a newer peer of theirs is
        /// known, or was removed.
        skip_children: Vec<RegionId>,
    },
    /// A peer is the odd one: record it. The peer hands out no entries any more.
    Quarantine {
        /// Whose.
        region_id: RegionId,
        /// The record.
        odd: Quarantine,
    },
    /// A peer was told to go: write its tombstone.
    Destroy {
        /// Whose.
        region_id: RegionId,
        /// Which peer.
        peer_id: PeerId,
    },
}

/// What applying a task came to; answers one [`ApplyTask::Entries`] or [`ApplyTask::Destroy`].
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Whose.
    pub region_id: RegionId,
    /// Which peer's.
    pub peer_id: PeerId,
    /// Applied up to here, in the engine.
    pub applied_index: u64,
    /// The term of that entry.
    pub applied_term: u64,
    /// What more than data changed, in log order.
    pub outcomes: Vec<Outcome>,
    /// Bytes of keys and values written.
    pub bytes_written: u64,
    /// Keys written.
    pub keys_written: u64,
}

/// What applying one entry came to, when it was more than writing data.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The entry was not applied; every replica decides so.
    Refused {
        /// The entry.
        index: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Membership changed.
    ConfChanged {
        /// The entry.
        index: u64,
        /// What changed, for the raft crate.
        change: raft::eraftpb::ConfChangeV2,
        /// The region now.
        region: metapb::Region,
    },
    /// The region became several.
    Split {
        /// The entry.
        index: u64,
        /// All parts in key order, the old id among them.
        regions: Vec<metapb::Region>,
        /// Parts that do not exist on this store.
        skipped: Vec<RegionId>,
    },
    /// Everybody agreed that the log before an index may go.
    LogCut {
        /// The last entry that may go.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// The hash of the data as of this moment is due.
    HashDue {
        /// The data.
        job: HashJob,
    },
    /// A quorum has come to this hash at an earlier entry.
    HashAgreed {
        /// The entry.
        index: u64,
        /// What its data came to there.
        hash: RegionHash,
    },
    /// The peer is gone; its tombstone is written.
    Removed {
        /// What the tombstone says.
        tombstone: crate::storage::Tombstone,
    },
}
