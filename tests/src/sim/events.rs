//! Virtual time: what happens next, and when.
//!
//! Time only moves when an event is taken. Events of the same instant are taken in the order in
//! which they were scheduled, so a run has one order and no other.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Microseconds since the world began.
pub type Instant = u64;

/// A millisecond of virtual time.
pub const MILLISECOND: Instant = 1_000;
/// A second of virtual time.
pub const SECOND: Instant = 1_000 * MILLISECOND;

/// Everything that is going to happen, soonest first.
#[derive(Debug)]
pub struct Events<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now: Instant,
    scheduled: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> Default for Events<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: 0, scheduled: 0 }
    }
}

impl<E> Events<E> {
    /// Now.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Schedules an event this long after now.
    pub fn after(&mut self, delay: Instant, event: E) {
        self.at(self.now + delay, event);
    }

    /// Schedules an event at an instant; one in the past happens now.
    pub fn at(&mut self, at: Instant, event: E) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at: at.max(self.now), order: self.scheduled, event });
    }

    /// Takes the next event if it happens before `end`, and moves time there.
    pub fn next_before(&mut self, end: Instant) -> Option<E> {
        if self.heap.peek()?.at >= end {
            return None;
        }
        let scheduled = self.heap.pop()?;
        self.now = scheduled.at;
        Some(scheduled.event)
    }

    /// Moves time forward when nothing is left to happen before.
    pub fn pass_until(&mut self, instant: Instant) {
        self.now = self.now.max(instant);
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<E> Ord for Scheduled<E> {
    // Reversed: the heap gives its greatest, we want the soonest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_time_order_and_equals_in_the_order_of_scheduling() {
        let mut events = Events::default();
        events.after(5, "c");
        events.after(1, "a");
        events.after(5, "d");
        events.after(2, "b");
        let mut taken = Vec::new();
        while let Some(event) = events.next_before(100) {
            taken.push((events.now(), event));
        }
        assert_eq!(taken, [(1, "a"), (2, "b"), (5, "c"), (5, "d")]);
    }

    #[test]
    fn nothing_happens_at_or_after_the_end() {
        let mut events = Events::default();
        events.at(10, ());
        assert_eq!(events.next_before(10), None);
        assert_eq!(events.next_before(11), Some(()));
    }
}
