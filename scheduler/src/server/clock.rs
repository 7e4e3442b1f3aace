//! The only place of this crate where time is read.

#![expect(clippy::disallowed_methods, reason = "the shell is where time is real")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cluster::Moment;

/// Both clocks, started together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Microseconds on the steady clock: leases and ticks.
    pub(crate) fn steady_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Both clocks, for the machines.
    pub(crate) fn moment(&self) -> Moment {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment {
            steady_ms: self.steady_us() / 1_000,
            wall_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The instant at which the steady clock shows so much.
    pub(crate) fn instant(&self, steady_us: u64) -> Instant {
        self.started + Duration::from_micros(steady_us)
    }
}
