//! When something happens, as the shell tells a machine.

/// A point in time on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds on a clock that never leaps and never goes back, from an arbitrary start:
    /// silences and timeouts are measured on it.
    pub steady_ms: u64,
    /// Milliseconds since 1970 by the wall clock: for timestamps and for people.
    pub wall_ms: u64,
}

impl Moment {
    /// Whole seconds since 1970, for what expires in spite of restarts.
    pub fn wall_s(self) -> i64 {
        i64::try_from(self.wall_ms / 1_000).unwrap_or(i64::MAX)
    }
}
