//! What came for a peer and is not stepped yet.
//!
//! The store looks at each message in the order in which they come. What concerns one peer only goes into
//! that peer's mail; the peer reads it at its turn, on whichever lane that is (`store/turns.rs`). What
//! concerns more than one, or the maps, the store does itself, and before it does, mail that it might
//! depend on is read. So each peer sees what it would see if everything were done at once.
//!
//! | asked at the door, by the store | asked at the turn, by the peer |
//! |---|---|
//! | is there such a peer, is the message for it, may the request enter | everything else |
//!
//! Both may be apart because nothing in the mail changes what is asked at the door: the region, the phase,
//! and what the peer has published change at a flush, or by the store's own hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{PeerId, metapb, pdpb, raft_serverpb::RaftMessage, region};
use raft::eraftpb::{Message, MessageType};

use super::{Peer, Phase, Round};
use crate::engine::{LogEngine, RangeSize, WriteBatch};
use crate::msg::{Answer, GeneratedSnapshot, Now, Reply, ReplyId, Target};
use crate::operation::heartbeat::is_current;
use crate::operation::split_keys::SplitSearch;
use crate::operation::transfer_leader::wanted;
use crate::plant::Bug;
use crate::storage::group_log::Position;
use crate::wire;

/// Messages for a peer, with the moments at which they came. Bounded by the messages of a round: each
/// flush reads all mail.
pub(crate) type Mail = Vec<(Now, PeerMsg)>;

/// Something happened that concerns one peer only. But for the last two each is a
/// [`StoreMsg`](crate::msg::StoreMsg) that has passed the door.
#[derive(Debug)]
pub(crate) enum PeerMsg {
    /// A caller wants to write, and was admitted.
    Write { target: Target, batch: WriteBatch, reply: ReplyId },
    /// A caller wants a barrier, and was admitted.
    ReadBarrier { target: Target, reply: ReplyId },
    /// A caller wants a split, and was admitted.
    Split { keys: Vec<Bytes>, reply: Option<ReplyId>, ask: u64 },
    /// The scheduler wants something.
    Order { order: Box<pdpb::RegionHeartbeatResponse>, ask: u64 },
    /// Another member of the group speaks, and its envelope is in order.
    Raft(Box<RaftMessage>),
    /// A snapshot is sent, or is not.
    SnapshotSent { to: PeerId, ok: bool },
    /// A snapshot was made, or could not be.
    SnapshotGenerated { peer_id: PeerId, to: PeerId, generated: Option<Box<GeneratedSnapshot>> },
    /// The scheduler gave ids, or gave none.
    SplitIds { ask: u64, ids: Option<Vec<pdpb::SplitId>> },
    /// The shell has saved what it keeps in memory: another may lead.
    HandOver { term: u64, to: PeerId },
    /// A look for split keys is done.
    SplitKeysFound { epoch: metapb::RegionEpoch, keys: Vec<Bytes>, size: RangeSize, ask: u64 },
    /// Readies up to this one are durable.
    Persisted { number: u64 },
    /// Entries were applied, and changed nothing but data.
    Applied(AppliedData),
}

/// What applying came to, as far as the peer alone is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppliedData {
    /// Applied up to here.
    pub(crate) at: Position,
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    /// A cut of the log that was agreed to, and the sync it waits for.
    pub(crate) cut: Option<(Position, u64)>,
}

impl<L: LogEngine> Peer<L> {
    /// Reads all mail.
    pub(crate) fn read_mail(&mut self, round: &mut Round<'_>) {
        for (now, message) in std::mem::take(&mut self.mail) {
            let effects = &mut *round.effects;
            self.read(message, &mut Round { config: round.config, now, effects });
        }
    }

    fn read(&mut self, message: PeerMsg, round: &mut Round<'_>) {
        match message {
            PeerMsg::Write { target, batch, reply } => self.add_write(target, batch, reply, round),
            PeerMsg::ReadBarrier { target, reply } => self.add_read(&target, reply, round),
            PeerMsg::Split { keys, reply, ask } => self.ask_split(keys, reply, ask, round),
            PeerMsg::Order { order, ask } => self.on_order(*order, ask, round),
            PeerMsg::Raft(message) => {
                if let Some((from, inner)) = self.opened(*message) {
                    self.step(from, inner, round);
                }
            }
            PeerMsg::SnapshotSent { to, ok } => self.on_snapshot_sent(to, ok),
            PeerMsg::SnapshotGenerated { peer_id, to, generated } => {
                if self.id() == peer_id {
                    self.on_snapshot_generated(to, generated);
                }
            }
            PeerMsg::SplitIds { ask, ids } => self.on_split_ids(ask, ids, round),
            PeerMsg::HandOver { term, to } => self.on_saved(term, to, round),
            PeerMsg::SplitKeysFound { epoch, keys, size, ask } => {
                if self.on_split_keys(&epoch, size) && !keys.is_empty() {
                    self.ask_split(keys, None, ask, round);
                }
            }
            PeerMsg::Persisted { number } => self.on_persisted(number),
            PeerMsg::Applied(applied) => {
                self.log_use.cut = applied.cut.or(self.log_use.cut.take());
                self.on_applied(applied, BTreeMap::new(), round);
                self.go_on(round);
            }
        }
    }

    /// Another member of the group speaks, or seems to: who, and what, if it is listened to.
    pub(crate) fn opened(&self, message: RaftMessage) -> Option<(metapb::Peer, Message)> {
        let inner = message.message.and_then(wire::message_from_wire)?;
        let from = message.from_peer?;
        // A snapshot comes on its own stream, with its data.
        let is_snapshot = inner.msg_type == MessageType::MsgSnapshot;
        let listens = self.phase == Phase::Serving && !is_snapshot && inner.from == from.id;
        listens.then_some((from, inner))
    }

    /// The scheduler wants something of the region. What cannot be done now is ordered again.
    fn on_order(&mut self, order: pdpb::RegionHeartbeatResponse, ask: u64, round: &mut Round<'_>) {
        if !is_current(&order, &self.region) {
            return;
        }
        let wanted = order.transfer_leader.as_ref().map(wanted).unwrap_or_default();
        if self.leader().is_none() {
            self.forward_transfer(&wanted, round);
            return;
        }
        let one = order.change_peer.map(|change| vec![change]);
        let several = order.change_peer_v2.map(|v2| v2.changes);
        for changes in one.into_iter().chain(several) {
            if let Err(why) = self.change_members(changes, round) {
                let region = region::id(&self.region);
                tracing::info!(%region, why, "an order is not carried out");
                self.report_again();
            }
        }
        if !wanted.is_empty() && !self.transfer_leader(&wanted, round) {
            self.report_again();
        }
        if let Some(split) = order.split_region {
            if split.keys.is_empty() {
                let approximate = split.policy() == pdpb::CheckPolicy::Approximate;
                self.look_for_keys(SplitSearch::Middle { approximate }, round);
            } else {
                self.ask_split(split.keys, None, ask, round);
            }
        }
    }

    /// Entries were applied up to here: answers who waited for them. Where nothing else is said the answer
    /// is "done".
    pub(crate) fn on_applied(
        &mut self,
        applied: AppliedData,
        mut answers: BTreeMap<u64, Reply>,
        round: &mut Round<'_>,
    ) {
        self.applied = applied.at;
        if self.planted.has(Bug::LogCutBeforeSync) {
            self.perform_cut();
        }
        self.on_written(applied.bytes, applied.keys);
        for (index, replies) in self.proposals.take_applied(applied.at.index) {
            let answer = answers.remove(&index).unwrap_or(Ok(Answer::Done));
            let all = replies.into_iter().map(|reply| (reply, answer.clone()));
            round.effects.replies.extend(all);
        }
    }

    /// Does what waited for entries to be applied. Not after the last one of a peer that was removed.
    pub(crate) fn go_on(&mut self, round: &mut Round<'_>) {
        self.group.applied_to(self.applied.index);
        self.settle_split();
        self.serve_reads(round);
        self.maybe_install(round);
    }
}
