use super::*;

/// S0.44: reads under a lease, and reads that ask a quorum, write nothing to any log; and who has no lease any
/// more and reaches no quorum refuses them.
#[test]
fn reads_write_nothing_to_the_log_and_are_refused_without_a_lease_and_a_quorum() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(2);
    let leader = cluster.leader(1).unwrap();
    let last = |cluster: &Cluster| {
        [1, 2, 3].map(|store| cluster.store(store).peers[&RegionId(1)].group.last_index())
    };
    let before = last(&cluster);
    for _ in 0..20 {
        assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
        let asked = cluster.barrier_at(leader, 1, false);
        assert!(cluster.is_done(asked));
        cluster.tick();
    }
    cluster.now = cluster.now.plus(cluster.config.lease_micros());
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    let asked = cluster.barrier_at(leader, 1, false);
    assert!(cluster.is_done(asked));
    assert_eq!(last(&cluster), before);
    cluster.isolate(leader);
    cluster.ticks(cluster.config.lease_ticks);
    assert_ne!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    let refused = cluster.barrier_at(leader, 1, false);
    cluster.ticks(cluster.config.election_ticks * 3);
    assert!(matches!(cluster.refusal(refused), Some(Refusal::NotLeader { .. })));
}

#[test]
fn a_leader_that_is_heard_answers_alone() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    // Quiet regions keep their lease by heartbeats.
    for _ in 0..40 {
        cluster.tick();
        assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    }
    let follower = leader % 3 + 1;
    assert!(matches!(cluster.read_path(follower, 1), Err(Refusal::NotLeader { .. })));
}

#[test]
fn a_lease_ends_before_another_can_lead() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    let mut ticks_until_expired = None;
    for tick in 0..60 {
        let holds = cluster.read_path(old, 1) == Ok(ReadPath::Lease);
        let elected = cluster.leader(1).is_some_and(|new| new != old);
        assert!(!(holds && elected), "two could answer");
        if !holds && ticks_until_expired.is_none() {
            ticks_until_expired = Some(tick);
        }
        cluster.tick();
    }
    assert!(ticks_until_expired.is_some_and(|ticks| ticks <= cluster.config.lease_ticks));
}

#[test]
fn without_a_lease_a_quorum_is_asked() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    // Time passes without ticks: the process was stopped.
    cluster.now = cluster.now.plus(cluster.config.lease_micros());
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    let answered = cluster.barrier_at(leader, 1, false);
    assert!(cluster.is_done(answered));
    cluster.now = cluster.now.plus(cluster.config.lease_micros());
    cluster.isolate(leader);
    let unanswered = cluster.barrier_at(leader, 1, false);
    assert_eq!(cluster.reply(unanswered), None);
    cluster.ticks(30);
    assert!(matches!(cluster.refusal(unanswered), Some(Refusal::NotLeader { .. })));
}

#[test]
fn reads_of_one_round_share_one_question() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    cluster.now = cluster.now.plus(cluster.config.lease_micros());
    let target = cluster.target(leader, 1);
    let replies: Vec<ReplyId> = (0..10)
        .map(|_| {
            let reply = cluster.new_reply();
            let target = target.clone();
            cluster.tell(StoreId(leader), StoreMsg::ReadBarrier { target, reply });
            reply
        })
        .collect();
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = asked.clone();
    cluster.filter = Some(Box::new(move |_, message| {
        let is_heartbeat = is_type(message, eraftpb::MessageType::MsgHeartbeat);
        count.set(count.get() + u32::from(is_heartbeat));
        true
    }));
    cluster.run();
    assert!(replies.iter().all(|reply| cluster.is_done(*reply)));
    assert_eq!(asked.get(), 2);
}

#[test]
fn a_new_leader_reads_nothing_before_its_first_entry_is_applied() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.write("k", "v");
    let new = old % 3 + 1;
    cluster.hold_applier(new);
    cluster.transfer(1, new);
    cluster.ticks(4);
    assert_eq!(cluster.read_path(new, 1), Ok(ReadPath::Barrier));
    let read = cluster.barrier_at(new, 1, false);
    assert_eq!(cluster.reply(read), None);
    cluster.release_applier(new);
    assert!(cluster.is_done(read));
    cluster.ticks(2);
    assert_eq!(cluster.read_path(new, 1), Ok(ReadPath::Lease));
}

/// S3.4: a follower that is asked for a replica read answers when it has applied as far as the leader had committed.
#[test]
fn a_follower_answers_when_it_has_applied_as_far() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    cluster.hold_applier(follower);
    cluster.write("k", "v");
    cluster.ticks(4);
    let read = cluster.barrier_at(follower, 1, true);
    cluster.ticks(4);
    assert_eq!(cluster.reply(read), None);
    cluster.release_applier(follower);
    cluster.ticks(4);
    assert!(cluster.is_done(read));
    assert_eq!(cluster.value(follower, "k"), Some("v".into()));
}

/// S3.4: the index comes from the leader, and is asked for until it comes.
#[test]
fn a_followers_lost_question_is_asked_again() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    cluster.filter =
        Some(Box::new(|_, message| !is_type(message, eraftpb::MessageType::MsgReadIndex)));
    let read = cluster.barrier_at(follower, 1, true);
    cluster.ticks(2);
    assert_eq!(cluster.reply(read), None);
    cluster.heal();
    cluster.ticks(6);
    assert!(cluster.is_done(read));
}

/// S3.4: a follower that does not reach the leader refuses in the end.
#[test]
fn a_read_that_nobody_can_answer_ends_at_its_deadline() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    cluster.isolate(follower);
    let deadline = Some(cluster.now.plus(300_000));
    let target = Target { replica_read: true, deadline, ..cluster.target(follower, 1) };
    let reply = cluster.new_reply();
    cluster.tell(StoreId(follower), StoreMsg::ReadBarrier { target, reply });
    cluster.run();
    cluster.ticks(8);
    assert!(matches!(cluster.refusal(reply), Some(Refusal::ReadIndexNotReady { .. })));
}

#[test]
fn a_restarted_voter_keeps_the_patience_it_promised() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    let (voter, candidate) = (old % 3 + 1, (old + 1) % 3 + 1);
    cluster.isolate(candidate);
    cluster.ticks(20);
    assert_eq!(cluster.read_path(old, 1), Ok(ReadPath::Lease));
    // The candidate hears only the voter, which has just forgotten its leader.
    cluster.heal();
    cluster.isolate(old);
    cluster.stop(voter);
    cluster.start(voter);
    for _ in 0..60 {
        let holds = cluster.read_path(old, 1) == Ok(ReadPath::Lease);
        let elected = cluster.leader(1).is_some_and(|new| new != old);
        assert!(!(holds && elected), "two could answer");
        cluster.tick();
    }
    assert!(cluster.leader(1).is_some_and(|new| new != old));
}
