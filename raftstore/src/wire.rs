//! The door between our wire types and the `raft` crate's: fields are moved, nothing is decoded.
//!
//! The crate brings types of its own, with a decoder (rust-protobuf) that must not see bytes from a
//! network. So messages cross the wire as [`proto::eraftpb`] and are taken apart here. Every function
//! comes in a pair; the payloads of entries are shared, not copied.
//!
//! One field is missing on the wire: the term of the commit index in votes, with which a voter
//! helps a candidate that still counts a removed leader to move on. Votes do not use `reject_hint`,
//! so it travels there.
//!
//! Left out: election priorities, which nobody here sets.

use proto::eraftpb as wire;
use raft::eraftpb as core;

/// An entry on its way out: to the disk, or to another store.
pub fn entry_to_wire(entry: core::Entry) -> wire::Entry {
    wire::Entry {
        entry_type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
        ..Default::default()
    }
}

/// An entry on its way in. `None` when its type is unknown here.
pub fn entry_from_wire(entry: wire::Entry) -> Option<core::Entry> {
    let entry_type = match wire::EntryType::try_from(entry.entry_type).ok()? {
        wire::EntryType::EntryNormal => core::EntryType::EntryNormal,
        wire::EntryType::EntryConfChange => core::EntryType::EntryConfChange,
        wire::EntryType::EntryConfChangeV2 => core::EntryType::EntryConfChangeV2,
    };
    Some(core::Entry {
        entry_type,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
        ..Default::default()
    })
}

/// Term, vote and commit, on the way out.
pub fn hard_state_to_wire(state: &core::HardState) -> wire::HardState {
    wire::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

/// Term, vote and commit, on the way in.
pub fn hard_state_from_wire(state: &wire::HardState) -> core::HardState {
    core::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..Default::default()
    }
}

/// Who votes and who learns, on the way out.
pub fn conf_state_to_wire(state: core::ConfState) -> wire::ConfState {
    wire::ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
    }
}

/// Who votes and who learns, on the way in.
pub fn conf_state_from_wire(state: wire::ConfState) -> core::ConfState {
    core::ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
        ..Default::default()
    }
}

/// A snapshot's description, on the way out.
pub fn snapshot_to_wire(mut snapshot: core::Snapshot) -> wire::Snapshot {
    let mut metadata = snapshot.take_metadata();
    wire::Snapshot {
        data: snapshot.data,
        metadata: Some(wire::SnapshotMetadata {
            conf_state: Some(conf_state_to_wire(metadata.take_conf_state())),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

/// A snapshot's description, on the way in.
pub fn snapshot_from_wire(snapshot: wire::Snapshot) -> core::Snapshot {
    let metadata = snapshot.metadata.unwrap_or_default();
    let mut moved = core::Snapshot { data: snapshot.data, ..Default::default() };
    let moved_metadata = moved.mut_metadata();
    moved_metadata.index = metadata.index;
    moved_metadata.term = metadata.term;
    moved_metadata.set_conf_state(conf_state_from_wire(metadata.conf_state.unwrap_or_default()));
    moved
}

/// A change of membership as it was written into an entry, on the way in: decoded by prost, since
/// the entry may have come from the network. `None` when it is no such thing.
pub fn conf_change_from_entry(data: bytes::Bytes) -> Option<core::ConfChange> {
    let change: wire::ConfChange = prost::Message::decode(data).ok()?;
    Some(core::ConfChange {
        id: change.id,
        change_type: change_type_from_wire(change.change_type)?,
        node_id: change.node_id,
        context: change.context,
        ..Default::default()
    })
}

/// The same for an entry that changes several members, or leaves a joint membership.
pub fn conf_change_v2_from_entry(data: bytes::Bytes) -> Option<core::ConfChangeV2> {
    let change: wire::ConfChangeV2 = prost::Message::decode(data).ok()?;
    let transition = match wire::ConfChangeTransition::try_from(change.transition).ok()? {
        wire::ConfChangeTransition::Auto => core::ConfChangeTransition::Auto,
        wire::ConfChangeTransition::Implicit => core::ConfChangeTransition::Implicit,
        wire::ConfChangeTransition::Explicit => core::ConfChangeTransition::Explicit,
    };
    let single = |single: wire::ConfChangeSingle| {
        Some(core::ConfChangeSingle {
            change_type: change_type_from_wire(single.change_type)?,
            node_id: single.node_id,
            ..Default::default()
        })
    };
    let changes: Option<Vec<_>> = change.changes.into_iter().map(single).collect();
    Some(core::ConfChangeV2 {
        transition,
        changes: changes?.into(),
        context: change.context,
        ..Default::default()
    })
}

fn change_type_from_wire(number: i32) -> Option<core::ConfChangeType> {
    Some(match wire::ConfChangeType::try_from(number).ok()? {
        wire::ConfChangeType::AddNode => core::ConfChangeType::AddNode,
        wire::ConfChangeType::RemoveNode => core::ConfChangeType::RemoveNode,
        wire::ConfChangeType::AddLearnerNode => core::ConfChangeType::AddLearnerNode,
    })
}

/// A raft message, on the way out.
pub fn message_to_wire(mut message: core::Message) -> wire::Message {
    let reject_hint =
        if is_vote(message.msg_type) { message.commit_term } else { message.reject_hint };
    let snapshot = message.snapshot.take().map(snapshot_to_wire);
    wire::Message {
        msg_type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(entry_to_wire).collect(),
        commit: message.commit,
        snapshot,
        reject: message.reject,
        reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        ..Default::default()
    }
}

/// A raft message, on the way in. `None` when its type, or an entry's, is unknown here. Whether
/// what it says makes sense is for `Group::step` to judge.
pub fn message_from_wire(message: wire::Message) -> Option<core::Message> {
    let msg_type = message_type_from_wire(message.msg_type)?;
    let entries: Option<Vec<_>> = message.entries.into_iter().map(entry_from_wire).collect();
    let (commit_term, reject_hint) =
        if is_vote(msg_type) { (message.reject_hint, 0) } else { (0, message.reject_hint) };
    Some(core::Message {
        msg_type,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries?.into(),
        commit: message.commit,
        commit_term,
        snapshot: message.snapshot.map(snapshot_from_wire).into(),
        reject: message.reject,
        reject_hint,
        context: message.context,
        request_snapshot: message.request_snapshot,
        ..Default::default()
    })
}

fn is_vote(message_type: core::MessageType) -> bool {
    use core::MessageType as Type;
    matches!(
        message_type,
        Type::MsgRequestVote
            | Type::MsgRequestVoteResponse
            | Type::MsgRequestPreVote
            | Type::MsgRequestPreVoteResponse
    )
}

fn message_type_from_wire(number: i32) -> Option<core::MessageType> {
    use core::MessageType as Core;
    use wire::MessageType as Wire;
    Some(match Wire::try_from(number).ok()? {
        Wire::MsgHup => Core::MsgHup,
        Wire::MsgBeat => Core::MsgBeat,
        Wire::MsgPropose => Core::MsgPropose,
        Wire::MsgAppend => Core::MsgAppend,
        Wire::MsgAppendResponse => Core::MsgAppendResponse,
        Wire::MsgRequestVote => Core::MsgRequestVote,
        Wire::MsgRequestVoteResponse => Core::MsgRequestVoteResponse,
        Wire::MsgSnapshot => Core::MsgSnapshot,
        Wire::MsgHeartbeat => Core::MsgHeartbeat,
        Wire::MsgHeartbeatResponse => Core::MsgHeartbeatResponse,
        Wire::MsgUnreachable => Core::MsgUnreachable,
        Wire::MsgSnapStatus => Core::MsgSnapStatus,
        Wire::MsgCheckQuorum => Core::MsgCheckQuorum,
        Wire::MsgTransferLeader => Core::MsgTransferLeader,
        Wire::MsgTimeoutNow => Core::MsgTimeoutNow,
        Wire::MsgReadIndex => Core::MsgReadIndex,
        Wire::MsgReadIndexResp => Core::MsgReadIndexResp,
        Wire::MsgRequestPreVote => Core::MsgRequestPreVote,
        Wire::MsgRequestPreVoteResponse => Core::MsgRequestPreVoteResponse,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_left() {
        let entry = core::Entry {
            entry_type: core::EntryType::EntryConfChange,
            term: 5,
            index: 10,
            data: "data".into(),
            ..Default::default()
        };
        let mut snapshot = core::Snapshot { data: "region".into(), ..Default::default() };
        snapshot.mut_metadata().index = 3;
        snapshot.mut_metadata().term = 2;
        snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2];
        let message = core::Message {
            msg_type: core::MessageType::MsgAppend,
            to: 2,
            from: 1,
            term: 5,
            log_term: 4,
            index: 9,
            commit: 8,
            reject: true,
            reject_hint: 7,
            context: "context".into(),
            entries: vec![entry].into(),
            snapshot: Some(snapshot).into(),
            ..Default::default()
        };
        let back = message_from_wire(message_to_wire(message.clone()));
        assert_eq!(back, Some(message));
    }

    #[test]
    fn a_vote_carries_the_term_of_its_commit() {
        let message = core::Message {
            msg_type: core::MessageType::MsgRequestPreVoteResponse,
            commit: 12,
            commit_term: 5,
            ..Default::default()
        };
        let back = message_from_wire(message_to_wire(message.clone()));
        assert_eq!(back, Some(message));
    }

    #[test]
    fn an_unknown_type_is_no_message() {
        let message = wire::Message { msg_type: 99, ..Default::default() };
        assert_eq!(message_from_wire(message), None);
        let entries = vec![wire::Entry { entry_type: 7, ..Default::default() }];
        let message = wire::Message { msg_type: 3, entries, ..Default::default() };
        assert_eq!(message_from_wire(message), None);
    }
}
