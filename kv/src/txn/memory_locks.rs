//! The newest read, and locks that are decided but not yet applied: what async commit rests on.
//!
//! An async-commit transaction takes its commit timestamp from its locks: above every read that may
//! have missed them. So a reader says its timestamp *before* it looks, and a writer shows its locks
//! here *before* it asks for the newest read:
//!
//! ```text
//! reader at T                               writer
//!   newest = max(newest, T)                   show locks
//!   locks shown here? → meets them            min_commit_ts = newest + 1
//!   take a snapshot, read                     write the locks, hide them here
//! ```
//!
//! In every interleaving the reader meets the lock, or the writer's commit timestamp is above T.
//!
//! A leader does not know what its predecessor's readers saw. Before it computes a commit timestamp
//! for a region in a new term (or after the region's range has changed: it may have taken in a
//! neighbour) it takes a fresh timestamp from the scheduler as the newest read; every read before it
//! had a lower one. [`MemoryLocks`] remembers for which term and version of a region that is done.
//!
//! A timestamp that nobody can have been given yet does not become the newest read ([`super::horizon`]).
//!
//! Left out: readers on followers. Their timestamps do not reach the leader, so snapshot reads are
//! served by leaders only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use proto::Refusal;

use super::horizon::Horizon;
use super::record::Lock;
use crate::keys::Key;
use crate::plant::{Bug, Planted};

/// How many regions' [`Synced`] marks are kept; beyond, all are forgotten and each costs one
/// timestamp again.
const SYNCED_REGIONS_MAX: usize = 16 * 1024;

/// For which leadership of a region the newest read is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The term in which this store leads the region.
    pub term: u64,
    /// The version of the region's epoch: a split or merge needs a fresh timestamp too.
    pub version: u64,
}

/// Shared by all commands of a store.
#[derive(Clone, Debug, Default)]
pub struct MemoryLocks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    newest_read: AtomicU64,
    /// How many locks are or are about to be in `locks`: readers skip the mutex when it is 0.
    count: AtomicUsize,
    /// By encoded key; latches keep it to one per key.
    locks: Mutex<BTreeMap<Bytes, Lock>>,
    synced: Mutex<BTreeMap<u64, Synced>>,
    horizon: Horizon,
    planted: Planted,
}

impl MemoryLocks {
    /// The same, with a mistake in it.
    pub(crate) fn planting(self, planted: Planted) -> Self {
        Self { inner: Arc::new(Inner { planted, ..Inner::default() }) }
    }

    /// Somebody reads, or was promised something, at `ts`. Must be called before the snapshot is
    /// taken. The maximum means "the latest" and says nothing about time. A timestamp that lies too far
    /// ahead is refused.
    pub fn on_read(&self, ts: u64) -> Result<(), Refusal> {
        if ts != u64::MAX {
            self.inner.horizon.check(ts)?;
            self.inner.newest_read.fetch_max(ts, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Refuses a timestamp of a writer that lies too far ahead, and the maximum.
    pub(super) fn check_ahead(&self, ts: u64) -> Result<(), Refusal> {
        self.inner.horizon.check(ts)
    }

    /// The scheduler has handed out this timestamp just now.
    pub fn on_told(&self, ts: u64) {
        self.inner.horizon.on_told(ts);
    }

    /// The newest read so far.
    pub fn newest_read(&self) -> u64 {
        self.inner.newest_read.load(Ordering::SeqCst)
    }

    /// Whether the newest read covers what earlier leaders of this region served.
    pub fn is_synced(&self, region_id: u64, leadership: Synced) -> bool {
        self.inner.synced.lock().get(&region_id) == Some(&leadership)
    }

    /// `fresh_ts` was handed out after this leadership began.
    pub fn on_synced(&self, region_id: u64, leadership: Synced, fresh_ts: u64) {
        self.on_told(fresh_ts);
        self.inner.newest_read.fetch_max(fresh_ts, Ordering::SeqCst);
        let mut synced = self.inner.synced.lock();
        if synced.len() >= SYNCED_REGIONS_MAX {
            synced.clear();
        }
        synced.insert(region_id, leadership);
    }

    /// Shows locks to readers, then lets `decide` complete them knowing the newest read. When it
    /// returns `None` nothing is shown.
    pub(crate) fn publish(
        &self,
        keys: Vec<Key>,
        decide: impl FnOnce(u64) -> Option<Vec<Lock>>,
    ) -> Option<Published> {
        let keys: Vec<Bytes> = keys.iter().map(|key| key.encoded().clone()).collect();
        let mut table = self.inner.locks.lock();
        // The count first, then the newest read: a reader that finds the count at 0 has already
        // raised the newest read. Both sides are sequentially consistent for that.
        self.inner.count.fetch_add(keys.len(), Ordering::SeqCst);
        let mut published = Published { inner: self.inner.clone(), keys: Vec::new() };
        let Some(locks) = decide(self.newest_read()) else {
            self.inner.count.fetch_sub(keys.len(), Ordering::SeqCst);
            return None;
        };
        assert_eq!(locks.len(), keys.len(), "each key gets its lock");
        if self.inner.planted.has(Bug::LocksUnshown) {
            self.inner.count.fetch_sub(keys.len(), Ordering::SeqCst);
            return Some(published);
        }
        for (key, lock) in keys.iter().zip(locks) {
            let before = table.insert(key.clone(), lock);
            assert!(before.is_none(), "latches keep a key to one command");
        }
        published.keys = keys;
        Some(published)
    }

    /// The first lock on `key` that `in_the_way` says is.
    pub fn find(&self, key: &Key, in_the_way: impl FnOnce(&Lock) -> bool) -> Option<Lock> {
        if self.inner.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.inner.locks.lock().get(key.encoded()).filter(|lock| in_the_way(lock)).cloned()
    }

    /// The first lock in a range (in the engine's form) that `in_the_way` says is.
    pub fn find_in(
        &self,
        range: &proto::KeyRange,
        mut in_the_way: impl FnMut(&Key, &Lock) -> bool,
    ) -> Option<(Key, Lock)> {
        if self.inner.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let table = self.inner.locks.lock();
        table
            .range(range.start.clone()..)
            .take_while(|(key, _)| range.contains(key))
            .filter_map(|(key, lock)| Some((Key::from_encoded(key)?, lock)))
            .find(|(key, lock)| in_the_way(key, lock))
            .map(|(key, lock)| (key, lock.clone()))
    }
}

/// Locks shown to readers; hidden again when dropped, which must not be before they are applied or
/// certainly will not be.
#[derive(Debug)]
pub struct Published {
    inner: Arc<Inner>,
    keys: Vec<Bytes>,
}

impl Drop for Published {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut table = self.inner.locks.lock();
        for key in &self.keys {
            table.remove(key);
        }
        self.inner.count.fetch_sub(self.keys.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LockKind;
    use super::*;

    fn lock(start_ts: u64, min_commit_ts: u64) -> Lock {
        Lock { min_commit_ts, ..Lock::new(LockKind::Put, "k", start_ts, 0) }
    }

    #[test]
    fn a_lock_is_above_earlier_reads_and_met_by_later_ones() {
        let memory = MemoryLocks::default();
        for ts in [50, 40, u64::MAX] {
            memory.on_read(ts).unwrap();
        }
        let key = Key::new("k");
        let shown = memory.publish(vec![key.clone()], |newest| Some(vec![lock(10, newest + 1)]));
        assert_eq!(memory.find(&key, |_| true).unwrap().min_commit_ts, 51);
        assert_eq!(memory.find(&Key::new("l"), |_| true), None);
        let all = proto::KeyRange::all();
        assert_eq!(memory.find_in(&all, |_, lock| lock.start_ts == 10).unwrap().0, key);
        drop(shown);
        assert_eq!(memory.find(&key, |_| true), None);
    }

    #[test]
    fn a_read_in_the_future_is_refused_and_forgotten() {
        let memory = MemoryLocks::default();
        let now = proto::Timestamp::new(1_000_000, 0).0;
        memory.on_synced(1, Synced { term: 5, version: 1 }, now);
        let hour = proto::Timestamp::new(1_000_000 + 3_600_000, 0).0;
        assert!(memory.on_read(hour).is_err());
        assert_eq!(memory.newest_read(), now);
    }

    #[test]
    fn what_was_decided_against_is_not_shown() {
        let memory = MemoryLocks::default();
        assert!(memory.publish(vec![Key::new("k")], |_| None).is_none());
        assert_eq!(memory.find(&Key::new("k"), |_| true), None);
        assert_eq!(memory.inner.count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_new_term_or_a_new_range_needs_a_fresh_timestamp() {
        let memory = MemoryLocks::default();
        let first = Synced { term: 5, version: 1 };
        assert!(!memory.is_synced(1, first));
        memory.on_synced(1, first, 100);
        assert!(memory.is_synced(1, first) && memory.newest_read() == 100);
        assert!(!memory.is_synced(1, Synced { term: 6, version: 1 }));
        assert!(!memory.is_synced(1, Synced { term: 5, version: 2 }));
        assert!(!memory.is_synced(2, first));
    }
}
