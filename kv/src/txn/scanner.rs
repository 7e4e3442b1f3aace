//! What a reader sees of a range of keys, one key at a time, either way.
//!
//! Two cursors move together: one over locks, one over records. The next key is the nearer of the
//! two; most keys have a lock or a record, seldom both.
//!
//! A key's versions lie next to each other, newest first. Going forward the records' cursor walks
//! through them with a few single steps before it seeks. Going backward it arrives
//! at a key's oldest version, so the version is looked up by a seek of its own.

use std::cmp::Ordering;

use bytes::Bytes;
use proto::KeyRange;
use raftstore::engine::{ColumnFamily, Cursor, Snapshot};
use raftstore::error::Fault;

use super::problem::Stop;
use super::read_rule::{Reading, Verdict};
use super::reader::{Reader, decoded, write_under};
use super::record::{Lock, LockKind, Write, WriteKind};
use crate::keys::{self, Key};

/// How many records a cursor steps over before a seek is cheaper.
const NEAR_STEPS: usize = 8;

/// A scan under way.
pub struct Scanner<S: Snapshot> {
    reader: Reader<S>,
    reading: Reading,
    key_only: bool,
    reverse: bool,
    locks: S::Cursor,
    writes: S::Cursor,
}

/// What one step of a scan found.
#[derive(Debug)]
pub enum Step {
    /// A key that the reader sees.
    Pair {
        /// The key.
        key: Key,
        /// Its value; empty when only keys were asked for.
        value: Bytes,
        /// When it was committed; 0 when only its lock tells that it was.
        commit_ts: u64,
    },
    /// A key whose lock the reader must resolve first. The scan goes on behind it.
    Locked {
        /// The key.
        key: Key,
        /// Its lock.
        lock: Lock,
    },
    /// A key that does not exist for the reader.
    Nothing,
    /// No key is left.
    End,
}

impl<S: Snapshot> Scanner<S> {
    /// A scan of a range given in the engine's form. Without `reverse` keys ascend.
    pub fn new(
        snapshot: S,
        range: KeyRange,
        reading: Reading,
        key_only: bool,
        reverse: bool,
    ) -> Result<Self, Fault> {
        let mut locks = snapshot.cursor(ColumnFamily::Lock, &range);
        let mut writes = snapshot.cursor(ColumnFamily::Write, &range);
        if reverse {
            locks.seek_to_last()?;
            writes.seek_to_last()?;
        } else {
            locks.seek_to_first()?;
            writes.seek_to_first()?;
        }
        let reader = Reader::new(snapshot, range);
        Ok(Self { reader, reading, key_only, reverse, locks, writes })
    }

    /// Looks at the next key. What is newer than a checked reader ends its scan with an error.
    pub fn step(&mut self) -> Result<Step, Stop> {
        let Some((key, lock)) = self.next_key()? else { return Ok(Step::End) };
        if let Some(lock) = lock {
            match self.reading.verdict(&key, &lock) {
                Verdict::Pass => {}
                Verdict::TakeValue => {
                    self.leave(&key)?;
                    return Ok(match lock.kind {
                        LockKind::Put => {
                            let value = self.unless_key_only(|r| r.lock_value(&key, &lock))?;
                            Step::Pair { value, key, commit_ts: 0 }
                        }
                        LockKind::Delete | LockKind::Lock | LockKind::Pessimistic => Step::Nothing,
                    });
                }
                Verdict::Blocked => {
                    self.leave(&key)?;
                    return Ok(Step::Locked { key, lock });
                }
                Verdict::Outdated => return Err(self.reading.stopped_by(&key, &lock)),
            }
        }
        let found = if self.reverse { self.version_by_seek(&key)? } else { self.version(&key)? };
        self.leave(&key)?;
        let Some((commit_ts, write)) = found else { return Ok(Step::Nothing) };
        if write.kind != WriteKind::Put || write.is_fenced_at(self.reading.ts) {
            return Ok(Step::Nothing);
        }
        let value = self.unless_key_only(|reader| reader.value(&key, &write))?;
        Ok(Step::Pair { key, value, commit_ts })
    }

    fn unless_key_only(
        &self,
        value: impl FnOnce(&Reader<S>) -> Result<Bytes, Fault>,
    ) -> Result<Bytes, Fault> {
        if self.key_only { Ok(Bytes::new()) } else { value(&self.reader) }
    }

    /// The nearer key of the two cursors, with its lock. The locks' cursor moves past it; the
    /// records' cursor stays on it.
    fn next_key(&mut self) -> Result<Option<(Key, Option<Lock>)>, Fault> {
        let nearer = {
            let lock_key = self.locks.is_on_key().then(|| self.locks.key());
            let write_key = if self.writes.is_on_key() {
                let engine_key = self.writes.key();
                let (encoded, _) =
                    keys::split_version(engine_key).ok_or_else(|| Fault::Corrupt {
                        place: format!("write key {}", proto::key::Readable(engine_key)),
                        detail: "it is too short for a version".into(),
                    })?;
                Some(encoded)
            } else {
                None
            };
            match (lock_key, write_key) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(lock), Some(write)) if self.reverse => write.cmp(lock),
                (Some(lock), Some(write)) => lock.cmp(write),
            }
        };
        if nearer == Ordering::Greater {
            let (encoded, _) = keys::split_version(self.writes.key()).expect("checked above");
            return Ok(Some((decoded(encoded)?, None)));
        }
        let key = decoded(self.locks.key())?;
        let lock = Lock::decode(self.locks.value(), &key)?;
        if self.reverse {
            self.locks.prev()?;
        } else {
            self.locks.next()?;
        }
        Ok(Some((key, Some(lock))))
    }

    /// Moves the records' cursor off all versions of `key`, if it is on one.
    fn leave(&mut self, key: &Key) -> Result<(), Fault> {
        if self.reverse {
            // Every version of the key is behind its bare encoding.
            if self.is_on(key) {
                self.writes.seek_for_prev(key.encoded())?;
            }
            return Ok(());
        }
        for _ in 0..NEAR_STEPS {
            if !self.is_on(key) {
                return Ok(());
            }
            self.writes.next()?;
        }
        if self.is_on(key) {
            self.writes.seek(&keys::after_versions(key.encoded()))?;
        }
        Ok(())
    }

    fn is_on(&self, key: &Key) -> bool {
        self.current_ts(key).is_some()
    }

    fn current_ts(&self, key: &Key) -> Option<u64> {
        if self.writes.is_on_key() { key.version_in(self.writes.key()) } else { None }
    }

    /// Going forward, the cursor on the newest version (or on another key): the first Put or Delete
    /// at or before the reader's timestamp.
    fn version(&mut self, key: &Key) -> Result<Option<(u64, Write)>, Stop> {
        if self.reading.isolation == proto::kvrpcpb::IsolationLevel::RcCheckTs
            && let Some((commit_ts, write)) = write_under(&self.writes, key)?
            && commit_ts > self.reading.ts
        {
            return Err(self.reading.outdated_by(key, &write, commit_ts));
        }
        let mut steps = 0;
        while self.current_ts(key).is_some_and(|ts| ts > self.reading.ts) {
            steps += 1;
            if steps > NEAR_STEPS {
                self.writes.seek(&key.at(self.reading.ts))?;
            } else {
                self.writes.next()?;
            }
        }
        while let Some((commit_ts, write)) = write_under(&self.writes, key)? {
            if write.kind.is_data() {
                return Ok(Some((commit_ts, write)));
            }
            self.writes.next()?;
        }
        Ok(None)
    }

    fn version_by_seek(&mut self, key: &Key) -> Result<Option<(u64, Write)>, Stop> {
        super::command::get::check_newest(&mut self.reader, key, &self.reading)?;
        Ok(self.reader.data_at_or_before(key, self.reading.ts)?)
    }
}
