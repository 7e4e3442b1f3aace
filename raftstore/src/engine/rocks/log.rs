//! The log engine on RocksDB: entries and states of all groups in one key space.
//!
//! ```text
//!   key    's' group                 state of a group        numbers are eight bytes, big-endian,
//!          'e' group index           one entry               so entries of a group stand in order
//!   value  crc32 of key and rest (4) │ rest       both under the directory's mask (`directory`)
//!   rest   term vote commit last truncated.index truncated.term      of a state
//!          the entry in protobuf                                     of an entry
//! ```
//!
//! The checksum covers the key, so a value that turns up under another index is noticed. RocksDB
//! checks its own blocks too; ours also catches what went wrong above it.
//!
//! Which entries a group has (a [`Span`]) is known in memory and found again at opening with two
//! seeks a group, so that overwriting and cutting delete exactly what is there. One lock round a
//! write keeps spans and database in step; reading takes no lock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use proto::{RegionId, eraftpb};
use rocksdb::{DB, ReadOptions, WriteOptions};

use super::directory::{Directory, Kind, Mask};
use super::wal_audit::audit;
use super::watermark::Watermark;
use super::{Options, fault, open_fault};
use crate::engine::{GroupWrite, LogBatch, LogEngine, LogState};
use crate::error::Fault;

/// Up to so many entries are deleted one by one. More are deleted as a range: one small record, but
/// each range lies in the way of later reads until the next compaction.
const POINT_DELETES_MAX: u64 = 64;

const STATE_TAG: u8 = b's';
const ENTRY_TAG: u8 = b'e';
/// Tags of what comes after all states, and after all entries.
const AFTER_STATES: [u8; 1] = [STATE_TAG + 1];
const AFTER_ENTRIES: [u8; 1] = [ENTRY_TAG + 1];
const CRC_BYTES: usize = 4;
const STATE_NUMBERS: usize = 6;

/// Raft logs in RocksDB. Clones share one database; the last one closes it.
#[derive(Clone)]
pub struct RocksLog {
    shared: Arc<Shared>,
}

struct Shared {
    db: DB,
    directory: Directory,
    watermark: Watermark,
    spans: Mutex<BTreeMap<RegionId, Span>>,
    synced: WriteOptions,
}

/// The entries of a group, both ends included; never empty (a group without entries has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    last: u64,
}

impl RocksLog {
    /// Opens the engine in this directory, creating it if it is empty or missing. A log that lost
    /// synced writes is refused.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Fault> {
        let directory = Directory::claim(path, Kind::Log)?;
        let options = options.log();
        audit(path, &options)?;
        let db = DB::open(&options, path)
            .map_err(|error| open_fault("open the log engine", path, &error))?;
        let watermark = Watermark::open(path)?;
        watermark.check(db.latest_sequence_number(), path)?;
        let spans = Mutex::new(find_spans(&db).map_err(|e| fault("scan the logs", path, &e))?);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self { shared: Arc::new(Shared { db, directory, watermark, spans, synced }) })
    }

    fn fault(&self, attempt: &'static str, error: &rocksdb::Error) -> Fault {
        fault(attempt, self.shared.directory.path(), error)
    }

    /// Returns the rest of a value whose checksum holds.
    fn unsealed(&self, key: &[u8], value: &[u8], what: &str) -> Result<Vec<u8>, Fault> {
        let mask = self.shared.directory.mask();
        let opened = value.split_first_chunk::<CRC_BYTES>().and_then(|(crc, rest)| {
            let (mut crc, mut rest) = (*crc, rest.to_vec());
            mask.lay_over(&mut crc);
            mask.lay_over(&mut rest);
            (crc == checksum(key, &rest)).then_some(rest)
        });
        opened.ok_or_else(|| self.corrupt(what, "its checksum does not hold".to_owned()))
    }

    fn corrupt(&self, what: &str, detail: String) -> Fault {
        Fault::Corrupt {
            place: format!("{what} in {}", self.shared.directory.path().display()),
            detail,
        }
    }
}

impl LogEngine for RocksLog {
    fn groups(&self) -> Result<Vec<RegionId>, Fault> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(AFTER_STATES);
        let mut iterator = self.shared.db.raw_iterator_opt(options);
        iterator.seek([STATE_TAG]);
        let mut groups = Vec::new();
        while let Some(key) = iterator.key() {
            let group = group_of(key).ok_or_else(|| {
                self.corrupt("a state", format!("its key has {} bytes", key.len()))
            })?;
            groups.push(group);
            iterator.next();
        }
        iterator.status().map_err(|error| self.fault("list the logs", &error))?;
        Ok(groups)
    }

    fn state(&self, group: RegionId) -> Result<Option<LogState>, Fault> {
        let key = state_key(group);
        let value = self
            .shared
            .db
            .get_pinned(key)
            .map_err(|error| self.fault("read the state of a log", &error))?;
        let Some(value) = value else { return Ok(None) };
        let what = format!("the state of {group}");
        let rest = self.unsealed(&key, &value, &what)?;
        decode_state(&rest)
            .map(Some)
            .ok_or_else(|| self.corrupt(&what, format!("it has {} bytes", rest.len())))
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<eraftpb::Entry>, Fault> {
        if low >= high {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key(group, high));
        // Entries are read to be sent once; they must not push data blocks out of the cache.
        options.fill_cache(false);
        let mut iterator = self.shared.db.raw_iterator_opt(options);
        iterator.seek(entry_key(group, low));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let what = format!("entry {index} of {group}");
            let key = entry_key(group, index);
            let value = match iterator.item() {
                Some((found, value)) if found == key => value,
                Some(_) | None => {
                    iterator.status().map_err(|error| self.fault("read entries", &error))?;
                    return Err(Fault::Missing { what });
                }
            };
            let rest = self.unsealed(&key, value, &what)?;
            bytes += rest.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let entry = eraftpb::Entry::decode(rest.as_slice())
                .map_err(|error| self.corrupt(&what, error.to_string()))?;
            if entry.index != index {
                return Err(self.corrupt(&what, format!("it calls itself {}", entry.index)));
            }
            entries.push(entry);
            iterator.next();
        }
        Ok(entries)
    }

    fn write(&self, batch: LogBatch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let Shared { db, directory, watermark, spans, synced } = &*self.shared;
        let mask = directory.mask();
        let mut spans = spans.lock();
        let mut written = rocksdb::WriteBatch::default();
        let mut after = Vec::with_capacity(batch.groups.len());
        for (group, write) in &batch.groups {
            after.push((*group, add(&mut written, mask, *group, spans.get(group).copied(), write)));
        }
        db.write_opt(written, synced).map_err(|error| self.fault("write the raft log", &error))?;
        watermark.raise(db.latest_sequence_number())?;
        for (group, span) in after {
            match span {
                Some(span) => spans.insert(group, span),
                None => spans.remove(&group),
            };
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.shared.directory.used_bytes()
    }
}

/// Adds one group's changes to the batch; returns which entries it has afterwards.
fn add(
    batch: &mut rocksdb::WriteBatch,
    mask: Mask,
    group: RegionId,
    mut span: Option<Span>,
    write: &GroupWrite,
) -> Option<Span> {
    if write.clear {
        batch.delete(state_key(group));
        if let Some(gone) = span.take() {
            delete_entries(batch, group, gone);
        }
    }
    if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
        let (first, last) = (first.index, last.index);
        if let Some(old) = span {
            assert!(first <= old.last + 1, "{group} would have a gap: {} then {first}", old.last);
            if last < old.last {
                delete_entries(batch, group, Span { first: old.first.max(last + 1), ..old });
            }
        }
        for (position, entry) in write.entries.iter().enumerate() {
            assert_eq!(entry.index, first + position as u64, "entries of {group} are consecutive");
            let key = entry_key(group, entry.index);
            batch.put(
                key,
                sealed(&key, mask, |value| {
                    entry.encode(value).expect("a vector grows as needed");
                }),
            );
        }
        span = Some(Span { first: span.map_or(first, |old| old.first.min(first)), last });
    }
    if let Some(old) = span.filter(|old| old.first < write.cut_before) {
        delete_entries(batch, group, Span { last: old.last.min(write.cut_before - 1), ..old });
        span = (write.cut_before <= old.last).then_some(Span { first: write.cut_before, ..old });
    }
    if let Some(state) = &write.state {
        let key = state_key(group);
        batch.put(key, sealed(&key, mask, |value| encode_state(state, value)));
    }
    span
}

fn delete_entries(batch: &mut rocksdb::WriteBatch, group: RegionId, span: Span) {
    if span.last - span.first < POINT_DELETES_MAX {
        for index in span.first..=span.last {
            batch.delete(entry_key(group, index));
        }
    } else {
        batch.delete_range(entry_key(group, span.first), entry_key(group, span.last + 1));
    }
}

/// Finds which entries each group has: two seeks a group.
fn find_spans(db: &DB) -> Result<BTreeMap<RegionId, Span>, rocksdb::Error> {
    let mut spans = BTreeMap::new();
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(AFTER_ENTRIES);
    let mut iterator = db.raw_iterator_opt(options);
    iterator.seek([ENTRY_TAG]);
    while let Some((group, first)) = iterator.key().and_then(group_and_index_of) {
        iterator.seek_for_prev(entry_key(group, u64::MAX));
        let last = iterator.key().and_then(group_and_index_of).map_or(first, |(_, last)| last);
        spans.insert(group, Span { first, last });
        iterator.next();
    }
    iterator.status()?;
    Ok(spans)
}

fn state_key(group: RegionId) -> [u8; 9] {
    let mut key = [STATE_TAG; 9];
    key[1..].copy_from_slice(&group.0.to_be_bytes());
    key
}

fn entry_key(group: RegionId, index: u64) -> [u8; 17] {
    let mut key = [ENTRY_TAG; 17];
    key[1..9].copy_from_slice(&group.0.to_be_bytes());
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

fn group_of(key: &[u8]) -> Option<RegionId> {
    let number = key.strip_prefix(&[STATE_TAG])?;
    Some(RegionId(u64::from_be_bytes(number.try_into().ok()?)))
}

fn group_and_index_of(key: &[u8]) -> Option<(RegionId, u64)> {
    let (group, index) = key.strip_prefix(&[ENTRY_TAG])?.split_at_checked(8)?;
    let group = u64::from_be_bytes(group.try_into().ok()?);
    Some((RegionId(group), u64::from_be_bytes(index.try_into().ok()?)))
}

fn checksum(key: &[u8], rest: &[u8]) -> [u8; CRC_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize().to_be_bytes()
}

/// A value with its checksum in front, both under the mask.
fn sealed(key: &[u8], mask: Mask, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut value = vec![0; CRC_BYTES];
    fill(&mut value);
    let crc = checksum(key, &value[CRC_BYTES..]);
    value[..CRC_BYTES].copy_from_slice(&crc);
    let (crc, rest) = value.split_at_mut(CRC_BYTES);
    mask.lay_over(crc);
    mask.lay_over(rest);
    value
}

fn encode_state(state: &LogState, to: &mut Vec<u8>) {
    let numbers: [u64; STATE_NUMBERS] = [
        state.hard_state.term,
        state.hard_state.vote,
        state.hard_state.commit,
        state.last_index,
        state.truncated_index,
        state.truncated_term,
    ];
    for number in numbers {
        to.extend_from_slice(&number.to_be_bytes());
    }
}

fn decode_state(bytes: &[u8]) -> Option<LogState> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: &[[u8; 8]; STATE_NUMBERS] = numbers.try_into().ok()?;
    let [term, vote, commit, last_index, truncated_index, truncated_term] =
        numbers.map(u64::from_be_bytes);
    let hard_state = eraftpb::HardState { term, vote, commit };
    rest.is_empty().then_some(LogState { hard_state, last_index, truncated_index, truncated_term })
}
