//! From these peers to those peers: which steps, in which order.
//!
//! The order keeps a region safe at every point where its plan may stop:
//! 1. a peer is added before the one it replaces is removed, so the number of voters never falls
//!    below the lower of what it was and what it shall be;
//! 2. a new peer is a learner until it has caught up, so it never counts towards a quorum that it
//!    cannot help to reach;
//! 3. the leader is never removed, nor its vote taken: it hands over first, to a voter that stays if
//!    there is one.
//!
//! A plan that changes several votes changes them at once, in a joint membership ([`super::votes`]):
//!
//! ```text
//!   add every new peer, as a learner
//!   hand the lead over                 if a voter of now shall lead
//!   enter the joint membership         votes are given to the new, taken from those that go
//!   hand the lead over                 if a new voter shall lead and the leader is to lose its vote
//!   leave the joint membership
//!   hand the lead over                 if a new voter shall lead beside it
//!   remove what goes, learners by now
//! ```
//!
//! The policy can have it otherwise (`enable-joint-consensus`): then a peer gets its vote before another is
//! removed, one at a time. So does one that changes a single vote.

use std::collections::BTreeMap;
use std::fmt;

use proto::region::{is_incoming, is_learner};
use proto::{StoreId, metapb};

use super::{Operator, Purpose, Step, Votes};
use crate::cluster::{Policy, RegionRecord};

/// Why no plan leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unbuildable {
    /// The region is so already.
    NothingToDo,
    /// No voter would remain.
    NoVoterLeft,
    /// The leader has to go, and no other voter can take over.
    NobodyToLead,
    /// The store already has a peer of the region.
    AlreadyThere(StoreId),
    /// The store has no peer of the region.
    NotThere(StoreId),
}

impl fmt::Display for Unbuildable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingToDo => f.write_str("there is nothing to do"),
            Self::NoVoterLeft => f.write_str("no voter would be left"),
            Self::NobodyToLead => f.write_str("no other peer can take over the lead"),
            Self::AlreadyThere(store) => write!(f, "{store} already has a peer of the region"),
            Self::NotThere(store) => write!(f, "{store} has no peer of the region"),
        }
    }
}

/// Gathers what shall be different, then makes the plan.
pub struct Builder<'a> {
    description: &'static str,
    purpose: Purpose,
    record: &'a RegionRecord,
    policy: &'a Policy,
    /// By its role each stays a learner, or gets its vote.
    added: BTreeMap<StoreId, metapb::Peer>,
    promoted: Vec<metapb::Peer>,
    demoted: BTreeMap<StoreId, metapb::Peer>,
    removed: BTreeMap<StoreId, metapb::Peer>,
    leader: Option<StoreId>,
    error: Option<Unbuildable>,
}

impl<'a> Builder<'a> {
    /// A plan for the region as it is seen now, made in the way that the policy wants.
    pub fn new(
        description: &'static str,
        purpose: Purpose,
        record: &'a RegionRecord,
        policy: &'a Policy,
    ) -> Self {
        Self {
            description,
            purpose,
            record,
            policy,
            added: BTreeMap::new(),
            promoted: Vec::new(),
            demoted: BTreeMap::new(),
            removed: BTreeMap::new(),
            leader: None,
            error: None,
        }
    }

    /// A new voter on this store, under this peer id.
    #[must_use]
    pub fn add_peer(self, store: StoreId, peer_id: u64) -> Self {
        self.add(store, metapb::Peer { id: peer_id, store_id: store.0, ..Default::default() })
    }

    /// A new learner on this store, under this peer id; it gets no vote.
    #[must_use]
    pub fn add_learner(self, store: StoreId, peer_id: u64) -> Self {
        let role = metapb::PeerRole::Learner.into();
        self.add(store, metapb::Peer { id: peer_id, store_id: store.0, role, ..Default::default() })
    }

    fn add(mut self, store: StoreId, peer: metapb::Peer) -> Self {
        if self.record.peer_on(store).is_some() {
            self.error = Some(Unbuildable::AlreadyThere(store));
        }
        self.added.insert(store, peer);
        self
    }

    /// The learner on this store gets a vote.
    #[must_use]
    pub fn promote(mut self, store: StoreId) -> Self {
        match self.record.peer_on(store) {
            Some(peer) if is_learner(peer) => self.promoted.push(*peer),
            Some(_) => {}
            None => self.error = Some(Unbuildable::NotThere(store)),
        }
        self
    }

    /// The voter on this store becomes a learner.
    #[must_use]
    pub fn demote(mut self, store: StoreId) -> Self {
        match self.record.peer_on(store) {
            Some(peer) if is_learner(peer) => {}
            Some(&peer) => {
                self.demoted.insert(store, peer);
            }
            None => self.error = Some(Unbuildable::NotThere(store)),
        }
        self
    }

    /// The peer on this store goes.
    #[must_use]
    pub fn remove_peer(mut self, store: StoreId) -> Self {
        match self.record.peer_on(store) {
            Some(&peer) => {
                self.removed.insert(store, peer);
            }
            None => self.error = Some(Unbuildable::NotThere(store)),
        }
        self
    }

    /// Who shall lead in the end. Without it the leader stays if its peer does, and otherwise
    /// whoever `build` is told.
    #[must_use]
    pub fn leader(mut self, store: StoreId) -> Self {
        self.leader = Some(store);
        self
    }

    /// Makes the plan. `choose_leader` picks the best of the present voters that stay voters, for when
    /// the leader has to go; a new peer leads only if none of them can.
    pub fn build(
        self,
        choose_leader: impl Fn(&dyn Fn(StoreId) -> bool) -> Option<StoreId>,
    ) -> Result<Operator, Unbuildable> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let stays = |store: StoreId| self.stays_voter(store);
        let staying = self.record.voters().filter(|peer| stays(StoreId(peer.store_id))).count();
        if staying + self.new_voters().count() == 0 {
            return Err(Unbuildable::NoVoterLeft);
        }
        let heir = match self.leader {
            Some(wanted) => Some(wanted),
            None if self.leader_goes() => Some(
                choose_leader(&stays)
                    .or_else(|| self.new_voters().next().map(|peer| StoreId(peer.store_id)))
                    .ok_or(Unbuildable::NobodyToLead)?,
            ),
            None => None,
        };
        if heir.is_some_and(|heir| !stays(heir)) {
            return Err(Unbuildable::NobodyToLead);
        }
        let votes = self.votes();
        let steps = if votes.count() > 1 && self.policy.uses_joint_memberships() {
            self.steps_at_once(votes, heir)
        } else {
            self.steps_one_by_one(heir)
        };
        if steps.is_empty() {
            return Err(Unbuildable::NothingToDo);
        }
        Ok(Operator::new(self.description, self.purpose, self.record, steps))
    }

    /// Whether nobody takes the peer on this store away, nor its vote.
    fn stays_voter(&self, store: StoreId) -> bool {
        !self.removed.contains_key(&store) && !self.demoted.contains_key(&store)
    }

    fn leader_goes(&self) -> bool {
        self.record.leader_store().is_some_and(|store| !self.stays_voter(store))
    }

    /// Peers that get a vote, the new ones first.
    fn new_voters(&self) -> impl Iterator<Item = &metapb::Peer> {
        self.added.values().filter(|peer| !is_learner(peer)).chain(&self.promoted)
    }

    /// Every vote that is given or taken.
    fn votes(&self) -> Votes {
        let gone = self.removed.values().filter(|peer| !is_learner(peer));
        Votes {
            promoted: self.new_voters().map(learner).collect(),
            demoted: gone.chain(self.demoted.values()).copied().collect(),
        }
    }

    fn steps_at_once(&self, votes: Votes, heir: Option<StoreId>) -> Vec<Step> {
        let mut steps: Vec<_> =
            self.added.values().map(|peer| Step::AddPeer(learner(peer))).collect();
        let votes_now = |store| self.record.peer_on(store).is_some_and(is_incoming);
        let [before, inside, after] = match heir {
            Some(heir) if votes_now(heir) => [Some(heir), None, None],
            heir if self.leader_goes() => [None, heir, None],
            heir => [None, None, heir],
        };
        self.push_transfer(&mut steps, before);
        steps.push(Step::EnterJoint(votes.clone()));
        self.push_transfer(&mut steps, inside);
        steps.push(Step::LeaveJoint(votes));
        self.push_transfer(&mut steps, after);
        steps.extend(self.removed.values().map(|peer| Step::RemovePeer(*peer)));
        steps
    }

    fn steps_one_by_one(&self, heir: Option<StoreId>) -> Vec<Step> {
        let leads = self.record.leader_store();
        let mut steps = Vec::new();
        for peer in &self.promoted {
            steps.push(Step::PromoteLearner(*peer));
        }
        let mut added = self.added.values();
        let removals = self.removed.values().map(|peer| (peer.store_id, Step::RemovePeer(*peer)));
        let demotions = self.demoted.values().map(|peer| (peer.store_id, Step::DemoteVoter(*peer)));
        // Learners and others that do not lead go first, so a leader changes late and once.
        let mut losses: Vec<_> = removals.chain(demotions).collect();
        losses.sort_by_key(|(store, _)| (Some(StoreId(*store)) == leads, *store));
        // As many are added before the first removal as keep the count of voters up.
        for (store, loss) in losses {
            if let Some(peer) = added.next() {
                self.push_add(&mut steps, peer);
            }
            if Some(StoreId(store)) == leads {
                for peer in added.by_ref() {
                    self.push_add(&mut steps, peer);
                }
                self.push_transfer(&mut steps, heir);
            }
            steps.push(loss);
        }
        for peer in added {
            self.push_add(&mut steps, peer);
        }
        if !self.leader_goes() {
            self.push_transfer(&mut steps, heir);
        }
        steps
    }

    fn push_add(&self, steps: &mut Vec<Step>, peer: &metapb::Peer) {
        if is_learner(peer) {
            steps.push(Step::AddPeer(*peer));
        } else if self.policy.add_as_learner {
            steps.push(Step::AddPeer(learner(peer)));
            steps.push(Step::PromoteLearner(learner(peer)));
        } else {
            steps.push(Step::AddPeer(*peer));
        }
    }

    fn push_transfer(&self, steps: &mut Vec<Step>, heir: Option<StoreId>) {
        if let (Some(to), Some(from)) = (heir, self.record.leader_store())
            && from != to
        {
            steps.push(Step::TransferLeader { from, to });
        }
    }
}

/// The same peer, without a vote.
fn learner(peer: &metapb::Peer) -> metapb::Peer {
    metapb::Peer { role: metapb::PeerRole::Learner.into(), ..*peer }
}

#[cfg(test)]
mod tests;
