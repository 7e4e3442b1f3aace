//! Does it hold under anything? Seeded runs of the whole cluster, with every judge watching.
//!
//! `TESSERA_SIM_SEEDS` says how many seeds to run and `TESSERA_SIM_FROM` which is the first;
//! `TESSERA_SEED` is the one that `replay` replays. With none of them a sample runs that is small
//! enough for every run of the tests. A failure prints the line that replays it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use tests::sim::events::SECOND;
use tests::sim::options::Options;
use tests::sim::summary::Summary;
use tests::sim::world::run;

/// Seeds of a usual run of the tests; `cargo xtask sim` runs more.
const SEEDS_USUAL: u64 = 200;

fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

/// Runs one seed; an assertion that fails inside a machine is a violation like others.
pub(crate) fn run_caught(options: &Options, verbose: bool) -> Summary {
    let caught = catch_unwind(AssertUnwindSafe(|| run(options.clone(), verbose)));
    caught.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Summary::of_panic(words.unwrap_or("an assertion failed"))
    })
}

/// Runs seeds on all cores until one fails or all are done; the lowest failed seed found.
fn run_seeds(seeds: std::ops::Range<u64>, options: impl Fn(u64) -> Options + Sync) -> Totals {
    let next = AtomicU64::new(seeds.start);
    let stop_at = AtomicU64::new(seeds.end);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut totals = Totals::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= stop_at.load(Ordering::Relaxed) {
                            return totals;
                        }
                        let summary = run_caught(&options(seed), false);
                        if summary.violation.is_some() {
                            stop_at.fetch_min(seed, Ordering::Relaxed);
                        }
                        totals.add(seed, summary);
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker catches panics")).fold(
            Totals::default(),
            |mut all, part| {
                all.merge(part);
                all
            },
        )
    })
}

#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    calls: u64,
    entries: u64,
    leaders: u64,
    crashes: u64,
    events: u64,
    failure: Option<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, summary: Summary) {
        self.runs += 1;
        self.calls += summary.calls;
        self.entries += summary.entries as u64;
        self.leaders += summary.leaders as u64;
        self.crashes += summary.crashes;
        self.events += summary.events;
        if let Some(violation) = summary.violation {
            self.fail(seed, violation);
        }
    }

    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.calls += other.calls;
        self.entries += other.entries;
        self.leaders += other.leaders;
        self.crashes += other.crashes;
        self.events += other.events;
        if let Some((seed, violation)) = other.failure {
            self.fail(seed, violation);
        }
    }

    fn fail(&mut self, seed: u64, violation: String) {
        if self.failure.as_ref().is_none_or(|(known, _)| seed < *known) {
            self.failure = Some((seed, violation));
        }
    }

    fn assert_no_failure(&self) {
        if let Some((seed, violation)) = &self.failure {
            panic!("seed {seed}: {violation}\nreplay: cargo xtask replay {seed}");
        }
    }
}

#[test]
fn seeds() {
    let first = number_from("TESSERA_SIM_FROM").unwrap_or(0);
    let count = number_from("TESSERA_SIM_SEEDS").unwrap_or(SEEDS_USUAL);
    let totals = run_seeds(first..first + count, Options::of_seed);
    eprintln!(
        "{} runs: {} events, {} calls, {} entries, {} leaders, {} crashes",
        totals.runs, totals.events, totals.calls, totals.entries, totals.leaders, totals.crashes
    );
    totals.assert_no_failure();
    // A single run may have been all trouble.
    if totals.runs > 10 {
        assert!(totals.calls > totals.runs * 100, "clients were served: {totals:?}");
    }
}

#[test]
fn replay() {
    let Some(seed) = number_from("TESSERA_SEED") else { return };
    let options = Options::of_seed(seed);
    eprintln!("{options:#?}");
    let summary = run_caught(&options, true);
    summary.lines.iter().for_each(|line| eprintln!("{line}"));
    if let Some(violation) = summary.violation {
        panic!("seed {seed}: {violation}");
    }
    eprintln!("seed {seed} holds: {} calls, {} events", summary.calls, summary.events);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 11] {
        let mut options = Options::of_seed(seed);
        options.safety = 20 * SECOND;
        let (first, second) = (run_caught(&options, false), run_caught(&options, false));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        options.seed += 1;
        assert_ne!(first.hash, run_caught(&options, false).hash, "another seed is another run");
    }
}
