//! Does it hold under anything? Seeded runs of the whole cluster, with every judge watching.
//!
//! `TESSERA_SIM_SEEDS` says how many seeds to run, `TESSERA_SIM_FROM` which is the first, and
//! `TESSERA_SIM_MINUTES` after how long to begin no more; `TESSERA_SEED` is the one that `replay` replays, and
//! `TESSERA_ONLY` names the mischiefs that it is to have; with `TESSERA_TRANSACTIONS` there are transactions in
//! every run, and not in every other. With none of them a sample runs that is small enough
//! for every run of the tests. A failure prints the line that replays it, the mischiefs that it needs, and its
//! last events.

use std::collections::BTreeSet;
use std::time::Duration;

use tests::campaign::shrink::shrink;
use tests::campaign::{run_caught, run_seeds};
use tests::sim::events::SECOND;
use tests::sim::options::Options;

/// Seeds of a usual run of the tests; `cargo xtask sim` runs more.
const SEEDS_USUAL: u64 = 200;

/// From so many seeds on, a probe that must be hit and is not is a failure.
const SEEDS_FOR_PROBES: u64 = 1_000;

/// From so many seeds on, the average run must serve clients while things go wrong …
const SEEDS_FOR_CALLS: u64 = 100;
/// … so many times a second.
const CALLS_PER_SECOND: u64 = 50;

fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

/// The run of a seed, as the environment wants it.
fn options_of(seed: u64) -> Options {
    let options = Options::of_seed(seed);
    if std::env::var_os("TESSERA_TRANSACTIONS").is_some() {
        return options.with_transactions();
    }
    options
}

#[test]
fn seeds() {
    let first = number_from("TESSERA_SIM_FROM").unwrap_or(0);
    let minutes = number_from("TESSERA_SIM_MINUTES");
    // Told only how long to run, a campaign takes as many seeds as there is time for.
    let usual = if minutes.is_some() { u64::MAX - first } else { SEEDS_USUAL };
    let count = number_from("TESSERA_SIM_SEEDS").unwrap_or(usual);
    let time = minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let totals = run_seeds(first..first + count, time, options_of);
    eprintln!("{totals}");
    if let Some(failure) = &totals.failure {
        panic!("{}", shrink(&options_of(failure.seed)));
    }
    // A few runs may have been all trouble.
    if totals.runs >= SEEDS_FOR_CALLS {
        let least = totals.runs * 60 * CALLS_PER_SECOND;
        assert!(totals.calls_in_trouble >= least, "clients were served too seldom");
    }
    if totals.runs >= SEEDS_FOR_PROBES {
        let missed = totals.missed();
        assert!(missed.is_empty(), "what must happen somewhere never did: {missed:?}");
    }
}

#[test]
fn replay() {
    let Some(seed) = number_from("TESSERA_SEED") else { return };
    let mut options = options_of(seed);
    options.only = std::env::var("TESSERA_ONLY").ok().map(|list| {
        let numbers = list.split(',').filter(|number| *number != "none");
        let parse = |number: &str| {
            number.parse().unwrap_or_else(|_| panic!("TESSERA_ONLY lists numbers, not {number:?}"))
        };
        numbers.map(parse).collect::<BTreeSet<u32>>()
    });
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
        let mut options = Options::of_seed(seed).with_transactions();
        options.safety = 20 * SECOND;
        let (first, second) = (run_caught(&options, false), run_caught(&options, false));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        options.seed += 1;
        assert_ne!(first.hash, run_caught(&options, false).hash, "another seed is another run");
    }
}

#[test]
fn any_number_of_lanes_is_the_same_run() {
    for seed in [5, 12] {
        let mut options = Options { safety: 20 * SECOND, topology: true, ..Options::of_seed(seed) };
        let mut run = |lanes| {
            options.lanes = lanes;
            let summary = run_caught(&options, false);
            assert_eq!(summary.violation, None, "seed {seed}");
            (summary.hash, summary.events)
        };
        let alone = run(1);
        for lanes in [2, 4] {
            assert_eq!(run(lanes), alone, "seed {seed} in {lanes} lanes");
        }
    }
}
