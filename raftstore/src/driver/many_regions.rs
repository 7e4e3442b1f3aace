//! Tests: one store with many regions and real lanes, over engines in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{KeyRange, Refusal, RegionId, metapb, raft_serverpb::RaftMessage, region};

use super::*;
use crate::effects::{OutgoingSnapshot, Report};
use crate::engine::memory::{MemoryData, MemoryLog, MemorySnapshot};
use crate::engine::{ColumnFamily, RangeSize, WriteBatch};
use crate::msg::Target;
use crate::storage::bootstrap;

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Enough to be worth several lanes whenever all of them report.
const REGIONS: u64 = 64;

const LANES: usize = 3;

/// An engine that notes who asks for sizes, which peers do at their turn, and panics when told to, on a
/// thread that is not the raft worker's.
#[derive(Clone, Default)]
struct Watched {
    data: MemoryData,
    threads: Arc<Mutex<BTreeSet<String>>>,
    panics: Arc<AtomicBool>,
}

impl DataEngine for Watched {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        self.data.snapshot()
    }

    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.data.get(cf, key)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Fault> {
        self.data.write(batch)
    }

    fn sync(&self) -> Result<(), Fault> {
        self.data.sync()
    }

    fn approximate_size(&self, range: &KeyRange) -> Result<RangeSize, Fault> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let is_lane = name.starts_with("lane-");
        assert!(!is_lane || !self.panics.load(Ordering::Relaxed), "on purpose");
        self.threads.lock().insert(name);
        self.data.approximate_size(range)
    }

    fn approximate_middle(&self, range: &KeyRange) -> Result<Option<Bytes>, Fault> {
        self.data.approximate_middle(range)
    }

    fn raise_safe_point(&self, safe_point: u64) -> Result<(), Fault> {
        self.data.raise_safe_point(safe_point)
    }

    fn safe_point(&self) -> u64 {
        self.data.safe_point()
    }

    fn collect_garbage(&self, range: &KeyRange) -> Result<u64, Fault> {
        self.data.collect_garbage(range)
    }

    fn used_bytes(&self) -> u64 {
        self.data.used_bytes()
    }
}

/// There is no other store.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, to: StoreId, _: Vec<RaftMessage>) {
        panic!("{to} is not there");
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        panic!("nobody wants {snapshot:?}");
    }
}

/// Passes on faults.
struct Listener(Mutex<Sender<Fault>>);

impl Observer for Listener {
    fn report(&self, _: Report) {}

    fn fault(&self, fault: Fault) {
        // Nobody listens any more once the test is over.
        drop(self.0.lock().send(fault));
    }
}

/// The region with this id: the keys that begin with it.
fn region_of(id: u64) -> metapb::Region {
    let bound = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
    metapb::Region {
        id,
        region_epoch: Some(region::FIRST_EPOCH),
        start_key: if id == 1 { Bytes::new() } else { bound(id) },
        end_key: if id == REGIONS { Bytes::new() } else { bound(id + 1) },
        peers: vec![metapb::Peer { id: id + 1000, store_id: 1, ..Default::default() }],
        ..Default::default()
    }
}

/// A store that leads all its regions, and reports them at every tick.
fn start(data: &Watched) -> (RaftStore<Watched, MemoryLog>, Receiver<Fault>) {
    for id in 1..=REGIONS {
        bootstrap::prepare(data, region_of(id)).unwrap();
    }
    bootstrap::confirm_first_region(data).unwrap();
    let config = Config {
        tick_interval_ms: 10,
        region_heartbeat_ticks: 1,
        raft_workers: LANES,
        ..Config::default()
    };
    let background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
    let (tx, faults) = channel();
    let listener = Arc::new(Listener(Mutex::new(tx)));
    let (data, log) = (data.clone(), MemoryLog::new());
    let nowhere = Arc::new(Nowhere);
    let store =
        RaftStore::start(config, StoreId(1), data, log, background, nowhere, listener).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while write_all(&store.router(), "first").iter().any(Result::is_err) {
        assert!(Instant::now() < deadline, "the only voters do not lead");
    }
    (store, faults)
}

/// Writes to every region at once and waits for all answers.
fn write_all(router: &Router<Watched>, value: &str) -> Vec<Result<(), Refusal>> {
    let (tx, rx) = channel();
    for id in 1..=REGIONS {
        let target =
            Target { region_id: RegionId(id), epoch: region::FIRST_EPOCH, ..Target::default() };
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, id.to_be_bytes().to_vec(), value.to_owned());
        let tx = tx.clone();
        router.write(target, batch, move |answer| tx.send(answer).unwrap());
    }
    (0..REGIONS).map(|_| rx.recv_timeout(PATIENCE).expect("every write is answered")).collect()
}

#[test]
fn many_regions_are_served_in_several_lanes() {
    let data = Watched::default();
    let (store, faults) = start(&data);
    let router = store.router();
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    let is_lane = |name: &String| name.starts_with("lane-");
    while !data.threads.lock().iter().any(is_lane) {
        assert!(Instant::now() < deadline, "only {:?} worked", data.threads.lock());
        round += 1;
        let answers = write_all(&router, &round.to_string());
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let answers = write_all(&router, "last");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for id in 1..=REGIONS {
        let value = data.get(ColumnFamily::Default, &id.to_be_bytes()).unwrap();
        assert_eq!(value, Some("last".into()));
    }
    // Returns when the lanes have ended, too.
    store.stop();
    assert!(faults.try_recv().is_err());
}

#[test]
fn a_lane_that_panics_stops_the_store_and_leaves_nobody_waiting() {
    let data = Watched::default();
    let (store, faults) = start(&data);
    let router = store.router();
    data.panics.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE;
    while write_all(&router, "2").iter().all(Result::is_ok) {
        assert!(Instant::now() < deadline, "no lane was ever needed");
    }
    let fault = faults.recv_timeout(PATIENCE).unwrap();
    assert!(fault.to_string().contains("on purpose"), "{fault}");
    let answers = write_all(&router, "3");
    assert!(answers.iter().all(|answer| *answer == Err(Refusal::closing())), "{answers:?}");
    store.stop();
}
