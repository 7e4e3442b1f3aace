//! Rare things that are seen on the wire, and in the answers that clients get.

#![allow(clippy::wildcard_enum_match_arm, reason = "an observer looks for some kinds among many")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proto::raft_serverpb::{ExtraMessageType, RaftMessage};
use proto::{RegionId, eraftpb};
use raftstore::effects::Report;

use super::clients::Response;
use super::events::{Instant, MILLISECOND};
use super::probes::Probe;
use super::world::World;

/// A leader that still leads so long after it called another to campaign has given the transfer up.
const TRANSFER_OVER: Instant = 700 * MILLISECOND;

/// What is remembered from one message to a later one.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Calls to campaign, by region and term of the leader.
    called: BTreeMap<(u64, u64), Instant>,
    /// Stores that stand still, and since when.
    paused: BTreeMap<u64, Instant>,
}

/// "Will you lead?", in the context of a `MsgTransferLeader`.
const OFFER: &[u8] = &[2];

impl World {
    /// A store sends a message.
    pub(super) fn see_sent(&mut self, from: u64, message: &RaftMessage) {
        let asks_whether_stale = message
            .extra_msg
            .as_ref()
            .is_some_and(|extra| extra.r#type() == ExtraMessageType::MsgCheckStalePeer);
        if asks_whether_stale {
            self.judges.saw(Probe::StaleAsks);
        }
        let Some(inner) = &message.message else { return };
        let now = self.events.now();
        let key = (message.region_id, inner.term);
        match inner.msg_type() {
            eraftpb::MessageType::MsgTransferLeader if inner.context == OFFER => {
                self.judges.saw(Probe::TransferOffered);
            }
            eraftpb::MessageType::MsgTimeoutNow => {
                self.judges.saw(Probe::TransferCalled);
                self.sightings.called.insert(key, now);
            }
            eraftpb::MessageType::MsgHeartbeat => {
                if let Entry::Occupied(called) = self.sightings.called.entry(key)
                    && now - called.get() > TRANSFER_OVER
                {
                    called.remove();
                    self.judges.saw(Probe::TransferAborted);
                }
            }
            eraftpb::MessageType::MsgRequestVoteResponse
            | eraftpb::MessageType::MsgRequestPreVoteResponse
                if inner.reject && inner.commit > 0 =>
            {
                let views = self.nodes.get(&from).and_then(|node| node.views());
                if views.is_some_and(|views| views.by_id(RegionId(message.region_id)).is_none()) {
                    self.judges.saw(Probe::DeadAnswers);
                }
            }
            _ => {}
        }
    }

    /// A store reports.
    pub(super) fn see_report(&mut self, report: &Report) {
        if let Report::LeaderChanged { is_leader: true, .. } = report
            && self.network.has_cuts()
        {
            self.judges.saw(Probe::ElectionUnderPartition);
        }
    }

    /// A client is answered.
    pub(super) fn see_response(&mut self, response: &Response) {
        match &response.result {
            Err(proto::Refusal::StaleCommand) => self.judges.saw(Probe::ReplacedAnswered),
            Err(proto::Refusal::UndeterminedResult { message }) => {
                let probe = if message.starts_with("leadership") {
                    Probe::UnknownByDeposed
                } else if message.starts_with("a snapshot") {
                    Probe::UnknownBySnapshot
                } else {
                    Probe::UnknownByRemoval
                };
                self.judges.saw(probe);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// A store begins to stand still.
    pub(super) fn see_pause(&mut self, store: u64) {
        let node = &self.nodes[&store];
        let leads = node.views().is_some_and(|views| views.all().iter().any(|view| view.is_leader));
        if leads {
            self.sightings.paused.insert(store, self.events.now());
        }
    }

    /// It goes on, or is gone.
    pub(super) fn see_resume(&mut self, store: u64) {
        let lease = self.nodes[&store].lease_micros();
        let since = self.sightings.paused.remove(&store);
        if since.is_some_and(|since| self.events.now() - since > lease) {
            self.judges.saw(Probe::LeaderPaused);
        }
    }
}
