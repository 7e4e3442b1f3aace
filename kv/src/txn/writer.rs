//! Gathers what a command writes into one batch, and remembers whom that sets free.
//!
//! Some of the locks that the command meets may be in memory only ([`super::reservations`]). One that it
//! replaces or removes leaves memory when the batch is applied; one that it reserves is kept there if there is
//! nothing else to write.

use std::collections::BTreeSet;

use bytes::Bytes;
use raftstore::engine::{ColumnFamily, WriteBatch};

use super::memory_locks::Published;
use super::record::{Lock, LockKind, Write, WriteKind};
use crate::keys::Key;

/// A lock that the command removes: whoever waits for it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Whose lock it was.
    pub start_ts: u64,
    /// When its transaction was committed; 0 if it was not.
    pub commit_ts: u64,
    /// On which key.
    pub key: Key,
}

/// One command's writes. Nothing reaches the engine before the command has decided everything.
#[derive(Debug, Default)]
pub struct Writer {
    batch: WriteBatch,
    released: Vec<Released>,
    published: Option<Published>,
    /// Keys, encoded, whose locks are in memory.
    in_memory: BTreeSet<Bytes>,
    reserved: Vec<(Key, Lock)>,
    leaving: Vec<Key>,
}

/// What a command writes, taken apart.
#[derive(Debug)]
pub(crate) struct Written {
    /// Through the log.
    pub(crate) batch: WriteBatch,
    /// The locks that go.
    pub(crate) released: Vec<Released>,
    /// What must be held until it is done.
    pub(crate) published: Option<Published>,
    /// Locks that may be kept in memory when there is no batch.
    pub(crate) reserved: Vec<(Key, Lock)>,
    /// Keys whose locks leave memory when it is done.
    pub(crate) leaving: Vec<Key>,
    in_memory: BTreeSet<Bytes>,
}

impl Written {
    /// There is no room in memory: what was reserved goes through the log too.
    pub(crate) fn reserve_in_log(&mut self) {
        for (key, lock) in std::mem::take(&mut self.reserved) {
            self.batch.put(ColumnFamily::Lock, key.encoded().clone(), lock.encode());
            if self.in_memory.contains(key.encoded()) {
                self.leaving.push(key);
            }
        }
    }
}

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The locks of these keys (encoded) are in memory, not in the engine.
    pub(crate) fn with_in_memory(in_memory: impl IntoIterator<Item = Bytes>) -> Self {
        Self { in_memory: in_memory.into_iter().collect(), ..Self::default() }
    }

    /// Sets the lock of a key.
    pub fn put_lock(&mut self, key: &Key, lock: &Lock) {
        if self.in_memory.contains(key.encoded()) {
            self.leaving.push(key.clone());
        }
        self.batch.put(ColumnFamily::Lock, key.encoded().clone(), lock.encode());
    }

    /// Sets the pessimistic lock of a key that has none in the engine: in memory, if that is possible.
    pub fn reserve(&mut self, key: &Key, lock: &Lock) {
        self.reserved.push((key.clone(), lock.clone()));
    }

    /// Removes the lock of a transaction that was committed at `commit_ts` (0: was not).
    pub fn remove_lock(&mut self, key: &Key, start_ts: u64, commit_ts: u64) {
        if self.in_memory.contains(key.encoded()) {
            self.leaving.push(key.clone());
        } else {
            self.batch.delete(ColumnFamily::Lock, key.encoded().clone());
        }
        self.released.push(Released { start_ts, commit_ts, key: key.clone() });
    }

    /// Adds a record.
    pub fn put_write(&mut self, key: &Key, commit_ts: u64, write: &Write) {
        self.batch.put(ColumnFamily::Write, key.at(commit_ts), write.encode());
    }

    /// Removes a record.
    pub fn delete_write(&mut self, key: &Key, commit_ts: u64) {
        self.batch.delete(ColumnFamily::Write, key.at(commit_ts));
    }

    /// Adds a value that is too long for its record.
    pub fn put_value(&mut self, key: &Key, start_ts: u64, value: Bytes) {
        self.batch.put(ColumnFamily::Default, key.at(start_ts), value);
    }

    /// Removes a long value.
    pub fn delete_value(&mut self, key: &Key, start_ts: u64) {
        self.batch.delete(ColumnFamily::Default, key.at(start_ts));
    }

    /// Turns a lock into its commit record. The key's rollbacks at the same timestamp, noted in the
    /// lock, stay visible as the record's flag.
    pub fn commit(&mut self, key: &Key, lock: &Lock, commit_ts: u64) {
        let kind = match lock.kind {
            LockKind::Put => WriteKind::Put,
            LockKind::Delete => WriteKind::Delete,
            LockKind::Lock | LockKind::Pessimistic => WriteKind::Lock,
        };
        let mut write = Write::new(kind, lock.start_ts, lock.short_value.clone());
        write.overlapped_rollback = lock.rollback_ts.contains(&commit_ts);
        write.last_change = lock.last_change;
        write.txn_source = lock.txn_source;
        self.put_write(key, commit_ts, &write);
    }

    /// Keeps locks visible in memory until the batch is applied.
    pub(crate) fn hold(&mut self, published: Published) {
        self.published = Some(published);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.reserved.is_empty() && self.leaving.is_empty()
    }

    /// What is to be written.
    pub fn batch(&self) -> &WriteBatch {
        &self.batch
    }

    /// What was gathered.
    pub(crate) fn into_written(self) -> Written {
        let Self { batch, released, published, in_memory, reserved, leaving } = self;
        Written { batch, released, published, reserved, leaving, in_memory }
    }
}
