//! Why this region does (not) move: every verdict and its reason.
//!
//! Nothing is remembered for this: the same judges are asked again, and their reasons written
//! down instead of thrown away.

use proto::{RegionId, StoreId};
use serde::Serialize;

use crate::checkers::{Finding, replicas};
use crate::cluster::{Cluster, Moment};
use crate::ids::Ids;
use crate::placement::{LEADER_TARGET, PEER_TARGET, Question, View, excluded};

/// What the scheduler thinks of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Which region, as a person reads it.
    pub region: String,
    /// The plan under way, step by step; `None` when there is none.
    pub under_way: Option<String>,
    /// How its latest plans ended, the latest first.
    pub ended: Vec<String>,
    /// What the replica checker says of it now.
    pub replicas: String,
    /// What each store could do for it.
    pub stores: Vec<StoreVerdict>,
}

/// What a store could do for a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreVerdict {
    /// Which store.
    pub store: u64,
    /// Why it cannot take a new peer of the region; `None` when it can.
    pub no_peer_because: Option<&'static str>,
    /// Why it cannot lead the region; `None` when it can.
    pub no_leader_because: Option<&'static str>,
}

/// Plans of a region that are named in its explanation.
const ENDED_SHOWN: usize = 5;

/// Explains a region; `None` when it is not known.
pub fn region(cluster: &Cluster, id: RegionId, moment: Moment) -> Option<Explanation> {
    let record = cluster.regions().by_id(id)?;
    let view = cluster.view(moment);
    let ended = cluster
        .operators()
        .history()
        .filter(|finished| finished.operator.region == id)
        .take(ENDED_SHOWN)
        .map(|finished| format!("{} {:?}", finished.operator, finished.status))
        .collect();
    let question = Question::new_peer(view, record, None);
    let stores = view
        .candidates()
        .iter()
        .map(|candidate| StoreVerdict {
            store: candidate.store.id().0,
            no_peer_because: excluded(PEER_TARGET, candidate, &question),
            no_leader_because: excluded(LEADER_TARGET, candidate, &question),
        })
        .collect();
    Some(Explanation {
        region: proto::region::Readable(&record.region).to_string(),
        under_way: cluster.operators().of(id).map(ToString::to_string),
        ended,
        replicas: verdict(view, id),
        stores,
    })
}

fn verdict(view: View<'_>, id: RegionId) -> String {
    let Some(record) = view.regions.by_id(id) else { return "it is not known".into() };
    if view.policy.halt_scheduling {
        return "scheduling is halted".into();
    }
    // Asking must not use up ids: an allocator of its own, whose ids go nowhere.
    let mut nowhere = Ids::begin(0);
    nowhere.bound_saved(1);
    match replicas::check(view, record, &mut nowhere) {
        Finding::Healthy => "it needs nothing".into(),
        Finding::Blocked(why) => format!("it has to wait: {why}"),
        Finding::NeedsIds(_) => "it has to wait for ids".into(),
        Finding::Wants(operator) => format!("it needs {}", operator.description),
    }
}

/// Why regions do not leave a store that is to be drained, or do not come to one: what the
/// checker says of each of its regions, up to `limit`.
pub fn store(cluster: &Cluster, id: StoreId, moment: Moment, limit: usize) -> Vec<(u64, String)> {
    let view = cluster.view(moment);
    cluster
        .regions()
        .on_store(id)
        .take(limit)
        .map(|record| {
            let words = match cluster.operators().of(record.id()) {
                Some(operator) => operator.to_string(),
                None => verdict(view, record.id()),
            };
            (record.region.id, words)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::metapb;

    use super::*;
    use crate::cluster::Policy;

    #[test]
    fn an_unknown_region_has_no_explanation() {
        let cluster = Cluster::load(Policy::default(), "8.5.0", [], [], Moment::default());
        assert_eq!(region(&cluster, RegionId(1), Moment::default()), None);
        assert_eq!(store(&cluster, StoreId(1), Moment::default(), 10), []);
    }

    #[test]
    fn a_region_nobody_has_spoken_for_waits() {
        let peer = metapb::Peer { id: 2, store_id: 1, ..Default::default() };
        let loaded = metapb::Region { id: 1, peers: vec![peer], ..Default::default() };
        let meta = metapb::Store { id: 1, address: "a:1".into(), ..Default::default() };
        let cluster =
            Cluster::load(Policy::default(), "8.5.0", [meta], [loaded], Moment::default());
        let explained = region(&cluster, RegionId(1), Moment::default()).unwrap();
        assert!(explained.replicas.contains("no leader has spoken"), "{}", explained.replicas);
        assert_eq!(explained.stores.len(), 1);
        let store = store(&cluster, StoreId(1), Moment::default(), 10);
        assert_eq!(store, [(1, explained.replicas)]);
    }
}
