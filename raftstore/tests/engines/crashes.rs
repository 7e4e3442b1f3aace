//! Random writes and crashes: after each, RocksDB is where memory can be, and the applied index is where the
//! data is.
//!
//! A crash of the process leaves the files as they are. A loss of power cuts the newest WAL file somewhere
//! behind what was synced: what RocksDB wrote to data files or closed WAL files it has synced itself.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use proto::{KeyRange, PeerId, RegionId, metapb, region};
use raft::eraftpb::Entry;
use raftstore::applier::Applier;
use raftstore::command::Command;
use raftstore::engine::memory::MemoryData;
use raftstore::engine::rocks::RocksData;
use raftstore::engine::{Change, ColumnFamily, DataEngine, WriteBatch};
use raftstore::msg::ApplyTask;
use raftstore::storage::{FIRST_POSITION, applied_state, bootstrap};

use crate::mirror_data::change;
use crate::{copy_directory, pairs, small_options, wal_file};

#[derive(Clone, Debug)]
enum Act {
    Write(Vec<Change>),
    Sync,
    Kill,
    /// The power fails; so many thousandths of the WAL behind what was synced are left.
    PowerLoss(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => proptest::collection::vec(change(), 1..8).prop_map(Act::Write),
        3 => Just(Act::Sync),
        1 => Just(Act::Kill),
        3 => (0..=1000u64).prop_map(Act::PowerLoss),
    ]
}

const STAMP: &[u8] = b"the number of the last write";

fn stamp_in(data: &impl DataEngine) -> u64 {
    let found = data.get(ColumnFamily::Meta, STAMP).unwrap();
    found.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

fn content(data: &impl DataEngine) -> Vec<Vec<(Bytes, Bytes)>> {
    let snapshot = data.snapshot();
    ColumnFamily::ALL.map(|cf| pairs(&snapshot, cf, &KeyRange::all())).to_vec()
}

/// The newest WAL file and its length; none when nothing was written since the last one was closed.
fn wal(path: &Path) -> Option<(PathBuf, u64)> {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max().map(|path| {
        let length = fs::metadata(&path).unwrap().len();
        (path, length)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..Default::default() })]

    #[test]
    fn rocksdb_is_where_memory_can_be_after_any_crash(
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let options = small_options();
        let memory = MemoryData::new();
        let mut rocks = RocksData::open(directory.path(), &options).unwrap();
        let mut stamp = 0u64;
        // Of the last write that must survive, and of the first that memory may still lose.
        let (mut synced, mut durable_in_memory) = (0, 0);
        let mut synced_wal: Option<(PathBuf, u64)> = None;
        for act in acts {
            match act {
                Act::Write(changes) => {
                    stamp += 1;
                    let mut batch = WriteBatch::new();
                    changes.into_iter().for_each(|change| batch.push(change));
                    batch.put(ColumnFamily::Meta, STAMP, stamp.to_be_bytes().to_vec());
                    memory.write(batch.clone()).unwrap();
                    rocks.write(batch).unwrap();
                }
                Act::Sync => {
                    memory.sync().unwrap();
                    rocks.sync().unwrap();
                    (synced, durable_in_memory) = (stamp, stamp);
                    synced_wal = wal(directory.path());
                }
                Act::Kill => {
                    drop(rocks);
                    rocks = RocksData::open(directory.path(), &options).unwrap();
                    prop_assert_eq!(stamp_in(&rocks), stamp);
                }
                Act::PowerLoss(kept) => {
                    drop(rocks);
                    if let Some((file, length)) = wal(directory.path()) {
                        let known = synced_wal.as_ref().filter(|(synced, _)| *synced == file);
                        let from = known.map_or(0, |(_, length)| *length);
                        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
                        file.set_len(from + (length - from) * kept / 1000).unwrap();
                    }
                    rocks = RocksData::open(directory.path(), &options).unwrap();
                    let found = stamp_in(&rocks);
                    prop_assert!(synced <= found && found <= stamp, "{} of {}..={}", found, synced, stamp);
                    memory.power_loss((found - durable_in_memory) as usize);
                    (stamp, synced, durable_in_memory) = (found, found, found);
                }
            }
        }
        prop_assert_eq!(content(&rocks), content(&memory));
    }
}

const REGION: RegionId = RegionId(1);
const PEER: PeerId = PeerId(2);
/// Applied at once, round by round; in some rounds more than one batch of the engine.
const ROUNDS: [usize; 9] = [1, 3, 1, 12, 2, 5, 1, 20, 4];

/// Applies writes of their own index, in rounds; syncs after the second.
fn apply_rounds(data: &impl DataEngine, mut after_each: impl FnMut(usize)) -> u64 {
    let peer = metapb::Peer { id: PEER.0, store_id: 1, ..Default::default() };
    let known = metapb::Region {
        id: REGION.0,
        region_epoch: Some(region::FIRST_EPOCH),
        peers: vec![peer],
        ..Default::default()
    };
    bootstrap::prepare(data, known.clone()).unwrap();
    let mut applier = Applier::new(data.clone());
    let mut last = FIRST_POSITION;
    let start = ApplyTask::Start {
        region: known,
        peer_id: PEER,
        applied_index: last.index,
        applied_term: last.term,
    };
    applier.apply(vec![start]).unwrap();
    for (round, entries) in ROUNDS.into_iter().enumerate() {
        let entries = (0..entries).map(|_| {
            last.index += 1;
            let mut batch = WriteBatch::new();
            batch.put(ColumnFamily::Default, "index", last.index.to_be_bytes().to_vec());
            batch.put(ColumnFamily::Write, "index", last.index.to_be_bytes().to_vec());
            // Large ones are written before the round is through.
            batch.put(ColumnFamily::Default, "value", vec![round as u8; 300 << 10]);
            let command = Command::Write { epoch: region::FIRST_EPOCH, batch };
            let data = command.encode().into();
            Entry { index: last.index, term: last.term, data, ..Default::default() }
        });
        let task = ApplyTask::Entries {
            region_id: REGION,
            peer_id: PEER,
            entries: entries.collect(),
            skip_children: Vec::new(),
        };
        applier.apply(vec![task]).unwrap();
        if round == 1 {
            data.sync().unwrap();
        }
        after_each(round);
    }
    last.index
}

/// The index that the engine says is applied, if the data says the same.
fn agreed(data: &impl DataEngine) -> u64 {
    let applied = applied_state(&data.snapshot(), REGION).unwrap().unwrap();
    for cf in [ColumnFamily::Default, ColumnFamily::Write] {
        let found = data.get(cf, b"index").unwrap();
        let found = found.map(|bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()));
        assert_eq!(found.unwrap_or(FIRST_POSITION.index), applied.index, "in {cf:?}");
    }
    applied.index
}

#[test]
fn bug_s1_the_applied_index_and_the_data_agree_after_any_loss_of_power() {
    let whole = MemoryData::new();
    let last = apply_rounds(&whole, |_| ());
    assert_eq!(agreed(&whole), last);
    let mut seen = std::collections::BTreeSet::new();
    for keep in 0..=whole.unsynced_writes() {
        let memory = MemoryData::new();
        apply_rounds(&memory, |_| ());
        memory.power_loss(keep);
        seen.insert(agreed(&memory));
    }
    assert!(seen.len() > ROUNDS.len() - 2, "{seen:?}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let options = raftstore::engine::rocks::Options {
        // So that everything is in one WAL file.
        write_buffer_bytes: 64 << 20,
        ..small_options()
    };
    let rocks = RocksData::open(&path, &options).unwrap();
    let mut ends = Vec::new();
    apply_rounds(&rocks, |_| ends.push(fs::metadata(wal_file(&path)).unwrap().len()));
    drop(rocks);
    let synced = ends[1];
    let seams = ends[1..].iter().flat_map(|end| [end.saturating_sub(9), *end, end + 40_000]);
    let mut seen = std::collections::BTreeSet::new();
    for length in seams.filter(|length| (synced..=ends[ends.len() - 1]).contains(length)) {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&path, copy.path());
        let file = fs::OpenOptions::new().write(true).open(wal_file(copy.path())).unwrap();
        file.set_len(length).unwrap();
        seen.insert(agreed(&RocksData::open(copy.path(), &options).unwrap()));
    }
    assert!(seen.len() > ROUNDS.len() - 2, "{seen:?}");
}
