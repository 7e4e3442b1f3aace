//! One `Ready` taken apart: what leaves before the disk, what after, and what is applied.
//!
//! On their way out messages get an envelope (which region, between which peers, at which epoch), and
//! heartbeats a [`Mark`] by which the answer renews the lease.

use proto::{PeerId, Refusal, metapb, raft_serverpb::RaftMessage};
use raft::eraftpb::{Message, MessageType};

use super::lease::Mark;
use super::{Peer, Role, Round};
use crate::effects::{Effects, PersistedReady};
use crate::engine::{GroupWrite, LogEngine};
use crate::group::TakenReady;
use crate::msg::{ApplyTask, Now};
use crate::plant::Bug;
use crate::wire;

impl<L: LogEngine> Peer<L> {
    /// One ready: what leaves before the disk, what after, what is applied.
    pub(super) fn take_apart(&mut self, mut ready: TakenReady, round: &mut Round<'_>) {
        let mut send_now = std::mem::take(&mut ready.send_now);
        let mut send_after = std::mem::take(&mut ready.send_after_persist);
        self.mark_heartbeats(send_now.iter_mut().chain(&mut send_after), round.now);
        for state in std::mem::take(&mut ready.read_states) {
            self.on_read_state(state);
        }
        self.post(send_now, round, |effects| &mut effects.send_now);
        if ready.snapshot.is_some() {
            self.begin_install(ready, send_after, round);
            return;
        }
        self.post(send_after, round, |effects| &mut effects.send_after_persist);
        self.persist(ready.write.take(), ready.awaits_persist.then_some(ready.number), round);
        let committed = ready.committed;
        if let Some(last) = committed.last() {
            if !self.planted.has(Bug::OverwrittenAcknowledged) {
                let lost = self.proposals.take_overwritten(&committed);
                round.refuse_all(lost, &Refusal::StaleCommand);
            }
            self.handed_index = last.index;
            self.log_use.on_committed(&committed);
            round.effects.apply.push(ApplyTask::Entries {
                region_id: self.region_id(),
                peer_id: self.id(),
                entries: committed,
                skip_children: Vec::new(),
            });
        }
        self.serve_reads(round);
    }

    /// Adds this peer's part to the round's log write.
    pub(crate) fn persist(
        &self,
        write: Option<GroupWrite>,
        number: Option<u64>,
        round: &mut Round<'_>,
    ) {
        let (region_id, peer_id) = (self.region_id(), self.id());
        if let Some(write) = write {
            round.effects.log.groups.push((region_id, write));
        }
        if let Some(number) = number {
            let generation = self.generation;
            round.effects.persisted.push(PersistedReady { region_id, peer_id, generation, number });
        }
    }

    /// Heartbeats without a context take a mark along; a call to campaign ends the lease.
    fn mark_heartbeats<'a>(&mut self, messages: impl Iterator<Item = &'a mut Message>, now: Now) {
        let mut mark: Option<(Mark, Vec<u8>)> = None;
        for message in messages {
            if message.msg_type == MessageType::MsgTimeoutNow {
                if let Role::Leader(leader) = &mut self.role {
                    leader.lease.revoke();
                }
            } else if message.msg_type == MessageType::MsgHeartbeat && message.context.is_empty() {
                let (_, bytes) = mark.get_or_insert_with(|| {
                    let mark = self.next_mark();
                    (mark, mark.encode())
                });
                message.context = bytes.clone().into();
            }
        }
        if let (Some((mark, _)), Role::Leader(leader)) = (mark, &mut self.role) {
            leader.lease.on_sent(mark, now);
        }
    }

    /// Puts messages into envelopes; those to peers whose store is unknown are lost.
    pub(crate) fn post(
        &mut self,
        messages: Vec<Message>,
        round: &mut Round<'_>,
        outbox: fn(&mut Effects) -> &mut Vec<RaftMessage>,
    ) {
        for message in messages {
            let to = PeerId(message.to);
            if message.msg_type == MessageType::MsgSnapshot {
                self.post_snapshot(message, round);
            } else if let Some(envelope) = self.envelope(message) {
                outbox(round.effects).push(envelope);
            } else {
                tracing::debug!(region = %self.region_id(), %to, "nobody knows where this peer is");
            }
        }
    }

    /// A message with its envelope. First messages carry the range: whether a peer may come to be on
    /// the other side depends on it.
    pub(crate) fn envelope(&self, message: Message) -> Option<RaftMessage> {
        let to_peer = *self.member(PeerId(message.to))?;
        let mut envelope = self.empty_envelope(to_peer);
        if self.is_initialized() && is_initial(&message) {
            envelope.start_key = self.region.start_key.clone();
            envelope.end_key = self.region.end_key.clone();
        }
        envelope.message = Some(wire::message_to_wire(message));
        Some(envelope)
    }

    /// An envelope to this peer, with nothing in it.
    pub(crate) fn empty_envelope(&self, to_peer: metapb::Peer) -> RaftMessage {
        RaftMessage {
            region_id: self.region.id,
            from_peer: Some(self.meta),
            to_peer: Some(to_peer),
            region_epoch: Some(proto::region::epoch(&self.region)),
            ..Default::default()
        }
    }
}

/// Whether a message may create a peer on the other side: the first that a group sends to a member it
/// has not heard from.
pub(crate) fn is_initial(message: &Message) -> bool {
    matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        || (message.msg_type == MessageType::MsgHeartbeat && message.commit == 0)
}
