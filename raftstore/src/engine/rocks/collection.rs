//! Garbage collection in RocksDB: versions that nobody sees any more go when files are compacted.
//!
//! ```text
//! compaction of the write family ─► filter: a sieve over the records, in key order
//!                                     │ hidden, short, or of no interest: gone
//!                                     └ with a value apart, or the last Delete: the key is noted
//! asked to collect ──► count ─► few: swept by writes ┐
//!                           └─► many: compact, then ─┴─► the keys noted are swept by writes
//! ```
//!
//! A compaction sees some of the files only, so some of a key's records; what the sieve says of part of
//! them holds for all ([`garbage`]). It forgets about snapshots: a reader that may need an older version
//! must not be below the safe point when it is done.
//!
//! What needs all of a key's records, or two families at once, is left to a sweep: an ordinary write, one
//! batch for all records of a key. A noted key that is forgotten is noted again at the next compaction.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::KeyRange;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::engine::garbage::{Sieve, Verdict, split_version};
use crate::error::Fault;

/// Keys noted at once; beyond, none is, and the next compaction notes them.
const NOTED_MAX: usize = 64 * 1024;

/// What the filters of an engine go by, and what they leave. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Collection {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    safe_point: AtomicU64,
    /// Held while a safe point is written down: they must reach the disk in order.
    raising: Mutex<()>,
    /// Encoded keys with garbage that a filter cannot remove.
    noted: Mutex<BTreeSet<Bytes>>,
}

impl Collection {
    /// Goes by a safe point that is new once it is written down: what a filter removes may be on disk long
    /// before the record of it would be.
    pub(super) fn raise(
        &self,
        safe_point: u64,
        write_down: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if safe_point <= self.safe_point() {
            return Ok(());
        }
        let _raising = self.inner.raising.lock();
        if safe_point > self.safe_point() {
            write_down()?;
            self.inner.safe_point.store(safe_point, Ordering::SeqCst);
        }
        Ok(())
    }

    pub(super) fn safe_point(&self) -> u64 {
        self.inner.safe_point.load(Ordering::SeqCst)
    }

    fn note(&self, engine_key: &[u8]) {
        let Some((encoded, _)) = split_version(engine_key) else { return };
        let mut noted = self.inner.noted.lock();
        if noted.len() < NOTED_MAX && !noted.contains(encoded) {
            noted.insert(Bytes::copy_from_slice(encoded));
        }
    }

    /// Takes the keys of a range that were noted.
    pub(super) fn take_noted(&self, range: &KeyRange) -> Vec<Bytes> {
        let mut noted = self.inner.noted.lock();
        let taken: Vec<Bytes> = noted.iter().filter(|key| range.contains(key)).cloned().collect();
        for key in &taken {
            noted.remove(key);
        }
        taken
    }

    /// The filter for one compaction after the other.
    pub(super) fn filters(&self) -> Filters {
        Filters(self.clone())
    }
}

/// Makes a filter for each compaction.
pub(super) struct Filters(Collection);

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        Filter { sieve: Sieve::new(self.0.safe_point()), collection: self.0.clone() }
    }

    fn name(&self) -> &CStr {
        c"tessera.garbage"
    }
}

/// The sieve of one compaction.
pub(super) struct Filter {
    sieve: Sieve,
    collection: Collection,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.sieve.look(key, value) {
            Verdict::Keep => CompactionDecision::Keep,
            Verdict::Drop => CompactionDecision::Remove,
            Verdict::DropWithValue(_) | Verdict::DropLast => {
                self.collection.note(key);
                CompactionDecision::Keep
            }
        }
    }

    fn name(&self) -> &CStr {
        c"tessera.garbage"
    }
}
