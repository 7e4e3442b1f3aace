//! A node, its disk in memory, and how its log reads.

use std::fmt::Write as _;

use ::raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use ::raft::storage::MemStorage;
use ::raft::{Config, NO_LIMIT, Raft, RawNode, StateRole};
use slog::Logger;

use super::messages::{accept, propose};

/// A node that is stepped by hand.
pub type Node = Raft<MemStorage>;

/// Ticks without a leader before a follower campaigns; at most twice as many less one.
pub const ELECTION: usize = 10;
/// Ticks between two heartbeats.
pub const HEARTBEAT: usize = 1;

fn config(id: u64, election: usize) -> Config {
    Config {
        id,
        election_tick: election,
        heartbeat_tick: HEARTBEAT,
        max_size_per_msg: NO_LIMIT,
        ..Config::default()
    }
}

fn silent() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

/// A disk that holds these entries, for a node that knows these voters.
pub fn disk(voters: &[u64], entries: &[Entry]) -> MemStorage {
    let storage = MemStorage::new();
    storage.wl().set_conf_state(ConfState { voters: voters.to_vec(), ..Default::default() });
    storage.wl().append(entries).expect("memory does not fail");
    storage
}

/// A node over a disk, with an election timeout of its own.
pub fn over(id: u64, election: usize, disk: MemStorage) -> Node {
    Raft::new(&config(id, election), disk, &silent()).expect("the settings are sound")
}

/// A raw node over a disk.
pub fn raw_over(id: u64, disk: MemStorage) -> RawNode<MemStorage> {
    RawNode::new(&config(id, ELECTION), disk, &silent()).expect("the settings are sound")
}

/// A fresh node with an empty disk.
pub fn fresh(id: u64, voters: &[u64]) -> Node {
    over(id, ELECTION, disk(voters, &[]))
}

/// A node that starts with a log and this on its disk: term, vote, commit.
pub fn restarted(
    id: u64,
    voters: &[u64],
    entries: &[Entry],
    (term, vote, commit): (u64, u64, u64),
) -> Node {
    let disk = disk(voters, entries);
    let state = HardState { term, vote, commit, ..Default::default() };
    disk.wl().set_hardstate(state);
    over(id, ELECTION, disk)
}

/// Puts a node into a role, as if by events that left no messages: a follower of nobody in term 1, a
/// candidate or a leader in the next term.
pub fn put_into_role(node: &mut Node, role: StateRole) {
    match role {
        StateRole::Follower => node.become_follower(1, 0),
        StateRole::Candidate => node.become_candidate(),
        StateRole::Leader => {
            node.become_candidate();
            node.become_leader();
        }
        StateRole::PreCandidate => node.become_pre_candidate(),
    }
}

/// Node 1 of `1..=size`, leading in term 1 with its first entry committed, applied and known to all.
pub fn settled_leader(size: u64) -> Node {
    let voters: Vec<u64> = (1..=size).collect();
    let mut node = fresh(1, &voters);
    put_into_role(&mut node, StateRole::Leader);
    node.bcast_append();
    persist(&mut node);
    for message in take_messages(&mut node) {
        assert_eq!(message.entries.len(), 1, "a new leader sends its first entry");
        assert!(message.entries[0].data.is_empty(), "which has no data");
        step(&mut node, accept(&message));
    }
    take_messages(&mut node);
    let committed = node.raft_log.committed;
    assert_eq!(committed, node.raft_log.last_index());
    node.commit_apply(committed);
    node
}

/// Gives a node a message it must not refuse.
pub fn step(node: &mut Node, message: Message) {
    let words = format!("{message:?}");
    node.step(message).unwrap_or_else(|error| panic!("{error}: {words}"));
}

/// A proposal that the node must take.
pub fn step_proposal(node: &mut Node, data: &str) {
    let id = node.id;
    step(node, propose(id, data));
}

/// What a node wants to send, in the order of the receivers.
pub fn take_messages(node: &mut Node) -> Vec<Message> {
    let mut messages = std::mem::take(&mut node.msgs);
    messages.sort_by_key(|message| message.to);
    messages
}

/// The only message that a node wants to send.
pub fn only_message(node: &mut Node, kind: MessageType) -> Message {
    let mut messages = take_messages(node);
    assert_eq!(messages.len(), 1, "one message is expected: {messages:?}");
    assert_eq!(messages[0].get_msg_type(), kind);
    messages.remove(0)
}

/// Writes to the disk what is not there yet, and tells the node so.
pub fn persist(node: &mut Node) {
    if let Some(snapshot) = node.raft_log.unstable_snapshot().clone() {
        let index = snapshot.get_metadata().index;
        node.raft_log.store.wl().apply_snapshot(snapshot).expect("memory does not fail");
        node.raft_log.stable_snap(index);
        node.on_persist_snap(index);
        node.commit_apply(index);
    }
    let entries = node.raft_log.unstable_entries().to_vec();
    if let Some(last) = entries.last() {
        node.raft_log.store.wl().append(&entries).expect("memory does not fail");
        node.raft_log.stable_entries(last.index, last.term);
        node.on_persist_entries(last.index, last.term);
    }
}

/// Persists, and takes what is committed and was not taken before.
pub fn take_committed(node: &mut Node) -> Vec<Entry> {
    persist(node);
    let entries = node.raft_log.next_entries(None).unwrap_or_default();
    if let Some(last) = entries.last() {
        node.commit_apply(last.index);
    }
    entries
}

/// Applies everything and forgets the log up to there, behind a snapshot.
pub fn compact(node: &mut Node) {
    take_committed(node);
    let applied = node.raft_log.applied;
    let state = node.prs().conf().to_conf_state();
    let mut disk = node.raft_log.store.wl();
    disk.commit_to_and_set_conf_states(applied, Some(state)).expect("applied entries are there");
    disk.compact(applied).expect("memory does not fail");
}

/// Ticks until something is to be sent; how many ticks that took.
pub fn tick_until_it_speaks(node: &mut Node) -> usize {
    for ticks in 1..=2 * node.election_timeout() {
        node.tick();
        if !node.msgs.is_empty() {
            return ticks;
        }
    }
    panic!("an election begins before two timeouts are over");
}

/// The voters that a node knows, sorted.
pub fn voters(node: &Node) -> Vec<u64> {
    let mut voters = node.prs().conf().to_conf_state().voters;
    voters.sort_unstable();
    voters
}

/// How far a leader believes a follower's log to equal its own, and what it sends next.
pub fn progress(node: &Node, of: u64) -> (u64, u64) {
    let progress = node.prs().get(of).expect("a member has a progress");
    (progress.matched, progress.next_idx)
}

/// The terms of a node's log, from its first index.
pub fn terms(node: &Node) -> Vec<u64> {
    node.raft_log.all_entries().iter().map(|entry| entry.term).collect()
}

/// A log in words, to compare two: `committed 2, applied 1: 1@1 2@1 "data"`.
pub fn log_in_words(node: &Node) -> String {
    let log = &node.raft_log;
    let mut words = format!("committed {}, applied {}:", log.committed, log.applied);
    for entry in log.all_entries() {
        let Entry { index, term, data, .. } = &entry;
        write!(words, " {index}@{term}").expect("a string takes everything");
        if !data.is_empty() {
            write!(words, " {:?}", String::from_utf8_lossy(data)).expect("as above");
        }
    }
    words
}
