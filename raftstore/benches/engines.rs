//! What the engines cost: the numbers behind the sizes of batches and buffers.
//!
//! Run with `cargo bench -p tessera-raftstore --bench engines`; `--profile dev` saves compiling
//! RocksDB once more, and RocksDB is optimised there too. The synced log write is the price of a
//! round; compare it with what the disk itself can do.

#![allow(missing_docs, reason = "criterion's macros write the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot prepare its world has failed")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::{KeyRange, RegionId, eraftpb};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::rocks::{Options, RocksData, RocksLog};
use raftstore::engine::{
    ColumnFamily, Cursor, DataEngine, GroupWrite, LogBatch, LogEngine, LogState, Snapshot,
    WriteBatch,
};

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;
const BATCH: u64 = 64;
const GROUP: RegionId = RegionId(1);

/// Keys in an order that visits all of them and looks random.
fn key(number: u64) -> Vec<u8> {
    (number.wrapping_mul(7_919) % KEYS).to_be_bytes().to_vec()
}

fn batch(first: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for number in first..first + BATCH {
        batch.put(ColumnFamily::Default, key(number), vec![number as u8; VALUE_BYTES]);
    }
    batch
}

fn data(criterion: &mut Criterion, name: &str, engine: &impl DataEngine) {
    for first in (0..KEYS).step_by(BATCH as usize) {
        engine.write(batch(first)).unwrap();
    }
    let mut group = criterion.benchmark_group(name);
    let mut at = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            at += 1;
            engine.get(ColumnFamily::Default, &key(at)).unwrap().unwrap()
        });
    });
    group.bench_function("snapshot", |bencher| bencher.iter(|| engine.snapshot()));
    let snapshot = engine.snapshot();
    group.throughput(Throughput::Elements(1000));
    group.bench_function("scan_1000", |bencher| {
        bencher.iter(|| {
            let mut cursor = snapshot.cursor(ColumnFamily::Default, &KeyRange::all());
            let mut more = cursor.seek_to_first().unwrap();
            let mut bytes = 0;
            for _ in 0..1000 {
                assert!(more);
                bytes += cursor.value().len();
                more = cursor.next().unwrap();
            }
            bytes
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("write_64", |bencher| {
        bencher.iter_batched(
            || {
                at += BATCH;
                batch(at)
            },
            |batch| engine.write(batch).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn log(criterion: &mut Criterion, name: &str, engine: &impl LogEngine) {
    let mut group = criterion.benchmark_group(name);
    for entries in [1, BATCH] {
        let mut last = 0;
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("append_{entries}"), |bencher| {
            bencher.iter_batched(
                || {
                    let first = last + 1;
                    last += entries;
                    let entries = (first..=last).map(|index| eraftpb::Entry {
                        index,
                        term: 1,
                        data: vec![index as u8; VALUE_BYTES].into(),
                        ..Default::default()
                    });
                    let write = GroupWrite {
                        entries: entries.collect(),
                        // As a store would: keep some and cut the rest now and then.
                        cut_before: if last.is_multiple_of(4096) { last - 1024 } else { 0 },
                        state: Some(LogState { last_index: last, ..Default::default() }),
                        ..Default::default()
                    };
                    LogBatch { groups: vec![(GROUP, write)] }
                },
                |batch| engine.write(batch).unwrap(),
                BatchSize::PerIteration,
            );
        });
        // The next size begins on an empty log.
        let write = GroupWrite { clear: true, ..Default::default() };
        engine.write(LogBatch { groups: vec![(GROUP, write)] }).unwrap();
    }
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default();
    let rocks = RocksData::open(&directory.path().join("data"), &options).unwrap();
    data(criterion, "data/rocksdb", &rocks);
    data(criterion, "data/memory", &MemoryData::new());
    let rocks = RocksLog::open(&directory.path().join("log"), &options).unwrap();
    log(criterion, "log/rocksdb", &rocks);
    log(criterion, "log/memory", &MemoryLog::new());
}

criterion_group!(benches, engines);
criterion_main!(benches);
