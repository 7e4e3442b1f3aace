//! What all data of a region come to in a few bytes, so that replicas can be compared.
//!
//! Two replicas with the same hash at the same index are taken for the same. The checksum is no defence against
//! somebody who means to deceive, and need not be: it is for disks and programs that err.
//!
//! Each replica removes old versions by itself, in its own time ([`crate::engine::garbage`]). So what
//! nobody sees at or after the engine's safe point is left out, and values that stand apart and began
//! before it count with the record that they belong to. Hashes of two safe points cannot be compared:
//! the safe point is part of the hash. Stores hear of a new one within seconds of each other, and a check
//! that falls between comes to nothing. An engine remembers its safe point, and a snapshot brings that of its
//! sender: what was removed by a safe point is never hashed by an older one.

use std::sync::Arc;

use prost::Message as _;
use proto::{KeyRange, RegionId, memcomparable, metapb};

use crate::engine::garbage::{self, Record, Sieve, Verdict};
use crate::engine::{ColumnFamily, Cursor as _, DataEngine, Snapshot};
use crate::error::Fault;

/// What a region's data came to at one index: a checksum and what went into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionHash {
    /// Over the region's description and every key and value, with their lengths.
    pub crc: u32,
    /// Keys, of all families.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The safe point of the engine: what nobody sees there or later was left out.
    pub safe_point: u64,
}

impl RegionHash {
    /// How many bytes it takes.
    pub const ENCODED_BYTES: usize = 28;

    /// Its bytes: the four numbers, most significant byte first.
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        out[..4].copy_from_slice(&self.crc.to_be_bytes());
        out[4..12].copy_from_slice(&self.keys.to_be_bytes());
        out[12..20].copy_from_slice(&self.bytes.to_be_bytes());
        out[20..].copy_from_slice(&self.safe_point.to_be_bytes());
        out
    }

    /// The hash in these bytes. Without a safe point, as they were once written, nothing was left out.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        let (keys, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_first_chunk::<8>()?;
        let safe_point = if rest.is_empty() { &[0; 8] } else { rest.try_into().ok()? };
        Some(Self {
            crc: u32::from_be_bytes(*crc),
            keys: u64::from_be_bytes(*keys),
            bytes: u64::from_be_bytes(*bytes),
            safe_point: u64::from_be_bytes(*safe_point),
        })
    }

    /// Whether the two may be held against each other.
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.safe_point == other.safe_point
    }
}

impl std::fmt::Display for RegionHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x} of {} keys, {} bytes", self.crc, self.keys, self.bytes)?;
        if self.safe_point > 0 {
            write!(f, ", safe point {}", self.safe_point)?;
        }
        Ok(())
    }
}

/// A view of a region's data, waiting to be hashed. Clones see the same.
#[derive(Clone)]
pub struct HashJob {
    region: metapb::Region,
    index: u64,
    hash: Arc<dyn Fn() -> Result<Option<RegionHash>, Fault> + Send + Sync>,
}

impl HashJob {
    /// Of the engine as it is now, which holds the region as of this index.
    pub(crate) fn new<D: DataEngine>(data: &D, region: metapb::Region, index: u64) -> Self {
        let (data, view, safe_point) = (data.clone(), data.snapshot(), data.safe_point());
        let of = region.clone();
        let hash = move || {
            let hash = hash_of(&view, &of, safe_point)?;
            // With a new safe point versions may have gone from the view as well.
            Ok((data.safe_point() == safe_point).then_some(hash))
        };
        Self { region, index, hash: Arc::new(hash) }
    }

    /// Whose data.
    pub fn region(&self) -> &metapb::Region {
        &self.region
    }

    /// Of which index.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Reads everything. Takes as long as reading the region does. `None` when the safe point moved
    /// meanwhile.
    pub fn run(&self) -> Result<Option<RegionHash>, Fault> {
        (self.hash)()
    }
}

impl std::fmt::Debug for HashJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashJob({} at {})", RegionId(self.region.id), self.index)
    }
}

impl PartialEq for HashJob {
    fn eq(&self, other: &Self) -> bool {
        (&self.region, self.index) == (&other.region, other.index)
    }
}

/// The hash of the region's description and of all its data that somebody may see.
fn hash_of(
    view: &impl Snapshot,
    region: &metapb::Region,
    safe_point: u64,
) -> Result<RegionHash, Fault> {
    let range = KeyRange::of(region);
    let mut sum = Sum::default();
    sum.crc.update(&region.encode_to_vec());
    for cf in ColumnFamily::DATA {
        sum.crc.update(&[cf as u8]);
        let mut sieve = Sieve::new(safe_point);
        let mut cursor = view.cursor(cf, &range);
        let mut more = cursor.seek_to_first()?;
        while more {
            let (key, value) = (cursor.key(), cursor.value());
            match cf {
                ColumnFamily::Write if sieve.look(key, value) == Verdict::Keep => {
                    sum.add(key, value);
                    if let Some(apart) = apart_below(key, value, safe_point) {
                        sum.add(
                            &apart,
                            &view.get(ColumnFamily::Default, &apart)?.unwrap_or_default(),
                        );
                    }
                }
                ColumnFamily::Write => {}
                ColumnFamily::Default if is_version_below(key, safe_point) => {}
                ColumnFamily::Default | ColumnFamily::Lock | ColumnFamily::Meta => {
                    sum.add(key, value);
                }
            }
            more = cursor.next()?;
        }
    }
    let Sum { crc, keys, bytes } = sum;
    Ok(RegionHash { crc: crc.finalize(), keys, bytes, safe_point })
}

#[derive(Default)]
struct Sum {
    crc: crc32fast::Hasher,
    keys: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // With their lengths, so that no byte can pass from one to the next unnoticed.
        for part in [key, value] {
            self.crc.update(&(part.len() as u64).to_be_bytes());
            self.crc.update(part);
            self.bytes += part.len() as u64;
        }
        self.keys += 1;
    }
}

/// A key of the default family that a value of a transaction of before the safe point would have.
fn is_version_below(engine_key: &[u8], safe_point: u64) -> bool {
    garbage::split_version(engine_key).is_some_and(|(encoded, start_ts)| {
        start_ts <= safe_point && safe_point > 0 && memcomparable::decode(encoded).is_some()
    })
}

/// Where the value of a record stands, when it stands apart and is not counted in its own family.
fn apart_below(engine_key: &[u8], record: &[u8], safe_point: u64) -> Option<bytes::Bytes> {
    let (encoded, _) = garbage::split_version(engine_key)?;
    let record = Record::parse(record).filter(|record| record.value_apart)?;
    let apart = garbage::versioned(encoded, record.start_ts);
    is_version_below(&apart, safe_point).then_some(apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::WriteBatch;
    use crate::engine::memory::MemoryData;

    #[test]
    fn every_byte_of_a_region_matters_and_no_other() {
        let region = metapb::Region {
            id: 1,
            start_key: "b".into(),
            end_key: "y".into(),
            ..Default::default()
        };
        let hash_with = |change: &dyn Fn(&mut WriteBatch), region: &metapb::Region| {
            let data = MemoryData::new();
            let mut batch = WriteBatch::new();
            for cf in ColumnFamily::ALL {
                batch.put(cf, "bc", "de");
                batch.put(cf, "f", "");
            }
            change(&mut batch);
            data.write(batch).unwrap();
            HashJob::new(&data, region.clone(), 6).run().unwrap().unwrap()
        };
        let same = hash_with(&|_| {}, &region);
        assert_eq!((same.keys, same.bytes), (6, 15));
        let outside: [&dyn Fn(&mut WriteBatch); 3] = [
            &|batch| batch.put(ColumnFamily::Default, "a", "v"),
            &|batch| batch.put(ColumnFamily::Write, "y", "v"),
            &|batch| batch.put(ColumnFamily::Meta, "c", "v"),
        ];
        for change in outside {
            assert_eq!(hash_with(change, &region), same);
        }
        let inside: [&dyn Fn(&mut WriteBatch); 5] = [
            &|batch| batch.put(ColumnFamily::Default, "bc", "dE"),
            &|batch| batch.put(ColumnFamily::Lock, "g", "v"),
            &|batch| batch.delete(ColumnFamily::Write, "f"),
            // The same bytes, otherwise parted; and in another family.
            &|batch| {
                batch.delete(ColumnFamily::Default, "bc");
                batch.put(ColumnFamily::Default, "bcd", "e");
            },
            &|batch| {
                batch.delete(ColumnFamily::Default, "f");
                batch.put(ColumnFamily::Lock, "f", "");
                batch.put(ColumnFamily::Lock, "ff", "");
            },
        ];
        for change in inside {
            assert_ne!(hash_with(change, &region), same);
        }
        let other = metapb::Region { id: 2, ..region };
        assert_ne!(hash_with(&|_| {}, &other), same);
    }

    #[test]
    fn replicas_that_have_collected_and_replicas_that_have_not_come_to_the_same() {
        let records = |batch: &mut WriteBatch, from: u64| {
            let encoded = memcomparable::encode(b"k");
            for ts in from..40 {
                // A short value, a long one (apart), a deletion, a rollback.
                let start_ts = (ts - 1) as u8;
                let record: &[u8] = match ts % 4 {
                    0 => &[b'P', start_ts, b'v', 1, b'x'],
                    1 => &[b'P', start_ts],
                    2 => &[b'D', start_ts],
                    _ => &[b'R', start_ts],
                };
                batch.put(ColumnFamily::Write, garbage::versioned(&encoded, ts), record.to_vec());
                let apart = garbage::versioned(&encoded, ts - 1);
                batch.put(ColumnFamily::Default, apart, format!("value of {ts}"));
            }
        };
        let region = metapb::Region { id: 1, ..Default::default() };
        for safe_point in [0, 12, 13, 14, 15, 16, 60] {
            let (collected, untouched) = (MemoryData::new(), MemoryData::new());
            for data in [&collected, &untouched] {
                let mut batch = WriteBatch::new();
                records(&mut batch, 1);
                data.write(batch).unwrap();
                data.raise_safe_point(safe_point).unwrap();
            }
            collected.collect_garbage(&KeyRange::all()).unwrap();
            let hash = |data: &MemoryData| HashJob::new(data, region.clone(), 6).run().unwrap();
            assert_eq!(hash(&collected), hash(&untouched), "safe point {safe_point}");
            // What somebody may see matters as before.
            let before = hash(&untouched);
            let mut batch = WriteBatch::new();
            let seen = garbage::versioned(&memcomparable::encode(b"k"), 37);
            batch.put(ColumnFamily::Write, seen, &[b'P', 35][..]);
            untouched.write(batch).unwrap();
            assert_eq!(hash(&untouched) == before, safe_point == 60);
            // A safe point that moves while a hash is computed leaves nothing to be compared.
            let job = HashJob::new(&untouched, region.clone(), 6);
            untouched.raise_safe_point(safe_point + 1).unwrap();
            assert_eq!(job.run().unwrap(), None);
        }
    }
}
