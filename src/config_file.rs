//! Configuration files: TOML with the keys of tikv-server and pd-server where the meaning is the
//! same.
//!
//! Every unknown key is reported at once, each with the nearest known one. Keys that are known but
//! change nothing here are accepted with a warning, so that files written for the originals can be
//! used as they are. The originals have too many of those to list: where they are taken, a key that is all
//! but one of ours ([`SLIPS_MAX`]) is a slip of the finger, and reported too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::exit::{Failure, Outcome};
use crate::replica_keys::{Period, RaftSection, RegionSection, Size};

/// Sections of tikv-server's file whose keys are accepted and, but for those named below, change nothing.
const STORE_SECTIONS_WITHOUT_EFFECT: [&str; 10] = [
    "coprocessor",
    "rocksdb",
    "raftdb",
    "raft-engine",
    "raftstore",
    "readpool",
    "security",
    "gc",
    "import",
    "log-backup",
];

/// Sections of pd-server's file whose keys are accepted and, but for those named below, change nothing.
const SCHEDULER_SECTIONS_WITHOUT_EFFECT: [&str; 4] =
    ["schedule", "pd-server", "security", "metric"];

/// What a store's file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct StoreFile {
    pub(crate) server: ServerSection,
    pub(crate) storage: StorageSection,
    pub(crate) pd: PdSection,
    pub(crate) log: LogSection,
    pub(crate) coprocessor: RegionSection,
    pub(crate) raftstore: RaftSection,
    pub(crate) pessimistic_txn: PessimisticSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct PessimisticSection {
    in_memory: Option<bool>,
    pipelined: Option<bool>,
    wait_for_lock_timeout: Option<toml::Value>,
    wake_up_delay_duration: Option<toml::Value>,
    in_memory_peer_size_limit: Option<toml::Value>,
    in_memory_instance_size_limit: Option<toml::Value>,
}

impl PessimisticSection {
    /// Whether locks may be kept in memory; as in TiKV, only where answering early is allowed too.
    pub(crate) fn keeps_in_memory(&self) -> bool {
        self.in_memory.unwrap_or(true) && self.pipelined.unwrap_or(true)
    }

    /// Those of its keys that were said and change nothing.
    fn idle(&self) -> impl Iterator<Item = String> {
        let keys = [
            ("wait-for-lock-timeout", &self.wait_for_lock_timeout),
            ("wake-up-delay-duration", &self.wake_up_delay_duration),
            ("in-memory-peer-size-limit", &self.in_memory_peer_size_limit),
            ("in-memory-instance-size-limit", &self.in_memory_instance_size_limit),
        ];
        keys.into_iter()
            .filter(|(_, said)| said.is_some())
            .map(|(key, _)| format!("pessimistic-txn.{key}"))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct ServerSection {
    pub(crate) addr: Option<String>,
    pub(crate) advertise_addr: Option<String>,
    pub(crate) status_addr: Option<String>,
    pub(crate) advertise_status_addr: Option<String>,
    pub(crate) grpc_compression_type: Option<String>,
    pub(crate) snap_io_max_bytes_per_sec: Option<Size>,
    pub(crate) concurrent_send_snap_limit: Option<usize>,
    pub(crate) concurrent_recv_snap_limit: Option<usize>,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct StorageSection {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) api_version: Option<u8>,
    pub(crate) enable_ttl: Option<bool>,
    reserve_space: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct PdSection {
    pub(crate) endpoints: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct LogSection {
    pub(crate) level: Option<String>,
    file: LogFileSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct LogFileSection {
    filename: Option<PathBuf>,
}

impl LogSection {
    /// Where to log; an empty name is stderr, as in the originals.
    pub(crate) fn filename(&self) -> Option<PathBuf> {
        self.file.filename.clone().filter(|path| !path.as_os_str().is_empty())
    }
}

/// What a scheduler member's file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct SchedulerFile {
    pub(crate) name: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) client_urls: Option<String>,
    pub(crate) peer_urls: Option<String>,
    pub(crate) advertise_client_urls: Option<String>,
    pub(crate) advertise_peer_urls: Option<String>,
    pub(crate) initial_cluster: Option<String>,
    pub(crate) join: Option<String>,
    lease: Option<toml::Value>,
    pub(crate) log: LogSection,
    pub(crate) replication: ReplicationSection,
    pub(crate) schedule: ScheduleSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct ScheduleSection {
    pub(crate) enable_joint_consensus: Option<bool>,
    pub(crate) gc_life_time: Option<Period>,
    pub(crate) gc_run_interval: Option<Period>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct ReplicationSection {
    pub(crate) max_replicas: Option<usize>,
    pub(crate) location_labels: Option<Vec<String>>,
    pub(crate) isolation_level: Option<String>,
    pub(crate) strictly_match_label: Option<bool>,
    pub(crate) enable_placement_rules: Option<bool>,
}

/// A store's file, or an empty one when none is named.
pub(crate) fn store(path: Option<&Path>) -> Outcome<StoreFile> {
    let (file, mut idle): (StoreFile, _) = read(path, &STORE_SECTIONS_WITHOUT_EFFECT)?;
    if file.storage.reserve_space.is_some() {
        idle.insert("storage.reserve-space".into());
    }
    idle.extend(file.pessimistic_txn.idle());
    warn(path, &idle);
    Ok(file)
}

/// A scheduler member's file, or an empty one when none is named.
pub(crate) fn scheduler(path: Option<&Path>) -> Outcome<SchedulerFile> {
    let (file, mut idle): (SchedulerFile, _) = read(path, &SCHEDULER_SECTIONS_WITHOUT_EFFECT)?;
    if file.lease.is_some() {
        idle.insert("lease".into());
    }
    warn(path, &idle);
    Ok(file)
}

fn warn(path: Option<&Path>, idle: &BTreeSet<String>) {
    if let (Some(path), false) = (path, idle.is_empty()) {
        let keys: Vec<&str> = idle.iter().map(String::as_str).collect();
        eprintln!("tessera: {}: no effect here: {}", path.display(), keys.join(", "));
    }
}

/// The file, and which of its keys change nothing.
fn read<T: Default + DeserializeOwned>(
    path: Option<&Path>,
    sections_without_effect: &[&str],
) -> Outcome<(T, BTreeSet<String>)> {
    let Some(path) = path else { return Ok((T::default(), BTreeSet::new())) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))?;
    parse(&text, sections_without_effect)
        .map_err(|problem| Failure::usage(format!("{}: {problem}", path.display())))
}

fn parse<T: Default + DeserializeOwned>(
    text: &str,
    sections_without_effect: &[&str],
) -> Result<(T, BTreeSet<String>), String> {
    let mut ignored = BTreeSet::new();
    let document =
        toml::Deserializer::parse(text).map_err(|error| error.to_string().trim().to_owned())?;
    let file: T = serde_ignored::deserialize(document, |key| {
        ignored.insert(key.to_string());
    })
    .map_err(|error| error.to_string().trim().to_owned())?;
    let (idle, unknown): (BTreeSet<String>, BTreeSet<String>) =
        ignored.into_iter().partition(|key| {
            let section = key.split('.').next().unwrap_or(key);
            let is_slip = KNOWN
                .iter()
                .filter(|known| known.split('.').next() == Some(section))
                .any(|known| distance(key, known) <= SLIPS_MAX);
            sections_without_effect.contains(&section) && !is_slip
        });
    if unknown.is_empty() {
        return Ok((file, idle));
    }
    let hints: Vec<String> = unknown.iter().map(|key| hint(key)).collect();
    Err(format!("unknown keys: {}", hints.join(", ")))
}

/// So many letters changed, added or left out make a slip of the finger, where keys of the originals that change
/// nothing are taken. None of theirs is so near to one of ours.
const SLIPS_MAX: usize = 2;

/// Keys that change something, of both files; enough to catch a slip of the finger.
const KNOWN: [&str; 50] = [
    "server.addr",
    "server.advertise-addr",
    "server.status-addr",
    "server.advertise-status-addr",
    "server.grpc-compression-type",
    "server.snap-io-max-bytes-per-sec",
    "server.concurrent-send-snap-limit",
    "server.concurrent-recv-snap-limit",
    "server.labels",
    "storage.data-dir",
    "storage.api-version",
    "storage.enable-ttl",
    "storage.reserve-space",
    "pd.endpoints",
    "coprocessor.region-max-size",
    "coprocessor.region-split-size",
    "coprocessor.region-max-keys",
    "coprocessor.region-split-keys",
    "raftstore.raft-workers",
    "raftstore.right-derive-when-split",
    "raftstore.region-split-check-diff",
    "raftstore.split-region-check-tick-interval",
    "raftstore.pd-heartbeat-tick-interval",
    "raftstore.pd-store-heartbeat-tick-interval",
    "raftstore.raft-entry-max-size",
    "raftstore.raft-log-gc-threshold",
    "raftstore.raft-log-gc-count-limit",
    "raftstore.raft-log-gc-size-limit",
    "raftstore.raft-log-reserve-max-ticks",
    "raftstore.hibernate-regions",
    "raftstore.consistency-check-interval",
    "pessimistic-txn.in-memory",
    "pessimistic-txn.pipelined",
    "log.level",
    "log.file.filename",
    "name",
    "data-dir",
    "client-urls",
    "peer-urls",
    "advertise-client-urls",
    "advertise-peer-urls",
    "initial-cluster",
    "schedule.enable-joint-consensus",
    "schedule.gc-life-time",
    "schedule.gc-run-interval",
    "replication.max-replicas",
    "replication.location-labels",
    "replication.isolation-level",
    "replication.strictly-match-label",
    "replication.enable-placement-rules",
];

/// An unknown key, with the nearest known one when there is a near one.
fn hint(key: &str) -> String {
    let nearest = KNOWN.iter().map(|known| (distance(key, known), known)).min();
    match nearest {
        Some((steps, known)) if steps <= key.len() / 3 => {
            format!("{key} (did you mean {known}?)")
        }
        _ => key.to_owned(),
    }
}

/// How many letters must be changed, added or removed to make one word of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_originals_are_understood() {
        let text = "[server]\naddr = \"a:1\"\n[storage]\napi-version = 2\n[coprocessor]\nregion-max-keys = 10\nbatch-split-limit = 3\n";
        let (file, idle): (StoreFile, _) = parse(text, &STORE_SECTIONS_WITHOUT_EFFECT).unwrap();
        assert_eq!(file.server.addr.as_deref(), Some("a:1"));
        assert_eq!(file.storage.api_version, Some(2));
        assert_eq!(idle.into_iter().collect::<Vec<_>>(), ["coprocessor.batch-split-limit"]);
    }

    #[test]
    fn the_file_of_all_keys_says_the_defaults() {
        let text = include_str!("../config/tessera.toml");
        let (file, idle): (StoreFile, _) = parse(text, &[]).unwrap();
        assert!(idle.is_empty(), "{idle:?}");
        let defaults = kv::Config::default();
        let mut raft = defaults.raft.clone();
        file.coprocessor.apply(&mut raft);
        file.raftstore.apply(&mut raft);
        assert_eq!(format!("{raft:?}"), format!("{:?}", defaults.raft));
        let server = file.server;
        assert_eq!(
            server.snap_io_max_bytes_per_sec,
            Some(Size(defaults.snapshot_bytes_per_second))
        );
        assert_eq!(server.concurrent_send_snap_limit, Some(defaults.snapshots_sending_max));
        assert_eq!(server.concurrent_recv_snap_limit, Some(defaults.snapshots_receiving_max));
    }

    #[test]
    fn all_unknown_keys_are_told_at_once_with_the_nearest_known_one() {
        let text = "colour = 1\n[server]\nadrr = \"a:1\"\n";
        let error = parse::<StoreFile>(text, &STORE_SECTIONS_WITHOUT_EFFECT).unwrap_err();
        assert!(error.contains("colour") && error.contains("did you mean server.addr"), "{error}");
    }

    /// Keys of tikv-server's that change nothing here are told of, others of that section refused.
    #[test]
    fn a_mistyped_key_of_pessimistic_transactions_is_refused() {
        let section = |line: &str| format!("[pessimistic-txn]\n{line}\n");
        let read = |text: &str| parse::<StoreFile>(text, &STORE_SECTIONS_WITHOUT_EFFECT);
        let error = read(&section("in-memry = false")).unwrap_err();
        assert!(error.contains("pessimistic-txn.in-memry"), "{error}");
        assert!(error.contains("did you mean pessimistic-txn.in-memory?"), "{error}");
        let known = "pipelined = false\nwait-for-lock-timeout = \"1s\"\nwake-up-delay-duration = 20\n\
            in-memory-peer-size-limit = \"1MiB\"\nin-memory-instance-size-limit = 1\n";
        let (file, ignored) = read(&section(known)).unwrap();
        assert!(ignored.is_empty(), "{ignored:?}");
        assert!(!file.pessimistic_txn.keeps_in_memory());
        let idle: Vec<_> = file.pessimistic_txn.idle().collect();
        assert_eq!(
            idle,
            [
                "pessimistic-txn.wait-for-lock-timeout",
                "pessimistic-txn.wake-up-delay-duration",
                "pessimistic-txn.in-memory-peer-size-limit",
                "pessimistic-txn.in-memory-instance-size-limit",
            ]
        );
    }

    /// … and so is one in a section of which the originals have more keys than are listed here.
    #[test]
    fn a_slip_of_the_finger_among_keys_without_effect_is_refused() {
        let read = |text: &str| parse::<StoreFile>(text, &STORE_SECTIONS_WITHOUT_EFFECT);
        for (slip, meant) in [
            ("[coprocessor]\nregion-max-key = 1\n", "coprocessor.region-max-keys"),
            ("[raftstore]\nraft-worker = 2\n", "raftstore.raft-workers"),
            ("[raftstore]\nhybernate-region = true\n", "raftstore.hibernate-regions"),
        ] {
            let error = read(slip).unwrap_err();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        let alike = "[raftstore]\nraft-log-compact-sync-interval = \"2s\"\nraft-max-inflight-msgs = 1\n\
            snap-mgr-gc-tick-interval = \"1m\"\nraft-store-max-leader-lease = \"9s\"\n";
        assert_eq!(read(alike).unwrap().1.len(), 4);
        let slip = parse::<SchedulerFile>(
            "[schedule]\ngc-lifetime = \"1m\"\nmax-snapshot-count = 3\n",
            &SCHEDULER_SECTIONS_WITHOUT_EFFECT,
        );
        let error = slip.unwrap_err();
        assert!(error.contains("did you mean schedule.gc-life-time?"), "{error}");
        assert!(!error.contains("max-snapshot-count"), "{error}");
    }

    #[test]
    fn every_key_of_a_section_with_keys_without_effect_is_known() {
        for (section, keys) in [
            ("coprocessor", format!("{:?}", RegionSection::default())),
            ("raftstore", format!("{:?}", RaftSection::default())),
            ("schedule", format!("{:?}", ScheduleSection::default())),
        ] {
            let (_, keys) = keys.split_once("{ ").unwrap();
            for key in keys.split(", ") {
                let name = key.split(':').next().unwrap().replace('_', "-");
                let key = format!("{section}.{name}");
                assert!(KNOWN.contains(&key.as_str()), "{key} is not known");
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused() {
        assert!(parse::<StoreFile>("[storage]\napi-version = \"x\"\n", &[]).is_err());
        assert!(parse::<StoreFile>("[storage\n", &[]).is_err());
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!(distance("adrr", "addr"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
