//! How long between tries, and when to give up.
//!
//! [`Backoff`] is a machine: it has no clock. Each reason to wait has its own staircase, so that a
//! long wait for a lock does not slow down the search for a new leader. Steps double up to the
//! staircase's top, with jitter (between half and all of the step) so that clients refused together
//! do not come back together. The budget is the caller's deadline: a wait never reaches beyond it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How often in a row a try may follow at once. Two stores that name each other as the leader would
/// otherwise keep the client running in circles.
const IMMEDIATE_TRIES_MAX: u32 = 3;

/// Why the next try has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Better information came with the answer: go there at once.
    None,
    /// The region has no leader that anybody knows, or its map is in flux.
    Region,
    /// The store reached a limit; it may have said for how long.
    Busy(Duration),
    /// The store does not answer.
    Unreachable,
    /// The scheduler does not answer or does not lead.
    Scheduler,
    /// A lock of a living transaction; it lives this long unless it is prolonged.
    Lock(Duration),
    /// A transaction met another and is run again.
    Conflict,
}

/// The staircases climbed so far.
#[derive(Debug)]
pub(crate) struct Backoff {
    rng: StdRng,
    immediate: u32,
    steps: [u32; 6],
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), immediate: 0, steps: [0; 6] }
    }

    /// A staircase of its own for a part of the call that goes on alone.
    pub(crate) fn fork(&mut self) -> Self {
        Self { rng: StdRng::seed_from_u64(self.rng.random()), ..*self }
    }

    /// How long to wait now, of what remains of the budget; `None` when nothing remains.
    pub(crate) fn next(&mut self, pause: Pause, remaining: Duration) -> Option<Duration> {
        if remaining.is_zero() {
            return None;
        }
        if pause == Pause::None {
            self.immediate += 1;
            if self.immediate <= IMMEDIATE_TRIES_MAX {
                return Some(Duration::ZERO);
            }
        } else {
            self.immediate = 0;
        }
        let (stair, first_ms, top_ms) = match pause {
            Pause::None | Pause::Region => (0, 2, 500),
            Pause::Busy(_) => (1, 20, 2_000),
            Pause::Unreachable => (2, 10, 1_000),
            Pause::Scheduler => (3, 10, 500),
            Pause::Lock(_) => (4, 5, 500),
            Pause::Conflict => (5, 5, 500),
        };
        let step = self.steps[stair];
        self.steps[stair] = step.saturating_add(1);
        let full_us = (first_ms << step.min(16)).min(top_ms) * 1_000;
        let drawn = Duration::from_micros(self.rng.random_range(full_us / 2..=full_us));
        let wait = match pause {
            // The store knows better than the staircase.
            Pause::Busy(told) if !told.is_zero() => told.max(drawn),
            // Looking again long after the lock has expired helps nobody.
            Pause::Lock(lives) => drawn.min(lives.max(Duration::from_millis(first_ms))),
            Pause::Busy(_)
            | Pause::None
            | Pause::Region
            | Pause::Unreachable
            | Pause::Scheduler
            | Pause::Conflict => drawn,
        };
        Some(wait.min(remaining))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn waits_grow_to_the_top_and_stay_within_their_jitter() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<_> = (0..12).filter_map(|_| backoff.next(Pause::Region, LONG)).collect();
        for (number, wait) in waits.iter().enumerate() {
            let full = Duration::from_millis((2u64 << number).min(500));
            assert!(*wait <= full && *wait >= full / 2, "step {number} waits {wait:?}");
        }
    }

    #[test]
    fn the_same_seed_waits_the_same() {
        let draw = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..20).map(|_| backoff.next(Pause::Busy(Duration::ZERO), LONG)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn running_in_circles_ends_in_a_wait() {
        let mut backoff = Backoff::new(1);
        for _ in 0..IMMEDIATE_TRIES_MAX {
            assert_eq!(backoff.next(Pause::None, LONG), Some(Duration::ZERO));
        }
        assert!(backoff.next(Pause::None, LONG).is_some_and(|wait| !wait.is_zero()));
    }

    #[test]
    fn no_wait_reaches_beyond_the_budget() {
        let mut backoff = Backoff::new(1);
        let told = Pause::Busy(Duration::from_secs(60));
        assert_eq!(backoff.next(told, Duration::from_millis(3)), Some(Duration::from_millis(3)));
        assert_eq!(backoff.next(Pause::None, Duration::ZERO), None);
    }

    #[test]
    fn one_staircase_does_not_lengthen_another() {
        let mut backoff = Backoff::new(1);
        for _ in 0..20 {
            backoff.next(Pause::Lock(LONG), LONG);
        }
        assert!(backoff.next(Pause::Region, LONG).unwrap() <= Duration::from_millis(2));
    }
}
