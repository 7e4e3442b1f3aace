//! A transaction: a snapshot to read from, and changes kept back until the commit.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{KeyRange, Timestamp};
use tokio::time::Instant;

use super::buffer::Buffer;
use super::commit::Commit;
use super::snapshot::Snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::raw::KvPair;
use crate::scan::{Order, PAGE_LEN_MAX};
use crate::span::Span;

/// How much one transaction may write, keys and values. A write beyond it is refused: everything is
/// held in memory, here and by every store until the commit.
const TRANSACTION_BYTES_MAX: usize = 256 << 20;

/// A transaction that has begun. Cloning it gives another handle to the same one.
///
/// Nothing leaves the client before [`commit`](Self::commit), so a transaction that is dropped has
/// simply not happened.
#[derive(Clone, Debug)]
pub struct Transaction(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: Snapshot,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(Buffer),
    /// What became of it, to tell those who go on using it.
    Finished(&'static str),
}

impl Transaction {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let state = Mutex::new(State::Open(Buffer::default()));
        Self(Arc::new(Inner { snapshot, began: Instant::now(), state }))
    }

    /// When it began: it sees what was committed before.
    pub fn start_timestamp(&self) -> Timestamp {
        self.0.snapshot.timestamp()
    }

    /// The value of a key, own writes included.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = self.encode(key);
        if let Some(own) = self.with(|buffer| Ok(buffer.get(&key)))? {
            return Ok(own);
        }
        self.0.snapshot.read_one(key).await
    }

    /// The values of those keys that have one, in the order of the keys, own writes included.
    pub async fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        let keys: Vec<_> = keys.into_iter().map(|key| self.encode(key)).collect();
        let mut pairs = Vec::new();
        let mut others = Vec::new();
        self.with(|buffer| {
            for key in keys {
                match buffer.get(&key) {
                    Some(Some(value)) => pairs.push((key, value)),
                    Some(None) => {}
                    None => others.push(key),
                }
            }
            Ok(())
        })?;
        pairs.extend(self.0.snapshot.read_many(others).await?);
        pairs.sort();
        Ok(self.0.snapshot.decoded(pairs))
    }

    /// The first `limit` pairs of a range, in ascending order, own writes included.
    pub async fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(range.into(), limit, Order::Forward).await
    }

    /// The last `limit` pairs of a range, in descending order, own writes included.
    pub async fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(range.into(), limit, Order::Reverse).await
    }

    async fn scan_all(&self, range: Span, limit: usize, order: Order) -> Result<Vec<KvPair>> {
        let snapshot = &self.0.snapshot;
        let client = snapshot.client();
        let mut call = client.call("scan");
        let mut seen: Vec<KvPair> = Vec::new();
        let mut rest = Some(client.codec.encode_range(&range.0));
        while let Some(range) = rest.take()
            && seen.len() < limit
        {
            let wanted = (limit - seen.len()).min(PAGE_LEN_MAX);
            let page = snapshot.page(&mut call, &range, wanted, order, false).await?;
            let covered = covered(&range, page.rest.as_ref(), order);
            seen.extend(self.with(|buffer| Ok(buffer.overlay(&covered, page.pairs, order)))?);
            rest = page.rest;
        }
        // Own writes may fill a page beyond what was asked for.
        seen.truncate(limit);
        Ok(snapshot.decoded(seen))
    }

    /// Writes a value.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        let (key, value) = (self.encode(key), value.into());
        self.write(key.len() + value.len(), |buffer| buffer.put(key, value))
    }

    /// Writes a value, provided that the key does not exist: otherwise the commit fails with
    /// [`ErrorKind::KeyExists`]. Fails at once when this transaction itself has written the key.
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        let (user_key, key, value) =
            (Bytes::copy_from_slice(key.as_ref()), self.encode(key), value.into());
        if self.write(key.len() + value.len(), |buffer| buffer.insert(key, value))? {
            return Ok(());
        }
        let kind = ErrorKind::KeyExists { key: user_key };
        Err(Error::new(kind, "insert: this transaction has written the key"))
    }

    /// Removes a key; it need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let key = self.encode(key);
        self.write(key.len(), |buffer| buffer.delete(key))
    }

    /// Makes the commit fail if anybody has written the key since this transaction began, although
    /// it does not write it. Against decisions on what was read and is out of date by then.
    pub fn lock(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let key = self.encode(key);
        self.write(key.len(), |buffer| buffer.lock(key))
    }

    /// How many keys will be written.
    pub fn changes(&self) -> usize {
        match &*self.0.state.lock() {
            State::Open(buffer) => buffer.len(),
            State::Finished(_) => 0,
        }
    }

    /// Commits; returns the timestamp at which the changes are visible, or `None` if there were
    /// none. On failure the transaction has not happened, unless the error
    /// [is undetermined](Error::is_undetermined).
    pub async fn commit(&self) -> Result<Option<Timestamp>> {
        let buffer = self.take_buffer()?;
        self.committing(buffer).run().await
    }

    pub(super) fn committing(&self, buffer: Buffer) -> Commit<'_> {
        let mutations = buffer.into_mutations();
        Commit::new(self.0.snapshot.client(), self.start_timestamp(), self.0.began, mutations)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    pub(super) fn began(&self) -> Instant {
        self.0.began
    }

    pub(super) fn ensure_open(&self) -> Result<()> {
        self.with(|_| Ok(()))
    }

    /// What this transaction has written to a key on the wire; the outer `None` is "nothing".
    pub(super) fn written(&self, key: &[u8]) -> Result<Option<Option<Bytes>>> {
        self.with(|buffer| Ok(buffer.get(key)))
    }

    /// These keys, on the wire, are locked and have to be part of the commit.
    pub(super) fn locked(&self, keys: &[Bytes]) -> Result<()> {
        let bytes = keys.iter().map(Bytes::len).sum();
        self.write(bytes, |buffer| keys.iter().for_each(|key| buffer.lock(key.clone())))
    }

    pub(super) fn take_buffer(&self) -> Result<Buffer> {
        let mut state = self.0.state.lock();
        match &mut *state {
            State::Finished(how) => Err(finished(how)),
            State::Open(buffer) => {
                let buffer = std::mem::take(buffer);
                *state = State::Finished("committed");
                Ok(buffer)
            }
        }
    }

    /// Gives the changes up. Nothing was sent, so nothing has to be undone.
    pub fn rollback(&self) {
        let mut state = self.0.state.lock();
        if matches!(*state, State::Open(_)) {
            *state = State::Finished("rolled back");
        }
    }

    pub(super) fn encode(&self, key: impl AsRef<[u8]>) -> Bytes {
        self.0.snapshot.client().codec.encode(key.as_ref())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Buffer) -> Result<T>) -> Result<T> {
        match &mut *self.0.state.lock() {
            State::Open(buffer) => act(buffer),
            State::Finished(how) => Err(finished(how)),
        }
    }

    fn write<T>(&self, bytes: usize, act: impl FnOnce(&mut Buffer) -> T) -> Result<T> {
        self.with(|buffer| {
            if buffer.bytes() + bytes > TRANSACTION_BYTES_MAX {
                let limit = TRANSACTION_BYTES_MAX >> 20;
                let why = format!("a transaction writes at most {limit} MiB");
                return Err(Error::new(ErrorKind::TooLarge, why));
            }
            Ok(act(buffer))
        })
    }
}

fn finished(how: &str) -> Error {
    Error::mistake(format!("the transaction is {how}"))
}

/// What of a range has been read when this is left of it.
fn covered(range: &KeyRange, rest: Option<&KeyRange>, order: Order) -> KeyRange {
    match (rest, order) {
        (None, _) => range.clone(),
        (Some(rest), Order::Forward) => {
            KeyRange { start: range.start.clone(), end: Some(rest.start.clone()) }
        }
        (Some(rest), Order::Reverse) => {
            let start = rest.end.clone().unwrap_or_default();
            KeyRange { start, end: range.end.clone() }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let State::Open(buffer) = self.state.get_mut()
            && buffer.len() > 0
        {
            let changes = buffer.len();
            let start = self.snapshot.timestamp();
            tracing::warn!(%start, changes, "a transaction was dropped without a commit");
        }
    }
}
