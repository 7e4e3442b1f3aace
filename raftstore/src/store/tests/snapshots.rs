use super::*;
use crate::peer::Phase;

fn quick_cutting() -> Config {
    Config { compact_log_ticks: 4, compact_log_entries_min: 5, ..Config::default() }
}

fn first_index(cluster: &Cluster, store: u64) -> u64 {
    cluster.store(store).peers[&RegionId(1)].group.log().truncated().index + 1
}

#[test]
fn a_log_is_cut_once_every_follower_has_it() {
    let mut cluster = Cluster::with_region(3, 3, quick_cutting());
    (0..20).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(30);
    for store in 1..=3 {
        assert!(first_index(&cluster, store) > 15, "{}", first_index(&cluster, store));
        let log = &cluster.nodes[&StoreId(store)].log;
        assert_eq!(
            log.state(RegionId(1)).unwrap().unwrap().truncated_index + 1,
            first_index(&cluster, store)
        );
    }
    cluster.write("k", "more");
}

#[test]
fn a_log_is_not_cut_before_the_data_is_durable() {
    let mut cluster = Cluster::with_region(1, 1, quick_cutting());
    cluster.nodes.get_mut(&StoreId(1)).unwrap().held_background = Some(Vec::new());
    (0..20).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(30);
    assert_eq!(first_index(&cluster, 1), 6);
    cluster.lose_power(1, 0);
    cluster.start(1);
    cluster.ticks(4);
    assert_eq!(cluster.value(1, "k"), Some("19".into()));
}

#[test]
fn a_slow_follower_does_not_hold_the_log_for_ever() {
    let config = Config { compact_log_entries_max: 30, ..quick_cutting() };
    let mut cluster = Cluster::with_region(3, 3, config);
    let slow = cluster.leader(1).unwrap() % 3 + 1;
    cluster.isolate(slow);
    (0..25).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(20);
    let leader = cluster.leader(1).unwrap();
    assert!(first_index(&cluster, leader) <= 8);
    (0..20).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(20);
    assert!(first_index(&cluster, leader) > 8);
    cluster.write("k", "last");
    cluster.heal();
    cluster.until("it caught up", |cluster| cluster.value(slow, "k") == Some("last".into()));
    assert!(first_index(&cluster, slow) > 8);
    // What the snapshot does not hold is gone; and it goes on from there.
    cluster.write("k", "more");
    cluster.ticks(4);
    assert_eq!(cluster.value(slow, "k"), Some("more".into()));
    cluster.stop(slow);
    cluster.start(slow);
    cluster.ticks(30);
    assert_eq!(cluster.value(slow, "k"), Some("more".into()));
}

#[test]
fn what_a_snapshot_does_not_hold_is_gone() {
    let config = Config { compact_log_entries_max: 10, ..quick_cutting() };
    let mut cluster = Cluster::with_region(3, 3, config);
    cluster.write("gone", "v");
    cluster.ticks(2);
    let slow = cluster.leader(1).unwrap() % 3 + 1;
    assert!(cluster.value(slow, "gone").is_some());
    cluster.isolate(slow);
    let leader = cluster.leader(1).unwrap();
    let target = cluster.target(leader, 1);
    let reply = cluster.new_reply();
    let mut batch = WriteBatch::new();
    batch.delete(ColumnFamily::Default, "gone");
    cluster.tell(StoreId(leader), StoreMsg::Write { target, batch, reply });
    (0..40).for_each(|n| cluster.write("k", &n.to_string()));
    cluster.ticks(20);
    cluster.heal();
    cluster.until("it caught up", |cluster| cluster.value(slow, "k") == Some("39".into()));
    assert_eq!(cluster.value(slow, "gone"), None);
}

/// Raft takes a snapshot's members at once. What the applier still does of the entries before it comes late.
#[test]
fn a_change_of_members_from_before_a_snapshot_is_not_made_after_it() {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode};
    for is_damaged in [false, true] {
        let config = Config { compact_log_entries_max: 10, ..quick_cutting() };
        let mut cluster = Cluster::with_region(4, 3, config);
        cluster.write("k", "v");
        let leader = cluster.leader(1).unwrap();
        let (slow, gone) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        cluster.change_until(1, AddLearnerNode, &peer(4, 4), |region| region.peers.len() == 4);
        cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
        cluster.ticks(4);
        let changes = [(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))];
        cluster.order_changes(leader, 1, &changes);
        cluster.until("joint", |cluster| region::is_joint(&cluster.region(slow, 1)));
        // The slow one has the entry that leaves it, knows it to be committed, and does not apply it.
        cluster.hold_applier(slow);
        cluster.order_changes(leader, 1, &[]);
        cluster.write("k", "w");
        cluster.until("left", |cluster| {
            let held = cluster.nodes[&StoreId(slow)].held.as_ref();
            held.is_some_and(|tasks| tasks.len() > 1)
        });
        assert!(region::is_joint(&cluster.region(slow, 1)));
        cluster.isolate(slow);
        (0..40).for_each(|n| cluster.write("k", &n.to_string()));
        cluster.ticks(20);
        cluster.hold_background(slow);
        cluster.heal();
        cluster.until("a snapshot", |cluster| {
            let peer = &cluster.store(slow).peers[&RegionId(1)];
            peer.phase == Phase::Installing
        });
        cluster.release_applier(slow);
        assert!(!region::is_joint(&cluster.region(slow, 1)));
        if is_damaged {
            damage_snapshots(&mut cluster, slow);
        }
        cluster.release_background(slow);
        cluster.until("it caught up", |cluster| cluster.value(slow, "k") == Some("39".into()));
        cluster.write("k", "last");
        cluster.until("it follows", |cluster| cluster.value(slow, "k") == Some("last".into()));
    }
}

/// The snapshots that wait to be installed turn out damaged.
fn damage_snapshots(cluster: &mut Cluster, store: u64) {
    let node = cluster.nodes.get_mut(&StoreId(store)).unwrap();
    for task in node.held_background.iter_mut().flatten() {
        if let BackgroundTask::InstallSnapshot { source, .. } = task {
            *source = crate::msg::SnapshotSource::Bytes("damaged".into());
        }
    }
}

#[test]
fn a_damaged_snapshot_changes_nothing_and_another_follows() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.write("k", "v");
    cluster.nodes.get_mut(&StoreId(2)).unwrap().held_background = Some(Vec::new());
    cluster.order_change(1, 1, eraftpb::ConfChangeType::AddNode, &peer(2, 2));
    cluster.until("a snapshot to install", |cluster| {
        let held = cluster.nodes[&StoreId(2)].held_background.as_ref();
        held.is_some_and(|tasks| {
            tasks.iter().any(|task| matches!(task, BackgroundTask::InstallSnapshot { .. }))
        })
    });
    damage_snapshots(&mut cluster, 2);
    cluster.release_background(2);
    assert!(!cluster.has_region(2, 1));
    cluster.until("the data", |cluster| cluster.value(2, "k") == Some("v".into()));
    cluster.write("k", "w");
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.write("k", "v");
    cluster.filter =
        Some(Box::new(|_, message| !is_type(message, eraftpb::MessageType::MsgSnapshot)));
    cluster.order_change(1, 1, eraftpb::ConfChangeType::AddNode, &peer(2, 2));
    cluster.ticks(6);
    assert!(!cluster.has_region(2, 1));
    cluster.heal();
    cluster.until("the data", |cluster| cluster.value(2, "k") == Some("v".into()));
}

#[test]
fn a_crash_while_installing_begins_again() {
    for loses_power in [false, true] {
        let mut cluster = Cluster::with_region(2, 1, Config::default());
        cluster.write("k", "v");
        cluster.nodes.get_mut(&StoreId(2)).unwrap().held_background = Some(Vec::new());
        cluster.order_change(1, 1, eraftpb::ConfChangeType::AddNode, &peer(2, 2));
        cluster.ticks(10);
        if loses_power {
            cluster.lose_power(2, 0)
        } else {
            cluster.stop(2)
        }
        cluster.start(2);
        cluster.until("the data", |cluster| cluster.value(2, "k") == Some("v".into()));
        cluster.write("k", "w");
    }
}

#[test]
fn a_crash_between_the_data_and_the_log_is_repaired() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.write("k", "v");
    cluster.nodes.get_mut(&StoreId(2)).unwrap().held_background = Some(Vec::new());
    cluster.order_change(1, 1, eraftpb::ConfChangeType::AddNode, &peer(2, 2));
    cluster.ticks(10);
    // The data is installed, and nobody lives to write the log.
    let node = cluster.nodes.get_mut(&StoreId(2)).unwrap();
    for task in node.held_background.take().unwrap() {
        node.machine.as_mut().unwrap().background.perform(task).unwrap();
    }
    cluster.lose_power(2, 0);
    let promised = cluster.nodes[&StoreId(2)].log.state(RegionId(1)).unwrap().unwrap();
    cluster.start(2);
    let log = cluster.store(2).peers[&RegionId(1)].group.log();
    assert!(log.last().index > 5);
    assert!(log.hard_state().term >= promised.hard_state.term);
    assert_eq!(cluster.value(2, "k"), Some("v".into()));
    cluster.write("k", "w");
    cluster.until("it follows", |cluster| cluster.value(2, "k") == Some("w".into()));
}

#[test]
fn entries_wait_until_the_snapshot_is_in() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.write("k", "v");
    cluster.nodes.get_mut(&StoreId(2)).unwrap().held_background = Some(Vec::new());
    let mut learner = peer(2, 2);
    learner.set_role(metapb::PeerRole::Learner);
    cluster.order_change(1, 1, eraftpb::ConfChangeType::AddLearnerNode, &learner);
    cluster.ticks(10);
    cluster.write("k", "w");
    cluster.ticks(4);
    assert_eq!(cluster.value(2, "k"), None);
    let node = cluster.nodes.get_mut(&StoreId(2)).unwrap();
    for task in node.held_background.take().unwrap() {
        node.inbox.extend(node.machine.as_mut().unwrap().background.perform(task).unwrap());
    }
    cluster.run();
    cluster.until("both", |cluster| cluster.value(2, "k") == Some("w".into()));
}
