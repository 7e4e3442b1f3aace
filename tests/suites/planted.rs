//! Does the simulator see a bug when there is one? Bugs are planted, one at a time, and must be found.
//!
//! Each row of [`plants`] says which world makes its bug likely: the weather, who hurts whom, how the
//! stores are used. Seeds are run from 0 on until one fails. Then
//!
//! - the failure must be one that the bug explains: the words of a checker, or of an assertion;
//! - the same world without the bug must hold, with that very seed and the next.
//!
//! Bugs in the machines need the feature `plant` (`raftstore/src/plant.rs`); without it only those of
//! the simulator's own shell are looked for. `TESSERA_PLANT` names one plant to look for, and the run
//! that finds it is then told step by step. The table that is printed stands in `README.md`.

#![cfg_attr(not(feature = "plant"), allow(dead_code, reason = "worlds for bugs in the machines"))]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::campaign::run_caught;
use tests::sim::events::{MILLISECOND, SECOND};
use tests::sim::nemesis::Mischief;
use tests::sim::network::Weather;
use tests::sim::options::{Options, Plant, Transacting};
use tests::sim::txn::workload::Workload;

/// A planted bug must be found within so many seeds.
const SEEDS_MAX: u64 = 2_000;
/// Runs without the bug, from the seed that found it on.
const SEEDS_WITHOUT: u64 = 2;

/// A bug, and where to look for it.
struct Row {
    plant: Plant,
    /// Its story's number, or the invariant that it breaks.
    number: &'static str,
    world: World,
    /// What a failure may say, in part.
    seen_as: Words,
}

/// What became of looking for a bug.
struct Found {
    seeds: u64,
    violation: String,
    /// What was broken without the bug, and by which seed.
    without: Option<(u64, String)>,
}

/// Somebody read what was not so.
const READS: &[&str] = &["is not linearizable"];
/// … or two leaders were allowed to say so at once.
const LEASES: &[&str] = &["is not linearizable", "has two leases"];
/// What was acknowledged or committed is gone.
const LOSES: &[&str] =
    &["is not linearizable", "durable only on", "lacks", "commits", "two leaders"];
/// Replicas of a region are not replicas any more.
const DIVERGES: &[&str] =
    &["differs between", "differs from a quorum", "is not linearizable", "stay apart", "goes back"];
/// A split is not seen as one by everybody.
const SPLIT: &[&str] = &["differs", "is not linearizable", "two descriptions", "some keys twice"];
/// A region is lost, or part of one.
const LOST_REGION: &[&str] = &[
    "does not answer",
    "cannot start",
    "stops:",
    "overlaps",
    "left neighbour",
    "no region from",
    "stay apart",
];
/// Members of a region disagree about who they are.
const MEMBERS: &[&str] = &[
    "does not answer",
    "cannot start",
    "stops:",
    "durable only on",
    "two descriptions",
    "stay apart",
];
/// Time went back.
const TIME: &[&str] = &["was asked for after", "time went back", "begin at one timestamp"];
/// Transactions saw what no snapshot holds, or wrote over what they had not seen, …
const ANOMALY: &[&str] = &[
    "was read by",
    "was another's",
    "the bank holds",
    "G1",
    "GSingle",
    "GNonadjacent",
    "LostUpdate",
    "IncompatibleOrder",
    "Internal",
    "G0",
    "nobody is on call",
    "went back from",
    "acknowledged before",
    "twice at one timestamp",
];
/// … or had more than one fate.
const FATES: &[&str] = &[
    "recorded as",
    "holds a lock and is",
    ": txn ",
    " is RolledBack on",
    " is Committed(",
    "was read by",
    "the bank holds",
    "G1",
    "GSingle",
    "IncompatibleOrder",
];
/// Two commands are on one key at a time, and the code says so itself.
#[cfg(feature = "plant")]
const OVERTAKEN: &[&str] =
    &["latches keep a key to one command", "LostUpdate", "holds a lock and is"];
/// The log begins behind what the data has.
const CUT: &[&str] = &["cut up to"];

/// A short run in which clients hurry.
fn busy(seed: u64) -> Options {
    let mut options = Options::of_seed(seed);
    options.safety = 20 * SECOND;
    options.think = 10 * MILLISECOND;
    options.transactions = None;
    options
}

/// Many clients on few registers: whoever reads something old is found out.
fn hot(seed: u64) -> Options {
    let mut options = busy(seed);
    options.think = 4 * MILLISECOND;
    options.clients = 12;
    options.keys = 3;
    options.replica_reads = 0;
    options
}

/// Leaders lose touch, and do not know it at once.
fn out_of_touch(seed: u64) -> Options {
    use Mischief::{Halves, Isolate, OneWay, Pause, SlowDisk};
    busy(seed).with_mischief(&[Isolate, Halves, OneWay, Pause, SlowDisk], 700 * MILLISECOND)
}

/// Leaders change, and messages are lost while they do.
fn new_leaders(seed: u64) -> Options {
    let mut options = hot(seed);
    options.weather = Weather { loss: 200, repeat: 20, delay: 2 * MILLISECOND, very_late: 20 };
    options.with_mischief(&[Mischief::Kill, Mischief::Isolate, Mischief::Pause], 500 * MILLISECOND)
}

/// Followers are asked, and lag behind.
fn followers_asked(seed: u64) -> Options {
    let mut options = busy(seed);
    options.replica_reads = 600;
    options.weather = Weather { loss: 50, repeat: 50, delay: 2 * MILLISECOND, very_late: 30 };
    options.with_mischief(&[Mischief::OneWay, Mischief::SlowDisk], SECOND)
}

/// Power fails again and again.
fn dark(seed: u64) -> Options {
    busy(seed).with_mischief(&[Mischief::Blackout, Mischief::PowerOff], 500 * MILLISECOND)
}

/// Regions split and move between five stores, …
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

/// … while leaders die, some of them in the middle of a split.
fn moving_leaderless(seed: u64) -> Options {
    moving(seed).with_mischief(&[Mischief::Kill, Mischief::Isolate], 300 * MILLISECOND)
}

/// … while a leader may be left alone with a learner.
fn moving_in_halves(seed: u64) -> Options {
    let mut options = hot(seed);
    options.stores = 4;
    options.topology = true;
    options.with_mischief(&[Mischief::Halves], 1_500 * MILLISECOND)
}

/// … while snapshots arrive late: a region's oldest may come after it was split.
fn moving_late(seed: u64) -> Options {
    let mut options = moving(seed);
    options.safety = 30 * SECOND;
    options.weather = Weather { loss: 50, repeat: 20, delay: 10 * MILLISECOND, very_late: 250 };
    options.with_mischief(&[Mischief::Isolate], 2 * SECOND)
}

/// … while snapshots are damaged on their way.
fn moving_damaged(seed: u64) -> Options {
    let mut options = moving_behind(seed);
    options.damage = 300;
    options
}

/// A vote counts twice when the second candidate asks long after the first.
fn late_candidates(seed: u64) -> Options {
    let mut options = Options::of_seed(seed);
    options.transactions = None;
    options.topology = false;
    options.weather.very_late = 200;
    options.with_mischief(&[Mischief::Blackout, Mischief::Bounce], 300 * MILLISECOND)
}

/// Regions split and change their leaders, and nothing is out of the common.
fn changing(seed: u64) -> Options {
    let mut options = busy(seed);
    options.topology = true;
    options
}

/// One store, whose power fails again and again.
fn alone_in_the_dark(seed: u64) -> Options {
    let mut options = dark(seed);
    options.stores = 1;
    options
}

/// Transactions on few keys, and next to nothing else; their clients crash all the time.
fn transacting(seed: u64, workloads: &[Workload]) -> Options {
    let mut options = busy(seed);
    options.clients = 1;
    options.think = SECOND;
    options.transactions = Some(Transacting {
        clients: 8,
        think: 8 * MILLISECOND,
        workloads: workloads.to_vec(),
        life: None,
        in_memory: false,
    });
    options
}

/// Lists, which tell everything, in regions that split and change their leaders …
fn listing(seed: u64) -> Options {
    let mut options = transacting(seed, &[Workload::Lists]);
    options.topology = true;
    options.with_mischief(&[Mischief::Isolate, Mischief::Kill], 2 * SECOND)
}

/// … and accounts besides, whose readers wait for nobody, …
fn banking(seed: u64) -> Options {
    let mut options = transacting(seed, &[Workload::Bank, Workload::Lists, Workload::Fork]);
    options.topology = true;
    options.with_mischief(&[Mischief::Pause], 2 * SECOND)
}

/// … while messages take long, and get lost.
fn banking_late(seed: u64) -> Options {
    let mut options = banking(seed);
    options.weather = Weather { loss: 60, repeat: 20, delay: 4 * MILLISECOND, very_late: 60 };
    options
}

/// … while old versions go as soon as they may.
fn collecting(seed: u64) -> Options {
    let mut options = banking_late(seed);
    if let Some(transacting) = &mut options.transactions {
        transacting.life = Some(SECOND);
    }
    options
}

/// One who counts, and one who must be on call: whoever reserves is relied upon.
fn reserving(seed: u64) -> Options {
    let mut options =
        transacting(seed, &[Workload::Counter, Workload::GuardedSkew, Workload::Lists]);
    options.topology = true;
    options.with_mischief(&[Mischief::Isolate], 2 * SECOND)
}

/// … on leaders that keep reservations in memory, and lose touch for a moment.
fn reserving_in_memory(seed: u64) -> Options {
    let mut options = reserving(seed);
    options.stores = 3;
    if let Some(transacting) = &mut options.transactions {
        transacting.in_memory = true;
    }
    options.with_mischief(&[Mischief::Isolate, Mischief::OneWay, Mischief::Pause], SECOND)
}

type World = fn(u64) -> Options;
type Words = &'static [&'static str];

fn row(plant: Plant, number: &'static str, world: World, seen_as: Words) -> Row {
    Row { plant, number, world, seen_as }
}

/// Every plant, in the order of the table.
fn plants() -> Vec<Row> {
    let mut rows = vec![
        row(Plant::AcknowledgeBeforeSync, "R11", dark, LOSES),
        row(Plant::ForgetVote, "R10", late_candidates, LOSES),
        row(Plant::LazySync, "R14", alone_in_the_dark, LOSES),
        row(Plant::LongLease, "L5", out_of_touch, LEASES),
        row(Plant::SnapshotBeforeLeadership, "L6", changing, READS),
        row(Plant::BoundForgotten, "O1", banking, TIME),
        row(Plant::CommitTimestampEarly, "T2", banking, ANOMALY),
        row(Plant::SecondariesFirst, "T4", banking_late, FATES),
        row(Plant::UnknownSaidToAbort, "T5", banking_late, FATES),
        row(Plant::BlindRetry, "T1", listing, ANOMALY),
        row(Plant::SecondariesNotAsked, "T2", banking_late, FATES),
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
    let mut rows = in_transactions();
    rows.extend(in_replication());
    rows
}

#[cfg(feature = "plant")]
fn in_transactions() -> Vec<Row> {
    use kv::plant::Bug;
    let row = |bug, number, world: World, seen_as: Words| {
        row(Plant::InTransactions(bug), number, world, seen_as)
    };
    vec![
        row(Bug::ConflictUnchecked, "T1", listing, ANOMALY),
        row(Bug::ReservedUnchecked, "T1", reserving, ANOMALY),
        row(Bug::LostLockAmended, "T2", reserving, ANOMALY),
        row(Bug::ReservationsOutliveLeader, "T2", reserving_in_memory, FATES),
        row(Bug::RollbackUnrecorded, "T3", banking_late, FATES),
        row(Bug::OwnRollbackOverlooked, "T3", banking_late, FATES),
        row(Bug::CommitWithoutLock, "T4", banking_late, FATES),
        row(Bug::ReadUnsaid, "T7", banking, ANOMALY),
        row(Bug::LocksUnshown, "T7", banking, ANOMALY),
        row(Bug::PromiseBroken, "T7", banking, ANOMALY),
        row(Bug::SafePointIgnored, "T9", collecting, FATES),
        row(Bug::LatchesLetGoEarly, "T10", listing, OVERTAKEN),
    ]
}

#[cfg(feature = "plant")]
fn in_replication() -> Vec<Row> {
    use raftstore::plant::Bug;
    let row = |bug, number, world: World, seen_as: Words| {
        row(Plant::InMachines(bug), number, world, seen_as)
    };
    vec![
        row(Bug::LeaseFromAnswer, "L5", out_of_touch, LEASES),
        row(Bug::LeaseBeforeOwnEntry, "L8", new_leaders, READS),
        row(Bug::LeaseFromLearners, "R4", moving_in_halves, LEASES),
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
        row(Bug::EpochUncheckedWhenApplied, "I8", moving_leaderless, DIVERGES),
        row(Bug::SplitKeepsVersion, "I5", moving, SPLIT),
        row(Bug::AppliedIndexApart, "S1", dark, DIVERGES),
        row(Bug::MembersUnwritten, "S1", moving_dark, MEMBERS),
        row(Bug::SplitHalfWritten, "I8", moving_dark, LOST_REGION),
        row(Bug::LogCutBeforeSync, "S3", dark, CUT),
        row(Bug::LogCutTooFar, "G16", dark, &["Missing { what: \"entry", "is missing"]),
        row(Bug::FailedSyncBelieved, "S2", dark, CUT),
        row(Bug::CacheKeepsOverwritten, "R13", out_of_touch, LOSES),
        row(Bug::LogBeforeSnapshotData, "G3", moving_dark, CUT),
        row(Bug::SnapshotNotSynced, "S5", moving_dark, &["cut up to", "stay apart", "and lacks"]),
        row(Bug::SnapshotKeepsOldKeys, "I6", moving_behind, DIVERGES),
        row(Bug::SnapshotMembersIgnored, "R3", moving_behind, &["raft refuses an applied change"]),
        row(Bug::SnapshotOverNeighbour, "G3", moving_late, &["overlaps", "some keys twice"]),
        row(Bug::DamagedSnapshotInstalled, "G14", moving_damaged, DIVERGES),
        row(Bug::RangeKeptOfDestroyed, "G2", moving, LOST_REGION),
        row(Bug::TombstoneUnwritten, "G12", moving_dark, &["no peer on", "some keys twice"]),
        row(Bug::LateClearing, "G13", moving, DIVERGES),
    ]
}

/// The plant's own name.
fn name_of(row: &Row) -> String {
    let name = format!("{:?}", row.plant);
    let inside = |kind| name.strip_prefix(kind).and_then(|rest| rest.strip_suffix(')'));
    let inner = inside("InMachines(").or_else(|| inside("InTransactions("));
    inner.unwrap_or(&name).to_owned()
}

fn look_for(row: &Row) -> Option<Found> {
    let (seed, violation) = (0..SEEDS_MAX).find_map(|seed| {
        let summary = run_caught(&(row.world)(seed).with_plant(row.plant), false);
        summary.violation.map(|violation| (seed, violation))
    })?;
    let without = (seed..seed + SEEDS_WITHOUT).find_map(|seed| {
        let summary = run_caught(&(row.world)(seed), false);
        summary.violation.map(|violation| (seed, violation))
    });
    Some(Found { seeds: seed + 1, violation, without })
}

/// Looks for all of them on all cores; in the order of the rows. Each row runs its seeds one by one, so
/// that the figures repeat.
fn look_for_all(rows: &[Row]) -> Vec<Option<Found>> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(usize, Option<Found>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = rows.get(at) else { return done };
                        done.push((at, look_for(row)));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker catches panics"))
            .collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, found)| found).collect()
}

/// What is wrong with what became of looking for this bug, if anything.
fn complaint(row: &Row, found: Option<&Found>) -> Option<String> {
    let name = name_of(row);
    let Some(Found { violation, without, seeds }) = found else {
        return Some(format!("{name} was not found in {SEEDS_MAX} seeds"));
    };
    if !row.seen_as.iter().any(|words| violation.contains(words)) {
        return Some(format!("seed {} with {name} fails as it should not: {violation}", seeds - 1));
    }
    let (seed, violation) = without.as_ref()?;
    Some(format!("seed {seed} fails without {name}, too: {violation}"))
}

#[test]
fn every_planted_bug_is_found() {
    let wanted = std::env::var("TESSERA_PLANT").ok();
    let mut rows = plants();
    rows.retain(|row| wanted.as_ref().is_none_or(|wanted| *wanted == name_of(row)));
    assert!(!rows.is_empty(), "no plant is called {wanted:?}");
    let all = look_for_all(&rows);
    let mut table = String::from("| plant | number | seeds to find | found as |\n");
    table.push_str("|---|---|---|---|\n");
    let mut counts = Vec::new();
    for (row, found) in rows.iter().zip(&all) {
        let Some(Found { seeds, violation, .. }) = found else { continue };
        counts.push(*seeds);
        let words = violation.lines().next().unwrap_or_default();
        let (name, number) = (name_of(row), row.number);
        writeln!(table, "| {name} | {number} | {seeds} | {words} |").expect("a string takes all");
    }
    counts.sort_unstable();
    let median = counts.get(counts.len() / 2).copied().unwrap_or_default();
    if let ([row], [Some(found)], true) = (&rows[..], &all[..], wanted.is_some()) {
        let story = run_caught(&(row.world)(found.seeds - 1).with_plant(row.plant), true);
        story.lines.iter().for_each(|line| eprintln!("{line}"));
    }
    eprintln!("{table}\n{} of {} found, in a median of {median} seeds", counts.len(), rows.len());
    let complaints: Vec<String> =
        rows.iter().zip(&all).filter_map(|(row, found)| complaint(row, found.as_ref())).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
