//! The data engine loses a suffix of its unsynced writes at most, and nothing that was synced.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proto::KeyRange;
use raftstore::engine::memory::MemoryData;
use raftstore::engine::rocks::RocksData;
use raftstore::engine::{ColumnFamily, DataEngine, WriteBatch};
use raftstore::error::Fault;

use crate::{copy_directory, pairs, small_options, wal_file};

const SYNCED: usize = 6;
const UNSYNCED: usize = 12;

fn batch(number: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let value = Bytes::from(vec![number as u8; (number * 53) % 200]);
    for cf in ColumnFamily::ALL {
        batch.put(cf, format!("k{number:02}"), value.clone());
    }
    if number % 4 == 3 {
        batch.delete(ColumnFamily::Write, format!("k{:02}", number - 1));
        let range = KeyRange::from_wire("", format!("k{:02}", number / 2));
        batch.delete_range(ColumnFamily::Default, range);
    }
    batch
}

fn content(data: &impl DataEngine) -> Vec<Vec<(Bytes, Bytes)>> {
    let snapshot = data.snapshot();
    ColumnFamily::ALL.map(|cf| pairs(&snapshot, cf, &KeyRange::all())).to_vec()
}

/// What memory holds after a loss of power that keeps so many unsynced writes.
fn after_power_loss(keep: usize) -> Vec<Vec<(Bytes, Bytes)>> {
    let memory = MemoryData::new();
    for number in 0..SYNCED + UNSYNCED {
        memory.write(batch(number)).unwrap();
        if number + 1 == SYNCED {
            memory.sync().unwrap();
        }
    }
    memory.power_loss(keep);
    content(&memory)
}

#[test]
fn rocksdb_after_power_loss_is_in_a_state_that_memory_can_be_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let options = small_options();
    let rocks = RocksData::open(&path, &options).unwrap();
    for number in 0..SYNCED {
        rocks.write(batch(number)).unwrap();
    }
    rocks.sync().unwrap();
    let synced_length = fs::metadata(wal_file(&path)).unwrap().len();
    let mut ends = vec![synced_length];
    for number in SYNCED..SYNCED + UNSYNCED {
        rocks.write(batch(number)).unwrap();
        ends.push(fs::metadata(wal_file(&path)).unwrap().len());
    }
    drop(rocks);

    let open = |change: &dyn Fn(&Path)| {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&path, copy.path());
        change(copy.path());
        RocksData::open(copy.path(), &options).map(|data| content(&data))
    };
    let cut = |path: &Path, length: u64| {
        fs::OpenOptions::new().write(true).open(wal_file(path)).unwrap().set_len(length).unwrap();
    };
    let whole = *ends.last().unwrap();
    for length in (synced_length..=whole).step_by(97).chain(ends.iter().copied()) {
        let kept = ends.iter().rposition(|end| *end <= length).unwrap();
        let found = open(&|path: &Path| cut(path, length)).unwrap();
        assert_eq!(found, after_power_loss(kept), "cut at {length}, {kept} writes whole");
    }
    // Pages of a file may reach the disk in any order: a hole ends what is left.
    let hole = ends[UNSYNCED / 2];
    let found = open(&|path: &Path| {
        let wal = wal_file(path);
        let mut bytes = fs::read(&wal).unwrap();
        bytes[hole as usize..ends[UNSYNCED / 2 + 2] as usize].fill(0);
        fs::write(&wal, bytes).unwrap();
    });
    // RocksDB may stop before the hole or refuse; it must not go on behind it.
    match found {
        Ok(found) => assert_eq!(found, after_power_loss(UNSYNCED / 2)),
        Err(fault) => assert!(matches!(fault, Fault::Corrupt { .. }), "{fault}"),
    }
    // Inside of what was synced, going back would be silent loss.
    for length in (0..synced_length).step_by(131) {
        let fault = open(&|path: &Path| cut(path, length)).unwrap_err();
        assert!(matches!(fault, Fault::Corrupt { .. }), "cut at {length}: {fault}");
    }
}

#[test]
fn the_data_engine_keeps_unsynced_writes_over_a_crash_of_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let options = small_options();
    let rocks = RocksData::open(directory.path(), &options).unwrap();
    for number in 0..SYNCED + UNSYNCED {
        rocks.write(batch(number)).unwrap();
    }
    // A killed process writes nothing more, and its pages stay with the kernel: what its files
    // hold now is what the next process finds.
    let copy = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), copy.path());
    let found = content(&RocksData::open(copy.path(), &options).unwrap());
    assert_eq!(found, after_power_loss(UNSYNCED));
}
