//! What a cluster is made of.

use raftstore::config::Config;

use crate::sim::dice::{digest, mix};
use crate::sim::events::{Instant, SECOND};
use crate::sim::options::Plant;

/// A store that starts to campaign has heard nothing for at least so long.
pub const ELECTION_TIMEOUT: Instant = SECOND / 2;

/// Logs are not cut before they have so many entries, unless a test says otherwise.
const LOG_ENTRIES_USUAL: u64 = 128_000;

/// The settings of a cluster. Stores have the ids 1 to [`Settings::stores`], and so have their peers of
/// the first region, which is region 1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The test, as it is called in the sources.
    pub test: &'static str,
    /// Everything random comes from here.
    pub seed: u64,
    /// How many stores there are.
    pub stores: u64,
    /// A leader cuts its log when it has more entries than this.
    pub log_entries_max: Option<u64>,
    /// A region is split when it has more bytes than the first number, into parts of about the second.
    pub region_bytes: Option<(u64, u64)>,
    /// A bug to plant, to see a lab find it.
    pub plant: Option<Plant>,
}

impl Settings {
    /// Five stores, for this test. `TESSERA_LAB_SEED` moves the seeds of all tests.
    pub fn of(test: &'static str) -> Self {
        let chosen = chosen_seed();
        Self {
            test,
            seed: digest(test.as_bytes()) ^ if chosen == 0 { 0 } else { mix(chosen) },
            stores: 5,
            log_entries_max: None,
            region_bytes: None,
            plant: None,
        }
    }

    /// What a store is set to: the course's periods, all short, so that little time passes between a
    /// cause and its effect.
    pub(super) fn config_of(&self, store: u64) -> Config {
        let log_entries_max = self.log_entries_max.unwrap_or(LOG_ENTRIES_USUAL);
        let mut config = Config {
            seed: self.seed ^ store,
            compact_log_ticks: 1,
            compact_log_entries_min: log_entries_max,
            compact_log_entries_max: log_entries_max,
            // A short log stays as it is.
            compact_log_looks_max: u64::MAX,
            region_heartbeat_ticks: 2,
            store_heartbeat_ticks: 10,
            leader_missing_ticks: 40,
            split_check_ticks: 2,
            snapshot_retry_ticks: 40,
            ..Config::default()
        };
        if self.plant == Some(Plant::LongLease) {
            config.lease_ticks = 60;
            return config;
        }
        if let Some((most, part)) = self.region_bytes {
            config.region_split_bytes = most;
            config.region_part_bytes = part;
            // Regions are so small that a look costs nothing, and the last byte may be one too many.
            config.split_check_written_bytes = 1;
        }
        config.validate().expect("the settings of a lab work together");
        config
    }
}

/// The seed chosen by whoever runs the labs; 0 when nobody did.
pub(super) fn chosen_seed() -> u64 {
    let Ok(value) = std::env::var("TESSERA_LAB_SEED") else { return 0 };
    value.parse().unwrap_or_else(|_| panic!("TESSERA_LAB_SEED is a number, not {value:?}"))
}
