//! Whose load a stream is, and what counts as hot.

use proto::metapb;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment { steady_ms: seconds * 1_000, wall_ms: seconds * 1_000 }
}

fn record(id: u64, stores: &[u64]) -> RegionRecord {
    let peers: Vec<_> = stores
        .iter()
        .map(|&store_id| metapb::Peer { id: 10 * id + store_id, store_id, ..Default::default() })
        .collect();
    RegionRecord {
        leader: peers.first().copied(),
        region: metapb::Region { id, peers, ..Default::default() },
        ..Default::default()
    }
}

fn counted(written: u64, read: u64, seconds: u64) -> Counted {
    Counted::of(&pdpb::RegionHeartbeatRequest {
        bytes_written: written,
        bytes_read: read,
        interval: (seconds > 0)
            .then_some(pdpb::TimeInterval { start_timestamp: 0, end_timestamp: seconds }),
        ..Default::default()
    })
}

fn told(store: u64, reads: &[(u64, u64)]) -> pdpb::StoreStats {
    let peer_stats = reads.iter().map(|&(region_id, read_bytes)| pdpb::PeerStat {
        region_id,
        read_bytes,
        ..Default::default()
    });
    pdpb::StoreStats {
        store_id: store,
        peer_stats: peer_stats.collect(),
        interval: Some(pdpb::TimeInterval { start_timestamp: 0, end_timestamp: 10 }),
        ..Default::default()
    }
}

fn read_at(flow: &Flow, store: u64) -> u64 {
    flow.load_of(StoreId(store)).read.bytes
}

#[test]
fn what_is_written_is_written_on_every_peer_and_what_is_read_is_read_from_the_leader() {
    let mut flow = Flow::default();
    flow.on_region(&record(1, &[1, 2, 3]), counted(60_000, 120_000, 60), at(60));
    flow.on_region(&record(2, &[2, 3, 4]), counted(60_000, 0, 60), at(60));
    let written: Vec<_> = (1..=4).map(|store| flow.load_of(StoreId(store)).written.bytes).collect();
    assert_eq!(written, [1_000, 2_000, 2_000, 1_000]);
    let led: Vec<_> =
        (1..=4).map(|store| flow.load_of(StoreId(store)).written_as_leader.bytes).collect();
    assert_eq!(led, [1_000, 1_000, 0, 0]);
    assert_eq!((read_at(&flow, 1), read_at(&flow, 2)), (2_000, 0));
    // A peer moves, and the lead: the loads go along at once.
    flow.on_region(&record(1, &[2, 3, 4]), counted(0, 0, 0), at(61));
    let written: Vec<_> = (1..=4).map(|store| flow.load_of(StoreId(store)).written.bytes).collect();
    assert_eq!(written, [0, 2_000, 2_000, 2_000]);
    assert_eq!((read_at(&flow, 1), read_at(&flow, 2)), (0, 2_000));
    flow.forget(&[RegionId(1), RegionId(2)]);
    assert!((1..=4).all(|store| flow.load_of(StoreId(store)) == StoreLoad::default()));
}

#[test]
fn without_an_interval_the_time_between_heartbeats_counts() {
    let mut flow = Flow::default();
    flow.on_region(&record(1, &[1]), counted(1 << 40, 0, 0), at(100));
    assert_eq!(flow.load_of(StoreId(1)).written.bytes, 0, "since when, nobody knows");
    flow.on_region(&record(1, &[1]), counted(60_000, 0, 0), at(160));
    assert_eq!(flow.load_of(StoreId(1)).written.bytes, 1_000);
}

#[test]
fn a_region_is_hot_after_three_reports_and_one_in_ten_thousand_regions_is_not_lost() {
    let mut flow = Flow::default();
    for round in 1..=3 {
        assert!(!flow.is_hot(RegionId(1), 3));
        flow.on_region(&record(1, &[1, 2, 3]), counted(600_000, 0, 60), at(60 * round));
        flow.on_region(&record(2, &[1, 2, 3]), counted(600, 0, 60), at(60 * round));
    }
    assert!(flow.is_hot(RegionId(1), 3) && !flow.is_hot(RegionId(2), 1));
    let hot: Vec<_> = flow.hot_peers(Traffic::Write, 3).collect();
    assert_eq!(hot.len(), 3, "on each store with a peer");
    assert_eq!(hot.iter().filter(|peer| peer.is_leader).count(), 1);
    assert_eq!((hot[0].degree, hot[0].rates.bytes), (3, 10_000));
    // Two cold reports, once the average shows them, and it is forgotten.
    for round in 4..=12 {
        flow.on_region(&record(1, &[1, 2, 3]), counted(0, 0, 60), at(60 * round));
    }
    assert!(!flow.is_hot(RegionId(1), 1));
}

#[test]
fn where_everything_is_hot_only_the_hottest_are() {
    let mut flow = Flow::default();
    for round in 1..=6 {
        for id in 1..=100 {
            let bytes = if id <= TOP as u64 { 60_000_000 } else { 600_000 };
            flow.on_region(&record(id, &[1]), counted(bytes, 0, 60), at(60 * round));
        }
    }
    let hot = flow.hot_peers(Traffic::Write, 3).filter(|peer| peer.region.0 <= TOP as u64);
    assert_eq!(hot.count(), TOP);
    // The others were hot as long as nobody knew of hotter ones, and cool down.
    let degree = |flow: &Flow, id| {
        flow.peers(Traffic::Write).find(|peer| peer.region.0 == id).unwrap().degree
    };
    assert!(degree(&flow, 100) < degree(&flow, 1), "{} {}", degree(&flow, 100), degree(&flow, 1));
}

#[test]
fn a_store_that_tells_by_peer_is_believed_also_of_its_followers() {
    let mut flow = Flow::default();
    flow.on_region(&record(1, &[1, 2, 3]), counted(0, 600_000, 60), at(60));
    assert_eq!(read_at(&flow, 1), 10_000);
    // Store 2 reads from its follower, store 1 says what its leader's heartbeats said already.
    flow.on_store(&told(2, &[(1, 50_000)]), at(60));
    assert_eq!(read_at(&flow, 2), 5_000);
    flow.on_store(&told(1, &[(1, 600_000)]), at(70));
    flow.on_region(&record(1, &[1, 2, 3]), counted(0, 600_000, 60), at(120));
    assert_eq!(read_at(&flow, 1), 1_200_000 / 70, "not counted twice");
    // Whom it does not name is not read; a region that nobody knows has no place.
    for round in 1..=5 {
        flow.on_store(&told(2, &[(77, 1)]), at(60 + 10 * round));
    }
    assert_eq!(read_at(&flow, 2), 0);
    // The follower's reads stay where they are when the lead goes elsewhere.
    flow.on_store(&told(2, &[(1, 500_000)]), at(120));
    let before = read_at(&flow, 2);
    flow.on_region(&record(1, &[3, 1, 2]), counted(0, 0, 0), at(121));
    assert_eq!(read_at(&flow, 2), before);
}

#[test]
fn parts_of_a_split_region_share_what_it_had() {
    let mut flow = Flow::default();
    for round in 1..=3 {
        flow.on_region(&record(1, &[1, 2]), counted(600_000, 0, 60), at(60 * round));
    }
    flow.on_split(RegionId(1), &[RegionId(1), RegionId(2)]);
    assert!(flow.is_hot(RegionId(1), 3) && flow.is_hot(RegionId(2), 3));
    assert_eq!(flow.load_of(StoreId(1)).written.bytes, 10_000, "together as much as before");
    assert_eq!(flow.of(RegionId(2)).0.bytes, 5_000);
}
