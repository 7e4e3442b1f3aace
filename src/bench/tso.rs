//! Timestamps: many callers of our client crate in one process, whose requests it gathers into batches.
//!
//! Closed loop: each caller asks for its next timestamp when it has the last. A caller's latency is the time
//! from its call to its answer, the wait for the batch before its own included. While it measures it also
//! checks what is measured: each caller's timestamps must grow.

use std::time::{Duration, Instant};

use client::Client;
use hdrhistogram::Histogram;
use serde_json::json;

use super::child::Playground;
use crate::args::BenchTsoFlags;
use crate::exit::{Failure, Outcome};
use crate::output::Report;

/// Latencies are counted up to this; a slower call counts as this.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// One call in so many has its latency noted: reading the clock twice for each would be a good part of what
/// is measured.
const NOTED_EVERY: u64 = 16;

/// What one caller saw.
struct Seen {
    answered: u64,
    failed: u64,
    micros: Vec<u64>,
}

/// Measures and prints.
pub(crate) async fn run(flags: BenchTsoFlags) -> Outcome {
    let playground = if flags.pd.is_empty() { Some(Playground::start(true).await?) } else { None };
    let endpoints = playground.as_ref().map_or_else(|| flags.pd.clone(), Playground::endpoints);
    let mut clients = Vec::new();
    for _ in 0..flags.clients.max(1) {
        clients.push(Client::connect(&endpoints).await.map_err(Failure::failed)?);
    }
    // The first timestamps find the leader and open the streams.
    for client in &clients {
        client.timestamp().await.map_err(Failure::failed)?;
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(flags.seconds);
    let callers: Vec<_> = clients
        .iter()
        .flat_map(|client| (0..flags.callers.max(1)).map(move |_| client.clone()))
        .map(|client| tokio::spawn(call(client, end)))
        .collect();
    let mut histogram =
        Histogram::<u64>::new_with_max(LATENCY_MAX_MICROS, 3).map_err(Failure::failed)?;
    let (mut answered, mut failed) = (0, 0);
    for caller in callers {
        let seen = caller.await.map_err(Failure::failed)??;
        answered += seen.answered;
        failed += seen.failed;
        for micros in seen.micros {
            histogram.saturating_record(micros.max(1));
        }
    }
    let took = start.elapsed().as_secs_f64();
    let per_second = answered as f64 / took;
    let quantile = |q| histogram.value_at_quantile(q);
    let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
    let report = Report::fields(
        vec![
            ("timestamps a second", format!("{per_second:.0}")),
            ("p50", format!("{p50} µs")),
            ("p99", format!("{p99} µs")),
            ("p99.9", format!("{p999} µs")),
            ("failed", failed.to_string()),
        ],
        json!({
            "clients": flags.clients,
            "callers": flags.callers,
            "timestamps_per_second": per_second,
            "p50_micros": p50,
            "p99_micros": p99,
            "p999_micros": p999,
            "failed": failed,
        }),
    );
    report.print(flags.output);
    match playground {
        Some(playground) => playground.stop().await,
        None => Ok(()),
    }
}

/// One caller until the end.
async fn call(client: Client, end: Instant) -> Outcome<Seen> {
    let mut seen = Seen { answered: 0, failed: 0, micros: Vec::new() };
    let mut last = None;
    let mut number = 0_u64;
    loop {
        let is_noted = number.is_multiple_of(NOTED_EVERY);
        number += 1;
        let called = is_noted.then(Instant::now);
        if called.is_some_and(|called| called >= end) {
            return Ok(seen);
        }
        match client.timestamp().await {
            Ok(timestamp) => {
                if last.is_some_and(|last| timestamp <= last) {
                    return Err(Failure::failed(format!("{timestamp} came after {last:?}")));
                }
                last = Some(timestamp);
                seen.answered += 1;
                let micros = called.map(|called| called.elapsed().as_micros() as u64);
                seen.micros.extend(micros);
            }
            Err(_) => seen.failed += 1,
        }
    }
}
