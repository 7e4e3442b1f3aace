//! How far ahead of time a timestamp may lie.
//!
//! Whoever reads at a timestamp raises the newest read of the store ([`super::memory_locks`]), and commits that
//! take a short cut lie above it. So one read at a timestamp that nobody was given, a digit too long perhaps,
//! would put the commits of everybody who comes later into the future, where no reader sees them. A timestamp
//! that lies further ahead than clocks and messages explain is refused instead, before it has had any effect.
//!
//! ```text
//!   told by the scheduler      + time that has passed since      + AHEAD_MAX
//!   ├──────────────────────────┼─────────────────────────────────┼────────────► refused
//! ```
//!
//! The store hears of time whenever it asks for a timestamp, and every [`TOLD_EVERY`]. Before it has heard of it
//! for the first time nothing is refused. When the scheduler's time jumps by more than the allowance its newest
//! timestamps are refused until the store hears of it; callers try again.
//!
//! The maximum as a timestamp of a reader means "the latest" and says nothing about time; nobody begins or
//! commits at it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::{Refusal, Timestamp};
use tokio::time::Instant;

/// What lies further ahead is refused. As in TiKV.
pub const AHEAD_MAX: Duration = Duration::from_secs(60);

/// How often a store asks what time it is.
pub const TOLD_EVERY: Duration = Duration::from_secs(15);

/// What a store knows of the time.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// Nothing up to here is refused; 0 before the store was told.
    until: AtomicU64,
    told: Mutex<Option<Told>>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    ts: Timestamp,
    at: Instant,
}

impl Horizon {
    /// This timestamp was handed out just now.
    pub(super) fn on_told(&self, ts: u64) {
        self.on_told_at(ts, Instant::now());
    }

    fn on_told_at(&self, ts: u64, now: Instant) {
        let told = Told { ts: Timestamp(ts), at: now };
        let mut last = self.told.lock();
        if last.is_none_or(|last| last.ts < told.ts) {
            *last = Some(told);
            self.until.store(allowed(told, told.at), Ordering::Relaxed);
        }
    }

    /// Refuses a timestamp that cannot have been handed out yet, and the maximum.
    pub(super) fn check(&self, ts: u64) -> Result<(), Refusal> {
        self.check_at(ts, Instant::now)
    }

    /// The clock is looked at only when it matters.
    fn check_at(&self, ts: u64, now: impl FnOnce() -> Instant) -> Result<(), Refusal> {
        if ts == u64::MAX {
            return Err(refusal(ts, "nobody begins or commits at the maximum"));
        }
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 || ts <= until {
            return Ok(());
        }
        let told = *self.told.lock();
        let Some(told) = told else { return Ok(()) };
        let until = allowed(told, now());
        self.until.fetch_max(until, Ordering::Relaxed);
        if ts <= until {
            return Ok(());
        }
        Err(refusal(ts, &format!("this store takes nothing beyond {until}")))
    }
}

fn allowed(told: Told, now: Instant) -> u64 {
    let ahead = now.duration_since(told.at) + AHEAD_MAX;
    let ahead = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
    let physical = told.ts.physical().saturating_add(ahead);
    // Timestamps have 46 bits of milliseconds.
    Timestamp::new(physical.min(u64::MAX >> 18), 0).0
}

/// Clients know TiKV's first words.
fn refusal(ts: u64, why: &str) -> Refusal {
    Refusal::Other { message: format!("invalid max_ts update: {ts}, {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(seconds: u64) -> u64 {
        Timestamp::new(seconds * 1000, 0).0
    }

    #[test]
    fn what_lies_too_far_ahead_is_refused_until_time_has_passed() {
        let horizon = Horizon::default();
        let begin = Instant::now();
        let check = |ts: u64, passed: u64| {
            horizon.check_at(ts, || begin + Duration::from_secs(passed)).map_err(|e| e.to_string())
        };
        assert!(check(ts(1 << 30), 0).is_ok(), "nobody knows the time");
        horizon.on_told_at(ts(1000), begin);
        assert!(check(ts(1060), 0).is_ok());
        let refused = check(ts(1061), 0).unwrap_err();
        assert!(refused.starts_with("invalid max_ts update: "), "{refused}");
        assert!(check(ts(1061), 2).is_ok());
        assert!(check(ts(1063), 2).is_err());
        // What comes late from the past says nothing new.
        horizon.on_told_at(ts(900), begin);
        assert!(check(ts(1062), 2).is_ok());
        horizon.on_told_at(ts(5000), begin);
        assert!(check(ts(5060), 0).is_ok() && check(ts(5061), 0).is_err());
    }

    #[test]
    fn nobody_begins_at_the_maximum() {
        assert!(Horizon::default().check(u64::MAX).is_err());
    }
}
