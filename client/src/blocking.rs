//! The same client for programs without an async runtime: every call blocks its thread.
//!
//! A [`Client`] of this module brings a runtime of its own, on one thread beside the callers', and
//! hands every call to it. It must not be used inside of an async runtime: a call there would block
//! what it waits for, and tokio panics rather than let it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::raw::{Checksum, KvPair, Swap, Ttl};
use crate::span::Span;
use crate::txn::{At, TransactionOptions, Versions};
use proto::Timestamp;

/// A connection to a cluster. Cheap to clone. See [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Connects through any members of the scheduler. See [`crate::Client::connect`].
    pub fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self> {
        Self::connect_with(endpoints, Config::default())
    }

    /// Connects with settings of one's own. See [`crate::Client::connect_with`].
    pub fn connect_with<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        config: Config,
    ) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tessera-client")
            .enable_all()
            .build()
            .map_err(|error| Error::mistake(format!("start the client's runtime: {error}")))?;
        let client = runtime.block_on(crate::Client::connect_with(endpoints, config))?;
        Ok(Self { client, runtime: Arc::new(runtime) })
    }

    /// Keys and values without transactions.
    pub fn raw(&self) -> RawClient {
        RawClient { raw: self.client.raw(), runtime: self.runtime.clone() }
    }

    /// Transactions.
    pub fn transactions(&self) -> TransactionClient {
        let client = self.client.transactions();
        TransactionClient { client, runtime: self.runtime.clone() }
    }

    /// The client that does the work, for what this module leaves out.
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// Runs something of the async client to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A timestamp later than every one given out before.
    pub fn timestamp(&self) -> Result<Timestamp> {
        self.runtime.block_on(self.client.timestamp())
    }

    /// See [`crate::Client::settled`].
    pub fn settled(&self, within: Duration) -> Result<()> {
        self.runtime.block_on(self.client.settled(within))
    }
}

/// Pairs of a range, fetched page by page as they are taken.
pub struct Pairs {
    stream: BoxStream<'static, Result<KvPair>>,
    runtime: Arc<Runtime>,
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").finish_non_exhaustive()
    }
}

impl Iterator for Pairs {
    type Item = Result<KvPair>;

    fn next(&mut self) -> Option<Result<KvPair>> {
        self.runtime.block_on(self.stream.next())
    }
}

/// Keys and values without transactions. See [`crate::RawClient`].
#[derive(Clone, Debug)]
pub struct RawClient {
    raw: crate::RawClient,
    runtime: Arc<Runtime>,
}

impl RawClient {
    /// See [`crate::RawClient::with_timeout`].
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { raw: self.raw.with_timeout(timeout), runtime: self.runtime.clone() }
    }

    /// See [`crate::RawClient::strict`].
    pub fn strict(&self) -> Self {
        Self { raw: self.raw.strict(), runtime: self.runtime.clone() }
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.raw.get(key))
    }

    /// See [`crate::RawClient::batch_get`].
    pub fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.raw.batch_get(keys))
    }

    /// Writes a value.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.runtime.block_on(self.raw.put(key, value))
    }

    /// See [`crate::RawClient::put_with_ttl`].
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<()> {
        self.runtime.block_on(self.raw.put_with_ttl(key, value, ttl))
    }

    /// See [`crate::RawClient::batch_put`].
    pub fn batch_put<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.runtime.block_on(self.raw.batch_put(pairs))
    }

    /// How long the value of a key still lives.
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl> {
        self.runtime.block_on(self.raw.ttl(key))
    }

    /// Removes a key; it need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.runtime.block_on(self.raw.delete(key))
    }

    /// Removes many keys.
    pub fn batch_delete<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.runtime.block_on(self.raw.batch_delete(keys))
    }

    /// Removes every key of a range, region by region.
    pub fn delete_range(&self, range: impl Into<Span>) -> Result<()> {
        self.runtime.block_on(self.raw.delete_range(range))
    }

    /// The first `limit` pairs of a range, in ascending order.
    pub fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.raw.scan(range, limit))
    }

    /// The last `limit` pairs of a range, in descending order.
    pub fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.raw.scan_reverse(range, limit))
    }

    /// All pairs of a range, in ascending order.
    pub fn iter(&self, range: impl Into<Span>) -> Pairs {
        Pairs { stream: self.raw.stream(range), runtime: self.runtime.clone() }
    }

    /// See [`crate::RawClient::compare_and_swap`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl Into<Bytes>>,
        new: impl Into<Bytes>,
    ) -> Result<Swap> {
        self.runtime.block_on(self.raw.compare_and_swap(key, expected, new))
    }

    /// What a range adds up to.
    pub fn checksum(&self, range: impl Into<Span>) -> Result<Checksum> {
        self.runtime.block_on(self.raw.checksum(range))
    }
}

/// Begins transactions and snapshots. See [`crate::TransactionClient`].
#[derive(Clone, Debug)]
pub struct TransactionClient {
    client: crate::TransactionClient,
    runtime: Arc<Runtime>,
}

impl TransactionClient {
    /// See [`crate::TransactionClient::with_timeout`].
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { client: self.client.with_timeout(timeout), runtime: self.runtime.clone() }
    }

    /// See [`crate::TransactionClient::with_options`].
    pub fn with_options(&self, options: TransactionOptions) -> Self {
        Self { client: self.client.with_options(options), runtime: self.runtime.clone() }
    }

    /// Begins a transaction: it sees what was committed before now.
    pub fn begin(&self) -> Result<Transaction> {
        let txn = self.runtime.block_on(self.client.begin())?;
        Ok(Transaction { txn, runtime: self.runtime.clone() })
    }

    /// Begins a transaction that locks what it writes, and what it reads for update, right away.
    pub fn begin_pessimistic(&self) -> Result<PessimisticTransaction> {
        let txn = self.runtime.block_on(self.client.begin_pessimistic())?;
        Ok(PessimisticTransaction { txn, runtime: self.runtime.clone() })
    }

    /// See [`crate::TransactionClient::run`]. The closure's thread is the caller's.
    pub fn run<T>(&self, mut body: impl FnMut(&Transaction) -> Result<T>) -> Result<T> {
        let runtime = &self.runtime;
        let run = self.client.run(|txn| {
            let txn = Transaction { txn, runtime: runtime.clone() };
            // The caller's thread drives this future and nothing else; others are elsewhere.
            let outcome = tokio::task::block_in_place(|| body(&txn));
            std::future::ready(outcome)
        });
        self.runtime.block_on(run)
    }

    /// See [`crate::TransactionClient::run_pessimistic`].
    pub fn run_pessimistic<T>(
        &self,
        mut body: impl FnMut(&PessimisticTransaction) -> Result<T>,
    ) -> Result<T> {
        let runtime = &self.runtime;
        let run = self.client.run_pessimistic(|txn| {
            let txn = PessimisticTransaction { txn, runtime: runtime.clone() };
            let outcome = tokio::task::block_in_place(|| body(&txn));
            std::future::ready(outcome)
        });
        self.runtime.block_on(run)
    }

    /// What was committed at a moment.
    pub fn snapshot(&self, at: At) -> Result<Snapshot> {
        let snapshot = self.runtime.block_on(self.client.snapshot_as_of(at))?;
        Ok(Snapshot { snapshot, runtime: self.runtime.clone() })
    }

    /// Everything the leader of a key's region keeps about the key.
    pub fn versions(&self, key: impl AsRef<[u8]>) -> Result<Versions> {
        self.runtime.block_on(self.client.versions(key))
    }
}

/// What was committed at a timestamp. See [`crate::Snapshot`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    snapshot: crate::Snapshot,
    runtime: Arc<Runtime>,
}

impl Snapshot {
    /// The timestamp.
    pub fn timestamp(&self) -> Timestamp {
        self.snapshot.timestamp()
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.snapshot.get(key))
    }

    /// See [`crate::Snapshot::batch_get`].
    pub fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.snapshot.batch_get(keys))
    }

    /// The first `limit` pairs of a range, in ascending order.
    pub fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.snapshot.scan(range, limit))
    }

    /// The last `limit` pairs of a range, in descending order.
    pub fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.snapshot.scan_reverse(range, limit))
    }

    /// All pairs of a range, in ascending order.
    pub fn iter(&self, range: impl Into<Span>) -> Pairs {
        Pairs { stream: self.snapshot.stream(range), runtime: self.runtime.clone() }
    }
}

/// A transaction that has begun. See [`crate::Transaction`].
#[derive(Clone, Debug)]
pub struct Transaction {
    txn: crate::Transaction,
    runtime: Arc<Runtime>,
}

impl Transaction {
    /// When it began: it sees what was committed before.
    pub fn start_timestamp(&self) -> Timestamp {
        self.txn.start_timestamp()
    }

    /// The value of a key, own writes included.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.txn.get(key))
    }

    /// See [`crate::Transaction::batch_get`].
    pub fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.txn.batch_get(keys))
    }

    /// The first `limit` pairs of a range, own writes included.
    pub fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.runtime.block_on(self.txn.scan(range, limit))
    }

    /// Writes a value.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.txn.put(key, value)
    }

    /// See [`crate::Transaction::insert`].
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.txn.insert(key, value)
    }

    /// Removes a key; it need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.txn.delete(key)
    }

    /// See [`crate::Transaction::lock`].
    pub fn lock(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.txn.lock(key)
    }

    /// See [`crate::Transaction::commit`].
    pub fn commit(&self) -> Result<Option<Timestamp>> {
        self.runtime.block_on(self.txn.commit())
    }

    /// Gives the changes up.
    pub fn rollback(&self) {
        self.txn.rollback();
    }
}

/// A pessimistic transaction that has begun. See [`crate::PessimisticTransaction`].
#[derive(Clone, Debug)]
pub struct PessimisticTransaction {
    txn: crate::PessimisticTransaction,
    runtime: Arc<Runtime>,
}

impl PessimisticTransaction {
    /// When it began: plain reads see what was committed before.
    pub fn start_timestamp(&self) -> Timestamp {
        self.txn.start_timestamp()
    }

    /// The value of a key when the transaction began, own writes included.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.txn.get(key))
    }

    /// Locks a key and returns its value as it is now, own writes included.
    pub fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.txn.get_for_update(key))
    }

    /// See [`crate::PessimisticTransaction::lock_keys`].
    pub fn lock_keys<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.runtime.block_on(self.txn.lock_keys(keys))
    }

    /// Locks a key and writes a value.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.runtime.block_on(self.txn.put(key, value))
    }

    /// See [`crate::PessimisticTransaction::insert`].
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.runtime.block_on(self.txn.insert(key, value))
    }

    /// Locks a key and removes it; it need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.runtime.block_on(self.txn.delete(key))
    }

    /// See [`crate::PessimisticTransaction::commit`].
    pub fn commit(&self) -> Result<Option<Timestamp>> {
        self.runtime.block_on(self.txn.commit())
    }

    /// Gives the changes up and releases the locks.
    pub fn rollback(&self) -> Result<()> {
        self.runtime.block_on(self.txn.rollback())
    }
}
