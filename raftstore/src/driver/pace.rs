//! How fast snapshots may be written and sent.
//!
//! A token bucket, told by when it will be empty: each taker pushes that moment on by what its bytes take at
//! the rate, and waits until it comes. What was not used is saved up for [`BURST_MICROS`] at most. All
//! takers share one bucket, so a store's generating and sending together keep to the rate.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::msg::Now;

/// So much of unused time is saved up, in microseconds: a pause is not followed by a flood.
const BURST_MICROS: u64 = 100_000;

/// Says who may go on when; time comes in.
#[derive(Debug)]
struct TokenBucket {
    bytes_per_second: u64,
    /// When what was taken so far will have gone through.
    through: Now,
}

impl TokenBucket {
    /// Takes so many bytes; microseconds until they may go.
    fn take(&mut self, bytes: usize, now: Now) -> u64 {
        if self.bytes_per_second == 0 {
            return 0;
        }
        let earliest = Now(now.0.saturating_sub(BURST_MICROS));
        let takes = (bytes as u128 * 1_000_000 / u128::from(self.bytes_per_second)) as u64;
        self.through = self.through.max(earliest).plus(takes);
        self.through.since(now)
    }
}

/// A rate that several threads keep to together.
#[derive(Debug)]
pub struct Pace {
    bucket: Mutex<TokenBucket>,
    started: Instant,
}

impl Pace {
    /// So many bytes a second; 0 is no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        let bucket = TokenBucket { bytes_per_second, through: Now::default() };
        Self { bucket: Mutex::new(bucket), started: Instant::now() }
    }

    /// How long to wait before these bytes.
    pub fn wait_for(&self, bytes: usize) -> Duration {
        let now = Now(self.started.elapsed().as_micros() as u64);
        Duration::from_micros(self.bucket.lock().take(bytes, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_at_the_rate_and_no_faster() {
        let mut bucket = TokenBucket { bytes_per_second: 1_000_000, through: Now::default() };
        let mut now = Now(1_000_000);
        // A tenth of a second was saved up.
        assert_eq!(bucket.take(100_000, now), 0);
        assert_eq!(bucket.take(50_000, now), 50_000);
        assert_eq!(bucket.take(50_000, now), 100_000);
        now = now.plus(100_000);
        assert_eq!(bucket.take(1, now), 1);
        // A long pause saves up no more.
        now = now.plus(60_000_000);
        assert_eq!(bucket.take(200_000, now), 100_000);
    }

    #[test]
    fn over_any_time_no_more_than_rate_and_burst_goes_through() {
        let mut bucket = TokenBucket { bytes_per_second: 10_000_000, through: Now::default() };
        let (begin, mut now, mut sent) = (Now(5_000_000), Now(5_000_000), 0);
        for round in 0..1000usize {
            let bytes = round * 7919 % 65_536;
            now = now.plus(bucket.take(bytes, now));
            sent += bytes as u64;
            assert!(sent <= (now.since(begin) + BURST_MICROS) * 10 + 65_536);
            now = now.plus(round as u64 % 3 * 100);
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let pace = Pace::new(0);
        assert_eq!(pace.wait_for(usize::MAX), Duration::ZERO);
    }
}
