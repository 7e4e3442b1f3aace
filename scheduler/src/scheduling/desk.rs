//! What a scheduler works with for one turn.
//!
//! A turn may make many plans. Each is noted at once, so that the next one sees the stores as the
//! plans before it will leave them, does not touch their regions again, and does not count on tokens
//! that are spent.

use std::collections::BTreeSet;

use proto::{RegionId, StoreId};

use super::dice::Dice;
use crate::cluster::RegionRecord;
use crate::ids::{Ids, Taken};
use crate::operator::influence::Influence;
use crate::operator::store_limit::cost;
use crate::operator::{Builder, Operator, Purpose, Step};
use crate::placement::{Candidate, View};

/// Regions that may be passed over in one turn; then it ends.
const PASSED_OVER_MAX: usize = 16;

/// One turn of one scheduler.
pub struct Desk<'a> {
    view: View<'a>,
    candidates: Vec<Candidate<'a>>,
    ids: &'a mut Ids,
    dice: &'a mut Dice,
    room: usize,
    planned: BTreeSet<RegionId>,
    passed_over: BTreeSet<RegionId>,
    ids_wanted: Option<u64>,
}

impl<'a> Desk<'a> {
    /// A turn with room for so many plans.
    pub fn new(view: View<'a>, ids: &'a mut Ids, dice: &'a mut Dice, room: usize) -> Self {
        Self {
            candidates: view.candidates(),
            view,
            ids,
            dice,
            room,
            planned: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            ids_wanted: None,
        }
    }

    /// What there is to be seen.
    pub fn view(&self) -> View<'a> {
        self.view
    }

    /// The stores, as the plans under way and those of this turn will leave them.
    pub fn candidates(&self) -> &[Candidate<'a>] {
        &self.candidates
    }

    /// One of them.
    pub fn candidate(&self, store: StoreId) -> Option<&Candidate<'a>> {
        self.candidates.iter().find(|candidate| candidate.store.id() == store)
    }

    /// The best store to lead the region among those in `allowed`: the one that will lead fewest.
    pub fn best_leader(
        &self,
        record: &RegionRecord,
        allowed: impl Fn(StoreId) -> bool,
    ) -> Option<StoreId> {
        self.view.best_leader_of(&self.candidates, record, allowed)
    }

    /// Chance.
    pub fn dice(&mut self) -> &mut Dice {
        self.dice
    }

    /// How many more plans there may be in this turn. None, when ids have to be reserved first, or when
    /// too many regions were passed over.
    pub fn room(&self) -> usize {
        if self.ids_wanted.is_some() || self.passed_over.len() >= PASSED_OVER_MAX {
            return 0;
        }
        self.room.saturating_sub(self.planned.len())
    }

    /// Whether nobody has a plan for the region.
    pub fn is_free(&self, region: RegionId) -> bool {
        self.view.operators.of(region).is_none()
            && !self.planned.contains(&region)
            && !self.passed_over.contains(&region)
    }

    /// No plan could be made for the region: it is looked at no more in this turn.
    pub fn pass_over(&mut self, region: RegionId) {
        self.passed_over.insert(region);
    }

    /// An id for a new peer; `None` when ids have to be reserved first. The turn ends then.
    pub fn take_id(&mut self) -> Option<u64> {
        match self.ids.take(1) {
            Taken::Block(block) => Some(*block.start()),
            Taken::NeedBound(bound) => {
                self.ids_wanted = self.ids_wanted.max(Some(bound));
                None
            }
        }
    }

    /// A bound of ids that has to be saved, if somebody asked in vain.
    pub fn ids_wanted(&self) -> Option<u64> {
        self.ids_wanted
    }

    /// The lead of the region goes to a voter on that store; noted.
    pub fn transfer_leader(
        &mut self,
        description: &'static str,
        purpose: Purpose,
        record: &RegionRecord,
        to: StoreId,
    ) -> Option<Operator> {
        let from = record.leader_store().filter(|from| *from != to)?;
        let steps = vec![Step::TransferLeader { from, to }];
        let operator = Operator::new(description, purpose, record, steps);
        self.note(&operator, record);
        Some(operator)
    }

    /// The peer on one store goes, after another store has got one of the same role; noted.
    pub fn move_peer(
        &mut self,
        description: &'static str,
        purpose: Purpose,
        record: &RegionRecord,
        from: StoreId,
        to: StoreId,
    ) -> Option<Operator> {
        let is_learner = record.peer_on(from).is_some_and(proto::region::is_learner);
        let id = self.take_id()?;
        let builder = Builder::new(description, purpose, record, self.view.policy);
        let builder =
            if is_learner { builder.add_learner(to, id) } else { builder.add_peer(to, id) };
        let view = self.view;
        let operator =
            builder.remove_peer(from).build(|stays| view.best_leader(record, stays)).ok()?;
        self.note(&operator, record);
        Some(operator)
    }

    /// A plan of this turn: the stores are seen as it will leave them from now on.
    pub fn note(&mut self, operator: &Operator, record: &RegionRecord) {
        self.planned.insert(operator.region);
        let tokens = cost(record.size_mib());
        for (store, change) in Influence::of(operator, record.size_mib()) {
            let mut candidates = self.candidates.iter_mut();
            if let Some(candidate) = candidates.find(|candidate| candidate.store.id() == store) {
                candidate.influence.add(change, 1);
            }
        }
        for step in operator.steps() {
            let (store, is_added) = match step {
                Step::AddPeer(peer) => (StoreId(peer.store_id), true),
                Step::RemovePeer(peer) => (StoreId(peer.store_id), false),
                Step::PromoteLearner(_)
                | Step::DemoteVoter(_)
                | Step::TransferLeader { .. }
                | Step::EnterJoint(_)
                | Step::LeaveJoint(_)
                | Step::Split { .. } => continue,
            };
            let mut candidates = self.candidates.iter_mut();
            if let Some(candidate) = candidates.find(|candidate| candidate.store.id() == store) {
                let spent = if is_added {
                    &mut candidate.spent.adding
                } else {
                    &mut candidate.spent.removing
                };
                *spent += tokens;
            }
        }
    }
}
