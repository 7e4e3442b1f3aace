//! Where the balancer of peers moves which region, in small scenes.
//!
//! Sizes decide, and a move is only worth it when the two stores differ by more than twice the region's size:
//! less would turn round. (The course's stores have numbers that a test sets; ours count what they heard, so
//! a scene makes the regions up.)
//!
//! Look: `scheduler/src/balancers/regions.rs`, `scheduler/src/placement.rs`.

use tests::labs::scheduler::scene::{Scene, assert_moves_peer, planned_region};

/// The plan that is expected of a scene.
fn moves(scene: &Scene, from: u64, to: u64) -> scheduler::operator::Operator {
    let operator = scene.balance_region().unwrap_or_else(|| panic!("s{from} to s{to}: no plan"));
    assert_moves_peer(&operator, from, to);
    operator
}

/// One replica of each region. The fullest store gives to the emptiest; not to one that is leaving; and
/// not while regions have too few replicas.
#[test]
fn test_replicas_1_3c() {
    let mut scene = Scene::with_replicas(1);
    for (store, regions) in [(1, 6), (2, 8), (3, 8), (4, 16)] {
        scene.region_store(store, regions);
    }
    scene.leader_region(1, &[4]);
    let operator = moves(&scene, 4, 1);
    assert!(assert_moves_peer(&operator, 4, 1), "its only peer leads, and hands over: {operator}");
    scene.region_store(2, 6);
    scene.offline(1);
    moves(&scene, 4, 2);
    scene.policy.max_replicas = 3;
    assert_eq!(scene.balance_region(), None);
    scene.policy.max_replicas = 1;
    assert!(scene.balance_region().is_some());
}

/// S4.20: three replicas. There must be a store without a peer of the region; of several the emptiest that speaks;
/// and a store that is fuller than the source is none.
#[test]
fn test_replicas_3_3c() {
    let mut scene = Scene::with_replicas(3);
    for (store, regions) in [(1, 16), (2, 15), (3, 14)] {
        scene.region_store(store, regions);
    }
    scene.leader_region(1, &[1, 2, 3]);
    assert_eq!(scene.balance_region(), None);
    scene.region_store(4, 2);
    moves(&scene, 1, 4);
    scene.region_store(5, 1);
    moves(&scene, 1, 5);
    scene.region_store(6, 0);
    moves(&scene, 1, 6);
    scene.down(6);
    moves(&scene, 1, 5);
    for store in [4, 5, 6] {
        scene.down(store);
    }
    scene.region_store(7, 20);
    assert_eq!(scene.balance_region(), None);
}

/// Five replicas, and stores that hold more and less than those of the region.
#[test]
fn test_replicas_5_3c() {
    let mut scene = Scene::with_replicas(5);
    for (store, regions) in [(1, 4), (2, 5), (3, 6), (4, 7), (5, 28)] {
        scene.region_store(store, regions);
    }
    scene.leader_region(1, &[1, 2, 3, 4, 5]);
    scene.region_store(6, 1);
    moves(&scene, 5, 6);
    scene.region_store(7, 5);
    moves(&scene, 5, 6);
    scene.leader_region(1, &[2, 3, 4, 5, 6]);
    moves(&scene, 5, 1);
    for (store, regions) in [(11, 29), (12, 8), (13, 7)] {
        scene.region_store(store, regions);
    }
    scene.leader_region(1, &[2, 3, 11, 12, 13]);
    moves(&scene, 11, 6);
}

/// S4.19: a region whose peer on the fullest store is catching up anyway goes first; S4.20: and not to the
/// emptiest store of all, which has a peer of it.
#[test]
fn test_replace_pending_region_3c() {
    let mut scene = Scene::with_replicas(3);
    for (store, regions) in [(1, 16), (2, 7), (3, 15), (4, 10)] {
        scene.region_store(store, regions);
    }
    scene.leader_region(1, &[1, 2, 3]);
    scene.leader_region(2, &[1, 2, 3]);
    scene.leader_region(3, &[2, 1, 3]);
    scene.pending(3, 1);
    let operator = moves(&scene, 1, 4);
    assert_eq!(planned_region(&operator).0, 3, "{operator}");
}
