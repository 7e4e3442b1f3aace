use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};

use super::*;
use crate::command::{Command, Member};
use crate::storage::group_log::Position;
use crate::storage::{FIRST_POSITION, RegionState, applied_state, region_states};

#[test]
fn a_region_grows_from_one_to_three() {
    let mut cluster = Cluster::with_region(3, 1, Config::default());
    cluster.write("k", "v");
    for id in 2..=3 {
        cluster.add(1, &peer(id, id));
        cluster.until("the data", |cluster| cluster.value(id, "k").is_some());
    }
    let region = cluster.region(1, 1);
    assert_eq!(region::epoch(&region).conf_ver, 3);
    assert_eq!(region.peers.len(), 3);
    cluster.ticks(4);
    for id in 2..=3 {
        assert_eq!(cluster.region(id, 1), region);
    }
    cluster.isolate(1);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != 1));
    cluster.write("k", "w");
}

#[test]
fn a_learner_gets_the_data_and_no_vote_until_promoted() {
    let mut cluster = Cluster::with_region(3, 2, Config::default());
    cluster.write("k", "v");
    let mut learner = peer(3, 3);
    learner.set_role(metapb::PeerRole::Learner);
    cluster.change_until(1, AddLearnerNode, &learner, |region| region.peers.len() == 3);
    cluster.until("the data", |cluster| cluster.value(3, "k").is_some());
    let leader = cluster.leader(1).unwrap();
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.voters().len(), 2);
    // One voter is not a quorum of two, whatever the learner acknowledges.
    let other = 3 - leader;
    cluster.isolate(other);
    let reply = cluster.write_at(leader, 1, "k", "w");
    cluster.ticks(2);
    assert_eq!(cluster.reply(reply), None);
    cluster.heal();
    cluster.until("done", |cluster| cluster.is_done(reply));
    cluster.add(1, &learner);
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.voters().len(), 3);
    assert!(cluster.region(3, 1).peers.iter().all(|peer| !region::is_learner(peer)));
}

#[test]
fn a_removed_follower_leaves_nothing_but_a_tombstone() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(2);
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.remove(1, &peer(gone, gone));
    cluster.ticks(10);
    assert!(!cluster.store(gone).peers.contains_key(&RegionId(1)));
    assert!(cluster.store(gone).tombstones.contains_key(&RegionId(1)));
    assert_eq!(cluster.value(gone, "k"), None);
    assert!(cluster.store(gone).read_views().by_id(RegionId(1)).is_none());
    let state = cluster.nodes[&StoreId(gone)].log.state(RegionId(1)).unwrap().unwrap();
    assert_eq!(state.last_index, 0);
    assert!(state.hard_state.term > 0, "the vote is kept");
    cluster.write("k", "w");
    // After a restart it is still gone.
    cluster.stop(gone);
    cluster.start(gone);
    cluster.ticks(20);
    assert!(!cluster.store(gone).peers.contains_key(&RegionId(1)));
}

#[test]
fn a_leader_hands_over_before_it_is_removed() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.remove(1, &peer(old, old));
    cluster.write("k", "v");
    cluster.ticks(10);
    assert!(!cluster.store(old).peers.contains_key(&RegionId(1)));
    assert_eq!(cluster.region(cluster.leader(1).unwrap(), 1).peers.len(), 2);
}

/// Loses some of all messages, by a generator of its own.
fn lossy(seed: u64, percent: u64) -> Filter {
    let mut state = seed;
    Box::new(move |_, _| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 100 >= percent
    })
}

#[test]
fn the_leader_of_two_can_be_removed_over_a_bad_network() {
    for seed in 0..1000 {
        let mut cluster = Cluster::with_region(2, 2, Config::default());
        cluster.write("k", "v");
        let old = cluster.leader(1).unwrap();
        cluster.filter = Some(lossy(seed, seed % 4 * 10));
        cluster.remove(1, &peer(old, old));
        let other = 3 - old;
        cluster.until("the other leads alone", |cluster| {
            cluster.leader(1) == Some(other) && cluster.region(other, 1).peers.len() == 1
        });
        cluster.write("k", "w");
        cluster.until("it is gone", |cluster| !cluster.store(old).peers.contains_key(&RegionId(1)));
    }
}

/// S4.9: a leader that removed itself is not missed: its tombstone tells the other.
#[test]
fn the_last_of_two_learns_from_the_dead_that_the_other_was_removed() {
    let mut cluster = Cluster::with_region(2, 2, Config::default());
    cluster.write("k", "v");
    let dead = cluster.leader(1).unwrap();
    let last = 3 - dead;
    // A leader may find its own removal in its log when it is elected. Here it is put there.
    let member = peer(dead, dead);
    let epoch = region::epoch(&cluster.region(dead, 1));
    let change = raft::eraftpb::ConfChange {
        change_type: raft::eraftpb::ConfChangeType::RemoveNode,
        node_id: dead,
        context: Command::Member(Member { epoch, peer: member }).encode().into(),
        ..Default::default()
    };
    // The other has the entry, and never hears that it is committed.
    let mut is_there = false;
    cluster.filter = Some(Box::new(move |from, message| {
        let was_there = is_there;
        is_there |= from.0 == last && is_type(message, eraftpb::MessageType::MsgAppendResponse);
        from.0 == last || !was_there
    }));
    let machine = cluster.nodes.get_mut(&StoreId(dead)).unwrap().machine.as_mut().unwrap();
    let leader = machine.store.peers.get_mut(&RegionId(1)).unwrap();
    let at = leader.group.propose_conf_change(change).unwrap();
    machine.store.touched.insert(RegionId(1));
    cluster.until("it is gone", |cluster| !cluster.store(dead).peers.contains_key(&RegionId(1)));
    assert_eq!(cluster.store(dead).tombstones[&RegionId(1)].removed_at, Some(at));
    let waiting = &cluster.store(last).peers[&RegionId(1)].group;
    assert_eq!((waiting.last_index(), waiting.committed_index()), (at.index, at.index - 1));
    // It asks the dead for their vote, and is told what it lacks.
    cluster.heal();
    cluster.until("one is left", |cluster| {
        cluster.leader(1) == Some(last) && cluster.region(last, 1).peers.len() == 1
    });
    cluster.write("k", "w");
}

#[test]
fn a_peer_that_missed_its_removal_is_told() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.isolate(gone);
    cluster.remove(1, &peer(gone, gone));
    cluster.ticks(40);
    assert!(cluster.store(gone).peers.contains_key(&RegionId(1)));
    cluster.heal();
    cluster.until("it is gone", |cluster| !cluster.store(gone).peers.contains_key(&RegionId(1)));
    cluster.ticks(4);
    assert_eq!(cluster.value(gone, "k"), None);
}

#[test]
fn a_learner_that_missed_its_removal_asks() {
    let config = Config { leader_missing_ticks: 40, ..Config::default() };
    let mut cluster = Cluster::with_region(2, 1, config);
    let mut learner = peer(2, 2);
    learner.set_role(metapb::PeerRole::Learner);
    cluster.change_until(1, AddLearnerNode, &learner, |region| region.peers.len() == 2);
    cluster.until("the data", |cluster| cluster.has_region(2, 1));
    cluster.isolate(2);
    cluster.remove(1, &learner);
    cluster.heal();
    // It never campaigns, and never forgets its leader; so it must ask.
    cluster.until("it is gone", |cluster| !cluster.store(2).peers.contains_key(&RegionId(1)));
}

#[test]
fn a_removed_peer_comes_back_under_a_new_id() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    for id in [11, 12, 13] {
        let known = cluster.region(leader, 1);
        let there = region::peer_on(&known, StoreId(gone)).cloned().unwrap();
        cluster.remove(1, &there);
        cluster.add(1, &peer(id, gone));
        cluster.until("the data", |cluster| cluster.value(gone, "k").is_some());
        cluster.write("k", &id.to_string());
    }
    // The same again, but the store learns of its removal only from the new peer's messages.
    cluster.isolate(gone);
    cluster.remove(1, &peer(13, gone));
    cluster.add(1, &peer(14, gone));
    cluster.write("k", "last");
    cluster.heal();
    cluster.until("the new one has it", |cluster| {
        cluster.value(gone, "k") == Some("last".into())
            && cluster.store(gone).peers.get(&RegionId(1)).is_some_and(|peer| peer.meta.id == 14)
    });
}

#[test]
fn a_late_clearing_does_not_hit_the_successor() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.nodes.get_mut(&StoreId(gone)).unwrap().held_background = Some(Vec::new());
    cluster.remove(1, &peer(gone, gone));
    cluster.add(1, &peer(14, gone));
    cluster.ticks(20);
    let node = cluster.nodes.get_mut(&StoreId(gone)).unwrap();
    for task in node.held_background.take().unwrap() {
        let machine = node.machine.as_mut().unwrap();
        node.inbox.extend(machine.background.perform(task).unwrap());
    }
    cluster.run();
    cluster.until("the data", |cluster| cluster.value(gone, "k").is_some());
    cluster.ticks(40);
    assert!(cluster.value(gone, "k").is_some());
}

#[test]
fn one_change_at_a_time() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.hold_applier(leader);
    cluster.order_change(leader, 1, RemoveNode, &peer(gone, gone));
    cluster.order_change(leader, 1, AddNode, &peer(4, 4));
    cluster.ticks(2);
    cluster.release_applier(leader);
    cluster.ticks(4);
    let region = cluster.region(leader, 1);
    assert_eq!(region::epoch(&region).conf_ver, 2);
    assert_eq!(region.peers.len(), 2);
    assert!(!cluster.store(4).peers.contains_key(&RegionId(1)));
}

#[test]
fn an_order_for_another_epoch_is_ignored() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let gone = peer(leader % 3 + 1, leader % 3 + 1);
    cluster.order(leader, 1, |order| {
        order.region_epoch = Some(metapb::RegionEpoch { conf_ver: 9, version: 1 });
        let change = pdpb::ChangePeer { peer: Some(gone), change_type: RemoveNode.into() };
        order.change_peer = Some(change);
    });
    cluster.ticks(4);
    assert_eq!(cluster.region(leader, 1).peers.len(), 3);
}

#[test]
fn who_waits_at_a_destroyed_peer_is_answered() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    let proposed = cluster.write_at(old, 1, "k", "v");
    let read = cluster.barrier_at(old, 1, true);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    cluster.remove(1, &peer(old, old));
    cluster.heal();
    cluster.until("it is gone", |cluster| !cluster.store(old).peers.contains_key(&RegionId(1)));
    // It was proposed; whether others have committed it this peer cannot say.
    assert!(matches!(
        cluster.refusal(proposed),
        Some(Refusal::UndeterminedResult { .. } | Refusal::StaleCommand)
    ));
    assert!(cluster.reply(read).is_some());
}

/// S4.4: a new member is taken to have nothing, and is probed from the end of the log on.
#[test]
fn a_new_member_is_probed_from_the_end_of_the_log_on() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    cluster.stop(4);
    cluster.order_change(leader, 1, AddNode, &peer(4, 4));
    let group = &cluster.store(leader).peers[&RegionId(1)].group;
    let progress = group.raft().prs().get(4).unwrap();
    assert_eq!(progress.state, raft::ProgressState::Probe);
    // Its first question is about the entry that added it.
    assert_eq!((progress.matched, progress.next_idx), (0, group.last_index()));
}

/// S4.4: when a member goes, what waited for it may be committed by those who are left, at once.
#[test]
fn a_smaller_membership_commits_what_waited_for_the_one_that_went() {
    let mut cluster = Cluster::with_region(2, 2, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let gone = 3 - leader;
    cluster.hold_applier(leader);
    cluster.order_change(leader, 1, RemoveNode, &peer(gone, gone));
    let changed_at = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.committed_index(), changed_at);
    cluster.isolate(gone);
    let write = cluster.write_at(leader, 1, "k", "w");
    cluster.ticks(2);
    let group = &cluster.store(leader).peers[&RegionId(1)].group;
    assert_eq!((group.committed_index(), group.last_index()), (changed_at, changed_at + 1));
    cluster.release_applier(leader);
    assert!(cluster.is_done(write));
}

/// S0.42: a peer that a message makes has nothing, at index and term 0, on disk not even a region; since the
/// log of every region begins later, it is served by a snapshot.
#[test]
fn a_peer_that_a_message_makes_has_nothing_and_gets_a_snapshot() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.write("k", "v");
    cluster.filter =
        Some(Box::new(|_, message| !is_type(message, eraftpb::MessageType::MsgSnapshot)));
    cluster.order_change(1, 1, AddNode, &peer(2, 2));
    cluster.until("an empty peer", |cluster| cluster.store(2).peers.contains_key(&RegionId(1)));
    cluster.ticks(4);
    let empty = &cluster.store(2).peers[&RegionId(1)];
    assert!(!empty.is_initialized());
    assert_eq!((empty.group.log().last(), empty.group.committed_index()), (Position::default(), 0));
    assert_eq!(region_states(&cluster.nodes[&StoreId(2)].data).unwrap(), []);
    cluster.heal();
    cluster.until("the data", |cluster| cluster.value(2, "k") == Some("v".into()));
    let made = &cluster.store(2).peers[&RegionId(1)];
    assert!(made.group.log().truncated().index > FIRST_POSITION.index, "by a snapshot");
    assert_eq!(cluster.region(2, 1), cluster.region(1, 1));
}

/// S0.42: only what a group says first to a member makes a peer: a request for a vote, or a heartbeat to one
/// who has acknowledged nothing.
#[test]
fn only_the_first_message_of_a_group_makes_a_peer() {
    let mut makers = Vec::new();
    let kinds = (0..40).filter_map(|kind| eraftpb::MessageType::try_from(kind).ok());
    for (kind, commit) in kinds.flat_map(|kind| [(kind, 0), (kind, 3)]) {
        let mut cluster = Cluster::new(1, Config::default());
        cluster.start(1);
        let message = RaftMessage {
            region_id: 9,
            from_peer: Some(peer(20, 2)),
            to_peer: Some(peer(10, 1)),
            region_epoch: Some(region::FIRST_EPOCH),
            message: Some(eraftpb::Message {
                msg_type: kind.into(),
                from: 20,
                to: 10,
                term: 6,
                commit,
                ..Default::default()
            }),
            ..Default::default()
        };
        cluster.tell(StoreId(1), StoreMsg::Raft(Box::new(message)));
        cluster.run();
        if cluster.store(1).peers.contains_key(&RegionId(9)) {
            makers.push((kind, commit));
        }
    }
    use eraftpb::MessageType::{MsgHeartbeat, MsgRequestPreVote, MsgRequestVote};
    makers.sort_by_key(|(kind, commit)| (*kind as i32, *commit));
    assert_eq!(
        makers,
        [
            (MsgRequestVote, 0),
            (MsgRequestVote, 3),
            (MsgHeartbeat, 0),
            (MsgRequestPreVote, 0),
            (MsgRequestPreVote, 3),
        ]
    );
}

/// S4.9: a peer that applies its own removal leaves its tombstone in the very write that removed it, with the
/// region as it is without it. Whatever a loss of power leaves on the disk is one or the other.
#[test]
fn the_tombstone_and_the_removal_reach_the_disk_together() {
    let (mut is_member, mut is_buried) = (0, 0);
    for keep in 0..8 {
        let mut cluster = Cluster::three();
        let leader = cluster.leader(1).unwrap();
        let gone = peer(leader % 3 + 1, leader % 3 + 1);
        cluster.hold_background(gone.store_id);
        cluster.write("k", "v");
        cluster.remove(1, &gone);
        cluster.ticks(4);
        assert!(!cluster.has_region(gone.store_id, 1));
        let without = cluster.region(leader, 1);
        assert_eq!((without.peers.len(), region::epoch(&without).conf_ver), (2, 2));
        cluster.lose_power(gone.store_id, keep);
        let data = &cluster.nodes[&StoreId(gone.store_id)].data;
        let [(_, state)] = &region_states(data).unwrap()[..] else { panic!("one region is known") };
        let applied = applied_state(&data.snapshot(), RegionId(1)).unwrap();
        match state {
            RegionState::Normal(region) => {
                is_member += 1;
                assert!(region::peer_by_id(region, PeerId(gone.id)).is_some());
                assert!(applied.is_some());
            }
            RegionState::Tombstone(tombstone) => {
                is_buried += 1;
                assert_eq!((&tombstone.region, tombstone.peer_id), (&without, PeerId(gone.id)));
                assert_eq!(applied, None);
            }
        }
    }
    assert!(is_member > 0 && is_buried > 0, "{is_member} and {is_buried}");
}
