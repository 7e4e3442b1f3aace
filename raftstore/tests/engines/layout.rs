//! What lies where on the disk, byte for byte, read without the engines.

use bytes::Bytes;
use proto::{RegionId, eraftpb};
use raftstore::engine::rocks::{RocksData, RocksLog};
use raftstore::engine::{
    ColumnFamily, DataEngine, GroupWrite, LogBatch, LogEngine, LogState, WriteBatch,
};
use raftstore::storage::keys::MetaKey;
use rocksdb::{DB, IteratorMode, Options};

use crate::small_options;

/// S0.40: the logs have an engine of their own, with states before entries, each by group and index.
#[test]
fn logs_have_an_engine_of_their_own_with_states_and_entries_apart() {
    let directory = tempfile::tempdir().unwrap();
    let log = RocksLog::open(directory.path(), &small_options()).unwrap();
    let entry = |index| eraftpb::Entry { index, term: 5, ..Default::default() };
    let write = |first: u64| GroupWrite {
        entries: vec![entry(first), entry(first + 1)],
        state: Some(LogState { last_index: first + 1, ..LogState::default() }),
        ..GroupWrite::default()
    };
    let groups = vec![(RegionId(258), write(6)), (RegionId(1), write(255))];
    log.write(LogBatch { groups }).unwrap();
    drop(log);
    let db = DB::open_for_read_only(&Options::default(), directory.path(), false).unwrap();
    let found: Vec<Vec<u8>> =
        db.iterator(IteratorMode::Start).map(|pair| pair.unwrap().0.into_vec()).collect();
    let key = |tag: u8, numbers: &[u64]| {
        let mut bytes = vec![tag];
        numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes
    };
    let wanted = [
        key(b'e', &[1, 255]),
        key(b'e', &[1, 256]),
        key(b'e', &[258, 6]),
        key(b'e', &[258, 7]),
        key(b's', &[1]),
        key(b's', &[258]),
    ];
    assert_eq!(found, wanted);
}

/// S0.40: users' keys stand as they are in families of their own, what a store knows of itself in another; so
/// neither can be taken for the other.
#[test]
fn users_keys_stand_as_they_are_apart_from_what_a_store_knows_of_itself() {
    let directory = tempfile::tempdir().unwrap();
    let data = RocksData::open(directory.path(), &small_options()).unwrap();
    let own = MetaKey::Region(RegionId(258)).encode();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Meta, own.clone(), "described");
    for family in ColumnFamily::DATA {
        batch.put(family, own.clone(), "a user's, of the same bytes");
        batch.put(family, "k", "v");
    }
    data.write(batch).unwrap();
    drop(data);
    let names = ["default", "lock", "write", "raft"];
    let options = Options::default();
    let db = DB::open_cf_for_read_only(&options, directory.path(), names, false).unwrap();
    let found = |name: &str| -> Vec<(Bytes, Bytes)> {
        let family = db.cf_handle(name).unwrap();
        let pairs = db.iterator_cf(family, IteratorMode::Start).map(|pair| pair.unwrap());
        pairs.map(|(key, value)| (key.into_vec().into(), value.into_vec().into())).collect()
    };
    let own_bytes: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 1, 2, 1];
    assert_eq!(own, own_bytes);
    for name in ["default", "lock", "write"] {
        let users = [(own.clone(), "a user's, of the same bytes".into()), ("k".into(), "v".into())];
        assert_eq!(found(name), users, "{name}");
    }
    assert_eq!(found("raft"), [(own, "described".into())]);
}
