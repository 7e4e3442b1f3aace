//! What a leader owes before it may serve, and while it does.
//!
//! ```text
//!  elected ──► own entry applied ──► cluster id and bounds applied ──► serving ──► deposed
//!               the order of the past      nothing older can              lease
//!               is complete                be handed out again            required
//! ```
//!
//! A [`Reign`] is made when an entry of the leader's own term has been applied, and dropped when
//! the leadership ends; a leader that comes back gets a new one. So nothing that an earlier reign
//! had in memory can be served again.
//!
//! Invariants
//! - Timestamps and ids are granted only below bounds that the group's log holds.
//! - The bounds of this reign lie above every bound that any earlier reign had.
//!
//! The lease is not looked at here: whoever answers checks it after the grant, on the clock.

use proto::Timestamp;
use proto::schedulerpb::Change;

use super::machine::State;
use crate::cluster::Moment;
use crate::ids::{Ids, Taken};
use crate::timestamps::{Answer, ClockNews, Refused, Timestamps};

/// A bound that was proposed and has not come back after this long is proposed again.
const ASK_AGAIN_AFTER_MS: u64 = 1_000;

/// Why nothing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// A bound must be saved first: propose what [`Reign::wants`] says, wait, and ask again.
    NeedBound,
    /// Not this many, or not now.
    Refused(Refused),
}

/// One leadership of one member.
#[derive(Debug)]
pub struct Reign {
    term: u64,
    cluster_id: u64,
    found_bound_ms: u64,
    timestamps: Timestamps,
    ids: Ids,
    timestamp_bound: Wanted,
    id_bound: Wanted,
    founding: Wanted,
}

impl Reign {
    /// Begins. The state holds everything committed before, and an entry of this term.
    pub fn begin(term: u64, state: &State, moment: Moment) -> Self {
        Self {
            term,
            cluster_id: state.cluster_id(),
            found_bound_ms: state.timestamp_bound_ms(),
            timestamps: Timestamps::begin(state.timestamp_bound_ms(), moment),
            ids: Ids::begin(state.id_bound()),
            timestamp_bound: Wanted::default(),
            id_bound: Wanted::default(),
            founding: Wanted::default(),
        }
    }

    /// The term of this leadership.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether clients may be served.
    pub fn is_ready(&self) -> bool {
        self.cluster_id != 0 && self.timestamps.bound_ms() > self.found_bound_ms
    }

    /// What should be proposed now, if anything. `random` becomes the cluster's id if it has none.
    /// Call it on ticks, and after [`NotYet::NeedBound`].
    pub fn wants(&mut self, moment: Moment, random: u64) -> Option<Change> {
        let bound_ms = self.timestamps.wants_bound(moment);
        let bound_ms = bound_ms.max(self.timestamp_bound.needed(self.timestamps.bound_ms()));
        let id_bound = self.ids.wants_bound().max(self.id_bound.needed(self.ids.bound()));
        let cluster_id = (self.cluster_id == 0).then_some(random.max(1));
        let change = Change {
            cluster_id: self.founding.ask(cluster_id, moment).unwrap_or_default(),
            timestamp_bound_ms: self.timestamp_bound.ask(bound_ms, moment).unwrap_or_default(),
            id_bound: self.id_bound.ask(id_bound, moment).unwrap_or_default(),
            ..Change::default()
        };
        (change != Change::default()).then_some(change)
    }

    /// What people should know of this member's clock. Call it on ticks, after [`Self::wants`].
    pub fn clock_news(&mut self) -> Option<ClockNews> {
        self.timestamps.clock_news()
    }

    /// A change has been applied, by whomever it was proposed.
    pub fn on_applied(&mut self, change: &Change) {
        if self.cluster_id == 0 {
            self.cluster_id = change.cluster_id;
        }
        self.timestamps.bound_saved(change.timestamp_bound_ms);
        self.ids.bound_saved(change.id_bound);
    }

    /// Grants `count` timestamps; the largest is returned.
    pub fn grant(&mut self, count: u32, moment: Moment) -> Result<Timestamp, NotYet> {
        match self.timestamps.grant(count, moment) {
            Answer::Granted { last } => Ok(last),
            Answer::NeedBound(bound_ms) => {
                self.timestamp_bound.need(bound_ms);
                Err(NotYet::NeedBound)
            }
            Answer::Refused(refused) => Err(NotYet::Refused(refused)),
        }
    }

    /// The ids of this reign, for those who take them in the course of deciding. A bound that
    /// they then need is asked for by [`Reign::need_ids`].
    pub fn ids_mut(&mut self) -> &mut Ids {
        &mut self.ids
    }

    /// Somebody needs ids up to this bound; [`Reign::wants`] will ask for it.
    pub fn need_ids(&mut self, bound: u64) {
        self.id_bound.need(bound);
    }

    /// Takes `count` consecutive ids; the largest is returned. A count of 0 is 1.
    pub fn take_ids(&mut self, count: u64) -> Result<u64, NotYet> {
        match self.ids.take(count) {
            Taken::Block(block) => Ok(*block.end()),
            Taken::NeedBound(bound) => {
                self.need_ids(bound);
                Err(NotYet::NeedBound)
            }
        }
    }
}

/// A bound on its way through the log.
#[derive(Debug, Default)]
struct Wanted {
    needed: u64,
    asked: u64,
    asked_at_ms: u64,
}

impl Wanted {
    fn need(&mut self, bound: u64) {
        self.needed = self.needed.max(bound);
    }

    fn needed(&self, saved: u64) -> Option<u64> {
        (self.needed > saved).then_some(self.needed)
    }

    /// The bound, unless one as high is on its way already.
    fn ask(&mut self, bound: Option<u64>, moment: Moment) -> Option<u64> {
        let bound = bound?;
        let waiting = moment.steady_ms < self.asked_at_ms + ASK_AGAIN_AFTER_MS;
        if self.asked != 0 && waiting && bound <= self.asked.saturating_add(self.slack()) {
            return None;
        }
        self.asked = bound;
        self.asked_at_ms = moment.steady_ms;
        Some(bound)
    }

    /// A moving target (the clock drives the timestamps' bound) is not asked for at every step.
    fn slack(&self) -> u64 {
        if self.needed > self.asked { 0 } else { u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { steady_ms: ms, wall_ms: 1_000_000 + ms }
    }

    #[test]
    fn a_reign_serves_only_after_its_first_bounds_are_applied() {
        let mut state = State::founding([], 1, 1);
        let mut reign = Reign::begin(2, &state, at(0));
        assert!(!reign.is_ready());
        assert_eq!(reign.grant(1, at(0)), Err(NotYet::NeedBound));
        let change = reign.wants(at(0), 42).expect("a new cluster needs everything");
        assert_eq!(change.cluster_id, 42);
        assert_eq!(reign.wants(at(50), 43), None, "it is on its way");
        state.apply(2, 2, change.clone());
        reign.on_applied(&change);
        assert!(reign.is_ready());
        assert!(reign.grant(1, at(50)).is_ok());
        assert_eq!(reign.take_ids(1), Ok(1));
    }

    #[test]
    fn the_next_reign_grants_only_above_the_last() {
        let mut state = State::founding([], 1, 1);
        let (mut last, mut highest_id) = (Timestamp::ZERO, 0);
        for term in 2..20 {
            // Each leader's clock is a second behind the one before.
            let moment = at(100_000 - term * 1_000);
            let mut reign = Reign::begin(term, &state, moment);
            let change = reign.wants(moment, 42).unwrap();
            state.apply(term, term, change.clone());
            reign.on_applied(&change);
            let first = reign.grant(1, moment).unwrap();
            assert!(first > last, "term {term}: {first} after {last}");
            last = reign.grant(100, moment).unwrap();
            let id = reign.take_ids(3).unwrap();
            assert!(id >= highest_id + 3);
            highest_id = id;
        }
    }

    #[test]
    fn a_bound_that_got_lost_is_asked_for_again() {
        let state = State::founding([], 1, 1);
        let mut reign = Reign::begin(2, &state, at(0));
        assert!(reign.wants(at(0), 1).is_some());
        assert!(reign.wants(at(ASK_AGAIN_AFTER_MS - 1), 1).is_none());
        assert!(reign.wants(at(ASK_AGAIN_AFTER_MS), 1).is_some());
    }

    #[test]
    fn a_request_that_needs_more_than_is_on_its_way_asks_at_once() {
        let state = State::founding([], 1, 1);
        let mut reign = Reign::begin(2, &state, at(0));
        let change = reign.wants(at(0), 1).unwrap();
        reign.on_applied(&change);
        assert_eq!(reign.take_ids(100_000), Err(NotYet::NeedBound));
        let more = reign.wants(at(1), 1).expect("a larger block");
        reign.on_applied(&more);
        assert!(reign.take_ids(100_000).is_ok());
    }
}
