//! Everything a round may ask of the world, performed by the shell in one fixed order.
//!
//! ```text
//!  1  send_now               a leader's appends and heartbeats: they need no disk, so the followers'
//!                            disks work while ours does
//!  2  log                    one atomic, synced write for all groups. If it fails, the process stops
//!  3  send_after_persist     votes and acknowledgements: promises, so only after they are durable
//!  4  Store::on_persisted    with `persisted`; it may commit entries at once
//!  5  snapshots, apply, background, reports
//!  6  replies
//! ```
//!
//! Rounds are performed one after the other: a shell that writes the log on another thread keeps
//! steps 2 to 4 of consecutive rounds in order. When `log` is empty, step 3 still waits for the
//! writes of earlier rounds.

use proto::{PeerId, RegionId, metapb, pdpb, raft_serverpb::RaftMessage};

use crate::engine::LogBatch;
use crate::msg::{ApplyTask, BackgroundTask, Reply, ReplyId, SnapshotSource};

/// What a round asks of the world.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages that need no disk.
    pub send_now: Vec<RaftMessage>,
    /// One write for all groups touched.
    pub log: LogBatch,
    /// Messages that promise what `log` makes durable.
    pub send_after_persist: Vec<RaftMessage>,
    /// To be given to `Store::on_persisted` when `log` is durable, also when it is empty.
    pub persisted: Vec<PersistedReady>,
    /// Snapshots to send, each on a stream of its own; each is answered by `SnapshotSent`.
    pub snapshots: Vec<OutgoingSnapshot>,
    /// For the applier, in order.
    pub apply: Vec<ApplyTask>,
    /// For the background worker, in order.
    pub background: Vec<BackgroundTask>,
    /// For the scheduler and other onlookers.
    pub reports: Vec<Report>,
    /// Answers; each reply id appears once in the life of a store.
    pub replies: Vec<(ReplyId, Reply)>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send_now.is_empty()
            && self.log.is_empty()
            && self.send_after_persist.is_empty()
            && self.persisted.is_empty()
            && self.snapshots.is_empty()
            && self.apply.is_empty()
            && self.background.is_empty()
            && self.reports.is_empty()
            && self.replies.is_empty()
    }

    /// Adds what others ask for behind what is asked already.
    pub(crate) fn append(&mut self, others: Self) {
        let Self {
            send_now,
            log,
            send_after_persist,
            persisted,
            snapshots,
            apply,
            background,
            reports,
            replies,
        } = others;
        self.send_now.extend(send_now);
        self.log.groups.extend(log.groups);
        self.send_after_persist.extend(send_after_persist);
        self.persisted.extend(persisted);
        self.snapshots.extend(snapshots);
        self.apply.extend(apply);
        self.background.extend(background);
        self.reports.extend(reports);
        self.replies.extend(replies);
    }
}

/// One peer's part of a log write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersistedReady {
    /// Whose.
    pub region_id: RegionId,
    /// Which peer; another may have taken its place meanwhile.
    pub peer_id: PeerId,
    /// Which making of that peer in this life of the store.
    pub generation: u64,
    /// Which of its readies, and so every earlier one.
    pub number: u64,
}

/// A snapshot for another store.
#[derive(Clone, Debug)]
pub struct OutgoingSnapshot {
    /// The first message on the stream.
    pub message: RaftMessage,
    /// The data.
    pub source: SnapshotSource,
}

/// What others may want to know.
#[derive(Clone, Debug)]
pub enum Report {
    /// A leader describes its region. Lost: the next one says the same.
    RegionHeartbeat(Box<pdpb::RegionHeartbeatRequest>),
    /// The store describes itself; the shell adds what it knows of the disk.
    StoreHeartbeat(Box<pdpb::StoreStats>),
    /// A leader needs ids to split its region. Answered by `StoreMsg::SplitIds`.
    AskSplit {
        /// The region to split.
        region: metapb::Region,
        /// Comes back with the answer.
        ask: u64,
        /// For how many new regions.
        count: u32,
    },
    /// A leader is about to hand over, and another is ready to lead: whatever counts only while this peer leads
    /// is to be written into the log now. Only with `asks_before_handover`. Answered by `StoreMsg::HandOver`,
    /// soon and in any case. Lost: the handover does not take place, and is ordered again.
    HandingOver {
        /// The region.
        region: metapb::Region,
        /// In this term.
        term: u64,
        /// Who is to lead.
        to: PeerId,
    },
    /// A leader's region became these. Lost: their heartbeats say the same.
    RegionsSplit(Vec<metapb::Region>),
    /// A peer here began or ceased to lead.
    LeaderChanged {
        /// The region.
        region: metapb::Region,
        /// In this term.
        term: u64,
        /// Whether it leads now.
        is_leader: bool,
    },
    /// A peer here has known no leader for long and asks whether it still belongs. The shell asks
    /// the scheduler, and answers a "no" by a raft message with `is_tombstone`.
    ValidatePeer {
        /// The region as the peer knows it.
        region: metapb::Region,
        /// The peer.
        peer: metapb::Peer,
    },
}
