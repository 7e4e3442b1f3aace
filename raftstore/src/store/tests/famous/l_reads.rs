//! Reads: a read sees every write that was acknowledged before it was asked for, whoever serves it.
//!
//! Clocks that run apart (L5) are judged in `clock_trust.rs`; what they are allowed is in `config.rs`.

use eraftpb::MessageType;

use super::*;

/// What the reader that was answered has seen.
fn seen(cluster: &Cluster, read: ReplyId, key: &str) -> Option<Bytes> {
    cluster.seen[&read].get(ColumnFamily::Default, key.as_bytes()).unwrap()
}

/// Drops the messages for which this holds, and keeps them.
fn keep(cluster: &mut Cluster, holds: impl Fn(StoreId, &RaftMessage) -> bool + 'static) -> Kept {
    let kept = Kept::default();
    let keep = kept.clone();
    cluster.filter = Some(Box::new(move |from, message| {
        let keeps = holds(from, message);
        if keeps {
            keep.borrow_mut().push(message.clone());
        }
        !keeps
    }));
    kept
}

fn goes_to(message: &RaftMessage, store: u64) -> bool {
    message.to_peer.is_some_and(|to| to.store_id == store)
}

/// Time passes without ticks: the process stands still for as long as a lease.
fn outlast_lease(cluster: &mut Cluster) {
    cluster.now = cluster.now.plus(cluster.config.lease_micros());
}

#[test]
fn bug_l1_a_new_leader_answers_before_an_entry_of_its_term_is_committed() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let old = cluster.leader(1).unwrap();
    let (new, third) = (next_of(old), next_of(next_of(old)));
    // The successor has the newest write in its log, and nobody has told it that it is committed.
    cluster.isolate(third);
    let reply = cluster.write_at(old, 1, "k", "w");
    assert!(cluster.is_done(reply));
    cluster.heal();
    cluster.isolate(old);
    cluster.filter = Some(Box::new(|_, message| !is_type(message, MessageType::MsgAppend)));
    cluster.until("a successor", |cluster| cluster.leader(1) == Some(new));
    assert_eq!(cluster.value(new, "k"), Some("v".into()));
    let reads = [cluster.barrier_at(new, 1, false), cluster.barrier_at(third, 1, true)];
    for _ in 0..6 {
        cluster.tick();
        assert_eq!(cluster.read_path(new, 1), Ok(ReadPath::Barrier));
        assert!(reads.iter().all(|read| cluster.reply(*read).is_none()));
    }
    cluster.filter = None;
    cluster.until("answers", |cluster| reads.iter().all(|read| cluster.is_done(*read)));
    assert!(reads.iter().all(|read| seen(&cluster, *read, "k") == Some("w".into())));
}

#[test]
fn bug_l2_the_index_of_an_answer_is_older_than_the_one_that_was_checked() {
    let mut answered = 0;
    // How many messages of a handover get through before reads are asked for.
    for passing in 0..30 {
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        cluster.ticks(4);
        let old = cluster.leader(1).unwrap();
        let new = next_of(old);
        cluster.isolate(new);
        let reply = cluster.write_at(old, 1, "k", "w");
        assert!(cluster.is_done(reply));
        let mut passed = 0;
        cluster.cut.clear();
        cluster.filter = Some(Box::new(move |_, _| {
            passed += 1;
            passed <= passing
        }));
        cluster.ticks(2);
        let to = Some(peer(new, new));
        cluster.order(old, 1, |order| {
            order.transfer_leader = Some(pdpb::TransferLeader { peer: to, peers: vec![] });
        });
        let reads: Vec<ReplyId> = (1..=3)
            .flat_map(|store| [false, true].map(|replica| (store, replica)))
            .map(|(store, replica)| cluster.barrier_at(store, 1, replica))
            .collect();
        cluster.filter = None;
        cluster.ticks(30);
        for read in reads.into_iter().filter(|read| cluster.is_done(*read)) {
            if cluster.seen.contains_key(&read) {
                assert_eq!(seen(&cluster, read, "k"), Some("w".into()), "after {passing}");
                answered += 1;
            }
        }
    }
    assert!(answered > 90, "only {answered} reads were answered");
}

#[test]
fn bug_l3_a_new_read_joins_a_question_of_before_the_handover() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let old = cluster.leader(1).unwrap();
    let new = next_of(old);
    outlast_lease(&mut cluster);
    // From the call to campaign on the old leader hears nothing, and the answers to its question never.
    let is_called = std::rc::Rc::new(std::cell::Cell::new(false));
    let called = is_called.clone();
    let kept = keep(&mut cluster, move |_, message| {
        if is_type(message, MessageType::MsgTimeoutNow) {
            called.set(true);
        }
        goes_to(message, old)
            && (called.get() || is_type(message, MessageType::MsgHeartbeatResponse))
    });
    let first = cluster.barrier_at(old, 1, false);
    assert_eq!(cluster.reply(first), None);
    let to = Some(peer(new, new));
    cluster.order(old, 1, |order| {
        order.transfer_leader = Some(pdpb::TransferLeader { peer: to, peers: vec![] });
    });
    assert!(is_called.get());
    assert_eq!(cluster.leader(1), Some(new));
    let reply = cluster.write_at(new, 1, "k", "w");
    assert!(cluster.is_done(reply));
    // The old one does not know yet, and somebody who knows of the write reads there.
    assert!(cluster.store(old).peers[&RegionId(1)].leader().is_some());
    assert_eq!(cluster.value(old, "k"), Some("v".into()));
    let second = cluster.barrier_at(old, 1, false);
    let answers: Vec<RaftMessage> = kept
        .borrow()
        .iter()
        .filter(|message| is_type(message, MessageType::MsgHeartbeatResponse))
        .cloned()
        .collect();
    deliver(&mut cluster, &answers);
    assert!(cluster.is_done(first), "it was asked for before the write");
    assert_eq!(cluster.reply(second), None);
    cluster.heal();
    cluster.until("it is told who leads", |cluster| cluster.refusal(second).is_some());
}

#[test]
fn bug_l4_the_answer_to_an_earlier_attempt_satisfies_a_later_one() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let follower = next_of(leader);
    let kept = keep(&mut cluster, move |_, message| {
        let is_answer = is_type(message, MessageType::MsgReadIndexResp);
        goes_to(message, follower) && (is_answer || is_type(message, MessageType::MsgAppend))
    });
    let early = cluster.barrier_at(follower, 1, true);
    cluster.ticks(cluster.config.read_index_retry_ticks as usize * 2);
    let is_answer = |message: &&RaftMessage| is_type(message, MessageType::MsgReadIndexResp);
    let old: Vec<RaftMessage> = kept.borrow().iter().filter(is_answer).cloned().collect();
    assert!(old.len() >= 2, "it was asked again");
    let reply = cluster.write_at(leader, 1, "k", "w");
    assert!(cluster.is_done(reply));
    let late = cluster.barrier_at(follower, 1, true);
    // Again and again, while the read is asked for under new names.
    for _ in 0..12 {
        deliver(&mut cluster, &old);
        assert_eq!(cluster.reply(late), None);
        cluster.tick();
    }
    cluster.heal();
    cluster.until("both are answered", |cluster| cluster.is_done(early) && cluster.is_done(late));
    assert_eq!(seen(&cluster, late, "k"), Some("w".into()));
}

#[test]
fn bug_l4_the_answer_to_an_earlier_life_satisfies_a_later_one() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let follower = next_of(leader);
    // Twice in the same way, so that the life is all that tells the names of the questions apart.
    let ask = |cluster: &mut Cluster| {
        cluster.stop(follower);
        cluster.start(follower);
        let kept = keep(cluster, move |_, message| {
            let is_answer = is_type(message, MessageType::MsgReadIndexResp);
            goes_to(message, follower) && (is_answer || is_type(message, MessageType::MsgAppend))
        });
        cluster.ticks(2);
        let read = cluster.barrier_at(follower, 1, true);
        (read, kept)
    };
    let (_, kept) = ask(&mut cluster);
    let is_answer = |message: &&RaftMessage| is_type(message, MessageType::MsgReadIndexResp);
    let old: Vec<RaftMessage> = kept.borrow().iter().filter(is_answer).cloned().collect();
    assert_eq!(old.len(), 1);
    cluster.filter = None;
    cluster.ticks(2);
    let (read, kept) = ask(&mut cluster);
    let reply = cluster.write_at(leader, 1, "k", "w");
    assert!(cluster.is_done(reply));
    assert_eq!(kept.borrow().iter().filter(is_answer).count(), 1);
    deliver(&mut cluster, &old);
    assert_eq!(cluster.reply(read), None);
    cluster.heal();
    cluster.until("it is answered", |cluster| cluster.is_done(read));
}

#[test]
fn bug_l5_a_lease_is_counted_from_the_answer() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    let kept = keep(&mut cluster, move |_, message| {
        goes_to(message, leader) && is_type(message, MessageType::MsgHeartbeatResponse)
    });
    let sees = kept.clone();
    cluster.until("a heartbeat", |_| !sees.borrow().is_empty());
    let early = kept.borrow().clone();
    cluster.ticks(cluster.config.lease_ticks);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    // What was sent a lease ago is answered now: that says nothing about now.
    deliver(&mut cluster, &early);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    let newest = kept.borrow().last().cloned();
    deliver(&mut cluster, &Vec::from_iter(newest));
    cluster.run();
    assert!(cluster.store(leader).peers[&RegionId(1)].leader().is_some());
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
}

#[test]
fn bug_l5_a_store_that_doubts_its_clock_answers_alone() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    let use_leases = |cluster: &mut Cluster, may| {
        let node = cluster.nodes.get_mut(&StoreId(leader)).unwrap();
        node.machine.as_mut().unwrap().store.use_leases(may);
    };
    use_leases(&mut cluster, false);
    for _ in 0..20 {
        assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
        cluster.tick();
    }
    // Reads ask a quorum, and get no answer where there is none.
    let read = cluster.barrier_at(leader, 1, false);
    assert!(cluster.is_done(read));
    assert_eq!(seen(&cluster, read, "k"), Some("v".into()));
    cluster.isolate(leader);
    let read = cluster.barrier_at(leader, 1, false);
    assert_eq!(cluster.reply(read), None);
    cluster.heal();
    cluster.ticks(2);
    use_leases(&mut cluster, true);
    let lease = |cluster: &Cluster| cluster.read_path(leader, 1) == Ok(ReadPath::Lease);
    cluster.until("the lease is back", lease);
}

#[test]
fn bug_l6_the_lease_runs_out_between_the_check_and_the_snapshot() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let old = cluster.leader(1).unwrap();
    let target = cluster.target(old, 1);
    let views = cluster.store(old).read_views().clone();
    let path =
        |cluster: &Cluster, before| views.check(before, &target, cluster.now).map(|(path, _)| path);
    // A reader looks and takes its snapshot, and then stands still; so does the whole process.
    let before = views.before_snapshot(RegionId(1));
    assert_eq!(path(&cluster, &before), Ok(ReadPath::Lease));
    let now = cluster.now;
    outlast_lease(&mut cluster);
    assert_eq!(path(&cluster, &before), Ok(ReadPath::Barrier));
    cluster.now = now;
    // It stands still while leadership goes away and comes back.
    let snapshot = cluster.nodes[&StoreId(old)].data.snapshot();
    let new = next_of(old);
    cluster.transfer(1, new);
    cluster.write("k", "w");
    cluster.transfer(1, old);
    cluster.until("a lease", |cluster| cluster.read_path(old, 1) == Ok(ReadPath::Lease));
    let stale = snapshot.get(ColumnFamily::Default, b"k").unwrap();
    assert_eq!(stale, Some("v".into()));
    assert_eq!(path(&cluster, &before), Ok(ReadPath::Barrier));
}

#[test]
fn bug_l6_the_snapshot_is_older_than_the_lease_it_is_judged_by() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let old = cluster.leader(1).unwrap();
    let new = next_of(old);
    cluster.hold_applier(new);
    cluster.write("k", "w");
    cluster.transfer(1, new);
    cluster.ticks(2);
    // The new leader has not applied what the old one acknowledged; a reader takes its snapshot.
    let target = cluster.target(new, 1);
    let views = cluster.store(new).read_views().clone();
    let before = views.before_snapshot(RegionId(1));
    let snapshot = cluster.nodes[&StoreId(new)].data.snapshot();
    cluster.release_applier(new);
    cluster.until("a lease", |cluster| cluster.read_path(new, 1) == Ok(ReadPath::Lease));
    assert_eq!(snapshot.get(ColumnFamily::Default, b"k").unwrap(), Some("v".into()));
    let path = views.check(&before, &target, cluster.now).unwrap().0;
    assert_eq!(path, ReadPath::Barrier);
}

#[test]
fn bug_l7_a_leader_answers_alone_while_it_hands_over() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    let to = peer(next_of(old), next_of(old));
    let target = cluster.target(old, 1);
    let views = cluster.store(old).read_views().clone();
    let (now, held) = (cluster.now, std::rc::Rc::new(std::cell::Cell::new(None)));
    // The call is lost on the way; it might as well be late. When it leaves, the lease is over.
    let holds = held.clone();
    cluster.filter = Some(Box::new(move |_, message| {
        let is_call = is_type(message, MessageType::MsgTimeoutNow);
        if is_call {
            let view = views.by_id(target.region_id).unwrap();
            holds.set(Some(view.holds_lease(now)));
        }
        !is_call
    }));
    cluster.order(old, 1, |order| {
        order.transfer_leader = Some(pdpb::TransferLeader { peer: Some(to), peers: vec![] });
    });
    assert_eq!(held.get(), Some(false));
    for _ in 0..40 {
        assert_eq!(cluster.read_path(old, 1), Ok(ReadPath::Barrier));
        cluster.tick();
    }
    // The transfer was given up, and still a late call could come: reads ask a quorum.
    assert_eq!(cluster.leader(1), Some(old));
    cluster.write("k", "v");
    let read = cluster.barrier_at(old, 1, false);
    assert!(cluster.is_done(read));
}

#[test]
fn bug_l8_a_split_takes_effect_elsewhere_while_the_old_leader_answers_alone() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    cluster.hold_applier(leader);
    let split = cluster.split_at(leader, 1, &["m"]);
    // The others have applied it and may have elected a leader for the new region.
    cluster.ticks(2);
    assert!(cluster.has_region(next_of(leader), 101));
    assert_eq!(cluster.reply(split), None);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    let read = cluster.barrier_at(leader, 1, false);
    assert_eq!(cluster.reply(read), None);
    cluster.release_applier(leader);
    // The new region may have other leaders: a reader that knows the old one must look again.
    assert!(matches!(cluster.refusal(read), Some(Refusal::EpochNotMatch { .. })));
    cluster.ticks(2);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
}

#[test]
fn bug_l8_a_new_region_inherits_the_lease_of_the_old_one() {
    let mut cluster = Cluster::three();
    cluster.write("a", "v");
    let leader = cluster.leader(1).unwrap();
    // Nobody hears of the new region from the old leader's store, and so nobody elects its peer.
    cluster.filter =
        Some(Box::new(move |from, message| from.0 != leader || message.region_id == 1));
    cluster.split_at(leader, 1, &["m"]);
    assert!(cluster.has_region(leader, 101));
    let lease = |cluster: &Cluster| cluster.read_path(leader, 101) == Ok(ReadPath::Lease);
    for _ in 0..60 {
        assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
        assert!(!lease(&cluster));
        cluster.tick();
    }
    // The others have elected one of theirs, and it has written.
    let elected = cluster.leader(101).unwrap();
    assert_ne!(elected, leader);
    let reply = cluster.write_at(elected, 101, "a", "w");
    assert!(cluster.is_done(reply));
    assert!(!lease(&cluster));
    cluster.heal();
    cluster.until("it knows", |cluster| cluster.value(leader, "a") == Some("w".into()));
    cluster.transfer(101, leader);
    cluster.until("a lease of its own", lease);
}

#[test]
fn bug_l11_a_restarted_leader_answers_before_it_has_caught_up() {
    let mut cluster = Cluster::with_region(1, 1, Config::default());
    (0..5).for_each(|n| cluster.write("k", &n.to_string()));
    // What was applied is lost, and only the log knows it.
    cluster.lose_power(1, 0);
    cluster.hold_applier(1);
    cluster.start(1);
    assert_eq!(cluster.leader(1), Some(1), "the only voter leads at once");
    assert_eq!(cluster.value(1, "k"), None);
    let read = cluster.barrier_at(1, 1, false);
    for _ in 0..3 {
        assert_eq!(cluster.read_path(1, 1), Ok(ReadPath::Barrier));
        assert_eq!(cluster.reply(read), None);
        cluster.tick();
    }
    cluster.release_applier(1);
    cluster.until("it is answered", |cluster| cluster.is_done(read));
    assert_eq!(seen(&cluster, read, "k"), Some("4".into()));
}

#[test]
fn bug_l11_a_restarted_follower_answers_before_it_has_caught_up() {
    let mut cluster = Cluster::three();
    (0..5).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(4);
    let follower = next_of(cluster.leader(1).unwrap());
    cluster.lose_power(follower, 0);
    cluster.hold_applier(follower);
    cluster.start(follower);
    let read = cluster.barrier_at(follower, 1, true);
    cluster.ticks(8);
    assert_eq!(cluster.reply(read), None);
    cluster.release_applier(follower);
    cluster.until("it is answered", |cluster| cluster.is_done(read));
    assert_eq!(seen(&cluster, read, "k"), Some("4".into()));
}
