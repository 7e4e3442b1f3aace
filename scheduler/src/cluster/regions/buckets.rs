//! Buckets: bounds that a region's leader draws inside it, for clients that read a region in parts.
//!
//! A store that cuts its regions into buckets reports their keys on a stream of its own. The newest
//! version of each region is kept in memory, for whoever asks for it together with the region.
//! Buckets are good for the keys that the region had when they were drawn: they go when its range
//! changes, and with it. A new leader of the scheduler group has none until stores report again.
//!
//! Left out: what is read and written in each bucket. Our own stores draw none.

use std::sync::Arc;

use proto::{RegionId, metapb};

use super::{RegionRecord, Regions};

/// Keys of one region's buckets; a report of more is not kept. A region of 10 GiB in buckets of
/// 5 MiB stays below.
pub const BUCKETS_KEYS_MAX: usize = 2_048;

/// Bytes that the keys of all buckets of all regions may take. A report that would not fit is not
/// kept, and its region has no buckets from then on: they only make reading faster.
pub const BUCKETS_BYTES_MAX: usize = 64 << 20;

/// What a key takes beside its bytes, about.
const KEY_BYTES: usize = 32;

impl Regions {
    /// A store says how a region lies in buckets. Returns whether they are kept: they are of a
    /// known region, newer than those known, and not of another range than the one known.
    pub fn on_buckets(
        &mut self,
        epoch: Option<metapb::RegionEpoch>,
        buckets: metapb::Buckets,
    ) -> bool {
        let id = RegionId(buckets.region_id);
        let Some(record) = self.by_id.get_mut(&id) else { return false };
        let is_known = |known: &Arc<metapb::Buckets>| known.version >= buckets.version;
        if buckets.keys.is_empty() || record.buckets.as_ref().is_some_and(is_known) {
            return false;
        }
        // Ahead of its region's heartbeat, a report is of keys that are not known yet.
        if epoch.is_some_and(|said| said.version != record.epoch().version) {
            return false;
        }
        let bytes = bytes_of(&buckets);
        let others = self.bucket_bytes - record.bucket_bytes();
        let has_room =
            buckets.keys.len() <= BUCKETS_KEYS_MAX && others + bytes <= BUCKETS_BYTES_MAX;
        // Statistics are not for those who ask.
        let metapb::Buckets { region_id, version, keys, stats: _, period_in_ms: _ } = buckets;
        let kept = metapb::Buckets { region_id, version, keys, ..metapb::Buckets::default() };
        Arc::make_mut(record).buckets = has_room.then(|| Arc::new(kept));
        self.bucket_bytes = others + record.bucket_bytes();
        has_room
    }
}

impl RegionRecord {
    /// What the keys of its buckets take.
    pub(super) fn bucket_bytes(&self) -> usize {
        self.buckets.as_deref().map_or(0, bytes_of)
    }
}

fn bytes_of(buckets: &metapb::Buckets) -> usize {
    buckets.keys.iter().map(|key| key.len() + KEY_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> RegionRecord {
        let peers = vec![metapb::Peer { id: id * 10, store_id: 1, ..Default::default() }];
        RegionRecord {
            region: metapb::Region {
                id,
                start_key: start.into(),
                end_key: end.into(),
                region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
                peers,
                ..Default::default()
            },
            ..RegionRecord::default()
        }
    }

    fn buckets(region_id: u64, version: u64, keys: &[&'static str]) -> metapb::Buckets {
        let keys = keys.iter().map(|&key| Bytes::from(key)).collect();
        metapb::Buckets { region_id, version, keys, period_in_ms: 5, ..Default::default() }
    }

    fn epoch(version: u64) -> Option<metapb::RegionEpoch> {
        Some(metapb::RegionEpoch { conf_ver: 1, version })
    }

    fn known(regions: &Regions, id: u64) -> Option<u64> {
        let record = regions.by_id(RegionId(id)).expect("the region is known");
        record.buckets.as_ref().map(|buckets| buckets.version)
    }

    #[test]
    fn the_newest_version_is_kept_while_the_region_keeps_its_range() {
        let mut regions = Regions::default();
        regions.offer(region(1, "", "m", 1));
        regions.offer(region(2, "m", "", 1));
        assert!(!regions.on_buckets(None, buckets(9, 1, &["a"])), "nobody knows the region");
        assert!(!regions.on_buckets(None, buckets(1, 1, &[])), "no buckets");
        assert!(regions.on_buckets(None, buckets(1, 5, &["", "f", "m"])));
        assert!(regions.on_buckets(epoch(1), buckets(2, 1, &["m", ""])));
        assert!(!regions.on_buckets(epoch(1), buckets(1, 5, &["", "m"])));
        assert!(!regions.on_buckets(epoch(2), buckets(1, 6, &["", "m"])), "not heard of yet");
        assert!(!regions.on_buckets(epoch(0), buckets(1, 6, &["", "m"])), "of another range");
        assert!(regions.on_buckets(epoch(1), buckets(1, 6, &["", "c", "f", "m"])));
        let kept = regions.by_id(RegionId(1)).unwrap().buckets.clone().unwrap();
        assert_eq!((kept.keys.len(), kept.period_in_ms), (4, 0));

        // A heartbeat of the same range says nothing about buckets.
        let moved = RegionRecord { approximate_bytes: 7, term: 3, ..region(1, "", "m", 1) };
        regions.offer(moved);
        assert_eq!(known(&regions, 1), Some(6));
        // A split does away with those of both halves, and a merge with the region's.
        regions.offer(region(1, "", "c", 2));
        assert_eq!((known(&regions, 1), known(&regions, 2)), (None, Some(1)));
        regions.offer(region(1, "", "", 3));
        assert_eq!((known(&regions, 1), regions.bucket_bytes), (None, 0));
        assert!(regions.on_buckets(epoch(3), buckets(1, 2, &["", "x"])), "a new beginning");
    }

    #[test]
    fn there_is_a_limit_for_each_region_and_for_all() {
        let mut regions = Regions::default();
        regions.offer(region(1, "", "m", 1));
        regions.offer(region(2, "m", "", 1));
        let many = |region_id, version, count: usize, bytes: usize| metapb::Buckets {
            region_id,
            version,
            keys: vec![Bytes::from(vec![b'k'; bytes]); count],
            ..Default::default()
        };
        assert!(regions.on_buckets(None, many(1, 1, BUCKETS_KEYS_MAX, 1)));
        assert!(!regions.on_buckets(None, many(1, 2, BUCKETS_KEYS_MAX + 1, 1)));
        assert_eq!(known(&regions, 1), None, "those of before are no longer true");
        let half = BUCKETS_BYTES_MAX / 2;
        assert!(regions.on_buckets(None, many(1, 3, 1, half)));
        assert!(!regions.on_buckets(None, many(2, 1, 1, half)), "the two do not fit");
        assert!(regions.on_buckets(None, many(1, 4, 1, half + 1)), "one takes its own place");
        assert!(regions.on_buckets(None, many(1, 5, 1, 1)));
        assert!(regions.on_buckets(None, many(2, 2, 1, half)));
    }
}
