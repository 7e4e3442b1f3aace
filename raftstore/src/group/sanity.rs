//! What an honest peer never says, and the raft crate would panic on.
//!
//! Whoever can reach a store's port can send it raft messages. What follows is checked before a
//! message reaches raft; a message that fails is dropped, which raft is made for. A peer that lies
//! within these bounds can still hurt its own group: authentication is the transport's.

use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{RawNode, StateRole, Storage};

/// Terms and indexes beyond this are made up; below it, no sum in raft overflows.
///
/// Whoever makes one up likes powers of two and of ten. A group that was led to believe in the largest
/// allowed term could never vote again, as the next one is not allowed; so the limit is as far from such
/// numbers as can be.
const NUMBER_MAX: u64 = 3 << 54;

/// Contexts of reads and heartbeats are ours and short.
const CONTEXT_BYTES_MAX: usize = 64;

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsound message: {0}")]
pub struct Unsound(pub(super) &'static str);

/// Whether raft may see this message.
pub(super) fn check<S: Storage>(node: &RawNode<S>, message: &Message) -> Result<(), Unsound> {
    let raft = &node.raft;
    if message.to != raft.id || message.from == raft.id || message.from == raft::INVALID_ID {
        return Err(Unsound("wrong address"));
    }
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    if numbers.iter().any(|number| *number > NUMBER_MAX) {
        return Err(Unsound("number out of range"));
    }
    // Only a read request travels without a term; elsewhere no term means "from myself".
    if (message.term == 0) != (message.msg_type == MessageType::MsgReadIndex) {
        return Err(Unsound("term"));
    }
    let last_index = raft.raft_log.last_index();
    let is_current = message.term >= raft.term;
    match message.msg_type {
        MessageType::MsgAppend => check_append(message),
        // An acknowledgement beyond the leader's log would count towards commits for ever.
        MessageType::MsgAppendResponse
            if message.term == raft.term
                && raft.state == StateRole::Leader
                && !message.reject
                && message.index > last_index =>
        {
            Err(Unsound("acknowledges what was never sent"))
        }
        MessageType::MsgAppendResponse if message.request_snapshot != 0 => {
            Err(Unsound("asks for a snapshot, which nobody here does"))
        }
        // A leader tells each follower at most the commit that it knows the follower to have.
        MessageType::MsgHeartbeat if is_current && message.commit > last_index => {
            Err(Unsound("commits what is not there"))
        }
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse
            if message.context.len() > CONTEXT_BYTES_MAX =>
        {
            Err(Unsound("long context"))
        }
        MessageType::MsgReadIndex if raft.state != StateRole::Leader => {
            Err(Unsound("asks a follower for a read index"))
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => match message.entries.as_ref()
        {
            [entry] if entry.data.len() <= CONTEXT_BYTES_MAX => Ok(()),
            _ => Err(Unsound("a read index without a context")),
        },
        MessageType::MsgSnapshot => check_snapshot(message),
        MessageType::MsgTimeoutNow if raft.prs().get(message.from).is_none() => {
            Err(Unsound("a stranger calls to campaign"))
        }
        MessageType::MsgAppendResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Local to a member, or forwarded by a follower, which ours do not do.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Err(Unsound("not for the network")),
    }
}

/// Entries follow each other and the entry before them, in index and in term.
fn check_append(message: &Message) -> Result<(), Unsound> {
    let mut previous = (message.index, message.log_term);
    for entry in message.entries.iter() {
        if entry.index != previous.0 + 1 || entry.term < previous.1 || entry.term > message.term {
            return Err(Unsound("entries do not follow each other"));
        }
        previous = (entry.index, entry.term);
    }
    Ok(())
}

/// The membership in a snapshot has voters, and nobody twice.
fn check_snapshot(message: &Message) -> Result<(), Unsound> {
    let metadata = message.get_snapshot().get_metadata();
    let members = metadata.get_conf_state();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err(Unsound("a snapshot of nothing"));
    }
    if metadata.index > NUMBER_MAX {
        return Err(Unsound("number out of range"));
    }
    if !is_possible(members) {
        return Err(Unsound("an impossible membership"));
    }
    Ok(())
}

/// Whether raft can have come to this membership: in a joint one who is to lose the vote still has it in
/// the old half, and everybody else is in one place only.
fn is_possible(members: &ConfState) -> bool {
    let (new, old) = (&members.voters, &members.voters_outgoing);
    let is_sound = |ids: &[u64]| {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len() == ids.len() && sorted.first() != Some(&0)
    };
    let all = [new, old, &members.learners, &members.learners_next];
    let votes = |id: &u64| new.contains(id) || old.contains(id);
    !new.is_empty()
        && !members.auto_leave
        && all.into_iter().all(|ids| is_sound(ids))
        && !members.learners.iter().any(votes)
        && members.learners_next.iter().all(|id| old.contains(id) && !new.contains(id))
}

#[cfg(test)]
mod tests {
    use proto::{PeerId, RegionId};
    use raft::eraftpb::{Entry, Snapshot};

    use crate::config::Config;
    use crate::engine::memory::MemoryLog;
    use crate::group::{Group, GroupSettings};
    use crate::storage::FIRST_POSITION;
    use crate::storage::group_log::GroupLog;

    use super::*;

    /// Member 1 of 1, 2 and 3, whose log ends at 5@5.
    fn follower() -> Group<MemoryLog> {
        let members = ConfState::from((vec![1, 2, 3], vec![]));
        let (engine, group) = (MemoryLog::new(), RegionId(1));
        let log = GroupLog::open(engine, group, members, FIRST_POSITION, 1 << 20).unwrap();
        let settings = GroupSettings::from(&Config::default());
        Group::new(PeerId(1), log, FIRST_POSITION.index, &settings).unwrap()
    }

    fn message(msg_type: MessageType) -> Message {
        Message { msg_type, from: 2, to: 1, term: 5, ..Default::default() }
    }

    fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
        let entry =
            |(index, term): &(u64, u64)| Entry { index: *index, term: *term, ..Default::default() };
        positions.iter().map(entry).collect()
    }

    fn append(positions: &[(u64, u64)]) -> Message {
        let entries = entries(positions).into();
        Message { index: 5, log_term: 5, entries, ..message(MessageType::MsgAppend) }
    }

    fn snapshot(voters: Vec<u64>, learners: Vec<u64>) -> Message {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().term = 5;
        snapshot.mut_metadata().set_conf_state(ConfState::from((voters, learners)));
        Message { snapshot: Some(snapshot).into(), ..message(MessageType::MsgSnapshot) }
    }

    /// A snapshot of 1 and 2 voting, on the way from 1 and 3.
    fn joint_snapshot(spoil: impl FnOnce(&mut ConfState)) -> Message {
        let mut message = snapshot(vec![1, 2], vec![4]);
        let members = message.mut_snapshot().mut_metadata().mut_conf_state();
        members.voters_outgoing = vec![1, 3];
        members.learners_next = vec![3];
        spoil(members);
        message
    }

    fn check(message: Message) -> Result<(), &'static str> {
        follower().step(message).map_err(|Unsound(why)| why)
    }

    #[test]
    fn what_an_honest_peer_says_is_heard() {
        let sound = [
            append(&[]),
            append(&[(6, 5), (7, 5)]),
            Message { commit: 5, ..message(MessageType::MsgHeartbeat) },
            message(MessageType::MsgRequestVote),
            message(MessageType::MsgAppendResponse),
            snapshot(vec![1, 2], vec![3]),
            joint_snapshot(|_| {}),
        ];
        for message in sound {
            assert_eq!(check(message.clone()), Ok(()), "{message:?}");
        }
    }

    #[test]
    fn what_raft_would_panic_on_is_not() {
        let heartbeat = || message(MessageType::MsgHeartbeat);
        let read = |count: usize| {
            let entries = vec![Entry::default(); count].into();
            let msg_type = MessageType::MsgReadIndexResp;
            Message { entries, ..message(msg_type) }
        };
        let unsound = [
            (Message { to: 3, ..heartbeat() }, "wrong address"),
            (Message { from: 1, ..heartbeat() }, "wrong address"),
            (Message { term: u64::MAX, ..heartbeat() }, "number out of range"),
            (Message { term: 1 << 56, ..heartbeat() }, "number out of range"),
            (Message { term: 0, ..heartbeat() }, "term"),
            (Message { commit: 6, ..heartbeat() }, "commits what is not there"),
            (append(&[(7, 5)]), "entries do not follow each other"),
            (append(&[(6, 4)]), "entries do not follow each other"),
            (append(&[(6, 6)]), "entries do not follow each other"),
            (read(0), "a read index without a context"),
            (read(2), "a read index without a context"),
            (
                Message { term: 0, ..message(MessageType::MsgReadIndex) },
                "asks a follower for a read index",
            ),
            (snapshot(vec![], vec![1]), "an impossible membership"),
            (snapshot(vec![1, 1], vec![]), "an impossible membership"),
            (snapshot(vec![1, 2], vec![2]), "an impossible membership"),
            (joint_snapshot(|members| members.learners_next = vec![2]), "an impossible membership"),
            (joint_snapshot(|members| members.learners_next = vec![9]), "an impossible membership"),
            (joint_snapshot(|members| members.learners = vec![3]), "an impossible membership"),
            (
                joint_snapshot(|members| members.voters_outgoing = vec![3, 3]),
                "an impossible membership",
            ),
            (joint_snapshot(|members| members.auto_leave = true), "an impossible membership"),
            (
                Message { from: 9, ..message(MessageType::MsgTimeoutNow) },
                "a stranger calls to campaign",
            ),
            (message(MessageType::MsgHup), "not for the network"),
            (message(MessageType::MsgPropose), "not for the network"),
        ];
        for (message, why) in unsound {
            assert_eq!(check(message.clone()), Err(why), "{message:?}");
        }
    }
}
