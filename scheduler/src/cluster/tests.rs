//! What the service relies on: bootstrap rules, writes, ids for splits, gates and burials.

use super::*;
use crate::operator::Purpose;

fn at(steady_ms: u64) -> Moment {
    Moment { steady_ms, wall_ms: steady_ms }
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("store-{id}:1"),
        version: "8.5.0".into(),
        ..Default::default()
    }
}

fn region(id: u64, start: &str, end: &str, version: u64, stores: &[u64]) -> metapb::Region {
    metapb::Region {
        id,
        start_key: start.as_bytes().to_vec().into(),
        end_key: end.as_bytes().to_vec().into(),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
        peers: stores
            .iter()
            .map(|&store_id| metapb::Peer {
                id: 100 * id + store_id,
                store_id,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn heartbeat(region: &metapb::Region) -> pdpb::RegionHeartbeatRequest {
    pdpb::RegionHeartbeatRequest {
        leader: region.peers.first().copied(),
        region: Some(region.clone()),
        term: 6,
        ..Default::default()
    }
}

fn ids() -> Ids {
    let mut ids = Ids::begin(1_000);
    ids.bound_saved(10_000);
    ids
}

/// Three stores, heard, and these regions in the log.
fn cluster(regions: Vec<metapb::Region>) -> Cluster {
    let mut cluster = Cluster::load(Policy::default(), "", [], regions, at(0));
    for id in 1..=3 {
        cluster.put_store(store(id), at(0)).unwrap();
        let stats = pdpb::StoreStats { store_id: id, ..Default::default() };
        cluster.on_store_heartbeat(stats, at(0)).unwrap();
    }
    cluster
}

#[test]
fn a_first_region_holds_every_key_and_has_one_peer_on_the_first_store() {
    let good = region(2, "", "", 1, &[1]);
    assert_eq!(check_bootstrap(&store(1), &good), Ok(()));
    for bad in [
        region(0, "", "", 1, &[1]),
        region(2, "a", "", 1, &[1]),
        region(2, "", "z", 1, &[1]),
        region(2, "", "", 1, &[2]),
        region(2, "", "", 1, &[1, 2]),
        region(2, "", "", 1, &[]),
    ] {
        assert!(check_bootstrap(&store(1), &bad).is_err(), "{bad:?}");
    }
    assert!(check_bootstrap(&store(0), &good).is_err());
    assert!(check_bootstrap(&metapb::Store { address: String::new(), ..store(1) }, &good).is_err());
}

#[test]
fn the_cluster_version_is_the_lowest_and_only_rises() {
    let mut cluster = Cluster::load(Policy::default(), "", [], [], at(0));
    let versioned = |id, version: &str| metapb::Store { version: version.into(), ..store(id) };
    let writes = cluster.put_store(versioned(1, "8.5.2"), at(0)).unwrap();
    assert_eq!(writes.cluster_version.as_deref(), Some("8.5.2"));
    assert_eq!(writes.stores.len(), 1);
    let writes = cluster.put_store(versioned(2, "8.5.1"), at(0)).unwrap();
    assert_eq!((writes.cluster_version, cluster.version().to_string()), (None, "8.5.2".into()));
    let refused = cluster.put_store(versioned(3, "8.4.0"), at(0)).unwrap_err();
    assert_eq!(refused.kind(), pdpb::ErrorType::IncompatibleVersion);
    cluster.put_store(versioned(1, "8.6.0"), at(0)).unwrap();
    let writes = cluster.put_store(versioned(2, "8.6.0"), at(0)).unwrap();
    assert_eq!(writes.cluster_version.as_deref(), Some("8.6.0"));
}

#[test]
fn only_news_about_a_region_goes_to_the_log() {
    let mut cluster = cluster(vec![]);
    let mut ids = ids();
    let whole = region(1, "", "", 1, &[1, 2, 3]);
    let heard = cluster.on_region_heartbeat(heartbeat(&whole), &mut ids, at(1)).unwrap();
    assert_eq!(heard.writes.regions, std::slice::from_ref(&whole));
    let heard = cluster.on_region_heartbeat(heartbeat(&whole), &mut ids, at(2)).unwrap();
    assert_eq!((heard.verdict, heard.writes.is_empty()), (Verdict::Unchanged, true));
    // Led by another: known here, not worth a write.
    let mut led_by_2 = heartbeat(&whole);
    led_by_2.leader = whole.peers.get(1).copied();
    let heard = cluster.on_region_heartbeat(led_by_2, &mut ids, at(3)).unwrap();
    assert_eq!((heard.verdict, heard.writes.is_empty()), (Verdict::Updated, true));
    // A region that swallows it.
    let merged = region(9, "", "", 2, &[1, 2, 3]);
    let heard = cluster.on_region_heartbeat(heartbeat(&merged), &mut ids, at(4)).unwrap();
    assert_eq!(heard.writes.removed_regions, [1]);
    let heard = cluster.on_region_heartbeat(heartbeat(&whole), &mut ids, at(5)).unwrap();
    assert!(matches!(heard.verdict, Verdict::Stale(_)) && heard.writes.is_empty());
}

/// S4.14: what has no epoch is refused, whether the region is known or not.
#[test]
fn only_a_regions_leader_on_a_known_store_is_listened_to() {
    let mut cluster = cluster(vec![]);
    let mut ids = ids();
    let whole = region(1, "", "", 1, &[1, 2, 3]);
    let without_leader = pdpb::RegionHeartbeatRequest { leader: None, ..heartbeat(&whole) };
    assert!(cluster.on_region_heartbeat(without_leader, &mut ids, at(1)).is_err());
    let mut stranger = heartbeat(&whole);
    stranger.leader = Some(metapb::Peer { id: 999, store_id: 2, ..Default::default() });
    assert!(cluster.on_region_heartbeat(stranger, &mut ids, at(1)).is_err());
    let elsewhere = region(1, "", "", 1, &[7]);
    let refused = cluster.on_region_heartbeat(heartbeat(&elsewhere), &mut ids, at(1));
    assert_eq!(refused, Err(Refusal::UnknownStore(StoreId(7))));
    let nothing = pdpb::RegionHeartbeatRequest::default();
    assert!(cluster.on_region_heartbeat(nothing, &mut ids, at(1)).is_err());
    let no_epoch = metapb::Region { region_epoch: None, ..whole.clone() };
    let why = Refusal::InvalidRegion("r1: a heartbeat without an epoch".into());
    let refused = cluster.on_region_heartbeat(heartbeat(&no_epoch), &mut ids, at(1));
    assert_eq!(refused, Err(why.clone()));
    assert!(cluster.regions().is_empty());
    cluster.on_region_heartbeat(heartbeat(&whole), &mut ids, at(1)).unwrap();
    let refused = cluster.on_region_heartbeat(heartbeat(&no_epoch), &mut ids, at(1));
    assert_eq!(refused, Err(why));
    assert_eq!(cluster.regions().by_id(RegionId(1)).unwrap().region, whole);
}

#[test]
fn ids_for_a_split_come_one_for_the_region_and_one_for_each_peer() {
    let known = region(1, "", "", 2, &[1, 2, 3]);
    let cluster = cluster(vec![known.clone()]);
    let mut ids = ids();
    let Ok(Asked::Ids(given)) = cluster.ask_batch_split(&known, 2, &mut ids) else {
        panic!("ids are reserved")
    };
    assert_eq!(given[0].new_region_id, 1_001);
    assert_eq!(given[0].new_peer_ids, [1_002, 1_003, 1_004]);
    assert_eq!(given[1].new_region_id, 1_005);
    let again = cluster.ask_batch_split(&known, 1, &mut ids).unwrap();
    assert_ne!(again, Asked::Ids(vec![given[0].clone()]));
    let mut none = Ids::begin(0);
    let asked = cluster.ask_batch_split(&known, 1, &mut none);
    assert_eq!(asked, Ok(Asked::NeedBound(1_004)));
}

#[test]
fn a_split_of_an_old_or_unknown_region_gets_no_ids() {
    let cluster = cluster(vec![region(1, "a", "m", 2, &[1, 2, 3])]);
    let mut ids = ids();
    let mut ask = |region: metapb::Region, count| cluster.ask_batch_split(&region, count, &mut ids);
    assert!(matches!(ask(region(1, "a", "", 1, &[1, 2, 3]), 1), Err(Refusal::StaleRegion(_))));
    assert!(matches!(ask(region(1, "x", "", 2, &[1, 2, 3]), 1), Err(Refusal::StaleRegion(_))));
    assert!(ask(region(1, "a", "m", 2, &[1, 2, 3]), 0).is_err());
    assert!(ask(region(1, "a", "m", 2, &[1, 2, 3]), SPLIT_COUNT_MAX + 1).is_err());
    assert!(ask(region(1, "a", "m", 3, &[1, 2, 3]), 1).is_ok(), "newer than known is fine");
}

#[test]
fn a_reported_split_is_found_and_written_at_once() {
    let mut cluster = cluster(vec![region(1, "", "", 1, &[1, 2, 3])]);
    let (left, right) = (region(2, "", "m", 2, &[1, 2, 3]), region(1, "m", "", 2, &[1, 2, 3]));
    assert!(cluster.report_batch_split(vec![right.clone(), left.clone()]).is_err());
    let writes = cluster.report_batch_split(vec![left.clone(), right.clone()]).unwrap();
    assert_eq!(writes.regions, [left, right]);
    assert_eq!(writes.removed_regions, Vec::<u64>::new(), "the parent lives on as a half");
    assert_eq!(cluster.regions().by_key(b"a").unwrap().id(), RegionId(2));
    assert_eq!(cluster.regions().by_key(b"z").unwrap().id(), RegionId(1));
}

#[test]
fn balance_waits_until_most_regions_have_been_heard() {
    let regions: Vec<_> = (0..10_u8)
        .map(|n| {
            let (start, end) = (format!("{n}"), format!("{}", n + 1));
            let end = if n == 9 { "a".into() } else { end };
            region(u64::from(n) + 1, &start, &end, 1, &[1, 2, 3])
        })
        .collect();
    let mut cluster = cluster(regions.clone());
    let mut ids = ids();
    for (heard, region) in regions.iter().enumerate() {
        assert_eq!(cluster.is_prepared(at(1)), heard >= 9, "after {heard}");
        cluster.on_region_heartbeat(heartbeat(region), &mut ids, at(1)).unwrap();
    }
    let cluster = super::Cluster::load(Policy::default(), "", [], regions, at(0));
    assert!(!cluster.is_prepared(at(PREPARED_AFTER_MS - 1)));
    assert!(cluster.is_prepared(at(PREPARED_AFTER_MS)));
}

#[test]
fn leaders_spread_when_one_store_leads_them_all() {
    let mut cluster = cluster(vec![]);
    let mut ids = ids();
    for n in 0..20_u8 {
        let key = |n: u8| format!("{n:02}");
        let region = region(u64::from(n) + 1, &key(n), &key(n + 1), 1, &[1, 2, 3]);
        cluster.on_region_heartbeat(heartbeat(&region), &mut ids, at(1)).unwrap();
    }
    let ticked = cluster.tick(&mut ids, at(2));
    // As many as the limit allows, each for a region of its own.
    assert_eq!(ticked.orders.len(), Policy::default().leader_schedule_limit);
    assert!(ticked.orders.iter().all(|order| order.transfer_leader.is_some()));
    let regions: BTreeSet<_> = ticked.orders.iter().map(|order| order.region_id).collect();
    assert_eq!(regions.len(), ticked.orders.len());
    assert_eq!(cluster.tick(&mut ids, at(100)).orders, [], "no more before one of them is done");
}

#[test]
fn peers_spread_onto_a_new_empty_store() {
    let mut cluster = cluster(vec![]);
    let mut ids = ids();
    for n in 0..10_u8 {
        let key = |n: u8| format!("{n:02}");
        let region = region(u64::from(n) + 1, &key(n), &key(n + 1), 1, &[1, 2, 3]);
        let sized =
            pdpb::RegionHeartbeatRequest { approximate_size: 10 << 20, ..heartbeat(&region) };
        cluster.on_region_heartbeat(sized, &mut ids, at(1)).unwrap();
    }
    assert_eq!(cluster.tick(&mut ids, at(2)).orders, [], "three stores hold the same");
    cluster.put_store(store(4), at(3)).unwrap();
    let stats = pdpb::StoreStats { store_id: 4, ..Default::default() };
    cluster.on_store_heartbeat(stats, at(3)).unwrap();
    let mut moved = 0;
    for ms in 4..40 {
        let ticked = cluster.tick(&mut ids, at(ms));
        for order in &ticked.orders {
            let change = order.change_peer.expect("a peer is added first");
            assert_eq!(change.peer.unwrap().store_id, 4);
        }
        moved += ticked.orders.len();
    }
    // 100 MiB on each of three stores, none on the fourth: it gets a quarter of the 300, or
    // stops a region or two before.
    assert!((5..=8).contains(&moved), "{moved} regions move");
    assert_eq!(cluster.operators().count(Purpose::Region), moved);
}

/// D32: a store that comes into a large cluster prepares until it has its share.
#[test]
fn a_new_store_of_a_large_cluster_prepares() {
    let mut cluster = cluster(vec![]);
    let mut ids = ids();
    let key = |n: u64| format!("{n:03}");
    let region_on =
        |n: u64, version, stores: &[u64]| region(n + 1, &key(n), &key(n + 1), version, stores);
    for n in 0..100 {
        let known = region_on(n, 1, &[1, 2, 3]);
        cluster.on_region_heartbeat(heartbeat(&known), &mut ids, at(1)).unwrap();
    }
    let node_state =
        |cluster: &Cluster| cluster.stores().get(StoreId(4)).unwrap().meta.node_state();
    let writes = cluster.put_store(store(4), at(2)).unwrap();
    assert_eq!(writes.stores[0].node_state(), metapb::NodeState::Preparing);
    cluster.set_policy(Policy { halt_scheduling: true, ..Policy::default() });
    assert_eq!(cluster.tick(&mut ids, at(3)).writes.stores, []);
    assert_eq!(node_state(&cluster), metapb::NodeState::Preparing);
    // 60 of 300 peers are four fifths of a store's share, which is 75.
    for n in 0..60 {
        let moved = region_on(n, 2, &[1, 2, 4]);
        cluster.on_region_heartbeat(heartbeat(&moved), &mut ids, at(4)).unwrap();
    }
    let written = cluster.tick(&mut ids, at(5)).writes.stores;
    assert_eq!(written[0].node_state(), metapb::NodeState::Serving);
    assert_eq!(node_state(&cluster), metapb::NodeState::Serving);
}

#[test]
fn halted_scheduling_does_nothing_by_itself() {
    let mut cluster = cluster(vec![]);
    cluster.set_policy(Policy { halt_scheduling: true, ..Policy::default() });
    let lonely = region(1, "", "", 1, &[1]);
    let heard = cluster.on_region_heartbeat(heartbeat(&lonely), &mut ids(), at(1)).unwrap();
    assert_eq!(heard.order, None);
    assert_eq!(cluster.tick(&mut ids(), at(2)).orders, []);
}

#[test]
fn a_plan_without_ids_asks_for_them_and_is_made_later() {
    let mut cluster = cluster(vec![]);
    let mut ids = Ids::begin(0);
    let lonely = region(1, "", "", 1, &[1]);
    let heard = cluster.on_region_heartbeat(heartbeat(&lonely), &mut ids, at(1)).unwrap();
    assert_eq!((heard.order, heard.ids_wanted), (None, Some(1_001)));
    ids.bound_saved(1_001);
    // The patrol finds it without another heartbeat.
    let ticked = cluster.tick(&mut ids, at(2));
    assert_eq!(ticked.orders.len(), 1);
    assert_eq!(cluster.cancel_operator(RegionId(1), at(3)), Ok(()));
    let none = cluster.cancel_operator(RegionId(1), at(3)).unwrap_err();
    assert_eq!(none.to_string(), "r1: no operator is under way");
}

#[test]
fn the_lowest_resolved_timestamp_of_stores_that_lead_only_rises() {
    let halves = [region(1, "", "m", 1, &[1, 2, 3]), region(2, "m", "", 1, &[2, 1, 3])];
    let mut cluster = cluster(halves.to_vec());
    for half in &halves {
        cluster.on_region_heartbeat(heartbeat(half), &mut ids(), at(1)).unwrap();
    }
    let [first, second, third] = [1, 2, 3].map(StoreId);
    cluster.report_resolved(first, 50).unwrap();
    assert_eq!((cluster.resolved(), cluster.resolved_of(second)), (0, 0), "store 2 is awaited");
    cluster.report_resolved(second, 40).unwrap();
    assert_eq!(cluster.resolved(), 40);
    cluster.report_resolved(third, 5).unwrap();
    assert_eq!((cluster.resolved(), cluster.resolved_of(third)), (40, NO_SAY));
    // A store that has restarted begins lower again.
    cluster.report_resolved(first, 30).unwrap();
    assert_eq!((cluster.resolved(), cluster.resolved_of(first)), (40, 30));
    assert_eq!(cluster.report_resolved(StoreId(9), 1), Err(Refusal::UnknownStore(StoreId(9))));
}

#[test]
fn a_region_that_somebody_waits_for_is_looked_at_before_the_patrol_comes_to_it() {
    let count = 2 * PATROL_REGIONS as u64;
    let key = |number: u64| if number == count { String::new() } else { format!("{number:05}") };
    let start = |number: u64| if number == 0 { String::new() } else { key(number) };
    let alone: Vec<_> = (0..count)
        .map(|number| region(1 + number, &start(number), &key(number + 1), 1, &[1]))
        .collect();
    let before_the_patrol = || {
        let mut cluster = cluster(alone.clone());
        cluster.set_policy(Policy { halt_scheduling: true, ..Policy::default() });
        for id in 1..=3 {
            let stats = pdpb::StoreStats {
                store_id: id,
                capacity: 100 << 30,
                available: 90 << 30,
                ..Default::default()
            };
            cluster.on_store_heartbeat(stats, at(1)).unwrap();
        }
        for region in &alone {
            cluster.on_region_heartbeat(heartbeat(region), &mut ids(), at(1)).unwrap();
        }
        cluster.set_policy(Policy::default());
        cluster
    };
    let last = proto::KeyRange::of(&alone[count as usize - 1]);
    let begun = |cluster: &Cluster, id| cluster.operators().of(RegionId(id)).is_some();
    let mut cluster = before_the_patrol();
    assert_eq!(cluster.placement(&last, at(2)), Placement::Underway);
    cluster.tick(&mut ids(), at(2));
    assert!(begun(&cluster, 1) && !begun(&cluster, count), "the patrol begins at the first");

    let mut cluster = before_the_patrol();
    cluster.look_soon(&last, 0, at(2));
    cluster.tick(&mut ids(), at(2));
    assert!(begun(&cluster, 1) && begun(&cluster, count), "it is looked at too");
}
