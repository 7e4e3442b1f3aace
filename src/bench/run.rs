//! The loop that every benchmark runs, and what it measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::exit::{Failure, Outcome};

/// Latencies are counted up to this; a slower call counts as this.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) calls_per_second: f64,
    pub(crate) p50_micros: u64,
    pub(crate) p99_micros: u64,
    pub(crate) failures: u64,
}

/// A system that can be called. The number is the key's.
pub(crate) trait Target: Send + Sync + 'static {
    /// Sets a key.
    fn put(&self, key: u64) -> impl Future<Output = Result<(), String>> + Send;
    /// Reads a key, linearizably.
    fn get(&self, key: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// Which call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Put,
    Get,
}

impl Call {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// Keeps `clients` calls in flight for `seconds`, over keys below `keys`.
pub(crate) async fn measure<T: Target>(
    target: Arc<T>,
    call: Call,
    clients: usize,
    keys: u64,
    seconds: u64,
) -> Outcome<Figures> {
    let failures = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (target, failures) = (target.clone(), failures.clone());
            tokio::spawn(async move {
                let mut random = number as u64 + 1;
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let key = (random >> 20) % keys;
                    let called = Instant::now();
                    let outcome = match call {
                        Call::Put => target.put(key).await,
                        Call::Get => target.get(key).await,
                    };
                    match outcome {
                        Ok(()) => latencies.push(called.elapsed().as_micros() as u64),
                        Err(_) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                latencies
            })
        })
        .collect();
    let mut histogram =
        Histogram::<u64>::new_with_max(LATENCY_MAX_MICROS, 3).map_err(Failure::failed)?;
    for task in tasks {
        for latency in task.await.map_err(Failure::failed)? {
            histogram.saturating_record(latency.max(1));
        }
    }
    let took = start.elapsed().as_secs_f64();
    Ok(Figures {
        calls_per_second: histogram.len() as f64 / took,
        p50_micros: histogram.value_at_quantile(0.5),
        p99_micros: histogram.value_at_quantile(0.99),
        failures: failures.load(Ordering::Relaxed),
    })
}

/// The figures of the round with the median throughput.
pub(crate) fn median(mut rounds: Vec<Figures>) -> Figures {
    rounds.sort_by(|a, b| a.calls_per_second.total_cmp(&b.calls_per_second));
    rounds[rounds.len() / 2]
}
