//! The store's clock: microseconds since the driver started.
//!
//! It is the system's clock that goes on while the machine sleeps: a lease must end meanwhile. Beside it stands
//! one that nobody steers and that does not count sleep, to be compared with it
//! ([`ClockTrust`](crate::clock_trust::ClockTrust)). Where the system has only one, that is all there is.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::clock_trust::Reading;
use crate::msg::Now;

/// Which clock tells the time, the best first.
#[cfg(target_os = "linux")]
const OWN: [ClockId; 2] = [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC];
#[cfg(not(target_os = "linux"))]
const OWN: [ClockId; 1] = [ClockId::CLOCK_MONOTONIC];

/// Which clock is compared with it.
#[cfg(target_os = "linux")]
const OTHER: Option<ClockId> = Some(ClockId::CLOCK_MONOTONIC_RAW);
#[cfg(not(target_os = "linux"))]
const OTHER: Option<ClockId> = None;

/// Tells the time to one store and everybody who reads from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    own: ClockId,
    start: u64,
}

impl Clock {
    /// A clock that begins at zero.
    pub(crate) fn start() -> Self {
        let works = OWN.into_iter().find(|clock| micros_of(*clock).is_some());
        let own = works.unwrap_or(ClockId::CLOCK_MONOTONIC);
        Self { own, start: micros_of(own).unwrap_or_default() }
    }

    /// Now.
    pub(crate) fn now(self) -> Now {
        let micros = micros_of(self.own).expect("a clock that told the time at start does so");
        Now(micros - self.start)
    }

    /// Both clocks.
    pub(crate) fn read(self) -> Reading {
        let before = self.now();
        let other = OTHER.and_then(micros_of).map(Now);
        let own = self.now();
        Reading { own, other, apart: own.since(before) }
    }

    /// When this clock will say this, on the clock by which threads wait.
    pub(crate) fn instant_of(self, now: Now) -> Instant {
        Instant::now() + Duration::from_micros(now.since(self.now()))
    }
}

fn micros_of(clock: ClockId) -> Option<u64> {
    let time = Duration::from(clock_gettime(clock).ok()?);
    u64::try_from(time.as_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_forward_and_agree_about_how_far() {
        let clock = Clock::start();
        let first = clock.read();
        let mut last = first;
        // As long as it takes for a difference to be worth comparing.
        while last.own.since(first.own) < 20_000 {
            let next = clock.read();
            assert!(next.own >= last.own && next.other >= last.other, "{next:?} after {last:?}");
            last = next;
        }
        let waited = clock.instant_of(last.own.plus(1_000));
        assert!(waited <= Instant::now() + Duration::from_millis(2));
        if let (Some(first_other), Some(other)) = (first.other, last.other) {
            let (by_own, by_other) = (last.own.since(first.own), other.since(first_other));
            let apart = first.apart + last.apart + 20_000;
            assert!(by_own.abs_diff(by_other) <= apart, "{by_own} against {by_other}");
        }
    }
}
