//! Events in words, for a person, and as numbers, for comparing two runs.

#![allow(clippy::wildcard_enum_match_arm, reason = "an observer looks for some kinds among many")]

use prost::Message as _;
use proto::{RegionId, metapb, pdpb, raft_serverpb::RaftMessage, region};
use raftstore::effects::Report;
use raftstore::msg::StoreMsg;

use super::dice::{digest, mix};
use super::mail::Carried;
use super::node::Local;
use super::world::Event;

/// An event in words; messages in the house's notation.
pub(super) fn line_of(event: &Event) -> String {
    match event {
        Event::At(store, _, Local::Arrives(message)) => match message.as_ref() {
            StoreMsg::Raft(message) => format!("-> s{store} {}", Words(message)),
            StoreMsg::Order(order) => {
                format!("order -> s{store} {} {}", RegionId(order.region_id), Order(order))
            }
            other => format!("s{store} <- {other:?}"),
        },
        Event::At(store, _, Local::Request(request)) => {
            let (key, call) = (request.key, request.call);
            format!("c{} -> s{store} {} k{key} {call:?}", request.slot, RegionId(request.region.id))
        }
        Event::At(store, _, Local::Look(_)) => {
            format!("s{store} looks whether a read may be served")
        }
        Event::At(store, _, Local::TxnCall(call)) => {
            format!("w{} -> s{store} {:?}", call.id, call.command)
        }
        Event::At(store, _, Local::TxnLook(_)) => {
            format!("s{store} looks whether a transaction's view may be served")
        }
        Event::At(store, _, local) => format!("s{store} {local:?}"),
        Event::Deliver(from, to, carried) => match carried.as_ref() {
            Carried::Message(message) => format!("s{from} {} s{to}", Words(message)),
            Carried::Encoded(bytes) => match RaftMessage::decode(&bytes[..]) {
                Ok(message) => format!("s{from} {} s{to}", Words(&message)),
                Err(_) => format!("s{from} -> s{to} {} bytes", bytes.len()),
            },
            Carried::Snapshot(message, _) => format!("s{from} {} s{to} with data", Words(message)),
        },
        Event::Respond(from, response) => {
            format!("s{from} -> c{} {:?}", response.slot, response.result)
        }
        Event::Tell(from, report) => match report.as_ref() {
            Report::RegionHeartbeat(heartbeat) => match &heartbeat.region {
                Some(region) => format!("s{from} reports {}", region::Readable(region)),
                None => format!("s{from} reports nothing"),
            },
            other => format!("s{from} reports {other:?}"),
        },
        Event::Act(number, act) => format!("mischief {number}: {act:?}"),
        Event::Txn(event) => format!("{event:?}"),
        Event::Think(_) | Event::Deadline(..) | Event::Retry(..) | Event::Mischief => {
            format!("{event:?}")
        }
    }
}

/// A message that does not arrive: `s1 r2.p4@5 -x s2 …`.
pub(crate) fn lost(from: u64, to: u64, message: &RaftMessage) -> String {
    format!("s{from} {} s{to}", Words(message)).replacen(" -> ", " -x ", 1)
}

/// `s1 r2 follower => leader@6`.
pub(super) fn becomes(store: u64, of: &metapb::Region, term: u64, is_leader: bool) -> String {
    let (was, is) = if is_leader { ("follower", "leader") } else { ("leader", "follower") };
    format!("s{store} {} {was} => {is}@{term}; {}", RegionId(of.id), region::Readable(of))
}

/// A raft message: `r2.p4@5 -> p6 MsgAppend base=11@5 commit=10 [12@5]`.
pub struct Words<'a>(pub &'a RaftMessage);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = |peer: &Option<metapb::Peer>| peer.as_ref().map_or(0, |peer| peer.id);
        let (from, to) = (id(&self.0.from_peer), id(&self.0.to_peer));
        write!(f, "r{}.p{from}", self.0.region_id)?;
        let Some(message) = &self.0.message else {
            let extra = self.0.extra_msg.as_ref().map(|extra| extra.r#type());
            return write!(f, " -> p{to} tombstone={} {extra:?}", self.0.is_tombstone);
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

/// What the scheduler wants.
struct Order<'a>(&'a pdpb::RegionHeartbeatResponse);

impl std::fmt::Display for Order<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let several = self.0.change_peer_v2.iter().flat_map(|v2| &v2.changes);
        for change in self.0.change_peer.iter().chain(several) {
            let peer = change.peer.unwrap_or_default();
            write!(f, "{:?} p{}@s{} ", change.change_type(), peer.id, peer.store_id)?;
        }
        if self.0.change_peer_v2.as_ref().is_some_and(|v2| v2.changes.is_empty()) {
            f.write_str("leave joint ")?;
        }
        if let Some(transfer) = &self.0.transfer_leader {
            write!(f, "transfer to p{}", transfer.peer.unwrap_or_default().id)?;
        }
        if let Some(split) = &self.0.split_region {
            write!(f, "split at {:?}", split.keys)?;
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
                Local::TxnCall(_) => 17,
                Local::TxnLook(_) => 18,
                Local::Timestamp(..) => 19,
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
        Event::Txn(event) => (20, [event.digest(), 0, 0, 0]),
        Event::Act(_, act) => (16, [digest(format!("{act:?}").as_bytes()), 0, 0, 0]),
    };
    facts.iter().fold(kind, |hash, fact| mix(hash ^ fact))
}
