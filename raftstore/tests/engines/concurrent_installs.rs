//! Snapshots are installed over and over while other regions of the store are written to.
//!
//! RocksDB orders all writes by one number. Whoever adds data beside the write path (files, with writes allowed
//! meanwhile) can make a number count twice or the newest one fall, and then a transaction's lock may stand
//! beside the record of its commit. A snapshot is therefore one ordinary batch.

use std::sync::atomic::{AtomicBool, Ordering};

use proto::{KeyRange, PeerId, RegionId, metapb, region};
use raftstore::driver::{Background, SnapshotStorage};
use raftstore::engine::rocks::RocksData;
use raftstore::engine::snapshot_file::{SnapshotWriter, write_bytes};
use raftstore::engine::{ColumnFamily, DataEngine, Snapshot as _, WriteBatch};
use raftstore::msg::{BackgroundTask, SnapshotSource, StoreMsg};
use raftstore::storage::group_log::Position;
use raftstore::storage::{put_applied, put_region};

use crate::{pairs, small_options};

const INSTALLS: u64 = 60;
const KEYS: u64 = 40;

/// A region of some keys that transactions of this store never touch.
fn region() -> metapb::Region {
    metapb::Region {
        id: 7,
        start_key: "s".into(),
        end_key: "t".into(),
        region_epoch: Some(region::FIRST_EPOCH),
        peers: vec![metapb::Peer { id: 8, store_id: 1, ..Default::default() }],
        ..Default::default()
    }
}

/// The region's data at this index: every key says the index, in two families.
fn write_region(data: &impl DataEngine, at: Position) {
    let mut batch = WriteBatch::new();
    for key in 0..KEYS {
        let value = vec![at.index as u8; 1000];
        batch.put(ColumnFamily::Default, format!("s{key:03}"), value.clone());
        batch.put(ColumnFamily::Write, format!("s{key:03}"), value);
    }
    put_region(&mut batch, &region());
    put_applied(&mut batch, RegionId(7), at);
    data.write(batch).unwrap();
}

/// Locks a key and commits it, time after time.
fn commit_on_and_on(data: &RocksData, writer: u8, is_over: &AtomicBool) -> u64 {
    let mut rounds = 0u64;
    while !is_over.load(Ordering::Relaxed) {
        let key = vec![b'a' + writer, (rounds % KEYS) as u8];
        let stamp = rounds.to_be_bytes().to_vec();
        let mut lock = WriteBatch::new();
        lock.put(ColumnFamily::Lock, key.clone(), stamp.clone());
        data.write(lock).unwrap();
        let mut commit = WriteBatch::new();
        commit.delete(ColumnFamily::Lock, key.clone());
        commit.put(ColumnFamily::Write, key, stamp);
        data.write(commit).unwrap();
        rounds += 1;
    }
    rounds
}

/// In one view no lock stands beside the record of its own commit, or of a later one.
fn look(data: &RocksData) {
    let view = data.snapshot();
    let range = KeyRange::from_wire("a", "s");
    for (key, locked) in pairs(&view, ColumnFamily::Lock, &range) {
        let committed = view.get(ColumnFamily::Write, &key).unwrap();
        assert!(committed.is_none_or(|committed| committed < locked), "{key:?}");
    }
    let mut values = pairs(&view, ColumnFamily::Default, &KeyRange::from_wire("s", "t"));
    values.extend(pairs(&view, ColumnFamily::Write, &KeyRange::from_wire("s", "t")));
    values.dedup_by(|(_, a), (_, b)| a == b);
    assert!(values.len() <= 1, "a snapshot is there in part");
}

#[test]
fn bug_g11_an_installation_among_writes_turns_back_the_order_of_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let data = RocksData::open(directory.path(), &small_options()).unwrap();
    let source = raftstore::engine::memory::MemoryData::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (data, is_over) = (&data, &is_over);
                scope.spawn(move || commit_on_and_on(data, writer, is_over))
            })
            .collect();
        let mut background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
        let mut newest = data.newest_change();
        for index in 1..=INSTALLS {
            let at = Position { index, term: 5 };
            write_region(&source, at);
            let name = [7, index, 5].map(u64::to_be_bytes).concat();
            let range = KeyRange::of(&region());
            let mut stream = SnapshotWriter::new(source.snapshot(), range, name);
            let answer = background.perform(BackgroundTask::InstallSnapshot {
                region: region(),
                peer_id: PeerId(8),
                index,
                term: 5,
                source: SnapshotSource::Bytes(write_bytes(&mut stream).unwrap()),
            });
            assert!(matches!(answer, Ok(Some(StoreMsg::SnapshotInstalled { ok: true, .. }))));
            for _ in 0..4 {
                look(&data);
                let now = data.newest_change();
                assert!(now >= newest, "{now} after {newest}");
                newest = now;
            }
            let found = data.get(ColumnFamily::Default, b"s000").unwrap().unwrap();
            assert_eq!(found[0], index as u8, "nothing older shines through");
        }
        is_over.store(true, Ordering::Relaxed);
        for writer in writers {
            assert!(writer.join().unwrap() > 0, "it wrote meanwhile");
        }
    });
    look(&data);
}
