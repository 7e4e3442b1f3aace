//! Where the balancer of leaders hands a lead over, in small scenes. Leaders are counted.

use scheduler::cluster::LeaderSchedulePolicy;
use tests::labs::scheduler::scene::{Scene, assert_hands_over};

/// Stores 1, 2, … that lead so many regions.
fn leading(leaders: &[u64]) -> Scene {
    let mut scene = Scene::default();
    for (id, &leaders) in (1..).zip(leaders) {
        scene.leader_store(id, leaders);
    }
    scene
}

/// One leader more or less is left alone, a dozen are not.
#[test]
fn test_balance_limit() {
    let with = |leaders: &[u64], region: &[u64]| {
        let mut scene = leading(leaders);
        scene.leader_region(1, region);
        scene.balance_leader()
    };
    assert_eq!(with(&[1, 0, 0, 0], &[1, 2, 3, 4]), None);
    assert!(with(&[16, 0, 0, 0], &[1, 2, 3, 4]).is_some());
    assert_eq!(with(&[7, 8, 9, 10], &[4, 1, 2, 3]), None);
    // (The course's difference here is nine, which ours leaves alone: it must be more than twice the
    // tolerance of five, since otherwise the next leader could come back.)
    assert!(with(&[7, 8, 9, 18], &[4, 1, 2, 3]).is_some());
}

/// By count, a store whose leaders are a hundred times as large as the others' has nothing to give; by size it
/// has.
#[test]
fn test_balance_leader_schedule_strategy() {
    let mut scene = Scene::default();
    scene.leader_store_of_size(1, 10, 10_000);
    for id in 2..=4 {
        scene.leader_store_of_size(id, 10, 100);
    }
    scene.leader_region(1, &[1, 2, 3, 4]);
    assert_eq!(scene.balance_leader(), None);
    scene.policy.leader_schedule_policy = LeaderSchedulePolicy::Size;
    assert!(scene.balance_leader().is_some());
}

/// A difference of four is tolerated by default; one of eleven is not, unless the tolerance is higher.
#[test]
fn test_balance_leader_tolerant_ratio() {
    let with = |leaders: u64, tolerance: usize| {
        let mut scene = leading(&[leaders, 10, 10, 10]);
        scene.policy.leader_balance_tolerance = tolerance;
        scene.leader_region(1, &[1, 2, 3, 4]);
        scene.balance_leader()
    };
    assert_eq!(with(14, 5), None);
    assert!(with(21, 5).is_some());
    assert_eq!(with(21, 6), None);
}

/// A store that is leaving still gives; one that is lost, busy or silent takes nothing.
#[test]
fn test_balance_filter() {
    let mut scene = leading(&[1, 2, 3, 18]);
    scene.leader_region(1, &[4, 1, 2, 3]);
    assert_hands_over(scene.balance_leader(), 4, 1);
    scene.offline(4);
    assert_hands_over(scene.balance_leader(), 4, 1);
    scene.down(1);
    assert_hands_over(scene.balance_leader(), 4, 2);
    scene.busy(2);
    assert_hands_over(scene.balance_leader(), 4, 3);
    scene.disconnected(3);
    assert_eq!(scene.balance_leader(), None);
}

/// The store that leads most gives first; if nobody can take from it, the next does, to whoever leads least
/// among those that follow; and when all lead the same, nobody does.
#[test]
fn test_balance_selector() {
    let mut scene = leading(&[1, 2, 3, 16]);
    scene.leader_region(1, &[4, 2, 3]);
    scene.leader_region(2, &[3, 1, 2]);
    assert_hands_over(scene.balance_leader(), 4, 2);
    scene.leader_store(2, 14);
    scene.leader_store(3, 15);
    // The course leaves store 4 alone, which could give to store 2 only. Here the ends differ by so much that
    // who leads most gives to whom it can.
    assert_hands_over(scene.balance_leader(), 4, 2);
    scene.leader_store(2, 2);
    scene.leader_region(1, &[3, 2, 4]);
    scene.leader_region(2, &[1, 2, 3]);
    assert_hands_over(scene.balance_leader(), 3, 2);
    (1..=4).for_each(|id| scene.leader_store(id, 10));
    scene.leader_region(1, &[4, 2, 3]);
    scene.leader_region(2, &[1, 2, 3]);
    assert_eq!(scene.balance_leader(), None);
    for (id, leaders) in [(1, 11), (2, 13), (3, 0), (4, 16)] {
        scene.leader_store(id, leaders);
    }
    assert_hands_over(scene.balance_leader(), 4, 3);
}
