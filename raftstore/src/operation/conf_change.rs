//! Adding, promoting and removing a member, one at a time.
//!
//! **Begin.** The scheduler orders it in a heartbeat's answer. The leader proposes when no other change of
//! membership is pending, an entry of its own term is applied, the region is not being split, and the
//! members would still agree on what is committed.
//!
//! **The leader itself is not removed while it leads**: it hands leadership over, and the scheduler gives
//! the order again to the new leader. In a group of two this is more than manners. A leader that applies
//! its own removal before the other knows that it is committed would leave a peer that counts it as a
//! voter, and asks it for votes, for ever. It can still come to that: a leader may find its own removal in
//! its log when it is elected. So it tells everybody the commit index before it goes, and if that is lost,
//! its tombstone answers the other's vote request with the position of the removal, which raft takes for
//! a commit index (`stale_peer.rs`).
//!
//! **Log.** A raft `ConfChange` entry, with [`Command::Member`] as its context.
//!
//! **Apply.** The conf_ver of the epoch must be the one it was proposed at; it grows by one. The applier
//! writes the region; the peer tells raft. A removed peer's tombstone is in the same batch.
//!
//! **After.** The leader reports the region. A new member is created on its store by the leader's first
//! heartbeat, and asks for a snapshot by not having what it is sent.
//!
//! Left out: joint changes; an order with several changes is not carried out.

use proto::{PeerId, Refusal, StoreId, metapb, region};
use raft::eraftpb::{ConfChange, ConfChangeType};

use crate::applier::Delegate;
use crate::command::{Command, Member};
use crate::engine::LogEngine;
use crate::peer::{Peer, Round};

impl<L: LogEngine> Peer<L> {
    /// Proposes to add (or promote) or remove a member; why not, in words, if it cannot be.
    pub(crate) fn propose_member(
        &mut self,
        change_type: ConfChangeType,
        mut member: metapb::Peer,
        round: &mut Round<'_>,
    ) -> Result<(), &'static str> {
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
        let role = match change_type {
            ConfChangeType::AddLearnerNode => metapb::PeerRole::Learner,
            ConfChangeType::AddNode | ConfChangeType::RemoveNode => metapb::PeerRole::Voter,
        };
        member.set_role(role);
        let removes_leader = change_type == ConfChangeType::RemoveNode && member.id == self.meta.id;
        let after = changed(&self.region, change_type, &member)?;
        if removes_leader {
            let handed_over = self.transfer_leader(&[], round);
            tracing::info!(region = %self.region_id(), handed_over, "a leader is to be removed");
            return Err("hands leadership over first");
        }
        if !self.would_agree(&after) {
            return Err("too few members would have the log");
        }
        let epoch = region::epoch(&self.region);
        let change = ConfChange {
            change_type,
            node_id: member.id,
            context: Command::Member(Member { epoch, peer: member }).encode().into(),
            ..Default::default()
        };
        let at = self.group.propose_conf_change(change).map_err(|_| "raft refuses it")?;
        tracing::info!(region = %self.region_id(), %at, now = round.now.0, "proposed a member");
        Ok(())
    }

    /// Whether the voters of this membership would agree on an index that the log still has: else the
    /// region would stand still until some of them have caught up by snapshots.
    fn would_agree(&self, after: &metapb::Region) -> bool {
        if self.group.is_only_voter() {
            return true;
        }
        let tracker = self.group.raft().prs();
        let mut matched: Vec<u64> = after
            .peers
            .iter()
            .filter(|peer| !region::is_learner(peer))
            .map(|peer| tracker.get(peer.id).map_or(0, |progress| progress.matched))
            .collect();
        matched.sort_unstable_by(|a, b| b.cmp(a));
        matched
            .get(matched.len() / 2)
            .is_some_and(|index| *index >= self.group.log().truncated().index)
    }

    /// The applier has changed the membership.
    pub(crate) fn on_conf_changed(
        &mut self,
        change: &ConfChange,
        region: metapb::Region,
        round: &mut Round<'_>,
    ) {
        if region::peer_by_id(&region, self.id()).is_none() {
            // The last words of a leader that removes itself: that it is committed.
            self.group.broadcast_commit();
            if let Some(mut ready) = self.group.take_ready() {
                let messages = std::mem::take(&mut ready.send_now);
                self.post(messages, round, |effects| &mut effects.send_now);
            }
            return;
        }
        match self.group.apply_conf_change(change) {
            Ok(()) => {
                if let Some(leader) = self.leader_mut() {
                    leader.heard.entry(PeerId(change.node_id)).or_insert(round.now);
                }
                self.set_region(region);
            }
            // The same region gives the same membership, so raft must agree with the applier.
            Err(error) => panic!("{}: raft refuses an applied change: {error}", self.region_id()),
        }
    }
}

impl Delegate {
    /// What a change of membership makes of the region, or why it is not applied.
    pub(crate) fn apply_member(&self, change: &ConfChange) -> Result<metapb::Region, Refusal> {
        let refuse = |message: String| Refusal::Other { message };
        let command =
            Command::decode(change.context.clone()).map_err(|error| refuse(error.to_string()))?;
        let Command::Member(member) = command else {
            return Err(refuse("a change of membership without a member".into()));
        };
        if member.peer.id != change.node_id {
            return Err(refuse("two different members in one change".into()));
        }
        if member.epoch.conf_ver != region::epoch(&self.region).conf_ver {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        changed(&self.region, change.change_type, &member.peer)
            .map_err(|why| refuse(format!("{why}: {}", PeerId(member.peer.id))))
    }
}

/// The region with this change of membership, or why there is none.
fn changed(
    before: &metapb::Region,
    change_type: ConfChangeType,
    member: &metapb::Peer,
) -> Result<metapb::Region, &'static str> {
    let mut after = before.clone();
    let known = after.peers.iter().position(|peer| peer.id == member.id);
    if member.id == 0 || member.store_id == 0 {
        return Err("an incomplete peer");
    }
    match (change_type, known) {
        (ConfChangeType::RemoveNode, Some(at)) => {
            if after.peers[at].store_id != member.store_id {
                return Err("the peer is on another store");
            }
            after.peers.remove(at);
            if after.peers.iter().all(region::is_learner) {
                return Err("no voter would be left");
            }
        }
        (ConfChangeType::RemoveNode, None) => return Err("not a member"),
        (ConfChangeType::AddNode, Some(at)) => {
            let peer = &mut after.peers[at];
            if !region::is_learner(peer) || peer.store_id != member.store_id {
                return Err("already a member");
            }
            peer.set_role(metapb::PeerRole::Voter);
        }
        (ConfChangeType::AddLearnerNode, Some(_)) => return Err("already a member"),
        (ConfChangeType::AddNode | ConfChangeType::AddLearnerNode, None) => {
            if region::peer_on(&after, StoreId(member.store_id)).is_some() {
                return Err("the store has a peer already");
            }
            after.peers.push(*member);
        }
    }
    let epoch = after.region_epoch.get_or_insert_default();
    epoch.conf_ver += 1;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u64, store_id: u64, role: metapb::PeerRole) -> metapb::Peer {
        metapb::Peer { id, store_id, role: role.into(), ..Default::default() }
    }

    fn region() -> metapb::Region {
        metapb::Region {
            id: 1,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: vec![peer(1, 1, metapb::PeerRole::Voter), peer(2, 2, metapb::PeerRole::Learner)],
            ..Default::default()
        }
    }

    fn check(change_type: ConfChangeType, id: u64, store: u64) -> Result<String, &'static str> {
        let role = match change_type {
            ConfChangeType::AddLearnerNode => metapb::PeerRole::Learner,
            ConfChangeType::AddNode | ConfChangeType::RemoveNode => metapb::PeerRole::Voter,
        };
        changed(&region(), change_type, &peer(id, store, role))
            .map(|region| region::Readable(&region).to_string())
    }

    #[test]
    fn a_membership_changes_by_one() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let cases = [
            (AddNode, 3, 3, Ok("r1 [-inf,+inf) v1.c2 p1@s1 p2@s2(learner) p3@s3")),
            (AddNode, 2, 2, Ok("r1 [-inf,+inf) v1.c2 p1@s1 p2@s2")),
            (AddNode, 1, 1, Err("already a member")),
            (AddNode, 2, 3, Err("already a member")),
            (AddNode, 3, 2, Err("the store has a peer already")),
            (AddLearnerNode, 1, 1, Err("already a member")),
            (RemoveNode, 2, 2, Ok("r1 [-inf,+inf) v1.c2 p1@s1")),
            (RemoveNode, 1, 1, Err("no voter would be left")),
            (RemoveNode, 2, 3, Err("the peer is on another store")),
            (RemoveNode, 9, 9, Err("not a member")),
            (AddNode, 0, 9, Err("an incomplete peer")),
        ];
        for (change_type, id, store, wanted) in cases {
            let wanted = wanted.map(str::to_owned);
            assert_eq!(check(change_type, id, store), wanted, "{change_type:?} {id}@{store}");
        }
    }
}
