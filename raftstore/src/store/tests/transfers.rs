//! Handing leadership over, and losing it.

use eraftpb::ConfChangeType::AddLearnerNode;
use eraftpb::MessageType;

use super::*;

fn order_transfer(cluster: &mut Cluster, at: u64, to: u64) {
    let wanted = region::peer_on(&cluster.region(at, 1), StoreId(to)).copied();
    cluster.order(at, 1, |order| {
        order.transfer_leader = Some(pdpb::TransferLeader { peer: wanted, peers: vec![] });
    });
}

fn is_call_to_campaign(message: &RaftMessage) -> bool {
    is_type(message, eraftpb::MessageType::MsgTimeoutNow)
}

#[test]
fn a_follower_passes_the_order_on() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    let (one, two) = (old % 3 + 1, (old + 1) % 3 + 1);
    order_transfer(&mut cluster, one, two);
    cluster.until("the other leads", |cluster| cluster.leader(1) == Some(two));
    // Also for itself.
    order_transfer(&mut cluster, one, one);
    cluster.until("it leads", |cluster| cluster.leader(1) == Some(one));
}

/// Whom the leader wants to hand over to, each time that it asked the shell.
fn asked(cluster: &Cluster) -> Vec<(u64, PeerId)> {
    let asked = cluster.reports.iter().filter_map(|(_, report)| {
        let Report::HandingOver { term, to, .. } = report else { return None };
        Some((*term, *to))
    });
    asked.collect()
}

#[test]
fn a_leader_that_is_to_ask_hands_over_when_it_is_told_that_all_is_saved() {
    let config = Config { asks_before_handover: true, ..Config::default() };
    let mut cluster = Cluster::with_region(3, 3, config);
    let leader = cluster.leader(1).unwrap();
    let target = leader % 3 + 1;
    order_transfer(&mut cluster, leader, target);
    order_transfer(&mut cluster, leader, target);
    let [(term, to)] = asked(&cluster)[..] else { panic!("asked {:?}", asked(&cluster)) };
    assert_eq!(to, PeerId(target));
    // Meanwhile it leads, and what is saved is a write like any other.
    assert!(cluster.store(leader).peers[&RegionId(1)].group.transferee().is_none());
    let write = cluster.write_at(leader, 1, "saved", "v");
    assert!(cluster.is_done(write));
    // Answers that nobody waits for do nothing.
    let saved = |term, to| StoreMsg::HandOver { region_id: RegionId(1), term, to };
    for stray in [saved(term - 1, to), saved(term, PeerId(leader))] {
        cluster.tell(StoreId(leader), stray);
        cluster.run();
        assert!(cluster.store(leader).peers[&RegionId(1)].group.transferee().is_none());
    }
    cluster.tell(StoreId(leader), saved(term, to));
    cluster.run();
    cluster.until("the target leads", |cluster| cluster.leader(1) == Some(target));
    assert_eq!(cluster.value(target, "saved"), Some("v".into()));
}

#[test]
fn a_handover_whose_saving_takes_too_long_is_forgotten() {
    let config = Config { asks_before_handover: true, ..Config::default() };
    let mut cluster = Cluster::with_region(3, 3, config);
    let leader = cluster.leader(1).unwrap();
    let target = leader % 3 + 1;
    order_transfer(&mut cluster, leader, target);
    let (term, to) = asked(&cluster)[0];
    cluster.ticks(Config::default().election_ticks + 1);
    let late = StoreMsg::HandOver { region_id: RegionId(1), term, to };
    cluster.tell(StoreId(leader), late);
    cluster.run();
    assert_eq!(cluster.leader(1), Some(leader));
    assert!(cluster.store(leader).peers[&RegionId(1)].group.transferee().is_none());
    // The next order begins anew.
    order_transfer(&mut cluster, leader, target);
    assert_eq!(asked(&cluster).len(), 2);
}

#[test]
fn nobody_leads_who_has_no_vote_or_does_not_answer_or_is_far_behind() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    cluster.change_until(1, AddLearnerNode, &peer(4, 4), |region| region.peers.len() == 4);
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    let leader = cluster.leader(1).unwrap();
    let far = leader % 3 + 1;
    order_transfer(&mut cluster, leader, 4);
    assert_eq!(cluster.leader(1), Some(leader));
    // It answers heartbeats, but gets no entries.
    cluster.filter = Some(Box::new(move |_, message| {
        message.to_peer.is_none_or(|to| to.id != far)
            || !is_type(message, eraftpb::MessageType::MsgAppend)
    }));
    for value in 0..140 {
        cluster.write("k", &value.to_string());
    }
    order_transfer(&mut cluster, leader, far);
    cluster.ticks(2);
    assert!(cluster.store(leader).peers[&RegionId(1)].group.transferee().is_none());
    let write = cluster.write_at(leader, 1, "k", "w");
    assert!(cluster.is_done(write), "nothing has stopped");
    cluster.heal();
    cluster.isolate(far);
    cluster.ticks(12);
    order_transfer(&mut cluster, leader, far);
    assert!(cluster.store(leader).peers[&RegionId(1)].group.transferee().is_none());
}

#[test]
fn a_target_that_lacks_little_catches_up_first() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let target = leader % 3 + 1;
    cluster.filter = Some(Box::new(move |_, message| {
        message.to_peer.is_none_or(|to| to.id != target)
            || !is_type(message, eraftpb::MessageType::MsgAppend)
    }));
    cluster.write("k", "v");
    order_transfer(&mut cluster, leader, target);
    let peer = &cluster.store(leader).peers[&RegionId(1)];
    assert_eq!(peer.group.transferee(), Some(PeerId(target)));
    // While it catches up nobody answers alone, and nobody is refused.
    assert_ne!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    let write = cluster.write_at(leader, 1, "k", "w");
    assert_eq!(cluster.reply(write), None);
    cluster.heal();
    cluster.until("the target leads", |cluster| cluster.leader(1) == Some(target));
    cluster.ticks(2);
    assert!(matches!(cluster.refusal(write), Some(Refusal::NotLeader { .. })));
    assert_eq!(cluster.value(target, "k"), Some("v".into()));
}

#[test]
fn a_transfer_to_nowhere_is_given_up_and_everything_goes_on() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let target = leader % 3 + 1;
    cluster.filter = Some(Box::new(move |_, message| {
        message.to_peer.is_none_or(|to| to.id != target)
            || !is_type(message, eraftpb::MessageType::MsgAppend)
    }));
    cluster.write("k", "v");
    order_transfer(&mut cluster, leader, target);
    let write = cluster.write_at(leader, 1, "k", "w");
    assert_ne!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    cluster.ticks(11);
    assert!(cluster.is_done(write), "the write waited no longer than an election timeout");
    cluster.ticks(3);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
}

#[test]
fn a_lost_call_to_campaign_leaves_no_lease_behind() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let target = leader % 3 + 1;
    cluster.write("k", "v");
    cluster.ticks(4);
    cluster.filter = Some(Box::new(|_, message| !is_call_to_campaign(message)));
    order_transfer(&mut cluster, leader, target);
    cluster.ticks(14);
    // The call may still arrive, and voters will not wait for the lease then.
    assert_eq!(cluster.leader(1), Some(leader));
    assert_ne!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    cluster.write("k", "w");
}

/// Found in the two-peer simulation, seed 415: neither could lead for two election timeouts.
#[test]
fn a_call_to_campaign_that_comes_too_late_costs_a_few_ticks() {
    let mut cluster = Cluster::with_region(2, 2, Config::default());
    let leader = cluster.leader(1).unwrap();
    let target = 3 - leader;
    cluster.write("k", "v");
    // The leader goes on after it gave the transfer up: its log is ahead.
    cluster.filter = Some(Box::new(|_, message| !is_type(message, MessageType::MsgAppend)));
    let write = cluster.write_at(leader, 1, "k", "w");
    cluster.filter = None;
    let term = cluster.store(leader).peers[&RegionId(1)].group.term();
    let call = RaftMessage {
        region_id: 1,
        from_peer: Some(peer(leader, leader)),
        to_peer: Some(peer(target, target)),
        region_epoch: cluster.region(leader, 1).region_epoch,
        message: Some(eraftpb::Message {
            msg_type: MessageType::MsgTimeoutNow.into(),
            from: leader,
            to: target,
            term,
            ..Default::default()
        }),
        ..Default::default()
    };
    cluster.tell(StoreId(target), StoreMsg::Raft(Box::new(call)));
    cluster.run();
    assert_eq!(cluster.leader(1), None);
    cluster.ticks(4);
    assert_eq!(cluster.leader(1), Some(leader));
    assert!(cluster.is_done(write) || cluster.refusal(write).is_some());
}

#[test]
fn who_waits_at_a_cut_off_leader_is_told_within_three_election_timeouts() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    let proposed = cluster.write_at(old, 1, "k", "v");
    let election = cluster.config.election_ticks;
    cluster.ticks(2 * election);
    assert!(cluster.store(old).peers[&RegionId(1)].leader().is_none());
    let late = cluster.write_at(old, 1, "k", "w");
    assert!(matches!(cluster.refusal(late), Some(Refusal::NotLeader { .. })));
    cluster.ticks(election);
    // It never heals: nobody here can know what became of the entry.
    assert!(matches!(cluster.refusal(proposed), Some(Refusal::UndeterminedResult { .. })));
    cluster.heal();
    cluster.write("k", "x");
    cluster.ticks(10);
}

#[test]
fn who_waits_at_a_deposed_leader_learns_what_became_of_it() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    let proposed = cluster.write_at(old, 1, "k", "v");
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    cluster.write("k", "w");
    cluster.heal();
    cluster.ticks(3);
    assert!(matches!(cluster.refusal(proposed), Some(Refusal::StaleCommand)));
}

#[test]
fn who_waits_for_a_split_at_a_leader_that_loses_its_role_is_told() {
    let mut cluster = Cluster::three();
    cluster.gives_ids = false;
    let old = cluster.leader(1).unwrap();
    let split = cluster.split_at(old, 1, &["m"]);
    cluster.transfer(1, old % 3 + 1);
    assert!(matches!(cluster.refusal(split), Some(Refusal::NotLeader { .. })));
}
