//! The half that needs only raft.

use raft::StateRole::Leader;
use raft::eraftpb::{HardState, Message, MessageType};
use tests::labs::raft::messages::{
    at_term, beat, data, hup, log, propose, snapshot, snapshot_message,
};
use tests::labs::raft::network::Network;
use tests::labs::raft::node::{
    Node, compact, disk, fresh, only_message, persist, put_into_role, raw_over, restarted, step,
    step_proposal, take_messages, voters,
};

use super::super::lab2ac::{assert_only_committed, assert_then_silent};

/// Node 1 of {1, 2} gets a snapshot at 11@11 with the members {1, 2, 3}: its last index is 11, of term 11,
/// and it knows the three members.
#[test]
fn test_restore_snapshot_2c() {
    let mut node = fresh(1, &[1, 2]);
    step(&mut node, snapshot_message((2, 1), 11, snapshot(11, 11, &[1, 2, 3])));
    assert_eq!(node.raft_log.last_index(), 11);
    assert_eq!(node.raft_log.term(11), Ok(11));
    assert_eq!(voters(&node), [1, 2, 3]);
    let answer = only_message(&mut node, MessageType::MsgAppendResponse);
    assert_eq!((answer.index, answer.reject), (11, false));
}

/// A node that has committed three entries gets a snapshot at 1: it is ignored, and the answer says how
/// far the node has committed.
///
/// Hint: a snapshot may be late. What is older than the commit must change nothing.
#[test]
fn test_restore_ignore_snapshot_2c() {
    let mut node = restarted(1, &[1, 2], &log(&[1, 1, 1]), (1, 0, 3));
    step(&mut node, snapshot_message((2, 1), 1, snapshot(1, 1, &[1, 2])));
    assert_eq!((node.raft_log.committed, node.raft_log.last_index()), (3, 3));
    assert!(node.raft_log.unstable_snapshot().is_none());
    assert_eq!(only_message(&mut node, MessageType::MsgAppendResponse).index, 3);
}

/// A node restored from a snapshot at 11 leads; follower 2 turns out to need an entry that the snapshot
/// covers: exactly one message goes to it, and it is a snapshot.
///
/// The course sets the follower's next index by force. The crate's flow control would not send twice to a
/// follower that is probed, so here the follower itself refuses the append and says how far its log goes.
///
/// Hint: while a snapshot is under way, nothing else is sent.
#[test]
fn test_provide_snap_2c() {
    let mut node = fresh(1, &[1]);
    node.become_follower(11, 0);
    assert!(node.restore(snapshot(11, 11, &[1, 2])));
    persist(&mut node);
    put_into_role(&mut node, Leader);
    persist(&mut node);
    step_proposal(&mut node, "somedata");
    let append = only_message(&mut node, MessageType::MsgAppend);
    assert_eq!((append.to, append.index), (2, 11));
    let refusal = at_term(2, 1, MessageType::MsgAppendResponse, node.term);
    step(&mut node, Message { index: 11, reject: true, reject_hint: 9, ..refusal });
    let message = only_message(&mut node, MessageType::MsgSnapshot);
    assert_eq!(message.get_snapshot().get_metadata().index, 11);
    step_proposal(&mut node, "somedata");
    assert_eq!(take_messages(&mut node), []);
}

/// Node 2 gets a snapshot from 1, of a newer term: it knows 1 as its leader.
///
/// Hint: who sends a snapshot leads.
#[test]
fn test_restore_from_snap_msg_2c() {
    let mut node = fresh(2, &[1, 2]);
    step(&mut node, snapshot_message((1, 2), 2, snapshot(11, 11, &[1, 2])));
    assert_eq!(node.leader_id, 1);
}

/// Node 2 of {1, 2, 3} gets a snapshot with the members {2, 3, 4} from 1: 1 is its leader, and it keeps a
/// progress for exactly 2, 3 and 4.
///
/// Hint: old members go; they are not added to.
#[test]
fn test_restore_from_snap_with_overlaping_peers_msg_2c() {
    let mut node = fresh(2, &[1, 2, 3]);
    step(&mut node, snapshot_message((1, 2), 2, snapshot(11, 11, &[2, 3, 4])));
    assert_eq!(node.leader_id, 1);
    let mut known: Vec<u64> = node.prs().iter().map(|(id, _)| *id).collect();
    known.sort_unstable();
    assert_eq!(known, [2, 3, 4]);
    assert_eq!(voters(&node), [2, 3, 4]);
}

/// Three nodes, 1 leads, 3 is cut off during 101 proposals, and the leader forgets its log behind a
/// snapshot. Everything heals; the leader beats and gets two more proposals: 3 has committed all the
/// leader has.
///
/// Hint: the answer to the heartbeat says that 3 lags; its refusal of the next append, how far.
#[test]
fn test_slow_node_restore_2c() {
    let mut network = Network::of(3);
    network.send([hup(1)]);
    network.isolate(3);
    (0..101).for_each(|_| network.send([propose(1, "")]));
    compact(network.node_mut(1));
    assert_eq!(network.node(1).raft_log.first_index(), 102);
    network.recover();
    network.send([beat(1)]);
    network.send([propose(1, "")]);
    network.send([propose(1, "")]);
    let committed = |node: &Node| node.raft_log.committed;
    assert_eq!(committed(network.node(1)), 104);
    assert_eq!(committed(network.node(3)), 104);
    assert_eq!(network.node(3).raft_log.first_index(), 103, "it came by a snapshot");
}

/// A node starts from a disk with a snapshot at 2 and entry 3, which is committed: its first ready hands
/// out that entry to be applied, and nothing else; then nothing is ready.
///
/// Hint: the term at the cut must still be known, and the snapshot on the disk is no news.
#[test]
fn test_raw_node_restart_from_snapshot_2c() {
    let disk = disk(&[], &[]);
    disk.wl().apply_snapshot(snapshot(2, 1, &[1, 2])).unwrap();
    disk.wl().append(&[data(3, 1, "foo")]).unwrap();
    disk.wl().set_hardstate(HardState { term: 1, commit: 3, ..Default::default() });
    let mut node = raw_over(1, disk);
    let ready = node.ready();
    assert_eq!(ready.committed_entries(), &[data(3, 1, "foo")]);
    assert_only_committed(&ready);
    assert_then_silent(&mut node, ready);
}
