//! Lab 3A: change of membership, one member at a time, and handing leadership over, in raft.
//!
//! A change takes effect when it is applied, and only one may be unapplied at a time. A leader that
//! hands over stops taking proposals, brings the chosen one up to date, and tells it to campaign at
//! once, whatever its timer says.
//!
//! The crate never refuses a second change of membership: it turns it into an entry without data. So
//! a store answers such a proposal when an empty entry is applied in its place.
//!
//! Look: `raftstore/src/operation/conf_change/mod.rs`, `raftstore/src/operation/transfer_leader.rs`,
//! `raftstore/src/group/mod.rs`, `tests/src/labs/raft/` (the harness).

use raft::StateRole::{self, Follower, Leader};
use raft::eraftpb::ConfChangeType::{AddNode, RemoveNode};
use raft::eraftpb::{ConfChange, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, RawNode, Storage as _};
use tests::labs::raft::messages::{
    at_term, change, hup, message, propose, propose_change, transfer, vote,
};
use tests::labs::raft::network::Network;
use tests::labs::raft::node::{
    compact, disk, fresh, persist, progress, put_into_role, raw_over, step, step_proposal,
    take_committed, voters,
};

/// Node 1 of {1} applies "add 2": it knows {1, 2}.
#[test]
fn test_add_node_3a() {
    let mut node = fresh(1, &[1]);
    node.apply_conf_change(&change(AddNode, 2)).unwrap();
    assert_eq!(voters(&node), [1, 2]);
}

/// Node 1 of {1, 2} applies "remove 2": it knows {1}. Then "remove 1": the crate refuses to remove the last
/// voter, where the course wants an empty group without a crash; {1} stays. (A store refuses it before it
/// is proposed.)
#[test]
fn test_remove_node_3a() {
    let mut node = fresh(1, &[1, 2]);
    node.apply_conf_change(&change(RemoveNode, 2)).unwrap();
    assert_eq!(voters(&node), [1]);
    assert!(node.apply_conf_change(&change(RemoveNode, 1)).is_err());
    assert_eq!(voters(&node), [1]);
}

/// S4.4. A leader of {1, 2} has its first entry, "remove 2" and "hello" in its log; nothing is committed. 2
/// acknowledges up to the change: the first two are committed. The change is applied: "hello" is committed
/// at once.
///
/// Hint: a quorum that shrinks may commit what waited; look again after each change.
#[test]
fn test_commit_after_remove_node_3a() {
    let mut node = fresh(1, &[1, 2]);
    put_into_role(&mut node, Leader);
    step(&mut node, propose_change(1, RemoveNode, 2));
    let changed_at = node.raft_log.last_index();
    assert_eq!(take_committed(&mut node), []);
    step_proposal(&mut node, "hello");
    assert_eq!(take_committed(&mut node), []);
    let acknowledged = at_term(2, 1, MessageType::MsgAppendResponse, node.term);
    step(&mut node, Message { index: changed_at, ..acknowledged });
    let committed = take_committed(&mut node);
    let kinds: Vec<EntryType> = committed.iter().map(Entry::get_entry_type).collect();
    assert_eq!(kinds, [EntryType::EntryNormal, EntryType::EntryConfChange]);
    assert!(committed[0].data.is_empty());
    node.apply_conf_change(&change(RemoveNode, 2)).unwrap();
    let committed = take_committed(&mut node);
    assert_eq!(committed.iter().map(|entry| &entry.data[..]).collect::<Vec<_>>(), [b"hello"]);
}

/// Three nodes of which 1 leads.
fn led_by_one() -> Network {
    let mut network = Network::of(3);
    network.send([hup(1)]);
    assert_eq!(network.node(1).state, Leader);
    network
}

/// 3 misses a proposal and comes back; 1 has not noticed.
fn with_a_slow_three() -> Network {
    let mut network = led_by_one();
    network.isolate(3);
    network.send([propose(1, "")]);
    network.recover();
    network
}

/// 1 wants to hand over to 3, which cannot be reached.
fn with_a_pending_transfer() -> Network {
    let mut network = led_by_one();
    network.isolate(3);
    network.send([propose(1, "")]);
    network.send([transfer(3, 1)]);
    assert_eq!(network.node(1).lead_transferee, Some(3));
    // Proposals are not taken meanwhile.
    let last = network.node(1).raft_log.last_index();
    network.send([propose(1, "refused")]);
    assert_eq!(network.node(1).raft_log.last_index(), last);
    network
}

/// Node 1 is in this role, knows this leader, and hands over to nobody.
#[track_caller]
fn assert_one(network: &Network, role: StateRole, leader: u64) {
    let node = network.node(1);
    assert_eq!((node.state, node.leader_id, node.lead_transferee), (role, leader, None));
}

/// 1 leads and is told to hand over to 2, which has its whole log: 1 follows 2. A proposal given to 1 goes
/// to 2. 2 is told to hand over to 1: 1 leads again.
///
/// Hint: who is up to date is told to campaign at once. The message's `from` names the new leader.
#[test]
fn test_leader_transfer_to_up_to_date_node_3a() {
    let mut network = led_by_one();
    network.send([transfer(2, 1)]);
    assert_one(&network, Follower, 2);
    network.send([propose(1, "")]);
    assert_eq!(network.node(2).raft_log.committed, 3);
    network.send([transfer(1, 2)]);
    assert_one(&network, Leader, 1);
}

/// The same, but the wish is told to the follower that is to lead, and not to the leader.
///
/// Hint: a follower passes the wish on to its leader.
#[test]
fn test_leader_transfer_to_up_to_date_node_from_follower_3a() {
    let mut network = led_by_one();
    network.send([transfer(2, 2)]);
    assert_one(&network, Follower, 2);
    network.send([propose(1, "")]);
    network.send([transfer(1, 1)]);
    assert_one(&network, Leader, 1);
}

/// 3 missed a proposal, and is to lead: 1 brings it up to date first, and follows it then.
///
/// Hint: the transfer waits for the answer to an append; the order to campaign follows that.
#[test]
fn test_leader_transfer_to_slow_follower_3a() {
    let mut network = with_a_slow_three();
    assert_eq!(progress(network.node(1), 3).0, 1);
    network.send([transfer(3, 1)]);
    assert_one(&network, Follower, 3);
}

/// 3 missed a proposal that 1 has forgotten behind a snapshot, and is to lead; it also answers a heartbeat:
/// 1 brings it up to date by the snapshot, and follows it then.
#[test]
fn test_leader_transfer_after_snapshot_3a() {
    let mut network = led_by_one();
    network.isolate(3);
    network.send([propose(1, "")]);
    compact(network.node_mut(1));
    network.recover();
    assert_eq!(progress(network.node(1), 3).0, 1);
    let answer = at_term(3, 1, MessageType::MsgHeartbeatResponse, network.node(1).term);
    network.send([transfer(3, 1)]);
    network.send([answer]);
    assert_one(&network, Follower, 3);
    assert_eq!(network.node(3).raft_log.first_index(), 3, "it came by a snapshot");
}

/// 1 is to hand over to itself: it goes on leading.
#[test]
fn test_leader_transfer_to_self_3a() {
    let mut network = led_by_one();
    network.send([transfer(1, 1)]);
    assert_one(&network, Leader, 1);
}

/// 1 is to hand over to 4, which is no member: it goes on leading.
#[test]
fn test_leader_transfer_to_non_existing_node_3a() {
    let mut network = led_by_one();
    network.send([transfer(4, 1)]);
    assert_one(&network, Leader, 1);
}

/// 1 waits to hand over to 3, which cannot be reached; 2 campaigns: 1 follows 2, and hands over to nobody.
///
/// Hint: a new term ends what was under way in the old one.
#[test]
fn test_leader_transfer_receive_higher_term_vote_3a() {
    let mut network = with_a_pending_transfer();
    network.send([hup(2)]);
    assert_one(&network, Follower, 2);
}

/// 1 waits to hand over to 3 and removes it: the transfer ends. It is told again to hand over to 3: it goes
/// on leading. (The course only looks at the second.)
#[test]
fn test_leader_transfer_remove_node_3a() {
    let mut network = with_a_pending_transfer();
    network.node_mut(1).apply_conf_change(&change(RemoveNode, 3)).unwrap();
    assert_one(&network, Leader, 1);
    network.send([transfer(3, 1)]);
    assert_one(&network, Leader, 1);
}

/// 1 waits to hand over to 3, and is told to hand over to itself: it goes on leading, and waits no more.
#[test]
fn test_leader_transfer_back_3a() {
    let mut network = with_a_pending_transfer();
    network.send([transfer(1, 1)]);
    assert_one(&network, Leader, 1);
}

/// 1 waits to hand over to 3, and is told to hand over to 2: it follows 2.
///
/// Hint: the newest wish counts.
#[test]
fn test_leader_transfer_second_transfer_to_another_node_3a() {
    let mut network = with_a_pending_transfer();
    network.send([transfer(2, 1)]);
    assert_one(&network, Follower, 2);
}

/// S4.3. Node 1, which is no member of its group {2, 3, 4}, is told to campaign, and gets votes: it stays a
/// follower.
///
/// Hint: a removed node must not be talked into an election.
#[test]
fn test_transfer_non_member_3a() {
    let mut node = fresh(1, &[2, 3, 4]);
    step(&mut node, message(2, 1, MessageType::MsgTimeoutNow));
    step(&mut node, vote((2, 1), 1, false));
    step(&mut node, vote((3, 1), 1, false));
    assert_eq!((node.state, node.term), (Follower, 1));
    persist(&mut node);
    assert_eq!(node.raft_log.last_index(), 0);
}

/// Handles what is ready until nothing is, as a store would; the changes of membership that were applied.
fn handle_ready(node: &mut RawNode<MemStorage>, disk: &MemStorage) {
    while node.has_ready() {
        let mut ready = node.ready();
        let mut committed = ready.take_committed_entries();
        if let Some(state) = ready.hs() {
            disk.wl().set_hardstate(state.clone());
        }
        disk.wl().append(ready.entries()).unwrap();
        let mut light = node.advance(ready);
        committed.extend(light.take_committed_entries());
        for entry in &committed {
            if entry.get_entry_type() == EntryType::EntryConfChange {
                let change = raftstore::wire::conf_change_from_entry(entry.data.to_vec().into());
                node.apply_conf_change(&change.unwrap()).unwrap();
            }
        }
        node.advance_apply();
    }
}

fn last_entries(disk: &MemStorage, count: u64) -> Vec<Entry> {
    let end = disk.last_index().unwrap() + 1;
    disk.entries(end - count, end, None, GetEntriesContext::empty(false)).unwrap()
}

fn add(node: u64) -> ConfChange {
    let mut change = ConfChange { node_id: node, ..Default::default() };
    change.set_change_type(AddNode);
    change
}

fn change_in(entry: &Entry) -> Option<ConfChange> {
    assert_eq!(entry.get_entry_type(), EntryType::EntryConfChange);
    raftstore::wire::conf_change_from_entry(entry.data.to_vec().into())
}

/// A fresh group of one has nothing ready. It campaigns: the ready says that it leads. Then it is given some
/// data and "add 1": these are the last two entries of its log, the second one a change of membership with
/// that change in it.
#[test]
fn test_raw_node_propose_and_conf_change_3a() {
    let disk = disk(&[1], &[]);
    let mut node = raw_over(1, disk.clone());
    assert!(!node.has_ready());
    node.campaign().unwrap();
    let ready = node.ready();
    let state = ready.ss().unwrap();
    assert_eq!((state.leader_id, state.raft_state), (1, Leader));
    disk.wl().append(ready.entries()).unwrap();
    node.advance(ready);
    node.advance_apply();
    node.propose(Vec::new(), "somedata".into()).unwrap();
    node.propose_conf_change(Vec::new(), add(1)).unwrap();
    handle_ready(&mut node, &disk);
    let entries = last_entries(&disk, 2);
    assert_eq!(&entries[0].data[..], b"somedata");
    assert_eq!(entries[0].get_entry_type(), EntryType::EntryNormal);
    assert_eq!(change_in(&entries[1]), Some(add(1)));
}

/// The leader of a group of one proposes and applies "add 1", again "add 1", and "add 2": these are the last
/// three entries of its log.
///
/// Hint: a change that changes nothing is applied all the same, and must not leave the door closed for the
/// next one.
#[test]
fn test_raw_node_propose_add_duplicate_node_3a() {
    let disk = disk(&[1], &[]);
    let mut node = raw_over(1, disk.clone());
    node.campaign().unwrap();
    handle_ready(&mut node, &disk);
    for member in [1, 1, 2] {
        node.propose_conf_change(Vec::new(), add(member)).unwrap();
        handle_ready(&mut node, &disk);
    }
    let changes: Vec<_> = last_entries(&disk, 3).iter().map(change_in).collect();
    assert_eq!(changes, [1, 1, 2].map(|member| Some(add(member))));
    assert_eq!(voters(&node.raft), [1, 2]);
}

/// Beyond the course: of two changes proposed at once the second becomes an entry without data, in its
/// place.
#[test]
fn a_second_change_becomes_an_empty_entry() {
    let disk = disk(&[1], &[]);
    let mut node = raw_over(1, disk.clone());
    node.campaign().unwrap();
    handle_ready(&mut node, &disk);
    node.propose_conf_change(Vec::new(), add(2)).unwrap();
    node.propose_conf_change(Vec::new(), add(3)).unwrap();
    handle_ready(&mut node, &disk);
    let entries = last_entries(&disk, 2);
    assert_eq!(change_in(&entries[0]), Some(add(2)));
    assert_eq!(entries[1].get_entry_type(), EntryType::EntryNormal);
    assert!(entries[1].data.is_empty());
    assert_eq!(voters(&node.raft), [1, 2]);
}
