//! The store's clock: microseconds since the driver started, from the system's monotonic clock.
//!
//! Left out: time spent in suspend to disk or memory, which the monotonic clock does not count. A
//! machine that sleeps while others go on may believe in a lease for as long as it was short before.

use std::time::Instant;

use crate::msg::Now;

/// Tells the time to one store and everybody who reads from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins at zero.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Now.
    pub(crate) fn now(self) -> Now {
        Now(self.start.elapsed().as_micros() as u64)
    }

    /// When the clock will say this.
    pub(crate) fn instant_of(self, now: Now) -> Instant {
        self.start + std::time::Duration::from_micros(now.0)
    }
}
