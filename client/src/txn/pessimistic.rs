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
//! spares what was locked after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{KeyRange, Timestamp, kvrpcpb};
use tokio::time::Instant;

use super::heartbeat::{self, Heartbeat};
use super::options::LockWait;
use super::transaction::Transaction;
use super::{TransactionClient, key_error};
use crate::backoff::Pause;
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::raw::KvPair;
use crate::route::Route;
use crate::span::Span;

/// How long a store is asked to let a request wait for a lock. Stores allow about a second.
const STORE_WAIT_MAX: Duration = Duration::from_secs(1);
/// A request that took this long has waited inside the store; there is no need to wait here too.
const STORE_WAITED: Duration = Duration::from_millis(100);
/// A lock that changed hands this recently is not looked into: its holder is certainly alive.
const FRESHLY_LOCKED_MS: u64 = 300;

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
    /// with [`ErrorKind::KeyExists`].
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
    /// [is undetermined](Error::is_undetermined).
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
                inner.release_all().await?;
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

impl Inner {
    fn client(&self) -> &TransactionClient {
        self.txn.snapshot().client()
    }

    /// Locks keys, and finds out about them what is wanted.
    async fn lock(
        &self,
        what: &'static str,
        mut keys: Vec<Bytes>,
        demand: Demand,
    ) -> Result<BTreeMap<Bytes, Option<Bytes>>> {
        let client = self.client();
        let timeout = match client.options.lock_wait {
            LockWait::For(wait) => client.timeout.min(wait),
            LockWait::UntilTimeout | LockWait::No => client.timeout,
        };
        let mut call = client.cluster.call_within(what, timeout);
        call.waits_for("another call of the same transaction", None);
        let _turn = call.bounded(self.turn.lock()).await?;
        self.txn.ensure_open()?;
        keys.sort();
        keys.dedup();
        let (new, missing) = {
            let locks = self.locks.lock();
            let is_new = |key: &&Bytes| !locks.held.contains_key(*key);
            let is_missing = |key: &&Bytes| match locks.held.get(*key) {
                None => true,
                Some(found) => demand != Demand::Lock && found.is_none(),
            };
            let new: Vec<_> = keys.iter().filter(is_new).cloned().collect();
            (new, keys.iter().filter(is_missing).cloned().collect::<Vec<_>>())
        };
        let taking = Taking { inner: self, keys: new };
        self.take(&mut call, missing, demand).await?;
        self.txn.locked(&keys)?;
        taking.succeeded();
        let locks = self.locks.lock();
        let value = |key: &Bytes| locks.held.get(key).cloned().flatten().flatten();
        let found: BTreeMap<_, _> =
            keys.into_iter().map(|key| (key.clone(), value(&key))).collect();
        if demand == Demand::Absence
            && let Some((key, _)) = found.iter().find(|(_, value)| value.is_some())
        {
            let key = client.codec.decode(key.clone());
            return Err(call.fail(ErrorKind::KeyExists { key }, "insert found a value"));
        }
        Ok(found)
    }

    /// Takes locks until all are there.
    async fn take(&self, call: &mut Call, mut missing: Vec<Bytes>, demand: Demand) -> Result<()> {
        let mut holder = None;
        while !missing.is_empty() {
            let round = self.round(call, missing, demand, &mut holder).await;
            missing = round.map_err(|error| match &holder {
                Some((key, holder)) if *error.kind() == ErrorKind::Timeout => {
                    let why = format!("waiting for the lock of transaction {holder}");
                    call.fail(ErrorKind::Locked { key: Bytes::clone(key), holder: *holder }, why)
                }
                Some(_) | None => error,
            })?;
        }
        Ok(())
    }

    /// Asks for locks once; returns those that are still missing. `holder` is who was in the way.
    async fn round(
        &self,
        call: &mut Call,
        missing: Vec<Bytes>,
        demand: Demand,
        holder: &mut Option<(Bytes, Timestamp)>,
    ) -> Result<Vec<Bytes>> {
        let client = self.client();
        let at = self.timestamp(call).await?;
        let wait_ms = match client.options.lock_wait {
            LockWait::No => -1,
            LockWait::UntilTimeout | LockWait::For(_) => {
                call.remaining().min(STORE_WAIT_MAX).as_millis().max(1) as i64
            }
        };
        let known_primary = self.locks.lock().primary.clone();
        let primary = known_primary.clone().unwrap_or_else(|| missing[0].clone());
        let request = |keys: &[Bytes]| self.request(keys, &primary, at, wait_ms, demand);
        let asked = Instant::now();
        let (answers, mut missing) = if known_primary.is_some() {
            (client.cluster.many(call, client.keys(), missing, request).await?, Vec::new())
        } else {
            let beside = |route: &Route| self.beside(route, &missing);
            let request = |route: &Route| request(&beside(route));
            let (route, answer) =
                client.cluster.one(call, &client.codec, &primary, request).await?;
            let (batch, rest) = {
                let batch = beside(&route);
                let rest = missing.iter().filter(|key| !batch.contains(key)).cloned().collect();
                (batch, rest)
            };
            (vec![(batch, answer)], rest)
        };
        let mut in_the_way = Vec::new();
        let mut is_outdated = false;
        for (batch, answer) in answers {
            if answer.errors.is_empty() {
                self.hold(call, batch, answer, demand, &primary)?;
                continue;
            }
            // Nothing of this batch was locked; all of it is asked for again.
            missing.extend(batch);
            for error in answer.errors {
                if was_written_since(&error) {
                    is_outdated = true;
                } else {
                    in_the_way.push(key_error::lock_of(call, &client.codec, error)?);
                }
            }
        }
        let has_waited = asked.elapsed() >= STORE_WAITED;
        if is_outdated {
            self.locks.lock().is_outdated = true;
            call.waits_for("a key that others keep writing", None);
            if !has_waited {
                call.pause(Pause::None).await?;
            }
        }
        if let Some(first) = in_the_way.first() {
            let key = client.codec.decode(first.key.clone());
            *holder = Some((key, Timestamp(first.lock_version)));
            self.wait(call, in_the_way, has_waited).await?;
        }
        Ok(missing)
    }

    /// Clears away the locks of the dead, and gives the living a little time.
    async fn wait(
        &self,
        call: &mut Call,
        mut in_the_way: Vec<kvrpcpb::LockInfo>,
        has_waited: bool,
    ) -> Result<()> {
        let client = self.client();
        let first = in_the_way[0].clone();
        let (key, holder) = (client.codec.decode(first.key), Timestamp(first.lock_version));
        let readable = proto::key::Readable(&key);
        call.waits_for(format!("the lock of transaction {holder} on {readable}"), None);
        let is_fresh = |lock: &kvrpcpb::LockInfo| {
            (1..FRESHLY_LOCKED_MS).contains(&lock.duration_to_last_update_ms)
        };
        let fresh = in_the_way.iter().any(is_fresh);
        in_the_way.retain(|lock| !is_fresh(lock));
        let cleared = client.resolver.resolve(client, call, in_the_way, None).await?;
        let lives = cleared.wait.or(fresh.then_some(Duration::ZERO));
        match (lives, client.options.lock_wait) {
            (None, _) => Ok(()),
            (Some(_), LockWait::No) => {
                let why = format!("transaction {holder} holds the lock");
                Err(call.fail(ErrorKind::Locked { key, holder }, why))
            }
            (Some(_), LockWait::UntilTimeout | LockWait::For(_)) if has_waited => Ok(()),
            (Some(lives), LockWait::UntilTimeout | LockWait::For(_)) => {
                call.pause(Pause::Lock(lives)).await
            }
        }
    }

    /// At which timestamp the next locks are taken.
    async fn timestamp(&self, call: &mut Call) -> Result<Timestamp> {
        let (at, is_outdated) = {
            let locks = self.locks.lock();
            (locks.for_update, locks.is_outdated)
        };
        if !is_outdated {
            return Ok(at);
        }
        let fresh = self.client().cluster.timestamp(call).await?;
        let mut locks = self.locks.lock();
        locks.for_update = fresh;
        locks.is_outdated = false;
        Ok(fresh)
    }

    /// Those keys that lie in the primary's region: one request takes them along. The primary is the
    /// first key.
    fn beside(&self, route: &Route, keys: &[Bytes]) -> Vec<Bytes> {
        let region = self.client().codec.wire_range(&KeyRange::of(&route.region));
        let is_beside = |key: &&Bytes| *key == &keys[0] || region.contains(key);
        keys.iter().filter(is_beside).take(super::BATCH_LEN_MAX).cloned().collect()
    }

    fn request(
        &self,
        keys: &[Bytes],
        primary: &Bytes,
        at: Timestamp,
        wait_timeout: i64,
        demand: Demand,
    ) -> kvrpcpb::PessimisticLockRequest {
        let assertion = match demand {
            Demand::Absence => kvrpcpb::Assertion::NotExist,
            Demand::Lock | Demand::Values => kvrpcpb::Assertion::None,
        };
        let mutation = |key: &Bytes| kvrpcpb::Mutation {
            op: kvrpcpb::Op::PessimisticLock as i32,
            key: key.clone(),
            assertion: assertion as i32,
            ..Default::default()
        };
        let holds_nothing = self.locks.lock().held.is_empty();
        kvrpcpb::PessimisticLockRequest {
            mutations: keys.iter().map(mutation).collect(),
            primary_lock: primary.clone(),
            start_version: self.txn.start_timestamp().0,
            lock_ttl: heartbeat::lock_ttl_ms(self.txn.began()),
            for_update_ts: at.0,
            // Who holds nothing is waited for by nobody.
            is_first_lock: holds_nothing && keys.len() == 1,
            wait_timeout,
            return_values: demand != Demand::Lock,
            min_commit_ts: at.next().0,
            wake_up_mode: kvrpcpb::PessimisticLockWakeUpMode::WakeUpModeNormal as i32,
            ..Default::default()
        }
    }

    /// These keys are locked.
    fn hold(
        &self,
        call: &Call,
        keys: Vec<Bytes>,
        answer: kvrpcpb::PessimisticLockResponse,
        demand: Demand,
        primary: &Bytes,
    ) -> Result<()> {
        let mut found = vec![None; keys.len()];
        if demand != Demand::Lock {
            if answer.values.len() != keys.len() {
                let (asked, got) = (keys.len(), answer.values.len());
                let why = format!("the store returned {got} values for {asked} locked keys");
                return Err(call.fail(ErrorKind::Rejected, why));
            }
            let is_absent = |at: usize| answer.not_founds.get(at).copied().unwrap_or(false);
            let values = answer.values.iter().cloned().enumerate();
            found = values.map(|(at, value)| Some((!is_absent(at)).then_some(value))).collect();
        }
        let mut locks = self.locks.lock();
        locks.held.extend(keys.into_iter().zip(found));
        if locks.primary.is_none() {
            let (start, began) = (self.txn.start_timestamp(), self.txn.began());
            locks.heartbeat = Some(Heartbeat::start(self.client(), start, began, primary.clone()));
            locks.primary = Some(primary.clone());
        }
        Ok(())
    }

    /// Releases everything, and waits until it is done.
    async fn release_all(&self) -> Result<()> {
        let (keys, at) = {
            let mut locks = self.locks.lock();
            locks.is_outdated = true;
            (std::mem::take(&mut locks.held), locks.for_update)
        };
        let keys = keys.into_keys().collect();
        release(self.client(), self.txn.start_timestamp(), at, keys).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let locks = self.locks.get_mut();
        let keys = std::mem::take(&mut locks.held).into_keys().collect();
        let at = locks.for_update;
        release_in_background(self.client(), self.txn.start_timestamp(), at, keys);
    }
}

/// Locks being taken. Dropped before they all are, it gives them back.
struct Taking<'a> {
    inner: &'a Inner,
    keys: Vec<Bytes>,
}

impl Taking<'_> {
    fn succeeded(mut self) {
        self.keys.clear();
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let at = {
            let mut locks = self.inner.locks.lock();
            locks.held.retain(|key, _| !self.keys.contains(key));
            if locks.primary.as_ref().is_some_and(|primary| self.keys.contains(primary)) {
                locks.primary = None;
                locks.heartbeat = None;
            }
            locks.is_outdated = true;
            locks.for_update
        };
        let start = self.inner.txn.start_timestamp();
        release_in_background(self.inner.client(), start, at, std::mem::take(&mut self.keys));
    }
}

/// Whether a lock was refused because the key has a version newer than its timestamp.
fn was_written_since(error: &kvrpcpb::KeyError) -> bool {
    use kvrpcpb::write_conflict::Reason;
    error.conflict.as_ref().is_some_and(|conflict| match conflict.reason() {
        Reason::PessimisticRetry | Reason::Unknown => true,
        Reason::Optimistic
        | Reason::SelfRolledBack
        | Reason::RcCheckTs
        | Reason::LazyUniquenessCheck
        | Reason::NotLockedKeyConflict => false,
    })
}

fn release_in_background(
    client: &TransactionClient,
    start: Timestamp,
    at: Timestamp,
    keys: Vec<Bytes>,
) {
    if keys.is_empty() {
        return;
    }
    let client = client.clone();
    client.cluster.clone().in_background(async move {
        if let Err(error) = release(&client, start, at, keys).await {
            tracing::debug!(%start, %error, "left locks to expire");
        }
    });
}

/// Releases what a transaction has locked at `at` or before.
async fn release(
    client: &TransactionClient,
    start: Timestamp,
    at: Timestamp,
    keys: Vec<Bytes>,
) -> Result<()> {
    let mut call = client.call("release locks");
    let request = |keys: &[Bytes]| kvrpcpb::PessimisticRollbackRequest {
        start_version: start.0,
        for_update_ts: at.0,
        keys: keys.to_vec(),
        ..Default::default()
    };
    let answers = client.cluster.many(&mut call, client.keys(), keys, request).await?;
    match answers.into_iter().find_map(|(_, answer)| answer.errors.into_iter().next()) {
        None => Ok(()),
        Some(error) => Err(Error::rejected(format!("{error:?}"))),
    }
}
