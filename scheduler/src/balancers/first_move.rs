//! Which move the balancer of peers makes first: from which store, of which region, and to where.
//!
//! Nothing is carried out here, so each answer is to the situation that the test has made.

use proto::{StoreId, metapb};

use crate::cluster::{Policy, RegionRecord};
use crate::operator::store_limit::{StoreRates, UNLIMITED};
use crate::operator::{Operator, Step};
use crate::scheduling::world::World;

/// So many stores, on which nobody repairs anything and nothing is held up.
fn world(stores: u64, max_replicas: usize) -> World {
    let rates = StoreRates { add_peer: UNLIMITED, remove_peer: UNLIMITED };
    let policy = Policy { max_replicas, default_store_limit: rates, ..Policy::default() };
    let mut world = World::new(stores, policy);
    world.cluster.pause_checker("all", 1 << 20, world.moment).unwrap();
    world
}

fn plan(world: &World) -> Option<Operator> {
    let view = world.cluster.view(world.moment);
    super::regions::balance(view, &mut world.ids.clone()).unwrap()
}

/// The region of the next move, the store that gives its peer, and the one that takes it.
fn next(world: &World) -> Option<(u64, u64, u64)> {
    let plan = plan(world)?;
    let (mut from, mut to) = (0, 0);
    for step in plan.steps() {
        if let Step::RemovePeer(peer) = step {
            from = peer.store_id;
        }
        if let Step::AddPeer(peer) = step {
            to = peer.store_id;
        }
    }
    Some((plan.region.0, from, to))
}

fn stores_of_next(world: &World) -> Option<(u64, u64)> {
    next(world).map(|(_, from, to)| (from, to))
}

/// Regions of one peer each.
fn alone(world: &mut World, ids: std::ops::RangeInclusive<u64>, store: u64, mib: u64) {
    ids.for_each(|id| world.add_region(id, &[store], mib));
}

/// S3.2: stores are compared by the sizes of what they hold, however many peers that is.
#[test]
fn s3_2_a_few_large_regions_weigh_more_than_many_small_ones() {
    let mut world = world(4, 1);
    alone(&mut world, 1..=10, 1, 100);
    alone(&mut world, 11..=50, 2, 10);
    alone(&mut world, 51..=60, 3, 10);
    alone(&mut world, 61..=61, 4, 150);
    // By their numbers the peers would go from the second store to the fourth.
    assert_eq!(stores_of_next(&world), Some((1, 3)));
}

/// S3.2: of stores that hold as much, the one with more peers gives, and the one with fewer takes.
#[test]
fn s3_2_of_equal_sizes_the_number_of_peers_decides() {
    let mut world = world(4, 1);
    alone(&mut world, 1..=20, 1, 50);
    alone(&mut world, 21..=30, 2, 100);
    alone(&mut world, 31..=32, 3, 10);
    alone(&mut world, 33..=33, 4, 20);
    // By their ids it would be from the second to the third.
    assert_eq!(stores_of_next(&world), Some((1, 4)));
}

/// S4.18: of the stores that are up and not silent for too long, the fullest gives.
#[test]
fn s4_18_the_fullest_suitable_store_gives() {
    let mut world = world(5, 1);
    for (ids, store) in [(1..=12, 1), (13..=26, 2), (27..=36, 3), (37..=44, 4)] {
        alone(&mut world, ids, store, 100);
    }
    assert_eq!(stores_of_next(&world), Some((2, 5)));
    // Silent, but not yet for too long: it may give, though it would not be given anything.
    let max_ms = world.cluster.policy().max_store_down_time_ms;
    world.moment.steady_ms += max_ms;
    [1, 3, 4, 5].into_iter().for_each(|store| world.store_speaks(store));
    assert_eq!(stores_of_next(&world), Some((2, 5)));
    world.moment.steady_ms += 1;
    assert_eq!(stores_of_next(&world), Some((1, 5)));
    world.cluster.take_store_offline(StoreId(1), false).unwrap();
    assert_eq!(stores_of_next(&world), Some((3, 5)));
    // The emptiest one that cannot take is no target either.
    world.cluster.take_store_offline(StoreId(5), false).unwrap();
    assert_eq!(stores_of_next(&world), None, "200 MiB is not too much of a difference");
    alone(&mut world, 45..=46, 3, 100);
    assert_eq!(stores_of_next(&world), Some((3, 4)));
}

fn set(world: &mut World, id: u64, change: impl FnOnce(&mut RegionRecord)) {
    change(world.regions.get_mut(&id).unwrap());
    world.beat(id, 0);
}

/// S4.19: of the regions on the store one goes whose peer there catches up anyway, else one that it follows,
/// else one that it leads.
#[test]
fn s4_19_pending_then_followed_then_led() {
    let mut world = world(4, 3);
    // The first store has to be the fullest; nobody can move these.
    alone(&mut world, 100..=109, 1, 96);
    (1..=3).for_each(|id| world.add_region(id, &[1, 2, 3], 96));
    (4..=6).for_each(|id| world.add_region(id, &[2, 1, 3], 96));
    (7..=9).for_each(|id| world.add_region(id, &[3, 1, 2], 96));
    set(&mut world, 8, |record| record.pending_peers = vec![record.region.peers[1]]);
    assert_eq!(next(&world), Some((8, 1, 4)));
    set(&mut world, 8, |record| record.pending_peers.clear());
    assert_eq!(next(&world), Some((4, 1, 4)), "the first of those that it follows");
    for id in 4..=9 {
        let silent = world.regions[&id].region.peers[2];
        let down = proto::pdpb::PeerStats { peer: Some(silent), down_seconds: 60 };
        set(&mut world, id, |record| record.down_peers = vec![down]);
    }
    assert_eq!(next(&world), Some((1, 1, 4)), "none that it follows may go");
    assert!(plan(&world).unwrap().kind().contains("leader"));
}

/// S4.19: when the fullest store has nothing that can go, the next one is tried, and the next.
#[test]
fn s4_19_a_store_with_nothing_to_give_does_not_end_the_search() {
    let mut world = world(6, 3);
    // Regions with too few replicas are not moved.
    alone(&mut world, 100..=129, 1, 96);
    alone(&mut world, 130..=149, 2, 96);
    assert_eq!(next(&world), None);
    (1..=8).for_each(|id| world.add_region(id, &[3, 4, 5], 96));
    assert_eq!(next(&world), Some((1, 5, 6)));
}

/// S4.20: to the least loaded store without a peer of the region.
#[test]
fn s4_20_a_store_with_a_peer_of_the_region_is_no_target() {
    let mut world = world(5, 3);
    alone(&mut world, 100..=109, 1, 96);
    (1..=5).for_each(|id| world.add_region(id, &[1, 2, 3], 96));
    alone(&mut world, 110..=116, 4, 96);
    alone(&mut world, 117..=122, 5, 96);
    // The second and the third hold least of all.
    assert_eq!(stores_of_next(&world), Some((1, 5)));
}

/// S4.20: a difference of up to twice the region's size is left alone, since the two would only change
/// their places; a larger one is not, and is smaller after the move.
#[test]
fn s4_20_a_difference_of_twice_the_regions_size_is_left_alone() {
    let mut world = world(2, 1);
    alone(&mut world, 1..=1, 1, 500);
    alone(&mut world, 2..=11, 2, 10);
    let busy = |world: &mut World, ids: std::ops::RangeInclusive<u64>| {
        for id in ids {
            world.add_region(id, &[1], 10);
            // It weighs, and cannot go.
            let down = proto::pdpb::PeerStats { peer: None, down_seconds: 60 };
            set(world, id, |record| record.down_peers = vec![down]);
        }
    };
    // 500 more than the other store is far more than is tolerated of stores with small regions, …
    assert_eq!(next(&world), None);
    busy(&mut world, 12..=71);
    // … and so are 1,000.
    assert_eq!(next(&world), None);
    busy(&mut world, 72..=72);
    assert_eq!(next(&world), Some((1, 1, 2)));
    // There it stays.
    set(&mut world, 1, |record| {
        record.region.peers[0].store_id = 2;
        record.leader = Some(record.region.peers[0]);
        record.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 2, version: 1 });
    });
    assert_eq!(next(&world), None);
}

/// S4.21: a region is moved when it has exactly `max-replicas` voters and nothing else, whatever the number of
/// stores is.
#[test]
fn s4_21_a_region_with_too_few_or_too_many_replicas_is_not_moved() {
    for replicas in 1..=5 {
        let mut world = world(6, 3);
        let stores: Vec<u64> = (1..=replicas).collect();
        (1..=20).for_each(|id| world.add_region(id, &stores, 96));
        assert_eq!(next(&world).is_some(), replicas == 3, "{replicas} replicas");
        let policy = Policy { max_replicas: stores.len(), ..world.cluster.policy().clone() };
        world.cluster.set_policy(policy);
        assert!(next(&world).is_some(), "{replicas} replicas are as many as wanted");
    }
    let mut world = world(6, 3);
    for id in 1..=20 {
        world.add_region(id, &[1, 2, 3, 4], 96);
        set(&mut world, id, |record| record.region.peers[3].set_role(metapb::PeerRole::Learner));
    }
    assert_eq!(next(&world), None, "a learner is one peer too many");
}

fn steps(world: &World) -> Vec<String> {
    plan(world).unwrap().steps().iter().map(ToString::to_string).collect()
}

/// S4.22: the new peer has an id that nobody had; it is added, the lead is handed over if it was where the old
/// peer is, and the old peer is removed.
#[test]
fn s4_22_a_follower_is_moved_without_a_word_to_the_leader() {
    let mut world = world(4, 3);
    (1..=10).for_each(|id| world.add_region(id, &[2, 1, 3], 96));
    alone(&mut world, 100..=105, 1, 96);
    let one_by_one = Policy { enable_joint_consensus: false, ..world.cluster.policy().clone() };
    let at_once = Policy { add_as_learner: false, ..one_by_one.clone() };
    let learner = "add learner p1000001 on s4".to_owned();
    let promoted = "promote learner p1000001 on s4".to_owned();
    let added = "add peer p1000001 on s4".to_owned();
    let removed = "remove peer p101 on s1".to_owned();
    let joint = steps(&world);
    assert_eq!((&joint[0], joint.last()), (&learner, Some(&removed)));
    assert!(joint.iter().all(|step| !step.starts_with("transfer leader")), "{joint:?}");
    world.cluster.set_policy(one_by_one.clone());
    assert_eq!(steps(&world), [learner.clone(), promoted.clone(), removed.clone()]);
    world.cluster.set_policy(at_once.clone());
    assert_eq!(steps(&world), [added.clone(), removed.clone()]);
    // Were it the leader that goes, it would hand over first.
    let mut world = self::world(2, 1);
    alone(&mut world, 1..=10, 1, 96);
    let [learner, promoted, added] = [learner, promoted, added].map(|it| it.replace("s4", "s2"));
    let transferred = "transfer leader from s1 to s2".to_owned();
    let policy = |policy: Policy| Policy { max_replicas: 1, ..policy };
    world.cluster.set_policy(policy(one_by_one));
    assert_eq!(steps(&world), [learner, promoted, transferred.clone(), removed.clone()]);
    world.cluster.set_policy(policy(at_once));
    assert_eq!(steps(&world), [added, transferred, removed]);
    // Every plan takes an id of its own.
    let mut ids = world.ids.clone();
    let mut new_peer = || {
        let view = world.cluster.view(world.moment);
        let plan = super::regions::balance(view, &mut ids).unwrap().unwrap();
        let Some(Step::AddPeer(peer)) = plan.steps().first() else { panic!("{plan}") };
        peer.id
    };
    assert_eq!((new_peer(), new_peer()), (1_000_001, 1_000_002));
}
