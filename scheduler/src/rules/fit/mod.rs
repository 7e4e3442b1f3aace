//! Which peer of a region fulfils which rule.
//!
//! Rules are served in their order: each gets as many peers as it asks for, if so many match its labels, and
//! of all ways to give them out the best for the first rule is taken, among equals the best for the second,
//! and so on. What makes a way better, for one rule, in this order:
//!
//! 1. more peers;
//! 2. peers in better condition: a well one before one that is behind, before one on a leaving store, before
//!    one on a lost store, so that what is spare is the worst;
//! 3. more peers that have their role already;
//! 4. fewer pairs that share a place which the isolation level forbids;
//! 5. peers kept further apart;
//! 6. peers named earlier.
//!
//! A peer that is left over is an *orphan*. A learner may stand in for a voter, which it becomes; a voter
//! never stands in for a learner.

use std::cmp::Reverse;

use proto::metapb;
use proto::region::is_learner;

use super::rule::{Role, Rule};
use crate::cluster::StoreRecord;
use crate::placement::apart;

/// Peers that are given out. A region has fewer; more of them are orphans without being looked at, as the ways
/// to give them out would be too many.
pub const PEERS_MAX: usize = 12;

/// How well a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A learner that has yet to catch up: it cannot be promoted now, and may never be.
    CatchingUp = 0,
    /// Its store is lost, or its leader has given it up.
    Lost,
    /// Its store is leaving.
    Leaving,
    /// It is behind, or has not been heard for a while.
    Behind,
    /// All is well.
    Well,
}

/// A peer where it is.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The peer.
    pub peer: metapb::Peer,
    /// Its store; `None` when nobody knows it.
    pub store: Option<&'a StoreRecord>,
    /// How well it is.
    pub condition: Condition,
    /// Whether it leads.
    pub leads: bool,
}

impl Placed<'_> {
    /// Whether it may stand for a peer of the rule.
    fn may_serve(&self, rule: &Rule) -> bool {
        (rule.role != Role::Learner || is_learner(&self.peer)) && rule.matches(self.store)
    }

    /// Whether it is what the rule wants.
    pub fn has_role(&self, role: Role) -> bool {
        match role {
            Role::Voter => !is_learner(&self.peer),
            Role::Leader => self.leads,
            Role::Follower => !is_learner(&self.peer) && !self.leads,
            Role::Learner => is_learner(&self.peer),
        }
    }
}

/// How well a rule is served; more is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    count: usize,
    condition: usize,
    right_roles: usize,
    forbidden_pairs: Reverse<usize>,
    apart: u64,
}

impl Score {
    /// What does not pass by itself: the condition of peers does.
    fn lasting(self) -> Self {
        Self { condition: 0, ..self }
    }
}

/// The peers of one rule.
#[derive(Clone, Debug)]
pub struct RuleFit<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Its peers, in the order in which they were named.
    pub peers: Vec<Placed<'a>>,
    score: Score,
}

impl<'a> RuleFit<'a> {
    fn of(rule: &'a Rule, peers: Vec<Placed<'a>>) -> Self {
        let condition = |placed: &Placed<'_>| {
            // What a learner has not got does not matter where it shall not vote.
            let is_no_matter =
                rule.role == Role::Learner && placed.condition == Condition::CatchingUp;
            (if is_no_matter { Condition::Behind } else { placed.condition }) as usize
        };
        let stores: Vec<_> = peers.iter().filter_map(|placed| placed.store).collect();
        let isolated_by = rule.isolated_by();
        let (mut forbidden, mut apart_sum) = (0, 0_u64);
        for (at, store) in stores.iter().enumerate() {
            let others = &stores[at + 1..];
            apart_sum = apart_sum.saturating_add(apart(store, others, &rule.location_labels));
            forbidden += others.iter().filter(|other| shares(store, other, isolated_by)).count();
        }
        let score = Score {
            count: peers.len(),
            condition: peers.iter().map(condition).sum(),
            right_roles: peers.iter().filter(|placed| placed.has_role(rule.role)).count(),
            forbidden_pairs: Reverse(forbidden),
            apart: apart_sum,
        };
        Self { rule, peers, score }
    }

    /// Whether it has as many peers as it wants, each of its role.
    pub fn is_satisfied(&self) -> bool {
        self.peers.len() == self.rule.count
            && self.peers.iter().all(|placed| placed.has_role(self.rule.role))
    }

    /// Whether its peers cannot be further apart: no two share the coarsest of its places.
    pub fn is_far_apart(&self) -> bool {
        let labels = &self.rule.location_labels;
        let stores = self.stores(None);
        labels.is_empty()
            || stores.iter().enumerate().all(|(at, store)| {
                stores[at + 1..].iter().all(|other| !shares(store, other, &labels[..1]))
            })
    }

    /// The stores of its peers but the one on `without`.
    pub fn stores(&self, without: Option<u64>) -> Vec<&'a StoreRecord> {
        let peers = self.peers.iter().filter(|placed| Some(placed.peer.store_id) != without);
        peers.filter_map(|placed| placed.store).collect()
    }
}

/// Whether two stores share a place that peers must not; nothing is forbidden without labels.
pub fn shares(store: &StoreRecord, other: &StoreRecord, isolated_by: &[String]) -> bool {
    !isolated_by.is_empty()
        && store.id() != other.id()
        && isolated_by.iter().all(|label| store.label(label) == other.label(label))
}

/// All rules of a region, served as well as its peers allow.
#[derive(Clone, Debug)]
pub struct Fit<'a> {
    /// One for each rule, in their order.
    pub rules: Vec<RuleFit<'a>>,
    /// Peers that no rule has a use for, the most useful first.
    pub orphans: Vec<Placed<'a>>,
}

impl<'a> Fit<'a> {
    /// Gives the peers out to the rules.
    pub fn new(rules: &'a [Rule], peers: &[Placed<'a>]) -> Self {
        let looked_at = &peers[..peers.len().min(PEERS_MAX)];
        let free: Vec<usize> = (0..looked_at.len()).collect();
        let best = best(rules, looked_at, &free);
        let is_given = |number: usize| best.iter().any(|given| given.numbers.contains(&number));
        let orphans = (0..peers.len()).filter(|&number| !is_given(number));
        let orphans = orphans.map(|number| peers[number]).collect();
        let rules = best.into_iter().map(|given| given.fit).collect();
        Self { rules, orphans }
    }

    /// Whether every rule has what it wants, and nothing is left over.
    pub fn is_satisfied(&self) -> bool {
        self.orphans.is_empty() && self.rules.iter().all(RuleFit::is_satisfied)
    }

    /// Whether nothing can be done better, whatever other stores there are.
    pub fn is_perfect(&self) -> bool {
        let is_well = |placed: &Placed<'_>| placed.condition == Condition::Well;
        self.is_satisfied()
            && self.rules.iter().all(|rule| rule.peers.iter().all(is_well) && rule.is_far_apart())
    }

    /// The rule that the peer on this store serves.
    pub fn rule_of(&self, store: u64) -> Option<&RuleFit<'a>> {
        self.rules.iter().find(|fit| fit.peers.iter().any(|placed| placed.peer.store_id == store))
    }

    /// Whether the rules are served worse here than there, apart from what passes by itself.
    pub fn is_worse_than(&self, other: &Fit<'_>) -> bool {
        let lasting = |fit: &Fit<'_>| -> Vec<Score> {
            fit.rules.iter().map(|rule| rule.score.lasting()).collect()
        };
        lasting(self) < lasting(other)
    }
}

/// What one rule is given.
struct Given<'a> {
    fit: RuleFit<'a>,
    numbers: Vec<usize>,
}

/// The best way to give the free peers out to these rules, one after the other.
fn best<'a>(rules: &'a [Rule], peers: &[Placed<'a>], free: &[usize]) -> Vec<Given<'a>> {
    let Some((rule, rest)) = rules.split_first() else { return Vec::new() };
    let able: Vec<usize> =
        free.iter().copied().filter(|&number| peers[number].may_serve(rule)).collect();
    let mut best_way: Option<Vec<Given<'a>>> = None;
    for numbers in choices(&able, rule.count.min(able.len())) {
        let fit = RuleFit::of(rule, numbers.iter().map(|&number| peers[number]).collect());
        // What is worse for this rule cannot be made up for by the next ones.
        if best_way.as_ref().is_some_and(|best| fit.score < best[0].fit.score) {
            continue;
        }
        let left: Vec<usize> =
            free.iter().copied().filter(|number| !numbers.contains(number)).collect();
        let mut way = vec![Given { fit, numbers }];
        way.extend(best(rest, peers, &left));
        let scores =
            |way: &[Given<'_>]| -> Vec<Score> { way.iter().map(|given| given.fit.score).collect() };
        if best_way.as_ref().is_none_or(|best| scores(&way) > scores(best)) {
            best_way = Some(way);
        }
    }
    best_way.unwrap_or_default()
}

/// Every way to choose `count` of the numbers, those that begin with earlier ones first.
fn choices(numbers: &[usize], count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for (at, &first) in numbers.iter().enumerate() {
        if numbers.len() - at < count {
            break;
        }
        for mut rest in choices(&numbers[at + 1..], count - 1) {
            rest.insert(0, first);
            found.push(rest);
        }
    }
    found
}

#[cfg(test)]
mod tests;
