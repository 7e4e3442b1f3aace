//! What the cluster should look like, and how fast it may be brought there.

use std::collections::BTreeMap;

use proto::StoreId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operator::store_limit::StoreRates;

/// How much of everything a store shall have, beside the others, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Weights {
    /// Of the leaders.
    pub leader_milli: u32,
    /// Of the peers.
    pub region_milli: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { leader_milli: 1_000, region_milli: 1_000 }
    }
}

impl Weights {
    /// An amount of peers, or of their sizes, as it counts for a store of this weight.
    pub fn of_regions(self, amount: i64) -> i64 {
        Self::weigh(amount, self.region_milli)
    }

    /// An amount of leaders as it counts for a store of this weight.
    pub fn of_leaders(self, amount: i64) -> i64 {
        Self::weigh(amount, self.leader_milli)
    }

    fn weigh(amount: i64, milli: u32) -> i64 {
        if milli == 1_000 {
            return amount;
        }
        // A weight of nothing counts as a very small one: the store fills last.
        amount.saturating_mul(1_000) / i64::from(milli.max(1))
    }
}

/// What the leaders of two stores are compared by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaderSchedulePolicy {
    /// How many there are.
    #[default]
    Count,
    /// The sizes of their regions together.
    Size,
}

impl LeaderSchedulePolicy {
    /// The policy as PD names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Size => "size",
        }
    }
}

/// A setting that was changed for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Temporary {
    /// What it goes back to, in PD's words.
    pub before: Value,
    /// Milliseconds since 1970 from which on it lapses.
    pub until_ms: u64,
}

/// The cluster's wishes. One value for the whole cluster, replicated among the scheduler's
/// members; the names are those of PD's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Policy {
    /// Voters every region should have.
    pub max_replicas: usize,
    /// Keys of store labels from the coarsest place to the finest ("zone", "host"): replicas of a
    /// region are kept apart by them. Empty: any two stores are as good as any other two.
    pub location_labels: Vec<String>,
    /// Labels by the first of which up to this one no two replicas may be equal, even if a
    /// replica goes missing for it. Empty: location labels are a wish only.
    pub isolation_level: String,
    /// Whether a store without all location labels is refused.
    pub strictly_match_label: bool,
    /// Whether placement rules decide which peers a region has, instead of the wishes above. As long as
    /// nobody has written rules, they say the same.
    pub enable_placement_rules: bool,
    /// Whether a peer of a healthy region moves to a store that keeps it further apart from the others.
    pub enable_location_replacement: bool,
    /// Weights of stores that were given one, by id; the others' are 1.
    pub store_weights: BTreeMap<u64, Weights>,
    /// Milliseconds of silence after which a store counts as lost and its peers are made anew
    /// elsewhere.
    pub max_store_down_time_ms: u64,
    /// Share of a store's capacity, in percent, that may be used before it gets no more peers.
    pub low_space_percent: u64,
    /// Share of a store's capacity, in percent, from which on its score grows faster than what it
    /// holds, so that others are filled first.
    pub high_space_percent: u64,
    /// Leader transfers under way at once, in the whole cluster.
    pub leader_schedule_limit: usize,
    /// Peer moves for balance under way at once.
    pub region_schedule_limit: usize,
    /// Repairs of replicas under way at once.
    pub replica_schedule_limit: usize,
    /// Moves of hot regions' peers and leaders under way at once.
    pub hot_region_schedule_limit: usize,
    /// Heartbeats in a row that must show a region hot before it counts as hot.
    pub hot_region_cache_hits_threshold: u32,
    /// Hot peers larger than this many MiB are not moved.
    pub max_movable_hot_peer_size_mib: u64,
    /// Peers that each store may be given and relieved of in a minute, unless it has rates of its
    /// own.
    pub default_store_limit: StoreRates,
    /// The same for single stores, by their ids.
    pub store_limit: BTreeMap<u64, StoreRates>,
    /// Share of the stores, in percent, that may be slow: beyond it the trouble is not theirs, and
    /// none is relieved of its leaders.
    pub slow_store_affected_percent: u64,
    /// Peers being added to one store at once; more regions wait.
    pub store_adding_max: usize,
    /// Snapshots a store may be sending, receiving or applying before it gets no more peers.
    pub max_snapshot_count: u32,
    /// Peers that may be catching up on a store before it gets no more.
    pub max_pending_peer_count: usize,
    /// Whether a new peer is added as a learner first and gets its vote when it has caught up.
    pub add_as_learner: bool,
    /// Whether a plan that changes several votes changes them at once, in a joint membership. Without
    /// `add_as_learner` it does not: then votes are given one by one, before there are data to vote on.
    pub enable_joint_consensus: bool,
    /// Stops all checkers and balancers; operators of administrators still run.
    pub halt_scheduling: bool,
    /// What the leaders of two stores are compared by.
    pub leader_schedule_policy: LeaderSchedulePolicy,
    /// Difference of sizes between two stores that is left alone on either side, in percent of the
    /// average region; 0 grows it with the number of regions.
    pub tolerant_size_percent: u64,
    /// Difference of leader counts between two stores that is left alone.
    pub leader_balance_tolerance: usize,
    /// Whether leaders are balanced.
    pub balance_leaders: bool,
    /// Whether peers are balanced.
    pub balance_regions: bool,
    /// Versions that were the newest at some time within the last so many milliseconds can be read.
    pub gc_life_time_ms: u64,
    /// Milliseconds between two collections of older versions; 0 leaves them to whoever moves the safe
    /// points.
    pub gc_run_interval_ms: u64,
    /// Items of PD's configuration that change nothing here and that somebody has set, by name: kept and shown,
    /// so that tools find what they wrote.
    pub idle_items: BTreeMap<String, Value>,
    /// The settings that go back to what they were after a while, by name. The value in force is where it
    /// always is.
    pub temporary: BTreeMap<String, Temporary>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_replicas: 3,
            location_labels: Vec::new(),
            isolation_level: String::new(),
            strictly_match_label: false,
            enable_placement_rules: true,
            enable_location_replacement: true,
            store_weights: BTreeMap::new(),
            max_store_down_time_ms: 30 * 60 * 1_000,
            low_space_percent: 80,
            high_space_percent: 70,
            leader_schedule_limit: 4,
            region_schedule_limit: 2048,
            replica_schedule_limit: 64,
            hot_region_schedule_limit: 4,
            hot_region_cache_hits_threshold: 3,
            max_movable_hot_peer_size_mib: 512,
            default_store_limit: StoreRates::default(),
            store_limit: BTreeMap::new(),
            slow_store_affected_percent: 30,
            store_adding_max: 16,
            max_snapshot_count: 64,
            max_pending_peer_count: 64,
            add_as_learner: true,
            enable_joint_consensus: true,
            halt_scheduling: false,
            leader_schedule_policy: LeaderSchedulePolicy::Count,
            tolerant_size_percent: 0,
            leader_balance_tolerance: 5,
            balance_leaders: true,
            balance_regions: true,
            gc_life_time_ms: 10 * 60 * 1_000,
            gc_run_interval_ms: 10 * 60 * 1_000,
            idle_items: BTreeMap::new(),
            temporary: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// Says what is wrong with these wishes, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_replicas == 0 {
            return Err("max-replicas must be at least 1".into());
        }
        if self.max_store_down_time_ms == 0 {
            return Err("max-store-down-time-ms must be at least 1".into());
        }
        if self.low_space_percent == 0 || self.low_space_percent > 100 {
            return Err("low-space-percent must lie between 1 and 100".into());
        }
        if self.high_space_percent >= self.low_space_percent {
            return Err("high-space-percent must lie below low-space-percent".into());
        }
        if !self.isolation_level.is_empty() && !self.location_labels.contains(&self.isolation_level)
        {
            return Err(format!(
                "isolation-level {} is not one of the location-labels",
                self.isolation_level
            ));
        }
        Ok(())
    }

    /// Whether a plan that changes several votes changes them at once.
    pub fn uses_joint_memberships(&self) -> bool {
        self.enable_joint_consensus && self.add_as_learner
    }

    /// How much of everything a store shall have.
    pub fn weights(&self, store: StoreId) -> Weights {
        self.store_weights.get(&store.0).copied().unwrap_or_default()
    }

    /// Peers that the store may be given and relieved of in a minute.
    pub fn store_rates(&self, store: StoreId) -> StoreRates {
        self.store_limit.get(&store.0).copied().unwrap_or(self.default_store_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_impossible_wishes_are_not() {
        assert_eq!(Policy::default().validate(), Ok(()));
        assert!(Policy { max_replicas: 0, ..Policy::default() }.validate().is_err());
        let isolated = Policy { isolation_level: "rack".into(), ..Policy::default() };
        assert!(isolated.validate().unwrap_err().contains("rack"));
    }

    #[test]
    fn a_partial_text_keeps_the_other_defaults() {
        let policy: Policy = serde_json::from_str(r#"{"max-replicas": 5}"#).unwrap();
        assert_eq!(policy, Policy { max_replicas: 5, ..Policy::default() });
    }
}
