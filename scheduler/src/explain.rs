//! Why this region does (not) move: every verdict and its reason.
//!
//! Nothing is remembered for this: the same judges are asked again, and their reasons written
//! down instead of thrown away.

use std::collections::BTreeMap;

use proto::{RegionId, StoreId};
use serde::Serialize;

use crate::balancers;
use crate::checkers::{self, Finding, Verdict};
use crate::cluster::{Cluster, Moment, RegionRecord};
use crate::ids::Ids;
use crate::operator::store_limit::{Direction, REGION_COST};
use crate::placement::{
    Candidate, LEADER_TARGET, PEER_TARGET, Question, STORE_LEADS, View, excluded,
};
use crate::scheduling::{ScheduleController, Scheduler, Verdict as Says};

/// What the scheduler thinks of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Which region, as a person reads it.
    pub region: String,
    /// The plan under way, step by step; `None` when there is none.
    pub under_way: Option<String>,
    /// How its latest plans ended, the latest first.
    pub ended: Vec<String>,
    /// What the checkers say of it now, in one line: the first that wants something, or that nothing is
    /// needed.
    pub replicas: String,
    /// The same, checker by checker, in the order in which they are asked.
    pub checkers: Vec<Verdict>,
    /// What the placement rules ask for, and which peers they have; empty when rules do not count.
    pub rules: Vec<RuleVerdict>,
    /// What the balancer of leaders says of it now.
    pub balance_leader: String,
    /// What the balancer of peers says of it now.
    pub balance_region: String,
    /// What each scheduler says of it now, in the order of their turns; those that have nothing to do
    /// with it are left out.
    pub schedulers: Vec<SchedulerVerdict>,
    /// What each store could do for it.
    pub stores: Vec<StoreVerdict>,
}

/// What a scheduler says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulerVerdict {
    /// Which.
    pub scheduler: String,
    /// In words, with numbers.
    pub says: String,
}

/// How one placement rule is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleVerdict {
    /// Its group and id.
    pub rule: String,
    /// The role it asks for.
    pub role: &'static str,
    /// How many peers it asks for.
    pub wanted: usize,
    /// The stores of the peers it has.
    pub stores: Vec<u64>,
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
    /// What the judges look at.
    #[serde(flatten)]
    pub numbers: StoreNumbers,
}

/// What the judges look at in a store. Counts and sizes are those that the plans under way lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreNumbers {
    /// Regions it leads.
    pub leaders: i64,
    /// Peers it holds.
    pub peers: i64,
    /// Their sizes together.
    pub size_mib: i64,
    /// Free on its disk; 0 when it does not say.
    pub available_mib: u64,
    /// The size of its disk; 0 when it does not say.
    pub capacity_mib: u64,
    /// How long it has said nothing.
    pub silent_ms: u64,
    /// Peers that may come at once within its limit, of regions that are not small; `None` when there
    /// is no limit.
    pub may_add: Option<u64>,
    /// The same of peers that may go.
    pub may_remove: Option<u64>,
    /// How slow it says it is, of 100; 0 when it does not say.
    pub slow_score: u64,
    /// Peers on it that are catching up.
    pub catching_up: usize,
    /// Peers that plans are adding to it.
    pub adding: usize,
    /// Snapshots it is sending, receiving and applying.
    pub snapshots: u32,
}

impl StoreNumbers {
    fn of(candidate: &Candidate<'_>, view: View<'_>) -> Self {
        let stats = candidate.store.stats.clone().unwrap_or_default();
        let peers_left = |direction| match candidate.tokens_left(direction, view) {
            u64::MAX => None,
            tokens => Some(tokens / REGION_COST),
        };
        Self {
            may_add: peers_left(Direction::AddPeer),
            may_remove: peers_left(Direction::RemovePeer),
            slow_score: stats.slow_score,
            leaders: candidate.leader_count(),
            peers: candidate.region_count(),
            size_mib: candidate.size_mib(),
            available_mib: stats.available >> 20,
            capacity_mib: stats.capacity >> 20,
            silent_ms: candidate.store.silence_ms(view.moment),
            catching_up: candidate.counts.pending,
            adding: candidate.influence.adding,
            snapshots: stats.sending_snap_count
                + stats.receiving_snap_count
                + stats.applying_snap_count,
        }
    }
}

/// What the scheduler thinks of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreExplanation {
    /// Which store.
    pub store: u64,
    /// Its state as PD's tools name it.
    pub state: &'static str,
    /// Why it gets no new peers of any region; `None` when it may get some.
    pub no_peer_because: Option<&'static str>,
    /// Why it gets no new leaders, as far as that is not a matter of one region; `None` when it may.
    pub no_leader_because: Option<&'static str>,
    /// How far it is with leaving; `None` when it does not leave.
    pub drain: Option<Drain>,
    /// What the judges look at.
    #[serde(flatten)]
    pub numbers: StoreNumbers,
    /// What each scheduler says of it now; those that have nothing to do with it are left out.
    pub schedulers: Vec<SchedulerVerdict>,
    /// What the replica checker says of the regions that have a peer there, or the plans under way for
    /// them, as many as were asked for.
    pub regions: Vec<RegionVerdict>,
}

/// How far a store is with giving away its peers, and what keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// Peers that it still has.
    pub peers: usize,
    /// Regions that a plan is under way for.
    pub under_way: usize,
    /// What is said of the others, each reason with how many regions it is said of, the most frequent first.
    pub waiting: Vec<Blocker>,
    /// Of so many regions nothing is said: they are too many to look at.
    pub not_looked_at: usize,
}

/// One reason why regions do not leave a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// In words.
    pub says: String,
    /// Of how many regions.
    pub regions: usize,
    /// One of them.
    pub region: u64,
}

/// What is said of one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionVerdict {
    /// Which region.
    pub region: u64,
    /// In words.
    pub says: String,
}

/// Plans of a region that are named in its explanation.
const ENDED_SHOWN: usize = 5;

/// Regions of a leaving store that are looked at for what keeps them.
const DRAIN_REGIONS_MAX: usize = 1_024;

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
            numbers: StoreNumbers::of(candidate, view),
        })
        .collect();
    let balance = |verdict: fn(View<'_>, &RegionRecord) -> String| {
        why_nothing_is_balanced(cluster, moment).unwrap_or_else(|| verdict(view, record))
    };
    Some(Explanation {
        region: proto::region::Readable(&record.region).to_string(),
        under_way: cluster.operators().of(id).map(ToString::to_string),
        ended,
        replicas: verdict(cluster, view, id),
        checkers: if view.policy.halt_scheduling {
            Vec::new()
        } else {
            checkers::verdicts(view, record, pauses(cluster, moment), &mut ids_for_nobody())
        },
        rules: rules_of(view, record),
        balance_leader: balance(balancers::leaders::verdict),
        balance_region: balance(balancers::regions::verdict),
        schedulers: schedulers(cluster, moment, |scheduler| scheduler.verdict(view, record)),
        stores,
    })
}

/// What all schedulers say; of one that does not act, why.
fn schedulers(
    cluster: &Cluster,
    moment: Moment,
    ask: impl Fn(&dyn Scheduler) -> Says,
) -> Vec<SchedulerVerdict> {
    let nothing = why_nothing_is_balanced(cluster, moment);
    let say = |seat: &ScheduleController| {
        let Says::Says(says) = ask(seat.scheduler.as_ref()) else { return None };
        let paused = seat.controller.paused_until(moment).map(|until_ms| {
            let seconds = until_ms.saturating_sub(moment.wall_ms).div_ceil(1_000);
            format!("it pauses for another {seconds} s")
        });
        let says = match nothing.clone().or(paused) {
            Some(why) => format!("{why}; otherwise: {says}"),
            None => says,
        };
        Some(SchedulerVerdict { scheduler: seat.scheduler.name().to_owned(), says })
    };
    cluster.coordinator().seats().iter().filter_map(say).collect()
}

fn why_nothing_is_balanced(cluster: &Cluster, moment: Moment) -> Option<String> {
    if cluster.policy().halt_scheduling {
        return Some("scheduling is halted".into());
    }
    (!cluster.is_prepared(moment)).then(|| {
        let (heard, all) = cluster.heard();
        format!(
            "it has to wait: of {all} regions only {heard} have been heard since this member leads"
        )
    })
}

fn verdict(cluster: &Cluster, view: View<'_>, id: RegionId) -> String {
    let Some(record) = view.regions.by_id(id) else { return "it is not known".into() };
    if view.policy.halt_scheduling {
        return "scheduling is halted".into();
    }
    checkers::check(view, record, pauses(cluster, view.moment), &mut ids_for_nobody()).says()
}

/// Whether the region needs something that cannot be done now.
pub fn has_to_wait(cluster: &Cluster, record: &RegionRecord, moment: Moment) -> bool {
    let view = cluster.view(moment);
    let found = || checkers::check(view, record, pauses(cluster, moment), &mut ids_for_nobody());
    view.policy.halt_scheduling || matches!(found(), Finding::Blocked(_))
}

/// Whether a checker of this name pauses.
fn pauses(cluster: &Cluster, moment: Moment) -> impl Fn(&str) -> bool + '_ {
    move |checker| cluster.is_checker_paused(checker, moment)
}

/// Asking must not use up ids: an allocator of its own, whose ids go nowhere.
fn ids_for_nobody() -> Ids {
    let mut nowhere = Ids::begin(0);
    nowhere.bound_saved(1);
    nowhere
}

fn rules_of(view: View<'_>, record: &RegionRecord) -> Vec<RuleVerdict> {
    let Some(rules) = view.rules_of(record) else { return Vec::new() };
    let fit = view.fit(record, rules);
    let served = fit.rules.iter().map(|fit| RuleVerdict {
        rule: fit.rule.name(),
        role: fit.rule.role.name(),
        wanted: fit.rule.count,
        stores: fit.peers.iter().map(|placed| placed.peer.store_id).collect(),
    });
    served.collect()
}

/// Why regions do not leave a store that is to be drained, or do not come to one: with what is said
/// of each of its regions, up to `limit`. `None` when it is not known.
pub fn store(
    cluster: &Cluster,
    id: StoreId,
    moment: Moment,
    limit: usize,
) -> Option<StoreExplanation> {
    let view = cluster.view(moment);
    let candidates = view.candidates();
    let candidate = candidates.iter().find(|candidate| candidate.store.id() == id)?;
    // A region that is nowhere yet: only what is true of the store itself excludes it.
    let nowhere = RegionRecord::default();
    let question = Question { record: &nowhere, others: Vec::new(), view };
    let regions = cluster.regions().on_store(id).take(limit).map(|record| RegionVerdict {
        region: record.region.id,
        says: match cluster.operators().of(record.id()) {
            Some(operator) => operator.to_string(),
            None => verdict(cluster, view, record.id()),
        },
    });
    Some(StoreExplanation {
        store: id.0,
        state: candidate.store.state_name(view.policy, moment),
        no_peer_because: excluded(PEER_TARGET, candidate, &question),
        no_leader_because: excluded(STORE_LEADS, candidate, &question),
        drain: candidate.store.is_offline().then(|| drain(cluster, id, view)),
        numbers: StoreNumbers::of(candidate, view),
        schedulers: schedulers(cluster, moment, |scheduler| {
            scheduler.store_verdict(view, candidate)
        }),
        regions: regions.collect(),
    })
}

fn drain(cluster: &Cluster, id: StoreId, view: View<'_>) -> Drain {
    let peers = cluster.regions().counts(id).regions;
    let mut under_way = 0;
    let mut reasons: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for record in cluster.regions().on_store(id).take(DRAIN_REGIONS_MAX) {
        if cluster.operators().of(record.id()).is_some() {
            under_way += 1;
            continue;
        }
        let (count, _) =
            reasons.entry(verdict(cluster, view, record.id())).or_insert((0, record.region.id));
        *count += 1;
    }
    let blocker = |(says, (regions, region))| Blocker { says, regions, region };
    let mut waiting: Vec<_> = reasons.into_iter().map(blocker).collect();
    waiting.sort_by_key(|blocker| std::cmp::Reverse(blocker.regions));
    Drain { peers, under_way, waiting, not_looked_at: peers.saturating_sub(DRAIN_REGIONS_MAX) }
}

#[cfg(test)]
mod tests {
    use proto::{metapb, pdpb};

    use super::*;
    use crate::cluster::Policy;

    #[test]
    fn what_keeps_a_leaving_store_from_being_empty_is_named() {
        let stores = (1..=4).map(|id| metapb::Store {
            id,
            address: format!("s{id}:1"),
            version: "8.5.0".into(),
            ..Default::default()
        });
        let mut cluster = Cluster::load(Policy::default(), "8.5.0", stores, [], Moment::default());
        for store_id in 1..=4 {
            // Store 4 could take the peers, but it is busy.
            let is_busy = store_id == 4;
            let stats = pdpb::StoreStats { store_id, is_busy, ..Default::default() };
            cluster.on_store_heartbeat(stats, Moment::default()).unwrap();
        }
        let mut ids = Ids::begin(0);
        ids.bound_saved(100);
        for (id, start, end) in [(1, "", "m"), (2, "m", "")] {
            let peer =
                |store_id| metapb::Peer { id: id * 10 + store_id, store_id, ..Default::default() };
            let region = metapb::Region {
                id,
                start_key: start.into(),
                end_key: end.into(),
                region_epoch: Some(proto::region::FIRST_EPOCH),
                peers: vec![peer(1), peer(2), peer(3)],
                ..Default::default()
            };
            let heartbeat = pdpb::RegionHeartbeatRequest {
                leader: region.peers.first().copied(),
                region: Some(region),
                ..Default::default()
            };
            cluster.on_region_heartbeat(heartbeat, &mut ids, Moment::default()).unwrap();
        }
        let explained =
            |cluster: &Cluster| store(cluster, StoreId(2), Moment::default(), 0).unwrap().drain;
        assert_eq!(explained(&cluster), None);
        cluster.take_store_offline(StoreId(2), false).unwrap();
        let says = "it has to wait: no store can take the place of s2".into();
        let waiting = vec![Blocker { says, regions: 2, region: 1 }];
        let expected = Drain { peers: 2, under_way: 0, waiting, not_looked_at: 0 };
        assert_eq!(explained(&cluster), Some(expected));
        let stats = pdpb::StoreStats { store_id: 4, ..Default::default() };
        cluster.on_store_heartbeat(stats, Moment::default()).unwrap();
        cluster.tick(&mut ids, Moment::default());
        let explained = explained(&cluster).unwrap();
        assert_eq!((explained.under_way, explained.waiting), (2, vec![]));
    }

    #[test]
    fn an_unknown_region_has_no_explanation() {
        let cluster = Cluster::load(Policy::default(), "8.5.0", [], [], Moment::default());
        assert_eq!(region(&cluster, RegionId(1), Moment::default()), None);
        assert_eq!(store(&cluster, StoreId(1), Moment::default(), 10), None);
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
        assert!(explained.balance_leader.contains("of 1 regions only 0"), "{explained:?}");
        let store = store(&cluster, StoreId(1), Moment::default(), 10).unwrap();
        assert_eq!(store.regions, [RegionVerdict { region: 1, says: explained.replicas }]);
        assert_eq!((store.numbers.peers, store.numbers.leaders), (1, 0));
        assert_eq!(store.no_peer_because, Some("has not been heard yet"));
    }
}
