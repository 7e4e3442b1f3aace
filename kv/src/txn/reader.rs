//! What is known of a key: its lock, its records, the value a transaction sees.
//!
//! ```text
//!            newest                                   oldest
//! write      k@90 Rollback   k@80 Lock   k@70 Put(60)   k@50 Put(40)
//!                                           │ short, or
//! default                                   └─► k@60 "value"
//! ```
//!
//! A reader at 85 walks from the first record at or before 85 to the first that is a Put or a
//! Delete. What a transaction itself did to a key (its *own record*) may lie above its start: it is
//! looked for from the newest record down to the start.

use bytes::Bytes;
use proto::KeyRange;
use raftstore::engine::{ColumnFamily, Cursor, Snapshot};
use raftstore::error::Fault;

use super::record::{Lock, Write, WriteKind};
use super::reservations::Held;
use crate::keys::{self, Key};
use crate::plant::{Bug, Planted};

/// Reads records and values from one snapshot.
pub struct Reader<S: Snapshot> {
    snapshot: S,
    range: KeyRange,
    /// Locks in memory that go with the snapshot.
    held: Held,
    planted: Planted,
    /// Made when first asked for: a commit, for one, finds all it needs in the lock.
    writes: Option<S::Cursor>,
    /// How often that cursor was moved.
    moves: u64,
}

/// What the records say of a transaction on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnRecord {
    /// It is committed.
    Committed {
        /// When.
        commit_ts: u64,
        /// The record.
        write: Write,
    },
    /// It is rolled back, by a record of its own or a flag in another's.
    RolledBack,
    /// Nothing is known of it.
    Unknown {
        /// Another transaction's record at exactly its start, where a rollback record would go.
        overlapped: Option<Overlapped>,
    },
}

/// A record that occupies the place of a rollback record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlapped {
    /// The record.
    pub write: Write,
    /// Commit timestamp of the next newer Put or Delete, 0 if there is none: what the record's
    /// fence must be when it is rewritten.
    pub next_data_ts: u64,
}

/// A value that a reader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was committed; 0 when only its lock tells that it was.
    pub commit_ts: u64,
    /// The value.
    pub value: Bytes,
}

impl<S: Snapshot> Reader<S> {
    /// A reader of the keys of a range, given in the engine's form.
    pub fn new(snapshot: S, range: KeyRange) -> Self {
        let (held, planted) = (Held::new(), Planted::default());
        Self { snapshot, range, held, planted, writes: None, moves: 0 }
    }

    /// It sees these locks too, which are in memory only.
    pub(super) fn holding(self, held: Held) -> Self {
        Self { held, ..self }
    }

    /// The lock on a key, if it is in memory only.
    pub(super) fn held(&self, key: &Key) -> Option<&Lock> {
        self.held.get(key.encoded())
    }

    /// The commands that read through it make this mistake.
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Whether they make this mistake.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.planted.has(bug)
    }

    /// How often it has moved over records: one for each key looked up, one for each older record.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The snapshot it reads.
    pub fn snapshot(&self) -> &S {
        &self.snapshot
    }

    /// The range it reads.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// The lock on a key.
    pub fn lock(&self, key: &Key) -> Result<Option<Lock>, Fault> {
        if let Some(lock) = self.held(key) {
            return Ok(Some(lock.clone()));
        }
        self.snapshot
            .get(ColumnFamily::Lock, key.encoded())?
            .map(|bytes| Lock::decode(&bytes, key))
            .transpose()
    }

    /// The newest record of a key at or before `ts`, with its commit timestamp.
    pub fn write_at_or_before(
        &mut self,
        key: &Key,
        ts: u64,
    ) -> Result<Option<(u64, Write)>, Fault> {
        let writes = self
            .writes
            .get_or_insert_with(|| self.snapshot.cursor(ColumnFamily::Write, &self.range));
        self.moves += 1;
        writes.seek(&key.at(ts))?;
        write_under(writes, key)
    }

    /// After a record was found: the next older one of the same key.
    fn older_write(&mut self, key: &Key) -> Result<Option<(u64, Write)>, Fault> {
        let Some(writes) = &mut self.writes else { return Ok(None) };
        self.moves += 1;
        writes.next()?;
        write_under(writes, key)
    }

    /// The newest Put or Delete at or before `ts`.
    pub fn data_at_or_before(&mut self, key: &Key, ts: u64) -> Result<Option<(u64, Write)>, Fault> {
        let mut found = self.write_at_or_before(key, ts)?;
        while let Some((commit_ts, write)) = found {
            if write.kind.is_data() {
                return Ok(Some((commit_ts, write)));
            }
            found = self.older_write(key)?;
        }
        Ok(None)
    }

    /// What a reader at `ts` sees, locks left aside; `None` when the key does not exist then.
    pub fn version(&mut self, key: &Key, ts: u64) -> Result<Option<Version>, Fault> {
        match self.data_at_or_before(key, ts)? {
            Some((commit_ts, write)) if write.kind == WriteKind::Put && !write.is_fenced_at(ts) => {
                Ok(Some(Version { commit_ts, value: self.value(key, &write)? }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the key exists for a reader at `ts`, locks left aside.
    pub fn exists(&mut self, key: &Key, ts: u64) -> Result<bool, Fault> {
        Ok(self
            .data_at_or_before(key, ts)?
            .is_some_and(|(_, write)| write.kind == WriteKind::Put && !write.is_fenced_at(ts)))
    }

    /// The value of a Put record.
    pub fn value(&self, key: &Key, write: &Write) -> Result<Bytes, Fault> {
        self.value_or_short(key, write.start_ts, write.short_value.as_ref())
    }

    /// The value that a Put lock carries.
    pub fn lock_value(&self, key: &Key, lock: &Lock) -> Result<Bytes, Fault> {
        self.value_or_short(key, lock.start_ts, lock.short_value.as_ref())
    }

    fn value_or_short(
        &self,
        key: &Key,
        start_ts: u64,
        short: Option<&Bytes>,
    ) -> Result<Bytes, Fault> {
        if let Some(value) = short {
            return Ok(value.clone());
        }
        self.snapshot
            .get(ColumnFamily::Default, &key.at(start_ts))?
            .ok_or_else(|| Fault::Missing { what: format!("the value of {key}@{start_ts}") })
    }

    /// What the records say of the transaction that began at `start_ts`.
    pub fn own_record(&mut self, key: &Key, start_ts: u64) -> Result<OwnRecord, Fault> {
        // A transaction with a lower start may have committed later than one with a higher start, so
        // its record is anywhere above its start.
        let mut found = self.write_at_or_before(key, u64::MAX)?;
        let mut next_data_ts = 0;
        while let Some((commit_ts, write)) = found {
            if commit_ts < start_ts {
                break;
            }
            if write.start_ts == start_ts {
                return Ok(match write.kind {
                    WriteKind::Rollback => OwnRecord::RolledBack,
                    WriteKind::Put | WriteKind::Delete | WriteKind::Lock => {
                        OwnRecord::Committed { commit_ts, write }
                    }
                });
            }
            if commit_ts == start_ts {
                return Ok(if write.overlapped_rollback {
                    OwnRecord::RolledBack
                } else {
                    OwnRecord::Unknown { overlapped: Some(Overlapped { write, next_data_ts }) }
                });
            }
            if write.kind.is_data() {
                next_data_ts = commit_ts;
            }
            found = self.older_write(key)?;
        }
        Ok(OwnRecord::Unknown { overlapped: None })
    }

    /// Locks in `[start, end)` (engine form, cut to the reader's range) from the first on that
    /// `wanted` takes, at most `limit`; keys ascend. The flag says whether there may be more.
    pub fn locks(
        &self,
        range: &KeyRange,
        limit: usize,
        mut wanted: impl FnMut(&Lock) -> bool,
    ) -> Result<(Vec<(Key, Lock)>, bool), Fault> {
        let mut found = Vec::new();
        let range = self.range.intersection(range);
        let mut cursor = self.snapshot.cursor(ColumnFamily::Lock, &range);
        let mut on_key = cursor.seek_to_first()?;
        let in_memory = self.held.range(range.start.clone()..);
        let mut in_memory = in_memory.take_while(|(key, _)| range.contains(key)).peekable();
        loop {
            let held = in_memory.peek().map(|(key, _)| key.as_ref());
            let from_memory = match held {
                None if !on_key => return Ok((found, false)),
                None => false,
                // Of both the engine's is the newer: it has left memory meanwhile.
                Some(held) => !on_key || held < cursor.key(),
            };
            if found.len() == limit {
                return Ok((found, true));
            }
            let (key, lock) = if from_memory {
                let (key, lock) = in_memory.next().expect("it was peeked at");
                (decoded(key)?, lock.clone())
            } else {
                in_memory.next_if(|(key, _)| key.as_ref() == cursor.key());
                let key = decoded(cursor.key())?;
                let lock = Lock::decode(cursor.value(), &key)?;
                on_key = cursor.next()?;
                (key, lock)
            };
            if wanted(&lock) {
                found.push((key, lock));
            }
        }
    }

    /// Every record of a key, newest first, at most `limit`.
    pub fn writes(&mut self, key: &Key, limit: usize) -> Result<Vec<(u64, Write)>, Fault> {
        let mut all = Vec::new();
        let mut found = self.write_at_or_before(key, u64::MAX)?;
        while let Some(record) = found
            && all.len() < limit
        {
            all.push(record);
            found = self.older_write(key)?;
        }
        Ok(all)
    }

    /// Every long value of a key by start timestamp, newest first, at most `limit`.
    pub fn long_values(&self, key: &Key, limit: usize) -> Result<Vec<(u64, Bytes)>, Fault> {
        let range =
            KeyRange { start: key.at(u64::MAX), end: Some(keys::after_versions(key.encoded())) };
        let mut cursor = self.snapshot.cursor(ColumnFamily::Default, &range);
        let mut all = Vec::new();
        let mut on_key = cursor.seek_to_first()?;
        while on_key && all.len() < limit {
            if let Some(start_ts) = key.version_in(cursor.key()) {
                all.push((start_ts, Bytes::copy_from_slice(cursor.value())));
            }
            on_key = cursor.next()?;
        }
        Ok(all)
    }
}

/// The record a cursor is on, if it is one of this key.
pub(super) fn write_under(cursor: &impl Cursor, key: &Key) -> Result<Option<(u64, Write)>, Fault> {
    if !cursor.is_on_key() {
        return Ok(None);
    }
    let Some(commit_ts) = key.version_in(cursor.key()) else { return Ok(None) };
    let write = Write::decode(cursor.value(), format_args!("{key}@{commit_ts}"))?;
    Ok(Some((commit_ts, write)))
}

/// The key behind an engine key of the lock family.
pub(crate) fn decoded(encoded: &[u8]) -> Result<Key, Fault> {
    Key::from_encoded(encoded).ok_or_else(|| Fault::Corrupt {
        place: format!("lock key {}", proto::key::Readable(encoded)),
        detail: "it is not memcomparable".into(),
    })
}
