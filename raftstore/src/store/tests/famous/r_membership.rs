//! Membership: who counts, when, and who is gone. R8 is a property, beside the code it is about
//! (`operation/conf_change/tests.rs`).

use eraftpb::ConfChangeType::{self, AddLearnerNode, AddNode, RemoveNode};
use eraftpb::MessageType;

use super::*;
use crate::command::Command;

fn add_learner(cluster: &mut Cluster, id: u64) {
    cluster.change_until(1, AddLearnerNode, &peer(id, id), |region| {
        region::peer_by_id(region, PeerId(id)).is_some()
    });
    cluster.until("the data", |cluster| cluster.has_region(id, 1));
    cluster.ticks(4);
}

/// The first leader appends one change that nobody else hears of; its successor makes another as soon as it
/// is elected. Were that possible before an entry of its own term is committed, either could be carried by a
/// majority of its own.
fn two_terms_two_changes(first: (ConfChangeType, u64), second: (ConfChangeType, u64)) {
    let mut cluster = Cluster::with_region(6, 4, Config::default());
    cluster.write("k", "v");
    cluster.ticks(4);
    let old = cluster.leader(1).unwrap();
    // Stores of members are named relative to the first leader, 1 being itself.
    let store = |name: u64| if name > 4 { name } else { (old + name - 2) % 4 + 1 };
    let (first, second) = ((first.0, store(first.1)), (second.0, store(second.1)));
    cluster.isolate(old);
    cluster.order_change(old, 1, first.0, &peer(first.1, first.1));
    assert_eq!(
        group(&cluster, old).last_index(),
        group(&cluster, old).committed_index() + 1,
        "the first change is in its log"
    );
    // The successor's first entry is not committed yet: nobody hears it.
    cluster.filter = Some(Box::new(|_, message| !is_type(message, MessageType::MsgAppend)));
    cluster.until("a successor", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    let new = cluster.leader(1).unwrap();
    let last = group(&cluster, new).last_index();
    cluster.order_change(new, 1, second.0, &peer(second.1, second.1));
    assert_eq!(
        group(&cluster, new).last_index(),
        last,
        "no change before the own term is committed"
    );
    cluster.filter = None;
    cluster.ticks(4);
    let new = cluster.leader(1).unwrap();
    let wanted = cluster.region(new, 1).peers.len();
    if second.1 != new {
        cluster.order_change(new, 1, second.0, &peer(second.1, second.1));
        cluster.ticks(2);
        assert_ne!(cluster.region(new, 1).peers.len(), wanted, "and after it is");
    }
    cluster.heal();
    cluster.ticks(40);
    let leader = cluster.leader(1).unwrap();
    let region = cluster.region(leader, 1);
    for peer in &region.peers {
        assert_eq!(cluster.region(peer.store_id, 1), region);
    }
    let has_first = region.peers.iter().any(|peer| peer.store_id == first.1);
    assert_eq!(has_first, first.0 == RemoveNode, "the first change is overwritten");
    cluster.write("k", "w");
}

#[test]
fn bug_r1_two_terms_change_the_membership_add_and_remove() {
    two_terms_two_changes((AddNode, 5), (RemoveNode, 2));
}

#[test]
fn bug_r1_two_terms_change_the_membership_two_adds() {
    two_terms_two_changes((AddNode, 5), (AddNode, 6));
}

#[test]
fn bug_r1_two_terms_change_the_membership_two_removals() {
    two_terms_two_changes((RemoveNode, 2), (RemoveNode, 3));
}

#[test]
fn bug_r2_an_entry_of_an_earlier_term_is_committed_by_counting() {
    // One entry in a message, so that a follower can be given the old one without the new.
    let config = Config { message_bytes_max: 1, ..Config::default() };
    let mut cluster = Cluster::with_region(5, 5, config);
    cluster.write("k", "v");
    cluster.ticks(4);
    let a = cluster.leader(1).unwrap();
    let b = a % 5 + 1;
    let rest: Vec<u64> = (1..=5).filter(|store| *store != a && *store != b).collect();
    let old = group(&cluster, a).last_index() + 1;
    // A proposes; only B hears it.
    rest.iter().for_each(|store| {
        cluster.cut.insert((StoreId(a), StoreId(*store)));
    });
    let reply = cluster.write_at(a, 1, "k", "of an early term");
    assert_eq!(group(&cluster, b).last_index(), old);
    // C is elected by the other two, and has an entry of its own that nobody hears.
    cluster.cut.clear();
    cluster.isolate(a);
    cluster.isolate(b);
    cluster.filter = Some(Box::new(|_, message| !is_type(message, MessageType::MsgAppend)));
    cluster.until("C", |cluster| cluster.leader(1).is_some_and(|new| new != a));
    let c = cluster.leader(1).unwrap();
    // A or B comes back, both have the entry; C is gone.
    cluster.cut.clear();
    cluster.isolate(c);
    let mut told = BTreeSet::new();
    cluster.filter = Some(Box::new(move |_, message| {
        // Who lacks the old entry refuses the first message with the new one, and is sent the old one.
        // Nothing else behind the old entry gets anywhere.
        let to = message.to_peer.map_or(0, |to| to.store_id);
        let entries = message.message.as_ref().map(|inner| &inner.entries[..]).unwrap_or_default();
        entries.iter().all(|entry| entry.index <= old) || (to != a && to != b && told.insert(to))
    }));
    cluster.until("A or B", |cluster| cluster.leader(1).is_some_and(|new| new == a || new == b));
    cluster.ticks(6);
    let holders =
        (1..=5).filter(|store| *store != c && group(&cluster, *store).last_index() >= old);
    assert!(holders.count() >= 3, "a majority has the entry of the early term");
    let leader = cluster.leader(1).unwrap();
    assert!(group(&cluster, leader).term() > group(&cluster, c).term());
    assert_eq!(group(&cluster, leader).committed_index(), old - 1, "and yet it is not committed");
    assert!(!cluster.is_done(reply));
    // With an entry of the leader's own term it is.
    cluster.filter = None;
    cluster.ticks(6);
    assert!(group(&cluster, cluster.leader(1).unwrap()).committed_index() > old);
}

#[test]
fn bug_r3_a_promoted_learner_that_does_not_know_it_yet_refuses_to_vote() {
    let mut cluster = Cluster::with_region(3, 2, Config::default());
    cluster.write("k", "v");
    add_learner(&mut cluster, 3);
    let old = cluster.leader(1).unwrap();
    let other = 3 - old;
    cluster.hold_applier(3);
    cluster.add(1, &peer(3, 3));
    cluster.ticks(1);
    let own = cluster.store(3).peers[&RegionId(1)].meta;
    assert!(region::is_learner(&own), "it has not applied its promotion");
    cluster.stop(old);
    cluster.until("the other leads by its vote", |cluster| cluster.leader(1) == Some(other));
    cluster.release_applier(3);
    cluster.write("k", "w");
}

#[test]
fn bug_r4_the_acknowledgement_of_a_learner_commits() {
    let mut cluster = Cluster::with_region(5, 3, Config::default());
    cluster.write("k", "v");
    add_learner(&mut cluster, 4);
    add_learner(&mut cluster, 5);
    let leader = cluster.leader(1).unwrap();
    let (one, two) = (next_of(leader), next_of(next_of(leader)));
    cluster.isolate(one);
    cluster.isolate(two);
    let reply = cluster.write_at(leader, 1, "k", "w");
    let last = group(&cluster, leader).last_index();
    assert_eq!(group(&cluster, 4).last_index(), last, "the learners have it");
    cluster.ticks(3);
    assert_eq!(cluster.reply(reply), None, "three of five members, but one of three voters");
    // Nor do they elect, and nor do they keep a leader in office.
    cluster.ticks(60);
    assert_eq!(cluster.leader(1), None);
    cluster.heal();
    cluster.write("k", "x");
}

#[test]
fn bug_r5_a_peer_called_to_lead_has_not_applied_a_change_of_members() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let target = next_of(leader);
    cluster.hold_applier(target);
    cluster.order_change(leader, 1, AddLearnerNode, &peer(4, 4));
    cluster.ticks(4);
    assert!(group(&cluster, target).has_unapplied_conf_change());
    let wanted = Some(peer(target, target));
    cluster.order(leader, 1, |order| {
        order.transfer_leader = Some(pdpb::TransferLeader { peer: wanted, peers: vec![] });
    });
    // The target has not said that it is ready, so nothing has stopped.
    assert_eq!(group(&cluster, leader).transferee(), None);
    let reply = cluster.write_at(leader, 1, "k", "w");
    assert!(cluster.is_done(reply));
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    // Were it called all the same it would stay.
    let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
    let peer_there = machine.store.peers.get_mut(&RegionId(1)).unwrap();
    peer_there.group.transfer_leader(PeerId(target));
    machine.store.touched.insert(RegionId(1));
    cluster.ticks(3);
    assert_eq!(cluster.leader(1), Some(leader));
    cluster.ticks(12);
    cluster.release_applier(target);
    cluster.transfer(1, target);
}

/// Enters a joint membership that replaces `gone` by the learner on store 4.
fn enter(cluster: &mut Cluster, leader: u64, gone: u64) {
    let changes = [(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))];
    cluster.order_changes(leader, 1, &changes);
}

#[track_caller]
fn is_replaced(cluster: &mut Cluster, gone: u64) {
    cluster.until("out of the joint membership", |cluster| {
        cluster.leader(1).is_some_and(|leader| {
            let region = cluster.region(leader, 1);
            !region::is_joint(&region)
                && region::peer_by_id(&region, PeerId(gone)).is_some_and(region::is_learner)
                && region::peer_by_id(&region, PeerId(4)).is_some_and(region::is_incoming)
        })
    });
    cluster.write("k", "after");
}

#[test]
fn bug_r6_a_leader_dies_within_a_joint_change_and_nobody_leaves_it() {
    // How many messages of the change get through before the leader dies.
    for step in 0..24 {
        let mut cluster = Cluster::with_region(4, 3, Config::default());
        cluster.write("k", "v");
        add_learner(&mut cluster, 4);
        let leader = cluster.leader(1).unwrap();
        let gone = next_of(leader);
        let mut sent = 0;
        cluster.filter = Some(Box::new(move |from, _| {
            sent += u64::from(from.0 == leader);
            sent <= step
        }));
        enter(&mut cluster, leader, gone);
        cluster.order_changes(leader, 1, &[]);
        cluster.stop(leader);
        cluster.filter = None;
        cluster.until("a successor, and out of the joint membership", |cluster| {
            let successor = cluster.leader(1);
            successor.is_some_and(|store| !region::is_joint(&cluster.region(store, 1)))
        });
        let region = cluster.region(cluster.leader(1).unwrap(), 1);
        // The scheduler orders what is not done, and nothing stands in its way.
        if region::peer_by_id(&region, PeerId(4)).is_some_and(region::is_learner) {
            cluster.start(leader);
            cluster.ticks(15);
            let successor = cluster.leader(1).unwrap();
            if successor != gone {
                enter(&mut cluster, successor, gone);
            }
        }
        cluster.write("k", "after");
    }
}

#[test]
fn bug_r7_a_leader_loses_its_vote_and_steps_down_before_the_change_is_finished() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    add_learner(&mut cluster, 4);
    let leader = cluster.leader(1).unwrap();
    // Nobody can take over: all others refuse to campaign.
    cluster.filter = Some(Box::new(|_, message| !is_type(message, MessageType::MsgTransferLeader)));
    enter(&mut cluster, leader, leader);
    let region = cluster.region(leader, 1);
    assert_eq!(
        region::peer_by_id(&region, PeerId(leader)).unwrap().role(),
        metapb::PeerRole::DemotingVoter
    );
    for _ in 0..100 {
        let region = cluster.region(leader, 1);
        let leads = cluster.store(leader).peers[&RegionId(1)].leader().is_some();
        if !region::is_joint(&region) {
            break;
        }
        assert!(leads, "it leads until the change is finished");
        cluster.tick();
    }
    assert!(!region::is_joint(&cluster.region(leader, 1)), "it has finished the change itself");
    cluster.ticks(1);
    assert!(cluster.store(leader).peers[&RegionId(1)].leader().is_none(), "and leads no more");
    is_replaced(&mut cluster, leader);
}

#[test]
fn bug_r7_a_leader_that_is_to_lose_its_vote_hands_over_and_the_change_is_finished() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    add_learner(&mut cluster, 4);
    let leader = cluster.leader(1).unwrap();
    enter(&mut cluster, leader, leader);
    cluster.order_changes(leader, 1, &[]);
    cluster.until("another leads", |cluster| cluster.leader(1) != Some(leader));
    is_replaced(&mut cluster, leader);
}

#[test]
fn bug_r9_a_partial_partition_has_no_leader() {
    // Whoever leads, one of its links to the others is cut: A-B is gone, both see C.
    for cut in 1..=3u64 {
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        let (a, b) = (cut, next_of(cut));
        cluster.cut.insert((StoreId(a), StoreId(b)));
        cluster.cut.insert((StoreId(b), StoreId(a)));
        let election = cluster.config.election_ticks;
        cluster.ticks(5 * election);
        let (leader, term) = (cluster.leader(1).unwrap(), group(&cluster, cut).term());
        cluster.write("k", "w");
        // And it is not deposed time and again by the one that does not hear it.
        cluster.ticks(10 * election);
        assert_eq!(cluster.leader(1), Some(leader));
        assert_eq!(group(&cluster, cut).term(), term);
    }
}

#[test]
fn bug_r9_two_of_three_start_again_and_have_no_leader() {
    for down in 1..=3u64 {
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        (1..=3).for_each(|store| cluster.stop(store));
        (1..=3).filter(|store| *store != down).for_each(|store| cluster.start(store));
        cluster.ticks(5 * cluster.config.election_ticks);
        assert!(cluster.leader(1).is_some(), "without {down}");
        cluster.write("k", "w");
    }
}

#[test]
fn bug_g12_removed_peers_come_back_together_and_form_a_quorum() {
    // The region moves from stores 1, 2, 3 to 4, 5, 6. One of the old peers hears nothing of it; the others
    // are gone. Then the old stores are among themselves.
    for late in 1..=3u64 {
        let config = Config { leader_missing_ticks: 40, ..Config::default() };
        let mut cluster = Cluster::with_region(6, 3, config);
        cluster.write("k", "v");
        cluster.ticks(4);
        cluster.isolate(late);
        for new in 4..=6 {
            add_learner(&mut cluster, new);
            cluster.add(1, &peer(new, new));
        }
        for old in 1..=3 {
            cluster.remove(1, &peer(old, old));
        }
        cluster.write("k", "moved");
        cluster.until("the others are gone", |cluster| {
            (1..=3).all(|old| old == late || !cluster.has_region(old, 1))
        });
        cluster.cut.clear();
        for (old, new) in (1..=3).flat_map(|old| (4..=6).map(move |new| (old, new))) {
            cluster.cut.insert((StoreId(old), StoreId(new)));
            cluster.cut.insert((StoreId(new), StoreId(old)));
        }
        for _ in 0..200 {
            cluster.tick();
            for old in 1..=3 {
                let peer = cluster.store(old).peers.get(&RegionId(1));
                assert!(peer.is_none_or(|peer| peer.leader().is_none()), "{old} leads the dead");
                assert!(old == late || peer.is_none(), "{old} has come back to life");
            }
        }
        cluster.heal();
        // A tombstone may say so; else nobody it knows is left, and it asks the scheduler.
        let asks = |cluster: &Cluster| {
            cluster.reports.iter().any(|(from, report)| {
                from.0 == late && matches!(report, Report::ValidatePeer { .. })
            })
        };
        cluster
            .until("it is told, or asks", |cluster| !cluster.has_region(late, 1) || asks(cluster));
        let newest = cluster.region(cluster.leader(1).unwrap(), 1);
        if cluster.has_region(late, 1) {
            let answer = RaftMessage {
                region_id: 1,
                region_epoch: newest.region_epoch,
                from_peer: newest.peers.first().copied(),
                to_peer: Some(peer(late, late)),
                is_tombstone: true,
                ..Default::default()
            };
            cluster.tell(StoreId(late), StoreMsg::Raft(Box::new(answer)));
            cluster.run();
        }
        cluster.until("it is gone", |cluster| !cluster.has_region(late, 1));
        assert!((4..=6).contains(&cluster.leader(1).unwrap()));
        assert_eq!(cluster.value(4, "k"), Some("moved".into()));
    }
}

#[test]
fn bug_g12_a_stale_message_brings_a_removed_peer_back() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let gone = next_of(leader);
    // A heartbeat of the first days, which would make an empty peer.
    let stale = RaftMessage {
        region_id: 1,
        from_peer: Some(peer(leader, leader)),
        to_peer: Some(peer(gone, gone)),
        region_epoch: cluster.region(leader, 1).region_epoch,
        message: Some(eraftpb::Message {
            msg_type: MessageType::MsgHeartbeat.into(),
            from: leader,
            to: gone,
            term: group(&cluster, leader).term(),
            ..Default::default()
        }),
        ..Default::default()
    };
    cluster.remove(1, &peer(gone, gone));
    cluster.until("it is gone", |cluster| !cluster.store(gone).peers.contains_key(&RegionId(1)));
    for _ in 0..3 {
        cluster.ticks(4);
        cluster.tell(StoreId(gone), StoreMsg::Raft(Box::new(stale.clone())));
        cluster.run();
        assert!(!cluster.store(gone).peers.contains_key(&RegionId(1)));
        // Nor after a restart, which reads the tombstone.
        cluster.stop(gone);
        cluster.start(gone);
    }
}

#[test]
fn bug_g13_the_clearing_of_a_destroyed_peer_hits_its_successor() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let store = next_of(leader);
    // The background is slow: data is cleared, and the tombstone synced, long after the removal.
    cluster.nodes.get_mut(&StoreId(store)).unwrap().held_background = Some(Vec::new());
    cluster.remove(1, &peer(store, store));
    cluster.add(1, &peer(14, store));
    cluster.ticks(30);
    assert!(
        !cluster.store(store).peers.contains_key(&RegionId(1)),
        "no successor before the log of the dead is cleared"
    );
    // It comes to life between the tasks, one at a time.
    loop {
        let node = cluster.nodes.get_mut(&StoreId(store)).unwrap();
        let held = node.held_background.as_mut().unwrap();
        if held.is_empty() {
            if cluster.has_region(store, 1) {
                break;
            }
            cluster.tick();
            continue;
        }
        let task = held.remove(0);
        let done = node.machine.as_mut().unwrap().background.perform(task).unwrap();
        node.inbox.extend(done);
        cluster.run();
        cluster.ticks(2);
    }
    cluster.nodes.get_mut(&StoreId(store)).unwrap().held_background = None;
    cluster.until("the data", |cluster| cluster.value(store, "k").is_some());
    cluster.write("k", "w");
    cluster.ticks(100);
    assert_eq!(cluster.value(store, "k"), Some("w".into()));
    let last = group(&cluster, store).last_index();
    assert!(last > 0);
    // What the disk has is the successor's.
    cluster.stop(store);
    cluster.start(store);
    cluster.ticks(10);
    assert_eq!(cluster.store(store).peers[&RegionId(1)].meta.id, 14);
    assert_eq!(cluster.value(store, "k"), Some("w".into()));
}

#[test]
fn bug_g13_power_is_lost_between_a_removal_and_the_clearing() {
    // However much of the removal's writes survives, the peer is whole or gone.
    for keep in 0..4 {
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        cluster.ticks(4);
        let leader = cluster.leader(1).unwrap();
        let store = next_of(leader);
        cluster.nodes.get_mut(&StoreId(store)).unwrap().held_background = Some(Vec::new());
        cluster.remove(1, &peer(store, store));
        cluster.ticks(2);
        cluster.lose_power(store, keep);
        cluster.start(store);
        cluster.until("it is gone", |cluster| {
            cluster.store(store).tombstones.contains_key(&RegionId(1))
        });
        cluster.add(1, &peer(14, store));
        cluster.until("the data", |cluster| cluster.value(store, "k").is_some());
    }
}

/// A change of membership that says two things is refused by every replica alike.
#[test]
fn bug_r8_an_entry_that_contradicts_itself_is_refused_everywhere() {
    use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeV2};
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let before = cluster.region(leader, 1);
    let members = crate::command::Members {
        epoch: region::epoch(&before),
        peers: vec![peer(4, 4), peer(3, 3)],
    };
    let single = |node_id| ConfChangeSingle { node_id, ..Default::default() };
    let context = Command::Members(members);
    let contradictions = [
        // Raft would leave such a joint membership by itself.
        (ConfChangeTransition::Auto, vec![single(4), single(3)], context.encode()),
        // Raft adds others than the region does.
        (ConfChangeTransition::Explicit, vec![single(4), single(5)], context.encode()),
        (ConfChangeTransition::Explicit, vec![single(4), single(5)], b"nonsense".to_vec()),
    ];
    for (transition, changes, context) in contradictions {
        let change = ConfChangeV2 {
            transition,
            changes: changes.into(),
            context: context.into(),
            ..Default::default()
        };
        let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
        let peer = machine.store.peers.get_mut(&RegionId(1)).unwrap();
        let at = peer.group.propose_conf_change_v2(change).unwrap();
        machine.store.touched.insert(RegionId(1));
        cluster.ticks(4);
        for store in 1..=3 {
            assert!(cluster.store(store).peers[&RegionId(1)].applied.index >= at.index);
            assert_eq!(cluster.region(store, 1), before);
        }
    }
    cluster.write("k", "w");
}
