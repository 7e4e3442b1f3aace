//! The data engine on RocksDB.
//!
//! A batch becomes one RocksDB batch over four column families, written to the WAL without a sync.
//! Reads go through pinned slices: one copy, from RocksDB's block into the answer.
//!
//! Invariant: after [`DataEngine::sync`] no loss of power takes what was written before it, and
//! opening refuses if something took it nevertheless.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::KeyRange;
use rocksdb::{ColumnFamilyDescriptor, DB, ReadOptions};

use super::collection::Collection;
use super::directory::{Directory, Kind};
use super::pinned::{PinnedIterator, PinnedSnapshot};
use super::watermark::Watermark;
use super::{Options, fault, open_fault};
use crate::engine::middle::{self, ends};
use crate::engine::{
    Change, ColumnFamily, Cursor, DataEngine, RangeSize, Snapshot, WriteBatch, garbage,
};
use crate::error::Fault;

/// Keys and values of a range that are counted one by one for [`DataEngine::approximate_size`].
/// Beyond, the size is estimated: RocksDB knows files well and its memtables hardly.
const COUNTED_BYTES_MAX: u64 = 4 << 20;
/// The same limit for many small keys.
const COUNTED_KEYS_MAX: u64 = 64 << 10;
/// Records of a range that are swept by writes. Of a larger one so many are looked at, and when enough
/// of them are garbage its files are compacted.
const SWEPT_RECORDS_MAX: u64 = 32 << 10;
/// Enough is one in so many.
const COMPACTED_SHARE_MIN: u64 = 5;
/// Larger than any key in use, as the end of a range that has none; only for estimates.
const BEYOND_KEYS: [u8; 32] = [0xff; 32];

/// A store's data in RocksDB. Clones share one database; the last one closes it, once its
/// snapshots and cursors are gone too.
#[derive(Clone)]
pub struct RocksData {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<DB>,
    directory: Directory,
    watermark: Watermark,
    collection: Collection,
}

impl RocksData {
    /// Opens the engine in this directory, creating it if it is empty or missing.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Fault> {
        let directory = Directory::claim(path, Kind::Data)?;
        let collection = Collection::default();
        let families = ColumnFamily::ALL.map(|cf| {
            let mut options = options.family(cf);
            if cf == ColumnFamily::Write {
                options.set_compaction_filter_factory(collection.filters());
            }
            ColumnFamilyDescriptor::new(cf.name(), options)
        });
        let db = DB::open_cf_descriptors(&options.data(), path, families)
            .map_err(|error| open_fault("open the data engine", path, &error))?;
        let watermark = Watermark::open(path)?;
        watermark.check(db.latest_sequence_number(), path)?;
        let record = db
            .get_pinned_cf(family(&db, ColumnFamily::Meta), garbage::SAFE_POINT_KEY)
            .map_err(|error| open_fault("read the safe point", path, &error))?;
        collection.raise(garbage::remembered(record.as_deref())?, || Ok(()))?;
        drop(record);
        let db = Arc::new(db);
        Ok(Self { shared: Arc::new(Shared { db, directory, watermark, collection }) })
    }

    /// Rewrites the files that hold the range's records, without the garbage among them.
    pub fn compact_records(&self, range: &KeyRange) -> Result<(), Fault> {
        let mut options = rocksdb::CompactOptions::default();
        // Files of the last level too: that is where most garbage is.
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        let (db, end) = (&self.shared.db, range.end.as_deref());
        let records = family(db, ColumnFamily::Write);
        db.compact_range_cf_opt(records, Some(range.start.as_ref()), end, &options);
        self.sweep_noted(range)
    }

    /// Removes what filters cannot remove by themselves.
    fn sweep_noted(&self, range: &KeyRange) -> Result<(), Fault> {
        for key in self.shared.collection.take_noted(range) {
            let of_key = garbage::versions_of(&key);
            let found = garbage::sweep(&self.snapshot(), &of_key, self.safe_point(), u64::MAX)?;
            self.write(found.batch)?;
        }
        Ok(())
    }

    /// The number of the newest change, as RocksDB counts them. It only grows.
    pub fn newest_change(&self) -> u64 {
        self.shared.db.latest_sequence_number()
    }

    fn fault(&self, attempt: &'static str, error: &rocksdb::Error) -> Fault {
        fault(attempt, self.shared.directory.path(), error)
    }

    /// A key just after the last one that is or will be there, given the changes that come before
    /// in the same batch; `None` when there is no key at all. RocksDB's range deletion has no +inf.
    fn end_of_keys(&self, cf: ColumnFamily, before: &[Change]) -> Result<Option<Vec<u8>>, Fault> {
        let mut iterator = self.shared.db.raw_iterator_cf(family(&self.shared.db, cf));
        iterator.seek_to_last();
        iterator.status().map_err(|error| self.fault("find the last key", &error))?;
        let there = iterator.key();
        let coming = before.iter().filter_map(|change| match change {
            Change::Put { cf: of, key, .. } if *of == cf => Some(key.as_ref()),
            Change::Put { .. } | Change::Delete { .. } | Change::DeleteRange { .. } => None,
        });
        Ok(there.into_iter().chain(coming).max().map(|key| [key, &[0]].concat()))
    }

    /// What the range holds, counted until a limit; the flag says whether all was.
    fn count(&self, cf: ColumnFamily, range: &KeyRange) -> Result<(RangeSize, bool), Fault> {
        let mut cursor = self.snapshot().cursor(cf, range);
        let mut size = RangeSize::default();
        let mut more = cursor.seek_to_first()?;
        while more {
            size.bytes += (cursor.key().len() + cursor.value().len()) as u64;
            size.keys += 1;
            if size.bytes > COUNTED_BYTES_MAX || size.keys > COUNTED_KEYS_MAX {
                return Ok((size, false));
            }
            more = cursor.next()?;
        }
        Ok((size, true))
    }

    /// The range's share, by the size of its files, of what all files and memtables of the family
    /// hold. Files are compressed, so their own size says little; each knows what went into it.
    fn estimate(&self, cf: ColumnFamily, range: &KeyRange) -> Result<RangeSize, Fault> {
        let db = &self.shared.db;
        let handle = family(db, cf);
        let number = |property| {
            db.property_int_value_cf(handle, property)
                .map(|number| number.unwrap_or(0))
                .map_err(|error| self.fault("read the size of memtables", &error))
        };
        let mut all = self.content_of_files(cf)?;
        all += RangeSize {
            bytes: number(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES)?,
            keys: number(rocksdb::properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)?
                + number(rocksdb::properties::NUM_ENTRIES_IMM_MEM_TABLES)?,
        };
        let (of_range, of_all) =
            (self.file_bytes(cf, range), self.file_bytes(cf, &KeyRange::all()));
        if of_all == 0 {
            return Ok(all);
        }
        let share =
            |number: u64| (u128::from(number) * u128::from(of_range) / u128::from(of_all)) as u64;
        Ok(RangeSize { bytes: share(all.bytes), keys: share(all.keys) })
    }

    /// Bytes of the files' blocks that hold the range: asks their indexes, reads no block.
    fn file_bytes(&self, cf: ColumnFamily, range: &KeyRange) -> u64 {
        let db = &self.shared.db;
        let end = range.end.as_deref().unwrap_or(&BEYOND_KEYS);
        let range = rocksdb::Range::new(&range.start, end);
        db.get_approximate_sizes_cf(family(db, cf), &[range]).into_iter().sum()
    }

    /// Keys and values that were put into the family's files.
    fn content_of_files(&self, cf: ColumnFamily) -> Result<RangeSize, Fault> {
        let db = &self.shared.db;
        let property = rocksdb::properties::AGGREGATED_TABLE_PROPERTIES;
        let told = db
            .property_value_cf(family(db, cf), property)
            .map_err(|error| self.fault("read the properties of files", &error))?;
        Ok(told.map_or_else(RangeSize::default, |told| content_in(&told)))
    }
}

/// What RocksDB's text about files says went into them.
fn content_in(told: &str) -> RangeSize {
    let number = |name: &str| {
        let of = |part: &str| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        told.split(';').find_map(of).unwrap_or(0u64)
    };
    let keys = number("# entries");
    // RocksDB adds eight bytes of its own to each key.
    let bytes = (number("raw key size") + number("raw value size")).saturating_sub(8 * keys);
    RangeSize { bytes, keys }
}

/// The families are opened with the database and never dropped.
fn family(db: &DB, cf: ColumnFamily) -> &rocksdb::ColumnFamily {
    db.cf_handle(cf.name()).expect("every family is opened with the database")
}

impl DataEngine for RocksData {
    type Snapshot = RocksSnapshot;

    fn snapshot(&self) -> RocksSnapshot {
        RocksSnapshot {
            pinned: Arc::new(PinnedSnapshot::new(&self.shared.db)),
            collection: self.shared.collection.clone(),
        }
    }

    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.shared
            .db
            .get_pinned_cf(family(&self.shared.db, cf), key)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| self.fault("read a key", &error))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let db = &self.shared.db;
        let handles = ColumnFamily::ALL.map(|cf| family(db, cf));
        let handle = |cf: ColumnFamily| handles[cf as usize];
        // A record's header and lengths take about a dozen bytes.
        let mut written =
            rocksdb::WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len() + 16);
        for (position, change) in batch.changes().iter().enumerate() {
            match change {
                Change::Put { cf, key, value } => written.put_cf(handle(*cf), key, value),
                Change::Delete { cf, key } => written.delete_cf(handle(*cf), key),
                Change::DeleteRange { cf, range } => {
                    let end = match &range.end {
                        Some(end) => Some(end.to_vec()),
                        None => self.end_of_keys(*cf, &batch.changes()[..position])?,
                    };
                    // RocksDB takes a range that ends before it starts for a mistake.
                    if let Some(end) = end.filter(|end| range.start.as_ref() < end.as_slice()) {
                        written.delete_range_cf(handle(*cf), range.start.as_ref(), &end);
                    }
                }
            }
        }
        db.write(written).map_err(|error| self.fault("write data", &error))
    }

    fn sync(&self) -> Result<(), Fault> {
        let written = self.shared.db.latest_sequence_number();
        self.shared
            .db
            .flush_wal(true)
            .map_err(|error| self.fault("sync the data engine", &error))?;
        self.shared.watermark.raise(written)
    }

    /// Small ranges are counted exactly, larger ones are estimated from their files.
    fn approximate_size(&self, range: &KeyRange) -> Result<RangeSize, Fault> {
        let mut sum = RangeSize::default();
        if range.is_empty() {
            return Ok(sum);
        }
        for cf in ColumnFamily::DATA {
            let (counted, all) = self.count(cf, range)?;
            let estimated = if all { counted } else { self.estimate(cf, range)? };
            let (bytes, keys) =
                (counted.bytes.max(estimated.bytes), counted.keys.max(estimated.keys));
            sum += RangeSize::of_family(cf, bytes, keys);
        }
        Ok(sum)
    }

    /// By the indexes of files; of memtables nothing is known.
    fn approximate_middle(&self, range: &KeyRange) -> Result<Option<Bytes>, Fault> {
        let file_bytes = |range: &KeyRange| {
            ColumnFamily::DATA.into_iter().map(|cf| self.file_bytes(cf, range)).sum()
        };
        let in_files: u64 = file_bytes(range);
        if in_files < COUNTED_BYTES_MAX {
            return Ok(None);
        }
        let Some((first, last)) = ends(&self.snapshot(), range)? else { return Ok(None) };
        middle::find(&first, &last, |part| Ok(file_bytes(part)))
    }

    fn raise_safe_point(&self, safe_point: u64) -> Result<(), Fault> {
        self.shared.collection.raise(safe_point, || {
            self.write(garbage::remember(safe_point))?;
            self.sync()
        })
    }

    fn safe_point(&self) -> u64 {
        self.shared.collection.safe_point()
    }

    fn collect_garbage(&self, range: &KeyRange) -> Result<u64, Fault> {
        let safe_point = self.safe_point();
        if safe_point == 0 || range.is_empty() {
            return Ok(0);
        }
        let found = garbage::sweep(&self.snapshot(), range, safe_point, SWEPT_RECORDS_MAX)?;
        if found.next.is_none() {
            // With all of the range, also what filters have noted of it.
            self.shared.collection.take_noted(range);
            self.write(found.batch)?;
        } else if found.garbage * COMPACTED_SHARE_MIN >= found.looked {
            self.compact_records(range)?;
        } else {
            self.sweep_noted(range)?;
        }
        Ok(found.garbage)
    }

    fn used_bytes(&self) -> u64 {
        self.shared.directory.used_bytes()
    }
}

/// A view of the data at one instant. Keeps the database open.
#[derive(Clone)]
pub struct RocksSnapshot {
    pinned: Arc<PinnedSnapshot>,
    collection: Collection,
}

impl Snapshot for RocksSnapshot {
    type Cursor = RocksCursor;

    /// The engine's: filters do not look at snapshots.
    fn safe_point(&self) -> u64 {
        self.collection.safe_point()
    }

    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let db = self.pinned.db();
        self.pinned
            .snapshot()
            .get_pinned_cf(family(db, cf), key)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| fault("read a key", db.path(), &error))
    }

    fn cursor(&self, cf: ColumnFamily, range: &KeyRange) -> RocksCursor {
        if range.is_empty() {
            return RocksCursor { position: None };
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start.as_ref());
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.as_ref());
        }
        let db = self.pinned.db();
        let position = PinnedIterator::new(&self.pinned, family(db, cf), options);
        RocksCursor { position: Some(position) }
    }
}

/// A position in a [`RocksSnapshot`]. Keeps the snapshot, and so the database.
pub struct RocksCursor {
    /// `None` over an empty range, which RocksDB's bounds cannot express.
    position: Option<PinnedIterator>,
}

impl RocksCursor {
    fn step(
        &mut self,
        act: impl for<'a> FnOnce(&mut rocksdb::DBRawIterator<'a>),
    ) -> Result<bool, Fault> {
        let Some(position) = &mut self.position else { return Ok(false) };
        position.step(act);
        let iterator = position.iterator();
        if iterator.valid() {
            return Ok(true);
        }
        // The end of the range and a block that cannot be read look alike until asked.
        iterator.status().map(|()| false).map_err(|error| {
            if error.kind() == rocksdb::ErrorKind::Corruption {
                Fault::Corrupt { place: "a data file".to_owned(), detail: error.to_string() }
            } else {
                Fault::Engine { attempt: "move a cursor", cause: error.to_string() }
            }
        })
    }
}

impl Cursor for RocksCursor {
    fn seek_to_first(&mut self) -> Result<bool, Fault> {
        self.step(|iterator| iterator.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<bool, Fault> {
        self.step(|iterator| iterator.seek_to_last())
    }

    fn seek(&mut self, key: &[u8]) -> Result<bool, Fault> {
        self.step(|iterator| iterator.seek(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, Fault> {
        self.step(|iterator| iterator.seek_for_prev(key))
    }

    fn next(&mut self) -> Result<bool, Fault> {
        assert!(self.is_on_key(), "a cursor that moves on must be on a key");
        self.step(|iterator| iterator.next())
    }

    fn prev(&mut self) -> Result<bool, Fault> {
        assert!(self.is_on_key(), "a cursor that moves back must be on a key");
        self.step(|iterator| iterator.prev())
    }

    fn is_on_key(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.iterator().valid())
    }

    fn key(&self) -> &[u8] {
        let key = self.position.as_ref().and_then(|position| position.iterator().key());
        key.expect("a cursor that is asked for its key must be on one")
    }

    fn value(&self) -> &[u8] {
        let value = self.position.as_ref().and_then(|position| position.iterator().value());
        value.expect("a cursor that is asked for a value must be on a key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_hold_is_read_from_rocksdbs_text() {
        let told = "# data blocks=7; # entries=100; # deletions=3; raw key size=2400; \
                    raw average key size=24.000000; raw value size=5000; data block size=900; ";
        assert_eq!(content_in(told), RangeSize { bytes: 2400 + 5000 - 800, keys: 100 });
        assert_eq!(content_in("nothing of the kind"), RangeSize::default());
    }
}
