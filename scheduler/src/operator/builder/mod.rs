//! From these peers to those peers: which steps, in which order.
//!
//! The order keeps a region safe at every point where its plan may stop:
//! 1. a peer is added before the one it replaces is removed, so the number of voters never falls
//!    below the lower of what it was and what it shall be;
//! 2. a new peer is a learner until it has caught up, so it never counts towards a quorum that it
//!    cannot help to reach;
//! 3. the leader is never removed: it hands over first, to a voter that stays.

use std::collections::BTreeMap;
use std::fmt;

use proto::region::is_learner;
use proto::{StoreId, metapb};

use super::{Operator, Purpose, Step};
use crate::cluster::RegionRecord;

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
    as_learner: bool,
    /// By its role each stays a learner, or gets its vote.
    added: BTreeMap<StoreId, metapb::Peer>,
    promoted: Vec<metapb::Peer>,
    removed: BTreeMap<StoreId, metapb::Peer>,
    leader: Option<StoreId>,
    error: Option<Unbuildable>,
}

impl<'a> Builder<'a> {
    /// A plan for the region as it is seen now; `as_learner` is the policy's `add_as_learner`.
    pub fn new(
        description: &'static str,
        purpose: Purpose,
        record: &'a RegionRecord,
        as_learner: bool,
    ) -> Self {
        Self {
            description,
            purpose,
            record,
            as_learner,
            added: BTreeMap::new(),
            promoted: Vec::new(),
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

    /// Makes the plan. `choose_leader` picks the best of the present voters that stay, for when
    /// the leader has to go; a new peer leads only if none of them can.
    pub fn build(
        self,
        choose_leader: impl Fn(&dyn Fn(StoreId) -> bool) -> Option<StoreId>,
    ) -> Result<Operator, Unbuildable> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let stays = |store: StoreId| !self.removed.contains_key(&store);
        let staying = self.record.voters().filter(|peer| stays(StoreId(peer.store_id))).count();
        let new_voters = || self.added.values().filter(|peer| !is_learner(peer));
        if staying + new_voters().count() + self.promoted.len() == 0 {
            return Err(Unbuildable::NoVoterLeft);
        }
        let leads = self.record.leader_store();
        let leader_goes = leads.is_some_and(|store| !stays(store));
        let heir = match self.leader {
            Some(wanted) => Some(wanted),
            None if leader_goes => Some(
                choose_leader(&stays)
                    .or_else(|| new_voters().next().map(|peer| StoreId(peer.store_id)))
                    .or_else(|| self.promoted.first().map(|peer| StoreId(peer.store_id)))
                    .ok_or(Unbuildable::NobodyToLead)?,
            ),
            None => None,
        };
        if heir.is_some_and(|heir| !stays(heir)) {
            return Err(Unbuildable::NobodyToLead);
        }
        let mut steps = Vec::new();
        for peer in &self.promoted {
            steps.push(Step::PromoteLearner(*peer));
        }
        let mut added = self.added.values();
        // Learners and others that do not lead go first, so a leader changes late and once.
        let mut removed: Vec<_> = self.removed.values().collect();
        removed.sort_by_key(|peer| (Some(StoreId(peer.store_id)) == leads, peer.store_id));
        // As many are added before the first removal as keep the count of voters up.
        for gone in removed {
            if let Some(peer) = added.next() {
                self.push_add(&mut steps, peer);
            }
            if Some(StoreId(gone.store_id)) == leads {
                for peer in added.by_ref() {
                    self.push_add(&mut steps, peer);
                }
                self.push_transfer(&mut steps, heir);
            }
            steps.push(Step::RemovePeer(*gone));
        }
        for peer in added {
            self.push_add(&mut steps, peer);
        }
        if !leader_goes {
            self.push_transfer(&mut steps, heir);
        }
        if steps.is_empty() {
            return Err(Unbuildable::NothingToDo);
        }
        Ok(Operator::new(self.description, self.purpose, self.record, steps))
    }

    fn push_add(&self, steps: &mut Vec<Step>, peer: &metapb::Peer) {
        if is_learner(peer) {
            steps.push(Step::AddPeer(*peer));
        } else if self.as_learner {
            let learner = metapb::Peer { role: metapb::PeerRole::Learner.into(), ..*peer };
            steps.push(Step::AddPeer(learner));
            steps.push(Step::PromoteLearner(learner));
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

#[cfg(test)]
mod tests;
