//! Events in words, for a person, and as numbers, for comparing two runs.

use proto::{metapb, raft_serverpb::RaftMessage};
use raftstore::msg::StoreMsg;

use super::dice::{digest, mix};
use super::mail::Carried;
use super::node::Local;
use super::world::Event;

/// An event in words; messages in the house's notation.
pub(super) fn line_of(event: &Event) -> String {
    match event {
        Event::At(store, _, Local::Arrives(message)) => {
            if let StoreMsg::Raft(message) = message.as_ref() {
                format!("s{store} resumes with {}", Words(message))
            } else {
                format!("s{store} <- {message:?}")
            }
        }
        Event::At(store, _, local) => format!("s{store} {local:?}"),
        Event::Deliver(from, to, carried) => match carried.as_ref() {
            Carried::Message(message) => format!("s{from} -> s{to} {}", Words(message)),
            Carried::Encoded(bytes) => format!("s{from} -> s{to} {} bytes", bytes.len()),
            Carried::Snapshot(message, _) => format!("s{from} => s{to} {}", Words(message)),
        },
        Event::Tell(..)
        | Event::Respond(..)
        | Event::Think(_)
        | Event::Deadline(..)
        | Event::Retry(..)
        | Event::Mischief
        | Event::Act(_) => format!("{event:?}"),
    }
}

/// A raft message: `r2.p4@5 -> p6 MsgAppend base=11@5 commit=10 [12@5]`.
pub(crate) struct Words<'a>(pub(crate) &'a RaftMessage);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = |peer: &Option<metapb::Peer>| peer.as_ref().map_or(0, |peer| peer.id);
        let (from, to) = (id(&self.0.from_peer), id(&self.0.to_peer));
        write!(f, "r{}.p{from}", self.0.region_id)?;
        let Some(message) = &self.0.message else {
            return write!(f, " -> p{to} tombstone={} {:?}", self.0.is_tombstone, self.0.extra_msg);
        };
        write!(
            f,
            "@{} -> p{to} {:?} base={}@{} commit={}",
            message.term,
            message.msg_type(),
            message.index,
            message.log_term,
            message.commit
        )?;
        if message.reject {
            write!(f, " rejected hint={}", message.reject_hint)?;
        }
        if let (Some(first), Some(last)) = (message.entries.first(), message.entries.last()) {
            write!(f, " [{}@{}..{}@{}]", first.index, first.term, last.index, last.term)?;
        }
        Ok(())
    }
}

/// What of an event must repeat: its words do, at some cost; these few facts are enough to tell two
/// runs apart soon.
pub(super) fn digest_of(event: &Event) -> u64 {
    let (kind, facts) = match event {
        Event::At(store, life, local) => {
            let kind = match local {
                Local::Tick => 1,
                Local::Round => 2,
                Local::Synced => 3,
                Local::Apply => 4,
                Local::Background => 5,
                Local::Arrives(_) => 6,
                Local::Request(_) => 7,
                Local::Look(_) => 8,
            };
            (kind, [*store, life.unwrap_or(0), 0, 0])
        }
        Event::Deliver(from, to, carried) => {
            let (message, size) = match carried.as_ref() {
                Carried::Message(message) | Carried::Snapshot(message, _) => {
                    let message = message.message.as_ref();
                    (message.map_or(0, |m| m.term ^ (m.index << 20) ^ (m.commit << 40)), 0)
                }
                Carried::Encoded(bytes) => (digest(bytes), bytes.len() as u64),
            };
            (9, [*from, *to, message, size])
        }
        Event::Tell(from, _) => (10, [*from, 0, 0, 0]),
        Event::Respond(from, response) => {
            (11, [*from, response.slot as u64, response.attempt, response.result.is_ok().into()])
        }
        Event::Think(slot) => (12, [*slot as u64, 0, 0, 0]),
        Event::Deadline(slot, call) => (13, [*slot as u64, *call, 0, 0]),
        Event::Retry(slot, attempt) => (14, [*slot as u64, *attempt, 0, 0]),
        Event::Mischief => (15, [0; 4]),
        Event::Act(act) => (16, [digest(format!("{act:?}").as_bytes()), 0, 0, 0]),
    };
    facts.iter().fold(kind, |hash, fact| mix(hash ^ fact))
}
