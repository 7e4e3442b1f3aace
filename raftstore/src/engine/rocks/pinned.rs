//! Snapshots and iterators that keep their database open.
//!
//! RocksDB's snapshot borrows the database and its iterator borrows the snapshot, so neither can be
//! stored, sent to another thread, or returned from a trait method beside the thing it borrows.
//! Here each is kept *with* an `Arc` of what it borrows and the borrow's lifetime is forgotten.
//! This is the only unsafe code of the project.
//!
//! Why it is sound
//!
//! 1. What is borrowed lies behind an `Arc`, so it does not move when the struct does.
//! 2. The struct owns that `Arc`, private and never replaced, so the target lives at least as long
//!    as the struct.
//! 3. Fields are dropped in the order of declaration: the borrower stands first and is gone before
//!    the `Arc` is released.
//! 4. Nothing with the forgotten lifetime leaves this file: [`PinnedSnapshot::snapshot`] and
//!    [`PinnedIterator::iterator`] lend with the lifetime of `&self`, and
//!    [`PinnedIterator::step`] lends to a closure that must accept any lifetime, so that it can
//!    neither keep the iterator nor exchange it for another one's.

#![allow(unsafe_code, reason = "a borrow beside its Arc has no safe spelling; proof above")]

use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, Snapshot};

/// A snapshot together with its database.
pub(super) struct PinnedSnapshot {
    snapshot: Snapshot<'static>,
    db: Arc<DB>,
}

impl PinnedSnapshot {
    pub(super) fn new(db: &Arc<DB>) -> Self {
        let db = Arc::clone(db);
        // SAFETY: `db` is stored in the same struct, declared after the snapshot (points 1 to 3).
        let borrowed: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        Self { snapshot: borrowed.snapshot(), db }
    }

    pub(super) fn snapshot(&self) -> &Snapshot<'_> {
        &self.snapshot
    }

    pub(super) fn db(&self) -> &Arc<DB> {
        &self.db
    }
}

/// An iterator together with its snapshot, and so with its database.
pub(super) struct PinnedIterator {
    iterator: DBRawIterator<'static>,
    _snapshot: Arc<PinnedSnapshot>,
}

impl PinnedIterator {
    pub(super) fn new(
        snapshot: &Arc<PinnedSnapshot>,
        family: &ColumnFamily,
        options: ReadOptions,
    ) -> Self {
        let owner = Arc::clone(snapshot);
        // SAFETY: `owner` is stored in the same struct, declared after the iterator (points 1 to 3).
        let borrowed: &'static PinnedSnapshot = unsafe { &*Arc::as_ptr(&owner) };
        Self { iterator: borrowed.snapshot.raw_iterator_cf_opt(family, options), _snapshot: owner }
    }

    pub(super) fn iterator(&self) -> &DBRawIterator<'_> {
        &self.iterator
    }

    pub(super) fn step(&mut self, act: impl for<'a> FnOnce(&mut DBRawIterator<'a>)) {
        act(&mut self.iterator);
    }
}
