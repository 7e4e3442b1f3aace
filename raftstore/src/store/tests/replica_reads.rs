use super::*;

/// S3.4: the leader does not fall behind what a follower has shown.
///
/// The simulator found it with seed 2: the disk with the leader's data stood still.
#[test]
fn what_a_replica_has_shown_the_leader_does_not_miss() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    cluster.write("k", "old");
    cluster.ticks(2);
    let before = cluster.barrier_at(follower, 1, true);
    cluster.ticks(2);
    assert!(cluster.is_done(before));
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    // Committed, and applied by the follower only.
    cluster.hold_applier(leader);
    let write = cluster.write_at(leader, 1, "k", "new");
    cluster.ticks(4);
    assert_eq!(cluster.reply(write), None);
    assert_eq!(cluster.value(follower, "k"), Some("new".into()));
    // Who has seen it there must not miss it here.
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
    let read = cluster.barrier_at(leader, 1, false);
    cluster.ticks(2);
    assert_eq!(cluster.reply(read), None);
    cluster.release_applier(leader);
    assert!(cluster.is_done(read) && cluster.is_done(write));
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
}

#[test]
fn without_replica_reads_a_leader_answers_alone_while_it_applies() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    // Its predecessor may have told a replica, for a while.
    cluster.ticks(400);
    cluster.hold_applier(leader);
    let write = cluster.write_at(leader, 1, "k", "v");
    cluster.ticks(2);
    assert_eq!(cluster.reply(write), None);
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
}
