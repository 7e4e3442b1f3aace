//! Key → region, for the regions of one store. No two overlap; every change is checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{KeyRange, RegionId};

/// The ranges of a store's regions, by where they start.
#[derive(Debug, Default)]
pub(crate) struct RegionMap(BTreeMap<Bytes, (KeyRange, RegionId)>);

impl RegionMap {
    /// Adds a region. Panics when it overlaps another: the map would be wrong for ever.
    pub(crate) fn insert(&mut self, range: KeyRange, region_id: RegionId) {
        let others = self.overlapping(&range);
        assert!(others.is_empty(), "{region_id} {range} overlaps {others:?}");
        self.0.insert(range.start.clone(), (range, region_id));
    }

    /// Removes a region. Panics when it is not there just so.
    pub(crate) fn remove(&mut self, range: &KeyRange, region_id: RegionId) {
        let removed = self.0.remove(&range.start);
        assert_eq!(removed.as_ref(), Some(&(range.clone(), region_id)), "removing {region_id}");
    }

    /// The regions that share a key with this range, in key order.
    pub(crate) fn overlapping(&self, range: &KeyRange) -> Vec<RegionId> {
        let before = self.0.range(..=range.start.clone()).next_back();
        let after = self
            .0
            .range((std::ops::Bound::Excluded(range.start.clone()), std::ops::Bound::Unbounded))
            .take_while(|(start, _)| range.end.as_ref().is_none_or(|end| *start < end));
        before
            .into_iter()
            .chain(after)
            .filter(|(_, (other, _))| other.overlaps(range))
            .map(|(_, (_, region_id))| *region_id)
            .collect()
    }

    /// The ranges that belong to no region, in key order.
    pub(crate) fn gaps(&self) -> Vec<KeyRange> {
        let mut gaps = Vec::new();
        let mut next = Some(Bytes::new());
        for (range, _) in self.0.values() {
            let Some(start) = next else { break };
            gaps.push(KeyRange { start, end: Some(range.start.clone()) });
            next = range.end.clone();
        }
        gaps.extend(next.map(|start| KeyRange { start, end: None }));
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// Up to `count` regions nearest to this range on each side, the left ones first.
    pub(crate) fn neighbours(&self, range: &KeyRange, count: usize) -> Vec<RegionId> {
        let mut left: Vec<RegionId> = self
            .0
            .range(..range.start.clone())
            .rev()
            .take(count)
            .map(|(_, (_, region_id))| *region_id)
            .collect();
        left.reverse();
        let right = range.end.iter().flat_map(|end| self.0.range(end.clone()..).take(count));
        left.extend(right.map(|(_, (_, region_id))| *region_id));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(start, end)
    }

    fn map() -> RegionMap {
        let mut map = RegionMap::default();
        map.insert(range("b", "d"), RegionId(1));
        map.insert(range("d", "f"), RegionId(2));
        map.insert(range("k", ""), RegionId(3));
        map
    }

    #[test]
    fn overlaps_are_found_from_either_side() {
        let check = |start, end, wanted: &[u64]| {
            let found = map().overlapping(&range(start, end));
            assert_eq!(found, wanted.iter().copied().map(RegionId).collect::<Vec<_>>());
        };
        check("", "b", &[]);
        check("", "c", &[1]);
        check("c", "e", &[1, 2]);
        check("d", "e", &[2]);
        check("f", "k", &[]);
        check("e", "", &[2, 3]);
        check("", "", &[1, 2, 3]);
        check("x", "", &[3]);
    }

    #[test]
    fn gaps_are_what_no_region_covers() {
        assert_eq!(map().gaps(), [range("", "b"), range("f", "k")]);
        assert_eq!(RegionMap::default().gaps(), [range("", "")]);
    }

    #[test]
    fn neighbours_stand_on_both_sides() {
        let ids = |ids: &[u64]| ids.iter().copied().map(RegionId).collect::<Vec<_>>();
        assert_eq!(map().neighbours(&range("d", "f"), 1), ids(&[1, 3]));
        assert_eq!(map().neighbours(&range("k", ""), 5), ids(&[1, 2]));
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn an_overlap_is_a_bug() {
        map().insert(range("c", "d"), RegionId(9));
    }
}
