//! Timestamps of the timestamp oracle: one number, ordered across the cluster.

use std::fmt;

/// How many low bits count within a millisecond.
pub const LOGICAL_BITS: u32 = 18;

/// A timestamp: milliseconds since 1970 in the high 46 bits, a counter in the low 18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Before every timestamp ever handed out.
    pub const ZERO: Self = Self(0);
    /// After every timestamp ever handed out; reads at it see the latest committed version.
    pub const MAX: Self = Self(u64::MAX);

    /// From milliseconds and counter. The counter must be below 2^18.
    pub fn new(physical: u64, logical: u64) -> Self {
        debug_assert!(logical < 1 << LOGICAL_BITS, "the logical part has 18 bits");
        Self((physical << LOGICAL_BITS) + logical)
    }

    /// Milliseconds since 1970.
    pub fn physical(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The counter within the millisecond.
    pub fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    /// The timestamp right before; saturates at zero.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The timestamp right after; saturates at the maximum.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<u64> for Timestamp {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S0.22: a timestamp is one number of 64 bits that an `i64` holds: milliseconds, and behind them 18 bits that
    /// count; the last of a millisecond is right before the first of the next.
    #[test]
    fn a_millisecond_has_two_to_the_eighteenth_timestamps() {
        let first = Timestamp::new(1_700_000_000_123, 0);
        assert_eq!(first.0, 1_700_000_000_123 * 262_144);
        assert!(i64::try_from(first.0).is_ok());
        let last = Timestamp::new(1_700_000_000_123, 262_143);
        assert_eq!(last.0 - first.0, 262_143);
        assert_eq!(last.next(), Timestamp::new(1_700_000_000_124, 0));
    }

    #[test]
    fn parts_come_back() {
        let ts = Timestamp::new(1_700_000_000_123, 77);
        assert_eq!((ts.physical(), ts.logical()), (1_700_000_000_123, 77));
        assert!(ts < ts.next() && ts.prev() < ts);
        assert_eq!(Timestamp::MAX.next(), Timestamp::MAX);
    }
}
