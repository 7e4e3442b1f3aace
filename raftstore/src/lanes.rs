//! How the work of a round is shared out.
//!
//! Most of a round is the turns of single peers and of single regions' entries, which know nothing of
//! each other. A machine cuts them into shares, the shell says how many are worth it and has them
//! done, side by side if it likes, and the machine joins what comes back.
//!
//! ```text
//!  machine ── shares, in order ──► Lanes::run ──► the same shares, done, in the same order ──► machine
//!                                  │ lane 1: share 1, share 4 │
//!                                  │ lane 2: share 2          │
//!                                  │ lane 3: share 3          │
//! ```
//!
//! A share owns what it works on: peers leave the store's map for it and come back with it. So lanes
//! lock nothing, and nobody else can look at a peer meanwhile.
//!
//! Promise: nobody can see how many lanes there were, nor in which order they ran. What a share comes to
//! depends on the share alone, and what shares come to is joined in the order in which they were cut,
//! which is that of the region ids.
//!
//! Left out: threads. They are in the driver; here are the lanes of one thread.

/// A part of a round's work that can be done apart from every other.
pub trait Share: Send + 'static {
    /// Does it; the outcome stays in the share. Called once.
    fn work(&mut self);
}

/// Has shares done.
pub trait Lanes<S: Share>: Send {
    /// Into how many shares so much work is worth cutting, at least one. The work is estimated in
    /// microseconds.
    fn width(&self, micros: u64) -> usize;

    /// Has each share done once. All come back, in the order given. If the work of one panics, so does
    /// this, once the others are done.
    fn run(&mut self, shares: Vec<S>) -> Vec<S>;
}

/// No lanes but the caller's own: nothing is cut. On few cores the hop to another thread costs more
/// than it saves.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneLane;

impl<S: Share> Lanes<S> for OneLane {
    fn width(&self, _: u64) -> usize {
        1
    }

    fn run(&mut self, mut shares: Vec<S>) -> Vec<S> {
        shares.iter_mut().for_each(S::work);
        shares
    }
}

/// Lanes in name only, for the simulator and for tests: the smallest round is cut, and the shares are
/// done one after the other by the caller, in an order drawn from a seed.
#[derive(Clone, Copy, Debug)]
pub struct ShuffledLanes {
    width: usize,
    drawn: u64,
}

impl ShuffledLanes {
    /// So many lanes, at least one.
    pub fn new(width: usize, seed: u64) -> Self {
        Self { width: width.max(1), drawn: seed }
    }

    fn draw(&mut self, sides: usize) -> usize {
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        ((self.drawn >> 33) as usize) % sides
    }
}

impl<S: Share> Lanes<S> for ShuffledLanes {
    fn width(&self, _: u64) -> usize {
        self.width
    }

    fn run(&mut self, mut shares: Vec<S>) -> Vec<S> {
        let mut order: Vec<usize> = (0..shares.len()).collect();
        for last in (1..order.len()).rev() {
            let other = self.draw(last + 1);
            order.swap(last, other);
        }
        order.into_iter().for_each(|next| shares[next].work());
        shares
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Notes when it was done.
    struct Noted {
        clock: Arc<AtomicUsize>,
        number: usize,
        done_at: Option<usize>,
    }

    impl Share for Noted {
        fn work(&mut self) {
            assert_eq!(self.done_at, None, "a share is done once");
            self.done_at = Some(self.clock.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn order_of(lanes: &mut impl Lanes<Noted>) -> Vec<usize> {
        let clock = Arc::new(AtomicUsize::new(0));
        let share = |number| Noted { clock: clock.clone(), number, done_at: None };
        let done = lanes.run((0..8).map(share).collect());
        assert!(done.iter().map(|share| share.number).eq(0..8), "they come back in order");
        done.iter().map(|share| share.done_at.expect("each is done")).collect()
    }

    #[test]
    fn shares_are_done_in_any_order_and_come_back_in_theirs() {
        assert!(order_of(&mut OneLane).into_iter().eq(0..8));
        let mut lanes = ShuffledLanes::new(8, 1);
        let orders: std::collections::BTreeSet<_> = (0..20).map(|_| order_of(&mut lanes)).collect();
        assert!(orders.len() > 10, "{orders:?}");
        let again = order_of(&mut ShuffledLanes::new(8, 7));
        assert_eq!(again, order_of(&mut ShuffledLanes::new(8, 7)), "a seed repeats");
    }
}
