//! Which periodic duty is due at this tick.
//!
//! Duties of different regions are spread over their period, so that a store with many regions does
//! not do everything at once. A peer that sleeps is not ticked; what passed is added when it wakes, and so
//! its duties keep their places in their periods.

use proto::RegionId;

use crate::config::Config;

/// Counts a peer's ticks.
#[derive(Debug)]
pub(crate) struct Ticker {
    ticks: u64,
    offset: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) compact_log: bool,
    pub(crate) region_heartbeat: bool,
    pub(crate) split_check: bool,
    pub(crate) forget_cache: bool,
}

/// Entries nobody asked for in this long leave memory.
const FORGET_CACHE_TICKS: u64 = 600;

impl Ticker {
    pub(crate) fn new(region_id: RegionId) -> Self {
        Self { ticks: 0, offset: region_id.0 }
    }

    /// Ticks so far.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Ticks passed while the peer slept.
    pub(crate) fn pass(&mut self, ticks: u64) {
        self.ticks += ticks;
    }

    /// In so many ticks a duty with this period is due again.
    pub(crate) fn until(&self, period: u64) -> u64 {
        period - self.ticks.wrapping_add(self.offset) % period
    }

    /// One tick passed: what is due?
    pub(crate) fn tick(&mut self, config: &Config) -> Due {
        self.ticks += 1;
        let every = |period: u64| self.ticks.wrapping_add(self.offset).is_multiple_of(period);
        Due {
            compact_log: every(config.compact_log_ticks),
            region_heartbeat: every(config.region_heartbeat_ticks),
            split_check: every(config.split_check_ticks),
            forget_cache: every(FORGET_CACHE_TICKS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duty_is_due_once_in_its_period() {
        let config = Config { compact_log_ticks: 4, ..Config::default() };
        for region in 0..9 {
            let mut ticker = Ticker::new(RegionId(region));
            let due = (0..12).filter(|_| ticker.tick(&config).compact_log).count();
            assert_eq!(due, 3);
        }
    }

    #[test]
    fn what_is_due_after_a_sleep_is_known_before_it() {
        let config = Config { compact_log_ticks: 7, ..Config::default() };
        for region in 0..9 {
            let mut ticker = Ticker::new(RegionId(region));
            ticker.pass(3);
            ticker.pass(ticker.until(7) - 1);
            assert!(ticker.tick(&config).compact_log);
            assert_eq!(ticker.until(7), 7);
        }
    }
}
