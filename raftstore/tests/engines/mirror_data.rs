//! Memory and RocksDB do the same to data, whatever is asked of them.

use bytes::Bytes;
use proptest::prelude::*;
use proto::KeyRange;
use raftstore::engine::memory::{MemoryCursor, MemoryData, MemorySnapshot};
use raftstore::engine::rocks::{RocksCursor, RocksData, RocksSnapshot};
use raftstore::engine::{Change, ColumnFamily, Cursor, DataEngine, Snapshot, WriteBatch};

use crate::{pairs, small_options};

#[derive(Clone, Debug)]
enum Act {
    Write(Vec<Change>),
    Sync,
    TakeSnapshot,
    DropSnapshot(usize),
    /// Walks a cursor over a snapshot (or the present) and compares each step.
    Walk(usize, ColumnFamily, KeyRange, Vec<Move>),
    Get(usize, ColumnFamily, Bytes),
    Measure(KeyRange),
    Reopen,
}

#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Seek(Bytes),
    SeekForPrev(Bytes),
    Next,
    Prev,
}

/// Few and nested keys, so that operations meet; the smallest and very large ones among them.
fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(0xff)], 1..5),
        1 => Just(vec![]),
        1 => Just(vec![0xff; 40]),
    ]
    .prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    (key(), proptest::option::weighted(0.8, key())).prop_map(|(start, end)| KeyRange { start, end })
}

fn family() -> impl Strategy<Value = ColumnFamily> {
    proptest::sample::select(&ColumnFamily::ALL[..])
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let value = (any::<u8>(), prop_oneof![0..20usize, 0..3000usize])
        .prop_map(|(byte, length)| Bytes::from(vec![byte; length]));
    prop_oneof![
        10 => (family(), key(), value).prop_map(|(cf, key, value)| Change::Put { cf, key, value }),
        4 => (family(), key()).prop_map(|(cf, key)| Change::Delete { cf, key }),
        1 => (family(), range()).prop_map(|(cf, range)| Change::DeleteRange { cf, range }),
    ]
}

fn step() -> impl Strategy<Value = Move> {
    prop_oneof![
        Just(Move::First),
        Just(Move::Last),
        key().prop_map(Move::Seek),
        key().prop_map(Move::SeekForPrev),
        Just(Move::Next),
        Just(Move::Next),
        Just(Move::Prev),
        Just(Move::Prev),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        10 => proptest::collection::vec(change(), 0..12).prop_map(Act::Write),
        1 => Just(Act::Sync),
        2 => Just(Act::TakeSnapshot),
        1 => any::<usize>().prop_map(Act::DropSnapshot),
        6 => (any::<usize>(), family(), range(), proptest::collection::vec(step(), 1..20))
            .prop_map(|(which, cf, range, steps)| Act::Walk(which, cf, range, steps)),
        3 => (any::<usize>(), family(), key()).prop_map(|(which, cf, key)| Act::Get(which, cf, key)),
        1 => range().prop_map(Act::Measure),
        1 => Just(Act::Reopen),
    ]
}

/// Both cursors after the same move.
fn same_step(memory: &mut MemoryCursor, rocks: &mut RocksCursor, step: &Move) {
    let results = match step {
        Move::First => (memory.seek_to_first(), rocks.seek_to_first()),
        Move::Last => (memory.seek_to_last(), rocks.seek_to_last()),
        Move::Seek(key) => (memory.seek(key), rocks.seek(key)),
        Move::SeekForPrev(key) => (memory.seek_for_prev(key), rocks.seek_for_prev(key)),
        Move::Next if memory.is_on_key() => (memory.next(), rocks.next()),
        Move::Prev if memory.is_on_key() => (memory.prev(), rocks.prev()),
        Move::Next | Move::Prev => return,
    };
    let on_key = results.0.unwrap();
    assert_eq!(on_key, results.1.unwrap(), "{step:?}");
    assert_eq!((memory.is_on_key(), rocks.is_on_key()), (on_key, on_key));
    if on_key {
        assert_eq!((memory.key(), memory.value()), (rocks.key(), rocks.value()), "{step:?}");
    }
}

type Views = (MemorySnapshot, RocksSnapshot);

/// One of the kept snapshots, or the present.
fn view(which: usize, kept: &[Views], memory: &MemoryData, rocks: &RocksData) -> Views {
    match which % (kept.len() + 1) {
        0 => (memory.snapshot(), rocks.snapshot()),
        number => kept[number - 1].clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn memory_and_rocksdb_hold_the_same_data(acts in proptest::collection::vec(act(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let options = small_options();
        let memory = MemoryData::new();
        let mut rocks = RocksData::open(directory.path(), &options).unwrap();
        let mut kept: Vec<Views> = Vec::new();
        for act in acts {
            match act {
                Act::Write(changes) => {
                    let mut batch = WriteBatch::new();
                    changes.into_iter().for_each(|change| batch.push(change));
                    memory.write(batch.clone()).unwrap();
                    rocks.write(batch).unwrap();
                }
                Act::Sync => {
                    memory.sync().unwrap();
                    rocks.sync().unwrap();
                }
                Act::TakeSnapshot => kept.push((memory.snapshot(), rocks.snapshot())),
                Act::DropSnapshot(which) if !kept.is_empty() => {
                    kept.swap_remove(which % kept.len());
                }
                Act::DropSnapshot(_) => {}
                Act::Walk(which, cf, range, steps) => {
                    let views = view(which, &kept, &memory, &rocks);
                    let mut cursors = (views.0.cursor(cf, &range), views.1.cursor(cf, &range));
                    // The cursors hold what they need.
                    drop(views);
                    for step in steps {
                        same_step(&mut cursors.0, &mut cursors.1, &step);
                    }
                }
                Act::Get(which, cf, key) => {
                    let views = view(which, &kept, &memory, &rocks);
                    prop_assert_eq!(views.0.get(cf, &key).unwrap(), views.1.get(cf, &key).unwrap());
                    prop_assert_eq!(memory.get(cf, &key).unwrap(), rocks.get(cf, &key).unwrap());
                }
                Act::Measure(range) => prop_assert_eq!(
                    memory.approximate_size(&range).unwrap(),
                    rocks.approximate_size(&range).unwrap()
                ),
                Act::Reopen => {
                    kept.clear();
                    drop(rocks);
                    rocks = RocksData::open(directory.path(), &options).unwrap();
                }
            }
        }
        kept.push((memory.snapshot(), rocks.snapshot()));
        for (memory, rocks) in &kept {
            for cf in ColumnFamily::ALL {
                prop_assert_eq!(
                    pairs(memory, cf, &KeyRange::all()),
                    pairs(rocks, cf, &KeyRange::all())
                );
            }
        }
    }
}

#[test]
fn a_range_without_end_is_deleted_with_what_the_same_batch_put_there() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = RocksData::open(directory.path(), &small_options()).unwrap();
    let everything = KeyRange::all();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "a", "1");
    rocks.write(batch).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "z", "2");
    batch.delete_range(ColumnFamily::Default, everything.clone());
    batch.put(ColumnFamily::Default, "m", "3");
    rocks.write(batch).unwrap();
    let left = pairs(&rocks.snapshot(), ColumnFamily::Default, &everything);
    assert_eq!(left, [(Bytes::from("m"), Bytes::from("3"))]);
}

/// Values of bytes that do not compress.
fn noise() -> impl FnMut() -> Vec<u8> {
    let mut state = 1u64;
    move || {
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(&mut byte).take(1000).collect()
    }
}

/// Records of four bytes, `0, 1, …`, with values of 1000, until so much is written; returns how much, and how
/// many keys.
fn fill(rocks: &RocksData, bytes: u64, mut value: impl FnMut() -> Vec<u8>) -> (u64, u32) {
    let (mut written, mut number) = (0, 0u32);
    while written < bytes {
        let mut batch = WriteBatch::new();
        for _ in 0..64 {
            batch.put(ColumnFamily::Write, number.to_be_bytes().to_vec(), value());
            number += 1;
        }
        written += batch.bytes() as u64;
        rocks.write(batch).unwrap();
    }
    (written, number)
}

#[test]
fn a_large_range_is_estimated_within_a_factor_of_two() {
    // What files hold is told, and not how small it became.
    let compressible = || b"0123456789".repeat(100);
    let values: [Box<dyn FnMut() -> Vec<u8>>; 2] = [Box::new(noise()), Box::new(compressible)];
    for value in values {
        let directory = tempfile::tempdir().unwrap();
        let rocks = RocksData::open(directory.path(), &small_options()).unwrap();
        let (written, number) = fill(&rocks, 16 << 20, value);
        let half = (number / 2).to_be_bytes().to_vec();
        let half = KeyRange { start: Bytes::new(), end: Some(half.into()) };
        for (range, part) in [(KeyRange::all(), 1), (half, 2)] {
            let told = rocks.approximate_size(&range).unwrap();
            let (bytes, keys) = (written / part, u64::from(number) / part);
            assert!(told.bytes > bytes / 2 && told.bytes < bytes * 2, "{told:?} of {bytes}");
            assert!(told.keys > keys / 2 && told.keys < keys * 2, "{told:?} of {keys}");
        }
    }
}

#[test]
fn the_middle_of_a_large_range_is_found_in_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = RocksData::open(directory.path(), &small_options()).unwrap();
    let (_, number) = fill(&rocks, 16 << 20, noise());
    let middle = rocks.approximate_middle(&KeyRange::all()).unwrap().unwrap();
    let before = u32::from_be_bytes(middle[..4].try_into().unwrap());
    assert!(before > number / 4 && before < number / 4 * 3, "{before} of {number}");
    let little = KeyRange { start: Bytes::new(), end: Some(9u32.to_be_bytes().to_vec().into()) };
    assert_eq!(rocks.approximate_middle(&little).unwrap(), None);
}
