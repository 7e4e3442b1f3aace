//! An engine opens its own directory and no other.

use std::fs;

use raftstore::engine::rocks::{RocksData, RocksLog};
use raftstore::engine::{ColumnFamily, DataEngine, Snapshot, WriteBatch};
use raftstore::error::Fault;

use crate::small_options;

#[test]
fn an_engine_of_another_kind_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    drop(RocksData::open(directory.path(), &small_options()).unwrap());
    let fault = RocksLog::open(directory.path(), &small_options()).err().unwrap();
    assert!(matches!(fault, Fault::WrongIdentity { .. }));
    let words = fault.to_string();
    assert!(words.contains("holds a data engine; a log engine was wanted"), "{words}");
    // The attempt has done no harm.
    RocksData::open(directory.path(), &small_options()).unwrap();
}

#[test]
fn a_directory_with_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "three years of work").unwrap();
    let fault = RocksData::open(directory.path(), &small_options()).err().unwrap();
    assert!(fault.to_string().contains("thesis.tex"), "{fault}");
}

#[test]
fn a_newer_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(RocksLog::open(directory.path(), &small_options()).unwrap());
    fs::write(directory.path().join("KIND"), "tessera log 3\n").unwrap();
    let fault = RocksLog::open(directory.path(), &small_options()).err().unwrap();
    assert!(fault.to_string().contains("layout 3"), "{fault}");
}

#[test]
fn a_log_whose_mask_cannot_be_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(RocksLog::open(directory.path(), &small_options()).unwrap());
    let kind = directory.path().join("KIND");
    let line = fs::read_to_string(&kind).unwrap();
    for broken in [line.replace(' ', ""), line[..line.len() - 2].to_owned() + "\n", line + "x"] {
        fs::write(&kind, broken).unwrap();
        let fault = RocksLog::open(directory.path(), &small_options()).err().unwrap();
        assert!(fault.to_string().contains("not ours"), "{fault}");
    }
}

#[test]
fn a_start_that_stopped_while_marking_its_directory_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("KIND.new"), "tess").unwrap();
    RocksLog::open(directory.path(), &small_options()).unwrap();
}

#[test]
fn a_directory_in_use_is_refused_in_plain_words() {
    let directory = tempfile::tempdir().unwrap();
    let _first = RocksData::open(directory.path(), &small_options()).unwrap();
    let fault = RocksData::open(directory.path(), &small_options()).err().unwrap();
    assert!(fault.to_string().contains("in use by another store"), "{fault}");
}

#[test]
fn a_snapshot_and_a_cursor_outlive_their_engine() {
    let directory = tempfile::tempdir().unwrap();
    let data = RocksData::open(directory.path(), &small_options()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "a", "1");
    data.write(batch).unwrap();
    let snapshot = data.snapshot();
    let mut cursor = snapshot.cursor(ColumnFamily::Default, &proto::KeyRange::all());
    drop(data);
    drop(snapshot);
    // On another thread, too.
    let value = std::thread::spawn(move || {
        use raftstore::engine::Cursor;
        assert!(cursor.seek_to_first().unwrap());
        cursor.value().to_vec()
    });
    assert_eq!(value.join().unwrap(), b"1");
    // With the cursor gone the directory is free.
    RocksData::open(directory.path(), &small_options()).unwrap();
}
