//! Controllers: how often a scheduler may look, and whether it may act.
//!
//! A scheduler that has found something to do looks again soon; one that found nothing waits longer
//! each time, up to [`MAX_INTERVAL_MS`], so that a balanced cluster costs next to nothing.

use super::Scheduler;
use crate::cluster::Moment;
use crate::placement::View;

/// The shortest wait between two looks.
pub const MIN_INTERVAL_MS: u64 = 10;
/// The longest one.
pub const MAX_INTERVAL_MS: u64 = 5_000;

/// The wait after one in vain: by three tenths longer.
pub fn grown(interval_ms: u64) -> u64 {
    (interval_ms + (interval_ms * 3).div_ceil(10)).min(MAX_INTERVAL_MS)
}

/// When one scheduler has its next turn, and whether it may take it.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    interval_ms: u64,
    next_at_ms: u64,
    paused_until_wall_ms: u64,
    is_stopped: bool,
}

impl Controller {
    /// One that may begin at once.
    pub fn new(min_interval_ms: u64) -> Self {
        Self { interval_ms: min_interval_ms, ..Self::default() }
    }

    /// How long it waits between two looks, in milliseconds.
    pub fn interval_ms(&self) -> u64 {
        self.interval_ms
    }

    /// Steady time of the next look.
    pub fn next_at_ms(&self) -> u64 {
        self.next_at_ms
    }

    /// Never again. It is the scheduler's end.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Nothing before this time on the wall clock; the past resumes.
    pub fn pause_until(&mut self, wall_ms: u64) {
        self.paused_until_wall_ms = wall_ms;
    }

    /// Until when it pauses, on the wall clock; `None` when it does not.
    pub fn paused_until(&self, moment: Moment) -> Option<u64> {
        (self.paused_until_wall_ms > moment.wall_ms).then_some(self.paused_until_wall_ms)
    }

    /// Whether it may act now: not stopped, not paused, and within the limit of its kind.
    pub fn allow_schedule(&self, scheduler: &dyn Scheduler, view: View<'_>) -> bool {
        !self.is_stopped
            && self.paused_until(view.moment).is_none()
            && scheduler.is_schedule_allowed(view)
    }

    /// Whether its wait is over.
    pub fn is_due(&self, moment: Moment) -> bool {
        moment.steady_ms >= self.next_at_ms
    }

    /// A look is over; the scheduler says how long to wait after one in vain.
    pub fn looked(&mut self, scheduler: &dyn Scheduler, has_acted: bool, moment: Moment) {
        self.interval_ms = if has_acted {
            scheduler.min_interval_ms()
        } else {
            scheduler.next_interval_ms(self.interval_ms)
        };
        self.next_at_ms = moment.steady_ms + self.interval_ms;
    }
}
