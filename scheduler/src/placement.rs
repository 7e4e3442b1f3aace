//! May this store take a peer, or lead? Predicates, each with its reason.
//!
//! A predicate answers *true when the store is excluded*. The tables below are the whole rule: a
//! store is a candidate when no predicate of the table excludes it, and the first that does is
//! the reason given to people who ask why.

use std::cmp::Reverse;

use proto::StoreId;
use proto::region::{DOWN_FOR_GOOD_SECONDS, is_incoming};

use crate::cluster::policy::Weights;
use crate::cluster::stores::{Liveness, StoreRecord};
use crate::cluster::{Moment, Policy, RegionRecord, Regions, StoreCounts, Stores};
use crate::flow::Flow;
use crate::operator::RunningOperators;
use crate::operator::running::Influence;
use crate::operator::store_limit::{Direction, cost};
use crate::rules::fit::{Condition, Placed};
use crate::rules::{Fit, Role, Rule, Rules};
use crate::scheduling::Bars;

/// A cluster of fewer regions than this is young: low space is then judged by
/// [`YOUNG_FREE_BYTES`] alone, since a share of an almost empty disk says little.
pub const YOUNG_REGIONS: usize = 100;

/// Free bytes that are enough for a young cluster.
pub const YOUNG_FREE_BYTES: u64 = 1 << 30;

/// A store that says it is slower than this, of 100, gets no leaders.
pub const SLOW_SCORE: u64 = 80;

/// Everything a judge looks at, at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The regions.
    pub regions: &'a Regions,
    /// The stores.
    pub stores: &'a Stores,
    /// The plans under way.
    pub operators: &'a RunningOperators,
    /// What is read and written most.
    pub flow: &'a Flow,
    /// Stores whose leaders somebody has decided about.
    pub bars: &'a Bars,
    /// The cluster's wishes.
    pub policy: &'a Policy,
    /// The placement rules; they count if the policy says so.
    pub rules: &'a Rules,
    /// Now.
    pub moment: Moment,
}

/// A store that might take something.
pub struct Candidate<'a> {
    /// The store.
    pub store: &'a StoreRecord,
    /// What it holds.
    pub counts: StoreCounts,
    /// What the plans under way will change about that.
    pub influence: Influence,
    /// How much of everything it shall have, beside the others.
    pub weights: Weights,
    /// Tokens of the store's limits that plans not yet under way will take.
    pub spent: Spent,
}

/// Tokens of a store's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// For peers that come.
    pub adding: u64,
    /// For peers that go.
    pub removing: u64,
}

impl Candidate<'_> {
    /// How loaded the store will be, for its weight: size first, then the number of peers, then its id so that
    /// the choice is the same each time.
    pub fn load(&self) -> (i64, i64, StoreId) {
        let weigh = |amount| self.weights.of_regions(amount);
        (weigh(self.size_mib()), weigh(self.region_count()), self.store.id())
    }

    /// Its regions' sizes together once the plans under way are done.
    pub fn size_mib(&self) -> i64 {
        i64::try_from(self.counts.region_size_mib).unwrap_or(i64::MAX / 2) + self.influence.size_mib
    }

    /// Its peers once the plans under way are done.
    pub fn region_count(&self) -> i64 {
        i64::try_from(self.counts.regions).unwrap_or(i64::MAX / 2) + self.influence.regions
    }

    /// The sizes of the regions that it leads together, once the plans under way are done.
    pub fn leader_size_mib(&self) -> i64 {
        i64::try_from(self.counts.leader_size_mib).unwrap_or(i64::MAX / 2)
            + self.influence.leader_size_mib
    }

    /// Tokens that its limit has left.
    pub fn tokens_left(&self, direction: Direction, view: View<'_>) -> u64 {
        let rate = view.policy.store_rates(self.store.id()).of(direction);
        let spent = match direction {
            Direction::AddPeer => self.spent.adding,
            Direction::RemovePeer => self.spent.removing,
        };
        let limits = view.operators.limits();
        limits.tokens(self.store.id(), direction, rate, view.moment).saturating_sub(spent)
    }

    /// Its leaders once the plans under way are done.
    pub fn leader_count(&self) -> i64 {
        i64::try_from(self.counts.leaders).unwrap_or(i64::MAX / 2) + self.influence.leaders
    }
}

/// What a store is asked for.
pub struct Question<'a> {
    /// Which region's peer or leadership it is about.
    pub record: &'a RegionRecord,
    /// The stores with which the new peer would share the region.
    pub others: Vec<&'a StoreRecord>,
    /// What the judge sees.
    pub view: View<'a>,
}

impl<'a> Question<'a> {
    /// A question about a new peer that stays beside all the region's peers but the one on
    /// `instead_of`.
    pub fn new_peer(view: View<'a>, record: &'a RegionRecord, instead_of: Option<StoreId>) -> Self {
        let others = record
            .region
            .peers
            .iter()
            .map(|peer| StoreId(peer.store_id))
            .filter(|&store| Some(store) != instead_of)
            .filter_map(|store| view.stores.find(store))
            .collect();
        Self { record, others, view }
    }
}

/// One reason to exclude a store.
pub struct Predicate {
    /// In words, completing "the store …".
    pub reason: &'static str,
    /// Whether the store is excluded for it.
    pub excludes: fn(&Candidate<'_>, &Question<'_>) -> bool,
}

/// What keeps a store from getting a new peer of a region.
pub const PEER_TARGET: &[Predicate] = &[
    Predicate { reason: "is leaving or gone", excludes: |c, _| !c.store.is_up() },
    Predicate { reason: "has not been heard yet", excludes: |c, _| !c.store.was_heard() },
    Predicate { reason: "is silent", excludes: is_silent },
    Predicate {
        reason: "already has a peer of the region",
        excludes: |c, q| q.record.peer_on(c.store.id()).is_some(),
    },
    Predicate {
        reason: "shares a place with another peer, which the isolation level forbids",
        excludes: breaks_isolation,
    },
    Predicate { reason: "is not where the placement rules want a peer", excludes: breaks_rules },
    Predicate { reason: "is stopping", excludes: |c, _| stat(c, |stats| stats.is_stopping) },
    Predicate { reason: "is busy", excludes: |c, _| stat(c, |stats| stats.is_busy) },
    Predicate { reason: "is low on space", excludes: is_low_on_space },
    Predicate {
        reason: SNAPSHOTS,
        excludes: |c, q| {
            let max = q.view.policy.max_snapshot_count;
            stat(c, |stats| {
                stats.sending_snap_count >= max
                    || stats.receiving_snap_count >= max
                    || stats.applying_snap_count >= max
            })
        },
    },
    Predicate {
        reason: PENDING,
        excludes: |c, q| c.counts.pending >= q.view.policy.max_pending_peer_count,
    },
    Predicate {
        reason: ADDING,
        excludes: |c, q| c.influence.adding >= q.view.policy.store_adding_max,
    },
    Predicate {
        reason: ADD_LIMIT,
        excludes: |c, q| c.tokens_left(Direction::AddPeer, q.view) < cost(q.record.size_mib()),
    },
];

/// What keeps a store from giving a peer for balance.
pub const PEER_SOURCE: &[Predicate] = &[
    Predicate { reason: "is leaving or gone", excludes: |c, _| !c.store.is_up() },
    Predicate { reason: "is lost", excludes: is_lost },
    Predicate { reason: "is busy", excludes: |c, _| stat(c, |stats| stats.is_busy) },
    Predicate {
        reason: "has been relieved of as many peers as its store limit allows for now",
        excludes: |c, q| c.tokens_left(Direction::RemovePeer, q.view) < cost(q.record.size_mib()),
    },
];

/// What keeps a store from giving a leader for balance.
pub const LEADER_SOURCE: &[Predicate] = &[
    Predicate { reason: "is gone", excludes: |c, _| c.store.is_tombstone() },
    Predicate { reason: "is lost", excludes: is_lost },
    Predicate {
        reason: "keeps its leaders, as a scheduler wants it",
        excludes: |c, q| q.view.bars.hold(c.store.id()),
    },
];

/// What keeps a store from leading anything.
pub const STORE_LEADS: &[Predicate] = &[IS_LEAVING, HELD, IS_SILENT, IS_STOPPING, IS_BUSY, IS_SLOW];

/// What keeps a store from leading a region of which it has a voter.
pub const LEADER_TARGET: &[Predicate] = &[
    IS_LEAVING,
    HELD,
    IS_SILENT,
    IS_STOPPING,
    IS_BUSY,
    IS_SLOW,
    Predicate {
        reason: "has no healthy voter of the region",
        excludes: |c, q| {
            let peer = q.record.peer_on(c.store.id());
            !peer.is_some_and(|peer| is_incoming(peer) && q.record.is_healthy(peer))
        },
    },
    Predicate {
        reason: "is not where the placement rules want the leader",
        excludes: must_not_lead,
    },
];

const IS_LEAVING: Predicate =
    Predicate { reason: "is leaving or gone", excludes: |c, _| !c.store.is_up() };
const IS_SILENT: Predicate = Predicate { reason: "is silent", excludes: is_silent };
const IS_STOPPING: Predicate =
    Predicate { reason: "is stopping", excludes: |c, _| stat(c, |stats| stats.is_stopping) };
const IS_BUSY: Predicate =
    Predicate { reason: "is busy", excludes: |c, _| stat(c, |stats| stats.is_busy) };
const IS_SLOW: Predicate = Predicate {
    reason: "is slow",
    excludes: |c, _| stat(c, |stats| stats.slow_score >= SLOW_SCORE),
};
const HELD: Predicate = Predicate {
    reason: "must not lead, as a scheduler wants it",
    excludes: |c, q| q.view.bars.no_leaders_in.contains(&c.store.id()),
};

/// The first reason of the table that excludes the store; `None` makes it a candidate.
pub fn excluded(
    table: &[Predicate],
    candidate: &Candidate<'_>,
    question: &Question<'_>,
) -> Option<&'static str> {
    table
        .iter()
        .find(|predicate| (predicate.excludes)(candidate, question))
        .map(|predicate| predicate.reason)
}

/// Reasons that pass by themselves while plans are carried out.
const TEMPORARY: &[&str] = &[SNAPSHOTS, PENDING, ADDING, ADD_LIMIT];
const SNAPSHOTS: &str = "is sending or receiving too many snapshots";
const PENDING: &str = "has too many peers that are catching up";
const ADDING: &str = "is already getting as many peers as it may at once";
const ADD_LIMIT: &str = "has been given as many peers as its store limit allows for now";

/// The same for a plan that may have to wait: reasons that pass by themselves do not count.
pub fn excluded_for_good(
    table: &[Predicate],
    candidate: &Candidate<'_>,
    question: &Question<'_>,
) -> Option<&'static str> {
    table
        .iter()
        .filter(|predicate| !TEMPORARY.contains(&predicate.reason))
        .find(|predicate| (predicate.excludes)(candidate, question))
        .map(|predicate| predicate.reason)
}

/// Where a new peer goes.
pub enum Place<'c, 'a> {
    /// To this store.
    There(&'c Candidate<'a>),
    /// Nowhere for now: this store is the one, but is excluded for a reason that passes by itself.
    Later(StoreId, &'static str),
    /// Nowhere.
    Nowhere,
}

/// The best of these stores for a new peer: kept apart from the others first, by `apart`, then the least
/// loaded. A store that only has to be waited for is not passed by for one that is less apart: from there the
/// peer would have to move once more.
pub fn best_place<'c, 'a>(
    candidates: impl Iterator<Item = &'c Candidate<'a>>,
    question: &Question<'_>,
    apart: impl Fn(&StoreRecord) -> u64,
) -> Place<'c, 'a> {
    let able = candidates
        .filter(|candidate| excluded_for_good(PEER_TARGET, candidate, question).is_none())
        .map(|candidate| (apart(candidate.store), candidate));
    let mut able: Vec<_> = able.collect();
    able.sort_by_key(|(apart, candidate)| (Reverse(*apart), candidate.load()));
    let Some(&(most, first)) = able.first() else { return Place::Nowhere };
    let best = able.iter().take_while(|(apart, _)| *apart == most).map(|(_, candidate)| *candidate);
    let mut waiting = None;
    for candidate in best {
        match excluded(PEER_TARGET, candidate, question) {
            None => return Place::There(candidate),
            Some(why) => waiting = waiting.or(Some(why)),
        }
    }
    waiting.map_or(Place::Nowhere, |why| Place::Later(first.store.id(), why))
}

impl<'a> View<'a> {
    /// Every store, with what it holds and will hold.
    pub fn candidates(&self) -> Vec<Candidate<'a>> {
        let influence = self.operators.influence();
        self.stores
            .iter()
            .map(|store| Candidate {
                store,
                counts: self.regions.counts(store.id()),
                influence: influence.get(&store.id()).copied().unwrap_or_default(),
                weights: self.policy.weights(store.id()),
                spent: Spent::default(),
            })
            .collect()
    }

    /// The best store to lead the region among those in `allowed`: the one that leads fewest.
    pub fn best_leader(
        &self,
        record: &RegionRecord,
        allowed: impl Fn(StoreId) -> bool,
    ) -> Option<StoreId> {
        self.best_leader_of(&self.candidates(), record, allowed)
    }

    /// The same, of stores that are seen as more plans will leave them.
    pub fn best_leader_of(
        &self,
        candidates: &[Candidate<'_>],
        record: &RegionRecord,
        allowed: impl Fn(StoreId) -> bool,
    ) -> Option<StoreId> {
        let question = Question { record, others: Vec::new(), view: *self };
        candidates
            .iter()
            .filter(|candidate| allowed(candidate.store.id()))
            .filter(|candidate| excluded(LEADER_TARGET, candidate, &question).is_none())
            .min_by_key(|candidate| {
                let leaders = candidate.weights.of_leaders(candidate.leader_count());
                (leaders, candidate.store.id())
            })
            .map(|candidate| candidate.store.id())
    }

    /// The rules of a region, if rules count; `None` also when it lies over a bound of theirs.
    pub fn rules_of(&self, record: &RegionRecord) -> Option<&'a [Rule]> {
        self.policy.enable_placement_rules.then(|| self.rules.of(&record.range()))?
    }

    /// Whether rules count that say more than the policy does.
    pub fn has_own_rules(&self) -> bool {
        self.policy.enable_placement_rules && !self.rules.is_derived()
    }

    /// A peer of the region where it is, and how well it is.
    pub fn placed(&self, record: &RegionRecord, peer: &proto::metapb::Peer) -> Placed<'a> {
        let store = self.stores.find(StoreId(peer.store_id));
        let is_learner = proto::region::is_learner(peer);
        let condition = match store {
            Some(store) if self.is_lost(store) => Condition::Lost,
            _ if is_given_up(record, peer) => Condition::Lost,
            _ if is_learner && !record.is_healthy(peer) => Condition::CatchingUp,
            Some(store) if store.is_offline() => Condition::Leaving,
            _ if !record.is_healthy(peer) => Condition::Behind,
            _ => Condition::Well,
        };
        let leads = record.leader_peer().is_some_and(|leader| leader.0 == peer.id);
        Placed { peer: *peer, store, condition, leads }
    }

    /// Whether what the store holds counts as gone.
    pub fn is_lost(&self, store: &StoreRecord) -> bool {
        store.is_tombstone() || store.liveness(self.policy, self.moment) == Liveness::Down
    }

    /// How the region's peers serve these rules.
    pub fn fit(&self, record: &RegionRecord, rules: &'a [Rule]) -> Fit<'a> {
        let peers = record.region.peers.iter();
        let placed: Vec<_> = peers.map(|peer| self.placed(record, peer)).collect();
        Fit::new(rules, &placed)
    }

    /// What is wrong with the number and the roles of the region's peers, in words; `None` when they are as
    /// the rules, or else `max-replicas`, want them. Only such a region is moved for balance.
    pub fn why_not_complete(&self, record: &RegionRecord) -> Option<String> {
        if self.has_own_rules() {
            let Some(rules) = self.rules_of(record) else {
                return Some("it lies over a bound of the placement rules".into());
            };
            let is_complete = self.fit(record, rules).is_satisfied();
            return (!is_complete).then(|| "it is not as the placement rules want it".into());
        }
        let (voters, max) = (record.voters().count(), self.policy.max_replicas);
        let learners = record.learners().count();
        if voters != max {
            Some(format!("it has {voters} voters and should have {max}"))
        } else {
            (learners > 0).then(|| format!("it has {learners} learners"))
        }
    }
}

/// Whether its leader has given the peer up for good.
pub fn is_given_up(record: &RegionRecord, peer: &proto::metapb::Peer) -> bool {
    record.down_seconds(peer.id).is_some_and(|seconds| seconds >= DOWN_FOR_GOOD_SECONDS)
}

/// How well the store is kept apart from the others by the policy's location labels.
pub fn isolation(store: &StoreRecord, others: &[&StoreRecord], policy: &Policy) -> u64 {
    apart(store, others, &policy.location_labels)
}

/// How well the store is kept apart from the others: for each of them, the coarser the place in
/// which they differ, the more.
pub fn apart(store: &StoreRecord, others: &[&StoreRecord], levels: &[String]) -> u64 {
    others
        .iter()
        .filter(|other| other.id() != store.id())
        .map(|other| {
            let first_difference =
                levels.iter().position(|level| store.label(level) != other.label(level));
            first_difference.map_or(0, |index| {
                let finer = u32::try_from(levels.len() - 1 - index).unwrap_or(u32::MAX);
                100_u64.saturating_pow(finer)
            })
        })
        .fold(0, u64::saturating_add)
}

fn stat(candidate: &Candidate<'_>, says: impl Fn(&proto::pdpb::StoreStats) -> bool) -> bool {
    candidate.store.stats.as_ref().is_some_and(says)
}

fn is_silent(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    candidate.store.liveness(question.view.policy, question.view.moment) != Liveness::Heard
}

fn is_lost(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    candidate.store.liveness(question.view.policy, question.view.moment) == Liveness::Down
}

fn is_low_on_space(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    stat(candidate, |stats| {
        // A store that does not say how large it is keeps its data in memory.
        if stats.capacity == 0 {
            return false;
        }
        if question.view.regions.len() < YOUNG_REGIONS && stats.available > YOUNG_FREE_BYTES {
            return false;
        }
        let must_be_free = 100_u64.saturating_sub(question.view.policy.low_space_percent);
        u128::from(stats.available) * 100 < u128::from(stats.capacity) * u128::from(must_be_free)
    })
}

fn breaks_isolation(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    let policy = question.view.policy;
    // Rules that were written have labels of their own.
    if question.view.has_own_rules() {
        return false;
    }
    let Some(level) =
        policy.location_labels.iter().position(|label| *label == policy.isolation_level)
    else {
        return false;
    };
    question.others.iter().any(|other| {
        policy.location_labels[..=level]
            .iter()
            .all(|label| candidate.store.label(label) == other.label(label))
    })
}

/// A new peer that takes another's place must serve the rules as well as that one did; one more peer must be
/// of use to some rule.
fn breaks_rules(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    let view = question.view;
    if !view.has_own_rules() {
        return false;
    }
    let Some(rules) = view.rules_of(question.record) else { return false };
    let stays = |store: u64| question.others.iter().any(|other| other.id().0 == store);
    let peers = question.record.region.peers.iter();
    let before: Vec<_> = peers.map(|peer| view.placed(question.record, peer)).collect();
    let leaving =
        before.iter().position(|placed| placed.store.is_some() && !stays(placed.peer.store_id));
    let Some(leaving) = leaving else {
        return !rules.iter().any(|rule| rule.matches(Some(candidate.store)));
    };
    let mut after = before.clone();
    after[leaving].peer.store_id = candidate.store.meta.id;
    after[leaving].store = Some(candidate.store);
    Fit::new(rules, &after).is_worse_than(&Fit::new(rules, &before))
}

/// Where a rule asks for the leader it leads; nobody leads whom a rule wants to follow.
fn must_not_lead(candidate: &Candidate<'_>, question: &Question<'_>) -> bool {
    let view = question.view;
    if !view.has_own_rules() {
        return false;
    }
    let Some(rules) = view.rules_of(question.record) else { return false };
    if rules.iter().all(|rule| rule.role == Role::Voter || rule.role == Role::Learner) {
        return false;
    }
    let fit = view.fit(question.record, rules);
    let leader_rules = || fit.rules.iter().filter(|fit| fit.rule.role == Role::Leader);
    match fit.rule_of(candidate.store.meta.id).map(|fit| fit.rule.role) {
        Some(Role::Leader) => false,
        Some(Role::Follower | Role::Learner) => true,
        // It could change places with the peer that serves the leader's rule.
        Some(Role::Voter) | None => {
            leader_rules().any(|fit| !fit.peers.is_empty())
                && !leader_rules().any(|fit| fit.rule.matches(Some(candidate.store)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::metapb;

    use super::*;

    fn stores(labels: &[(u64, &str, &str)]) -> Stores {
        let label =
            |key: &str, value: &str| metapb::StoreLabel { key: key.into(), value: value.into() };
        Stores::load(
            labels.iter().map(|(id, zone, host)| metapb::Store {
                id: *id,
                labels: vec![label("zone", zone), label("host", host)],
                ..Default::default()
            }),
            Moment::default(),
        )
    }

    #[test]
    fn the_coarser_the_difference_the_better_apart() {
        let stores = stores(&[(1, "a", "1"), (2, "a", "2"), (3, "b", "3"), (4, "a", "1")]);
        let policy =
            Policy { location_labels: vec!["zone".into(), "host".into()], ..Policy::default() };
        let apart = |store: u64, others: &[u64]| {
            let others: Vec<_> =
                others.iter().map(|&id| stores.find(StoreId(id)).unwrap()).collect();
            isolation(stores.find(StoreId(store)).unwrap(), &others, &policy)
        };
        assert_eq!(apart(1, &[3]), 100);
        assert_eq!(apart(1, &[2]), 1);
        assert_eq!(apart(1, &[4]), 0);
        assert_eq!(apart(1, &[2, 3, 4]), 101);
        assert_eq!(apart(1, &[1]), 0, "a store is not apart from itself");
    }

    #[test]
    fn without_labels_every_store_is_as_good() {
        let stores = stores(&[(1, "a", "1"), (2, "b", "2")]);
        let others = [stores.find(StoreId(2)).unwrap()];
        assert_eq!(isolation(stores.find(StoreId(1)).unwrap(), &others, &Policy::default()), 0);
    }
}
