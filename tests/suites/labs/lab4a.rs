//! Lab 4A: the layer of versions under a transaction. The course's buffer is split here into a
//! [`Reader`] over a snapshot and a [`Writer`] that gathers one batch.
//!
//! Look: `kv/src/txn/reader.rs`, `kv/src/txn/writer.rs`, `kv/src/txn/record.rs` (locks and commit records),
//! `kv/src/keys.rs` (keys as they stand in the engine).

use bytes::Bytes;
use kv::keys::{self, Key};
use kv::txn::reader::{OwnRecord, Reader};
use kv::txn::record::{Lock, LockKind, Write, WriteKind};
use kv::txn::writer::Writer;
use proto::KeyRange;
use raftstore::engine::memory::{MemoryData, MemorySnapshot};
use raftstore::engine::{Change, ColumnFamily, DataEngine, WriteBatch};

const KEY: &[u8] = &[16, 240];

fn key(bytes: &[u8]) -> Key {
    Key::new(bytes.to_vec())
}

fn only_change(writer: &Writer) -> &Change {
    let [change] = writer.batch().changes() else { panic!("one change is expected") };
    change
}

fn put(cf: ColumnFamily, key: Bytes, value: Bytes) -> Change {
    Change::Put { cf, key, value }
}

/// Records under `KEY`: start, commit, kind, value.
fn reader(records: &[(u64, u64, WriteKind, u8)]) -> Reader<MemorySnapshot> {
    let engine = MemoryData::new();
    let mut batch = WriteBatch::new();
    for (start_ts, commit_ts, kind, byte) in records {
        if *kind == WriteKind::Put {
            batch.put(ColumnFamily::Default, key(KEY).at(*start_ts), vec![*byte]);
        }
        let record = Write::new(*kind, *start_ts, None);
        batch.put(ColumnFamily::Write, key(KEY).at(*commit_ts), record.encode());
    }
    engine.write(batch).unwrap();
    Reader::new(engine.snapshot(), KeyRange::all())
}

const ONE: &[(u64, u64, WriteKind, u8)] = &[(40, 42, WriteKind::Put, 1)];
const TWO: &[(u64, u64, WriteKind, u8)] =
    &[(40, 42, WriteKind::Put, 1), (50, 52, WriteKind::Put, 2)];
const DELETED: &[(u64, u64, WriteKind, u8)] =
    &[(40, 42, WriteKind::Put, 1), (50, 52, WriteKind::Delete, 0)];

fn value_at(records: &[(u64, u64, WriteKind, u8)], bytes: &[u8], ts: u64) -> Option<u8> {
    reader(records).version(&key(bytes), ts).unwrap().map(|version| version.value[0])
}

/// A lock is put: the batch has one change, and it is that lock under its key, in the lock family.
///
/// Hint: a key has one lock at most, so its place needs no timestamp.
#[test]
fn test_put_lock_4a() {
    let lock = Lock::new(LockKind::Delete, vec![16], 100, 100_000);
    let mut writer = Writer::new();
    writer.put_lock(&key(&[1]), &lock);
    let expected = put(ColumnFamily::Lock, key(&[1]).encoded().clone(), lock.encode());
    assert_eq!(*only_change(&writer), expected);
}

/// A commit record is put: the batch has one change, that record under its key and commit timestamp.
#[test]
fn test_put_write_4a() {
    let record = Write::new(WriteKind::Delete, 100, None);
    let mut writer = Writer::new();
    writer.put_write(&key(KEY), 0, &record);
    let expected = put(ColumnFamily::Write, key(KEY).at(0), record.encode());
    assert_eq!(*only_change(&writer), expected);
}

/// A value is put: the batch has one change, that value under its key and start timestamp.
#[test]
fn test_put_value_4a() {
    let mut writer = Writer::new();
    writer.put_value(&key(&[32]), 453_325_345, "v".into());
    let expected = put(ColumnFamily::Default, key(&[32]).at(453_325_345), "v".into());
    assert_eq!(*only_change(&writer), expected);
}

/// A lock that was written is read back whole; a key without one has none.
#[test]
fn test_get_lock_4a() {
    let engine = MemoryData::new();
    let lock = Lock::new(LockKind::Delete, vec![16], 100, 100_000);
    let mut writer = Writer::new();
    writer.put_lock(&key(&[1]), &lock);
    engine.write(writer.batch().clone()).unwrap();
    let reader = Reader::new(engine.snapshot(), KeyRange::all());
    assert_eq!(reader.lock(&key(&[1])).unwrap(), Some(lock));
    assert_eq!(reader.lock(&key(&[2])).unwrap(), None);
}

/// A lock is removed: the batch has one change, a deletion in the lock family.
#[test]
fn test_delete_lock_4a() {
    let mut writer = Writer::new();
    writer.remove_lock(&key(&[1]), 42, 0);
    let expected = Change::Delete { cf: ColumnFamily::Lock, key: key(&[1]).encoded().clone() };
    assert_eq!(*only_change(&writer), expected);
}

/// A value is removed: the batch has one change, a deletion at its key and start timestamp.
#[test]
fn test_delete_value_4a() {
    let mut writer = Writer::new();
    writer.delete_value(&key(&[17, 255, 0]), 63_454_245);
    let expected =
        Change::Delete { cf: ColumnFamily::Default, key: key(&[17, 255, 0]).at(63_454_245) };
    assert_eq!(*only_change(&writer), expected);
}

/// A value committed at 42 is read at 43.
#[test]
fn test_get_value_simple_4a() {
    assert_eq!(value_at(ONE, KEY, 43), Some(1));
}

/// Another key is read: there is nothing.
///
/// Hint: the next record in the engine may be another key's.
#[test]
fn test_get_value_missing_4a() {
    assert_eq!(value_at(ONE, &[16, 241], 43), None);
}

/// The commit decides, not the start.
#[test]
fn test_get_value_too_early_4a() {
    assert_eq!(value_at(ONE, KEY, 41), None);
}

/// A value committed at 42 and another at 52: whoever reads at 52 sees the second.
///
/// Hint: a commit at the moment of the read counts.
#[test]
fn test_get_value_overwritten_4a() {
    assert_eq!(value_at(TWO, KEY, 52), Some(2));
}

/// A value committed at 42 and another at 52, which began at 50: whoever reads at 50 sees the first.
///
/// Hint: the commit decides, not the start.
#[test]
fn test_get_value_not_overwritten_4a() {
    assert_eq!(value_at(TWO, KEY, 50), Some(1));
}

/// A value committed at 42 and deleted at 52: whoever reads at 500 sees nothing.
#[test]
fn test_get_value_deleted_4a() {
    assert_eq!(value_at(DELETED, KEY, 500), None);
}

/// A value committed at 42 and deleted at 52: whoever reads at 45 sees it.
#[test]
fn test_get_value_not_deleted_4a() {
    assert_eq!(value_at(DELETED, KEY, 45), Some(1));
}

/// A transaction's own record is found behind newer ones.
#[test]
fn test_current_write_4a() {
    let own = |start_ts| reader(TWO).own_record(&key(KEY), start_ts).unwrap();
    let committed = |start_ts, commit_ts| OwnRecord::Committed {
        commit_ts,
        write: Write::new(WriteKind::Put, start_ts, None),
    };
    assert_eq!(own(50), committed(50, 52));
    assert_eq!(own(40), committed(40, 42));
    assert_eq!(own(41), OwnRecord::Unknown { overlapped: None });
}

/// The newest record of a key does not depend on who asks, and is not that of a longer key.
#[test]
fn test_most_recent_write_4a() {
    let newest =
        |records, bytes: &[u8]| reader(records).write_at_or_before(&key(bytes), u64::MAX).unwrap();
    assert_eq!(newest(&[], KEY), None);
    assert_eq!(newest(TWO, KEY), Some((52, Write::new(WriteKind::Put, 50, None))));
    assert_eq!(newest(TWO, &[16]), None);
    assert_eq!(newest(DELETED, KEY), Some((52, Write::new(WriteKind::Delete, 50, None))));
}

/// Keys as they stand in the engine: groups of eight bytes with a marker each, then the timestamp inverted, so
/// that keys keep their order and the newest version of each comes first.
#[test]
fn test_encode_key() {
    let at = |bytes: &[u8], ts: u64| key(bytes).at(ts);
    assert_eq!(
        at(&[], 0)[..],
        [0, 0, 0, 0, 0, 0, 0, 0, 247, 255, 255, 255, 255, 255, 255, 255, 255]
    );
    assert_eq!(at(&[42], 0)[..9], [42, 0, 0, 0, 0, 0, 0, 0, 248]);
    assert_eq!(at(&[42, 0, 5], 0)[..9], [42, 0, 5, 0, 0, 0, 0, 0, 250]);
    assert_eq!(at(&[42], !43_543_258_743_295)[9..], [0, 0, 39, 154, 52, 120, 65, 255]);
    assert_eq!(at(&[42, 0, 5], !98_753_868)[9..], [0, 0, 0, 0, 5, 226, 221, 76]);
    assert!(at(&[42], 238) < at(&[200], 0));
    assert!(at(&[42], 238) < at(&[42, 0], 0));
}

/// What was encoded is decoded to the same key and timestamp.
#[test]
fn test_decode_key() {
    for bytes in [&[][..], &[42], &[42, 0, 5], &[1, 2, 3, 4, 5, 6, 7, 8]] {
        let stored = key(bytes).at(7);
        let (encoded, ts) = keys::split_version(&stored).unwrap();
        assert_eq!((Key::from_encoded(encoded).unwrap(), ts), (key(bytes), 7));
    }
}
