//! Where to cut a region, and how large it is. For the background worker.
//!
//! | search | cuts | reads |
//! |---|---|---|
//! | [`SplitSearch::TooLarge`] | into parts, when there are more bytes or keys than allowed | nothing while the engine's estimate is below the limits; else the whole region, once |
//! | [`SplitSearch::Middle`] | in two, whatever the size | the whole region, once; or, if an estimate will do, one key |
//!
//! **Versions stay together.** Versions of a user key differ in their last eight bytes; a region is cut at
//! the user key without them. Raw keys are cut as they are.
//!
//! **Keys are records.** Where a region may hold so many keys, records of transactions are meant, each version
//! by itself ([`RangeSize::keys`]); bytes are those of all families.
//!
//! **Nothing for nothing.** A cut has something before it and something behind it: the first user key of a
//! region is not a place to cut at. A region that is one user key is left as it is.
//!
//! While reading in search of the middle, one candidate for about each thousandth of the bytes is kept.

use bytes::Bytes;
use proto::{KeyRange, memcomparable, metapb};

use crate::config::Config;
use crate::engine::{ColumnFamily, Cursor as _, DataEngine, RangeSize, Snapshot};
use crate::error::Fault;
use crate::operation::split::PARTS_MAX;

/// Length of the timestamp at the end of a versioned key.
const TIMESTAMP_BYTES: usize = 8;

/// Candidates for the middle that are kept; at the limit every other one is dropped.
const CANDIDATES_MAX: usize = 1024;

/// What is looked for in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitSearch {
    /// Keys that cut it into parts of the wanted size, if it is too large.
    TooLarge(SplitLimits),
    /// The key in its middle.
    Middle {
        /// An estimate will do; where none can be had the region is read.
        approximate: bool,
    },
}

/// When a region is too large, and how large the parts shall be. A zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitLimits {
    /// More than this is too much.
    pub split: RangeSize,
    /// A part ends when it holds as much of either. Where a limit has no part, it is cut in half.
    pub part: RangeSize,
}

impl SplitLimits {
    /// The limits that were configured.
    pub fn of(config: &Config) -> Self {
        Self {
            split: RangeSize { bytes: config.region_split_bytes, keys: config.region_split_keys },
            part: RangeSize { bytes: config.region_part_bytes, keys: config.region_part_keys },
        }
    }

    fn are_passed(&self, size: RangeSize) -> bool {
        let passes = |limit: u64, have: u64| limit > 0 && have > limit;
        passes(self.split.bytes, size.bytes) || passes(self.split.keys, size.keys)
    }

    /// A part is full when it holds so much of either.
    fn full_part(&self) -> RangeSize {
        let part = |limit: u64, part: u64| match (limit, part) {
            (0, _) => u64::MAX,
            (limit, 0) => limit.div_ceil(2),
            (_, part) => part,
        };
        RangeSize {
            bytes: part(self.split.bytes, self.part.bytes),
            keys: part(self.split.keys, self.part.keys),
        }
    }
}

/// Where a region could be cut, and how large it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundKeys {
    /// First keys of the right parts; none when it should stay as it is.
    pub keys: Vec<Bytes>,
    /// What it holds; an estimate unless it was read.
    pub size: RangeSize,
}

/// Looks where to cut a region.
pub fn find_keys(
    data: &impl DataEngine,
    region: &metapb::Region,
    search: SplitSearch,
) -> Result<FoundKeys, Fault> {
    let range = KeyRange::of(region);
    match search {
        SplitSearch::TooLarge(limits) => {
            let size = data.approximate_size(&range)?;
            if limits.are_passed(size) {
                by_limits(&data.snapshot(), &range, &limits)
            } else {
                Ok(FoundKeys { keys: Vec::new(), size })
            }
        }
        SplitSearch::Middle { approximate } => {
            if approximate
                && let Some(place) = data.approximate_middle(&range)?
                && let Some(key) = cut_near(&data.snapshot(), &range, &place)?
            {
                let size = data.approximate_size(&range)?;
                return Ok(FoundKeys { keys: vec![key], size });
            }
            in_half(&data.snapshot(), &range)
        }
    }
}

/// Reads the region and notes a key each time a part is full.
fn by_limits(
    snapshot: &impl Snapshot,
    range: &KeyRange,
    limits: &SplitLimits,
) -> Result<FoundKeys, Fault> {
    let part = limits.full_part();
    let mut found = FoundKeys::default();
    let mut since = RangeSize::default();
    let mut cuts = Cuts::default();
    walk(snapshot, range, |cf, key, bytes| {
        let is_full = since.bytes >= part.bytes || since.keys >= part.keys;
        if let Some(key) = cuts.at(cf, key, is_full) {
            found.keys.push(key);
            since = RangeSize::default();
        }
        let pair = RangeSize::of_family(cf, bytes, 1);
        since += pair;
        found.size += pair;
    })?;
    if !limits.are_passed(found.size) {
        found.keys.clear();
    } else if since.bytes * 2 < part.bytes && since.keys * 2 < part.keys {
        // Not for the sake of a small last part.
        found.keys.pop();
    }
    found.keys.truncate(PARTS_MAX);
    Ok(found)
}

/// Reads the region and chooses the key nearest to the middle of its bytes.
fn in_half(snapshot: &impl Snapshot, range: &KeyRange) -> Result<FoundKeys, Fault> {
    let mut size = RangeSize::default();
    let mut candidates: Vec<(u64, Bytes)> = Vec::new();
    let (mut since, mut apart) = (0, 0);
    let mut cuts = Cuts::default();
    walk(snapshot, range, |cf, key, bytes| {
        if let Some(key) = cuts.at(cf, key, since >= apart) {
            candidates.push((size.bytes, key));
            since = 0;
        }
        if candidates.len() > CANDIDATES_MAX {
            let mut is_odd = false;
            candidates.retain(|_| {
                is_odd = !is_odd;
                is_odd
            });
            apart = size.bytes / (CANDIDATES_MAX as u64 / 2);
        }
        since += bytes;
        size += RangeSize::of_family(cf, bytes, 1);
    })?;
    let nearest = candidates.into_iter().min_by_key(|(before, _)| before.abs_diff(size.bytes / 2));
    Ok(FoundKeys { keys: nearest.map(|(_, key)| key).into_iter().collect(), size })
}

/// The first key to cut at from here on that has something before it.
fn cut_near(
    snapshot: &impl Snapshot,
    range: &KeyRange,
    place: &[u8],
) -> Result<Option<Bytes>, Fault> {
    let mut first: Option<Bytes> = None;
    let mut near: Option<Bytes> = None;
    for cf in ColumnFamily::DATA {
        let mut cursor = snapshot.cursor(cf, range);
        if cursor.seek_to_first()? {
            first = first.into_iter().chain(cut_key(cf, cursor.key())).min();
        }
        if cursor.seek(place)? {
            near = near.into_iter().chain(cut_key(cf, cursor.key())).min();
        }
    }
    Ok(near.filter(|near| first.is_some_and(|first| first < *near)))
}

/// Visits the pairs of all families in key order, with their bytes.
fn walk(
    snapshot: &impl Snapshot,
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
    while let Some(least) = (0..cursors.len()).min_by_key(|at| cursors[*at].1.key()) {
        let (cf, cursor) = &mut cursors[least];
        visit(*cf, cursor.key(), (cursor.key().len() + cursor.value().len()) as u64);
        if !cursor.next()? {
            cursors.swap_remove(least);
        }
    }
    Ok(())
}

/// The places to cut at, in the order of a walk.
#[derive(Default)]
struct Cuts {
    /// The first user key, and then the last place that was taken.
    last: Option<Bytes>,
}

impl Cuts {
    /// The place to cut at before this key, if one is wanted and it lies behind the last one.
    fn at(&mut self, cf: ColumnFamily, key: &[u8], is_wanted: bool) -> Option<Bytes> {
        if self.last.is_some() && !is_wanted {
            return None;
        }
        let place = cut_key(cf, key)?;
        match &self.last {
            None => {
                self.last = Some(place);
                None
            }
            Some(last) => (*last < place).then(|| {
                self.last = Some(place.clone());
                place
            }),
        }
    }
}

/// The key to cut at before this one: without its timestamp, so that all versions go to one side. A key
/// of the default family is taken for versioned when it looks so.
fn cut_key(cf: ColumnFamily, key: &[u8]) -> Option<Bytes> {
    let user_key = key.len().checked_sub(TIMESTAMP_BYTES).map(|length| &key[..length]);
    match (cf, user_key) {
        (ColumnFamily::Write, Some(user_key)) => Some(Bytes::copy_from_slice(user_key)),
        (ColumnFamily::Write, None) | (ColumnFamily::Meta, _) => None,
        (ColumnFamily::Default, Some(user_key)) if memcomparable::decode(user_key).is_some() => {
            Some(Bytes::copy_from_slice(user_key))
        }
        (ColumnFamily::Default | ColumnFamily::Lock, _) => Some(Bytes::copy_from_slice(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::WriteBatch;
    use crate::engine::memory::MemoryData;

    fn region() -> metapb::Region {
        metapb::Region { id: 1, end_key: "z".into(), ..Default::default() }
    }

    fn limits(split: (u64, u64), part: (u64, u64)) -> SplitSearch {
        let size = |(bytes, keys)| RangeSize { bytes, keys };
        SplitSearch::TooLarge(SplitLimits { split: size(split), part: size(part) })
    }

    fn keys_of(data: &MemoryData, search: SplitSearch) -> Vec<Bytes> {
        find_keys(data, &region(), search).unwrap().keys
    }

    fn middles(data: &MemoryData) -> [Vec<Bytes>; 2] {
        [false, true].map(|approximate| keys_of(data, SplitSearch::Middle { approximate }))
    }

    /// Ten keys of ten bytes each.
    fn ten() -> MemoryData {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for at in 0..10u8 {
            batch.put(ColumnFamily::Default, vec![b'a' + at], vec![0; 9]);
        }
        data.write(batch).unwrap();
        data
    }

    #[test]
    fn a_large_region_is_cut_into_parts_of_the_wanted_size() {
        let data = ten();
        let by_bytes = |split, part| keys_of(&data, limits((split, 0), (part, 0)));
        assert_eq!(by_bytes(100, 30), Vec::<Bytes>::new());
        assert_eq!(by_bytes(99, 30), [Bytes::from("d"), "g".into()]);
        assert_eq!(by_bytes(99, 40), [Bytes::from("e"), "i".into()]);
        assert_eq!(by_bytes(99, 0), [Bytes::from("f")]);
    }

    /// Where a region of so many mebibytes is cut that is split above `max` mebibytes into parts of `part`; the
    /// sizes of its parts.
    fn parts_of(mib: u32, max: u64, part: u64) -> Vec<u32> {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        let value = Bytes::from(vec![0; (1 << 20) - 4]);
        for at in 0..mib {
            batch.put(ColumnFamily::Default, format!("k{at:03}"), value.clone());
        }
        data.write(batch).unwrap();
        let config = Config {
            region_split_bytes: max << 20,
            region_part_bytes: part << 20,
            ..Config::default()
        };
        let cuts = keys_of(&data, SplitSearch::TooLarge(SplitLimits::of(&config)));
        let at = |key: &Bytes| std::str::from_utf8(&key[1..]).unwrap().parse::<u32>().unwrap();
        let bounds: Vec<u32> = [0].into_iter().chain(cuts.iter().map(at)).chain([mib]).collect();
        bounds.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// S0.2: a region that may hold 64 MiB is split when it holds more, and not before.
    #[test]
    fn more_than_64_mib_are_split_where_that_is_the_limit() {
        assert_eq!(parts_of(64, 64, 42), [64]);
        assert_eq!(parts_of(65, 64, 42), [42, 23]);
    }

    /// S1.14: with parts of 64 MiB and a limit of 96 a region is split in two when it has passed the limit; the first
    /// part has the wanted size and the second is not less than half of it. Of twice 64 MiB both halves are even.
    #[test]
    fn more_than_96_mib_are_split_in_two_parts_of_about_64() {
        assert_eq!(parts_of(96, 96, 64), [96]);
        assert_eq!(parts_of(97, 96, 64), [64, 33]);
        assert_eq!(parts_of(128, 96, 64), [64, 64]);
    }

    /// Ten records of ten bytes each.
    fn ten_records() -> MemoryData {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for at in 0..10u8 {
            let key = [&[b'a' + at][..], &[0; TIMESTAMP_BYTES]].concat();
            batch.put(ColumnFamily::Write, key, "w");
        }
        data.write(batch).unwrap();
        data
    }

    #[test]
    fn many_small_records_are_too_many_too() {
        let data = ten_records();
        let by_keys = |split, part| keys_of(&data, limits((0, split), (0, part)));
        assert_eq!(by_keys(10, 5), Vec::<Bytes>::new());
        assert_eq!(by_keys(9, 5), [Bytes::from("f")]);
        assert_eq!(by_keys(9, 3), [Bytes::from("d"), "g".into()]);
        // Whichever is full first ends a part.
        assert_eq!(
            keys_of(&data, limits((1000, 9), (20, 6))),
            [Bytes::from("c"), "e".into(), "g".into(), "i".into()]
        );
        assert_eq!(keys_of(&data, limits((0, 0), (0, 0))), Vec::<Bytes>::new());
        assert_eq!(keys_of(&ten(), limits((0, 9), (0, 5))), Vec::<Bytes>::new(), "raw keys");
    }

    #[test]
    fn a_middle_is_found_by_reading_and_by_estimate() {
        assert_eq!(middles(&ten()), [[Bytes::from("f")], [Bytes::from("f")]]);
        assert_eq!(middles(&MemoryData::new()), [Vec::<Bytes>::new(), Vec::new()]);
    }

    #[test]
    fn many_candidates_are_thinned_out() {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for at in 0..10_000u32 {
            batch.put(ColumnFamily::Default, format!("k{at:05}"), "v");
        }
        data.write(batch).unwrap();
        for keys in middles(&data) {
            let number: u32 = std::str::from_utf8(&keys[0][1..]).unwrap().parse().unwrap();
            assert!((4_000..6_000).contains(&number), "{number}");
        }
    }

    fn versions_of(user_key: &[u8], versions: u8, batch: &mut WriteBatch) {
        let user_key = memcomparable::encode(user_key);
        for version in 0..versions {
            let key = [&user_key[..], &[0, 0, 0, 0, 0, 0, 0, version]].concat();
            batch.put(ColumnFamily::Write, key.clone(), "value");
            batch.put(ColumnFamily::Default, key, "value");
        }
        batch.put(ColumnFamily::Lock, user_key, "lock");
    }

    #[test]
    fn one_key_with_many_versions_is_not_cut() {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        versions_of(b"k", 9, &mut batch);
        data.write(batch).unwrap();
        assert_eq!(middles(&data), [Vec::<Bytes>::new(), Vec::new()]);
        assert_eq!(keys_of(&data, limits((9, 9), (3, 3))), Vec::<Bytes>::new());
    }

    #[test]
    fn raw_keys_are_cut_as_they_are() {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for key in ["a", "a-key-of-many-bytes-1", "a-key-of-many-bytes-2"] {
            batch.put(ColumnFamily::Default, key, "v");
        }
        data.write(batch).unwrap();
        assert_eq!(
            keys_of(&data, limits((45, 0), (24, 0))),
            [Bytes::from("a-key-of-many-bytes-2")]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_cut_parts_the_versions_of_a_key_and_none_is_for_nothing(
            keys in proptest::collection::btree_map(proptest::collection::vec(b'a'..b'f', 1..20), 1..9u8, 1..40),
            part in 1..200u64,
        ) {
            let data = MemoryData::new();
            let mut batch = WriteBatch::new();
            keys.iter().for_each(|(key, versions)| versions_of(key, *versions, &mut batch));
            data.write(batch).unwrap();
            let encoded: Vec<Bytes> = keys.keys().map(|key| memcomparable::encode(key)).collect();
            let searches = [
                limits((part, 0), (part, 0)),
                limits((0, part), (0, part)),
                SplitSearch::Middle { approximate: false },
                SplitSearch::Middle { approximate: true },
            ];
            for search in searches {
                for cut in keys_of(&data, search) {
                    // A user key, and not the first.
                    prop_assert!(encoded[1..].contains(&cut), "{:?} {:?}", search, cut);
                }
            }
        }
    }
}
