//! Schedulers that carry out a wish: what they do, and that others keep off.

use proto::StoreId;
use serde_json::json;

use crate::cluster::{Policy, Refusal};
use crate::explain;
use crate::operator::{Priority, Purpose};
use crate::scheduling::world::{World, spread};

fn world(stores: u64, regions: u64) -> World {
    let mut world = World::new(stores, Policy::default());
    (1..=regions).for_each(|id| world.add_region(id, &[1, 2, 3], 1));
    world
}

fn says(world: &World, region: u64, scheduler: &str) -> Option<String> {
    let explained = explain::region(&world.cluster, proto::RegionId(region), world.moment)?;
    let mut verdicts = explained.schedulers.into_iter();
    verdicts.find(|verdict| verdict.scheduler == scheduler).map(|verdict| verdict.says)
}

#[test]
fn an_evicted_store_loses_its_leaders_and_gets_none() {
    let mut world = world(3, 60);
    world.settle();
    assert!(world.leaders()[0] > 0);
    let evict = json!({"store_id": 1});
    world.cluster.add_scheduler("evict-leader-scheduler", &evict, world.moment).unwrap();
    let told = says(&world, 1, "evict-leader-scheduler");
    let leads = world.regions[&1].leader.unwrap().store_id;
    assert_eq!(told.is_some(), leads == 1, "{told:?}");
    world.settle();
    assert_eq!(world.leaders()[0], 0);
    assert!(spread(&world.leaders()[1..]) <= 10, "{:?}", world.leaders());
    let evicted =
        world.cluster.operators().history().find(|e| e.operator.description == "evict-leader");
    assert_eq!(evicted.unwrap().operator.priority, Priority::Urgent);
    let store = explain::store(&world.cluster, StoreId(1), world.moment, 1).unwrap();
    assert_eq!(store.no_leader_because, Some("must not lead, as a scheduler wants it"));
    assert!(
        store.schedulers.iter().any(|v| v.says.contains("it is to have no leaders")),
        "{store:?}"
    );
    // Another store joins it, and one leaves again; with the last the scheduler is gone.
    world
        .cluster
        .add_scheduler("evict-leader-scheduler", &json!({"store_id": 2}), world.moment)
        .unwrap();
    world.settle();
    assert_eq!(world.leaders(), [0, 0, 60]);
    world.cluster.remove_scheduler("evict-leader-scheduler-1", world.moment).unwrap();
    assert!(world.cluster.remove_scheduler("evict-leader-scheduler-1", world.moment).is_err());
    world.settle();
    let leaders = world.leaders();
    assert!(leaders[0] > 0 && leaders[1] == 0, "{leaders:?}");
    world.cluster.remove_scheduler("evict-leader-scheduler-2", world.moment).unwrap();
    assert!(world.cluster.coordinator().find("evict-leader-scheduler").is_none());
    world.settle();
    assert!(spread(&world.leaders()) <= 10, "{:?}", world.leaders());
}

#[test]
fn a_granted_store_leads_all_it_can_and_keeps_it() {
    let mut world = world(3, 60);
    let grant = json!({"store_id": 3});
    world.cluster.add_scheduler("grant-leader-scheduler", &grant, world.moment).unwrap();
    world.settle();
    assert_eq!(world.leaders(), [0, 0, 60]);
    let told = says(&world, 1, "grant-leader-scheduler").unwrap();
    assert_eq!(told, "its lead is granted to s3, and stays");
    // Nobody can want the contrary.
    let evict = world.cluster.add_scheduler(
        "evict-leader-scheduler",
        &json!({"store_id": 3}),
        world.moment,
    );
    assert_eq!(evict, Err(Refusal::InvalidValue("store 3 is held by another scheduler".into())));
    world.cluster.remove_scheduler("grant-leader-scheduler", world.moment).unwrap();
    world.settle();
    assert!(spread(&world.leaders()) <= 10, "{:?}", world.leaders());
}

#[test]
fn what_a_scheduler_cannot_be_told_is_named() {
    let mut world = world(3, 1);
    let moment = world.moment;
    let mut refused = |name: &str, arguments| {
        world.cluster.add_scheduler(name, &arguments, moment).unwrap_err().to_string()
    };
    assert_eq!(refused("evict-leader-scheduler", json!({})), "missing store id");
    assert_eq!(refused("evict-leader-scheduler", json!({"store_id": "x"})), "invalid store id");
    assert_eq!(refused("grant-leader", json!({"store_id": 9})), "there is no store 9");
    let batch = json!({"store_id": 1, "batch": 11});
    assert_eq!(refused("evict-leader", batch), "batch must lie between 1 and 10");
    let roles = json!({"roles": ["king"]});
    assert!(refused("shuffle-region-scheduler", roles).contains("leader, follower, learner"));
}

#[test]
fn shuffling_leaders_moves_them_for_ever_and_breaks_nothing() {
    let mut world = world(3, 12);
    world.cluster.add_scheduler("shuffle-leader-scheduler", &json!({}), world.moment).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        world.run(100);
        seen.insert(world.leaders());
        assert!(world.under_way(Purpose::Leader) <= 4);
    }
    assert!(seen.len() > 3, "{seen:?}");
    assert!(world.descriptions().contains("shuffle-leader"));
    assert_eq!(world.leaders().iter().sum::<usize>(), 12);
}

#[test]
fn shuffling_regions_moves_peers_and_keeps_every_region_whole() {
    let mut world = world(5, 12);
    for name in ["balance-region-scheduler", "balance-leader-scheduler"] {
        world.cluster.remove_scheduler(name, world.moment).unwrap();
    }
    let roles = json!({"roles": ["follower"]});
    world.cluster.add_scheduler("shuffle-region-scheduler", &roles, world.moment).unwrap();
    world.run(10_000);
    let peers = world.peers();
    assert!(peers[3] + peers[4] > 0, "{peers:?}");
    assert_eq!(world.leaders(), [12, 0, 0, 0, 0], "leaders were not to be moved");
    world.cluster.remove_scheduler("shuffle-region-scheduler", world.moment).unwrap();
    world.settle();
    assert!(world.regions.values().all(|record| record.voters().count() == 3));
}

#[test]
fn a_slow_store_is_relieved_of_its_leaders_until_it_has_recovered() {
    let mut world = world(3, 60);
    world.settle();
    let score = |world: &mut World, id, score| {
        world.stats.get_mut(&id).unwrap().slow_score = score;
        world.store_speaks(id);
    };
    score(&mut world, 2, 90);
    world.run(20_000);
    assert!(world.leaders()[1] > 0, "slow, but not that slow");
    score(&mut world, 2, 100);
    world.settle();
    assert_eq!(world.leaders()[1], 0);
    let store = explain::store(&world.cluster, StoreId(2), world.moment, 0).unwrap();
    assert!(store.schedulers.iter().any(|v| v.says.contains("is slow and relieved")), "{store:?}");
    // A better score is not enough; it has to be well for ten minutes.
    score(&mut world, 2, 1);
    world.run(500_000);
    assert_eq!(world.leaders()[1], 0);
    score(&mut world, 2, 30);
    world.run(10_000);
    score(&mut world, 2, 1);
    world.run(500_000);
    assert_eq!(world.leaders()[1], 0, "it was slow again in between");
    world.run(200_000);
    assert!(world.leaders()[1] > 0);
    // When half the cluster is slow, nobody is relieved.
    score(&mut world, 1, 100);
    score(&mut world, 3, 100);
    world.run(60_000);
    assert!(!world.descriptions().contains("evict-slow-store") || world.leaders()[0] > 0);
    let leaders = world.leaders();
    assert!(leaders[0] > 0 && leaders[2] > 0, "{leaders:?}");
}

#[test]
fn a_paused_scheduler_says_that_it_pauses_and_what_it_would_do() {
    let mut world = world(3, 60);
    world.cluster.pause_scheduler("balance-leader-scheduler", 90, world.moment).unwrap();
    let told = says(&world, 1, "balance-leader-scheduler").unwrap();
    assert!(
        told.starts_with("it pauses for another 90 s; otherwise: s1 leads 60 regions"),
        "{told}"
    );
}
