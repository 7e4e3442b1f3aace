//! What labs 4B and 4C stand on: a store with records as the course writes them, a counter for
//! timestamps, and assertions about what a request left in the engine.
//!
//! The course keeps every value in the default family; TiKV keeps short ones in their record. So
//! values here are long: [`value`] repeats a byte until it lies where the course expects it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kv::ApiVersion;
use kv::keys::Key;
use kv::storage::local::LocalStorage;
use kv::storage::{Storage, View};
use kv::txn::record::{Lock, LockKind, Write, WriteKind};
use kv::txn::{TimestampFuture, TimestampSource, Transactions};
use proto::kvrpcpb::{
    BatchRollbackRequest, CheckTxnStatusRequest, CommitRequest, Context, GetRequest, GetResponse,
    Mutation, Op, PrewriteRequest, ResolveLockRequest, ScanRequest,
};
use proto::{KeyRange, Refusal};
use raftstore::engine::memory::MemoryData;
use raftstore::engine::{Change, ColumnFamily, Cursor, DataEngine, Snapshot, WriteBatch};

/// A value of this byte, too long for a record.
pub(super) fn value(byte: u8) -> Bytes {
    vec![byte; 300].into()
}

/// One engine whose writes are noted.
#[derive(Clone)]
pub(super) struct Watched {
    local: LocalStorage<MemoryData>,
    touched: Arc<Mutex<BTreeSet<(ColumnFamily, Bytes)>>>,
}

impl Storage for Watched {
    type Snapshot = <MemoryData as DataEngine>::Snapshot;

    async fn view(&self, context: &Context) -> Result<View<Self::Snapshot>, Refusal> {
        self.local.view(context).await
    }

    async fn write(&self, context: &Context, batch: WriteBatch) -> Result<(), Refusal> {
        for change in batch.changes() {
            if let Change::Put { cf, key, .. } | Change::Delete { cf, key } = change {
                self.touched.lock().unwrap().insert((*cf, key.clone()));
            }
        }
        self.local.write(context, batch).await
    }
}

struct NoOracle;

impl TimestampSource for NoOracle {
    fn fresh(&self) -> TimestampFuture {
        Box::pin(async { Ok(0) })
    }
}

/// A store, and the requests of the course against it.
pub(super) struct Lab {
    engine: MemoryData,
    storage: Watched,
    pub(super) transactions: Transactions<Watched>,
    /// The last timestamp handed out.
    pub(super) ts: u64,
}

impl Lab {
    pub(super) fn new() -> Self {
        let engine = MemoryData::new();
        let local = LocalStorage::new(engine.clone());
        let storage = Watched { local, touched: Arc::default() };
        let transactions = Transactions::new(storage.clone(), ApiVersion::V1, Arc::new(NoOracle));
        Self { engine, storage, transactions, ts: 99 }
    }

    fn next_ts(&mut self) -> u64 {
        self.ts += 1;
        self.ts
    }

    /// `D[key]@start`.
    pub(super) fn data(&self, key: &[u8], start_ts: u64, value: Bytes) -> &Self {
        self.put(ColumnFamily::Default, Key::new(key.to_vec()).at(start_ts), value)
    }

    /// `W[key]@commit`.
    pub(super) fn write(
        &self,
        key: &[u8],
        commit_ts: u64,
        kind: WriteKind,
        start_ts: u64,
    ) -> &Self {
        let record = match kind {
            WriteKind::Rollback => Write::rollback(start_ts, false),
            WriteKind::Put | WriteKind::Delete | WriteKind::Lock => {
                Write::new(kind, start_ts, None)
            }
        };
        self.put(ColumnFamily::Write, Key::new(key.to_vec()).at(commit_ts), record.encode())
    }

    /// A committed value: `D[key]@start`, `W[key]@commit`.
    pub(super) fn committed(&self, key: &[u8], start_ts: u64, commit_ts: u64, byte: u8) -> &Self {
        self.data(key, start_ts, value(byte)).write(key, commit_ts, WriteKind::Put, start_ts)
    }

    /// `L[key]`.
    pub(super) fn lock(&self, key: &[u8], primary: &[u8], start_ts: u64, ttl: u64) -> &Self {
        let lock = Lock::new(LockKind::Put, primary.to_vec(), start_ts, ttl);
        self.put(ColumnFamily::Lock, Key::new(key.to_vec()).encoded().clone(), lock.encode())
    }

    fn put(&self, cf: ColumnFamily, key: Bytes, value: Bytes) -> &Self {
        let mut batch = WriteBatch::new();
        batch.put(cf, key, value);
        self.engine.write(batch).unwrap();
        self
    }

    /// How many records there are in default, lock and write.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let count = |cf| {
            let mut cursor = self.engine.snapshot().cursor(cf, &KeyRange::all());
            let mut on_key = cursor.seek_to_first().unwrap();
            let mut count = 0;
            while on_key {
                count += 1;
                on_key = cursor.next().unwrap();
            }
            count
        };
        (count(ColumnFamily::Default), count(ColumnFamily::Lock), count(ColumnFamily::Write))
    }

    pub(super) fn data_at(&self, key: &[u8], start_ts: u64) -> Option<Bytes> {
        self.engine.get(ColumnFamily::Default, &Key::new(key.to_vec()).at(start_ts)).unwrap()
    }

    pub(super) fn lock_on(&self, key: &[u8]) -> Option<Lock> {
        let key = Key::new(key.to_vec());
        let bytes = self.engine.get(ColumnFamily::Lock, key.encoded()).unwrap()?;
        Some(Lock::decode(&bytes, &key).unwrap())
    }

    pub(super) fn write_at(&self, key: &[u8], commit_ts: u64) -> Option<(WriteKind, u64)> {
        let key = Key::new(key.to_vec());
        let bytes = self.engine.get(ColumnFamily::Write, &key.at(commit_ts)).unwrap()?;
        let record = Write::decode(&bytes, &key).unwrap();
        Some((record.kind, record.start_ts))
    }

    /// No request has written anything, not even the same bytes again.
    pub(super) fn assert_untouched(&self) {
        assert_eq!(*self.storage.touched.lock().unwrap(), BTreeSet::new());
    }

    /// No request has written to this key in any family.
    pub(super) fn assert_key_untouched(&self, key: &[u8]) {
        let encoded = Key::new(key.to_vec()).encoded().clone();
        let touched = self.storage.touched.lock().unwrap();
        assert!(!touched.iter().any(|(_, key)| key.starts_with(&encoded)));
    }

    pub(super) async fn get(&self, key: &[u8], ts: u64) -> GetResponse {
        let request = GetRequest { key: key.to_vec().into(), version: ts, ..Default::default() };
        let answer = self.transactions.get(request).await;
        assert_eq!(answer.region_error, None);
        answer
    }

    /// The value at a timestamp; `None` when not found.
    pub(super) async fn get_value(&self, key: &[u8], ts: u64) -> Option<Bytes> {
        let answer = self.get(key, ts).await;
        assert_eq!(answer.error, None);
        (!answer.not_found).then_some(answer.value)
    }

    pub(super) fn prewrite_request(&mut self, mutations: Vec<Mutation>) -> PrewriteRequest {
        PrewriteRequest {
            primary_lock: vec![1].into(),
            start_version: self.next_ts(),
            mutations,
            ..Default::default()
        }
    }

    pub(super) fn commit_request(&mut self, keys: &[&[u8]]) -> CommitRequest {
        let start_version = self.next_ts();
        CommitRequest {
            start_version,
            commit_version: start_version + 10,
            keys: keys.iter().map(|key| key.to_vec().into()).collect(),
            ..Default::default()
        }
    }

    pub(super) fn rollback_request(&mut self, keys: &[&[u8]]) -> BatchRollbackRequest {
        BatchRollbackRequest {
            start_version: self.next_ts(),
            keys: keys.iter().map(|key| key.to_vec().into()).collect(),
            ..Default::default()
        }
    }

    /// The course's request rolls back what does not exist; TiKV's must say so.
    pub(super) fn check_status_request(&mut self, key: &[u8]) -> CheckTxnStatusRequest {
        self.next_ts();
        CheckTxnStatusRequest {
            primary_key: key.to_vec().into(),
            lock_ts: LOCK_TS,
            current_ts: CURRENT_TS,
            rollback_if_not_exist: true,
            ..Default::default()
        }
    }

    pub(super) fn resolve_request(&self, start_ts: u64, commit_ts: u64) -> ResolveLockRequest {
        ResolveLockRequest {
            start_version: start_ts,
            commit_version: commit_ts,
            ..Default::default()
        }
    }

    /// Keys and first bytes of values from `start` on.
    pub(super) async fn scan(&mut self, start: &[u8], limit: u32, ts: u64) -> Vec<(Vec<u8>, u8)> {
        let request = ScanRequest {
            start_key: start.to_vec().into(),
            limit,
            version: ts,
            ..Default::default()
        };
        let answer = self.transactions.scan(request).await;
        assert_eq!((answer.region_error, answer.error), (None, None));
        answer
            .pairs
            .into_iter()
            .map(|pair| {
                assert_eq!(pair.error, None);
                (pair.key.to_vec(), pair.value[0])
            })
            .collect()
    }
}

/// The transaction that is asked for, and when: 4 194 304 ms apart.
pub(super) const LOCK_TS: u64 = 5 * (1 << 40) + 100;
pub(super) const CURRENT_TS: u64 = 6 * (1 << 40) + 100;

pub(super) fn put(key: &[u8], byte: u8) -> Mutation {
    Mutation {
        op: Op::Put as i32,
        key: key.to_vec().into(),
        value: value(byte),
        ..Default::default()
    }
}

pub(super) fn delete(key: &[u8]) -> Mutation {
    Mutation { op: Op::Del as i32, key: key.to_vec().into(), ..Default::default() }
}
