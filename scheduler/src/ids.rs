//! Unique ids, reserved ahead.
//!
//! Stores, regions, peers and keyspaces draw from one counter, so that no id ever means two
//! things. Like [`crate::timestamps`]: only the leader of the scheduler group hands ids out, from
//! memory, and never past a bound that the group's log already holds. A new leader goes on above
//! the bound it finds; what the old one had reserved and not used is a gap, never a repeat.

use std::ops::RangeInclusive;

/// How many ids are reserved at once. A leader that crashes wastes at most this many.
pub const BLOCK: u64 = 1_000;

/// A reservation is renewed in the background when fewer than this many are left.
pub const RENEW_WHEN_LEFT: u64 = BLOCK / 2;

/// Ids one request may ask for; a larger wish is cut down to this, and the answer says so.
pub const COUNT_MAX: u64 = 1_000_000;

/// What became of a request for ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// These are the caller's, for ever.
    Block(RangeInclusive<u64>),
    /// Nothing was given. Save this bound through the group, say so with [`Ids::bound_saved`],
    /// and ask again.
    NeedBound(u64),
}

/// Hands out ids for one leadership.
#[derive(Clone, Debug)]
pub struct Ids {
    last: u64,
    /// Durable; ids above it may not be given.
    bound: u64,
}

impl Ids {
    /// Begins a leadership; every id up to `saved_bound` may have been given by others.
    pub fn begin(saved_bound: u64) -> Self {
        Self { last: saved_bound, bound: saved_bound }
    }

    /// Takes `count` consecutive ids; zero counts as one.
    pub fn take(&mut self, count: u64) -> Taken {
        let count = count.clamp(1, COUNT_MAX);
        let last = self.last + count;
        if last > self.bound {
            return Taken::NeedBound(last + BLOCK);
        }
        let first = self.last + 1;
        self.last = last;
        Taken::Block(first..=last)
    }

    /// A bound to save in the background, before a request must wait for it. Call it on ticks.
    pub fn wants_bound(&self) -> Option<u64> {
        (self.bound - self.last < RENEW_WHEN_LEFT).then_some(self.last + BLOCK)
    }

    /// The bound is durable on a quorum; an older one changes nothing.
    pub fn bound_saved(&mut self, bound: u64) {
        self.bound = self.bound.max(bound);
    }

    /// The durable bound.
    pub fn bound(&self) -> u64 {
        self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_waits_for_a_reservation() {
        let mut ids = Ids::begin(0);
        assert_eq!(ids.take(1), Taken::NeedBound(1_001));
        ids.bound_saved(1_001);
        assert_eq!(ids.take(1), Taken::Block(1..=1));
        assert_eq!(ids.take(0), Taken::Block(2..=2), "zero counts as one");
        assert_eq!(ids.take(10), Taken::Block(3..=12));
    }

    #[test]
    fn a_new_leader_never_repeats_what_an_old_one_may_have_given() {
        let mut old = Ids::begin(0);
        old.bound_saved(1_000);
        let Taken::Block(given) = old.take(700) else { panic!("reserved") };
        let mut new = Ids::begin(old.bound());
        new.bound_saved(3_000);
        let Taken::Block(next) = new.take(1) else { panic!("reserved") };
        assert!(next.start() > given.end());
        assert_eq!(next, 1_001..=1_001);
    }

    #[test]
    fn a_block_larger_than_the_reservation_asks_for_enough() {
        let mut ids = Ids::begin(10);
        ids.bound_saved(100);
        let Taken::NeedBound(bound) = ids.take(5_000) else { panic!("not reserved") };
        ids.bound_saved(bound);
        assert_eq!(ids.take(5_000), Taken::Block(11..=5_010));
    }

    #[test]
    fn a_reservation_is_renewed_before_it_runs_out() {
        let mut ids = Ids::begin(0);
        assert_eq!(ids.wants_bound(), Some(1_000));
        ids.bound_saved(1_000);
        assert_eq!(ids.wants_bound(), None);
        ids.take(501);
        assert_eq!(ids.wants_bound(), Some(1_501));
        ids.bound_saved(900);
        assert_eq!(ids.bound(), 1_000, "a late answer does not take ids back");
    }
}
