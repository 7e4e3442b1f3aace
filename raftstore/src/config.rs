//! What may be chosen about a store: ticks, limits, sizes.
//!
//! Durations are counted in ticks where a machine counts them; [`Config::tick_interval_ms`] says how
//! long a tick is. `validate` is called once, at the edge; after that nobody checks.

use crate::plant::Planted;

/// Clocks that are steered over a network run apart by some hundred parts in a million, and the watch over them
/// needs half of the room. A configuration that leaves less would do without leases all the time.
const CLOCK_DRIFT_LEAST_PPM: u64 = 2_000;

/// Settings of one store. The defaults are complete and good for a laptop cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Length of one tick, in milliseconds.
    pub tick_interval_ms: u64,
    /// A leader is heard from every so many ticks.
    pub heartbeat_ticks: usize,
    /// A follower that hears nothing for this long, up to twice as long, campaigns.
    pub election_ticks: usize,
    /// How long a leader may answer reads alone after the *sending* of a heartbeat that a quorum
    /// answered. At least two ticks shorter than the election timeout; what is left between the two is how
    /// far clocks may run apart, see [`Config::clock_drift_max_ppm`].
    pub lease_ticks: usize,
    /// Whether a leader may answer reads alone at all. `false`: every read asks a quorum. A store does the
    /// same for a while when it doubts its clock.
    pub leases: bool,
    /// Seed of election timeouts. Same seed, same inputs: same run. Different on each store.
    pub seed: u64,
    /// Threads that share the work of a round, the raft worker among them; 0: as many as suit the
    /// cores, on few of them one. Nothing but speed depends on it.
    pub raft_workers: usize,
    /// Different at each start of this store (the shell takes it from a clock): contexts of
    /// read-index rounds of an earlier life must not be mistaken for ours.
    pub incarnation: u64,

    /// A log entry is no larger, in bytes; a larger single write is refused as too large.
    pub entry_bytes_max: usize,
    /// Appends in flight to one follower; when full, the leader waits for acknowledgements.
    pub inflight_messages_max: usize,
    /// Entries in one append message, in bytes (at least one entry travels).
    pub message_bytes_max: u64,
    /// Committed entries handed out for applying at once, in bytes.
    pub committed_bytes_max: u64,
    /// Entries proposed but not committed, in bytes; beyond it writes wait.
    pub uncommitted_bytes_max: u64,
    /// Writes of one region that wait to be proposed, in bytes; beyond it they are refused as busy.
    pub waiting_bytes_max: usize,
    /// Recent entries of one group kept in memory, in bytes.
    pub entry_cache_bytes: usize,

    /// How often a leader looks whether its log can be cut.
    pub compact_log_ticks: u64,
    /// The log is cut once this many entries are no longer needed by any follower.
    pub compact_log_entries_min: u64,
    /// Fewer entries are cut once so many looks in a row found some, but not enough.
    pub compact_log_looks_max: u64,
    /// More entries than this are cut even under a slow follower, which then gets a snapshot.
    pub compact_log_entries_max: u64,
    /// Larger logs than this are cut even under a slow follower, in bytes.
    pub compact_log_bytes_max: u64,

    /// A region where nothing happened for so many ticks falls asleep (`peer/sleep.rs`). 0: none does.
    pub sleep_after_ticks: u64,

    /// How often a leader reports its region when nothing changes.
    pub region_heartbeat_ticks: u64,
    /// How often a store reports itself.
    pub store_heartbeat_ticks: u64,
    /// A follower silent for so long is reported as down, in milliseconds.
    pub down_after_ms: u64,
    /// A peer that knows no leader for so long asks the others whether it still belongs.
    pub leader_missing_ticks: u64,

    /// A region larger than this is split, in bytes. 0 never splits by size.
    pub region_split_bytes: u64,
    /// Once split, the parts are about this large, in bytes.
    pub region_part_bytes: u64,
    /// A region with more keys than this is split: records of transactions, every version. 0 never splits
    /// by keys.
    pub region_split_keys: u64,
    /// Once split, the parts have about this many keys.
    pub region_part_keys: u64,
    /// A look for split keys is due after this many written bytes.
    pub split_check_written_bytes: u64,
    /// How often a leader looks whether that many bytes were written.
    pub split_check_ticks: u64,
    /// At a split the old id stays with the rightmost part, as in TiKV; else with the leftmost.
    pub right_derive_when_split: bool,

    /// Whether somebody keeps in memory what counts only while a peer here leads, and is told before it hands
    /// over, to write it into the log (`operation/transfer_leader.rs`).
    pub asks_before_handover: bool,

    /// How often a leader has the replicas of its region compared. 0: only when asked to.
    pub consistency_check_ticks: u64,

    /// A raft snapshot asked for but not delivered within so many ticks is asked for again.
    pub snapshot_retry_ticks: u64,
    /// A replica's read-index request unanswered for so many ticks is sent again, under a new name.
    pub read_index_retry_ticks: u64,

    /// The bug to make on purpose, in the simulator; without the feature `plant` always none.
    pub planted: Planted,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick_interval_ms: 50,
            heartbeat_ticks: 2,
            election_ticks: 10,
            lease_ticks: 8,
            leases: true,
            seed: 0,
            raft_workers: 0,
            incarnation: 0,
            entry_bytes_max: 8 << 20,
            inflight_messages_max: 256,
            message_bytes_max: 1 << 20,
            committed_bytes_max: 16 << 20,
            uncommitted_bytes_max: 128 << 20,
            waiting_bytes_max: 64 << 20,
            entry_cache_bytes: 4 << 20,
            compact_log_ticks: 60,
            compact_log_entries_min: 50,
            compact_log_looks_max: 6,
            compact_log_entries_max: 196_608,
            compact_log_bytes_max: 192 << 20,
            sleep_after_ticks: 100,
            region_heartbeat_ticks: 1200,
            store_heartbeat_ticks: 200,
            down_after_ms: 600_000,
            leader_missing_ticks: 400,
            region_split_bytes: 144 << 20,
            region_part_bytes: 96 << 20,
            region_split_keys: 1_440_000,
            region_part_keys: 960_000,
            split_check_written_bytes: 16 << 20,
            split_check_ticks: 200,
            right_derive_when_split: true,
            asks_before_handover: false,
            consistency_check_ticks: 0,
            snapshot_retry_ticks: 1200,
            read_index_retry_ticks: 4,
            planted: Planted::default(),
        }
    }
}

/// More threads for the work of a round are refused: they would wait for one log anyway.
const RAFT_WORKERS_MAX: usize = 64;

impl Config {
    /// Whether these settings can work together; if not, why, for a person to read.
    pub fn validate(&self) -> Result<(), String> {
        let rules = [
            (self.tick_interval_ms > 0, "tick-interval must not be zero"),
            (self.heartbeat_ticks > 0, "heartbeat-ticks must not be zero"),
            (
                self.election_ticks > self.heartbeat_ticks,
                "election-ticks must be greater than heartbeat-ticks",
            ),
            // A tick may come right after the follower heard the leader, and ticks may come a
            // tenth early: the follower may vote after nine tenths of (election - 1) ticks.
            (
                self.lease_ticks * 10 < (self.election_ticks - 1) * 9,
                "lease-ticks must be shorter than nine tenths of election-ticks less one",
            ),
            (self.raft_workers <= RAFT_WORKERS_MAX, "raft-workers must not be more than 64"),
            (
                self.clock_drift_max_ppm() >= CLOCK_DRIFT_LEAST_PPM,
                "lease-ticks must leave clocks more room to run apart: a shorter lease, please",
            ),
            (self.entry_bytes_max > 0, "entry-bytes-max must not be zero"),
            (self.inflight_messages_max > 0, "inflight-messages-max must not be zero"),
            (
                self.uncommitted_bytes_max >= self.message_bytes_max,
                "uncommitted-bytes-max must not be less than message-bytes-max",
            ),
            (
                self.compact_log_ticks > 0
                    && self.region_heartbeat_ticks > 0
                    && self.store_heartbeat_ticks > 0
                    && self.leader_missing_ticks > 0
                    && self.split_check_ticks > 0,
                "periods in ticks must not be zero",
            ),
            (
                self.region_split_bytes == 0 || self.region_part_bytes < self.region_split_bytes,
                "region-part-bytes must be less than region-split-bytes",
            ),
            (
                self.region_split_keys == 0 || self.region_part_keys < self.region_split_keys,
                "region-part-keys must be less than region-split-keys",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(broken.into()),
            None => Ok(()),
        }
    }

    /// How far from true any store's clock may run, in parts per million, for leases to be safe.
    ///
    /// A lease lasts `lease_ticks` on the leader's clock. A follower counts at least `election_ticks - 1`
    /// whole ticks of its own after it heard the leader, each at least nine tenths of a tick long, before it
    /// may vote for another. With a leader that is slow by `d` and a follower that is fast by `d`, the lease
    /// ends first as long as
    ///
    /// ```text
    ///   lease / (1 - d)  <  patience / (1 + d)      d  <  (patience - lease) / (patience + lease)
    /// ```
    ///
    /// The defaults allow 6211 ppm, ten times what time synchronisation does to a clock. Who watches:
    /// [`ClockTrust`](crate::clock_trust::ClockTrust).
    pub fn clock_drift_max_ppm(&self) -> u64 {
        let patience = self.election_ticks.saturating_sub(1) as u64 * 9;
        let lease = self.lease_ticks as u64 * 10;
        patience.saturating_sub(lease) * 1_000_000 / (patience + lease).max(1)
    }

    /// How long a lease lasts, in microseconds.
    pub fn lease_micros(&self) -> u64 {
        self.lease_ticks as u64 * self.tick_micros()
    }

    /// The length of a tick, in microseconds.
    pub fn tick_micros(&self) -> u64 {
        self.tick_interval_ms * 1000
    }

    /// The shortest time without a leader after which a follower may vote for another, in
    /// microseconds.
    pub fn election_micros(&self) -> u64 {
        self.election_ticks as u64 * self.tick_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_together() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    /// The whole argument, for every lease that is allowed: the slowest leader's lease is over before the
    /// fastest follower's patience is.
    #[test]
    fn bug_l5_clocks_within_the_bound_never_let_a_lease_outlive_a_followers_patience() {
        let mut checked = 0;
        for election_ticks in 2..120 {
            for lease_ticks in 1..election_ticks {
                let config =
                    Config { election_ticks, heartbeat_ticks: 1, lease_ticks, ..Config::default() };
                if config.validate().is_err() {
                    continue;
                }
                checked += 1;
                // In millionths of a tick of true time.
                let off = config.clock_drift_max_ppm() as f64 / 1e6;
                let lease = config.lease_ticks as f64 / (1.0 - off);
                let patience = (config.election_ticks - 1) as f64 * 0.9 / (1.0 + off);
                assert!(lease <= patience + 1e-9, "{election_ticks} and {lease_ticks}");
                // And not by being timid: a little more, and it would.
                let off = off + 3e-6;
                let lease = config.lease_ticks as f64 / (1.0 - off);
                let patience = (config.election_ticks - 1) as f64 * 0.9 / (1.0 + off);
                assert!(lease > patience, "{election_ticks} and {lease_ticks}");
            }
        }
        assert!(checked > 4000, "{checked}");
    }

    #[test]
    fn a_lease_that_outlives_the_followers_patience_is_refused() {
        let config = Config { lease_ticks: 9, ..Config::default() };
        assert!(config.validate().unwrap_err().contains("lease"));
    }
}
