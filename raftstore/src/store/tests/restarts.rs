use super::*;

#[test]
fn what_was_acknowledged_survives_a_restart_of_all() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    let term = cluster.store(1).peers[&RegionId(1)].group.term();
    (1..=3).for_each(|id| cluster.stop(id));
    (1..=3).for_each(|id| cluster.start(id));
    // The vote is remembered, the leader is not.
    for id in 1..=3 {
        let group = &cluster.store(id).peers[&RegionId(1)].group;
        assert_eq!((group.term(), group.leader()), (term, None));
        assert_ne!(group.raft().vote, 0);
    }
    cluster.until("a leader", |cluster| cluster.leader(1).is_some());
    cluster.ticks(4);
    for id in 1..=3 {
        assert_eq!(cluster.value(id, "k"), Some("v".into()));
    }
    cluster.write("k", "w");
}

#[test]
fn unsynced_data_is_written_again_from_the_log() {
    let mut cluster = Cluster::three();
    for n in 0..10 {
        cluster.write("k", &n.to_string());
    }
    cluster.ticks(4);
    for keep in 0..8 {
        for id in 1..=3 {
            cluster.lose_power(id, keep);
        }
        (1..=3).for_each(|id| cluster.start(id));
        cluster.until("a leader", |cluster| cluster.leader(1).is_some());
        cluster.ticks(4);
        for id in 1..=3 {
            assert_eq!(cluster.value(id, "k"), Some("9".into()));
        }
    }
}

#[test]
fn a_log_that_a_crash_left_behind_its_tombstone_is_cleared() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(2);
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.hold_background(gone);
    cluster.remove(1, &peer(gone, gone));
    cluster.ticks(4);
    // The tombstone is durable, and the store dies before it clears the log.
    cluster.nodes[&StoreId(gone)].data.sync().unwrap();
    let state =
        |cluster: &Cluster| cluster.nodes[&StoreId(gone)].log.state(RegionId(1)).unwrap().unwrap();
    let before = state(&cluster);
    assert!(before.last_index > 0);
    cluster.lose_power(gone, 0);
    cluster.start(gone);
    cluster.ticks(4);
    let after = state(&cluster);
    assert_eq!((after.last_index, after.truncated_index), (0, 0));
    assert_eq!(after.hard_state.term, before.hard_state.term, "the vote is kept");
    // So a later peer of the region can be made.
    cluster.add(1, &peer(14, gone));
    cluster.until("the data", |cluster| cluster.value(gone, "k") == Some("v".into()));
}

#[test]
fn a_tombstone_outlives_a_loss_of_power_or_the_removal_is_replayed() {
    for keep in 0..6 {
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        cluster.ticks(2);
        let leader = cluster.leader(1).unwrap();
        let gone = leader % 3 + 1;
        // Nothing is synced: the tombstone may be lost, and then so must be the cleared log.
        cluster.nodes.get_mut(&StoreId(gone)).unwrap().held_background = Some(Vec::new());
        cluster.remove(1, &peer(gone, gone));
        cluster.ticks(4);
        cluster.lose_power(gone, keep);
        cluster.start(gone);
        cluster
            .until("it is gone", |cluster| !cluster.store(gone).peers.contains_key(&RegionId(1)));
        assert!(cluster.store(gone).tombstones.contains_key(&RegionId(1)));
    }
}
