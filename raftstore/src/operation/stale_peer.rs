//! Messages from the past, and peers that nobody told they were removed.
//!
//! **At the door.** Every message says which peer it is from, which it is for, and the region's epoch as its
//! sender knows it:
//!
//! | the message is | then |
//! |---|---|
//! | for another store, or without addresses | dropped |
//! | for a newer peer than the one here | the one here was removed: destroyed, the next message makes the new one |
//! | for an older peer | dropped |
//! | of an older epoch, from a store that is no longer in the region | answered: you were removed |
//! | for a region that was removed here | by the tombstone, see below |
//!
//! **"You were removed"** is an envelope with `is_tombstone` and the newer epoch. A peer believes it if the
//! epoch is newer than its own.
//!
//! **A tombstone answers.** A sender that is in the region as it was when the peer here was removed may not
//! know that the removal is committed, and wait for the removed peer's vote for ever (the last two, one
//! removed). It gets that vote's refusal with the removal's position, which raft takes for a commit index.
//!
//! **A peer without a leader** asks the others by `MsgCheckStalePeer` after `leader_missing_ticks`, and the
//! scheduler some time later: perhaps everybody it knew is gone.

use proto::{KeyRange, PeerId, RegionId, eraftpb, metapb, raft_serverpb, region};
use raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage};

use crate::effects::{Effects, Report};
use crate::engine::{DataEngine, LogEngine};
use crate::error::Fault;
use crate::msg::{BackgroundTask, Now, SnapshotSource};
use crate::operation::snapshot;
use crate::peer::sleep::Cause;
use crate::peer::{Peer, Phase, Round};
use crate::plant::Bug;
use crate::storage::Tombstone;
use crate::store::Store;
use crate::wire;

/// The scheduler is asked after this many vain rounds of asking the others.
const VAIN_ROUNDS_BEFORE_VALIDATE: u64 = 3;

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Whether a message is one of many: from one member of a group to another, who is awake, and without
    /// news for the store.
    pub(crate) fn is_between_members(&self, message: &RaftMessage) -> bool {
        let Some((from, to, epoch)) = self.addresses(message) else { return false };
        let Some(peer) = self.peers.get(&RegionId(message.region_id)) else { return false };
        !message.is_tombstone
            && message.extra_msg.is_none()
            && message.extra_ctx.is_empty()
            && !peer.is_asleep()
            && peer.phase != Phase::Quarantined
            && to.id == peer.meta.id
            && !is_outdated(peer, &from, &epoch)
    }

    /// Another store's peer speaks, and more may follow from it than a step of the peer here. That has
    /// no mail.
    pub(crate) fn on_raft(
        &mut self,
        message: RaftMessage,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let region_id = RegionId(message.region_id);
        let Some((from, to, epoch)) = self.addresses(&message) else { return Ok(()) };
        self.hear_store(&message, &from, &to, now, effects);
        if message.is_tombstone {
            self.on_removed(region_id, &to, &epoch, now, effects);
            return Ok(());
        }
        let Some(peer) = self.peers.get(&region_id) else {
            if let Some(tombstone) = self.tombstones.get(&region_id)
                && (region::is_epoch_stale(&epoch, &region::epoch(&tombstone.region))
                    || to.id <= tombstone.peer_id.0)
            {
                effects.send_now.extend(answer_of_the_dead(tombstone, &message, &from, &to));
                return Ok(());
            }
            return self.maybe_create(message, now, effects);
        };
        if to.id > peer.meta.id {
            let is_first = message.message.clone().and_then(wire::message_from_wire);
            if peer.is_initialized() && region::is_epoch_stale(&region::epoch(&peer.region), &epoch)
            {
                self.begin_destroy(region_id, now, effects);
            } else if !peer.is_initialized()
                // What is being installed would be written over the newer one, and its neighbours.
                && !peer.snapshots.is_installing()
                && is_first.is_some_and(|first| crate::peer::is_initial(&first))
            {
                self.replace_empty_peer(to, region_id, now, effects)?;
                self.deliver(message, now, effects);
            }
            return Ok(());
        }
        if to.id < peer.meta.id {
            return Ok(());
        }
        if is_outdated(peer, &from, &epoch) {
            if asks(&message) {
                effects.send_now.push(removed(&message, region::epoch(&peer.region)));
            }
            return Ok(());
        }
        if !self.on_check_message(&message, &from, now, effects)
            && !self.on_sleep_message(&message, from, now, effects)
        {
            self.deliver(message, now, effects);
        }
        Ok(())
    }

    /// Hands a message to the peer it is for.
    pub(crate) fn deliver(&mut self, message: RaftMessage, now: Now, effects: &mut Effects) {
        let region_id = RegionId(message.region_id);
        let Some(peer) = self.peers.get(&region_id) else { return };
        if let Some((from, inner)) = peer.opened(message) {
            self.step_peer(region_id, from, inner, now, effects);
        }
    }

    /// A snapshot arrived whole: offers it to raft, unless something here stands in its way.
    pub(crate) fn on_snapshot_received(
        &mut self,
        message: RaftMessage,
        source: SnapshotSource,
        now: Now,
        effects: &mut Effects,
    ) {
        let region_id = RegionId(message.region_id);
        let Some((from, to, _)) = self.addresses(&message) else { return };
        let Some(inner) = message.message else { return };
        let Some(region) = snapshot::described(&inner) else { return };
        let range = KeyRange::of(&region);
        let in_the_way: Vec<RegionId> = self
            .region_map
            .overlapping(&range)
            .into_iter()
            .filter(|other| *other != region_id)
            .collect();
        for other in &in_the_way {
            tracing::info!(region = %region_id, %other, "a snapshot is refused: a region is in its way");
            if let Some(peer) = self.peers.get_mut(other) {
                // Late to split, or removed without knowing it: let it find out.
                let mut round = Round { config: &self.config, now, effects };
                peer.ask_whether_stale(&mut round);
            }
        }
        let is_taken = self.peers.iter().any(|(other, peer)| {
            *other != region_id
                && peer.snapshots.incoming().is_some_and(|next| KeyRange::of(next).overlaps(&range))
        });
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let is_ours = peer.meta.id == to.id
            && region.id == message.region_id
            && region::peer_by_id(&region, PeerId(to.id))
                .is_some_and(|own| *own == to_role(&to, own))
            && !region::is_epoch_stale(&region::epoch(&region), &region::epoch(&peer.region));
        let Some(inner) = wire::message_from_wire(inner) else { return };
        let is_snapshot = inner.msg_type == raft::eraftpb::MessageType::MsgSnapshot;
        self.wake(region_id, Cause::Spoken(PeerId(from.id)), now);
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let is_free = in_the_way.is_empty() && !is_taken;
        if (is_free || self.config.planted.has(Bug::SnapshotOverNeighbour))
            && is_ours
            && is_snapshot
            && inner.from == from.id
            && peer.phase == Phase::Serving
            // One at a time: raft knows them by their index only.
            && peer.snapshots.incoming().is_none()
        {
            let mut round = Round { config: &self.config, now, effects };
            peer.receive_snapshot(from, inner, region, source, &mut round);
            self.touched.insert(region_id);
        }
    }

    /// The background worker is done installing.
    pub(crate) fn on_snapshot_installed(
        &mut self,
        region_id: RegionId,
        peer_id: PeerId,
        ok: bool,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.id() == peer_id) else {
            return Ok(());
        };
        let before = peer.is_initialized().then(|| KeyRange::of(&peer.region));
        let mut round = Round { config: &self.config, now, effects };
        if peer.on_snapshot_installed(ok, &mut round) {
            if peer.may_rebuild() {
                self.rebuild(region_id, now, effects)?;
            }
            return Ok(());
        }
        let after = KeyRange::of(&peer.region);
        self.touched.insert(region_id);
        if let Some(before) = before {
            self.region_map.remove(&before, region_id);
            effects.background.extend(outside(&before, &after));
        }
        self.region_map.insert(after, region_id);
        if self.config.planted.has(Bug::LateClearing)
            && let Some(predecessor) = self.tombstones.get(&region_id)
        {
            let range = KeyRange::of(&predecessor.region);
            effects.background.push(BackgroundTask::ClearRange { range });
        }
        Ok(())
    }

    /// Somebody says that the peer here was removed.
    fn on_removed(
        &mut self,
        region_id: RegionId,
        to: &metapb::Peer,
        epoch: &metapb::RegionEpoch,
        now: Now,
        effects: &mut Effects,
    ) {
        let is_news = self.peers.get(&region_id).is_some_and(|peer| {
            peer.meta.id == to.id && region::is_epoch_stale(&region::epoch(&peer.region), epoch)
        });
        if is_news {
            self.begin_destroy(region_id, now, effects);
        }
    }

    /// Sender, addressee here, and the sender's epoch; `None` when the envelope is not in order.
    fn addresses(
        &self,
        message: &RaftMessage,
    ) -> Option<(metapb::Peer, metapb::Peer, metapb::RegionEpoch)> {
        let (from, to) = (message.from_peer?, message.to_peer?);
        let is_sound = message.region_id != 0
            && from.id != 0
            && to.id != 0
            && from.id != to.id
            && to.store_id == self.id.0
            && from.store_id != self.id.0;
        is_sound.then_some((from, to, message.region_epoch.unwrap_or_default()))
    }
}

impl<L: LogEngine> Peer<L> {
    /// Counts how long this peer knows no leader, and asks around when it is long.
    pub(crate) fn tick_stale(&mut self, round: &mut Round<'_>) {
        if self.group.hears_leader() {
            self.leaderless_ticks = 0;
            return;
        }
        self.leaderless_ticks += 1;
        let period = round.config.leader_missing_ticks;
        if self.leaderless_ticks.is_multiple_of(period) {
            self.ask_whether_stale(round);
            if self.leaderless_ticks >= period * VAIN_ROUNDS_BEFORE_VALIDATE {
                let (region, peer) = (self.region.clone(), self.meta);
                round.effects.reports.push(Report::ValidatePeer { region, peer });
            }
        }
    }

    /// Asks every peer it knows whether it still belongs.
    pub(crate) fn ask_whether_stale(&self, round: &mut Round<'_>) {
        let question = ExtraMessage {
            r#type: ExtraMessageType::MsgCheckStalePeer.into(),
            ..Default::default()
        };
        for other in self.acquaintances() {
            let mut envelope = self.empty_envelope(other);
            envelope.extra_msg = Some(question.clone());
            round.effects.send_now.push(envelope);
        }
    }
}

/// Whether the sender knows less of the region than the peer here, and is no longer in it.
fn is_outdated<L: LogEngine>(
    peer: &Peer<L>,
    from: &metapb::Peer,
    epoch: &metapb::RegionEpoch,
) -> bool {
    peer.is_initialized()
        && region::is_epoch_stale(epoch, &region::epoch(&peer.region))
        && region::peer_by_id(&peer.region, PeerId(from.id)).is_none()
}

/// Whether the sender waits for an answer that it would never get.
fn asks(message: &RaftMessage) -> bool {
    is_vote_request(message)
        || message
            .extra_msg
            .as_ref()
            .is_some_and(|extra| extra.r#type() == ExtraMessageType::MsgCheckStalePeer)
}

fn is_vote_request(message: &RaftMessage) -> bool {
    message.message.as_ref().is_some_and(|inner| {
        matches!(
            inner.msg_type(),
            eraftpb::MessageType::MsgRequestVote | eraftpb::MessageType::MsgRequestPreVote
        )
    })
}

/// "You were removed."
fn removed(message: &RaftMessage, epoch: metapb::RegionEpoch) -> RaftMessage {
    RaftMessage {
        region_id: message.region_id,
        from_peer: message.to_peer,
        to_peer: message.from_peer,
        region_epoch: Some(epoch),
        is_tombstone: true,
        ..Default::default()
    }
}

/// What a removed peer's tombstone answers, if anything.
fn answer_of_the_dead(
    tombstone: &Tombstone,
    message: &RaftMessage,
    from: &metapb::Peer,
    to: &metapb::Peer,
) -> Option<RaftMessage> {
    let epoch = region::epoch(&tombstone.region);
    if !asks(message) || !region::is_epoch_stale(&message.region_epoch.unwrap_or_default(), &epoch)
    {
        return None;
    }
    if region::peer_by_id(&tombstone.region, PeerId(from.id)).is_none() {
        return Some(removed(message, epoch));
    }
    let asked = message.message.as_ref().filter(|_| is_vote_request(message))?;
    let removed_at = tombstone.removed_at?;
    let is_pre_vote = asked.msg_type() == eraftpb::MessageType::MsgRequestPreVote;
    let refusal = raft::eraftpb::Message {
        msg_type: if is_pre_vote {
            raft::eraftpb::MessageType::MsgRequestPreVoteResponse
        } else {
            raft::eraftpb::MessageType::MsgRequestVoteResponse
        },
        from: to.id,
        to: from.id,
        // A pre-vote is asked for the next term, and refused in the candidate's own.
        term: asked.term.saturating_sub(is_pre_vote.into()),
        reject: true,
        commit: removed_at.index,
        commit_term: removed_at.term,
        ..Default::default()
    };
    Some(RaftMessage {
        region_id: message.region_id,
        from_peer: Some(*to),
        to_peer: Some(*from),
        region_epoch: Some(epoch),
        message: Some(wire::message_to_wire(refusal)),
        ..Default::default()
    })
}

/// The envelope's addressee with the role that the region gives it: a message may be older than a
/// promotion.
fn to_role(to: &metapb::Peer, own: &metapb::Peer) -> metapb::Peer {
    metapb::Peer { role: own.role, ..*to }
}

/// Tasks to clear what of a range is not in another.
fn outside(before: &KeyRange, after: &KeyRange) -> impl Iterator<Item = BackgroundTask> + use<> {
    let left = KeyRange { start: before.start.clone(), end: Some(after.start.clone()) };
    let right = after.end.clone().map(|start| KeyRange { start, end: before.end.clone() });
    [Some(left), right].into_iter().flatten().filter_map({
        let before = before.clone();
        move |part| {
            let range = before.intersection(&part);
            (!range.is_empty()).then_some(BackgroundTask::ClearRange { range })
        }
    })
}
