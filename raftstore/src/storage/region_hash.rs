//! What all data of a region come to in a few bytes, so that replicas can be compared.
//!
//! Two replicas with the same hash at the same index are taken for the same. The checksum is no defence against
//! somebody who means to deceive, and need not be: it is for disks and programs that err.

use std::sync::Arc;

use prost::Message as _;
use proto::{KeyRange, RegionId, metapb};

use crate::engine::{ColumnFamily, Cursor as _, Snapshot};
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
}

impl RegionHash {
    /// Its bytes: the three numbers, most significant byte first.
    pub fn encode(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..4].copy_from_slice(&self.crc.to_be_bytes());
        out[4..12].copy_from_slice(&self.keys.to_be_bytes());
        out[12..].copy_from_slice(&self.bytes.to_be_bytes());
        out
    }

    /// The hash in these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        let (keys, rest) = rest.split_first_chunk::<8>()?;
        let bytes: &[u8; 8] = rest.try_into().ok()?;
        Some(Self {
            crc: u32::from_be_bytes(*crc),
            keys: u64::from_be_bytes(*keys),
            bytes: u64::from_be_bytes(*bytes),
        })
    }
}

impl std::fmt::Display for RegionHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x} of {} keys, {} bytes", self.crc, self.keys, self.bytes)
    }
}

/// A view of a region's data, waiting to be hashed. Clones see the same.
#[derive(Clone)]
pub struct HashJob {
    region: metapb::Region,
    index: u64,
    hash: Arc<dyn Fn() -> Result<RegionHash, Fault> + Send + Sync>,
}

impl HashJob {
    /// Of this view, which holds the region as of this index.
    pub(crate) fn new(view: impl Snapshot, region: metapb::Region, index: u64) -> Self {
        let of = region.clone();
        Self { region, index, hash: Arc::new(move || hash_of(&view, &of)) }
    }

    /// Whose data.
    pub fn region(&self) -> &metapb::Region {
        &self.region
    }

    /// Of which index.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Reads everything. Takes as long as reading the region does.
    pub fn run(&self) -> Result<RegionHash, Fault> {
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

/// The hash of the region's description and of all its data.
fn hash_of(view: &impl Snapshot, region: &metapb::Region) -> Result<RegionHash, Fault> {
    let range = KeyRange::of(region);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&region.encode_to_vec());
    let (mut keys, mut bytes) = (0, 0);
    for cf in ColumnFamily::DATA {
        crc.update(&[cf as u8]);
        let mut cursor = view.cursor(cf, &range);
        let mut more = cursor.seek_to_first()?;
        while more {
            // With their lengths, so that no byte can pass from one to the next unnoticed.
            for part in [cursor.key(), cursor.value()] {
                crc.update(&(part.len() as u64).to_be_bytes());
                crc.update(part);
                bytes += part.len() as u64;
            }
            keys += 1;
            more = cursor.next()?;
        }
    }
    Ok(RegionHash { crc: crc.finalize(), keys, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryData;
    use crate::engine::{DataEngine as _, WriteBatch};

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
            HashJob::new(data.snapshot(), region.clone(), 6).run().unwrap()
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
}
