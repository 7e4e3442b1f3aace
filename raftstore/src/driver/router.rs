//! The door of a running store: requests, messages and orders go in here.
//!
//! Nothing here waits. A full inbox answers a caller "server is busy" and drops what another store
//! or the scheduler will say again. Callers stop being let in before raft messages are dropped: a
//! store that is flooded by its clients must still hear its leaders.

use std::sync::Arc;

use bytes::Bytes;
use proto::{PeerId, Refusal, RegionId, StoreId, metapb, pdpb, raft_serverpb::RaftMessage};

use super::clock::Clock;
use super::inbox::{Inbox, NotTaken};
use super::promise::Promise;
use crate::engine::WriteBatch;
use crate::msg::{Now, SnapshotSource, StoreMsg, Target};
use crate::read_view::ReadViews;

/// Callers are refused as busy from here on; the rest of the inbox is for raft.
const INBOX_CALLERS_MAX: usize = 32_768;

/// What lies in the raft worker's inbox.
pub(super) enum Envelope {
    /// A message that nobody waits for.
    Message(StoreMsg),
    /// See [`StoreMsg::Write`].
    Write { target: Target, batch: WriteBatch, done: Promise<()> },
    /// See [`StoreMsg::ReadBarrier`].
    ReadBarrier { target: Target, done: Promise<()> },
    /// See [`StoreMsg::Split`].
    Split { target: Target, keys: Vec<Bytes>, done: Promise<Vec<metapb::Region>> },
    /// See [`StoreMsg::CheckConsistency`].
    CheckConsistency { region_id: RegionId, done: Promise<()> },
    /// The last message: the worker does not look further.
    Stop,
}

/// Sends to one store. Clones share it; a router outlives its store and then refuses everything.
pub struct Router<D> {
    inbox: Arc<Inbox>,
    read_views: Arc<ReadViews>,
    data: D,
    clock: Clock,
}

impl<D: Clone> Clone for Router<D> {
    fn clone(&self) -> Self {
        Self {
            inbox: Arc::clone(&self.inbox),
            read_views: Arc::clone(&self.read_views),
            data: self.data.clone(),
            clock: self.clock,
        }
    }
}

impl<D> std::fmt::Debug for Router<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("waiting", &self.inbox.len()).finish_non_exhaustive()
    }
}

impl<D> Router<D> {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        read_views: Arc<ReadViews>,
        data: D,
        clock: Clock,
    ) -> Self {
        Self { inbox, read_views, data, clock }
    }

    /// Writes the batch through the region's log. `Ok` means applied here and durable on a quorum; a
    /// refusal means that it did not happen and will not, except `UndeterminedResult`. `done` is
    /// called exactly once, here or on the raft worker's thread, so it must not wait.
    pub fn write(
        &self,
        target: Target,
        batch: WriteBatch,
        done: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) {
        self.call(Envelope::Write { target, batch, done: Promise::new(done) });
    }

    /// After `done(Ok)` a new snapshot of the engine sees every write acknowledged before this call.
    /// Whoever can use a lease looks at [`Self::read_views`] first and saves the way.
    pub fn read_barrier(
        &self,
        target: Target,
        done: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) {
        self.call(Envelope::ReadBarrier { target, done: Promise::new(done) });
    }

    /// Splits the region at these keys; the answer is all parts, in key order.
    pub fn split(
        &self,
        target: Target,
        keys: Vec<Bytes>,
        done: impl FnOnce(Result<Vec<metapb::Region>, Refusal>) + Send + 'static,
    ) {
        self.call(Envelope::Split { target, keys, done: Promise::new(done) });
    }

    /// Has the replicas of a region compared. `done(Ok)` says that it has begun; whoever turns out to be the
    /// odd one stops and says so in its log.
    pub fn check_consistency(
        &self,
        region_id: RegionId,
        done: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) {
        self.call(Envelope::CheckConsistency { region_id, done: Promise::new(done) });
    }

    /// A message from another store. Dropped when the inbox is full.
    pub fn raft_message(&self, message: RaftMessage) {
        self.say(StoreMsg::Raft(Box::new(message)));
    }

    /// A snapshot that arrived whole and whose checksums hold. A file belongs to the store from here
    /// on, which removes it once installed. Dropped when the inbox is full.
    pub fn snapshot_received(&self, message: RaftMessage, source: SnapshotSource) {
        self.say(StoreMsg::SnapshotReceived { message: Box::new(message), source });
    }

    /// The transport is done with a snapshot.
    pub fn snapshot_sent(&self, region_id: RegionId, to: PeerId, ok: bool) {
        self.say(StoreMsg::SnapshotSent { region_id, to, ok });
    }

    /// The transport cannot reach a store.
    pub fn unreachable(&self, store_id: StoreId) {
        self.say(StoreMsg::Unreachable { store_id });
    }

    /// The scheduler answers a region heartbeat. Dropped when the inbox is full.
    pub fn order(&self, order: pdpb::RegionHeartbeatResponse) {
        self.say(StoreMsg::Order(Box::new(order)));
    }

    /// The scheduler answers [`Report::AskSplit`](crate::effects::Report::AskSplit): ids for each
    /// new region, or `None` when it gave none.
    pub fn split_ids(&self, region_id: RegionId, ask: u64, ids: Option<Vec<pdpb::SplitId>>) {
        self.say(StoreMsg::SplitIds { region_id, ask, ids });
    }

    /// Answers [`Report::HandingOver`](crate::effects::Report::HandingOver): what counted only while the peer
    /// here leads is in the log.
    pub fn hand_over(&self, region_id: RegionId, term: u64, to: PeerId) {
        self.say(StoreMsg::HandOver { region_id, term, to });
    }

    /// What callers may know of each region without asking its peer.
    pub fn read_views(&self) -> &ReadViews {
        &self.read_views
    }

    /// The data engine. Take a snapshot first, then look at the lease.
    pub fn data(&self) -> &D {
        &self.data
    }

    /// Now, on the clock by which leases and deadlines of this store are told.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    fn call(&self, envelope: Envelope) {
        if self.inbox.len() >= INBOX_CALLERS_MAX {
            return refuse(envelope, busy());
        }
        match self.inbox.offer(envelope) {
            Ok(()) => {}
            Err(NotTaken::Full(envelope)) => refuse(envelope, busy()),
            Err(NotTaken::Closed(envelope)) => refuse(envelope, Refusal::closing()),
        }
    }

    fn say(&self, message: StoreMsg) {
        if let Err(NotTaken::Full(_)) = self.inbox.offer(Envelope::Message(message)) {
            tracing::debug!("the raft inbox is full: a message is dropped");
        }
    }
}

fn busy() -> Refusal {
    Refusal::ServerIsBusy { reason: "raft inbox is full".into(), backoff_ms: 0 }
}

fn refuse(envelope: Envelope, refusal: Refusal) {
    match envelope {
        Envelope::Write { done, .. }
        | Envelope::ReadBarrier { done, .. }
        | Envelope::CheckConsistency { done, .. } => {
            done.keep(Err(refusal));
        }
        Envelope::Split { done, .. } => done.keep(Err(refusal)),
        Envelope::Message(_) | Envelope::Stop => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::super::inbox::INBOX_MESSAGES_MAX;
    use super::*;

    #[test]
    fn a_full_inbox_refuses_callers_and_still_takes_raft_messages() {
        let (inbox, worker) = Inbox::open();
        let views = Arc::new(ReadViews::new(StoreId(1)));
        let router = Router::new(Arc::clone(&inbox), views, (), Clock::start());
        let (tx, rx) = channel();
        for _ in 0..=INBOX_CALLERS_MAX {
            let tx = tx.clone();
            router.write(Target::default(), WriteBatch::new(), move |answer| {
                tx.send(answer).unwrap();
            });
        }
        let answers: Vec<_> = rx.try_iter().collect();
        assert_eq!(answers, [Err(busy())]);
        for _ in INBOX_CALLERS_MAX..INBOX_MESSAGES_MAX + 10 {
            router.raft_message(RaftMessage::default());
        }
        assert_eq!(inbox.len(), INBOX_MESSAGES_MAX);
        // Everybody who waits in an inbox that nobody will empty is told.
        drop(worker);
        let answers: Vec<_> = rx.try_iter().collect();
        assert_eq!(answers.len(), INBOX_CALLERS_MAX);
        assert!(answers.iter().all(|answer| *answer == Err(Refusal::closing())));
        let (tx, rx) = channel();
        router.read_barrier(Target::default(), move |answer| tx.send(answer).unwrap());
        assert_eq!(rx.recv(), Ok(Err(Refusal::closing())));
    }
}
