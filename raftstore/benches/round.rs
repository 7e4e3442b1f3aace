//! What a round costs: writes through raft, applying, snapshots.
//!
//! | group | what is timed |
//! |---|---|
//! | `proposals` | three stores with their threads in this process, messages handed over as values: from `Router::write` to its answer, so without gRPC; some writes in flight at a time |
//! | `apply` | committed entries of one region and of many becoming batches of the data engine |
//! | `snapshot` | a region's data written down, and put in place of another's |
//!
//! What many regions can share out is timed in one lane and in two; more lanes than cores win nothing.
//!
//! `cargo xtask bench round` runs it on a release build without compiling RocksDB again. Figures of
//! one run may be compared with each other; those of two runs only on a quiet machine.
//!
//! Left out: the network, and elections during a measurement (a write that meets one is sent again
//! and counts with the time it took).

#![allow(missing_docs, reason = "criterion's macros write the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot prepare its world has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use proto::raft_serverpb::RaftMessage;
use proto::{PeerId, RegionId, StoreId, metapb, region};
use raft::eraftpb::Entry;
use raftstore::applier::Applier;
use raftstore::command::Fold;
use raftstore::config::Config;
use raftstore::driver::{
    Background, LaneThread, Observer, RaftStore, Router, SnapshotStorage, ThreadLanes,
};
use raftstore::effects::{OutgoingSnapshot, Report};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::rocks::{Options, RocksData, RocksLog};
use raftstore::engine::{ColumnFamily, DataEngine, LogEngine, WriteBatch};
use raftstore::error::Fault;
use raftstore::msg::{ApplyTask, BackgroundTask, GeneratedSnapshot, StoreMsg, Target};
use raftstore::storage::bootstrap;
use raftstore::transport::Transport;

const VALUE_BYTES: usize = 256;
const STORES: u64 = 3;
/// Writes in flight where many are.
const MANY: usize = 256;
/// Regions where many are.
const MANY_REGIONS: u64 = 100;
/// Writes applied at once.
const APPLIED: u64 = 1600;
/// Keys of a region, each written again and again.
const KEYS: u64 = 10_000;
/// A snapshot holds this many pairs: 16 MiB of values.
const SNAPSHOT_PAIRS: u64 = 64 << 10;
/// Longer than any election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Routers by store. Stores of one process hand messages over without encoding them.
struct Mesh<D: DataEngine>(Arc<Mutex<BTreeMap<StoreId, Router<D>>>>);

impl<D: DataEngine> Mesh<D> {
    fn router(&self, store: StoreId) -> Option<Router<D>> {
        self.0.lock().get(&store).cloned()
    }
}

impl<D: DataEngine> Transport for Mesh<D> {
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>) {
        if let Some(router) = self.router(to) {
            messages.into_iter().for_each(|message| router.raft_message(message));
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        panic!("all stores begin with the same data, nobody needs a snapshot: {snapshot:?}");
    }
}

/// Stops the benchmark when a store does.
struct Listener;

impl Observer for Listener {
    fn report(&self, _: Report) {}

    fn fault(&self, fault: Fault) {
        panic!("a store stopped: {fault}");
    }
}

fn region_of(number: u64, count: u64) -> metapb::Region {
    let peer = |store: u64| metapb::Peer {
        id: number * STORES + store,
        store_id: store,
        ..Default::default()
    };
    let bound = |number: u64| match number {
        0 => Bytes::new(),
        number if number == count => Bytes::new(),
        number => Bytes::copy_from_slice(&number.to_be_bytes()),
    };
    metapb::Region {
        id: number + 1,
        region_epoch: Some(region::FIRST_EPOCH),
        start_key: bound(number),
        end_key: bound(number + 1),
        peers: (1..=STORES).map(peer).collect(),
        ..Default::default()
    }
}

/// Puts `number` into a region: the key's first half is the region's.
fn put(region: u64, number: u64) -> WriteBatch {
    let key = [region.to_be_bytes(), (number % KEYS).to_be_bytes()].concat();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, key, vec![number as u8; VALUE_BYTES]);
    batch
}

/// Three stores that hold the same regions.
struct Cluster<D: DataEngine, L: LogEngine> {
    routers: Vec<Router<D>>,
    regions: Vec<metapb::Region>,
    /// Which router leads each region, as it was last seen.
    leaders: Vec<usize>,
    written: u64,
    _stores: Vec<RaftStore<D, L>>,
}

impl<D: DataEngine, L: LogEngine> Cluster<D, L> {
    fn start(count: u64, lanes: usize, mut engines: impl FnMut(StoreId) -> (D, L)) -> Self {
        let mesh = Arc::new(Mutex::new(BTreeMap::new()));
        let regions: Vec<_> = (0..count).map(|number| region_of(number, count)).collect();
        let mut stores = Vec::new();
        let mut routers = Vec::new();
        for id in (1..=STORES).map(StoreId) {
            let (data, log) = engines(id);
            for region in &regions {
                bootstrap::prepare(&data, region.clone()).unwrap();
            }
            bootstrap::confirm_first_region(&data).unwrap();
            let config =
                Config { seed: id.0, incarnation: id.0, raft_workers: lanes, ..Config::default() };
            let background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
            let transport = Arc::new(Mesh(Arc::clone(&mesh)));
            let listener = Arc::new(Listener);
            let store =
                RaftStore::start(config, id, data, log, background, transport, listener).unwrap();
            mesh.lock().insert(id, store.router());
            routers.push(store.router());
            stores.push(store);
        }
        let leaders = vec![0; regions.len()];
        let mut cluster = Self { routers, regions, leaders, written: 0, _stores: stores };
        // Every region has found its leader when it has taken a write.
        cluster.write(regions_len(count));
        cluster
    }

    /// Puts one write after the other into the regions in turn, all at once, and waits for all
    /// answers. A write that is refused is sent to the next store.
    fn write(&mut self, writes: usize) {
        let (tx, rx) = channel();
        let first = self.written;
        self.written += writes as u64;
        let send = |cluster: &Self, number: u64| {
            let place = (number % cluster.regions.len() as u64) as usize;
            let region = &cluster.regions[place];
            let target = Target {
                region_id: RegionId(region.id),
                epoch: region::epoch(region),
                ..Target::default()
            };
            let tx = tx.clone();
            let batch = put(place as u64, number);
            cluster.routers[cluster.leaders[place]]
                .write(target, batch, move |answer| tx.send((number, answer)).unwrap());
        };
        (first..self.written).for_each(|number| send(self, number));
        let mut open = writes;
        while open > 0 {
            let (number, answer) = rx.recv_timeout(PATIENCE).expect("every write is answered");
            if answer.is_ok() {
                open -= 1;
                continue;
            }
            let place = (number % self.regions.len() as u64) as usize;
            self.leaders[place] = (self.leaders[place] + 1) % self.routers.len();
            // Before the first election everybody refuses at once.
            std::thread::yield_now();
            send(self, number);
        }
    }
}

fn regions_len(count: u64) -> usize {
    usize::try_from(count).expect("a benchmark has few regions")
}

fn propose<D: DataEngine, L: LogEngine>(
    criterion: &mut Criterion,
    engine: &str,
    mut engines: impl FnMut(&str, StoreId) -> (D, L),
) {
    for (count, lanes) in [(1, 1), (MANY_REGIONS, 1), (MANY_REGIONS, 2)] {
        let name = format!("{count}_regions_{lanes}_lanes");
        let mut cluster = Cluster::start(count, lanes, |store| engines(&name, store));
        let mut group = criterion.benchmark_group(format!("proposals/{engine}/{name}"));
        for in_flight in [1, MANY] {
            group.throughput(Throughput::Elements(in_flight as u64));
            group.bench_function(format!("{in_flight}_in_flight"), |bencher| {
                bencher.iter(|| cluster.write(in_flight));
            });
        }
        group.finish();
    }
}

/// Applies to one region or to many, whose entries are next to each other in a round.
fn apply(criterion: &mut Criterion, engine: &str, data: impl DataEngine) {
    let mut group = criterion.benchmark_group(format!("apply/{engine}"));
    group.throughput(Throughput::Elements(APPLIED));
    // The same writes, as entries of one each and as larger ones: how much merging saves.
    for (regions, lanes, writes) in [
        (1, 1, 1),
        (1, 1, 16),
        (MANY_REGIONS, 1, 1),
        (MANY_REGIONS, 1, 16),
        (MANY_REGIONS, 2, 1),
        (MANY_REGIONS, 2, 16),
    ] {
        let (thread_lanes, threads) = ThreadLanes::new(lanes);
        let threads: Vec<_> = threads
            .into_iter()
            .map(|thread: LaneThread| std::thread::spawn(|| thread.run()))
            .collect();
        let mut applier = Applier::new(data.clone()).with_lanes(Box::new(thread_lanes));
        let mut index = 5;
        let start = |number| ApplyTask::Start {
            region: region_of(number, regions),
            peer_id: peer_of(number),
            applied_index: index,
            applied_term: 5,
        };
        applier.apply((0..regions).map(start).collect()).unwrap();
        let entries = APPLIED / writes / regions;
        let name = format!("{regions}_regions_{lanes}_lanes/entries_of_{writes}");
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let first = index + 1;
                    index += entries;
                    let tasks = |number| entries_of(number, first..=index, writes);
                    (0..regions).map(tasks).collect()
                },
                |tasks| applier.apply(tasks).unwrap(),
                BatchSize::PerIteration,
            );
        });
        drop(applier);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    group.finish();
}

/// The peer of a region on the first store.
fn peer_of(number: u64) -> PeerId {
    PeerId(number * STORES + 1)
}

/// Entries of one region, with so many writes each.
fn entries_of(number: u64, indexes: std::ops::RangeInclusive<u64>, writes: u64) -> ApplyTask {
    let entry = |index: u64| {
        let mut fold = Fold::new(region::FIRST_EPOCH);
        for write in 0..writes {
            fold.push(&put(number, index * 7919 + write));
        }
        Entry { index, term: 5, data: fold.finish().into(), ..Default::default() }
    };
    ApplyTask::Entries {
        region_id: RegionId(number + 1),
        peer_id: peer_of(number),
        entries: indexes.map(entry).collect(),
        skip_children: vec![],
    }
}

fn snapshot<D: DataEngine>(
    criterion: &mut Criterion,
    engine: &str,
    data: D,
    storage: SnapshotStorage,
) {
    let region = bootstrap::prepare(&data, region_of(0, 1)).unwrap();
    bootstrap::confirm_first_region(&data).unwrap();
    for first in (0..SNAPSHOT_PAIRS).step_by(1024) {
        let mut batch = WriteBatch::new();
        for number in first..first + 1024 {
            let key = number.to_be_bytes().to_vec();
            batch.put(ColumnFamily::Default, key, vec![number as u8; VALUE_BYTES]);
        }
        data.write(batch).unwrap();
    }
    let (region_id, peer_id) = (RegionId(region.id), PeerId(1));
    let background = std::cell::RefCell::new(Background::new(data, storage).unwrap());
    let generate = || -> GeneratedSnapshot {
        let task = BackgroundTask::GenerateSnapshot { region_id, peer_id, to: PeerId(2) };
        match background.borrow_mut().perform(task).unwrap() {
            Some(StoreMsg::SnapshotGenerated { generated: Some(generated), .. }) => *generated,
            other => panic!("a region that is there has a snapshot: {other:?}"),
        }
    };
    let mut group = criterion.benchmark_group(format!("snapshot/{engine}"));
    group.sample_size(10);
    group.throughput(Throughput::Bytes(SNAPSHOT_PAIRS * VALUE_BYTES as u64));
    group.bench_function("generate", |bencher| {
        // Its file goes with it.
        bencher.iter(|| drop(generate()));
    });
    group.bench_function("install", |bencher| {
        bencher.iter_batched(
            generate,
            |generated| {
                let GeneratedSnapshot { region, index, term, source, .. } = generated;
                let task = BackgroundTask::InstallSnapshot { region, peer_id, index, term, source };
                match background.borrow_mut().perform(task).unwrap() {
                    Some(StoreMsg::SnapshotInstalled { ok: true, .. }) => {}
                    other => panic!("the snapshot is whole: {other:?}"),
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn rocks(folder: &Path) -> (RocksData, RocksLog) {
    let options = Options::default();
    let data = RocksData::open(&folder.join("data"), &options).unwrap();
    let log = RocksLog::open(&folder.join("log"), &options).unwrap();
    (data, log)
}

fn round(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    propose(criterion, "memory", |_, _| (MemoryData::new(), MemoryLog::new()));
    propose(criterion, "rocksdb", |name, store| {
        rocks(&folder.path().join(name).join(store.to_string()))
    });
    apply(criterion, "memory", MemoryData::new());
    apply(criterion, "rocksdb", rocks(&folder.path().join("apply")).0);
    snapshot(criterion, "memory", MemoryData::new(), SnapshotStorage::Memory);
    let storage = SnapshotStorage::Folder(folder.path().join("snap"));
    snapshot(criterion, "rocksdb", rocks(&folder.path().join("snapshot")).0, storage);
}

criterion_group!(benches, round);
criterion_main!(benches);
