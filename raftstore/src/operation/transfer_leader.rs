//! Handing leadership over.
//!
//! Begun by the scheduler, or here when a leader is to be removed or to lose its vote. Nothing is written to
//! the log for it.
//!
//! ```text
//!  a follower that got the order        leader                             target
//!            └───────── Ask ──────────►   │
//!                                         ├────────── Offer ───────────────►│ may it lead?
//!                                         │◄───────── Ready ────────────────┤
//!                  the shell saves what it has (where it is asked)
//!                        lease off, writes wait
//!                                         ├── what it lacks of the log ────►│
//!                                         ├── MsgTimeoutNow ───────────────►│ campaigns at once
//! ```
//!
//! **Who may be a target.** A voter, of the new half in a joint membership, that answers, is not being served
//! by a snapshot, and lacks few entries: handing over to one that must first catch up far would only stop the
//! writes. Of several the most advanced. What the leader cannot see the target says itself: it is not ready
//! while a change of membership is committed there and not applied. (Raft would ignore the call to campaign
//! then, and the writes would have waited in vain.)
//!
//! **Saving.** Whoever serves callers may keep in memory what only counts while this peer leads (`kv` keeps
//! locks of transactions). With `asks_before_handover` it hears of the handover ([`Report::HandingOver`]) when
//! the target is ready, writes that into the log, and says so ([`StoreMsg::HandOver`]): what it has written by
//! then the target gets before it is called to campaign. If it is late the offer is forgotten.
//!
//! **Meanwhile.** From then on writes wait in their queue, other proposals are refused, and the lease is off.
//! Raft gives up after an election timeout; then writes go on, and so does the lease, unless the target was
//! called to campaign: that call may arrive late, so the lease stays off in this term (`peer/lease.rs`).
//!
//! **Lost messages.** Nothing has happened before the handover itself, and an offer, like the wait for the
//! shell, is forgotten after an election timeout. The scheduler gives its order again.
//!
//! The three messages are `MsgTransferLeader` envelopes that never reach raft. An Ask is passed on only to a
//! newer term, so it cannot go in a circle.
//!
//! Left out: a peer that has only just joined is not spared.
//!
//! [`StoreMsg::HandOver`]: crate::msg::StoreMsg::HandOver

use proto::{PeerId, metapb, region};
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};

use crate::effects::Report;
use crate::engine::LogEngine;
use crate::peer::{Peer, Round};

/// A target that lacks more entries than this is not asked.
const LAG_ENTRIES_MAX: u64 = 128;

/// What a `MsgTransferLeader` says; its byte in the message's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// To the leader: hand over to the peer named by the index.
    Ask = 1,
    /// From the leader: will you lead?
    Offer = 2,
    /// To the leader: yes.
    Ready = 3,
}

impl Word {
    fn decode(bytes: &[u8]) -> Option<Self> {
        [Self::Ask, Self::Offer, Self::Ready].into_iter().find(|word| bytes == [*word as u8])
    }
}

/// Leadership was offered, and is not handed over yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    to: PeerId,
    tick: u64,
    /// The target is ready, and the shell was asked to save what it keeps in memory.
    is_saving: bool,
}

impl<L: LogEngine> Peer<L> {
    /// Offers leadership to the best of these that can take it; without a choice, to the best of all.
    /// Returns whether a handover has begun, now or a moment ago.
    pub(crate) fn transfer_leader(&mut self, wanted: &[PeerId], round: &mut Round<'_>) -> bool {
        if self.leader().is_none() || self.group.raft().has_pending_conf() {
            return false;
        }
        if self.group.transferee().is_some() || self.offer(round).is_some() {
            return true;
        }
        let Some(target) = self.best_transferee(wanted, round) else { return false };
        let tick = self.ticker.ticks();
        if let Some(leader) = self.leader_mut() {
            leader.offer = Some(Offer { to: target, tick, is_saving: false });
        }
        self.say(Word::Offer, target, target, round);
        true
    }

    /// An order for the leader came to a follower: passes it on. Returns whether it knows to whom.
    pub(crate) fn forward_transfer(&self, wanted: &[PeerId], round: &mut Round<'_>) -> bool {
        let Some(leader) = self.group.leader().filter(|leader| *leader != self.id()) else {
            return false;
        };
        wanted.iter().for_each(|target| self.say(Word::Ask, *target, leader, round));
        true
    }

    /// A `MsgTransferLeader` came.
    pub(crate) fn on_transfer_message(
        &mut self,
        from: PeerId,
        message: &Message,
        round: &mut Round<'_>,
    ) {
        let term = self.group.term();
        let target = PeerId(message.index);
        match (Word::decode(&message.context), self.leader().is_some()) {
            (Some(Word::Ask), true) if message.term == term => {
                self.transfer_leader(&[target], round);
            }
            (Some(Word::Ask), false) if message.term < term => {
                self.forward_transfer(&[target], round);
            }
            (Some(Word::Offer), false) if message.term == term && self.may_lead(from) => {
                self.say(Word::Ready, self.id(), from, round);
            }
            (Some(Word::Ready), true) if message.term == term => self.on_ready_to_lead(from, round),
            _ => {}
        }
    }

    /// Whether this peer would campaign if the leader called it to.
    fn may_lead(&self, leader: PeerId) -> bool {
        self.group.leader() == Some(leader)
            && region::is_incoming(&self.meta)
            && self.is_initialized()
            && !self.group.has_unapplied_conf_change()
    }

    /// The target says yes.
    fn on_ready_to_lead(&mut self, target: PeerId, round: &mut Round<'_>) {
        let Some(offer) = self.offer(round).filter(|offer| offer.to == target) else { return };
        if !round.config.asks_before_handover {
            self.hand_over(target, round);
            return;
        }
        // It may say so twice; the shell is asked once.
        if !offer.is_saving && self.may_hand_over(target, round) {
            let tick = self.ticker.ticks();
            if let Some(leader) = self.leader_mut() {
                leader.offer = Some(Offer { tick, is_saving: true, ..offer });
            }
            let (region, term) = (self.region.clone(), self.group.term());
            round.effects.reports.push(Report::HandingOver { region, term, to: target });
        }
    }

    /// The shell has saved what it keeps in memory, or could not.
    pub(crate) fn on_saved(&mut self, term: u64, target: PeerId, round: &Round<'_>) {
        let is_awaited =
            self.offer(round).is_some_and(|offer| offer.is_saving && offer.to == target);
        if is_awaited && term == self.group.term() {
            self.hand_over(target, round);
        }
    }

    /// Whether what was checked at the offer still holds.
    fn may_hand_over(&self, target: PeerId, round: &Round<'_>) -> bool {
        !self.group.raft().has_pending_conf() && self.best_transferee(&[target], round).is_some()
    }

    fn hand_over(&mut self, target: PeerId, round: &Round<'_>) {
        let may = self.may_hand_over(target, round);
        if may && let Some(leader) = self.leader_mut() {
            leader.offer = None;
            self.group.transfer_leader(target);
        }
    }

    /// The offer that still holds.
    pub(crate) fn offer(&self, round: &Round<'_>) -> Option<Offer> {
        let patience = round.config.election_ticks as u64;
        let offer = self.leader()?.offer?;
        (self.ticker.ticks() - offer.tick < patience).then_some(offer)
    }

    fn best_transferee(&self, wanted: &[PeerId], round: &Round<'_>) -> Option<PeerId> {
        let raft = self.group.raft();
        let last = self.group.last_index();
        let mut best: Option<(u64, PeerId)> = None;
        for peer in self.region.peers.iter().filter(|peer| region::is_incoming(peer)) {
            let voter = PeerId(peer.id);
            let Some(progress) = raft.prs().get(peer.id) else { continue };
            let can = voter != self.id()
                && self.is_heard(voter, round)
                && progress.state != ProgressState::Snapshot
                && progress.matched + LAG_ENTRIES_MAX >= last
                && (wanted.is_empty() || wanted.contains(&voter));
            if can && best.is_none_or(|(matched, _)| progress.matched > matched) {
                best = Some((progress.matched, voter));
            }
        }
        best.map(|(_, voter)| voter)
    }

    /// Whether the leader has heard this peer within an election timeout.
    pub(crate) fn is_heard(&self, peer: PeerId, round: &Round<'_>) -> bool {
        let heard = self.leader().and_then(|leader| leader.heard.get(&peer));
        heard.is_some_and(|heard| round.now.since(*heard) < round.config.election_micros())
    }

    fn say(&self, word: Word, target: PeerId, to: PeerId, round: &mut Round<'_>) {
        let message = Message {
            msg_type: MessageType::MsgTransferLeader,
            from: self.meta.id,
            to: to.0,
            term: self.group.term(),
            index: target.0,
            context: vec![word as u8].into(),
            ..Default::default()
        };
        round.effects.send_now.extend(self.envelope(message));
    }
}

/// Whether this order names somebody to lead, and whom.
pub(crate) fn wanted(transfer: &proto::pdpb::TransferLeader) -> Vec<PeerId> {
    let peers: Vec<&metapb::Peer> = transfer.peer.iter().chain(&transfer.peers).collect();
    peers.into_iter().map(|peer| PeerId(peer.id)).collect()
}
