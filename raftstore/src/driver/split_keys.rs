//! How large a region is, and where it could be cut.
//!
//! Keys of all data families are walked in one order, so that a lock, its value and its commit
//! record count on the same side of a cut. A cut never separates the versions of one key: of a
//! memcomparable key with a timestamp behind it only the key is taken.

use bytes::Bytes;
use proto::{KeyRange, memcomparable};

use crate::engine::{ColumnFamily, Cursor, Snapshot};
use crate::error::Fault;

/// Bytes of a timestamp behind an encoded key.
const TIMESTAMP_BYTES: usize = 8;

/// What a look at a region found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// First keys of the new parts, ascending; none when the region is not large enough.
    pub(crate) keys: Vec<Bytes>,
    /// Bytes of keys and values.
    pub(crate) size_bytes: u64,
    /// Keys, roughly: those of the family that has most.
    pub(crate) size_keys: u64,
}

/// Looks at a range. It is cut when it is larger than `split_bytes`, into parts of about
/// `part_bytes`; a `part_bytes` of 0 cuts it in half.
pub(crate) fn find<S: Snapshot>(
    snapshot: &S,
    range: &KeyRange,
    split_bytes: u64,
    part_bytes: u64,
) -> Result<Found, Fault> {
    let mut found = Found::default();
    let mut keys_by_family = [0; ColumnFamily::DATA.len()];
    let mut cuts: Vec<(Bytes, u64)> = Vec::new();
    let mut part = 0;
    walk(snapshot, range, |cf, key, bytes| {
        keys_by_family[cf as usize] += 1;
        if part_bytes > 0 && part >= part_bytes {
            let key = user_key(key);
            if is_cut(&key, range, cuts.last().map(|(last, _)| last)) {
                cuts.push((key, found.size_bytes));
                part = 0;
            }
        }
        part += bytes;
        found.size_bytes += bytes;
    })?;
    found.size_keys = keys_by_family.into_iter().max().unwrap_or(0);
    if found.size_bytes <= split_bytes && split_bytes > 0 {
        return Ok(found);
    }
    if part_bytes == 0 {
        found.keys = middle(snapshot, range, found.size_bytes)?.into_iter().collect();
        return Ok(found);
    }
    // A last part of less than half the usual size is not worth a region.
    if cuts.last().is_some_and(|(_, at)| (found.size_bytes - at) * 2 < part_bytes) {
        cuts.pop();
    }
    found.keys = cuts.into_iter().map(|(key, _)| key).collect();
    Ok(found)
}

/// The first possible cut at or after the middle; without one, the last before it.
fn middle<S: Snapshot>(
    snapshot: &S,
    range: &KeyRange,
    size_bytes: u64,
) -> Result<Option<Bytes>, Fault> {
    let mut seen = 0;
    let mut chosen: Option<Bytes> = None;
    let mut is_past = false;
    walk(snapshot, range, |_, key, bytes| {
        if !is_past {
            let key = user_key(key);
            if is_cut(&key, range, None) {
                is_past = seen * 2 >= size_bytes;
                chosen = Some(key);
            }
        }
        seen += bytes;
    })?;
    Ok(chosen)
}

/// Whether a region may begin at this key: inside the range, and after the cut before.
fn is_cut(key: &Bytes, range: &KeyRange, last: Option<&Bytes>) -> bool {
    range.contains(key) && *key > range.start && last.is_none_or(|last| last < key)
}

/// The key without a timestamp, if it seems to have one. A raw key that looks alike loses its last
/// bytes, which makes the cut a little earlier and nothing worse.
fn user_key(key: &[u8]) -> Bytes {
    let without = match memcomparable::decode_prefix(key) {
        Some((_, taken)) if taken + TIMESTAMP_BYTES == key.len() => &key[..taken],
        Some(_) | None => key,
    };
    Bytes::copy_from_slice(without)
}

/// Visits every pair of the data families, in key order over all of them.
fn walk<S: Snapshot>(
    snapshot: &S,
    range: &KeyRange,
    mut visit: impl FnMut(ColumnFamily, &[u8], u64),
) -> Result<(), Fault> {
    let mut cursors = Vec::new();
    for cf in ColumnFamily::DATA {
        let mut cursor = snapshot.cursor(cf, range);
        if cursor.seek_to_first()? {
            cursors.push((cf, cursor));
        }
    }
    while let Some(first) =
        (0..cursors.len()).min_by(|a, b| cursors[*a].1.key().cmp(cursors[*b].1.key()))
    {
        let (cf, cursor) = &mut cursors[first];
        visit(*cf, cursor.key(), (cursor.key().len() + cursor.value().len()) as u64);
        if !cursor.next()? {
            cursors.remove(first);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryData;
    use crate::engine::{DataEngine, WriteBatch};

    fn engine(pairs: impl IntoIterator<Item = (ColumnFamily, Vec<u8>)>) -> MemoryData {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for (cf, key) in pairs {
            let padding = 100 - key.len();
            batch.put(cf, key, vec![b'.'; padding]);
        }
        data.write(batch).unwrap();
        data
    }

    fn numbered(count: u32) -> impl Iterator<Item = (ColumnFamily, Vec<u8>)> {
        (0..count).map(|number| (ColumnFamily::Default, format!("{number:04}").into_bytes()))
    }

    #[test]
    fn a_large_region_is_cut_into_parts_and_a_small_one_is_not() {
        let snapshot = engine(numbered(100)).snapshot();
        let found = find(&snapshot, &KeyRange::all(), 5_000, 3_000).unwrap();
        assert_eq!((found.size_bytes, found.size_keys), (10_000, 100));
        assert_eq!(found.keys, ["0030", "0060"], "the rest is too small for a part of its own");
        let found = find(&snapshot, &KeyRange::all(), 10_000, 3_000).unwrap();
        assert_eq!(found.keys, Vec::<Bytes>::new());
    }

    #[test]
    fn any_region_with_two_keys_can_be_cut_in_half() {
        for (count, cut) in [(100, "0050"), (3, "0002"), (2, "0001")] {
            let snapshot = engine(numbered(count)).snapshot();
            let found = find(&snapshot, &KeyRange::all(), 0, 0).unwrap();
            assert_eq!(found.keys, [cut]);
        }
        let range = KeyRange::from_wire("0000", "");
        assert_eq!(find(&engine(numbered(1)).snapshot(), &range, 0, 0).unwrap().keys.len(), 0);
    }

    #[test]
    fn a_cut_never_separates_the_versions_of_a_key() {
        let versions = (0..10u64).map(|version| {
            let mut key = memcomparable::encode(b"k").to_vec();
            key.extend_from_slice(&(!version).to_be_bytes());
            (ColumnFamily::Write, key)
        });
        let range = KeyRange::from_wire(memcomparable::encode(b"k"), "");
        let found = find(&engine(versions).snapshot(), &range, 0, 0).unwrap();
        assert_eq!((found.keys.len(), found.size_keys), (0, 10));
    }
}
