//! Lab 1: a standalone key-value store. One engine on disk, raw commands over it, no network.
//!
//! Look: `kv/src/raw/mod.rs` (the commands), `kv/src/storage/local.rs` (a store without replication),
//! `raftstore/src/engine/mod.rs` (the engine and its families).

use bytes::Bytes;
use kv::ApiVersion;
use kv::raw::Raw;
use kv::storage::Storage;
use kv::storage::local::LocalStorage;
use proto::KeyRange;
use proto::kvrpcpb::{
    Context, KvPair, RawDeleteRequest, RawGetRequest, RawGetResponse, RawPutRequest, RawScanRequest,
};
use raftstore::engine::rocks::{Options, RocksData};
use raftstore::engine::{ColumnFamily, Cursor, DataEngine, Snapshot, WriteBatch};
use tempfile::TempDir;

/// A store of its own for each test; its directory goes with it.
struct Standalone {
    engine: RocksData,
    storage: LocalStorage<RocksData>,
    raw: Raw<LocalStorage<RocksData>>,
    _directory: TempDir,
}

impl Standalone {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = RocksData::open(&directory.path().join("data"), &Options::default()).unwrap();
        let storage = LocalStorage::new(engine.clone());
        let raw = Raw::new(storage.clone(), ApiVersion::V1);
        Self { engine, storage, raw, _directory: directory }
    }

    /// Writes below the raw commands.
    async fn set(&self, key: u8, value: impl Into<Bytes>) {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, vec![key], value);
        self.storage.write(&Context::default(), batch).await.unwrap();
    }

    /// Reads below the raw commands.
    async fn read(&self, key: u8) -> Option<Bytes> {
        let view = self.storage.view(&Context::default()).await.unwrap();
        view.snapshot.get(ColumnFamily::Default, &[key]).unwrap()
    }

    async fn raw_get(&self, key: u8, cf: &str) -> RawGetResponse {
        let request = RawGetRequest { key: vec![key].into(), cf: cf.into(), ..Default::default() };
        let answer = self.raw.get(request).await;
        assert_eq!((&answer.region_error, answer.error.as_str()), (&None, ""));
        answer
    }

    async fn raw_put(&self, key: u8, value: impl Into<Bytes>, cf: &str) {
        let request = RawPutRequest {
            key: vec![key].into(),
            value: value.into(),
            cf: cf.into(),
            ..Default::default()
        };
        assert_eq!(self.raw.put(request).await.error, "");
    }

    async fn raw_delete(&self, key: u8) {
        let request = RawDeleteRequest { key: vec![key].into(), ..Default::default() };
        assert_eq!(self.raw.delete(request).await.error, "");
    }

    async fn raw_scan(&self, start: u8, limit: u32) -> Vec<KvPair> {
        let request = RawScanRequest { start_key: vec![start].into(), limit, ..Default::default() };
        self.raw.scan(request).await.kvs
    }
}

fn value(number: u8) -> Vec<u8> {
    vec![233, number]
}

fn assert_pairs(pairs: &[KvPair], numbers: &[u8]) {
    let found: Vec<_> = pairs.iter().map(|pair| (pair.key.to_vec(), pair.value.to_vec())).collect();
    let expected: Vec<_> = numbers.iter().map(|n| (vec![*n], value(*n))).collect();
    assert_eq!(found, expected);
}

/// A key that was written below the commands is read by one: it has that value.
#[tokio::test]
async fn test_raw_get_1() {
    let store = Standalone::new();
    store.set(99, vec![42]).await;
    assert_eq!(store.raw_get(99, "default").await.value[..], [42]);
}

/// A key that is not there is read: the answer says so in a field of its own, and is no error.
#[tokio::test]
async fn test_raw_get_not_found_1() {
    let store = Standalone::new();
    assert!(store.raw_get(99, "default").await.not_found);
}

/// A key is put by a command: the engine has it.
#[tokio::test]
async fn test_raw_put_1() {
    let store = Standalone::new();
    store.raw_put(99, vec![42], "default").await;
    assert_eq!(store.read(99).await.unwrap()[..], [42]);
}

/// Families are name spaces of their own for the same key.
#[tokio::test]
async fn test_raw_get_after_raw_put_1() {
    let store = Standalone::new();
    store.raw_put(99, vec![42], "default").await;
    store.raw_put(99, vec![44], "write").await;
    assert_eq!(store.raw_get(99, "default").await.value[..], [42]);
    assert_eq!(store.raw_get(99, "write").await.value[..], [44]);
    assert!(store.raw_get(99, "lock").await.not_found);
}

/// A key is deleted: whoever reads it hears that it is not there.
#[tokio::test]
async fn test_raw_get_after_raw_delete_1() {
    let store = Standalone::new();
    store.set(99, vec![42]).await;
    store.raw_delete(99).await;
    assert!(store.raw_get(99, "default").await.not_found);
}

/// For a reader absence is no error. Deleting what is not there is none either.
#[tokio::test]
async fn test_raw_delete_1() {
    let store = Standalone::new();
    store.set(99, vec![42]).await;
    store.raw_delete(99).await;
    assert_eq!(store.read(99).await, None);
    store.raw_delete(99).await;
}

/// Five keys, a scan from the first with a limit of three: the first three, in order.
///
/// Hint: the limit counts what is returned.
#[tokio::test]
async fn test_raw_scan_1() {
    let store = Standalone::new();
    for number in 1..=5 {
        store.set(number, value(number)).await;
    }
    assert_pairs(&store.raw_scan(1, 3).await, &[1, 2, 3]);
}

/// Four keys and a fifth that was put by a command: a scan returns all five in order.
#[tokio::test]
async fn test_raw_scan_after_raw_put_1() {
    let store = Standalone::new();
    for number in 1..=4 {
        store.set(number, value(number)).await;
    }
    store.raw_put(5, value(5), "default").await;
    assert_pairs(&store.raw_scan(1, 10).await, &[1, 2, 3, 4, 5]);
}

/// Four keys of which one is deleted: a scan returns the other three, in order.
#[tokio::test]
async fn test_raw_scan_after_raw_delete_1() {
    let store = Standalone::new();
    for number in 1..=4 {
        store.set(number, value(number)).await;
    }
    store.raw_delete(3).await;
    assert_pairs(&store.raw_scan(1, 10).await, &[1, 2, 4]);
}

/// A cursor sees the engine as it was. (The course's test passes when the cursor sees nothing at
/// all; this one counts.)
#[tokio::test]
async fn test_iter_with_raw_delete_1() {
    let store = Standalone::new();
    for number in 1..=4 {
        store.set(number, value(number)).await;
    }
    let mut cursor = store.engine.snapshot().cursor(ColumnFamily::Default, &KeyRange::all());
    store.raw_delete(3).await;
    let mut seen = Vec::new();
    let mut on_key = cursor.seek_to_first().unwrap();
    while on_key {
        seen.push((cursor.key().to_vec(), cursor.value().to_vec()));
        on_key = cursor.next().unwrap();
    }
    let expected: Vec<_> = (1..=4).map(|number| (vec![number], value(number))).collect();
    assert_eq!(seen, expected);
}

/// Beyond the course: no limit is no pair, families do not mix, an empty key is a key.
#[tokio::test]
async fn scans_at_their_edges() {
    let store = Standalone::new();
    store.raw_put(1, value(1), "default").await;
    store.raw_put(2, value(2), "write").await;
    assert_pairs(&store.raw_scan(1, 0).await, &[]);
    assert_pairs(&store.raw_scan(1, 10).await, &[1]);
    let empty = RawPutRequest { value: "here".into(), ..Default::default() };
    assert_eq!(store.raw.put(empty).await.error, "");
    assert_eq!(store.raw.get(RawGetRequest::default()).await.value, "here");
}
