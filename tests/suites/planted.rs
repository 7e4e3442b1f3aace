//! Does the simulator see a bug when there is one? Bugs are planted, one at a time, and must be found.
//!
//! Each row of [`plants`] says which world makes its bug likely: the weather, who hurts whom, how the
//! stores are used. Seeds are run from 0 on until one fails. Then
//!
//! - the failure must be one that the bug explains: the words of a checker, or of an assertion;
//! - the same world without the bug must hold, with that very seed and the next.
//!
//! Bugs in the machines need the feature `plant` (`raftstore/src/plant.rs`); without it those of the
//! simulator's own shell are looked for. `TESSERA_PLANT` names one plant to look for, and the run that
//! finds it is then told step by step. The table that is printed stands in `README.md`.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::sim::events::{Instant, MILLISECOND, SECOND};
use tests::sim::nemesis::Mischief;
use tests::sim::network::Weather;
use tests::sim::options::{Options, Plant};

use crate::simulation::run_caught;

/// A planted bug must be found within so many seeds.
const SEEDS_MAX: u64 = 500;
/// Runs without the bug, from the seed that found it on.
const SEEDS_WITHOUT: u64 = 2;

/// A bug, and where to look for it.
struct Row {
    plant: Plant,
    /// Its story's number, or the invariant that it breaks.
    number: &'static str,
    world: fn(u64) -> Options,
    /// What a failure may say, in part.
    seen_as: &'static [&'static str],
}

/// What became of looking for a bug.
struct Found {
    at: usize,
    seeds: u64,
    violation: String,
    /// What was broken without the bug.
    without: Option<(u64, String)>,
}

// What failures say.
const READS: &[&str] = &["is not linearizable"];
const LOSES: &[&str] = &[
    "is not linearizable",
    "durable only on",
    "lacks",
    "committed is",
    "commits",
    "two leaders",
    "differs between",
];
const DIVERGES: &[&str] =
    &["differs between", "is not linearizable", "stay apart", "does not answer", "goes back"];
const CANNOT_START: &[&str] = &["cannot start", "stops:"];

/// A short run of this seed, in which clients hurry.
fn busy(seed: u64) -> Options {
    let mut options = Options::of_seed(seed);
    options.safety = 20 * SECOND;
    options.think = 10 * MILLISECOND;
    options
}

/// Many clients on few registers: whoever reads something old is found out.
fn hot(seed: u64) -> Options {
    let mut options = Options::of_seed(seed);
    options.safety = 20 * SECOND;
    options.think = 4 * MILLISECOND;
    options.clients = 12;
    options.keys = 3;
    options.replica_reads = 0;
    options
}

/// Leaders lose touch, and do not know it at once.
fn out_of_touch(seed: u64) -> Options {
    use Mischief::{Halves, Isolate, OneWay, Pause, SlowDisk};
    hot(seed).with_mischief(&[Isolate, Halves, OneWay, Pause, SlowDisk], 700 * MILLISECOND)
}

/// Followers are asked, and lag behind.
fn followers_asked(seed: u64) -> Options {
    let mut options = busy(seed);
    options.replica_reads = 600;
    options.weather = Weather { loss: 50, repeat: 50, delay: 2 * MILLISECOND, very_late: 30 };
    options.with_mischief(&[Mischief::OneWay, Mischief::SlowDisk], SECOND)
}

/// Leaders change, and messages are lost while they do.
fn new_leaders(seed: u64) -> Options {
    let mut options = hot(seed);
    options.weather = Weather { loss: 200, repeat: 20, delay: 2 * MILLISECOND, very_late: 20 };
    options.with_mischief(&[Mischief::Kill, Mischief::Isolate, Mischief::Pause], 500 * MILLISECOND)
}

/// Regions split and move between five stores.
fn moving(seed: u64) -> Options {
    let mut options = busy(seed);
    options.stores = 5;
    options.topology = true;
    options.keys = 16;
    options
}

/// … while stores fall behind and come back.
fn moving_behind(seed: u64) -> Options {
    moving(seed).with_mischief(&[Mischief::Isolate, Mischief::Kill], 500 * MILLISECOND)
}

/// … while stores lose power.
fn moving_dark(seed: u64) -> Options {
    moving(seed).with_mischief(&[Mischief::PowerOff, Mischief::Bounce], 400 * MILLISECOND)
}

/// Power fails again and again.
fn dark(seed: u64) -> Options {
    let every: Instant = 500 * MILLISECOND;
    busy(seed).with_mischief(&[Mischief::Blackout, Mischief::PowerOff], every)
}

/// Every plant, in the order of the table.
fn plants() -> Vec<Row> {
    let mut rows = vec![
        Row {
            plant: Plant::AcknowledgeBeforeSync,
            number: "R11",
            world: dark,
            seen_as: LOSES,
        },
        Row {
            plant: Plant::ForgetVote,
            number: "R10",
            world: |seed| {
                let mut options = Options::of_seed(seed);
                options.topology = false;
                // A vote counts twice when the second candidate asks long after the first.
                options.weather.very_late = 200;
                let kinds = [Mischief::Blackout, Mischief::Bounce];
                options.with_mischief(&kinds, 300 * MILLISECOND)
            },
            seen_as: LOSES,
        },
        Row { plant: Plant::LongLease, number: "L5", world: out_of_touch, seen_as: READS },
        Row {
            plant: Plant::SnapshotBeforeLeadership,
            number: "L6",
            world: |seed| {
                let mut options = busy(seed);
                options.topology = true;
                options
            },
            seen_as: READS,
        },
        Row {
            plant: Plant::LazySync,
            number: "R14",
            world: |seed| {
                let mut options = dark(seed);
                options.stores = 1;
                options
            },
            seen_as: LOSES,
        },
    ];
    rows.extend(in_machines());
    rows
}

#[cfg(not(feature = "plant"))]
fn in_machines() -> Vec<Row> {
    Vec::new()
}

#[cfg(feature = "plant")]
fn in_machines() -> Vec<Row> {
    use raftstore::plant::Bug;
    let row = |bug, number, world: fn(u64) -> Options, seen_as| {
        Row { plant: Plant::InMachines(bug), number, world, seen_as }
    };
    const ANY: &[&str] = &[""];
    vec![
        row(Bug::LeaseFromAnswer, "L5", out_of_touch, READS),
        row(Bug::LeaseThroughTransfer, "L7", |seed| {
            let mut options = hot(seed);
            options.stores = 3;
            options.topology = true;
            options.weather = Weather { loss: 300, repeat: 20, delay: 2 * MILLISECOND, very_late: 50 };
            options.with_mischief(&[Mischief::OneWay], 2 * SECOND)
        }, READS),
        row(Bug::LeaseBeforeOwnEntry, "L8", new_leaders, READS),
        row(Bug::LeaseFromLearners, "R4", |seed| {
            let mut options = hot(seed);
            options.stores = 4;
            options.topology = true;
            options.with_mischief(&[Mischief::Halves], 1500 * MILLISECOND)
        }, READS),
        row(Bug::ImpatientAfterRestart, "L5", |seed| {
            let mut options = hot(seed);
            options.stores = 3;
            options.weather = Weather { loss: 150, repeat: 20, delay: MILLISECOND, very_late: 20 };
            options.with_mischief(&[Mischief::OneWay, Mischief::OneWay, Mischief::Bounce], 150 * MILLISECOND)
        }, READS),
        row(Bug::BarrierBeforeOwnEntry, "L1", new_leaders, READS),
        row(Bug::BarrierWithoutQuorum, "L2", out_of_touch, READS),
        row(Bug::ReadJoinsQuestion, "L3", followers_asked, READS),
        row(Bug::OldAnswerTaken, "L4", followers_asked, READS),
        row(Bug::FollowerAnswersUnasked, "L11", followers_asked, READS),
        row(Bug::FollowerAnswersUnapplied, "L9", followers_asked, READS),
        row(Bug::AnsweredWhenProposed, "I12", out_of_touch, LOSES),
        row(Bug::OverwrittenAcknowledged, "I12", out_of_touch, LOSES),
        row(Bug::UnknownSaidToFail, "T5", out_of_touch, LOSES),
        row(Bug::WaitingWriteUnchecked, "I8", moving, DIVERGES),
        row(Bug::EpochUncheckedWhenApplied, "I8", |seed| {
            moving(seed).with_mischief(&[Mischief::Kill, Mischief::Isolate], 300 * MILLISECOND)
        }, DIVERGES),
        row(Bug::SplitKeepsVersion, "I5", moving, ANY),
        row(Bug::AppliedIndexApart, "S1", dark, ANY),
        row(Bug::MembersUnwritten, "S1", moving_dark, ANY),
        row(Bug::SplitHalfWritten, "I8", moving_dark, ANY),
        row(Bug::LogCutBeforeSync, "S3", |seed| {
            busy(seed).with_mischief(&[Mischief::Bounce], 40 * MILLISECOND)
        }, ANY),
        row(Bug::LogCutTooFar, "G16", dark, ANY),
        row(Bug::FailedSyncBelieved, "S2", dark, ANY),
        row(Bug::CacheKeepsOverwritten, "R13", out_of_touch, ANY),
        row(Bug::LogBeforeSnapshotData, "G3", moving_dark, ANY),
        row(Bug::SnapshotNotSynced, "S5", moving_dark, ANY),
        row(Bug::InstallRacesApplier, "G11", |seed| {
            let mut options = moving_behind(seed);
            options.apply = 20 * MILLISECOND;
            options
        }, ANY),
        row(Bug::SnapshotKeepsOldKeys, "I6", moving_behind, ANY),
        row(Bug::SnapshotMembersIgnored, "R3", moving_behind, ANY),
        row(Bug::SnapshotOverNeighbour, "G3", |seed| {
            let mut options = moving_behind(seed);
            options.safety = 30 * SECOND;
            options.weather = Weather { loss: 50, repeat: 20, delay: 10 * MILLISECOND, very_late: 250 };
            options.with_mischief(&[Mischief::Isolate], 2 * SECOND)
        }, ANY),
        row(Bug::DamagedSnapshotInstalled, "G14", |seed| {
            let mut options = moving_behind(seed);
            options.damage = 300;
            options
        }, ANY),
        row(Bug::RangeKeptOfDestroyed, "G2", moving, ANY),
        row(Bug::TombstoneUnwritten, "G12", moving_dark, ANY),
        row(Bug::LateClearing, "G13", moving, ANY),
    ]
}

/// The plant's own name.
fn name_of(plant: Plant) -> String {
    let name = format!("{plant:?}");
    let inner = name.strip_prefix("InMachines(").and_then(|rest| rest.strip_suffix(')'));
    inner.unwrap_or(&name).to_owned()
}

fn look_for(at: usize, row: &Row) -> Option<Found> {
    let (seeds, violation) = (0..SEEDS_MAX).find_map(|seed| {
        let summary = run_caught(&(row.world)(seed).with_plant(row.plant), false);
        summary.violation.map(|violation| (seed + 1, violation))
    })?;
    let without = (seeds - 1..seeds - 1 + SEEDS_WITHOUT).find_map(|seed| {
        let summary = run_caught(&(row.world)(seed), false);
        summary.violation.map(|violation| (seed, violation))
    });
    Some(Found { at, seeds, violation, without })
}

/// Looks for all of them on all cores; in the order of the rows.
fn look_for_all(rows: &[Row]) -> Vec<Option<Found>> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(at) else { return };
                    let started = std::time::Instant::now();
                    let found = look_for(at, row);
                    eprintln!("## {} {:?} {:?} {:?}", name_of(row.plant), found.as_ref().map(|f| f.seeds), started.elapsed(), found.as_ref().map(|f| (f.violation.lines().next().unwrap_or("").to_owned(), f.without.clone())));
                    all.lock().expect("nobody panics with it").push((at, found));
                }
            });
        }
    });
    let mut all = all.into_inner().expect("nobody panics with it");
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, found)| found).collect()
}

#[test]
fn every_planted_bug_is_found() {
    let wanted = std::env::var("TESSERA_PLANT").ok();
    let mut rows = plants();
    rows.retain(|row| wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|w| w == name_of(row.plant))));
    assert!(!rows.is_empty(), "there is no plant {wanted:?}");
    let all = look_for_all(&rows);
    let mut table = String::new();
    let mut wrong = Vec::new();
    let mut counts = Vec::new();
    for (row, found) in rows.iter().zip(&all) {
        let name = name_of(row.plant);
        let Some(Found { seeds, violation, without, .. }) = found else {
            wrong.push(format!("{name} was not found in {SEEDS_MAX} seeds"));
            continue;
        };
        counts.push(*seeds);
        let words = violation.lines().next().unwrap_or_default();
        let _ = writeln!(table, "| {name} | {} | {seeds} | {words} |", row.number);
        if !row.seen_as.iter().any(|words| violation.contains(words)) {
            wrong.push(format!("{name} was found as what it does not explain: {words}"));
        }
        if let Some((seed, violation)) = without {
            wrong.push(format!("without {name} seed {seed} fails too: {violation}"));
        }
    }
    counts.sort_unstable();
    let median = counts.get(counts.len() / 2).copied().unwrap_or_default();
    eprintln!("| plant | number | seeds to find | found as |\n|---|---|---|---|\n{table}");
    eprintln!("{} plants, {} found, median {median} seeds", rows.len(), counts.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
