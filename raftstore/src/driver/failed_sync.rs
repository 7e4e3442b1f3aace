//! A sync that fails, and a disk that says afterwards that all is well.
//!
//! What the kernel could not write it may have dropped, and the next sync succeeds without it. So a failed sync
//! is never tried again: the store stops, and what was asked of it is undetermined.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use proto::{PeerId, Refusal, RegionId, eraftpb, metapb, raft_serverpb::RaftMessage, region};

use super::*;
use crate::effects::{OutgoingSnapshot, Report};
use crate::engine::memory::{MemoryData, MemoryLog};
use crate::engine::{ColumnFamily, LogBatch, LogState, WriteBatch};
use crate::msg::Target;
use crate::storage::bootstrap;

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log one of whose syncs fails; the write is seen by readers, and all later writes succeed.
#[derive(Clone, Default)]
struct OnceUnsynced {
    log: MemoryLog,
    fails_next: Arc<AtomicBool>,
    has_failed: Arc<AtomicBool>,
    writes_after: Arc<AtomicU64>,
}

impl LogEngine for OnceUnsynced {
    fn groups(&self) -> Result<Vec<RegionId>, Fault> {
        self.log.groups()
    }

    fn state(&self, group: RegionId) -> Result<Option<LogState>, Fault> {
        self.log.state(group)
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<eraftpb::Entry>, Fault> {
        self.log.entries(group, low, high, bytes_max)
    }

    fn write(&self, batch: LogBatch) -> Result<(), Fault> {
        self.log.write_unsynced(batch)?;
        if self.fails_next.swap(false, Ordering::SeqCst) {
            self.has_failed.store(true, Ordering::SeqCst);
            return Err(Fault::Engine { attempt: "sync the raft log", cause: "EIO".into() });
        }
        if self.has_failed.load(Ordering::SeqCst) {
            self.writes_after.fetch_add(1, Ordering::SeqCst);
        }
        self.log.sync()
    }

    fn used_bytes(&self) -> u64 {
        0
    }
}

/// Keeps what a store sends.
#[derive(Default)]
struct Sent(Mutex<Vec<RaftMessage>>);

impl Transport for Sent {
    fn send(&self, _to: StoreId, messages: Vec<RaftMessage>) {
        self.0.lock().extend(messages);
    }

    fn send_snapshot(&self, _snapshot: OutgoingSnapshot) {}
}

struct Listener {
    leads: Mutex<Sender<()>>,
    faults: Mutex<Sender<Fault>>,
}

impl Observer for Listener {
    fn report(&self, report: Report) {
        if let Report::LeaderChanged { is_leader: true, .. } = report {
            // Nobody listens any more once the test is over.
            let _ = self.leads.lock().send(());
        }
    }

    fn fault(&self, fault: Fault) {
        drop(self.faults.lock().send(fault));
    }
}

struct Bench {
    store: RaftStore<MemoryData, OnceUnsynced>,
    data: MemoryData,
    log: OnceUnsynced,
    sent: Arc<Sent>,
    leads: std::sync::mpsc::Receiver<()>,
    faults: std::sync::mpsc::Receiver<Fault>,
}

/// Store 1 with its peer of a region that has so many.
fn start(members: u64) -> Bench {
    let peers = (1..=members).map(|id| metapb::Peer { id, store_id: id, ..Default::default() });
    let region = metapb::Region {
        id: 1,
        region_epoch: Some(region::FIRST_EPOCH),
        peers: peers.collect(),
        ..Default::default()
    };
    let (data, log, sent) = (MemoryData::new(), OnceUnsynced::default(), Arc::<Sent>::default());
    bootstrap::prepare(&data, region).unwrap();
    bootstrap::confirm_first_region(&data).unwrap();
    // Nobody campaigns by itself meanwhile.
    let config = Config { tick_interval_ms: 10_000, ..Config::default() };
    let background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
    let (leads_tx, leads) = channel();
    let (faults_tx, faults) = channel();
    let listener = Listener { leads: Mutex::new(leads_tx), faults: Mutex::new(faults_tx) };
    let store = RaftStore::start(
        config,
        StoreId(1),
        data.clone(),
        log.clone(),
        background,
        sent.clone(),
        Arc::new(listener),
    )
    .unwrap();
    Bench { store, data, log, sent, leads, faults }
}

fn put(bench: &Bench, value: &'static str) -> Result<(), Refusal> {
    let target = Target { region_id: RegionId(1), epoch: region::FIRST_EPOCH, ..Target::default() };
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "k", value);
    let (tx, rx) = channel();
    bench.store.router().write(target, batch, move |answer| tx.send(answer).unwrap());
    rx.recv_timeout(PATIENCE).expect("every call is answered")
}

#[test]
fn bug_s2_a_sync_that_failed_is_tried_again_and_believed() {
    let bench = start(1);
    bench.leads.recv_timeout(PATIENCE).expect("the only voter leads");
    assert_eq!(put(&bench, "v"), Ok(()));
    bench.log.fails_next.store(true, Ordering::SeqCst);
    let answer = put(&bench, "w");
    assert!(matches!(answer, Err(Refusal::UndeterminedResult { .. })), "{answer:?}");
    let fault = bench.faults.recv_timeout(PATIENCE).expect("the store says why it stops");
    assert!(fault.to_string().contains("EIO"), "{fault}");
    // The disk would work again; nobody asks it to.
    assert_eq!(put(&bench, "x"), Err(Refusal::closing()));
    bench.store.stop();
    assert_eq!(bench.log.writes_after.load(Ordering::SeqCst), 0);
    let found = bench.data.get(ColumnFamily::Default, b"k").unwrap();
    assert_eq!(found, Some("v".into()), "what is not durable is not applied");
}

#[test]
fn bug_s2_a_follower_promises_what_its_failed_sync_did_not_keep() {
    let bench = start(2);
    bench.log.fails_next.store(true, Ordering::SeqCst);
    bench.store.router().raft_message(RaftMessage {
        region_id: 1,
        from_peer: Some(metapb::Peer { id: 2, store_id: 2, ..Default::default() }),
        to_peer: Some(metapb::Peer { id: 1, store_id: 1, ..Default::default() }),
        region_epoch: Some(region::FIRST_EPOCH),
        message: Some(eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgAppend.into(),
            from: 2,
            to: 1,
            term: 6,
            index: 5,
            log_term: 5,
            entries: vec![eraftpb::Entry { index: 6, term: 6, ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    });
    bench.faults.recv_timeout(PATIENCE).expect("the store says why it stops");
    bench.store.stop();
    let sent = bench.sent.0.lock();
    let acknowledges = |message: &&RaftMessage| {
        message.message.as_ref().is_some_and(|inner| {
            inner.msg_type() == eraftpb::MessageType::MsgAppendResponse && inner.to == PeerId(2).0
        })
    };
    assert_eq!(sent.iter().filter(acknowledges).count(), 0);
    assert_eq!(bench.log.writes_after.load(Ordering::SeqCst), 0);
}
