//! Messages, entries and snapshots in a few words.

use ::raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType,
    Snapshot,
};
use prost::Message as _;

/// A message with nothing in it but its kind and ends.
pub fn message(from: u64, to: u64, kind: MessageType) -> Message {
    let mut message = Message { from, to, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// A message of a term.
pub fn at_term(from: u64, to: u64, kind: MessageType, term: u64) -> Message {
    Message { term, ..message(from, to, kind) }
}

/// "Start an election", said to a node by itself.
pub fn hup(node: u64) -> Message {
    message(node, node, MessageType::MsgHup)
}

/// "Send your heartbeats", said to a leader by itself.
pub fn beat(node: u64) -> Message {
    message(node, node, MessageType::MsgBeat)
}

/// A proposal given to a node.
pub fn propose(node: u64, data: &str) -> Message {
    propose_entry(node, Entry { data: data.to_owned().into(), ..Default::default() })
}

/// A proposal to change the members, given to a node.
pub fn propose_change(node: u64, kind: ConfChangeType, member: u64) -> Message {
    let change = proto::eraftpb::ConfChange {
        change_type: kind as i32,
        node_id: member,
        ..Default::default()
    };
    let mut entry = Entry { data: change.encode_to_vec().into(), ..Default::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    propose_entry(node, entry)
}

fn propose_entry(node: u64, entry: Entry) -> Message {
    let mut message = message(node, node, MessageType::MsgPropose);
    message.set_entries(vec![entry].into());
    message
}

/// An append: entries that follow `prev_index@prev_term`, and how far the leader has committed.
pub fn append(
    (from, to): (u64, u64),
    term: u64,
    (prev_index, prev_term): (u64, u64),
    commit: u64,
    entries: &[Entry],
) -> Message {
    let mut message = at_term(from, to, MessageType::MsgAppend, term);
    message.index = prev_index;
    message.log_term = prev_term;
    message.commit = commit;
    message.set_entries(entries.to_vec().into());
    message
}

/// What a follower answers that took everything.
pub fn accept(append: &Message) -> Message {
    assert_eq!(append.get_msg_type(), MessageType::MsgAppend, "only an append can be accepted");
    let mut answer = at_term(append.to, append.from, MessageType::MsgAppendResponse, append.term);
    answer.index = append.index + append.entries.len() as u64;
    answer
}

/// A vote asked for, by a candidate whose log ends at `last_index@last_term`.
pub fn vote_request(
    (from, to): (u64, u64),
    term: u64,
    (last_index, last_term): (u64, u64),
) -> Message {
    let mut message = at_term(from, to, MessageType::MsgRequestVote, term);
    message.index = last_index;
    message.log_term = last_term;
    message
}

/// A vote given or refused.
pub fn vote((from, to): (u64, u64), term: u64, reject: bool) -> Message {
    Message { reject, ..at_term(from, to, MessageType::MsgRequestVoteResponse, term) }
}

/// A wish that a node should lead, given to some node. (`from` names the new leader.)
pub fn transfer(new_leader: u64, to: u64) -> Message {
    message(new_leader, to, MessageType::MsgTransferLeader)
}

/// An entry without data.
pub fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, ..Default::default() }
}

/// An entry with data.
pub fn data(index: u64, term: u64, data: &str) -> Entry {
    Entry { data: data.to_owned().into(), ..entry(index, term) }
}

/// A log of entries without data, one for each term, from index 1.
pub fn log(terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(1..).map(|(term, index)| entry(index, *term)).collect()
}

/// A snapshot of nothing but its position and members.
pub fn snapshot(index: u64, term: u64, voters: &[u64]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = index;
    metadata.term = term;
    metadata.mut_conf_state().voters = voters.to_vec();
    snapshot
}

/// A snapshot on its way.
pub fn snapshot_message((from, to): (u64, u64), term: u64, snapshot: Snapshot) -> Message {
    let mut message = at_term(from, to, MessageType::MsgSnapshot, term);
    message.set_snapshot(snapshot);
    message
}

/// One change of membership, as it is applied.
pub fn change(kind: ConfChangeType, member: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: member, ..Default::default() };
    single.set_change_type(kind);
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}
