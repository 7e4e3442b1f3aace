//! The settings of the stores of a run: the same on every store, and drawn so that rare paths
//! (snapshots, cut logs, waiting proposals) are common.

use raftstore::config::Config;

use super::dice::Dice;
use super::options::{Options, Plant};

/// What this store is set to.
pub(super) fn config_of(options: &Options, store: u64) -> Config {
    let mut dice = Dice::new(options.seed).stream("config");
    let small_log = dice.happens(600);
    let mut config = Config {
        seed: options.seed ^ store,
        raft_workers: options.lanes,
        message_bytes_max: if dice.happens(300) { 600 } else { 64 << 10 },
        inflight_messages_max: if dice.happens(300) { 2 } else { 256 },
        committed_bytes_max: if dice.happens(300) { 1 << 10 } else { 16 << 20 },
        entry_cache_bytes: if dice.happens(300) { 2 << 10 } else { 4 << 20 },
        compact_log_ticks: dice.within(10..60),
        compact_log_entries_min: if small_log { 5 } else { 50 },
        compact_log_entries_max: if small_log { dice.within(10..60) } else { 1000 },
        sleep_after_ticks: if dice.happens(600) { dice.within(2..40) } else { 0 },
        region_heartbeat_ticks: dice.within(10..40),
        store_heartbeat_ticks: 40,
        down_after_ms: 3_000,
        uncommitted_bytes_max: if dice.happens(100) { 64 << 10 } else { 128 << 20 },
        waiting_bytes_max: if dice.happens(100) { 1 << 10 } else { 64 << 20 },
        compact_log_looks_max: dice.within(1..8),
        compact_log_bytes_max: if dice.happens(200) { 8 << 10 } else { 192 << 20 },
        read_index_retry_ticks: dice.within(2..12),
        leader_missing_ticks: dice.within(20..100),
        region_split_bytes: 0,
        region_part_bytes: 0,
        split_check_ticks: 40,
        right_derive_when_split: dice.happens(500),
        snapshot_retry_ticks: dice.within(20..80),
        consistency_check_ticks: if dice.happens(300) { dice.within(30..300) } else { 0 },
        ..Config::default()
    };
    if options.topology && dice.happens(500) {
        config.region_split_bytes = dice.within(600..4 << 10);
        config.region_part_bytes = config.region_split_bytes / 2;
        config.split_check_written_bytes = dice.within(100..2 << 10);
    }
    config.asks_before_handover =
        options.transactions.as_ref().is_some_and(|transacting| transacting.in_memory);
    if options.transactions.is_some() {
        // Versions pile up: smaller parts would be too many.
        config.region_split_bytes *= 6;
        config.region_part_bytes *= 6;
        config.split_check_written_bytes *= 8;
    } else if options.topology && dice.happens(200) {
        config.region_split_keys = dice.within(6..14);
        config.region_part_keys = config.region_split_keys / 2;
    }
    if options.plant == Some(Plant::LongLease) {
        config.lease_ticks = 60;
    }
    #[cfg(feature = "plant")]
    if let Some(Plant::InMachines(bug)) = options.plant {
        config.planted = raftstore::plant::Planted::one(bug);
    }
    config
}
