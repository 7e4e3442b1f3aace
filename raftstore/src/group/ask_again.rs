//! Asking again for votes that did not come.
//!
//! ```text
//!  candidate          voter
//!      ├── ask ─────────✗            lost, or the answer is
//!      │   heartbeat interval
//!      ├── ask ─────────►            the same words: a voter that has answered answers the same
//!      │◄──────── vote ─┤
//! ```
//!
//! Raft has a candidate repeat its requests (Raft, §5.1); the consensus library asks once a campaign, so a lost
//! message costs another election timeout. The requests of the last campaign are kept, and said again every
//! heartbeat interval, as long as this member still campaigns in that term.
//!
//! Left out: voters that have answered are asked again too; the library does not show whose answer it has.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole, Storage};

/// The requests of the last campaign.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When they were said last, in ticks.
    at: u64,
    messages: Vec<Message>,
}

impl Asked {
    /// These messages are on their way: keeps those that ask for a vote.
    pub(super) fn note<'a>(&mut self, messages: impl Iterator<Item = &'a Message>, tick: u64) {
        let asks = |message: &&Message| {
            let kind = message.msg_type;
            kind == MessageType::MsgRequestVote || kind == MessageType::MsgRequestPreVote
        };
        let asked: Vec<Message> = messages.filter(asks).cloned().collect();
        if !asked.is_empty() {
            *self = Self { at: tick, messages: asked };
        }
    }

    /// What is to be said again now, if anything.
    pub(super) fn due<S: Storage>(&mut self, raft: &Raft<S>, tick: u64) -> &[Message] {
        let still_asks = self.messages.first().is_some_and(|message| match raft.state {
            StateRole::Candidate => {
                message.msg_type == MessageType::MsgRequestVote && message.term == raft.term
            }
            StateRole::PreCandidate => {
                message.msg_type == MessageType::MsgRequestPreVote && message.term == raft.term + 1
            }
            StateRole::Follower | StateRole::Leader => false,
        });
        if !still_asks {
            self.messages = Vec::new();
        } else if tick < self.at + raft.heartbeat_timeout() as u64 {
            return &[];
        }
        self.at = tick;
        &self.messages
    }
}
