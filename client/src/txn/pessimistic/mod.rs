//! A transaction that takes its locks as it goes, so that its commit does not fail on them.
//!
//! It reads at the timestamp at which it began, as every transaction does, and what it *locks* it
//! sees as it is now: [`get_for_update`](PessimisticTransaction::get_for_update) returns the latest
//! committed value, which nobody can change any more before this transaction ends. Writing a key
//! locks it too.
//!
//! A lock is taken at a timestamp, `for_update`. When somebody has written the key since, the store
//! says so, and the lock is asked for again at a fresh one. A key that another transaction holds is
//! waited for, mostly inside the store, which also finds out when transactions wait for each other
//! in a circle. The first key locked is the primary; it is locked before any other, because a lock
//! whose primary is not there looks abandoned.
//!
//! A request that fails or is dropped half-way may have taken locks all the same. They are released
//! in the background, and the next request locks at a later timestamp: a release that comes late
//! spares what was locked after it (`locks.rs`).

mod locks;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use proto::Timestamp;

use super::heartbeat::Heartbeat;
use super::transaction::Transaction;
use crate::error::Result;
use crate::raw::KvPair;
use crate::span::Span;

/// A pessimistic transaction that has begun. Cloning it gives another handle to the same one.
///
/// Dropping the last handle without a commit gives everything up and releases the locks, in the
/// background.
#[derive(Clone, Debug)]
pub struct PessimisticTransaction(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    txn: Transaction,
    /// One request for locks at a time: the choice of the primary comes first.
    turn: tokio::sync::Mutex<()>,
    locks: Mutex<Locks>,
}

/// A key's value when it was locked, as far as it was asked for; the inner `None` is "no value".
type Found = Option<Option<Bytes>>;

/// What is locked, keys being in the wire's form. Shared by the handles, and by requests that are
/// dropped half-way.
#[derive(Debug)]
struct Locks {
    primary: Option<Bytes>,
    for_update: Timestamp,
    /// The next request must not lock at `for_update` any more.
    is_outdated: bool,
    held: BTreeMap<Bytes, Found>,
    heartbeat: Option<Heartbeat>,
}

/// What is wanted of keys beside their locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Lock,
    Values,
    /// They must not exist.
    Absence,
}

impl PessimisticTransaction {
    pub(super) fn new(txn: Transaction) -> Self {
        let locks = Locks {
            primary: None,
            for_update: txn.start_timestamp(),
            is_outdated: false,
            held: BTreeMap::new(),
            heartbeat: None,
        };
        Self(Arc::new(Inner { txn, turn: Default::default(), locks: Mutex::new(locks) }))
    }

    /// When it began: plain reads see what was committed before.
    pub fn start_timestamp(&self) -> Timestamp {
        self.0.txn.start_timestamp()
    }

    /// The value of a key when the transaction began, own writes included.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.0.txn.get(key).await
    }

    /// As [`Transaction::batch_get`](super::Transaction::batch_get).
    pub async fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        self.0.txn.batch_get(keys).await
    }

    /// As [`Transaction::scan`](super::Transaction::scan).
    pub async fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.0.txn.scan(range, limit).await
    }

    /// As [`Transaction::scan_reverse`](super::Transaction::scan_reverse).
    pub async fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.0.txn.scan_reverse(range, limit).await
    }

    /// As [`Transaction::stream`](super::Transaction::stream).
    pub fn stream(&self, range: impl Into<Span>) -> BoxStream<'static, Result<KvPair>> {
        self.0.txn.stream(range)
    }

    /// Locks a key and returns its value as it is now, own writes included.
    pub async fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = self.0.txn.encode(key);
        let mut found = self.0.lock("get for update", vec![key.clone()], Demand::Values).await?;
        match self.0.txn.written(&key)? {
            Some(own) => Ok(own),
            None => Ok(found.remove(&key).flatten()),
        }
    }

    /// Locks keys and returns the values of those that have one as they are now, in the order of
    /// the keys, own writes included.
    pub async fn batch_get_for_update<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        let keys = keys.into_iter().map(|key| self.0.txn.encode(key)).collect();
        let mut found = self.0.lock("batch get for update", keys, Demand::Values).await?;
        for (key, value) in &mut found {
            if let Some(own) = self.0.txn.written(key)? {
                *value = own;
            }
        }
        let pairs = found.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Ok(self.0.txn.snapshot().decoded(pairs.collect()))
    }

    /// Locks keys: nobody else can write them before this transaction ends.
    pub async fn lock_keys<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        let keys = keys.into_iter().map(|key| self.0.txn.encode(key)).collect();
        self.0.lock("lock keys", keys, Demand::Lock).await.map(drop)
    }

    /// Locks a key and writes a value.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.0.lock("put", vec![self.0.txn.encode(&key)], Demand::Lock).await?;
        self.0.txn.put(key, value)
    }

    /// Locks many keys and writes their values.
    pub async fn batch_put<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let keys = pairs.iter().map(|(key, _)| self.0.txn.encode(key)).collect();
        self.0.lock("batch put", keys, Demand::Lock).await?;
        pairs.into_iter().try_for_each(|(key, value)| self.0.txn.put(key, value))
    }

    /// Locks a key and writes a value, provided that the key does not exist now: otherwise fails
    /// with [`ErrorKind::KeyExists`](crate::ErrorKind::KeyExists).
    pub async fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        let on_wire = self.0.txn.encode(&key);
        match self.0.txn.written(&on_wire)? {
            // Written by this transaction: the other `insert` knows what to say of that.
            Some(Some(_)) => return self.0.txn.insert(key, value),
            Some(None) => {}
            None => {
                self.0.lock("insert", vec![on_wire], Demand::Absence).await?;
            }
        }
        self.0.txn.put(key, value)
    }

    /// Locks a key and removes it; it need not exist.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.0.lock("delete", vec![self.0.txn.encode(&key)], Demand::Lock).await?;
        self.0.txn.delete(key)
    }

    /// How many keys are locked or will be written.
    pub fn changes(&self) -> usize {
        self.0.txn.changes()
    }

    /// Commits; returns the timestamp at which the changes are visible, or `None` if there were
    /// none. On failure the transaction has not happened, unless the error
    /// [is undetermined](crate::Error::is_undetermined).
    pub async fn commit(&self) -> Result<Option<Timestamp>> {
        let inner = &self.0;
        let call = inner.client().call("commit");
        let _turn = call.bounded(inner.turn.lock()).await?;
        let buffer = inner.txn.take_buffer()?;
        let (primary, for_update, _heartbeat) = {
            let mut locks = inner.locks.lock();
            (locks.primary.take(), locks.for_update, locks.heartbeat.take())
        };
        match primary {
            Some(primary) if buffer.writes() => {
                // From here on the commit looks after the locks: all of them are among its keys.
                inner.locks.lock().held.clear();
                inner.txn.committing(buffer).of_locked(primary, for_update).run().await
            }
            // The locks have done their duty by standing there until now.
            Some(_) | None => {
                if let Err(error) = inner.release_all().await {
                    tracing::debug!(%error, "left locks to expire");
                }
                Ok(None)
            }
        }
    }

    /// Gives the changes up and releases the locks. Returns when they are released; if that fails,
    /// they expire.
    pub async fn rollback(&self) -> Result<()> {
        self.0.txn.rollback();
        self.0.locks.lock().heartbeat = None;
        self.0.release_all().await
    }
}
