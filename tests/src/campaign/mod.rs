//! Many seeds: run on all cores, added up, and told; the first that fails is shrunk.
//!
//! | file | what it is |
//! |---|---|
//! | this one | seeds on threads, one run each, until one fails, all are done, or the time is up |
//! | [`totals`] | what all runs came to: hours, operations, faults, probes |
//! | [`shrink`] | which mischiefs a failure needs, and its last events |
//!
//! A run is a function of its options and nothing else, so threads only decide how many runs there are,
//! never how one goes.

pub mod shrink;
pub mod totals;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sim::options::Options;
use crate::sim::summary::Summary;
use crate::sim::world::run;
use totals::Totals;

/// Runs one seed; an assertion that fails inside a machine is a violation like others.
pub fn run_caught(options: &Options, verbose: bool) -> Summary {
    let caught = catch_unwind(AssertUnwindSafe(|| run(options.clone(), verbose)));
    caught.unwrap_or_else(|panic| Summary::of_panic(panic.as_ref()))
}

/// Runs seeds on all cores until one fails, all are done, or no more may be begun. Of several that fail the
/// lowest is told.
pub fn run_seeds(
    seeds: Range<u64>,
    time: Option<Duration>,
    options: impl Fn(u64) -> Options + Sync,
) -> Totals {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let stop_at = AtomicU64::new(seeds.end);
    let is_over = || time.is_some_and(|time| began.elapsed() >= time);
    let work = || {
        let mut totals = Totals::default();
        while !is_over() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= stop_at.load(Ordering::Relaxed) {
                break;
            }
            let summary = run_caught(&options(seed), false);
            if summary.violation.is_some() {
                stop_at.fetch_min(seed, Ordering::Relaxed);
            }
            totals.add(seed, summary);
        }
        totals
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Totals::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.merge(worker.join().expect("a worker catches panics"));
        }
    });
    all.took = began.elapsed();
    all
}
