//! Adding, promoting, demoting and removing members.
//!
//! | an order with | is | in the log |
//! |---|---|---|
//! | one change | carried out at once: old and new majorities overlap | `ConfChange` with [`Command::Member`] |
//! | several | the way into a joint membership | `ConfChangeV2` with [`Command::Members`] |
//! | none | the way out of it | `ConfChangeV2` without changes, [`Command::Members`] |
//!
//! ```text
//!               several changes                      none
//!   p1 p2 p3 ──────────────────► p1 p2(demoting) ──────────► p1 p2(learner)
//!   p4(learner)                  p3 p4(incoming)             p3 p4
//!                                both majorities
//!                                must agree to all
//! ```
//!
//! **Begin.** The scheduler orders it in a heartbeat's answer. The leader proposes when no other change of
//! membership is pending, an entry of its own term is applied, the region is not being split, and the voters
//! that there would be answer and agree on an index that the log still has.
//!
//! **What a change may be.** In a joint membership nothing but leaving it. A voter is not removed by a change
//! of several: it is demoted, and removed later. Changes of learners only are made one by one: roles would not
//! say that the membership is joint.
//!
//! **The leader itself is not removed, nor its vote taken, while it leads**: it hands leadership over, and the
//! scheduler gives the order again to the new leader. In a group of two this is more than manners. A leader
//! that applies its own removal before the other knows that it is committed would leave a peer that counts it
//! as a voter, and asks it for votes, for ever. It can still come to that: a leader may find its own removal in
//! its log when it is elected. So it tells everybody the commit index before it goes, and if that is lost,
//! its tombstone answers the other's vote request with the position of the removal, which raft takes for
//! a commit index (`stale_peer.rs`).
//!
//! **Leaving.** Into a joint membership the leader may go though it is to lose its vote; out of it, it hands
//! over first. A leader that finds itself in a joint membership for an election timeout leaves it without an
//! order: whoever began it may be gone. When nobody will take over from a leader without a future, it leaves
//! all the same, and steps down when that is applied, not before.
//!
//! **Apply.** The conf_ver of the epoch must be the one it was proposed at; it grows by one for each peer whose
//! role changes. The applier writes the region; the peer tells raft. A removed peer's tombstone is in the same
//! batch.
//!
//! **After.** The leader reports the region. A new member is created on its store by the leader's first
//! heartbeat, and asks for a snapshot by not having what it is sent.
//!
//! Left out: witnesses.

use proto::region::{is_incoming, is_joint, is_learner, is_outgoing};
use proto::{PeerId, Refusal, StoreId, eraftpb, metapb, pdpb, region};
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2,
};

use crate::applier::Delegate;
use crate::command::{Command, Member, Members};
use crate::engine::LogEngine;
use crate::peer::{Peer, Round};
use crate::storage::group_log::Position;

/// A leader that is to lose its vote tries for so many election timeouts to hand over before it leaves a
/// joint membership.
const HANDOVER_ELECTIONS: u64 = 4;

/// What happens to one member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    kind: ConfChangeType,
    peer: metapb::Peer,
}

impl Change {
    fn ordered(order: pdpb::ChangePeer) -> Result<Self, &'static str> {
        let (kind, role) = match order.change_type() {
            eraftpb::ConfChangeType::AddNode => (ConfChangeType::AddNode, metapb::PeerRole::Voter),
            eraftpb::ConfChangeType::RemoveNode => {
                (ConfChangeType::RemoveNode, metapb::PeerRole::Voter)
            }
            eraftpb::ConfChangeType::AddLearnerNode => {
                (ConfChangeType::AddLearnerNode, metapb::PeerRole::Learner)
            }
        };
        let peer = order.peer.ok_or("an order without a peer")?;
        Ok(Self { kind, peer: metapb::Peer { role: role.into(), ..peer } })
    }
}

impl<L: LogEngine> Peer<L> {
    /// Proposes the changes that the scheduler orders, or to leave a joint membership when there are none;
    /// why not, in words, if it cannot be.
    pub(crate) fn change_members(
        &mut self,
        ordered: Vec<pdpb::ChangePeer>,
        round: &mut Round<'_>,
    ) -> Result<(), &'static str> {
        let changes = ordered.into_iter().map(Change::ordered).collect::<Result<Vec<_>, _>>()?;
        let Some(leader) = self.leader() else { return Err("does not lead") };
        if self.applied.term != leader.term {
            return Err("has not applied an entry of its own term");
        }
        if self.group.raft().has_pending_conf() {
            return Err("another change is pending");
        }
        if leader.pending_split.is_some() || self.group.transferee().is_some() {
            return Err("a split or a transfer is under way");
        }
        let after = changed(&self.region, &changes)?;
        let keeps_vote = region::peer_by_id(&after, self.id()).is_some_and(|own| !is_learner(own));
        if !keeps_vote && !self.is_stuck(round) {
            let hands_over = self.transfer_leader(&[], round);
            tracing::info!(region = %self.region_id(), hands_over, "a leader is to lose its vote");
            return Err("hands leadership over first");
        }
        if !changes.is_empty() && !self.group.is_only_voter() {
            if !self.would_agree(&after) {
                return Err("too few members would have the log");
            }
            if !self.would_answer(&after, round) {
                return Err("too few members would answer");
            }
        }
        let at = self.propose_changes(&changes).ok_or("raft refuses it")?;
        let now = round.now.0;
        tracing::info!(region = %self.region_id(), %at, now, ?changes, "proposed a change of members");
        Ok(())
    }

    fn propose_changes(&mut self, changes: &[Change]) -> Option<Position> {
        let entry = entry_of(region::epoch(&self.region), changes);
        let at = if let [change] = changes {
            self.group.propose_conf_change(ConfChange {
                change_type: change.kind,
                node_id: change.peer.id,
                context: entry.context,
                ..Default::default()
            })
        } else {
            self.group.propose_conf_change_v2(entry)
        };
        at.ok()
    }

    /// Leaves a joint membership that nobody has ordered to be left. Returns whether it was proposed.
    pub(crate) fn tick_members(&mut self, round: &mut Round<'_>) -> bool {
        let tick = self.ticker.ticks();
        let is_joint = is_joint(&self.region);
        let Some(leader) = self.leader_mut() else { return false };
        if !is_joint {
            leader.joint_since = None;
            return false;
        }
        let since = *leader.joint_since.get_or_insert(tick);
        if tick - since < round.config.election_ticks as u64 {
            return false;
        }
        match self.change_members(Vec::new(), round) {
            Ok(()) => true,
            Err(why) => {
                tracing::debug!(region = %self.region_id(), why, "a joint membership is not left yet");
                false
            }
        }
    }

    /// Whether a joint membership has lasted so long that its leader leaves it without a successor.
    fn is_stuck(&self, round: &Round<'_>) -> bool {
        let patience = HANDOVER_ELECTIONS * round.config.election_ticks as u64;
        let since = self.leader().and_then(|leader| leader.joint_since);
        since.is_some_and(|since| self.ticker.ticks() - since >= patience)
    }

    /// Whether the voters of this membership would agree on an index that the log still has: else the
    /// region would stand still until some of them have caught up by snapshots.
    fn would_agree(&self, after: &metapb::Region) -> bool {
        let tracker = self.group.raft().prs();
        let matched = |id: u64| tracker.get(id).map_or(0, |progress| progress.matched);
        let kept = self.group.log().truncated().index;
        has_majorities(after, |peer| matched(peer.id) >= kept)
    }

    /// Whether enough voters of this membership were heard of late. A new member is given the benefit of
    /// the doubt, and so is everybody when a leader is new.
    fn would_answer(&self, after: &metapb::Region, round: &Round<'_>) -> bool {
        let is_new = self
            .leader()
            .is_some_and(|leader| round.now.since(leader.since) < round.config.election_micros());
        has_majorities(after, |peer| {
            is_new
                || peer.id == self.meta.id
                || region::peer_by_id(&self.region, PeerId(peer.id)).is_none()
                || self.is_heard(PeerId(peer.id), round)
        })
    }

    /// The applier has changed the membership.
    pub(crate) fn on_conf_changed(
        &mut self,
        index: u64,
        change: &ConfChangeV2,
        region: metapb::Region,
        round: &mut Round<'_>,
    ) {
        if index < self.group.raft().raft_log.first_index() {
            // A snapshot has arrived meanwhile, and raft goes by its members already, which are newer. The
            // region here follows the applier: should the snapshot fail, the peer starts anew from that.
            self.set_region(region);
            return;
        }
        let Some(own) = region::peer_by_id(&region, self.id()).copied() else {
            // The last words of a leader that removes itself: that it is committed.
            self.group.broadcast_commit();
            if let Some(mut ready) = self.group.take_ready() {
                let messages = std::mem::take(&mut ready.send_now);
                self.post(messages, round, |effects| &mut effects.send_now);
            }
            return;
        };
        if let Err(error) = self.group.apply_conf_change_v2(change) {
            // The same region gives the same membership, so raft must agree with the applier.
            panic!("{}: raft refuses an applied change: {error}", self.region_id());
        }
        if let Some(leader) = self.leader_mut() {
            for changed in change.changes.iter() {
                leader.heard.entry(PeerId(changed.node_id)).or_insert(round.now);
            }
        }
        self.set_region(region);
        if is_learner(&own) && self.group.is_leader() {
            tracing::info!(region = %self.region_id(), "a leader has lost its vote and steps down");
            self.group.broadcast_commit();
            self.group.step_down();
        }
    }
}

impl Delegate {
    /// What a change of membership makes of the region, or why it is not applied.
    pub(crate) fn apply_members(&self, change: &ConfChangeV2) -> Result<metapb::Region, Refusal> {
        let refuse = |message: String| Refusal::Other { message };
        let command =
            Command::decode(change.context.clone()).map_err(|error| refuse(error.to_string()))?;
        let (epoch, peers) = match command {
            Command::Member(member) => (member.epoch, vec![member.peer]),
            Command::Members(members) => (members.epoch, members.peers),
            Command::Write { .. }
            | Command::CutLog { .. }
            | Command::Split(_)
            | Command::ComputeHash
            | Command::VerifyHash { .. } => {
                return Err(refuse("a change of membership without a member".into()));
            }
        };
        let wanted = if change.changes.len() > 1 {
            ConfChangeTransition::Explicit
        } else {
            ConfChangeTransition::Auto
        };
        let ids = change.changes.iter().map(|single| single.node_id);
        if change.transition != wanted || !ids.eq(peers.iter().map(|peer| peer.id)) {
            return Err(refuse("two different changes of membership in one".into()));
        }
        if epoch.conf_ver != region::epoch(&self.region).conf_ver {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        let kinds = change.changes.iter().map(|single| single.change_type);
        let changes: Vec<Change> =
            kinds.zip(peers).map(|(kind, peer)| Change { kind, peer }).collect();
        changed(&self.region, &changes).map_err(|why| refuse(why.into()))
    }
}

/// What the log says of these changes.
fn entry_of(epoch: metapb::RegionEpoch, changes: &[Change]) -> ConfChangeV2 {
    let (transition, command) = match changes {
        [change] => {
            let member = Member { epoch, peer: change.peer };
            (ConfChangeTransition::Auto, Command::Member(member))
        }
        changes => {
            let peers = changes.iter().map(|change| change.peer).collect();
            let transition = if changes.is_empty() {
                ConfChangeTransition::Auto
            } else {
                ConfChangeTransition::Explicit
            };
            (transition, Command::Members(Members { epoch, peers }))
        }
    };
    let single = |change: &Change| ConfChangeSingle {
        change_type: change.kind,
        node_id: change.peer.id,
        ..Default::default()
    };
    ConfChangeV2 {
        transition,
        changes: changes.iter().map(single).collect::<Vec<_>>().into(),
        context: command.encode().into(),
        ..Default::default()
    }
}

/// Whether this holds for a majority of the voters, in a joint membership for one of each half.
fn has_majorities(region: &metapb::Region, holds: impl Fn(&metapb::Peer) -> bool) -> bool {
    let halves: [fn(&metapb::Peer) -> bool; 2] = [is_incoming, is_outgoing];
    halves.into_iter().all(|votes| {
        let voters = region.peers.iter().filter(|peer| votes(peer));
        let (with, all) =
            voters.fold((0, 0), |(with, all), peer| (with + usize::from(holds(peer)), all + 1));
        with > all / 2
    })
}

/// The region with these changes of membership, or why there is none. One change is made at once, several
/// lead into a joint membership, and none leads out of it.
pub(crate) fn changed(
    before: &metapb::Region,
    changes: &[Change],
) -> Result<metapb::Region, &'static str> {
    let mut after = before.clone();
    let count = match (is_joint(before), changes) {
        (true, []) => leave(&mut after),
        (true, _) => return Err("the joint membership must be left first"),
        (false, []) => return Err("the membership is not joint"),
        (false, changes) => {
            let is_alone = changes.len() == 1;
            for (at, change) in changes.iter().enumerate() {
                if changes[..at].iter().any(|earlier| earlier.peer.id == change.peer.id) {
                    return Err("a member is changed twice at once");
                }
                change_one(&mut after, change, is_alone)?;
            }
            if !is_alone && !is_joint(&after) {
                return Err("several changes that concern learners only");
            }
            changes.len()
        }
    };
    if !after.peers.iter().any(is_incoming) {
        return Err("no voter would be left");
    }
    after.region_epoch.get_or_insert_default().conf_ver += count as u64;
    Ok(after)
}

/// Leaves a joint membership; returns how many members have changed.
fn leave(region: &mut metapb::Region) -> usize {
    let mut count = 0;
    for peer in &mut region.peers {
        let role = match peer.role() {
            metapb::PeerRole::IncomingVoter => metapb::PeerRole::Voter,
            metapb::PeerRole::DemotingVoter => metapb::PeerRole::Learner,
            metapb::PeerRole::Voter | metapb::PeerRole::Learner => continue,
        };
        peer.set_role(role);
        count += 1;
    }
    count
}

fn change_one(
    region: &mut metapb::Region,
    change: &Change,
    is_alone: bool,
) -> Result<(), &'static str> {
    let member = &change.peer;
    if member.id == 0 || member.store_id == 0 {
        return Err("an incomplete peer");
    }
    let (voter, demoted) = if is_alone {
        (metapb::PeerRole::Voter, metapb::PeerRole::Learner)
    } else {
        (metapb::PeerRole::IncomingVoter, metapb::PeerRole::DemotingVoter)
    };
    let Some(at) = region.peers.iter().position(|peer| peer.id == member.id) else {
        let role = match change.kind {
            ConfChangeType::RemoveNode => return Err("not a member"),
            ConfChangeType::AddNode => voter,
            ConfChangeType::AddLearnerNode => metapb::PeerRole::Learner,
        };
        if region::peer_on(region, StoreId(member.store_id)).is_some() {
            return Err("the store has a peer already");
        }
        region.peers.push(metapb::Peer { role: role.into(), ..*member });
        return Ok(());
    };
    let known = &mut region.peers[at];
    if known.store_id != member.store_id {
        return Err("the peer is on another store");
    }
    match (change.kind, is_learner(known)) {
        (ConfChangeType::RemoveNode, false) if !is_alone => {
            return Err("a voter is demoted before it is removed");
        }
        (ConfChangeType::RemoveNode, _) => {
            region.peers.remove(at);
        }
        (ConfChangeType::AddNode, true) => known.set_role(voter),
        (ConfChangeType::AddLearnerNode, false) => known.set_role(demoted),
        (ConfChangeType::AddNode, false) => return Err("already a voter"),
        (ConfChangeType::AddLearnerNode, true) => return Err("already a learner"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
