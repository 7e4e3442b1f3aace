//! Does the cluster come to rest, after how many moves, and does it stay there? Scheduling simulated on the
//! scheduler's own code.
//!
//! `TESSERA_SCHEDULING` names the case to run and `TESSERA_SIM_SEEDS` the seeds of each; with neither every
//! case runs once. `cargo xtask sim --scheduling` sets them and shows the table.

use tests::placement::cases::{CASES, thousand_stores};
use tests::placement::tally::Outcome;

/// Runs the cases and prints the table: what it took, beside the least that it could have taken.
#[test]
fn every_case_comes_to_rest_and_stays() {
    let only = std::env::var("TESSERA_SCHEDULING").unwrap_or_default();
    let seeds = std::env::var("TESSERA_SIM_SEEDS").map_or(1, |seeds| {
        seeds.parse().unwrap_or_else(|_| panic!("TESSERA_SIM_SEEDS is a number, not {seeds:?}"))
    });
    let chosen: Vec<_> = CASES.iter().filter(|case| only.is_empty() || case.name == only).collect();
    let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
    assert!(!chosen.is_empty(), "no case is called {only}; there are {}", names.join(", "));
    println!("{}", Outcome::HEAD);
    for case in chosen {
        for seed in 0..seeds {
            println!("{}", (case.run)(seed));
        }
    }
}

/// The same seed is the same run.
#[test]
fn a_seed_repeats() {
    let story = |seed| {
        let outcome = (CASES[0].run)(seed);
        (outcome.converged_ms, outcome.tally, outcome.peers, outcome.leaders)
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6), "another seed is another run");
}

/// A thousand stores and a hundred thousand regions fit, and the picture of them is right.
#[test]
fn a_thousand_stores_and_a_hundred_thousand_regions_fit() {
    let world = thousand_stores(1, 1_000, 100_000);
    assert_eq!(world.cluster().regions().len(), 100_000);
    assert_eq!(world.cluster().stores().iter().count(), 1_000);
    assert!(world.tally.beats > 150_000, "{} heartbeats", world.tally.beats);
}
