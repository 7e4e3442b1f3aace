//! What balance leads to in the end: how even, in how many moves, and that it ends.

use proto::StoreId;
use serde_json::json;

use crate::cluster::{LeaderSchedulePolicy, Policy};
use crate::operator::Purpose;
use crate::operator::store_limit::{StoreRates, UNLIMITED};
use crate::scheduling::world::{World, spread};

/// Nothing is held up by what stores can take in a minute.
fn unlimited() -> Policy {
    let rates = StoreRates { add_peer: UNLIMITED, remove_peer: UNLIMITED };
    Policy { default_store_limit: rates, ..Policy::default() }
}

/// Regions of that size on the first three stores, all led from the first.
fn crowded(stores: u64, regions: u64, mib: u64, policy: Policy) -> World {
    let mut world = World::new(stores, policy);
    for id in 1..=regions {
        world.add_region(id, &[1, 2, 3], mib);
    }
    world
}

/// Ten minutes more bring no move.
fn assert_at_rest(world: &mut World) {
    let obeyed = world.obeyed;
    world.tick_ms = 200;
    for _ in 0..20 {
        world.run(30_000);
        world.all_beat(0);
    }
    assert_eq!(world.obeyed, obeyed, "{:?}", world.cluster.operators().history().next());
}

#[test]
fn s3_1_a_hundred_regions_on_six_stores_end_at_fifty_peers_each() {
    let mut world = crowded(6, 100, 96, unlimited());
    world.settle();
    let peers = world.peers();
    assert_eq!(peers.iter().sum::<usize>(), 300);
    assert!(spread(&peers) <= 4, "{peers:?}");
    // 150 peers have to move, each by five orders at most: learner, in, out, lead, removal.
    assert!(world.obeyed <= 5 * 160 + 100, "{} orders", world.obeyed);
    assert_at_rest(&mut world);
}

/// S3.3: of a hundred leaders on six stores each has sixteen or seventeen, give or take the tolerance; without a
/// tolerance, give or take one.
#[test]
fn s3_3_leaders_end_at_a_sixth_each_within_the_tolerance() {
    let mut world = crowded(6, 100, 96, unlimited());
    world.settle();
    let leaders = world.leaders();
    assert_eq!(leaders.iter().sum::<usize>(), 100);
    // The tolerance is 5 on either side.
    assert!(spread(&leaders) <= 10, "{leaders:?}");
    let exact = Policy { leader_balance_tolerance: 0, ..unlimited() };
    world.cluster.set_policy(exact);
    world.settle();
    assert!(spread(&world.leaders()) <= 2, "{:?}", world.leaders());
    assert_at_rest(&mut world);
}

/// S3.2: where sizes differ it is they that even out, not numbers.
#[test]
fn s3_2_regions_of_different_sizes_are_balanced_by_size() {
    let mut world = World::new(4, unlimited());
    // Ten large ones on the first three stores, and forty small ones.
    for id in 1..=50 {
        world.add_region(id, &[1, 2, 3], if id <= 10 { 300 } else { 10 });
    }
    world.settle();
    let mib = |id| world.cluster.regions().counts(StoreId(id)).region_size_mib as i64;
    let sizes: Vec<_> = (1..=4).map(mib).collect();
    let average = sizes.iter().sum::<i64>() / 4;
    assert!(sizes.iter().all(|size| (size - average).abs() <= 300), "{sizes:?}");
    assert_at_rest(&mut world);
}

/// S0.3: a store that comes empty gets whole regions, with leaders, until all hold the same; small regions too,
/// and in a cluster of less than a hundred.
#[test]
fn s0_3_a_new_empty_store_gets_its_share() {
    let mut world = crowded(3, 90, 1, Policy::default());
    world.settle();
    world.add_store(4);
    world.settle();
    let (peers, leaders) = (world.peers(), world.leaders());
    assert!(spread(&peers) <= 4, "{peers:?}");
    assert!(spread(&leaders) <= 10, "{leaders:?}");
    assert_at_rest(&mut world);
}

#[test]
fn thousands_of_leaders_even_out_within_seconds_at_four_a_time() {
    let mut world = crowded(3, 3_000, 1, Policy::default());
    world.run(20_000);
    assert!(spread(&world.leaders()) <= 10, "{:?}", world.leaders());
    // With room for more, one turn makes more.
    let wide = Policy { leader_schedule_limit: 64, ..Policy::default() };
    let mut world = crowded(3, 300, 1, wide);
    world.run(10);
    assert_eq!(world.under_way(Purpose::Leader), 64);
}

/// S0.4: whether balancing leaders is a good thing is for people to say: by count, by size, not at all, or
/// without its scheduler.
#[test]
fn s0_4_leaders_are_balanced_by_count_by_size_or_not_at_all() {
    let skewed = |policy: Policy| {
        let mut world = World::new(2, Policy { max_replicas: 2, ..policy });
        // The first store leads one large region, the second twenty small ones.
        world.add_region(1, &[1, 2], 500);
        (2..=21).for_each(|id| world.add_region(id, &[2, 1], 5));
        world.settle();
        world.leaders()
    };
    let tolerance = Policy { leader_balance_tolerance: 0, ..Policy::default() };
    let by_count = skewed(tolerance.clone());
    assert!(spread(&by_count) <= 1, "{by_count:?}");
    let by_size = Policy { leader_schedule_policy: LeaderSchedulePolicy::Size, ..tolerance };
    assert_eq!(skewed(by_size.clone()), [1, 20], "600 MiB in all, of which 500 cannot be split");
    let off = Policy { balance_leaders: false, ..Policy::default() };
    assert_eq!(skewed(off), [1, 20]);
    // Removed at run time it is off, and added again it is on.
    let mut world = crowded(3, 60, 1, Policy::default());
    world.cluster.remove_scheduler("balance-leader-scheduler", world.moment).unwrap();
    world.settle();
    assert_eq!(world.leaders(), [60, 0, 0]);
    world.cluster.add_scheduler("balance-leader-scheduler", &json!({}), world.moment).unwrap();
    world.settle();
    assert!(spread(&world.leaders()) <= 10, "{:?}", world.leaders());
}

/// S3.9: a store is given fifteen peers a minute, and none while it sends, receives or installs as many
/// snapshots as it may; S3.10: so is it for the balancer.
#[test]
fn s3_9_s3_10_moves_are_held_up_by_store_limits_and_by_snapshots() {
    let mut world = crowded(4, 60, 96, Policy::default());
    world.run(60_000);
    let came = world.peers()[3];
    // Fifteen a minute, and the one that was there at once.
    assert!((10..=16).contains(&came), "{came}");
    // A store that receives as many snapshots as it may gets no more.
    let snapshots = u64::from(world.cluster.policy().max_snapshot_count);
    world.stats.get_mut(&4).unwrap().receiving_snap_count = snapshots as u32;
    world.store_speaks(4);
    world.run(20_000);
    let stuck = world.peers()[3];
    world.run(60_000);
    assert_eq!(world.peers()[3], stuck);
    // Without limits it goes on to the end at once.
    world.stats.get_mut(&4).unwrap().receiving_snap_count = 0;
    world.store_speaks(4);
    world.cluster.set_policy(unlimited());
    world.settle();
    assert!(spread(&world.peers()) <= 4, "{:?}", world.peers());
}

#[test]
fn s0_37_a_store_that_is_low_on_space_receives_nothing_and_gives() {
    let mut world = World::new(4, unlimited());
    let gib = 1_u64 << 30;
    for id in 1..=4 {
        let stats = world.stats.get_mut(&id).unwrap();
        (stats.capacity, stats.available) = (100 * gib, 90 * gib);
        world.store_speaks(id);
    }
    let low = world.stats.get_mut(&4).unwrap();
    (low.available, low.used_size) = (10 * gib, 90 * gib);
    world.store_speaks(4);
    for id in 1..=120 {
        world.add_region(id, &[1, 2, 3], 10);
    }
    world.run(60_000);
    assert_eq!(world.peers()[3], 0);
    let says = crate::explain::store(&world.cluster, StoreId(4), world.moment, 0).unwrap();
    assert_eq!(says.no_peer_because, Some("is low on space"));
}

/// S4.21: in a cluster of more stores than replicas are wanted, regions with too few of them are repaired or left
/// alone, but not moved.
#[test]
fn s4_21_a_region_with_too_few_replicas_is_not_moved_for_balance() {
    let mut world = World::new(4, unlimited());
    world.cluster.pause_checker("all", 3_600, world.moment).unwrap();
    (1..=40).for_each(|id| world.add_region(id, &[1, 2], 96));
    world.run(60_000);
    assert_eq!(world.peers(), [40, 40, 0, 0]);
}

/// S4.19: of the fullest store's regions the one goes first whose peer there is catching up, then one that the
/// store follows; one that it leads only then.
#[test]
fn s4_19_s4_20_a_pending_peer_goes_first_then_a_follower_then_a_leader() {
    let mut world = World::new(4, unlimited());
    (1..=9).for_each(|id| world.add_region(id, &[2, 1, 3], 96));
    // Ten more for the first store, which has to be the fullest.
    (10..=19).for_each(|id| world.add_region(id, &[1], 96));
    let pending = world.regions[&5].region.peers[1];
    world.regions.get_mut(&5).unwrap().pending_peers = vec![pending];
    world.beat(5, 0);
    let mut ids = world.ids.clone();
    let moved = super::regions::balance(world.cluster.view(world.moment), &mut ids).unwrap();
    let moved = moved.unwrap();
    assert_eq!(moved.region.0, 5, "{moved}");
    world.regions.get_mut(&5).unwrap().pending_peers.clear();
    world.beat(5, 0);
    let moved = super::regions::balance(world.cluster.view(world.moment), &mut ids).unwrap();
    let moved = moved.unwrap();
    // Store 1 follows it: no lead has to go.
    assert!(moved.region.0 < 10, "{moved}");
    assert_eq!(moved.kind(), "region");
}

/// S4.22: the new peer first, then the lead, and the old peer last.
#[test]
fn s4_22_a_move_adds_hands_over_and_removes_in_this_order() {
    let mut world = World::new(2, Policy { max_replicas: 1, ..unlimited() });
    (1..=10).for_each(|id| world.add_region(id, &[1], 96));
    let mut ids = world.ids.clone();
    let moved = super::regions::balance(world.cluster.view(world.moment), &mut ids).unwrap();
    let steps: Vec<_> = moved.unwrap().steps().iter().map(ToString::to_string).collect();
    // Nobody else has a vote before: the lead goes over while both have one.
    let expected =
        ["add learner", "enter a joint", "transfer leader", "leave the joint", "remove peer"];
    assert_eq!(steps.len(), expected.len(), "{steps:?}");
    for (step, begins) in steps.iter().zip(expected) {
        assert!(step.starts_with(begins), "{steps:?}");
    }
}

#[test]
fn a_hot_region_is_moved_for_its_load_and_then_stays() {
    let mut world = crowded(4, 12, 96, unlimited());
    // Nothing moves but for heat.
    for name in ["balance-region-scheduler", "balance-leader-scheduler"] {
        world.cluster.remove_scheduler(name, world.moment).unwrap();
    }
    for id in 1..=6 {
        world.flow.insert(id, (1 << 20, 0));
    }
    for _ in 0..10 {
        world.tick_ms = 100;
        world.run(60_000);
        world.all_beat(60);
    }
    let loads: Vec<_> =
        (1..=4).map(|id| world.cluster.flow().load_of(StoreId(id)).written.bytes >> 20).collect();
    assert!(loads[3] > 0, "{loads:?}");
    assert!(loads.iter().max() < Some(&6), "{loads:?}");
    assert!(world.descriptions().contains("move-hot-write-peer"), "{:?}", world.descriptions());
    let led: Vec<_> = (1..=4)
        .map(|id| world.cluster.flow().load_of(StoreId(id)).written_as_leader.bytes >> 20)
        .collect();
    assert!(led.iter().max() <= Some(&2), "{led:?}");
    let obeyed = world.obeyed;
    for _ in 0..20 {
        world.tick_ms = 100;
        world.run(60_000);
        world.all_beat(60);
    }
    assert_eq!(
        world.obeyed,
        obeyed,
        "it wanders: {:?}",
        world.cluster.operators().history().next()
    );
}

#[test]
fn hot_reads_spread_the_leaders() {
    let mut world = crowded(3, 6, 96, unlimited());
    world.cluster.remove_scheduler("balance-leader-scheduler", world.moment).unwrap();
    world.flow.extend((1..=6).map(|id| (id, (0, 8 << 20))));
    for _ in 0..10 {
        world.run(10_000);
        world.all_beat(10);
    }
    assert_eq!(world.leaders(), [2, 2, 2]);
    assert!(world.descriptions().contains("transfer-hot-read-leader"));
    // One region that is hotter than all others together stays: moving it would move the heat.
    let mut world = crowded(3, 6, 96, unlimited());
    world.cluster.remove_scheduler("balance-leader-scheduler", world.moment).unwrap();
    world.flow.insert(1, (0, 64 << 20));
    for _ in 0..10 {
        world.run(10_000);
        world.all_beat(10);
    }
    assert_eq!(world.obeyed, 0);
}
