//! What the checker of replicas wants for a region, by how many peers it has and where.
//!
//! The course asks its checker; here a region's leader speaks, and the plan that follows is looked at. The
//! balancers are off.

use proto::pdpb;
use scheduler::cluster::Policy;
use scheduler::operator::{Operator, Step};
use tests::labs::scheduler::Machine;
use tests::labs::scheduler::scene::{Scene, assert_moves_peer};

/// The plan for a region once its leader has spoken.
fn wanted(scene: &Scene, region: u64) -> Option<Operator> {
    machine(scene).plan(region).cloned()
}

fn machine(scene: &Scene) -> Machine {
    // The course has no rules: it is the checker of numbers that is asked.
    let alone = Policy {
        leader_schedule_limit: 0,
        region_schedule_limit: 0,
        enable_placement_rules: false,
        ..scene.policy.clone()
    };
    scene.machine(alone)
}

fn assert_adds(operator: Option<Operator>, to: u64) {
    let operator = operator.expect("a peer is missing");
    let adds = matches!(operator.steps(), [Step::AddPeer(peer)] if peer.store_id == to);
    assert!(adds, "{operator}");
}

fn assert_removes(operator: Option<Operator>, from: u64) {
    let operator = operator.expect("a peer is to go");
    let last = operator.steps().last();
    let removes = matches!(last, Some(Step::RemovePeer(peer)) if peer.store_id == from);
    let adds = operator.steps().iter().any(|step| matches!(step, Step::AddPeer(_)));
    assert!(removes && !adds, "{operator}");
}

/// Stores 1 to 4, the first of which holds most.
fn four() -> Scene {
    let mut scene = Scene::default();
    for (id, regions) in [(1, 4), (2, 3), (3, 2), (4, 1)] {
        scene.region_store(id, regions);
    }
    scene
}

/// Too few: one more, on the emptiest store that speaks. Enough: nothing. Too many: one less, on the fullest.
/// On a store that is leaving: it is replaced.
#[test]
fn test_basic_replica_checker() {
    let mut scene = four();
    scene.leader_region(1, &[1, 2]);
    assert_adds(wanted(&scene, 1), 4);
    scene.down(4);
    assert_adds(wanted(&scene, 1), 3);
    let mut scene = four();
    scene.leader_region(1, &[1, 2, 3]);
    assert_eq!(wanted(&scene, 1), None);
    scene.leader_region(1, &[1, 2, 3, 4]);
    assert_removes(wanted(&scene, 1), 1);
    scene.leader_region(1, &[1, 2, 3]);
    scene.offline(3);
    assert_moves_peer(&wanted(&scene, 1).expect("it has to go"), 3, 4);
}

/// A peer on a store that nobody knows: nothing is done, and nothing breaks. The store may be about to
/// register.
#[test]
fn test_lost_store() {
    let mut scene = Scene::default();
    scene.region_store(1, 1);
    scene.region_store(2, 1);
    scene.leader_region(1, &[1, 2, 3]);
    assert_eq!(wanted(&scene, 1), None);
}

/// A region grows to three peers, to the emptiest store each time; a fourth goes; one on a store that is
/// leaving is replaced when there are three, and only taken away when there are four.
#[test]
fn test_offline() {
    let mut scene = Scene::default();
    for id in 1..=4 {
        scene.region_store(id, id);
    }
    scene.leader_region(1, &[1]);
    assert_adds(wanted(&scene, 1), 2);
    scene.leader_region(1, &[1, 2]);
    assert_adds(wanted(&scene, 1), 3);
    scene.leader_region(1, &[1, 2, 3, 4]);
    assert_removes(wanted(&scene, 1), 4);
    scene.leader_region(1, &[1, 2, 3]);
    scene.busy(4);
    assert_eq!(wanted(&scene, 1), None);
    scene.region_store(4, 4);
    scene.offline(3);
    scene.leader_region(1, &[1, 2, 3, 4]);
    assert_removes(wanted(&scene, 1), 3);
    scene.leader_region(1, &[1, 2, 3]);
    assert_moves_peer(&wanted(&scene, 1).expect("it has to go"), 3, 4);
    scene.region_store(5, 1);
    assert_moves_peer(&wanted(&scene, 1).expect("it has to go"), 3, 5);
}

/// Beyond the course: a leader that says nothing of a peer that is down does not keep it.
#[test]
fn a_peer_on_a_store_that_is_lost_is_replaced() {
    let mut scene = four();
    scene.leader_region(1, &[1, 2, 3]);
    scene.down(2);
    let mut machine = machine(&scene);
    let mut report = scene.report_of(1);
    let peer = report.region.as_ref().and_then(|region| region.peers.get(1)).copied();
    report.down_peers = vec![pdpb::PeerStats { peer, down_seconds: 86_400 }];
    machine.hear(&report).unwrap();
    assert_moves_peer(machine.plan(1).expect("it has to go"), 2, 4);
}
