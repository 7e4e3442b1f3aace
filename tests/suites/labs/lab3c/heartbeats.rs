//! Region heartbeats: what they change in the picture, and what is refused.
//!
//! The rule that all of this tests: a report is from the past when its version or its conf version is below
//! the known one of the same region, or its version is below that of a region that it overlaps. (The course
//! holds the conf versions of different regions against each other too; TiKV's scheduler does not, as they
//! count different things.) Everything else is believed, and what it overlaps goes.
//!
//! Look: `scheduler/src/cluster/regions/mod.rs`, `scheduler/src/cluster/record.rs`.

use std::collections::BTreeMap;

use proto::{RegionId, StoreId, pdpb};
use tests::labs::scheduler::beliefs::{
    STORES, assert_believed, believed, listener, refused, three_heard, three_regions,
};
use tests::labs::scheduler::{region, region_in, region_in_mut, report, stores_of};

/// Raises the parts of the epoch by so much.
fn raise(report: &mut pdpb::RegionHeartbeatRequest, version: u64, conf_ver: u64) {
    let epoch = region_in_mut(report).region_epoch.as_mut().unwrap();
    epoch.version += version;
    epoch.conf_ver += conf_ver;
}

/// Hears all of them, and looks at the picture after each.
fn all_believed(
    machine: &mut tests::labs::scheduler::Machine,
    known: &mut [pdpb::RegionHeartbeatRequest],
    news: &[pdpb::RegionHeartbeatRequest],
) {
    for (at, report) in news.iter().enumerate() {
        believed(machine, report);
        known[at] = report.clone();
        assert_believed(machine, known);
    }
}

/// S4.17: what is known already is heard again: nothing changes, and it is no mistake.
#[test]
fn test_region_not_update_3c() {
    let (mut machine, mut regions) = three_heard();
    let again = regions.clone();
    all_believed(&mut machine, &mut regions, &again);
}

/// A version that has grown is believed.
#[test]
fn test_region_update_version_3c() {
    let (mut machine, mut regions) = three_heard();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| raise(report, 1, 0));
    all_believed(&mut machine, &mut regions, &news);
}

/// S4.15: a version that is lower than the known one is refused, however new the conf version.
///
/// Hint: one part of an epoch that is older makes the whole older.
#[test]
fn test_region_with_stale_version_3c() {
    let (mut machine, mut regions) = three_heard();
    let before = regions.clone();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| raise(report, 1, 0));
    all_believed(&mut machine, &mut regions, &news);
    for mut stale in before {
        raise(&mut stale, 0, 1);
        refused(&mut machine, &stale);
        assert_believed(&machine, &regions);
    }
}

/// Both parts have grown: believed.
#[test]
fn test_region_update_version_and_confver_3c() {
    let (mut machine, mut regions) = three_heard();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| raise(report, 1, 1));
    all_believed(&mut machine, &mut regions, &news);
}

/// S4.15: a conf version that is lower than the known one is refused.
#[test]
fn test_region_with_stale_conf_ver_3c() {
    let (mut machine, mut regions) = three_heard();
    let before = regions.clone();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| raise(report, 0, 1));
    all_believed(&mut machine, &mut regions, &news);
    for stale in before {
        refused(&mut machine, &stale);
        assert_believed(&machine, &regions);
    }
}

/// A peer is catching up: the picture says so, and its store counts it. (The course draws a peer and compares
/// the count with nothing; here it is each peer in turn, and counted.)
#[test]
fn test_region_add_pending_peer_3c() {
    for at in 0..3 {
        let (mut machine, mut regions) = three_heard();
        let mut news = regions.clone();
        for report in &mut news {
            let peer = region_in(report).peers[at];
            report.pending_peers.push(peer);
        }
        all_believed(&mut machine, &mut regions, &news);
    }
}

/// … and has caught up: nobody counts it any more.
#[test]
fn test_region_remove_pending_peer_3c() {
    for at in 0..3 {
        let (mut machine, mut regions) = three_heard();
        let caught_up = regions.clone();
        let mut news = regions.clone();
        for report in &mut news {
            let peer = region_in(report).peers[at];
            report.pending_peers.push(peer);
        }
        all_believed(&mut machine, &mut regions, &news);
        all_believed(&mut machine, &mut regions, &caught_up);
        let pending = |store| machine.cluster.regions().counts(StoreId(store)).pending;
        assert_eq!(STORES.map(pending), [0, 0, 0]);
    }
}

/// Only the first peer is left, in the same epoch: the picture and the counts of the stores follow.
///
/// Hint: a store that has lost a peer counts anew as well.
#[test]
fn test_region_remove_peers_3c() {
    let (mut machine, mut regions) = three_heard();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| region_in_mut(report).peers.truncate(1));
    all_believed(&mut machine, &mut regions, &news);
}

/// … and the others come back.
#[test]
fn test_region_add_back_peers_3c() {
    let (mut machine, mut regions) = three_heard();
    let whole = regions.clone();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| region_in_mut(report).peers.truncate(1));
    all_believed(&mut machine, &mut regions, &news);
    all_believed(&mut machine, &mut regions, &whole);
}

/// Another peer leads: what each store leads and follows is turned over.
#[test]
fn test_region_change_leader_3c() {
    let (mut machine, mut regions) = three_heard();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| report.leader = Some(region_in(report).peers[1]));
    all_believed(&mut machine, &mut regions, &news);
}

/// A region has grown: its size is known, and no epoch says so.
#[test]
fn test_region_change_approximate_size_3c() {
    let (mut machine, mut regions) = three_heard();
    let mut news = regions.clone();
    news.iter_mut().for_each(|report| report.approximate_size = 144 << 20);
    all_believed(&mut machine, &mut regions, &news);
}

/// A store counts as many regions as have a peer on it.
#[test]
fn test_region_counts_3c() {
    let (machine, regions) = three_heard();
    let mut counts: BTreeMap<StoreId, usize> = BTreeMap::new();
    for store in regions.iter().flat_map(|report| stores_of(region_in(report))) {
        *counts.entry(store).or_default() += 1;
    }
    assert_eq!(counts.len(), STORES.len());
    for (store, count) in counts {
        assert_eq!(machine.cluster.regions().counts(store).regions, count, "{store}");
    }
}

/// All regions are listed, each as its leader described it.
#[test]
fn test_region_get_regions_3c() {
    let (machine, regions) = three_heard();
    let listed: Vec<_> = machine.cluster.regions().iter().map(|record| &record.region).collect();
    let expected: Vec<_> = regions.iter().map(region_in).collect();
    assert_eq!(listed, expected);
    let leaders: Vec<_> = machine.cluster.regions().iter().map(|record| record.leader).collect();
    assert_eq!(leaders, regions.iter().map(|report| report.leader).collect::<Vec<_>>());
}

/// From a region to its stores: each has a peer of it, and none that follows is the leader's.
#[test]
fn test_region_get_stores_3c() {
    let (machine, regions) = three_heard();
    let picture = machine.cluster.regions();
    for report in &regions {
        let record = picture.by_id(RegionId(region_in(report).id)).unwrap();
        let stores = stores_of(&record.region);
        assert_eq!(stores.len(), 3);
        for store in stores {
            assert!(machine.cluster.stores().find(store).is_some(), "{store} is known");
            assert!(picture.on_store(store).any(|other| other.id() == record.id()));
            let follows = picture.followed_by(store).any(|other| other.id() == record.id());
            assert_eq!(follows, record.leader_store() != Some(store), "{store}");
        }
    }
}

/// From a store to its numbers: counts and sizes, of what it leads and of what it holds, are those of its
/// regions.
#[test]
fn test_region_get_stores_info_3c() {
    let (machine, _) = three_heard();
    let picture = machine.cluster.regions();
    for store in machine.cluster.stores().iter() {
        let id = store.id();
        let counts = picture.counts(id);
        assert_eq!(counts.leaders, picture.led_by(id).count());
        assert_eq!(counts.regions, picture.on_store(id).count());
        let led: u64 = picture.led_by(id).map(|record| record.size_mib()).sum();
        let held: u64 = picture.on_store(id).map(|record| record.size_mib()).sum();
        assert_eq!((counts.leader_size_mib, counts.region_size_mib), (led, held));
        assert!(held > led && led > 0);
    }
}

/// A region splits, and its halves are heard in either order. The half that is heard first takes the place
/// of the whole, so for a moment the other half's keys are nobody's.
///
/// Hint: an overlap of *equal* version is the half of a region that has not spoken yet, and no mistake.
#[test]
fn test_heartbeat_split_3c() {
    let mut machine = listener();
    let whole = |id, start: &[u8], end: &[u8], version| {
        report(region(id, start, end, version, &STORES), 10)
    };
    believed(&mut machine, &whole(1, b"", b"", 1));
    assert_eq!(machine.region_of(b"foo"), Some(1));

    // The new half first.
    believed(&mut machine, &whole(2, b"", b"m", 1));
    assert_eq!((machine.region_of(b"a"), machine.region_of(b"z")), (Some(2), None));
    believed(&mut machine, &whole(1, b"m", b"", 2));
    assert_eq!((machine.region_of(b"a"), machine.region_of(b"z")), (Some(2), Some(1)));

    // The half that keeps the id first.
    believed(&mut machine, &whole(1, b"q", b"", 3));
    let found = [b"a", b"n", b"z"].map(|key| machine.region_of(key));
    assert_eq!(found, [Some(2), None, Some(1)]);
    believed(&mut machine, &whole(3, b"m", b"q", 1));
    let found = [b"a", b"n", b"z"].map(|key| machine.region_of(key));
    assert_eq!(found, [Some(2), Some(3), Some(1)]);
    // What the whole says now is too late.
    refused(&mut machine, &whole(1, b"", b"", 1));
}

/// A tile of the key space in whole bytes; 0 and 256 are its ends.
#[derive(Clone, Debug, PartialEq)]
struct Tile {
    id: u64,
    start: u16,
    end: u16,
    version: u64,
}

impl Tile {
    fn report(&self) -> pdpb::RegionHeartbeatRequest {
        let bound = |byte: u16| match byte {
            0 | 256 => Vec::new(),
            byte => vec![u8::try_from(byte).unwrap()],
        };
        report(region(self.id, &bound(self.start), &bound(self.end), self.version, &[1]), 10)
    }
}

/// Every tile is cut in the middle; both halves are new regions of a higher version.
fn split_all(tiles: &[Tile]) -> Vec<Tile> {
    let count = tiles.len() as u64;
    let halves = |tile: &Tile| {
        let middle = (tile.start + tile.end) / 2;
        let version = tile.version + 1;
        let left = Tile { id: tile.id + count, end: middle, version, ..tile.clone() };
        let right = Tile { id: tile.id + 2 * count, start: middle, version, ..tile.clone() };
        [left, right]
    };
    tiles.iter().flat_map(halves).collect()
}

/// Every two neighbours become one new region.
fn merge_all(tiles: &[Tile]) -> Vec<Tile> {
    let count = tiles.len() as u64;
    let merge = |pair: &[Tile]| Tile {
        id: pair[0].id + count,
        start: pair[0].start,
        end: pair[1].end,
        version: pair[0].version.max(pair[1].version) + 1,
    };
    tiles.chunks(2).map(merge).collect()
}

/// Seven rounds in which all regions split, seven in which they merge, and fourteen of both: after each
/// report its region is found by its id and at both its ends, after each round every neighbour is another.
#[test]
fn test_region_split_and_merge_3c() {
    let mut machine = listener();
    let mut tiles = vec![Tile { id: 1, start: 0, end: 256, version: 0 }];
    let mixed = (0..14).map(|round| round % 3 == 2);
    let merges = [[false; 7], [true; 7]].concat().into_iter().chain(mixed);
    for merge in merges {
        tiles = if merge { merge_all(&tiles) } else { split_all(&tiles) };
        let found = |machine: &tests::labs::scheduler::Machine, byte: u16| {
            machine.region_of(&[u8::try_from(byte).unwrap()])
        };
        for tile in &tiles {
            believed(&mut machine, &tile.report());
            let known = machine.cluster.regions().by_id(RegionId(tile.id)).unwrap();
            assert_eq!(known.region, *region_in(&tile.report()));
            assert_eq!(found(&machine, tile.start), Some(tile.id), "at its start: {tile:?}");
            assert_eq!(found(&machine, tile.end - 1), Some(tile.id), "at its end: {tile:?}");
        }
        assert_eq!(machine.cluster.regions().len(), tiles.len());
        for tile in tiles.iter().filter(|tile| tile.end < 255) {
            assert_ne!(found(&machine, tile.end + 1), Some(tile.id), "beyond its end: {tile:?}");
        }
    }
}

/// Beyond the course: a leader on a store that nobody knows is not listened to, and a follower on one is
/// no trouble.
#[test]
fn stores_that_nobody_knows() {
    let mut machine = listener();
    assert!(machine.hear(&report(region(1, b"", b"m", 1, &[9, 1, 2]), 10)).is_err());
    believed(&mut machine, &report(region(1, b"", b"m", 1, &[1, 2, 9]), 10));
    assert_eq!(machine.cluster.regions().counts(StoreId(9)).regions, 1);
    let mut followed = three_regions();
    raise(&mut followed[0], 1, 0);
    believed(&mut machine, &followed[0]);
}
