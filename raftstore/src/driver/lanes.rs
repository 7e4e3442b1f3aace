//! Lanes with threads: the shares of a round, side by side.
//!
//! ```text
//!  raft worker:  cut ── put shares 2, 3, … into the queue ── do share 1 ── do what is still queued ── wait ── join
//!                              │                                              ▲                     ▲
//!  lane thread:                └──── wakes, takes a share, does it ───────────┘─────────────────────┘
//! ```
//!
//! The worker takes from the queue what no thread has taken yet, so a thread that is slow to wake costs
//! nothing but its help. Between rounds the threads sleep; the worker alone decides that a round is worth
//! waking them.
//!
//! A share whose work panics is a bug like any other: the panic goes on in the raft worker, once all other
//! shares are done, and stops the store.

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::config::Config;
use crate::lanes::{Lanes, Share};

/// As much work as is worth a lane, in microseconds. To wake an idle thread takes 30 to 40 of them and
/// as much again to be heard from; a round with less work than two of these is not cut.
const LANE_MICROS: u64 = 100;

/// Cores from which on a store has more than one lane, when nobody says how many. With fewer, lanes
/// would take their time from the tasks that serve clients, and win nothing.
const CORES_FOR_LANES: usize = 4;

/// Lanes of a store on many cores, when nobody says how many: the sync of the log does not get faster,
/// and bounds what more of them could win.
const LANES_BY_CORES_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// Which share it was, and the share, or how its work panicked.
type Done<S> = (usize, Result<S, Box<dyn Any + Send>>);

/// Lanes on threads. Clones share the threads, which end with the last clone.
#[derive(Clone)]
pub struct ThreadLanes {
    width: usize,
    queue: Sender<Job>,
    /// The other end, at which the worker helps.
    queued: Receiver<Job>,
}

/// What a thread of the lanes does.
pub struct LaneThread(Receiver<Job>);

impl LaneThread {
    /// Works until the lanes are gone.
    pub fn run(self) {
        // No job unwinds.
        self.0.iter().for_each(|job| job());
    }
}

/// How many lanes a store has: as it is told, or by the cores of the machine.
pub(super) fn lanes_of(config: &Config) -> usize {
    if config.raft_workers > 0 {
        return config.raft_workers;
    }
    by_cores(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

fn by_cores(cores: usize) -> usize {
    if cores < CORES_FOR_LANES { 1 } else { (cores / 2).min(LANES_BY_CORES_MAX) }
}

impl ThreadLanes {
    /// So many lanes. One is the worker's own; the rest need the threads that come along.
    pub fn new(width: usize) -> (Self, Vec<LaneThread>) {
        // Not bounded: the worker puts in a round's shares and then waits for them.
        let (queue, queued) = unbounded();
        let threads = (1..width).map(|_| LaneThread(queued.clone())).collect();
        (Self { width, queue, queued }, threads)
    }
}

impl<S: Share> Lanes<S> for ThreadLanes {
    fn width(&self, micros: u64) -> usize {
        usize::try_from(micros / LANE_MICROS).unwrap_or(usize::MAX).clamp(1, self.width)
    }

    fn run(&mut self, mut shares: Vec<S>) -> Vec<S> {
        if shares.len() < 2 || self.width < 2 {
            shares.iter_mut().for_each(S::work);
            return shares;
        }
        let count = shares.len();
        let (done_tx, done_rx) = bounded(count);
        let mut jobs = shares.into_iter().enumerate().map(|(number, mut share)| -> Job {
            let done = done_tx.clone();
            Box::new(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| share.work())).map(|()| share);
                // The worker waits for every share, so it is there.
                drop(done.send((number, outcome)));
            })
        });
        let own = jobs.next();
        for job in jobs {
            // This end holds a receiver, so the queue is open.
            drop(self.queue.send(job));
        }
        own.into_iter().chain(self.queued.try_iter()).for_each(|job| job());
        join(count, &done_rx)
    }
}

/// Waits for all shares and puts them into their order. A panic goes on from here.
fn join<S>(count: usize, done: &Receiver<Done<S>>) -> Vec<S> {
    let mut shares: Vec<Option<S>> = (0..count).map(|_| None).collect();
    let mut panic = None;
    for (number, outcome) in done.iter().take(count) {
        match outcome {
            Ok(share) => shares[number] = Some(share),
            Err(payload) => panic = panic.or(Some(payload)),
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
    shares.into_iter().map(|share| share.expect("every share comes back")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Barrier};
    use std::thread::ThreadId;

    use super::*;

    /// Waits until as many shares are being done at once as the barrier says.
    struct Meeting {
        barrier: Arc<Barrier>,
        done_by: Option<ThreadId>,
        panics: bool,
    }

    impl Share for Meeting {
        fn work(&mut self) {
            self.barrier.wait();
            assert!(!self.panics, "on purpose");
            self.done_by = Some(std::thread::current().id());
        }
    }

    fn meetings(count: usize) -> Vec<Meeting> {
        let barrier = Arc::new(Barrier::new(count));
        (0..count)
            .map(|_| Meeting { barrier: barrier.clone(), done_by: None, panics: false })
            .collect()
    }

    fn with_lanes(width: usize, test: impl FnOnce(ThreadLanes)) {
        let (lanes, threads) = ThreadLanes::new(width);
        let threads: Vec<_> =
            threads.into_iter().map(|thread| std::thread::spawn(|| thread.run())).collect();
        test(lanes);
        // They end with the lanes.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn shares_are_done_at_the_same_time_on_different_threads() {
        with_lanes(3, |mut lanes| {
            for _ in 0..100 {
                let done = lanes.run(meetings(3));
                let threads: BTreeSet<String> =
                    done.iter().map(|share| format!("{:?}", share.done_by.unwrap())).collect();
                assert_eq!(threads.len(), 3);
            }
        });
    }

    #[test]
    fn without_threads_the_worker_does_everything() {
        let (mut lanes, threads) = ThreadLanes::new(2);
        drop(threads);
        let mut shares = meetings(1);
        shares.extend(meetings(1));
        let done = lanes.run(shares);
        let own = std::thread::current().id();
        assert!(done.iter().all(|share| share.done_by == Some(own)));
    }

    #[test]
    fn a_panic_goes_on_in_the_worker_when_the_others_are_done() {
        with_lanes(2, |mut lanes| {
            for panics in 0..2 {
                let mut shares = meetings(2);
                shares[panics].panics = true;
                let other = Arc::clone(&shares[0].barrier);
                let panic = catch_unwind(AssertUnwindSafe(|| lanes.run(shares)));
                let payload = panic.err().unwrap();
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"on purpose"));
                assert_eq!(Arc::strong_count(&other), 1, "nobody holds a share any more");
                // The threads have survived it.
                assert_eq!(lanes.run(meetings(2)).len(), 2);
            }
        });
    }

    #[test]
    fn a_round_is_cut_when_it_is_worth_a_hop() {
        let width = |micros| Lanes::<Meeting>::width(&ThreadLanes::new(4).0, micros);
        let widths: Vec<usize> = [0, 199, 200, 399, 400, 1_000_000].map(width).into();
        assert_eq!(widths, [1, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn few_cores_have_one_lane() {
        let lanes: Vec<usize> = [1, 2, 3, 4, 6, 8, 64].map(by_cores).into();
        assert_eq!(lanes, [1, 1, 1, 2, 3, 4, 4]);
        let told = Config { raft_workers: 7, ..Config::default() };
        assert_eq!(lanes_of(&told), 7);
    }
}
