//! Does the scheduler group keep its word, whatever happens to it? And would the simulator notice if not?
//!
//! `TESSERA_SIM_SEEDS` says how many seeds to run and `TESSERA_SIM_FROM` which is the first; a failure prints
//! the line that runs its seed again. `TESSERA_GROUP_TRACE` has the events of a failing run printed.

use std::sync::atomic::{AtomicU64, Ordering};

use tests::group::options::{Options, PLANTS, Plant};
use tests::group::world::{Summary, run};

/// Seeds of a usual run of the tests; `cargo xtask sim --group` runs more.
const SEEDS_USUAL: u64 = 40;
/// A planted bug must be found within so many seeds.
const SEEDS_MAX: u64 = 200;
/// Runs of the same world without the bug, from the seed that found it on.
const SEEDS_WITHOUT: u64 = 2;

fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

/// The last events of a run, when they are asked for.
fn told(options: &Options) {
    if std::env::var_os("TESSERA_GROUP_TRACE").is_some() {
        let lines = run(options, true).lines;
        lines.iter().rev().take(400).rev().for_each(|line| eprintln!("{line}"));
    }
}

#[test]
fn seeds() {
    let first = number_from("TESSERA_SIM_FROM").unwrap_or(0);
    let count = number_from("TESSERA_SIM_SEEDS").unwrap_or(SEEDS_USUAL);
    let next = AtomicU64::new(first);
    let work = || {
        let mut summaries = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return summaries;
            }
            let summary = run(&Options::of_seed(seed), false);
            let failed = summary.violation.is_some();
            summaries.push((seed, summary));
            if failed {
                return summaries;
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut summaries: Vec<(u64, Summary)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    summaries.sort_by_key(|(seed, _)| *seed);
    let sum = |of: fn(&Summary) -> u64| summaries.iter().map(|(_, one)| of(one)).sum::<u64>();
    let (timestamps, heartbeats) = (sum(|one| one.timestamps), sum(|one| one.heartbeats));
    eprintln!(
        "{} runs: {timestamps} timestamps, {heartbeats} heartbeats believed, {} harms",
        summaries.len(),
        sum(|one| one.harms)
    );
    if let Some((seed, summary)) = summaries.iter().find(|(_, one)| one.violation.is_some()) {
        told(&Options::of_seed(*seed));
        let what = summary.violation.as_deref().unwrap_or_default();
        panic!("{what}\nagain: cargo xtask sim --group --from {seed} --seeds 1");
    }
    // Trouble leaves time to serve.
    assert!(timestamps > 2_000 * summaries.len() as u64, "{timestamps} timestamps");
    assert!(heartbeats > 100 * summaries.len() as u64, "{heartbeats} heartbeats");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 11] {
        let hash = |seed| run(&Options::of_seed(seed), false).hash;
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
        assert_ne!(hash(seed), hash(seed + 1), "another seed is another run");
    }
}

/// What a failure may say of a planted bug.
fn explains(plant: Plant) -> &'static [&'static str] {
    match plant {
        Plant::EpochUnchecked => &["I8", "the picture of", "the log of"],
        Plant::IdsOfPredecessor => &["O7"],
        Plant::BoundBeforeSaved => &["I11", "O7"],
        Plant::AcknowledgeBeforeSync => {
            &["I11", "O7", "starts from", "raft", "agree", "log", "term"]
        }
        Plant::ReignKept
        | Plant::CounterBeginsAnew
        | Plant::ClockReadBeforeDisk
        | Plant::LeaseCheckedFirst
        | Plant::LeaseUnchecked
        | Plant::ClockBelieved
        | Plant::VoteAfterRestart
        | Plant::LongLease => &["I11", "O7"],
    }
}

/// Each bug is found in a world that makes it likely, as what it is; without it that world holds.
#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for &plant in PLANTS {
        let found = (0..SEEDS_MAX).find_map(|seed| {
            let options = Options::likely(seed, plant).with_plant(plant);
            run(&options, false).violation.map(|what| (seed, what))
        });
        let Some((seed, what)) = found else {
            missed.push(format!("{plant:?} was not found"));
            continue;
        };
        println!("{plant:<24?} {:>3} seeds  {what}", seed + 1);
        if !explains(plant).iter().any(|words| what.contains(words)) {
            missed.push(format!("{plant:?} was found as something else: {what}"));
        }
        for seed in seed..seed + SEEDS_WITHOUT {
            if let Some(what) = run(&Options::likely(seed, plant), false).violation {
                missed.push(format!("without {plant:?} seed {seed} fails: {what}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
