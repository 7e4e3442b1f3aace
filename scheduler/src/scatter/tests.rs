//! Groups spread evenly, whatever else lies where.

use proto::{RegionId, pdpb};

use super::*;
use crate::cluster::{Policy, Refusal, ScatterStep};
use crate::operator::store_limit::{StoreRates, UNLIMITED};
use crate::scheduling::world::{World, spread};

fn world(stores: u64, regions: u64) -> World {
    let rates = StoreRates { add_peer: UNLIMITED, remove_peer: UNLIMITED };
    let policy = Policy { default_store_limit: rates, ..Policy::default() };
    let mut world = World::new(stores, policy);
    // Nothing moves but for being scattered.
    world.cluster.pause_scheduler("all", 24 * 3_600, world.moment).unwrap();
    (1..=regions).for_each(|id| world.add_region(id, &[1, 2, 3], 1));
    world
}

fn scatter(world: &mut World, region: u64, group: &str) -> Result<ScatterStep, Refusal> {
    let World { cluster, ids, moment, .. } = world;
    cluster.scatter(RegionId(region), group, false, ids, *moment)
}

#[test]
fn regions_of_a_group_end_evenly_on_all_stores_peers_and_leaders() {
    let mut world = world(6, 60);
    for id in 1..=60 {
        scatter(&mut world, id, "table").unwrap();
    }
    let status = world.cluster.operators().status(RegionId(60), world.moment).unwrap();
    assert_eq!(
        (&status.desc[..], status.status()),
        (DESCRIPTION.as_bytes(), pdpb::OperatorStatus::Running)
    );
    world.settle();
    let (peers, leaders) = (world.peers(), world.leaders());
    assert!(spread(&peers) <= 2, "{peers:?}");
    assert!(spread(&leaders) <= 2, "{leaders:?}");
    assert!(world.regions.values().all(|record| record.voters().count() == 3));
}

#[test]
fn groups_are_spread_each_by_itself_and_forgotten_after_a_while() {
    let mut world = world(4, 8);
    let moved = |step: Result<ScatterStep, Refusal>| matches!(step, Ok(ScatterStep::Done(Some(_))));
    // The first of a group lies as well as anywhere else.
    assert!(!moved(scatter(&mut world, 1, "a")));
    assert!(moved(scatter(&mut world, 2, "a")), "a store has none of the group yet");
    assert!(!moved(scatter(&mut world, 3, "b")), "another group begins anew");
    world.run(GROUP_MS + 10);
    assert!(!moved(scatter(&mut world, 4, "a")), "the group is forgotten");
}

#[test]
fn a_region_that_is_not_whole_or_busy_is_not_scattered() {
    let mut world = world(4, 2);
    assert_eq!(
        scatter(&mut world, 9, "g"),
        Err(Refusal::RegionNotFound("region 9 not found".into()))
    );
    world.cluster.pause_checker("all", 3_600, world.moment).unwrap();
    world.add_region(3, &[1, 2], 1);
    let why = scatter(&mut world, 3, "g").unwrap_err().to_string();
    assert!(why.contains("it has 2 voters and should have 3"), "{why}");
    scatter(&mut world, 1, "g").unwrap();
    scatter(&mut world, 2, "g").unwrap();
    let why = scatter(&mut world, 2, "g").unwrap_err().to_string();
    assert!(why.contains("scatter-region is under way"), "{why}");
    let peer = world.regions[&1].region.peers[1];
    world.regions.get_mut(&1).unwrap().pending_peers = vec![peer];
    world.beat(1, 0);
    let why = scatter(&mut world, 1, "g").unwrap_err().to_string();
    assert!(why.contains("silent or behind"), "{why}");
}

#[test]
fn places_that_labels_keep_apart_stay_apart() {
    let mut world = world(6, 12);
    let policy = Policy { location_labels: vec!["zone".into()], ..world.cluster.policy().clone() };
    world.cluster.set_policy(policy);
    for id in 1..=6 {
        let zone = ["a", "b", "c"][(id as usize - 1) % 3];
        let label = metapb::StoreLabel { key: "zone".into(), value: zone.into() };
        world.cluster.set_store_labels(StoreId(id), &[label], false).unwrap();
    }
    for id in 1..=12 {
        scatter(&mut world, id, "g").unwrap();
    }
    world.settle();
    for record in world.regions.values() {
        let zones: BTreeSet<_> = record.voters().map(|voter| (voter.store_id - 1) % 3).collect();
        assert_eq!(zones.len(), 3, "{record:?}");
    }
    assert!(spread(&world.peers()) <= 2, "{:?}", world.peers());
}
