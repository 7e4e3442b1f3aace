//! The settings a store runs with, as TiKV shows its own: JSON in sections, under TiKV's names, sizes and
//! periods in TiKV's text form. Tools that read `/config` of a TiKV store find here what they look for.
//!
//! A setting is shown where this store has such a value, also where it is a constant. Left out: everything
//! else of TiKV's, rather than values that mean nothing here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use raftstore::config::Config as Raft;
use serde::{Serialize, Serializer};

use crate::config::{ApiVersion, Config, StorageKind};
use crate::txn::lock_wait::{WAIT_MAX, WAKE_OTHERS_AFTER};
use crate::txn::reservations::{REGION_BYTES_MAX, STORE_BYTES_MAX};

/// Bytes; written with the largest unit that divides them: `96MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let divides = |(shift, _): &&(u32, &str)| self.0.is_multiple_of(1 << shift);
        match units.iter().find(divides) {
            // As TiKV writes nothing.
            Some(_) if self.0 == 0 => f.write_str("0KiB"),
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A period in whole milliseconds; written with all units that it has: `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period(Duration);

impl Period {
    fn of_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left_ms = self.0.as_millis();
        if left_ms == 0 {
            return f.write_str("0s");
        }
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        for (unit_ms, unit) in units {
            let count = left_ms / unit_ms;
            left_ms %= unit_ms;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a store is reached, once its ports are bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// Where it serves.
    pub(crate) addr: String,
    /// What others are told of that.
    pub(crate) advertise_addr: String,
    /// Where its status port is; empty without one.
    pub(crate) status_addr: String,
    /// What others are told of that.
    pub(crate) advertise_status_addr: String,
}

/// All that is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Settings {
    log: LogSection,
    server: ServerSection,
    storage: StorageSection,
    pd: PdSection,
    raftstore: RaftSection,
    coprocessor: RegionSection,
    rocksdb: EngineSection,
    pessimistic_txn: PessimisticSection,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct LogSection {
    /// The most that is written about any part of the program.
    level: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ServerSection {
    addr: String,
    advertise_addr: String,
    status_addr: String,
    advertise_status_addr: String,
    grpc_compression_type: &'static str,
    snap_io_max_bytes_per_sec: Size,
    concurrent_send_snap_limit: usize,
    concurrent_recv_snap_limit: usize,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StorageSection {
    /// Empty: in memory.
    data_dir: String,
    api_version: u8,
    enable_ttl: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PdSection {
    endpoints: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct RaftSection {
    raft_workers: usize,
    raft_base_tick_interval: Period,
    raft_heartbeat_ticks: usize,
    raft_election_timeout_ticks: usize,
    raft_store_max_leader_lease: Period,
    raft_max_inflight_msgs: usize,
    raft_max_size_per_msg: Size,
    raft_entry_max_size: Size,
    raft_log_gc_tick_interval: Period,
    raft_log_gc_threshold: u64,
    raft_log_gc_count_limit: u64,
    raft_log_gc_size_limit: Size,
    raft_log_reserve_max_ticks: u64,
    hibernate_regions: bool,
    right_derive_when_split: bool,
    region_split_check_diff: Size,
    split_region_check_tick_interval: Period,
    pd_heartbeat_tick_interval: Period,
    pd_store_heartbeat_tick_interval: Period,
    max_peer_down_duration: Period,
    max_leader_missing_duration: Period,
    consistency_check_interval: Period,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct RegionSection {
    region_max_size: Size,
    region_split_size: Size,
    region_max_keys: u64,
    region_split_keys: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct EngineSection {
    max_open_files: i32,
    max_background_jobs: i32,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PessimisticSection {
    wait_for_lock_timeout: Period,
    wake_up_delay_duration: Period,
    pipelined: bool,
    in_memory: bool,
    in_memory_peer_size_limit: Size,
    in_memory_instance_size_limit: Size,
}

impl Settings {
    /// What this configuration means, at these addresses.
    pub(crate) fn of(config: &Config, addresses: Addresses) -> Self {
        let Addresses { addr, advertise_addr, status_addr, advertise_status_addr } = addresses;
        Self {
            log: LogSection { level: tracing::level_filters::LevelFilter::current().to_string() },
            server: ServerSection {
                addr,
                advertise_addr,
                status_addr,
                advertise_status_addr,
                grpc_compression_type: if config.compress_answers { "gzip" } else { "none" },
                snap_io_max_bytes_per_sec: Size(config.snapshot_bytes_per_second),
                concurrent_send_snap_limit: config.snapshots_sending_max,
                concurrent_recv_snap_limit: config.snapshots_receiving_max,
                labels: config.labels.clone(),
            },
            storage: StorageSection {
                data_dir: match &config.storage {
                    StorageKind::Memory => String::new(),
                    StorageKind::Path(folder) => folder.to_string_lossy().into_owned(),
                },
                api_version: match config.api_version {
                    ApiVersion::V1 | ApiVersion::V1Ttl => 1,
                    ApiVersion::V2 => 2,
                },
                // What expires is part of version 2, so TiKV demands it there.
                enable_ttl: config.api_version != ApiVersion::V1,
            },
            pd: PdSection { endpoints: config.scheduler_endpoints.clone() },
            raftstore: RaftSection::of(&config.raft),
            coprocessor: RegionSection {
                region_max_size: Size(config.raft.region_split_bytes),
                region_split_size: Size(config.raft.region_part_bytes),
                region_max_keys: config.raft.region_split_keys,
                region_split_keys: config.raft.region_part_keys,
            },
            rocksdb: EngineSection {
                max_open_files: config.rocks.open_files_max,
                max_background_jobs: config.rocks.background_jobs,
            },
            pessimistic_txn: PessimisticSection {
                wait_for_lock_timeout: Period(WAIT_MAX),
                wake_up_delay_duration: Period(WAKE_OTHERS_AFTER),
                // A lock is answered before it is in the log only if it need not be there.
                pipelined: config.in_memory_pessimistic_locks,
                in_memory: config.in_memory_pessimistic_locks,
                in_memory_peer_size_limit: Size(REGION_BYTES_MAX as u64),
                in_memory_instance_size_limit: Size(STORE_BYTES_MAX as u64),
            },
        }
    }
}

impl RaftSection {
    fn of(raft: &Raft) -> Self {
        let ticks = |ticks: u64| Period::of_millis(ticks.saturating_mul(raft.tick_interval_ms));
        Self {
            raft_workers: raft.raft_workers,
            raft_base_tick_interval: ticks(1),
            raft_heartbeat_ticks: raft.heartbeat_ticks,
            raft_election_timeout_ticks: raft.election_ticks,
            raft_store_max_leader_lease: ticks(if raft.leases {
                raft.lease_ticks as u64
            } else {
                0
            }),
            raft_max_inflight_msgs: raft.inflight_messages_max,
            raft_max_size_per_msg: Size(raft.message_bytes_max),
            raft_entry_max_size: Size(raft.entry_bytes_max as u64),
            raft_log_gc_tick_interval: ticks(raft.compact_log_ticks),
            raft_log_gc_threshold: raft.compact_log_entries_min,
            raft_log_gc_count_limit: raft.compact_log_entries_max,
            raft_log_gc_size_limit: Size(raft.compact_log_bytes_max),
            raft_log_reserve_max_ticks: raft.compact_log_looks_max,
            hibernate_regions: raft.sleep_after_ticks > 0,
            right_derive_when_split: raft.right_derive_when_split,
            region_split_check_diff: Size(raft.split_check_written_bytes),
            split_region_check_tick_interval: ticks(raft.split_check_ticks),
            pd_heartbeat_tick_interval: ticks(raft.region_heartbeat_ticks),
            pd_store_heartbeat_tick_interval: ticks(raft.store_heartbeat_ticks),
            max_peer_down_duration: Period::of_millis(raft.down_after_ms),
            max_leader_missing_duration: ticks(raft.leader_missing_ticks),
            consistency_check_interval: ticks(raft.consistency_check_ticks),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn sizes_and_periods_are_written_as_tikv_writes_them() {
        let sizes = [0, 1, 1000, 1024, 1536, 512 << 10, 96 << 20, 100 << 20, 1 << 30, 3 << 40];
        let written = sizes.map(|bytes| Size(bytes).to_string());
        let expected =
            ["0KiB", "1B", "1000B", "1KiB", "1536B", "512KiB", "96MiB", "100MiB", "1GiB", "3TiB"];
        assert_eq!(written, expected);
        let periods = [0, 50, 1000, 1500, 60_000, 90_000, 600_000, 5_400_000, 90_000_000];
        let written = periods.map(|millis| Period::of_millis(millis).to_string());
        let expected = ["0s", "50ms", "1s", "1s500ms", "1m", "1m30s", "10m", "1h30m", "1d1h"];
        assert_eq!(written, expected);
    }

    async fn shown(config: &Config) -> String {
        let addresses = Addresses {
            addr: "127.0.0.1:1".into(),
            advertise_addr: "db:1".into(),
            status_addr: "127.0.0.1:2".into(),
            advertise_status_addr: "db:2".into(),
        };
        let answer = Json(Settings::of(config, addresses)).into_response();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn settings_are_shown_under_the_names_that_tools_look_for() {
        let config = Config {
            storage: StorageKind::Path("/data/tessera".into()),
            api_version: ApiVersion::V2,
            ..Config::default()
        };
        let text = shown(&config).await;
        let pieces = [
            r#""server":{"addr":"127.0.0.1:1","advertise-addr":"db:1","status-addr":"127.0.0.1:2","#,
            r#""storage":{"data-dir":"/data/tessera","api-version":2,"enable-ttl":true}"#,
            r#""pd":{"endpoints":["http://127.0.0.1:2379"]}"#,
            r#""raft-base-tick-interval":"50ms","#,
            r#""raft-entry-max-size":"8MiB","#,
            r#""pd-heartbeat-tick-interval":"1m","#,
            r#""hibernate-regions":true"#,
            r#""coprocessor":{"region-max-size":"144MiB","region-split-size":"96MiB","#,
            r#""pipelined":true,"in-memory":true,"in-memory-peer-size-limit":"512KiB","#,
            r#""log":{"level":""#,
        ];
        for piece in pieces {
            assert!(text.contains(piece), "{piece} in {text}");
        }
        for (version, piece) in [
            (ApiVersion::V1, r#""api-version":1,"enable-ttl":false}"#),
            (ApiVersion::V1Ttl, r#""api-version":1,"enable-ttl":true}"#),
        ] {
            let config = Config { api_version: version, ..Config::default() };
            let text = shown(&config).await;
            assert!(
                text.contains(r#""storage":{"data-dir":"","#) && text.contains(piece),
                "{text}"
            );
        }
        let config = Config { in_memory_pessimistic_locks: false, ..Config::default() };
        assert!(shown(&config).await.contains(r#""in-memory":false"#));
    }
}
