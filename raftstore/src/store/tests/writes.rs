use super::*;
use crate::command::Command;

#[test]
fn a_write_is_applied_everywhere_and_answered_once() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    for store in 1..=3 {
        assert_eq!(cluster.value(store, "k"), Some("v".into()));
    }
}

#[test]
fn waiting_writes_become_one_entry() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let before = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    let target = cluster.target(leader, 1);
    let replies: Vec<ReplyId> =
        (0..50).map(|n| cluster.ask_write(leader, target.clone(), &format!("k{n}"), "v")).collect();
    cluster.run();
    assert!(replies.iter().all(|reply| cluster.is_done(*reply)));
    let after = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    assert_eq!(after, before + 1);
}

#[test]
fn an_entry_is_no_larger_than_its_limit() {
    let config = Config { entry_bytes_max: 1000, ..Config::default() };
    let mut cluster = Cluster::with_region(3, 3, config);
    let leader = cluster.leader(1).unwrap();
    let before = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    let target = cluster.target(leader, 1);
    let large = "x".repeat(400);
    let replies: Vec<ReplyId> =
        (0..5).map(|_| cluster.ask_write(leader, target.clone(), "k", &large)).collect();
    let too_large = cluster.ask_write(leader, target, "k", &"x".repeat(1000));
    cluster.run();
    assert!(replies.iter().all(|reply| cluster.is_done(*reply)));
    assert!(matches!(cluster.refusal(too_large), Some(Refusal::RaftEntryTooLarge { .. })));
    let log = &cluster.store(leader).peers[&RegionId(1)].group;
    assert_eq!(log.last_index(), before + 3);
}

#[test]
fn a_full_queue_is_busy() {
    let config = Config { waiting_bytes_max: 100, ..Config::default() };
    let mut cluster = Cluster::with_region(1, 1, config);
    let target = cluster.target(1, 1);
    let first = cluster.ask_write(1, target.clone(), "k", &"x".repeat(80));
    let second = cluster.ask_write(1, target, "k", &"x".repeat(80));
    cluster.run();
    assert!(cluster.is_done(first));
    assert!(matches!(cluster.refusal(second), Some(Refusal::ServerIsBusy { .. })));
}

#[test]
fn who_asks_the_wrong_one_is_told() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    let ask = |cluster: &mut Cluster, target| {
        let reply = cluster.ask_write(follower, target, "k", "v");
        cluster.run();
        cluster.refusal(reply).cloned().unwrap()
    };
    let target = cluster.target(follower, 1);
    let refused = ask(&mut cluster, target.clone());
    assert_eq!(refused, Refusal::NotLeader { region_id: 1, leader: Some(peer(leader, leader)) });
    let refused = ask(&mut cluster, Target { region_id: RegionId(9), ..target.clone() });
    assert_eq!(refused, Refusal::RegionNotFound { region_id: 9 });
    let refused = ask(&mut cluster, Target { store_id: Some(StoreId(8)), ..target });
    assert_eq!(refused, Refusal::StoreNotMatch { requested: 8, actual: follower });
}

/// S1.13: a write that was meant for another version of the region is refused, be that older or newer.
#[test]
fn both_an_older_and_a_newer_version_are_refused() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    for version in [0, 2] {
        let epoch = metapb::RegionEpoch { version, conf_ver: 1 };
        let target = Target { epoch, ..cluster.target(leader, 1) };
        let reply = cluster.ask_write(leader, target, "k", "v");
        cluster.run();
        assert!(matches!(
            cluster.refusal(reply),
            Some(Refusal::EpochNotMatch { current_regions }) if current_regions[0].id == 1
        ));
    }
}

#[test]
fn the_epoch_is_compared_again_when_applied() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    // An entry as a leader would have proposed it before a split that came first in the log.
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "k", "v");
    let epoch = metapb::RegionEpoch { version: 9, conf_ver: 1 };
    let entry = Command::Write { epoch, batch }.encode();
    let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
    let peer = machine.store.peers.get_mut(&RegionId(1)).unwrap();
    let at = peer.group.propose(entry).unwrap();
    peer.proposals.push(at, vec![ReplyId(77)]);
    machine.store.touched.insert(RegionId(1));
    cluster.ticks(4);
    assert!(matches!(cluster.refusal(ReplyId(77)), Some(Refusal::EpochNotMatch { .. })));
    for store in 1..=3 {
        assert_eq!(cluster.value(store, "k"), None);
    }
    cluster.write("k", "w");
}

#[test]
fn an_overwritten_proposal_is_stale_and_a_late_one_is_told_who_leads() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    let lost = cluster.write_at(old, 1, "k", "lost");
    assert_eq!(cluster.reply(lost), None);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    cluster.write("k", "kept");
    // It cannot say yet what became of the first one, and takes no second.
    cluster
        .until("stepped down", |cluster| cluster.store(old).peers[&RegionId(1)].leader().is_none());
    assert_eq!(cluster.reply(lost), None);
    let late = cluster.write_at(old, 1, "k", "late");
    assert!(matches!(cluster.refusal(late), Some(Refusal::NotLeader { leader: None, .. })));
    cluster.heal();
    cluster.ticks(10);
    assert_eq!(cluster.refusal(lost), Some(&Refusal::StaleCommand));
    assert_eq!(cluster.value(old, "k"), Some("kept".into()));
}

#[test]
fn a_proposal_that_the_next_leader_commits_is_done() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    // The followers get the entry, and their acknowledgements are lost.
    cluster.filter =
        Some(Box::new(|_, message| !is_type(message, eraftpb::MessageType::MsgAppendResponse)));
    let reply = cluster.write_at(old, 1, "k", "v");
    cluster.heal();
    cluster.isolate(old);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    assert_eq!(cluster.reply(reply), None);
    cluster.heal();
    cluster.ticks(10);
    assert!(cluster.is_done(reply));
}

#[test]
fn a_write_that_waits_too_long_is_told_so() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let deadline = Some(Now(cluster.now.0 - 1));
    let target = Target { deadline, ..cluster.target(leader, 1) };
    let reply = cluster.ask_write(leader, target, "k", "v");
    cluster.run();
    assert_eq!(cluster.refusal(reply), Some(&Refusal::deadline_exceeded()));
}

#[test]
fn a_leaders_messages_leave_before_its_own_disk_has_the_entries() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let target = cluster.target(leader, 1);
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "k", "v");
    let now = cluster.now;
    let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
    let mut effects = Effects::default();
    let message = StoreMsg::Write { target, batch, reply: ReplyId(1) };
    machine.store.step(message, now, &mut effects).unwrap();
    machine.store.flush(now, &mut effects);
    let appends = effects.send_now.iter();
    let appends = appends.filter(|message| is_type(message, eraftpb::MessageType::MsgAppend));
    assert_eq!(appends.count(), 2);
    assert_eq!(effects.log.groups.len(), 1);
    assert!(effects.send_after_persist.is_empty());
}
