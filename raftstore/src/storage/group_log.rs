//! Raft's view of one group's log: what is on disk, and the newest part of it in memory.
//!
//! ```text
//!            truncated        persisted               last
//!                │                │                     │
//!   ── gone ─────┤▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│░░░░░░░░░░░░░░░░░░░░░│
//!                └─ on disk ──────┘
//!                        └────────── cache ─────────────┘
//! ```
//!
//! The log is not tied to regions: a store has one for each peer, and a scheduler member has one for
//! its group. Changes are visible here at once and gather in a [`GroupWrite`] that
//! [`GroupLog::take_write`] hands out; the shell makes it durable. So raft may run ahead of the disk.
//!
//! Invariants:
//! - Entries that are not yet durable are in the cache; they are never evicted.
//! - The cache is consecutive and ends at the last entry.
//! - A commit index alone is no reason to write: it travels with the next write, and at start the
//!   applied index makes up for what was not written.
//!
//! Left out: entries are fetched from the disk where raft asks for them, never asynchronously.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{PeerId, RegionId};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::engine::{GroupWrite, LogEngine, LogState};
use crate::error::Fault;
use crate::plant::{Bug, Planted};
use crate::wire;

/// A position in a log with the term of its entry: `12@5`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The index.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// One group's log.
pub struct GroupLog<L> {
    group: RegionId,
    engine: L,
    conf_state: ConfState,
    hard_state: HardState,
    truncated: Position,
    last: Position,
    /// Every entry up to here is durable.
    persisted_index: u64,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// What the disk does not know yet.
    pending: GroupWrite,
    /// Whether something other than the commit index is among it.
    is_state_pending: bool,
    /// Snapshots that raft asked for and did not get; raft asks through `&self`.
    snapshots: RefCell<Snapshots>,
    pub(crate) planted: Planted,
}

#[derive(Default)]
struct Snapshots {
    wanted: BTreeSet<PeerId>,
    offered: BTreeMap<PeerId, Snapshot>,
}

impl<L: LogEngine> GroupLog<L> {
    /// Opens the log of a group whose state machine has applied up to `applied`.
    ///
    /// The state machine may be ahead of the log: at a crash between installing a snapshot (or
    /// creating a group) and writing the log, which happen in this order. Then the log begins anew
    /// at `applied`, and votes are kept. A log that was cut beyond `applied` lost entries that are
    /// needed: that is a fault.
    pub fn open(
        engine: L,
        group: RegionId,
        conf_state: ConfState,
        applied: Position,
        cache_bytes_max: usize,
    ) -> Result<Self, Fault> {
        let found = engine.state(group)?;
        let is_new = found.is_none();
        let state = found.unwrap_or_default();
        let corrupt = |detail: String| Fault::Corrupt { place: format!("log of {group}"), detail };
        if state.truncated_index > applied.index {
            return Err(corrupt(format!(
                "cut up to {} but applied only to {applied}",
                state.truncated_index
            )));
        }
        if state.hard_state.commit > state.last_index {
            return Err(corrupt(format!(
                "commit {} beyond the last entry {}",
                state.hard_state.commit, state.last_index
            )));
        }
        let truncated = Position { index: state.truncated_index, term: state.truncated_term };
        let mut log = Self {
            group,
            engine,
            conf_state,
            hard_state: wire::hard_state_from_wire(&state.hard_state),
            truncated,
            last: Position { index: state.last_index, term: truncated.term },
            persisted_index: state.last_index,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            pending: GroupWrite::default(),
            is_state_pending: false,
            snapshots: RefCell::default(),
            planted: Planted::default(),
        };
        if log.last.index > truncated.index {
            log.last.term = log.read_term(log.last.index)?;
        }
        let holds_applied = applied.index <= log.last.index
            && (applied.index == 0 || log.read_term(applied.index)? == applied.term);
        if !holds_applied {
            let conf_state = std::mem::take(&mut log.conf_state);
            log.restore(applied, conf_state);
            // A log that never was has nothing to clear.
            log.pending.clear = !is_new;
        }
        log.hard_state.commit = log.hard_state.commit.max(applied.index);
        Ok(log)
    }

    /// Which group this is.
    pub fn group(&self) -> RegionId {
        self.group
    }

    /// The last entry.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The last entry that was cut off, or came as a snapshot.
    pub fn truncated(&self) -> Position {
        self.truncated
    }

    /// Term, vote and commit, as raft gave them last.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Who votes and who learns, as of the applied index.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Takes over a new membership. It is not written: it belongs to the state machine.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Adds entries at the end; those at or after the first of them are replaced.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert!(
            self.truncated.index < first.index && first.index <= self.last.index + 1,
            "{} appends {} to a log of {}..={}",
            self.group,
            first.index,
            self.truncated.index + 1,
            self.last.index,
        );
        let first_index = first.index;
        self.last = Position { index: last.index, term: last.term };
        self.persisted_index = self.persisted_index.min(first_index - 1);
        while self.cache.back().is_some_and(|entry| entry.index >= first_index)
            && !self.planted.has(Bug::CacheKeepsOverwritten)
        {
            self.forget_back();
        }
        while self.pending.entries.last().is_some_and(|entry| entry.index >= first_index) {
            self.pending.entries.pop();
        }
        for entry in entries {
            if !self.is_cached_by_mistake(entry.index) {
                self.cache_bytes += bytes_of(&entry);
                self.cache.push_back(entry.clone());
            }
            self.pending.entries.push(wire::entry_to_wire(entry));
        }
    }

    /// Remembers term, vote and commit. Only a new term or vote is a reason to write.
    pub fn set_hard_state(&mut self, state: HardState) {
        self.is_state_pending |=
            state.term != self.hard_state.term || state.vote != self.hard_state.vote;
        self.hard_state = state;
    }

    /// Takes over the term and vote of an earlier member of the group on this store: what it promised
    /// still holds, whatever its id was.
    pub fn adopt_vote(&mut self, earlier: &HardState) {
        if earlier.term > self.hard_state.term {
            self.hard_state.term = earlier.term;
            self.hard_state.vote = earlier.vote;
            self.is_state_pending = true;
        } else if earlier.term == self.hard_state.term && self.hard_state.vote == 0 {
            self.hard_state.vote = earlier.vote;
            self.is_state_pending |= earlier.vote != 0;
        }
    }

    /// Begins anew behind a snapshot (or at the first entry of a group). Entries are forgotten, the
    /// vote is kept.
    pub fn restore(&mut self, at: Position, conf_state: ConfState) {
        self.conf_state = conf_state;
        self.truncated = at;
        self.last = at;
        self.persisted_index = at.index;
        self.cache.clear();
        self.cache_bytes = 0;
        if self.hard_state.term < at.term {
            self.hard_state.term = at.term;
            self.hard_state.vote = 0;
        }
        self.hard_state.commit = self.hard_state.commit.max(at.index);
        self.pending = GroupWrite { clear: true, ..GroupWrite::default() };
        self.is_state_pending = true;
    }

    /// Cuts off every entry up to `upto`, which must be applied, durably, and not beyond the end.
    pub fn cut(&mut self, upto: Position) {
        if upto.index <= self.truncated.index {
            return;
        }
        assert!(
            upto.index <= self.last.index,
            "{} cuts its log at {upto}, beyond the end",
            self.group
        );
        self.truncated = upto;
        while self.cache.front().is_some_and(|entry| entry.index <= upto.index) {
            self.forget_front();
        }
        self.pending.cut_before = upto.index + 1 + u64::from(self.planted.has(Bug::LogCutTooFar));
        self.is_state_pending = true;
    }

    /// Whether the disk must learn something.
    pub fn has_write(&self) -> bool {
        self.is_state_pending || !self.pending.entries.is_empty() || self.pending.clear
    }

    /// What the disk must learn, if anything. The shell writes these in the order taken.
    pub fn take_write(&mut self) -> Option<GroupWrite> {
        if !self.has_write() {
            return None;
        }
        self.is_state_pending = false;
        let mut write = std::mem::take(&mut self.pending);
        write.state = Some(LogState {
            hard_state: wire::hard_state_to_wire(&self.hard_state),
            last_index: self.last.index,
            truncated_index: self.truncated.index,
            truncated_term: self.truncated.term,
        });
        Some(write)
    }

    /// Notes that entries up to here are durable: they may leave the cache when it is full.
    pub fn persisted_to(&mut self, index: u64) {
        self.persisted_index = self.persisted_index.max(index.min(self.last.index));
        self.shrink_cache(self.persisted_index, self.cache_bytes_max);
    }

    /// Drops cached entries up to here, as far as they are durable: nobody is expected to ask.
    pub fn forget_cached(&mut self, upto: u64) {
        self.shrink_cache(upto.min(self.persisted_index), 0);
    }

    /// Bytes of entries in memory.
    pub fn cached_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Followers for which raft asked for a snapshot since the last call.
    pub fn take_wanted_snapshots(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.snapshots.get_mut().wanted)
    }

    /// Lays a snapshot ready for this follower; raft takes it when it tries again.
    pub fn offer_snapshot(&mut self, to: PeerId, snapshot: Snapshot) {
        self.snapshots.get_mut().offered.insert(to, snapshot);
    }

    /// Takes back what nobody has taken.
    pub fn withdraw_snapshots(&mut self) {
        *self.snapshots.get_mut() = Snapshots::default();
    }

    fn shrink_cache(&mut self, upto: u64, bytes_max: usize) {
        while self.cache_bytes > bytes_max
            && self.cache.front().is_some_and(|entry| entry.index <= upto)
        {
            self.forget_front();
        }
    }

    fn forget_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= bytes_of(&entry);
        }
    }

    fn forget_back(&mut self) {
        if let Some(entry) = self.cache.pop_back() {
            self.cache_bytes -= bytes_of(&entry);
        }
    }

    /// Planted: whether an entry that should be gone stands in the place of this one.
    fn is_cached_by_mistake(&self, index: u64) -> bool {
        self.planted.has(Bug::CacheKeepsOverwritten)
            && self.cache.back().is_some_and(|newest| newest.index >= index)
    }

    /// The first cached index, or one past the end.
    fn cache_start(&self) -> u64 {
        self.cache.front().map_or(self.last.index + 1, |entry| entry.index)
    }

    fn read_entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, Fault> {
        self.engine
            .entries(self.group, low, high, bytes_max)?
            .into_iter()
            .map(|entry| {
                let index = entry.index;
                wire::entry_from_wire(entry).ok_or_else(|| Fault::Corrupt {
                    place: format!("log of {}", self.group),
                    detail: format!("entry {index} is of an unknown type"),
                })
            })
            .collect()
    }

    /// The term of an entry that is not cut off and not beyond the end.
    fn read_term(&self, index: u64) -> Result<u64, Fault> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index == self.last.index && self.last.term != 0 && !self.cache.is_empty() {
            return Ok(self.last.term);
        }
        if let Some(entry) =
            index.checked_sub(self.cache_start()).and_then(|at| self.cache.get(at as usize))
        {
            return Ok(entry.term);
        }
        let entries = self.read_entries(index, index + 1, u64::MAX)?;
        entries
            .first()
            .map(|entry| entry.term)
            .ok_or_else(|| Fault::Missing { what: format!("entry {index} of {}", self.group) })
    }
}

/// About how many bytes an entry takes in a message and in memory.
pub(crate) fn bytes_of(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 24
}

/// The raft crate takes a storage error that it does not expect for a reason to panic; a fault is.
fn to_raft(fault: Fault) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(fault)))
}

impl<L: LogEngine> Storage for GroupLog<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if low <= self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last.index + 1, "{} is asked for entries beyond its end", self.group);
        if low >= high {
            return Ok(Vec::new());
        }
        let start = self.cache_start();
        let mut entries = if low < start {
            self.read_entries(low, high.min(start), bytes_max).map_err(to_raft)?
        } else {
            Vec::new()
        };
        let mut next = low + entries.len() as u64;
        if next < start.min(high) {
            // The disk stopped at the size limit.
            return Ok(entries);
        }
        let mut bytes: u64 = entries.iter().map(|entry| bytes_of(entry) as u64).sum();
        while next < high {
            let entry = &self.cache[(next - start) as usize];
            bytes = bytes.saturating_add(bytes_of(entry) as u64);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            next += 1;
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last.index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        self.read_term(index).map_err(to_raft)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mut snapshots = self.snapshots.borrow_mut();
        let to = PeerId(to);
        // One that the log was cut beyond would lead to asking again at once.
        let usable = snapshots.offered.remove(&to).filter(|snapshot| {
            let index = snapshot.get_metadata().index;
            index >= request_index && index >= self.truncated.index
        });
        usable.ok_or_else(|| {
            snapshots.wanted.insert(to);
            raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)
        })
    }
}
