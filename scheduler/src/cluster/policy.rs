//! What the cluster should look like, and how fast it may be brought there.

use serde::{Deserialize, Serialize};

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
    /// Milliseconds of silence after which a store counts as lost and its peers are made anew
    /// elsewhere.
    pub max_store_down_time_ms: u64,
    /// Share of a store's capacity, in percent, that may be used before it gets no more peers.
    pub low_space_percent: u64,
    /// Leader transfers under way at once, in the whole cluster.
    pub leader_schedule_limit: usize,
    /// Peer moves for balance under way at once.
    pub region_schedule_limit: usize,
    /// Repairs of replicas under way at once.
    pub replica_schedule_limit: usize,
    /// Peers being added to one store at once; more regions wait.
    pub store_adding_max: usize,
    /// Snapshots a store may be sending, receiving or applying before it gets no more peers.
    pub max_snapshot_count: u32,
    /// Peers that may be catching up on a store before it gets no more.
    pub max_pending_peer_count: usize,
    /// Whether a new peer is added as a learner first and gets its vote when it has caught up.
    pub add_as_learner: bool,
    /// Stops all checkers and balancers; operators of administrators still run.
    pub halt_scheduling: bool,
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
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_replicas: 3,
            location_labels: Vec::new(),
            isolation_level: String::new(),
            strictly_match_label: false,
            max_store_down_time_ms: 30 * 60 * 1_000,
            low_space_percent: 80,
            leader_schedule_limit: 4,
            region_schedule_limit: 2048,
            replica_schedule_limit: 64,
            store_adding_max: 16,
            max_snapshot_count: 64,
            max_pending_peer_count: 64,
            add_as_learner: true,
            halt_scheduling: false,
            leader_balance_tolerance: 5,
            balance_leaders: true,
            balance_regions: true,
            gc_life_time_ms: 10 * 60 * 1_000,
            gc_run_interval_ms: 10 * 60 * 1_000,
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
        if !self.isolation_level.is_empty() && !self.location_labels.contains(&self.isolation_level)
        {
            return Err(format!(
                "isolation-level {} is not one of the location-labels",
                self.isolation_level
            ));
        }
        Ok(())
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
