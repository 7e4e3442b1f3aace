//! Memory and RocksDB keep the same logs, whatever is asked of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proto::{RegionId, eraftpb};
use raftstore::engine::memory::MemoryLog;
use raftstore::engine::rocks::RocksLog;
use raftstore::engine::{GroupWrite, LogBatch, LogEngine, LogState};

use crate::small_options;

#[derive(Clone, Debug)]
enum Act {
    Write(Vec<(u64, Draft)>),
    Read { group: u64, low: u64, length: u64, bytes_max: u64 },
    Reopen,
}

/// A write of one group, made legal when it is performed: raft leaves no gaps.
#[derive(Clone, Debug)]
struct Draft {
    clear: bool,
    /// How far before the end of the log the entries begin.
    back: u64,
    entries: u64,
    entry_bytes: usize,
    /// How far before the end of the log it is cut.
    keep: Option<u64>,
    state: Option<u64>,
}

fn draft() -> impl Strategy<Value = Draft> {
    (
        proptest::bool::weighted(0.05),
        prop_oneof![3 => Just(0u64), 1 => 0..10u64, 1 => 0..200u64],
        prop_oneof![3 => 0..8u64, 1 => 60..150u64],
        prop_oneof![0..30usize, 0..2000usize],
        proptest::option::weighted(0.2, prop_oneof![0..5u64, 0..200u64]),
        proptest::option::weighted(0.7, 0..100u64),
    )
        .prop_map(|(clear, back, entries, entry_bytes, keep, state)| Draft {
            clear,
            back,
            entries,
            entry_bytes,
            keep,
            state,
        })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => proptest::collection::btree_map(0..4u64, draft(), 1..3)
            .prop_map(|drafts| Act::Write(drafts.into_iter().collect())),
        6 => (0..5u64, 0..600u64, 0..40u64, prop_oneof![Just(0), 0..5000u64, Just(u64::MAX)])
            .prop_map(|(group, low, length, bytes_max)| Act::Read { group, low, length, bytes_max }),
        1 => Just(Act::Reopen),
    ]
}

/// First and last index of what a group has; first = last + 1 when it has nothing.
type Bounds = BTreeMap<u64, (u64, u64)>;

fn legal(bounds: &mut Bounds, term: u64, group: u64, draft: &Draft) -> GroupWrite {
    let (mut first, mut last) = bounds.get(&group).copied().unwrap_or((1, 0));
    if draft.clear {
        // As after a snapshot: the log goes on somewhere else.
        first = last + 10;
        last = first - 1;
    }
    let mut entries = Vec::new();
    if draft.entries > 0 {
        let start = (last + 1).saturating_sub(draft.back).max(first);
        entries.extend((start..start + draft.entries).map(|index| eraftpb::Entry {
            index,
            term,
            data: Bytes::from(vec![index as u8; draft.entry_bytes]),
            ..Default::default()
        }));
        last = start + draft.entries - 1;
    }
    let cut_before = draft.keep.map_or(0, |keep| (last + 1).saturating_sub(keep));
    first = first.max(cut_before);
    bounds.insert(group, (first, last));
    let state = draft.state.map(|vote| LogState {
        hard_state: eraftpb::HardState { term, vote, commit: last },
        last_index: last,
        truncated_index: first - 1,
        truncated_term: term,
    });
    GroupWrite { clear: draft.clear, entries, cut_before, state }
}

fn same_groups(memory: &MemoryLog, rocks: &RocksLog, bounds: &Bounds) {
    let groups = memory.groups().unwrap();
    assert_eq!(groups, rocks.groups().unwrap());
    for (group, (first, last)) in bounds {
        let group = RegionId(*group);
        assert_eq!(memory.state(group).unwrap(), rocks.state(group).unwrap());
        let entries = memory.entries(group, *first, last + 1, u64::MAX).unwrap();
        assert_eq!(entries.len() as u64, last + 1 - first);
        assert_eq!(entries, rocks.entries(group, *first, last + 1, u64::MAX).unwrap());
        // Neither has anything beyond.
        for index in [first - 1, last + 1] {
            assert!(memory.entries(group, index, index + 1, 0).is_err(), "{group} {index}");
            assert!(rocks.entries(group, index, index + 1, 0).is_err(), "{group} {index}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn memory_and_rocksdb_keep_the_same_logs(acts in proptest::collection::vec(act(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let options = small_options();
        let memory = MemoryLog::new();
        let mut rocks = RocksLog::open(directory.path(), &options).unwrap();
        let mut bounds = Bounds::new();
        for (step, act) in acts.into_iter().enumerate() {
            match act {
                Act::Write(drafts) => {
                    let groups = drafts.iter().map(|(group, draft)| {
                        (RegionId(*group), legal(&mut bounds, step as u64 + 1, *group, draft))
                    });
                    let batch = LogBatch { groups: groups.collect() };
                    memory.write(batch.clone()).unwrap();
                    rocks.write(batch).unwrap();
                }
                Act::Read { group, low, length, bytes_max } => {
                    let group = RegionId(group);
                    let entries = memory.entries(group, low, low + length, bytes_max);
                    let same = rocks.entries(group, low, low + length, bytes_max);
                    prop_assert_eq!(entries.ok(), same.ok());
                }
                Act::Reopen => {
                    drop(rocks);
                    rocks = RocksLog::open(directory.path(), &options).unwrap();
                    same_groups(&memory, &rocks, &bounds);
                }
            }
        }
        same_groups(&memory, &rocks, &bounds);
    }
}

#[test]
#[should_panic(expected = "would have a gap")]
fn rocksdb_refuses_a_gap_in_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = RocksLog::open(directory.path(), &small_options()).unwrap();
    log.write(entry_at(1)).unwrap();
    log.write(entry_at(3)).unwrap();
}

#[test]
#[should_panic(expected = "would have a gap")]
fn memory_refuses_a_gap_in_a_log() {
    let log = MemoryLog::new();
    log.write(entry_at(1)).unwrap();
    log.write(entry_at(3)).unwrap();
}

fn entry_at(index: u64) -> LogBatch {
    let entries = vec![eraftpb::Entry { index, term: 1, ..Default::default() }];
    LogBatch { groups: vec![(RegionId(1), GroupWrite { entries, ..Default::default() })] }
}
