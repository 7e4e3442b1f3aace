//! Changing several members at once.

use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};

use super::*;

/// Three voters and a caught-up learner on store 4; the store of the leader and of a follower.
fn with_learner() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    cluster.change_until(1, AddLearnerNode, &peer(4, 4), |region| region.peers.len() == 4);
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    cluster.ticks(4);
    (cluster, leader, leader % 3 + 1)
}

fn shown(cluster: &Cluster, store: u64) -> String {
    region::Readable(&cluster.region(store, 1)).to_string()
}

fn role(cluster: &Cluster, store: u64, id: u64) -> metapb::PeerRole {
    region::peer_by_id(&cluster.region(store, 1), PeerId(id)).unwrap().role()
}

#[test]
fn a_member_is_replaced_in_one_change() {
    let (mut cluster, leader, gone) = with_learner();
    let before = region::epoch(&cluster.region(leader, 1)).conf_ver;
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    assert_eq!(role(&cluster, leader, 4), metapb::PeerRole::IncomingVoter);
    assert_eq!(role(&cluster, leader, gone), metapb::PeerRole::DemotingVoter);
    assert_eq!(region::epoch(&cluster.region(leader, 1)).conf_ver, before + 2);
    // Nothing else may be changed now.
    cluster.order_changes(leader, 1, &[(RemoveNode, peer(gone, gone))]);
    cluster.order_changes(leader, 1, &[]);
    cluster.ticks(3);
    assert_eq!(role(&cluster, leader, 4), metapb::PeerRole::Voter);
    assert_eq!(role(&cluster, leader, gone), metapb::PeerRole::Learner);
    assert_eq!(region::epoch(&cluster.region(leader, 1)).conf_ver, before + 4);
    cluster.remove(1, &peer(gone, gone));
    cluster.write("k", "w");
    cluster.until("it is gone", |cluster| !cluster.store(gone).peers.contains_key(&RegionId(1)));
    cluster.isolate(leader);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != leader));
    cluster.write("k", "x");
}

#[test]
fn a_joint_membership_is_left_without_an_order() {
    let (mut cluster, leader, gone) = with_learner();
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    assert!(region::is_joint(&cluster.region(leader, 1)));
    cluster.until("it is left", |cluster| !region::is_joint(&cluster.region(leader, 1)));
}

#[test]
fn between_two_memberships_a_majority_of_each_must_agree() {
    let mut cluster = Cluster::with_region(5, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    for id in [4, 5] {
        cluster.change_until(1, AddLearnerNode, &peer(id, id), |region| {
            region::peer_by_id(region, PeerId(id)).is_some()
        });
        cluster.until("the data", |cluster| cluster.value(id, "k").is_some());
    }
    cluster.ticks(4);
    let (one, two) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let changes = [
        (AddNode, peer(4, 4)),
        (AddNode, peer(5, 5)),
        (AddLearnerNode, peer(one, one)),
        (AddLearnerNode, peer(two, two)),
    ];
    cluster.order_changes(leader, 1, &changes);
    assert!(region::is_joint(&cluster.region(leader, 1)), "{}", shown(&cluster, leader));
    // The new half is whole: the leader, 4 and 5. Of the old one only the leader is left.
    cluster.isolate(one);
    cluster.isolate(two);
    let write = cluster.write_at(leader, 1, "k", "w");
    cluster.ticks(9);
    assert_eq!(cluster.reply(write), None);
    assert_ne!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    let read = cluster.barrier_at(leader, 1, false);
    cluster.ticks(15);
    assert!(!matches!(cluster.reply(read), Some(Ok(_))));
    assert!(cluster.store(leader).peers[&RegionId(1)].leader().is_none(), "it steps down");
    assert_eq!(cluster.leader(1), None, "the new half alone elects nobody");
    cluster.heal();
    cluster.until("it is left", |cluster| {
        cluster.leader(1).is_some_and(|leader| !region::is_joint(&cluster.region(leader, 1)))
    });
    cluster.write("k", "x");
}

#[test]
fn all_stores_start_again_between_two_memberships() {
    let (mut cluster, leader, gone) = with_learner();
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    let before = shown(&cluster, leader);
    (1..=4).for_each(|store| cluster.stop(store));
    cluster.start(leader);
    assert_eq!(shown(&cluster, leader), before);
    let members = cluster.store(leader).peers[&RegionId(1)].group.members().clone();
    assert_eq!((members.voters.len(), members.voters_outgoing.len()), (3, 3));
    assert_eq!(members.learners_next, [gone]);
    (1..=4).filter(|store| *store != leader).for_each(|store| cluster.start(store));
    cluster.until("it is left", |cluster| {
        cluster.leader(1).is_some_and(|leader| !region::is_joint(&cluster.region(leader, 1)))
    });
    cluster.write("k", "w");
}

#[test]
fn a_snapshot_says_which_halves_there_are() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    // The new member is a voter from the start, and has nothing yet.
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    assert!(region::is_joint(&cluster.region(4, 1)), "{}", shown(&cluster, 4));
    let new = cluster.store(4).peers[&RegionId(1)].group.members();
    assert_eq!((new.voters.len(), new.voters_outgoing.len()), (3, 3));
    cluster.until("it is left", |cluster| !region::is_joint(&cluster.region(4, 1)));
    cluster.write("k", "w");
}

#[test]
fn a_change_that_would_leave_too_few_who_answer_is_refused() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let (alive, dead) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.isolate(dead);
    cluster.ticks(15);
    cluster.order_change(leader, 1, RemoveNode, &peer(alive, alive));
    cluster.ticks(2);
    assert_eq!(cluster.region(leader, 1).peers.len(), 3);
    cluster.order_change(leader, 1, RemoveNode, &peer(dead, dead));
    cluster.ticks(2);
    assert_eq!(cluster.region(leader, 1).peers.len(), 2);
}

#[test]
fn a_region_is_not_split_between_two_memberships() {
    let (mut cluster, leader, gone) = with_learner();
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    let split = cluster.split_at(leader, 1, &["m"]);
    assert!(matches!(cluster.refusal(split), Some(Refusal::ServerIsBusy { .. })));
}
