//! How loaded a store is, in numbers that can be compared.
//!
//! Leaders are counted, or the sizes of their regions are added up. Peers are weighed by their sizes,
//! as long as there is room on the store's disk. In the high-space stage, from `high-space-ratio` to
//! `low-space-ratio` of use, the score climbs from what the store holds to a height that no store
//! with room reaches, so that the emptier disks are filled first; beyond it only what is free
//! counts. The score then is a straight line between the two stages' ends, so it never jumps.
//!
//! A store of a higher weight than another shall hold or lead as many times more: its score is divided by it.
//!
//! A store's size on disk is not the sum of its regions' sizes (compression, garbage), so a change
//! of the regions is scaled by what one of their bytes takes there.

use crate::cluster::{LeaderSchedulePolicy, Policy};
use crate::placement::{Candidate, View, YOUNG_FREE_BYTES, YOUNG_REGIONS};

/// Above every score of a store with room, in MiB.
const FULL: i64 = 1 << 30;

/// How many stores' worth of regions may differ before it is worth a move, in thousandths of the
/// number of regions on the fullest store.
const TOLERANCE_PER_REGION_THOUSANDTHS: u64 = 5;

/// What a store leads, by the policy and for its weight, if it led `delta` more than it will.
pub fn leaders(candidate: &Candidate<'_>, policy: LeaderSchedulePolicy, delta: i64) -> i64 {
    let leads = match policy {
        LeaderSchedulePolicy::Count => candidate.leader_count(),
        LeaderSchedulePolicy::Size => candidate.leader_size_mib(),
    };
    candidate.weights.of_leaders(leads + delta)
}

/// A store's peers, if it held `delta_mib` more than it will, for its weight.
pub fn peers(candidate: &Candidate<'_>, view: View<'_>, delta_mib: i64) -> i64 {
    candidate.weights.of_regions(unweighed(candidate, view, delta_mib))
}

fn unweighed(candidate: &Candidate<'_>, view: View<'_>, delta_mib: i64) -> i64 {
    let size = candidate.size_mib();
    let plain = size + delta_mib;
    let Some(stats) = &candidate.store.stats else { return plain };
    let is_young = view.regions.len() < YOUNG_REGIONS && stats.available > YOUNG_FREE_BYTES;
    if stats.capacity == 0 || is_young {
        return plain;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (capacity, available, used) =
        (mib(stats.capacity), mib(stats.available), mib(stats.used_size));
    // Bytes of regions that one byte on the disk holds.
    let held = candidate.counts.region_size_mib as f64;
    let amplification = if held == 0.0 || used == 0.0 { 1.0 } else { held / used };
    let planned = (plain - i64::try_from(candidate.counts.region_size_mib).unwrap_or(0)) as f64;
    let free = available - planned / amplification;
    let Policy { high_space_percent, low_space_percent, .. } = view.policy;
    let free_at = |used_percent: u64| capacity * (100 - used_percent.min(100)) as f64 / 100.0;
    let (high, low) = (free_at(*high_space_percent), free_at(*low_space_percent));
    if free >= high {
        return plain;
    }
    let full = |free: f64| FULL - free as i64;
    if free <= low {
        return full(free);
    }
    // What it would hold when the high-space stage begins.
    let at_high = held + (available - high) * amplification;
    let share = (high - free) / (high - low);
    (at_high + share * (full(low) as f64 - at_high)) as i64
}

/// A difference of peers' scores that is left alone, in MiB: on either side a few average regions.
pub fn tolerance_mib(candidates: &[Candidate<'_>], view: View<'_>) -> i64 {
    let (mut regions, mut size_mib, mut most) = (0, 0, 0);
    for candidate in candidates {
        regions += candidate.counts.regions as u64;
        size_mib += candidate.counts.region_size_mib;
        most = most.max(candidate.counts.regions as u64);
    }
    let Some(average_mib) = size_mib.checked_div(regions) else { return 0 };
    let tolerated_mib = match view.policy.tolerant_size_percent {
        0 => average_mib.max(average_mib * most * TOLERANCE_PER_REGION_THOUSANDTHS / 1_000),
        percent => average_mib * percent / 100,
    };
    i64::try_from(2 * tolerated_mib).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proto::{metapb, pdpb};

    use super::*;
    use crate::cluster::policy::Weights;
    use crate::cluster::{Cluster, Moment};
    use crate::ids::Ids;

    /// A store that holds, and leads, one region of 100 MiB.
    fn cluster(policy: Policy) -> Cluster {
        let moment = Moment::default();
        let store = metapb::Store { id: 1, address: "a:1".into(), ..Default::default() };
        let mut cluster = Cluster::load(policy, "", [store], [], moment);
        let peer = metapb::Peer { id: 3, store_id: 1, ..Default::default() };
        let region = metapb::Region {
            id: 2,
            region_epoch: Some(proto::region::FIRST_EPOCH),
            peers: vec![peer],
            ..Default::default()
        };
        let heartbeat = pdpb::RegionHeartbeatRequest {
            region: Some(region),
            leader: Some(peer),
            approximate_size: 100 << 20,
            ..Default::default()
        };
        cluster.on_region_heartbeat(heartbeat, &mut Ids::begin(0), moment).unwrap();
        cluster
    }

    /// S3.2: while there is room on the disk the score is the size; from `high-space-ratio` of use on it climbs
    /// without a jump to a height that no store with room has, and from `low-space-ratio` on it goes by what
    /// is free.
    #[test]
    fn a_filling_disk_raises_the_score_and_never_lowers_it() {
        let moment = Moment::default();
        let mut cluster = cluster(Policy::default());
        // Half of a disk of 1,000 MiB is in use, five of them for each MiB of a region.
        let stats = pdpb::StoreStats {
            store_id: 1,
            capacity: 1_000 << 20,
            available: 500 << 20,
            used_size: 500 << 20,
            ..Default::default()
        };
        cluster.on_store_heartbeat(stats, moment).unwrap();
        let view = cluster.view(moment);
        let candidates = view.candidates();
        let score = |more_mib| peers(&candidates[0], view, more_mib);
        // 300 MiB are free with 40 more, and 200 with 60 more.
        assert_eq!((score(0), score(40)), (100, 140));
        let climb = (score(60) - score(40)) / 20;
        assert!((FULL - 1_000..=FULL).contains(&score(60)), "{}", score(60));
        for more in 41..=60 {
            let step = score(more) - score(more - 1);
            assert!((step - climb).abs() <= 1, "{more}: a step of {step}, not of {climb}");
        }
        assert_eq!(score(70) - score(60), 50, "of what is free, five times as much is gone");
    }

    #[test]
    fn a_weight_counts_once() {
        let moment = Moment::default();
        let weights = Weights { leader_milli: 500, region_milli: 2_000 };
        let policy = Policy { store_weights: [(1, weights)].into(), ..Policy::default() };
        let cluster = cluster(policy);
        let view = cluster.view(moment);
        let candidates = view.candidates();
        assert_eq!(peers(&candidates[0], view, 0), 50);
        assert_eq!(peers(&candidates[0], view, 20), 60);
        assert_eq!(leaders(&candidates[0], LeaderSchedulePolicy::Count, 0), 2);
        assert_eq!(leaders(&candidates[0], LeaderSchedulePolicy::Size, 0), 200);
    }
}
