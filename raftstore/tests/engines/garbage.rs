//! Removing old versions never changes what somebody may still see: in memory and in RocksDB, by sweeps
//! and by compaction, whenever it happens between writes.
//!
//! A third engine that never removes anything knows the truth.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use proto::{KeyRange, memcomparable};
use raftstore::engine::garbage::sweep;
use raftstore::engine::memory::MemoryData;
use raftstore::engine::rocks::RocksData;
use raftstore::engine::{ColumnFamily, Cursor, DataEngine, Snapshot, WriteBatch};

use crate::small_options;

const KEYS: [&str; 4] = ["a", "a\0", "a longer key", "b"];

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Sets a value, in the record or apart from it.
    Put {
        key: usize,
        is_long: bool,
    },
    Delete(usize),
    /// Keeps others out, and changes nothing.
    Lock(usize),
    Rollback(usize),
    /// A rollback for which there is no room: the newest record of the key, or an older one, is rewritten.
    Overlap {
        key: usize,
        back: usize,
    },
    /// The safe point goes to so many timestamps before now.
    Raise(u64),
    Collect,
    Compact,
}

fn act() -> impl Strategy<Value = Act> {
    let key = 0..KEYS.len();
    prop_oneof![
        6 => (key.clone(), any::<bool>()).prop_map(|(key, is_long)| Act::Put { key, is_long }),
        3 => key.clone().prop_map(Act::Delete),
        1 => key.clone().prop_map(Act::Lock),
        2 => key.clone().prop_map(Act::Rollback),
        1 => (key, 0..3_usize).prop_map(|(key, back)| Act::Overlap { key, back }),
        2 => (0..20_u64).prop_map(Act::Raise),
        1 => Just(Act::Collect),
        1 => Just(Act::Compact),
    ]
}

fn at(key: usize, ts: u64) -> Bytes {
    let mut out = BytesMut::from(&memcomparable::encode(KEYS[key].as_bytes())[..]);
    out.put_u64(!ts);
    out.freeze()
}

/// A record as the write family holds it.
#[derive(Clone, Copy, Debug)]
struct Record {
    kind: u8,
    start_ts: u64,
    is_short: bool,
    fence: Option<u64>,
}

impl Record {
    fn encode(self) -> Bytes {
        let mut out = vec![self.kind];
        let mut rest = self.start_ts;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        if self.is_short {
            out.extend_from_slice(&[b'v', 1, self.start_ts as u8]);
        }
        if let Some(fence) = self.fence {
            out.extend_from_slice(b"RF");
            out.extend_from_slice(&fence.to_be_bytes());
        }
        out.into()
    }
}

/// What a reader at `ts` sees of a key, by the bytes alone; the record's start stands for the value.
fn seen(snapshot: &impl Snapshot, key: usize, ts: u64) -> Option<u64> {
    let encoded = memcomparable::encode(KEYS[key].as_bytes());
    let mut cursor = snapshot.cursor(ColumnFamily::Write, &KeyRange::all());
    let mut on_key = cursor.seek(&at(key, ts)).unwrap();
    while on_key && cursor.key().starts_with(&encoded) {
        let value = cursor.value();
        let data = matches!(value[0], b'P' | b'D');
        if !data {
            on_key = cursor.next().unwrap();
            continue;
        }
        let fence = value.len().checked_sub(10).filter(|at| value[*at..].starts_with(b"RF"));
        let fence = fence.map(|at| u64::from_be_bytes(value[at + 2..].try_into().unwrap()));
        let is_fenced = fence.is_some_and(|fence| 0 < fence && fence <= ts);
        if value[0] == b'D' || is_fenced {
            return None;
        }
        // Timestamps of a test take one byte.
        let start_ts = u64::from(value[1]);
        if value.get(2) != Some(&b'v') {
            let apart = snapshot.get(ColumnFamily::Default, &at(key, start_ts)).unwrap();
            assert_eq!(apart, Some(Bytes::from(start_ts.to_string())), "a value is gone");
        }
        return Some(start_ts);
    }
    None
}

struct World {
    truth: MemoryData,
    memory: MemoryData,
    rocks: RocksData,
    now: u64,
    /// By key, oldest first.
    records: [Vec<(u64, Record)>; KEYS.len()],
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rocks = RocksData::open(directory.path(), &small_options()).unwrap();
        let (truth, memory) = (MemoryData::new(), MemoryData::new());
        let records = Default::default();
        Self { truth, memory, rocks, now: 1, records, _directory: directory }
    }

    fn write(&self, batch: &WriteBatch) {
        self.truth.write(batch.clone()).unwrap();
        self.memory.write(batch.clone()).unwrap();
        self.rocks.write(batch.clone()).unwrap();
    }

    fn record(&mut self, key: usize, kind: u8, is_short: bool) {
        // Two bytes would be needed beyond.
        if self.now > 120 {
            return;
        }
        let start_ts = self.now;
        let commit_ts = if kind == b'R' { start_ts } else { start_ts + 1 };
        self.now += 2;
        let mut batch = WriteBatch::new();
        let record = Record { kind, start_ts, is_short, fence: None };
        batch.put(ColumnFamily::Write, at(key, commit_ts), record.encode());
        if kind == b'P' && !is_short {
            batch.put(ColumnFamily::Default, at(key, start_ts), start_ts.to_string());
        }
        self.records[key].push((commit_ts, record));
        self.write(&batch);
    }

    fn overlap(&mut self, key: usize, back: usize) {
        let records = &mut self.records[key];
        let Some(place) = records.len().checked_sub(1 + back) else { return };
        let newer = records[place + 1..].iter();
        let newer = newer.filter(|(_, record)| matches!(record.kind, b'P' | b'D'));
        let fence = newer.map(|(ts, _)| *ts).next().unwrap_or(0);
        let (commit_ts, record) = &mut records[place];
        if record.kind == b'R' {
            return;
        }
        record.fence = Some(fence);
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Write, at(key, *commit_ts), record.encode());
        self.write(&batch);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Put { key, is_long } => self.record(key, b'P', !is_long),
            Act::Delete(key) => self.record(key, b'D', false),
            Act::Lock(key) => self.record(key, b'L', false),
            Act::Rollback(key) => self.record(key, b'R', false),
            Act::Overlap { key, back } => self.overlap(key, back),
            Act::Raise(before) => {
                let safe_point = self.now.saturating_sub(before);
                self.memory.raise_safe_point(safe_point).unwrap();
                self.rocks.raise_safe_point(safe_point).unwrap();
            }
            Act::Collect => {
                self.memory.collect_garbage(&KeyRange::all()).unwrap();
                self.rocks.collect_garbage(&KeyRange::all()).unwrap();
            }
            Act::Compact => self.rocks.compact_records(&KeyRange::all()).unwrap(),
        }
    }

    /// Whoever reads at or after the safe point sees the truth.
    fn check(&self) {
        let safe_point = self.rocks.safe_point();
        let (truth, memory, rocks) =
            (self.truth.snapshot(), self.memory.snapshot(), self.rocks.snapshot());
        for (key, name) in KEYS.iter().enumerate() {
            for ts in safe_point..=self.now + 1 {
                let expected = seen(&truth, key, ts);
                assert_eq!(seen(&memory, key, ts), expected, "memory: {name} at {ts}");
                assert_eq!(seen(&rocks, key, ts), expected, "RocksDB: {name} at {ts}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_somebody_may_see_stays_and_nothing_else_does(
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
            if matches!(act, Act::Collect | Act::Compact) {
                world.check();
            }
        }
        world.act(Act::Compact);
        world.act(Act::Collect);
        world.check();
        let safe_point = world.rocks.safe_point();
        let all = KeyRange::all();
        let memory = sweep(&world.memory.snapshot(), &all, safe_point, u64::MAX).unwrap();
        let rocks = sweep(&world.rocks.snapshot(), &all, safe_point, u64::MAX).unwrap();
        prop_assert_eq!((memory.garbage, rocks.garbage), (0, 0));
    }
}

/// What a sweep would do by writes a compaction does by itself.
#[test]
fn a_compaction_removes_what_nobody_sees() {
    let mut world = World::new();
    for _ in 0..20 {
        world.act(Act::Put { key: 0, is_long: false });
        world.act(Act::Put { key: 1, is_long: true });
    }
    world.act(Act::Delete(1));
    world.rocks.raise_safe_point(world.now).unwrap();
    world.memory.raise_safe_point(world.now).unwrap();
    world.act(Act::Compact);
    let count = |cf| crate::pairs(&world.rocks.snapshot(), cf, &KeyRange::all()).len();
    assert_eq!((count(ColumnFamily::Write), count(ColumnFamily::Default)), (1, 0));
    world.check();
}

/// What was removed by a safe point is never taken for data of before it.
#[test]
fn a_safe_point_is_remembered_as_long_as_its_removals() {
    let directory = tempfile::tempdir().unwrap();
    let open = || RocksData::open(directory.path(), &small_options()).unwrap();
    let rocks = open();
    assert_eq!((rocks.safe_point(), rocks.snapshot().safe_point()), (0, 0));
    rocks.raise_safe_point(7).unwrap();
    rocks.raise_safe_point(5).unwrap();
    assert_eq!((rocks.safe_point(), rocks.snapshot().safe_point()), (7, 7));
    // A filter of before may run on behalf of a view of before.
    let view = rocks.snapshot();
    rocks.raise_safe_point(9).unwrap();
    assert_eq!(view.safe_point(), 9);
    drop((view, rocks));
    assert_eq!(open().safe_point(), 9);

    let memory = MemoryData::new();
    let write = |value: &'static str| {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, "k", value);
        memory.write(batch).unwrap();
    };
    memory.raise_safe_point(3).unwrap();
    write("1");
    memory.raise_safe_point(7).unwrap();
    write("2");
    memory.raise_safe_point(6).unwrap();
    assert_eq!(memory.safe_point(), 7);
    // The record goes with what came after it, never before.
    memory.power_loss(3);
    assert_eq!(memory.safe_point(), 7);
    write("3");
    memory.power_loss(0);
    assert_eq!(memory.safe_point(), 7);
    memory.raise_safe_point(8).unwrap();
    memory.power_loss(0);
    assert_eq!(memory.safe_point(), 7);
}
