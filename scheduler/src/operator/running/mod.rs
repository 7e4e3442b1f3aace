//! What is under way: one plan a region, limits, repeated orders, and an end for each.
//!
//! A plan is let in when its region is free, its purpose's limit allows, and so do the limits of the
//! stores that it moves peers to and from ([`super::store_limit`]).
//!
//! Everything here is driven from two sides: a region's heartbeat shows what has been done and
//! takes the next order with it; the scheduler's tick repeats orders that may have been lost and
//! ends plans that take too long.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use proto::{RegionId, StoreId, pdpb};

pub use super::influence::Influence;
use super::store_limit::{Direction, StoreLimits, cost};
use super::{Operator, Priority, Purpose, Status, Step};
use crate::cluster::{Moment, Policy, RegionRecord, Regions};

/// Finished plans that are remembered; the oldest is forgotten for a new one.
pub const HISTORY_MAX: usize = 1_000;

/// For how long a finished plan is reported to those who ask for a region's operator.
pub const REPORTED_FOR_MS: u64 = 10 * 60 * 1_000;

/// A plan whose first order could not go out for so long is given up: what it rests on is old.
pub const EXPIRES_AFTER_MS: u64 = 3_000;

/// Why a plan was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The region is not known.
    UnknownRegion,
    /// The region has changed since the plan was made.
    EpochMoved,
    /// Another plan for the region is under way and is not less urgent.
    Busy(&'static str),
    /// So many plans of this purpose are under way already.
    Limit(usize),
    /// The store may not be given, or relieved of, more peers at the moment.
    StoreLimit(StoreId, Direction),
    /// The first step is impossible or unsafe.
    Obstacle(String),
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRegion => f.write_str("the region is not known"),
            Self::EpochMoved => f.write_str("the region has changed since the plan was made"),
            Self::Busy(with) => write!(f, "{with} is under way"),
            Self::Limit(limit) => write!(f, "{limit} operators of its purpose are under way"),
            Self::StoreLimit(store, direction) => {
                write!(f, "the limit of {store} for {} is used up for now", direction.name())
            }
            Self::Obstacle(why) => f.write_str(why),
        }
    }
}

/// A plan that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The plan, as far as it came.
    pub operator: Operator,
    /// How it ended; never `Running`.
    pub status: Status,
    /// When, by the steady clock.
    pub at_ms: u64,
    /// When, by the wall clock, for people.
    pub at_wall_ms: u64,
}

/// A plan, and how it stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The plan, as far as it came.
    pub operator: &'a Operator,
    /// Its end; `None` while it is under way.
    pub finished: Option<&'a Finished>,
}

impl<'a> From<&'a Finished> for Standing<'a> {
    fn from(finished: &'a Finished) -> Self {
        Self { operator: &finished.operator, finished: Some(finished) }
    }
}

impl Standing<'_> {
    /// How it stands, or ended.
    pub fn status(&self) -> &Status {
        self.finished.map_or(&Status::Running, |finished| &finished.status)
    }

    /// Why it was given up; `None` when it was not.
    pub fn reason(&self) -> Option<&str> {
        match self.status() {
            Status::Cancel(reason) => Some(reason),
            Status::Expired => Some("nobody leads the region, so nobody could be told"),
            Status::Running | Status::Success | Status::Timeout | Status::Replace => None,
        }
    }

    /// For how long it has been, or was, under way, in milliseconds.
    pub fn duration_ms(&self, moment: Moment) -> u64 {
        let until = self.finished.map_or(moment.steady_ms, |finished| finished.at_ms);
        until.saturating_sub(self.operator.taken.steady_ms)
    }
}

/// A plan under way, and what it will still change.
#[derive(Clone, Debug)]
struct Running {
    operator: Operator,
    influence: BTreeMap<StoreId, Influence>,
}

/// All plans under way.
#[derive(Clone, Debug, Default)]
pub struct RunningOperators {
    by_region: BTreeMap<RegionId, Running>,
    counts: BTreeMap<Purpose, usize>,
    influence: BTreeMap<StoreId, Influence>,
    limits: StoreLimits,
    history: VecDeque<Finished>,
    last_number: u64,
}

impl RunningOperators {
    /// Takes a plan, if its region is free (or its present plan less urgent), unchanged, and the
    /// limit of its purpose allows. The first order goes out with the next heartbeat or tick.
    pub fn add(
        &mut self,
        operator: Operator,
        record: Option<&RegionRecord>,
        policy: &Policy,
        moment: Moment,
    ) -> Result<(), Declined> {
        let record = record.ok_or(Declined::UnknownRegion)?;
        if record.epoch() != operator.epoch {
            return Err(Declined::EpochMoved);
        }
        if let Some(present) = self.of(operator.region)
            && present.priority >= operator.priority
        {
            return Err(Declined::Busy(present.description));
        }
        if let Some(limit) = limit_of(operator.purpose, policy)
            && self.count(operator.purpose) >= limit
        {
            return Err(Declined::Limit(limit));
        }
        let first = operator.current_step();
        if let Some(obstacle) = first.and_then(|step| step.obstacle_to_begin(record)) {
            return Err(Declined::Obstacle(obstacle));
        }
        self.check_store_limits(&operator, record, policy, moment)?;
        let region = operator.region;
        self.finish(region, Status::Replace, moment);
        self.take_store_limits(&operator, record, policy, moment);
        // By the wall clock, so that the plans of a later leader of the scheduler have others.
        self.last_number = moment.wall_ms.max(self.last_number + 1);
        let begun = Operator {
            number: self.last_number,
            taken: moment,
            step_begun_ms: moment.steady_ms,
            ..operator
        };
        *self.counts.entry(begun.purpose).or_default() += 1;
        self.by_region.insert(region, Running { operator: begun, influence: BTreeMap::new() });
        self.weigh(region, record.size_mib());
        Ok(())
    }

    /// What the plan wants of the limits of stores: tokens by store and direction.
    fn wanted_tokens(
        operator: &Operator,
        record: &RegionRecord,
    ) -> impl Iterator<Item = (StoreId, Direction, u64)> {
        let tokens = if operator.skips_store_limits { 0 } else { cost(record.size_mib()) };
        operator.steps().iter().filter_map(move |step| match step {
            Step::AddPeer(peer) => Some((StoreId(peer.store_id), Direction::AddPeer, tokens)),
            Step::RemovePeer(peer) => {
                let store = StoreId(peer.store_id);
                let is_free = operator.freed_stores.contains(&store);
                let tokens = if is_free { 0 } else { tokens };
                Some((store, Direction::RemovePeer, tokens))
            }
            Step::PromoteLearner(_)
            | Step::DemoteVoter(_)
            | Step::TransferLeader { .. }
            | Step::EnterJoint(_)
            | Step::LeaveJoint(_)
            | Step::Split { .. } => None,
        })
    }

    fn check_store_limits(
        &self,
        operator: &Operator,
        record: &RegionRecord,
        policy: &Policy,
        moment: Moment,
    ) -> Result<(), Declined> {
        if operator.purpose == Purpose::Admin {
            return Ok(());
        }
        for (store, direction, tokens) in Self::wanted_tokens(operator, record) {
            let rate = policy.store_rates(store).of(direction);
            if self.limits.tokens(store, direction, rate, moment) < tokens {
                return Err(Declined::StoreLimit(store, direction));
            }
        }
        Ok(())
    }

    fn take_store_limits(
        &mut self,
        operator: &Operator,
        record: &RegionRecord,
        policy: &Policy,
        moment: Moment,
    ) {
        for (store, direction, tokens) in Self::wanted_tokens(operator, record) {
            let rate = policy.store_rates(store).of(direction);
            self.limits.take(store, direction, rate, tokens, moment);
        }
    }

    /// Counts again what the region's plan will still change.
    fn weigh(&mut self, region: RegionId, size_mib: u64) {
        let Some(running) = self.by_region.get_mut(&region) else { return };
        let now = Influence::of(&running.operator, size_mib);
        let before = std::mem::replace(&mut running.influence, now.clone());
        self.change_influence(&before, -1);
        self.change_influence(&now, 1);
    }

    fn change_influence(&mut self, by_store: &BTreeMap<StoreId, Influence>, sign: i64) {
        for (store, change) in by_store {
            let sum = self.influence.entry(*store).or_default();
            sum.add(*change, sign);
            if *sum == Influence::default() {
                self.influence.remove(store);
            }
        }
    }

    /// A heartbeat shows the region: goes on with its plan, or ends it. Returns the order to
    /// send, if one is due.
    pub fn on_heartbeat(
        &mut self,
        record: &RegionRecord,
        moment: Moment,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        self.drive(record, moment)
    }

    /// Time passes: repeats orders that seem lost, ends plans that take too long or whose region
    /// is gone. Returns the orders to send.
    pub fn tick(
        &mut self,
        regions: &Regions,
        moment: Moment,
    ) -> Vec<pdpb::RegionHeartbeatResponse> {
        let planned: Vec<_> = self.by_region.keys().copied().collect();
        planned
            .into_iter()
            .filter_map(|region| match regions.by_id(region) {
                Some(record) => self.drive(record, moment),
                None => {
                    self.miss(region, moment);
                    None
                }
            })
            .collect()
    }

    /// The region is out of sight, and its plan ends. But one that is being split comes back: a new part
    /// that was heard first has taken the place of the whole.
    fn miss(&mut self, region: RegionId, moment: Moment) {
        let Some(operator) = self.of(region) else { return };
        let waited_ms = moment.steady_ms.saturating_sub(operator.step_begun_ms);
        let may_come_back = operator.current_step().is_some_and(|step| {
            matches!(step, Step::Split { .. }) && waited_ms < step.timeout_ms(0)
        });
        if !may_come_back {
            self.finish(region, Status::Cancel("the region is gone".into()), moment);
        }
    }

    fn drive(
        &mut self,
        record: &RegionRecord,
        moment: Moment,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        let operator = &mut self.by_region.get_mut(&record.id())?.operator;
        operator.advance(record, moment);
        let has_begun = operator.current > 0 || operator.ordered_at_ms.is_some();
        let end = match operator.current_step() {
            None => Some(Status::Success),
            Some(step) => {
                // Somebody else changes the peers too: what we planned may no longer be right.
                let moved = record.epoch().conf_ver.saturating_sub(operator.epoch.conf_ver);
                let waited_ms = moment.steady_ms.saturating_sub(operator.step_begun_ms);
                if moved > operator.conf_ver_explained(record) {
                    Some(Status::Cancel("the region's peers were changed by others".into()))
                } else if let Some(obstacle) = step.obstacle(record) {
                    Some(Status::Cancel(obstacle))
                } else if !has_begun && record.leader.is_none() && waited_ms >= EXPIRES_AFTER_MS {
                    Some(Status::Expired)
                } else if waited_ms >= step.timeout_ms(record.size_mib()) {
                    Some(Status::Timeout)
                } else {
                    None
                }
            }
        };
        if let Some(status) = end {
            self.finish(record.id(), status, moment);
            return None;
        }
        let step = operator.current_step()?.clone();
        let is_due = operator
            .ordered_at_ms
            .is_none_or(|at_ms| moment.steady_ms.saturating_sub(at_ms) >= step.resend_ms());
        // Nobody to order before a leader is known.
        let order = (is_due && record.leader.is_some()).then(|| {
            operator.ordered_at_ms = Some(moment.steady_ms);
            step.order(record)
        });
        self.weigh(record.id(), record.size_mib());
        order
    }

    /// Gives a plan up; `false` when there is none.
    pub fn cancel(&mut self, region: RegionId, reason: &str, moment: Moment) -> bool {
        self.finish(region, Status::Cancel(reason.into()), moment)
    }

    fn finish(&mut self, region: RegionId, status: Status, moment: Moment) -> bool {
        let Some(Running { operator, influence }) = self.by_region.remove(&region) else {
            return false;
        };
        self.change_influence(&influence, -1);
        if let Some(count) = self.counts.get_mut(&operator.purpose) {
            *count -= 1;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Finished {
            operator,
            status,
            at_ms: moment.steady_ms,
            at_wall_ms: moment.wall_ms,
        });
        true
    }

    /// The plan under way for the region.
    pub fn of(&self, region: RegionId) -> Option<&Operator> {
        self.by_region.get(&region).map(|running| &running.operator)
    }

    /// All plans under way, by region.
    pub fn running(&self) -> impl Iterator<Item = &Operator> {
        self.by_region.values().map(|running| &running.operator)
    }

    /// What the limits of stores have left.
    pub fn limits(&self) -> &StoreLimits {
        &self.limits
    }

    /// A store that is gone is limited no more.
    pub fn forget_store(&mut self, store: StoreId) {
        self.limits.forget(store);
    }

    /// The plans that ended, the latest first.
    pub fn history(&self) -> impl Iterator<Item = &Finished> {
        self.history.iter().rev()
    }

    /// How many plans of this purpose are under way.
    pub fn count(&self, purpose: Purpose) -> usize {
        self.counts.get(&purpose).copied().unwrap_or(0)
    }

    /// How many more plans of this purpose there may be.
    pub fn room(&self, purpose: Purpose, policy: &Policy) -> usize {
        limit_of(purpose, policy).unwrap_or(usize::MAX).saturating_sub(self.count(purpose))
    }

    /// The region's plan under way, or the last one that ended a short while ago; with a number
    /// the plan of that number, however long ago it ended.
    pub fn standing(
        &self,
        region: RegionId,
        number: Option<u64>,
        moment: Moment,
    ) -> Option<Standing<'_>> {
        let is_meant = |operator: &Operator| number.is_none_or(|number| operator.number == number);
        if let Some(operator) = self.of(region).filter(|operator| is_meant(operator)) {
            return Some(Standing { operator, finished: None });
        }
        self.history()
            .filter(|finished| finished.operator.region == region)
            .find(|finished| is_meant(&finished.operator))
            .filter(|finished| {
                let age_ms = moment.steady_ms.saturating_sub(finished.at_ms);
                number.is_some() || age_ms <= REPORTED_FOR_MS
            })
            .map(Standing::from)
    }

    /// How the region's plan stands, or how its last one ended a short while ago.
    pub fn status(&self, region: RegionId, moment: Moment) -> Option<pdpb::GetOperatorResponse> {
        self.standing(region, None, moment).map(|standing| pdpb::GetOperatorResponse {
            header: None,
            region_id: region.0,
            desc: standing.operator.description.into(),
            status: standing.status().to_wire().into(),
            kind: standing.operator.kind().into(),
        })
    }

    /// What the plans under way will change, by store.
    pub fn influence(&self) -> &BTreeMap<StoreId, Influence> {
        &self.influence
    }
}

/// How many plans of this purpose may be under way at once.
pub fn limit_of(purpose: Purpose, policy: &Policy) -> Option<usize> {
    match purpose {
        Purpose::Admin | Purpose::Split | Purpose::Scatter => None,
        Purpose::Hot => Some(policy.hot_region_schedule_limit),
        Purpose::Replica => Some(policy.replica_schedule_limit),
        Purpose::Leader => Some(policy.leader_schedule_limit),
        Purpose::Region => Some(policy.region_schedule_limit),
    }
}

impl Priority {
    /// The priority as tools name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }
}

#[cfg(test)]
mod tests;
