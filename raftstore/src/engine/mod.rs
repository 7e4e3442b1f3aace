//! Where bytes are kept: one engine for data, one for raft logs, behind two small traits.
//!
//! ```text
//!              DataEngine                         LogEngine
//!   default │ lock │ write │ meta         region → state, entries first..=last
//!   user keys, locks,        what a peer
//!   commit records           knows of itself
//! ```
//!
//! There are two implementations of both: RocksDB for users ([`rocks`]) and memory with a live and
//! a durable image for proofs ([`memory`]). A differential property test keeps them equal.
//!
//! Promises:
//! - Data change by writes alone, and by the removal of versions that nobody sees any more ([`garbage`]):
//!   each engine does that for itself, so replicas may differ in what nobody sees.
//! - A [`WriteBatch`] and a [`LogBatch`] are atomic: after a crash all of it is there or none.
//! - [`DataEngine::write`] is not synced. What was written survives a crash of the process; after a
//!   loss of power a suffix of the writes may be gone, never a hole. The raft log is its WAL.
//! - [`LogEngine::write`] is synced when it returns. Nothing that was acknowledged may be lost, and a
//!   damaged log is refused at opening rather than cut short.

pub mod garbage;
pub mod memory;
mod middle;
pub mod rocks;
pub mod snapshot_file;

use bytes::Bytes;
use proto::{KeyRange, RegionId, eraftpb};

use crate::error::Fault;

/// Independent key spaces of the data engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ColumnFamily {
    /// Raw values, and transactional values too long to stand in their commit record.
    Default = 0,
    /// At most one lock a key.
    Lock = 1,
    /// Commit and rollback records, newest first.
    Write = 2,
    /// What the store and its peers know of themselves; never part of a region's data.
    Meta = 3,
}

impl ColumnFamily {
    /// The families that hold a region's data.
    pub const DATA: [Self; 3] = [Self::Default, Self::Lock, Self::Write];
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Default, Self::Lock, Self::Write, Self::Meta];

    /// Its name on disk and in messages, as in TiKV.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Lock => "lock",
            Self::Write => "write",
            Self::Meta => "raft",
        }
    }

    /// The family with this number in a log entry or snapshot file.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cf| *cf as u8 == number)
    }
}

/// One change to one key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Set a key.
    Put {
        /// Where.
        cf: ColumnFamily,
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Remove a key; no matter if it is not there.
    Delete {
        /// Where.
        cf: ColumnFamily,
        /// The key.
        key: Bytes,
    },
    /// Remove all keys of a range.
    DeleteRange {
        /// Where.
        cf: ColumnFamily,
        /// Which keys.
        range: KeyRange,
    },
}

/// Changes that happen together or not at all, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    changes: Vec<Change>,
    bytes: usize,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, cf: ColumnFamily, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Change::Put { cf, key: key.into(), value: value.into() });
    }

    /// Removes a key.
    pub fn delete(&mut self, cf: ColumnFamily, key: impl Into<Bytes>) {
        self.push(Change::Delete { cf, key: key.into() });
    }

    /// Removes all keys of a range.
    pub fn delete_range(&mut self, cf: ColumnFamily, range: KeyRange) {
        self.push(Change::DeleteRange { cf, range });
    }

    /// Adds one change at the end.
    pub fn push(&mut self, change: Change) {
        self.bytes += match &change {
            Change::Put { key, value, .. } => key.len() + value.len(),
            Change::Delete { key, .. } => key.len(),
            Change::DeleteRange { range, .. } => {
                range.start.len() + range.end.as_ref().map_or(0, Bytes::len)
            }
        };
        self.changes.push(change);
    }

    /// Adds all changes of another batch at the end.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.changes.extend(other.changes);
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }
}

/// How much a range holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeSize {
    /// Bytes of keys and values, of all families.
    pub bytes: u64,
    /// Records of transactions: keys of the write family, each version by itself. Raw keys are not counted,
    /// so that regions are cut by their bytes only where there are no transactions. So it is in TiKV, and
    /// clients' own tests rely on it.
    pub keys: u64,
}

impl RangeSize {
    /// What so many keys of one family add to a range.
    pub fn of_family(cf: ColumnFamily, bytes: u64, keys: u64) -> Self {
        Self { bytes, keys: if cf == ColumnFamily::Write { keys } else { 0 } }
    }
}

impl std::ops::AddAssign for RangeSize {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.keys += other.keys;
    }
}

/// Where a store's data lives. Clones share one engine.
pub trait DataEngine: Clone + Send + Sync + 'static {
    /// What [`Self::snapshot`] gives.
    type Snapshot: Snapshot;

    /// A view of this instant that later writes do not change. Cheap; safe to keep for a while.
    fn snapshot(&self) -> Self::Snapshot;

    /// The newest value of a key, without a snapshot.
    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Applies the batch atomically; not synced.
    fn write(&self, batch: WriteBatch) -> Result<(), Fault>;

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), Fault>;

    /// Roughly how much the range holds in all data families. Small ranges are counted, of large ones
    /// little is read.
    fn approximate_size(&self, range: &KeyRange) -> Result<RangeSize, Fault>;

    /// A place in the range with roughly as many bytes before it as behind it, found with little
    /// reading; not necessarily a key that is there. `None` when too little is known for that: then
    /// the range is small, or its newest data is not in files yet.
    fn approximate_middle(&self, range: &KeyRange) -> Result<Option<Bytes>, Fault>;

    /// From now on versions that no reader at or after this timestamp sees ([`garbage`]) may go, at any
    /// moment and in part, also from snapshots that were taken before. Only rises. No version goes before
    /// the safe point is remembered as long as its loss is.
    fn raise_safe_point(&self, safe_point: u64) -> Result<(), Fault>;

    /// The highest safe point it was ever told of; 0 before the first.
    fn safe_point(&self) -> u64;

    /// Removes such versions from a range where there are enough of them to be worth it; returns how many
    /// records were found to be garbage, at least. Takes as long as reading the range at worst.
    fn collect_garbage(&self, range: &KeyRange) -> Result<u64, Fault>;

    /// Bytes of disk used by the engine's files, 0 when it has none.
    fn used_bytes(&self) -> u64;
}

/// A consistent view of a data engine. Clones are cheap and see the same.
pub trait Snapshot: Clone + Send + Sync + 'static {
    /// What [`Self::cursor`] gives.
    type Cursor: Cursor;

    /// The value of a key.
    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// By which safe point versions may be missing here. May rise while the view is held: ask when all
    /// is read.
    fn safe_point(&self) -> u64;

    /// A cursor over the keys of a range, on no key yet. It never leaves the range.
    fn cursor(&self, cf: ColumnFamily, range: &KeyRange) -> Self::Cursor;
}

/// A position among the sorted keys of a range. Each move returns whether there is a key there;
/// after `false` the cursor is on no key, and `key` and `value` must not be called.
pub trait Cursor: Send {
    /// To the first key of the range.
    fn seek_to_first(&mut self) -> Result<bool, Fault>;

    /// To the last key of the range.
    fn seek_to_last(&mut self) -> Result<bool, Fault>;

    /// To the first key at or after this one.
    fn seek(&mut self, key: &[u8]) -> Result<bool, Fault>;

    /// To the last key at or before this one.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, Fault>;

    /// To the next key. Must be on a key.
    fn next(&mut self) -> Result<bool, Fault>;

    /// To the previous key. Must be on a key.
    fn prev(&mut self) -> Result<bool, Fault>;

    /// Whether the cursor is on a key.
    fn is_on_key(&self) -> bool;

    /// The key. Panics when on none.
    fn key(&self) -> &[u8];

    /// Its value. Panics when on none.
    fn value(&self) -> &[u8];
}

/// What a raft group must remember besides its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogState {
    /// Term, vote and commit, as raft gave them.
    pub hard_state: eraftpb::HardState,
    /// The last entry in the log, or the truncated one when the log is empty.
    pub last_index: u64,
    /// Everything up to here was cut off (or came as a snapshot)…
    pub truncated_index: u64,
    /// … and its last entry had this term.
    pub truncated_term: u64,
}

/// Changes to one group's log. Performed in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupWrite {
    /// Forget every entry and the state first (a destroyed peer, or an installed snapshot).
    pub clear: bool,
    /// Entries to append, consecutive; entries at or after the first of them are replaced, and
    /// those after the last of them are gone.
    pub entries: Vec<eraftpb::Entry>,
    /// Entries before this index may be dropped; 0 cuts nothing.
    pub cut_before: u64,
    /// The state to remember.
    pub state: Option<LogState>,
}

/// One atomic, synced write for any number of groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogBatch {
    /// By group; a group appears once.
    pub groups: Vec<(RegionId, GroupWrite)>,
}

impl LogBatch {
    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Where raft logs live. Clones share one engine.
pub trait LogEngine: Clone + Send + Sync + 'static {
    /// Every group that has a state.
    fn groups(&self) -> Result<Vec<RegionId>, Fault>;

    /// What the group remembers; `None` if it has never been written or was cleared.
    fn state(&self, group: RegionId) -> Result<Option<LogState>, Fault>;

    /// Entries `low..high`, in order, stopping after `bytes_max` (at least one entry). A missing
    /// entry is a fault.
    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<eraftpb::Entry>, Fault>;

    /// Performs the batch; durable when this returns.
    fn write(&self, batch: LogBatch) -> Result<(), Fault>;

    /// Bytes of disk used by the engine's files, 0 when it has none.
    fn used_bytes(&self) -> u64;
}
