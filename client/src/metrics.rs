//! What a client has done and met, in numbers.
//!
//! Everything made from one [`Client`](crate::Client) counts together. [`Metrics`] prints itself in
//! the text form that Prometheus reads; an application adds that text to what it serves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use proto::Refusal;

/// Upper bounds of the latency buckets, in microseconds: a factor of four between neighbours.
const BUCKETS_MICROS: [u64; 9] =
    [250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_024_000, 4_096_000, 16_384_000];

/// How a transaction was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitWay {
    /// With one request.
    OnePhase,
    /// When the last key was locked.
    Async,
    /// Through both phases.
    TwoPhases,
}

impl CommitWay {
    fn name(self) -> &'static str {
        match self {
            Self::OnePhase => "one_phase",
            Self::Async => "async",
            Self::TwoPhases => "two_phases",
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Debug, Default)]
struct Series {
    count: u64,
    micros: u64,
    buckets: [u64; BUCKETS_MICROS.len()],
}

/// The numbers of a client. They only grow.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    requests: BTreeMap<&'static str, Series>,
    refusals: BTreeMap<&'static str, u64>,
    failures: u64,
    commits: BTreeMap<CommitWay, u64>,
    repeated: u64,
    locks_met: u64,
    lookups: u64,
}

impl Metrics {
    /// How many requests of a kind were sent, by the name of their method in `snake_case`.
    pub fn requests(&self, method: &str) -> u64 {
        self.0.lock().requests.get(method).map_or(0, |series| series.count)
    }

    /// How many requests a store refused with a region error, of all kinds.
    pub fn refusals(&self) -> u64 {
        self.0.lock().refusals.values().sum()
    }

    /// How many requests got no answer.
    pub fn failures(&self) -> u64 {
        self.0.lock().failures
    }

    /// How many transactions were committed in this way.
    pub fn commits(&self, way: CommitWay) -> u64 {
        self.0.lock().commits.get(&way).copied().unwrap_or(0)
    }

    /// How many times `run` had to run a transaction again.
    pub fn repeated(&self) -> u64 {
        self.0.lock().repeated
    }

    /// How many locks of other transactions were in the way.
    pub fn locks_met(&self) -> u64 {
        self.0.lock().locks_met
    }

    /// How often the scheduler was asked where a key lives.
    pub fn lookups(&self) -> u64 {
        self.0.lock().lookups
    }

    pub(crate) fn request(&self, name: &'static str, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut numbers = self.0.lock();
        let series = numbers.requests.entry(name).or_default();
        series.count += 1;
        series.micros = series.micros.saturating_add(micros);
        if let Some(bucket) = BUCKETS_MICROS.iter().position(|bound| micros <= *bound) {
            series.buckets[bucket] += 1;
        }
    }

    pub(crate) fn refusal(&self, refusal: &Refusal) {
        *self.0.lock().refusals.entry(kind_of(refusal)).or_default() += 1;
    }

    pub(crate) fn failure(&self) {
        self.0.lock().failures += 1;
    }

    pub(crate) fn commit(&self, way: CommitWay) {
        *self.0.lock().commits.entry(way).or_default() += 1;
    }

    pub(crate) fn repeat(&self) {
        self.0.lock().repeated += 1;
    }

    pub(crate) fn meets_locks(&self, count: usize) {
        self.0.lock().locks_met += count as u64;
    }

    pub(crate) fn lookup(&self) {
        self.0.lock().lookups += 1;
    }
}

fn kind_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotLeader { .. } => "not_leader",
        Refusal::RegionNotFound { .. } => "region_not_found",
        Refusal::KeyNotInRegion { .. } => "key_not_in_region",
        Refusal::EpochNotMatch { .. } => "epoch_not_match",
        Refusal::ServerIsBusy { .. } => "server_is_busy",
        Refusal::StaleCommand => "stale_command",
        Refusal::StoreNotMatch { .. } => "store_not_match",
        Refusal::RaftEntryTooLarge { .. } => "raft_entry_too_large",
        Refusal::MaxTimestampNotSynced => "max_timestamp_not_synced",
        Refusal::ReadIndexNotReady { .. } => "read_index_not_ready",
        Refusal::ProposalInMergingMode { .. } => "proposal_in_merging_mode",
        Refusal::DataIsNotReady { .. } => "data_is_not_ready",
        Refusal::RegionNotInitialized { .. } => "region_not_initialized",
        Refusal::DiskFull { .. } => "disk_full",
        Refusal::MismatchPeerId { .. } => "mismatch_peer_id",
        Refusal::UndeterminedResult { .. } => "undetermined_result",
        Refusal::Other { .. } => "other",
    }
}

/// Prometheus' text form.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = self.0.lock();
        let name = "tessera_client_request_seconds";
        writeln!(f, "# HELP {name} How long requests to stores took, refused ones included.")?;
        writeln!(f, "# TYPE {name} histogram")?;
        for (method, series) in &numbers.requests {
            let mut below = 0;
            for (bound, count) in BUCKETS_MICROS.iter().zip(series.buckets) {
                below += count;
                let bound = Duration::from_micros(*bound).as_secs_f64();
                writeln!(f, "{name}_bucket{{method=\"{method}\",le=\"{bound}\"}} {below}")?;
            }
            let (count, seconds) = (series.count, series.micros as f64 / 1e6);
            writeln!(f, "{name}_bucket{{method=\"{method}\",le=\"+Inf\"}} {count}")?;
            writeln!(f, "{name}_sum{{method=\"{method}\"}} {seconds}")?;
            writeln!(f, "{name}_count{{method=\"{method}\"}} {count}")?;
        }
        let mut counter = |name: &str, help: &str, values: Vec<(String, u64)>| {
            let name = format!("tessera_client_{name}_total");
            writeln!(f, "# HELP {name} {help}\n# TYPE {name} counter")?;
            values.iter().try_for_each(|(label, value)| writeln!(f, "{name}{label} {value}"))
        };
        let refusals = numbers.refusals.iter();
        let refusals = refusals.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), *count));
        counter("refusals", "Requests that a store refused.", refusals.collect())?;
        let commits = numbers.commits.iter();
        let commits = commits.map(|(way, count)| (format!("{{way=\"{}\"}}", way.name()), *count));
        counter("commits", "Transactions committed.", commits.collect())?;
        let one = |value| vec![(String::new(), value)];
        counter("failures", "Requests that got no answer.", one(numbers.failures))?;
        counter("repeated", "Transactions run again by run.", one(numbers.repeated))?;
        counter("locks_met", "Locks of others that were in the way.", one(numbers.locks_met))?;
        counter("lookups", "Regions asked of the scheduler.", one(numbers.lookups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.request("kv_get", Duration::from_micros(900));
        metrics.request("kv_get", Duration::from_secs(60));
        metrics.refusal(&Refusal::StaleCommand);
        metrics.commit(CommitWay::Async);
        let text = metrics.to_string();
        for line in [
            "tessera_client_request_seconds_bucket{method=\"kv_get\",le=\"0.00025\"} 0",
            "tessera_client_request_seconds_bucket{method=\"kv_get\",le=\"0.001\"} 1",
            "tessera_client_request_seconds_bucket{method=\"kv_get\",le=\"16.384\"} 1",
            "tessera_client_request_seconds_bucket{method=\"kv_get\",le=\"+Inf\"} 2",
            "tessera_client_request_seconds_sum{method=\"kv_get\"} 60.0009",
            "tessera_client_refusals_total{kind=\"stale_command\"} 1",
            "tessera_client_commits_total{way=\"async\"} 1",
            "tessera_client_failures_total 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert_eq!((metrics.requests("kv_get"), metrics.refusals()), (2, 1));
    }
}
