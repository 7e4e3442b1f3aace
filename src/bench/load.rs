//! The loop that workloads through the client crate run: callers side by side, each with one
//! operation under way, and what was seen of every kind of operation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::Client;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::child::Playground;
use crate::args::LoadFlags;
use crate::ctl::keyspace;
use crate::exit::{Failure, Outcome};
use crate::output::Report;

/// Latencies are counted up to this; a slower operation counts as this.
const LATENCY_MAX_MICROS: u64 = 60_000_000;
/// How many failures are told in words; all are counted.
const FAILURES_TOLD_MAX: u64 = 3;

/// The cluster under load: one that was named, or a playground of its own.
pub(super) struct Bed {
    pub(super) client: Client,
    playground: Option<Playground>,
}

impl Bed {
    pub(super) async fn make(flags: &LoadFlags) -> Outcome<Self> {
        let playground =
            if flags.pd.is_empty() { Some(Playground::start(true).await?) } else { None };
        let endpoints = playground.as_ref().map_or_else(|| flags.pd.clone(), Playground::endpoints);
        let client = keyspace::connect(&endpoints, &flags.keyspace).await?;
        Ok(Self { client, playground })
    }

    pub(super) async fn clear_away(self) -> Outcome {
        match self.playground {
            Some(playground) => playground.stop().await,
            None => Ok(()),
        }
    }
}

/// What callers do over and over.
pub(super) trait Workload: Send + Sync + 'static {
    /// One operation, chosen by the dice.
    fn turn(&self, dice: &mut StdRng) -> impl Future<Output = Turn> + Send;
}

/// One operation and how it went.
pub(super) struct Turn {
    pub(super) operation: &'static str,
    /// How many times it was begun anew because another was in its way.
    pub(super) repeated: u64,
    pub(super) outcome: Result<(), client::Error>,
}

impl Turn {
    /// An operation that is tried once.
    pub(super) fn once(operation: &'static str, outcome: Result<(), client::Error>) -> Self {
        Self { operation, repeated: 0, outcome }
    }
}

/// What was seen of one kind of operation.
struct Seen {
    latencies: Histogram<u64>,
    failed: u64,
    /// Of the failed ones: those that may have happened all the same.
    undetermined: u64,
    repeated: u64,
}

impl Seen {
    fn new() -> Self {
        let latencies = Histogram::new_with_max(LATENCY_MAX_MICROS, 3)
            .expect("three digits up to a minute fit into a histogram");
        Self { latencies, failed: 0, undetermined: 0, repeated: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("all histograms have the same bounds");
        self.failed += other.failed;
        self.undetermined += other.undetermined;
        self.repeated += other.repeated;
    }
}

/// What was seen in one run of a workload.
pub(super) struct Load {
    by_operation: BTreeMap<&'static str, Seen>,
    took: Duration,
}

/// Lets callers work side by side for a while.
pub(super) async fn drive<W: Workload>(workload: Arc<W>, flags: &LoadFlags) -> Outcome<Load> {
    let started = Instant::now();
    let end = started + Duration::from_secs(flags.seconds);
    let callers: Vec<_> = (0..flags.threads)
        .map(|number| {
            let workload = workload.clone();
            let mut dice = StdRng::seed_from_u64(flags.seed.wrapping_add(number as u64));
            tokio::spawn(async move {
                let mut by_operation = BTreeMap::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    let turn = workload.turn(&mut dice).await;
                    let seen = by_operation.entry(turn.operation).or_insert_with(Seen::new);
                    note(seen, &turn, began.elapsed());
                }
                by_operation
            })
        })
        .collect();
    let mut by_operation = BTreeMap::new();
    for caller in callers {
        for (operation, seen) in caller.await.map_err(Failure::failed)? {
            by_operation.entry(operation).or_insert_with(Seen::new).add(&seen);
        }
    }
    Ok(Load { by_operation, took: started.elapsed() })
}

fn note(seen: &mut Seen, turn: &Turn, took: Duration) {
    seen.repeated += turn.repeated;
    match &turn.outcome {
        Ok(()) => seen.latencies.saturating_record((took.as_micros() as u64).max(1)),
        Err(error) => {
            seen.failed += 1;
            seen.undetermined += u64::from(error.is_undetermined());
            if seen.failed <= FAILURES_TOLD_MAX {
                eprintln!("{} failed: {error}", turn.operation);
            }
        }
    }
}

/// The table that [`add`] fills.
pub(super) fn report() -> Report {
    Report::list(
        "rows",
        &[
            "WORKLOAD",
            "OPERATION",
            "PER SECOND",
            "P50 µs",
            "P99 µs",
            "P999 µs",
            "MAX µs",
            "REPEATED",
            "FAILED",
            "UNKNOWN",
        ],
    )
}

/// Adds a run: a row for each kind of operation, and one for all where there are several.
pub(super) fn add(report: &mut Report, workload: &str, load: &Load) {
    let mut all = Seen::new();
    for (operation, seen) in &load.by_operation {
        all.add(seen);
        row(report, workload, operation, seen, load.took);
    }
    if load.by_operation.len() != 1 {
        row(report, workload, "all", &all, load.took);
    }
}

fn row(report: &mut Report, workload: &str, operation: &str, seen: &Seen, took: Duration) {
    let per_second = seen.latencies.len() as f64 / took.as_secs_f64();
    let at = |quantile| seen.latencies.value_at_quantile(quantile);
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), seen.latencies.max());
    let figures = [p50, p99, p999, max, seen.repeated, seen.failed, seen.undetermined];
    let mut cells = vec![workload.to_owned(), operation.to_owned(), format!("{per_second:.0}")];
    cells.extend(figures.iter().map(u64::to_string));
    report.row(
        "rows",
        cells,
        json!({
            "workload": workload,
            "operation": operation,
            "seconds": took.as_secs_f64(),
            "count": seen.latencies.len(),
            "per_second": per_second,
            "p50_micros": p50,
            "p99_micros": p99,
            "p999_micros": p999,
            "max_micros": max,
            "repeated": seen.repeated,
            "failed": seen.failed,
            "undetermined": seen.undetermined,
        }),
    );
}

/// A value that does not compress to nothing.
pub(super) fn value(dice: &mut StdRng, bytes: usize) -> Bytes {
    (0..bytes).map(|_| dice.random_range(b' '..=b'~')).collect()
}
