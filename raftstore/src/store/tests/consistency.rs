//! Replicas are compared, and one that differs goes by itself.

use eraftpb::ConfChangeType::AddNode;

use super::*;
use crate::storage::quarantine_of;

/// Asks the leader of a region to have its replicas compared.
fn check(cluster: &mut Cluster, region: u64) -> ReplyId {
    let leader = cluster.leader(region).unwrap();
    let reply = cluster.new_reply();
    let message = StoreMsg::CheckConsistency { region_id: RegionId(region), reply };
    cluster.tell(StoreId(leader), message);
    cluster.run();
    reply
}

/// A bit rots on this store's disk.
fn spoil(cluster: &Cluster, store: u64, key: &'static str) {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, key, format!("rotten on {store}"));
    cluster.nodes[&StoreId(store)].data.write(batch).unwrap();
}

fn phase(cluster: &Cluster, store: u64, region: u64) -> &crate::peer::Phase {
    &cluster.store(store).peers[&RegionId(region)].phase
}

fn quarantined(cluster: &Cluster, region: u64) -> Vec<u64> {
    let stores = cluster.running().map(|store| store.id.0);
    let has_it = |store: &u64| {
        cluster.store(*store).peers.contains_key(&RegionId(region))
            && *phase(cluster, *store, region) == crate::peer::Phase::Quarantined
    };
    stores.filter(has_it).collect()
}

fn is_checking(cluster: &Cluster, region: u64) -> bool {
    let leader = cluster.leader(region).unwrap();
    cluster.store(leader).peers[&RegionId(region)].leader().unwrap().check.is_some()
}

fn three() -> (Cluster, u64, u64, u64) {
    let mut cluster = Cluster::three();
    cluster.write("a", "1");
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let next = leader % 3 + 1;
    (cluster, leader, next, next % 3 + 1)
}

/// What the newest heartbeat says of who is down for good.
fn down_for_good(cluster: &Cluster, region: u64) -> Vec<u64> {
    fn heartbeat(report: &Report) -> Option<&pdpb::RegionHeartbeatRequest> {
        if let Report::RegionHeartbeat(heartbeat) = report { Some(heartbeat) } else { None }
    }
    let of_region = |heartbeat: &&pdpb::RegionHeartbeatRequest| {
        heartbeat.region.as_ref().is_some_and(|found| found.id == region)
    };
    let reports = cluster.reports.iter().rev();
    let newest = reports.filter_map(|(_, report)| heartbeat(report)).find(of_region).unwrap();
    let is_for_good = |down: &&pdpb::PeerStats| down.down_seconds == region::DOWN_FOR_GOOD_SECONDS;
    let down = newest.down_peers.iter().filter(is_for_good);
    down.map(|down| down.peer.unwrap().store_id).collect()
}

#[test]
fn equal_replicas_are_found_equal_and_go_on() {
    let (mut cluster, ..) = three();
    for _ in 0..3 {
        let reply = check(&mut cluster, 1);
        assert!(cluster.is_done(reply));
        cluster.ticks(4);
        assert!(!is_checking(&cluster, 1), "it is over");
        assert!(quarantined(&cluster, 1).is_empty());
        cluster.write("k", "w");
    }
}

#[test]
fn what_is_hashed_is_the_entry_and_nothing_later() {
    let (mut cluster, leader, slow, other) = three();
    for store in [leader, slow, other] {
        cluster.hold_background(store);
    }
    let reply = check(&mut cluster, 1);
    assert!(cluster.is_done(reply), "nobody waits for the hash");
    // One applies what comes behind the check, one does not, and nobody is kept from it.
    cluster.hold_applier(slow);
    cluster.write("k", "later");
    cluster.ticks(4);
    for store in [leader, slow, other] {
        cluster.release_background(store);
    }
    assert!(!is_checking(&cluster, 1));
    cluster.release_applier(slow);
    cluster.ticks(4);
    assert!(quarantined(&cluster, 1).is_empty());
}

#[test]
fn a_replica_that_differs_goes_and_nothing_else_does() {
    let (mut cluster, leader, odd, other) = three();
    cluster.split_at(leader, 1, &["g"]);
    cluster.until("the new region", |cluster| cluster.leader(101).is_some());
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    spoil(&cluster, odd, "k");
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
    // The region serves, and so does the other region on that store.
    cluster.write("k", "w");
    cluster.write("a", "w");
    cluster.until("it is applied", |cluster| cluster.value(odd, "a") == Some("w".into()));
    assert_eq!(cluster.value(other, "k"), Some("w".into()));
    let found = cluster.value(odd, "k").unwrap();
    assert!(found.starts_with(b"rotten"), "its data are kept as they were");
    // Nobody is served there.
    for replica_read in [false, true] {
        let read = cluster.barrier_at(odd, 1, replica_read);
        assert!(matches!(cluster.refusal(read), Some(Refusal::RegionNotFound { .. })));
    }
    let write = cluster.write_at(odd, 1, "k", "x");
    assert!(matches!(cluster.refusal(write), Some(Refusal::RegionNotFound { .. })));
    assert!(matches!(cluster.read_path(odd, 1), Err(Refusal::RegionNotFound { .. })));
    // The scheduler is told, by this leader and by the next.
    assert_eq!(down_for_good(&cluster, 1), [odd]);
    cluster.transfer(1, other);
    cluster.ticks(4);
    assert_ne!(leader, other);
    assert_eq!(down_for_good(&cluster, 1), [odd]);
    assert!(down_for_good(&cluster, 101).is_empty());
}

#[test]
fn who_waits_at_a_replica_that_goes_is_answered() {
    let (mut cluster, leader, odd, _) = three();
    spoil(&cluster, odd, "k");
    // A follower's read whose index is never told.
    cluster.filter =
        Some(Box::new(|_, message| !is_type(message, eraftpb::MessageType::MsgReadIndexResp)));
    let read = cluster.barrier_at(odd, 1, true);
    assert_eq!(cluster.reply(read), None);
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
    assert!(matches!(cluster.refusal(read), Some(Refusal::RegionNotFound { .. })));
    assert_ne!(leader, odd);
}

#[test]
fn a_leader_that_differs_goes_and_the_others_elect() {
    let (mut cluster, leader, ..) = three();
    spoil(&cluster, leader, "k");
    check(&mut cluster, 1);
    let goes = |cluster: &Cluster| quarantined(cluster, 1) == [leader];
    cluster.until("it goes by its own proposal", goes);
    cluster.until("a successor", |cluster| cluster.leader(1).is_some_and(|new| new != leader));
    cluster.write("k", "w");
    cluster.ticks(10);
    assert_eq!(quarantined(&cluster, 1), [leader]);
    assert_eq!(down_for_good(&cluster, 1), [leader]);
    // Nobody who asks for it is served by the old one.
    let read = cluster.barrier_at(leader, 1, false);
    assert!(matches!(cluster.refusal(read), Some(Refusal::RegionNotFound { .. })));
}

#[test]
fn nobody_goes_when_there_is_no_majority() {
    let (mut cluster, leader, next, _) = three();
    spoil(&cluster, leader, "k");
    spoil(&cluster, next, "k");
    check(&mut cluster, 1);
    cluster.ticks(10);
    assert!(quarantined(&cluster, 1).is_empty());
    assert!(!is_checking(&cluster, 1), "and it is over");
    // One against one.
    let mut cluster = Cluster::with_region(2, 2, Config::default());
    cluster.write("k", "v");
    cluster.ticks(4);
    spoil(&cluster, 2, "k");
    check(&mut cluster, 1);
    cluster.ticks(10);
    assert!(quarantined(&cluster, 1).is_empty());
    cluster.write("k", "w");
}

#[test]
fn a_learner_is_compared_and_has_no_voice() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let mut learner = peer(4, 4);
    learner.set_role(metapb::PeerRole::Learner);
    cluster.change_until(1, eraftpb::ConfChangeType::AddLearnerNode, &learner, |region| {
        region::peer_by_id(region, PeerId(4)).is_some()
    });
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    let leader = cluster.leader(1).unwrap();
    let next = leader % 3 + 1;
    // Leader and learner are the same; the voters are one against one, and one that is down.
    cluster.stop(next % 3 + 1);
    spoil(&cluster, next, "k");
    check(&mut cluster, 1);
    cluster.ticks(5);
    assert!(quarantined(&cluster, 1).is_empty());
    assert!(is_checking(&cluster, 1));
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    cluster.change_until(1, eraftpb::ConfChangeType::AddLearnerNode, &learner, |region| {
        region::peer_by_id(region, PeerId(4)).is_some()
    });
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    spoil(&cluster, 4, "k");
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [4]);
}

#[test]
fn a_slow_replica_is_judged_once_it_has_its_hash() {
    let (mut cluster, _, odd, _) = three();
    spoil(&cluster, odd, "k");
    cluster.hold_background(odd);
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert!(!is_checking(&cluster, 1), "two of three are enough");
    assert!(quarantined(&cluster, 1).is_empty());
    cluster.release_background(odd);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}

#[test]
fn one_that_crashed_in_between_is_judged_if_it_applies_again() {
    let (mut cluster, leader, odd, other) = three();
    spoil(&cluster, odd, "k");
    cluster.nodes[&StoreId(odd)].data.sync().unwrap();
    cluster.hold_background(leader);
    cluster.hold_background(other);
    check(&mut cluster, 1);
    // What it has applied since the sync is lost, the check among it; the log has it.
    cluster.lose_power(odd, 0);
    cluster.start(odd);
    cluster.ticks(4);
    assert!(quarantined(&cluster, 1).is_empty());
    cluster.release_background(leader);
    cluster.release_background(other);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}

#[test]
fn one_that_crashed_in_between_and_has_no_hash_is_judged_next_time() {
    let (mut cluster, leader, odd, other) = three();
    spoil(&cluster, odd, "k");
    cluster.hold_background(leader);
    cluster.hold_background(other);
    check(&mut cluster, 1);
    cluster.ticks(4);
    cluster.stop(odd);
    cluster.start(odd);
    cluster.ticks(4);
    cluster.release_background(leader);
    cluster.release_background(other);
    cluster.ticks(4);
    assert!(!is_checking(&cluster, 1));
    assert!(quarantined(&cluster, 1).is_empty());
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}

#[test]
fn a_leader_that_changes_in_between_leaves_it_to_the_next_check() {
    let (mut cluster, leader, odd, other) = three();
    spoil(&cluster, odd, "k");
    for store in [leader, odd, other] {
        cluster.hold_background(store);
    }
    check(&mut cluster, 1);
    cluster.transfer(1, other);
    for store in [leader, odd, other] {
        cluster.release_background(store);
    }
    cluster.ticks(10);
    assert!(quarantined(&cluster, 1).is_empty());
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}

#[test]
fn a_split_in_between_makes_the_judgement_void() {
    let (mut cluster, leader, odd, _) = three();
    spoil(&cluster, odd, "a");
    cluster.hold_background(odd);
    check(&mut cluster, 1);
    cluster.split_at(leader, 1, &["g"]);
    cluster.ticks(4);
    cluster.release_background(odd);
    cluster.ticks(4);
    // What is rotten went to the new region, of which nothing was said.
    assert!(quarantined(&cluster, 1).is_empty());
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert!(quarantined(&cluster, 1).is_empty());
    cluster.until("the new region", |cluster| cluster.leader(101).is_some());
    check(&mut cluster, 101);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 101), [odd]);
    assert!(quarantined(&cluster, 1).is_empty());
}

#[test]
fn a_change_of_members_in_between_does_not_matter() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let (odd, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    spoil(&cluster, odd, "k");
    // What the other one tells is late.
    let late = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let keep = late.clone();
    cluster.filter = Some(Box::new(move |from, message| {
        let is_late = from.0 == other && !message.extra_ctx.is_empty();
        if is_late {
            keep.borrow_mut().push(message.clone());
        }
        !is_late
    }));
    check(&mut cluster, 1);
    assert!(is_checking(&cluster, 1));
    cluster.change_until(1, eraftpb::ConfChangeType::AddLearnerNode, &peer(4, 4), |region| {
        region::peer_by_id(region, PeerId(4)).is_some()
    });
    cluster.filter = None;
    for message in late.take() {
        cluster.tell(StoreId(leader), StoreMsg::Raft(Box::new(message)));
    }
    cluster.run();
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}

#[test]
fn what_a_snapshot_has_replaced_is_not_judged() {
    let config = Config {
        compact_log_ticks: 4,
        compact_log_entries_min: 5,
        compact_log_entries_max: 10,
        ..Config::default()
    };
    let mut cluster = Cluster::with_region(3, 3, config);
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let (odd, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    spoil(&cluster, odd, "k");
    let late = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let keep = late.clone();
    cluster.filter = Some(Box::new(move |from, message| {
        let is_late = from.0 == other && !message.extra_ctx.is_empty();
        if is_late {
            keep.borrow_mut().push(message.clone());
        }
        !is_late
    }));
    check(&mut cluster, 1);
    // It gets its data anew, by a snapshot, and only then is it known what they should have been.
    cluster.isolate(odd);
    (0..40).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(20);
    cluster.heal();
    cluster.until("it is whole again", |cluster| cluster.value(odd, "k") == Some("39".into()));
    assert_eq!(cluster.leader(1), Some(leader));
    assert!(is_checking(&cluster, 1));
    for message in late.take() {
        cluster.tell(StoreId(leader), StoreMsg::Raft(Box::new(message)));
    }
    cluster.run();
    cluster.ticks(4);
    assert!(!is_checking(&cluster, 1));
    assert!(quarantined(&cluster, 1).is_empty());
}

#[test]
fn quarantine_outlives_a_restart_and_a_loss_of_power() {
    let (mut cluster, leader, odd, other) = three();
    spoil(&cluster, odd, "k");
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
    let record = |cluster: &Cluster| {
        let view = cluster.nodes[&StoreId(odd)].data.snapshot();
        quarantine_of(&view, RegionId(1), PeerId(odd)).unwrap()
    };
    let before = record(&cluster).unwrap();
    assert_ne!(before.own, before.agreed);
    for keep in [usize::MAX, 0] {
        cluster.lose_power(odd, keep);
        cluster.start(odd);
        // It may be the one that a quorum needs, and is not.
        let down = if keep == 0 { leader } else { other };
        cluster.stop(down);
        cluster.ticks(60);
        assert_eq!(cluster.leader(1), None, "one of three is no quorum");
        assert_eq!(quarantined(&cluster, 1), [odd]);
        assert_eq!(record(&cluster), Some(before));
        assert!(cluster.value(odd, "k").unwrap().starts_with(b"rotten"));
        cluster.start(down);
        cluster.write("k", "w");
        cluster.until("the scheduler is told again", |cluster| down_for_good(cluster, 1) == [odd]);
    }
}

#[test]
fn a_replica_in_quarantine_is_removed_and_replaced() {
    // With another store to go to, and with none.
    for new_store in [4, 0] {
        let config = Config { leader_missing_ticks: 40, ..Config::default() };
        let mut cluster = Cluster::with_region(4, 3, config);
        cluster.write("k", "v");
        cluster.ticks(4);
        let odd = cluster.leader(1).unwrap() % 3 + 1;
        spoil(&cluster, odd, "k");
        check(&mut cluster, 1);
        cluster.ticks(4);
        assert_eq!(quarantined(&cluster, 1), [odd]);
        cluster.remove(1, &peer(odd, odd));
        if new_store != 0 {
            cluster.add(1, &peer(14, new_store));
            cluster.until("the data", |cluster| cluster.value(new_store, "k") == Some("v".into()));
        }
        cluster.until("it learns that it was removed", |cluster| {
            !cluster.store(odd).peers.contains_key(&RegionId(1))
        });
        cluster.ticks(4);
        assert_eq!(cluster.value(odd, "k"), None, "its data are gone");
        // A successor is another peer, and healthy.
        if new_store == 0 {
            cluster.add(1, &peer(15, odd));
            cluster.until("the data", |cluster| cluster.value(odd, "k") == Some("v".into()));
            cluster.stop(odd);
            cluster.start(odd);
            check(&mut cluster, 1);
            cluster.ticks(4);
        }
        assert!(quarantined(&cluster, 1).is_empty());
        cluster.write("k", "w");
    }
}

#[test]
fn a_newer_peer_takes_the_place_of_one_in_quarantine() {
    let (mut cluster, _, odd, _) = three();
    spoil(&cluster, odd, "k");
    check(&mut cluster, 1);
    cluster.ticks(4);
    assert_eq!(quarantined(&cluster, 1), [odd]);
    cluster.remove(1, &peer(odd, odd));
    cluster.add(1, &peer(15, odd));
    // Long before it would have asked by itself.
    cluster.until("the data", |cluster| cluster.value(odd, "k") == Some("v".into()));
    assert_eq!(cluster.store(odd).peers[&RegionId(1)].meta.id, 15);
}

#[test]
fn a_region_is_compared_from_time_to_time() {
    let config = Config { consistency_check_ticks: 20, ..Config::default() };
    let mut cluster = Cluster::with_region(3, 3, config);
    cluster.write("k", "v");
    cluster.ticks(60);
    assert!(quarantined(&cluster, 1).is_empty());
    let odd = cluster.leader(1).unwrap() % 3 + 1;
    spoil(&cluster, odd, "k");
    cluster.ticks(25);
    assert_eq!(quarantined(&cluster, 1), [odd]);
    // Not unless it is wanted.
    let (mut cluster, _, odd, _) = three();
    spoil(&cluster, odd, "k");
    cluster.ticks(3000);
    assert!(quarantined(&cluster, 1).is_empty());
}

#[test]
fn who_asks_in_the_wrong_place_or_too_soon_is_told_so() {
    let (mut cluster, leader, next, other) = three();
    let ask = |cluster: &mut Cluster, store: u64, region: u64| {
        let reply = cluster.new_reply();
        let region_id = RegionId(region);
        cluster.tell(StoreId(store), StoreMsg::CheckConsistency { region_id, reply });
        cluster.run();
        cluster.reply(reply).cloned()
    };
    let answer = ask(&mut cluster, next, 1);
    let Some(Err(Refusal::NotLeader { leader: Some(told), .. })) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(told.store_id, leader);
    let answer = ask(&mut cluster, leader, 9);
    assert!(matches!(answer, Some(Err(Refusal::RegionNotFound { region_id: 9 }))));
    cluster.hold_background(next);
    cluster.hold_background(other);
    assert_eq!(ask(&mut cluster, leader, 1), Some(Ok(Answer::Done)));
    let answer = ask(&mut cluster, leader, 1);
    assert!(matches!(answer, Some(Err(Refusal::ServerIsBusy { .. }))), "{answer:?}");
    // What is lost is given up, and not waited for.
    cluster.nodes.get_mut(&StoreId(next)).unwrap().held_background = Some(Vec::new());
    cluster.nodes.get_mut(&StoreId(other)).unwrap().held_background = Some(Vec::new());
    cluster.ticks(2400);
    assert_eq!(ask(&mut cluster, leader, 1), Some(Ok(Answer::Done)));
}

#[test]
fn an_order_given_to_a_replica_in_quarantine_does_nothing() {
    let (mut cluster, _, odd, other) = three();
    spoil(&cluster, odd, "k");
    check(&mut cluster, 1);
    cluster.ticks(4);
    let before = cluster.region(other, 1);
    cluster.order_change(odd, 1, AddNode, &peer(9, 9));
    cluster.split_at(odd, 1, &["m"]);
    cluster.tell(StoreId(odd), StoreMsg::Unreachable { store_id: StoreId(other) });
    cluster.run();
    cluster.ticks(30);
    assert_eq!(cluster.region(other, 1), before);
    assert_eq!(quarantined(&cluster, 1), [odd]);
}
