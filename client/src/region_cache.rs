//! Which region holds a key and who leads it: believed until contradicted.
//!
//! Nothing here expires. An entry is replaced when a refusal carries newer regions, given another
//! leader when one is named, and dropped when a store denies the region. Where two descriptions of
//! the same keys disagree, the one with more splits and merges behind it is the newer: a late answer
//! of the scheduler does not undo what a store has told. Keys are in the scheduler's form.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proto::{KeyRange, RegionId, StoreId, metapb, region};

use crate::route::Route;

/// How many regions are remembered. At the limit all are forgotten and learned again as needed.
const REGIONS_MAX: usize = 200_000;

#[derive(Debug)]
struct Entry {
    region: Arc<metapb::Region>,
    target: metapb::Peer,
    /// How many peers in a row were not the leader.
    misses: usize,
}

impl Entry {
    fn route(&self) -> Route {
        Route { region: self.region.clone(), peer: self.target }
    }
}

/// The client's map of the key space. It may have holes, never overlaps.
#[derive(Debug, Default)]
pub(crate) struct RegionCache {
    by_start: BTreeMap<Bytes, RegionId>,
    by_id: BTreeMap<RegionId, Entry>,
}

impl RegionCache {
    /// The way to the region that holds this key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Route> {
        let below = (Bound::Unbounded, Bound::Included(key));
        let (_, id) = self.by_start.range::<[u8], _>(below).next_back()?;
        let entry = self.by_id.get(id)?;
        KeyRange::of(&entry.region).contains(key).then(|| entry.route())
    }

    /// The way to the region that holds the keys right before `end`; `None` is the end of all keys.
    pub(crate) fn find_before(&self, end: Option<&[u8]>) -> Option<Route> {
        let below = (Bound::Unbounded, end.map_or(Bound::Unbounded, Bound::Excluded));
        let (_, id) = self.by_start.range::<[u8], _>(below).next_back()?;
        let entry = self.by_id.get(id)?;
        let reaches = match (KeyRange::of(&entry.region).end, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(region_end), Some(end)) => region_end.as_ref() >= end,
        };
        reaches.then(|| entry.route())
    }

    /// Takes in a description of a region, with its leader where known, unless what is known of
    /// these keys is newer. `near` is a store to ask first when no leader is known.
    pub(crate) fn insert(
        &mut self,
        region: metapb::Region,
        leader: Option<metapb::Peer>,
        near: Option<StoreId>,
    ) {
        let known = self.overlapping(&KeyRange::of(&region), RegionId(region.id));
        let epoch = region::epoch(&region);
        let is_old = known.iter().filter_map(|id| self.by_id.get(id)).any(|entry| {
            let theirs = region::epoch(&entry.region);
            theirs.version > epoch.version
                || (entry.region.id == region.id && theirs.conf_ver > epoch.conf_ver)
        });
        // A region without peers cannot be asked.
        let Some(target) = first_target(&region, leader, near) else { return };
        if is_old {
            return;
        }
        for id in known {
            self.forget(id);
        }
        if self.by_id.len() >= REGIONS_MAX {
            self.by_start.clear();
            self.by_id.clear();
        }
        let id = RegionId(region.id);
        self.by_start.insert(region.start_key.clone(), id);
        self.by_id.insert(id, Entry { region: Arc::new(region), target, misses: 0 });
    }

    /// This peer leads the region of that route. The named peer is believed even when the known
    /// description does not list it: membership changes travel more slowly than leadership.
    pub(crate) fn set_leader(&mut self, route: &Route, leader: metapb::Peer) {
        if let Some(entry) = self.current(route) {
            entry.target = leader;
        }
    }

    /// The peer of that route is not the one to ask. When all have been asked in vain, the region is
    /// forgotten, so that the scheduler is asked.
    pub(crate) fn next_peer(&mut self, route: &Route) {
        let Some(entry) = self.current(route) else { return };
        // Somebody else's answer has already moved on from this peer.
        if entry.target.id != route.peer.id {
            return;
        }
        entry.misses += 1;
        let peers = &entry.region.peers;
        if entry.misses >= peers.len() {
            self.forget(route.region_id());
            return;
        }
        let at = peers.iter().position(|peer| peer.id == route.peer.id);
        let next = at.map_or(0, |at| (at + 1) % peers.len());
        entry.target = peers[next];
    }

    /// An answer came: whoever was asked does lead.
    pub(crate) fn confirm(&mut self, route: &Route) {
        if let Some(entry) = self.by_id.get_mut(&route.region_id()) {
            entry.misses = 0;
        }
    }

    /// The region is not where this route led, unless the map has moved on since.
    pub(crate) fn forget_route(&mut self, route: &Route) {
        if self.current(route).is_some() {
            self.forget(route.region_id());
        }
    }

    /// What is known as long as it still is what the route was made from.
    fn current(&mut self, route: &Route) -> Option<&mut Entry> {
        let entry = self.by_id.get_mut(&route.region_id())?;
        Arc::ptr_eq(&entry.region, &route.region).then_some(entry)
    }

    fn forget(&mut self, id: RegionId) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.by_start.remove(&entry.region.start_key);
        }
    }

    /// The known regions that share keys with the range, or have this id.
    fn overlapping(&self, range: &KeyRange, id: RegionId) -> Vec<RegionId> {
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<_> = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, end))
            .rev()
            .map(|(_, id)| *id)
            .take_while(|id| {
                self.by_id.get(id).is_some_and(|entry| KeyRange::of(&entry.region).overlaps(range))
            })
            .collect();
        if self.by_id.contains_key(&id) && !found.contains(&id) {
            found.push(id);
        }
        found
    }
}

/// Whom to ask first: the leader, else the peer on the store nearby, else a voter.
pub(crate) fn first_target(
    region: &metapb::Region,
    leader: Option<metapb::Peer>,
    near: Option<StoreId>,
) -> Option<metapb::Peer> {
    leader
        .filter(|leader| leader.id != 0)
        .or_else(|| near.and_then(|store| region::peer_on(region, store).copied()))
        .or_else(|| region.peers.iter().find(|peer| !region::is_learner(peer)).copied())
        .or_else(|| region.peers.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u64, store_id: u64) -> metapb::Peer {
        metapb::Peer { id, store_id, ..Default::default() }
    }

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> metapb::Region {
        metapb::Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            peers: (1..=3).map(|store| peer(id * 10 + store, store)).collect(),
            ..Default::default()
        }
    }

    fn cache(regions: Vec<metapb::Region>) -> RegionCache {
        let mut cache = RegionCache::default();
        for region in regions {
            cache.insert(region, None, None);
        }
        cache
    }

    fn id_at(cache: &RegionCache, key: &str) -> Option<u64> {
        cache.find(key.as_bytes()).map(|route| route.region.id)
    }

    #[test]
    fn keys_are_found_in_the_region_that_holds_them() {
        let cache =
            cache(vec![region(1, "", "b", 1), region(2, "b", "m", 1), region(4, "p", "", 1)]);
        let found: Vec<_> = ["", "az", "b", "lz", "m", "o", "p", "zz"]
            .into_iter()
            .map(|key| id_at(&cache, key))
            .collect();
        let expected = [Some(1), Some(1), Some(2), Some(2), None, None, Some(4), Some(4)];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_region_before_a_key_is_the_one_that_reaches_it() {
        let cache =
            cache(vec![region(1, "", "b", 1), region(2, "b", "m", 1), region(4, "p", "", 1)]);
        let before = |end: Option<&str>| {
            cache.find_before(end.map(str::as_bytes)).map(|route| route.region.id)
        };
        assert_eq!(before(Some("b")), Some(1));
        assert_eq!(before(Some("c")), Some(2));
        assert_eq!(before(Some("m")), Some(2));
        assert_eq!(before(Some("n")), None);
        assert_eq!(before(None), Some(4));
    }

    #[test]
    fn a_split_replaces_one_region_by_two() {
        let mut cache = cache(vec![region(1, "", "", 1)]);
        cache.insert(region(1, "m", "", 2), None, None);
        assert_eq!((id_at(&cache, "a"), id_at(&cache, "z")), (None, Some(1)));
        cache.insert(region(2, "", "m", 2), None, None);
        assert_eq!((id_at(&cache, "a"), id_at(&cache, "z")), (Some(2), Some(1)));
    }

    #[test]
    fn a_late_description_does_not_undo_a_newer_one() {
        let mut cache = cache(vec![region(1, "m", "", 3), region(2, "", "m", 3)]);
        cache.insert(region(1, "", "", 2), None, None);
        assert_eq!((id_at(&cache, "a"), id_at(&cache, "z")), (Some(2), Some(1)));
        let mut older_membership = region(1, "m", "", 3);
        older_membership.region_epoch = Some(metapb::RegionEpoch { conf_ver: 0, version: 3 });
        older_membership.peers.truncate(1);
        cache.insert(older_membership, None, None);
        assert_eq!(cache.find(b"z").map(|route| route.region.peers.len()), Some(3));
    }

    #[test]
    fn a_merge_swallows_its_neighbour() {
        let mut cache = cache(vec![region(1, "", "m", 3), region(2, "m", "", 4)]);
        cache.insert(region(2, "", "", 5), None, None);
        assert_eq!((id_at(&cache, "a"), id_at(&cache, "z")), (Some(2), Some(2)));
    }

    #[test]
    fn peers_are_asked_in_turn_until_the_scheduler_must_be() {
        let mut cache = cache(vec![region(1, "", "", 1)]);
        let mut stores = Vec::new();
        while let Some(route) = cache.find(b"k") {
            stores.push(route.peer.store_id);
            cache.next_peer(&route);
        }
        assert_eq!(stores, [1, 2, 3]);
    }

    #[test]
    fn two_callers_refused_by_one_peer_skip_it_once() {
        let mut cache = cache(vec![region(1, "", "", 1)]);
        let route = cache.find(b"k").unwrap();
        cache.next_peer(&route);
        cache.next_peer(&route);
        assert_eq!(cache.find(b"k").unwrap().peer.store_id, 2);
    }

    #[test]
    fn a_named_leader_is_believed_even_when_unlisted() {
        let mut cache = cache(vec![region(1, "", "", 1)]);
        let route = cache.find(b"k").unwrap();
        cache.set_leader(&route, peer(19, 9));
        assert_eq!(cache.find(b"k").unwrap().peer, peer(19, 9));
        cache.next_peer(&cache.find(b"k").unwrap());
        assert_eq!(cache.find(b"k").unwrap().peer.store_id, 1);
    }

    #[test]
    fn an_answer_to_an_old_route_does_not_touch_the_new_one() {
        let mut cache = cache(vec![region(1, "", "", 1)]);
        let old = cache.find(b"z").unwrap();
        cache.insert(region(1, "m", "", 2), Some(peer(12, 2)), None);
        cache.forget_route(&old);
        cache.set_leader(&old, peer(13, 3));
        cache.next_peer(&old);
        assert_eq!(cache.find(b"z").unwrap().peer, peer(12, 2));
    }
}
