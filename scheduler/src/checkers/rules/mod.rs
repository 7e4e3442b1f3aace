//! A region's peers as the placement rules want them.
//!
//! The region's peers are given out to the rules of its range (`crate::rules::fit`). The first of these that
//! is true decides, one plan at a time:
//!
//! | | plan |
//! |---|---|
//! | a peer that its leader has given up for good, beside others | remove it; then there are too few |
//! | a peer of a rule on a lost store, then on a leaving one | replace it by one that the rule allows |
//! | a rule has too few peers | add one that it allows |
//! | a rule wants a voter and has a learner | promote it, once it has caught up |
//! | the leader is not where a rule wants it | hand over |
//! | a peer is of no use to any rule, while all rules have theirs | remove it, the worst first |
//! | a rule's peers would be further apart on another store | move the one that is kept apart least |
//!
//! What cannot be done now does not stop what comes after it in the table, except that nothing is removed
//! before every rule has its peers. There is one exception to that: where a rule finds no store because what
//! it wants a store for holds a peer of no use, that one goes first.
//!
//! A spare peer on a good store takes the place of one on a lost or leaving store by itself: it fits better,
//! and the other becomes the orphan. So a learner left by a plan that was given up becomes the successor when
//! it has caught up; until then the rule looks for another store, and waits only where there is none.

use proto::region::is_learner;
use proto::{StoreId, metapb};

use super::Finding;
use crate::cluster::RegionRecord;
use crate::ids::{Ids, Taken};
use crate::operator::{Builder, Operator, Purpose, Step, Unbuildable};
use crate::placement::{
    Candidate, LEADER_TARGET, Place, Question, View, apart, best_place, excluded,
};
use crate::rules::fit::{Condition, Placed, shares};
use crate::rules::{Fit, Role, RuleFit};

/// What the region needs, if anything.
pub fn check(view: View<'_>, record: &RegionRecord, ids: &mut Ids) -> Finding {
    if record.leader.is_none() {
        return Finding::Blocked("no leader has spoken for the region yet".into());
    }
    let Some(rules) = view.rules.of(&record.range()) else {
        return Finding::Blocked("it lies over a bound of the placement rules".into());
    };
    // Most regions most of the time: no store is looked at that has none of its peers.
    if view.fit(record, rules).is_perfect() {
        return Finding::Healthy;
    }
    let candidates = view.candidates();
    let load = |placed: &Placed<'_>| {
        let store = placed.peer.store_id;
        candidates.iter().find(|candidate| candidate.store.id().0 == store).map(Candidate::load)
    };
    // Among peers that serve equally well the leader stays, and the one on the fullest store is spare.
    let mut placed: Vec<_> =
        record.region.peers.iter().map(|peer| view.placed(record, peer)).collect();
    placed.sort_by_key(|placed| (!placed.leads, load(placed), placed.peer.id));
    let fit = Fit::new(rules, &placed);
    Judge { view, record, candidates, fit }.find(ids)
}

struct Judge<'a> {
    view: View<'a>,
    record: &'a RegionRecord,
    candidates: Vec<Candidate<'a>>,
    fit: Fit<'a>,
}

/// What a look for something to do came to.
enum Look {
    /// There is nothing of the kind to do.
    Nothing,
    /// There is, but not now.
    Later(String),
    /// This is done.
    Found(Finding),
}

impl Judge<'_> {
    fn find(&self, ids: &mut Ids) -> Finding {
        let looks: [fn(&Self, &mut Ids) -> Look; 7] = [
            |judge, _| judge.give_up_broken(),
            |judge, ids| judge.replace(Condition::Lost, ids),
            |judge, ids| judge.replace(Condition::Leaving, ids),
            |judge, ids| judge.make_up(ids),
            |judge, _| judge.mend_roles(),
            |judge, _| judge.remove_orphan(),
            |judge, ids| judge.better_location(ids),
        ];
        let mut later = None;
        for look in looks {
            match look(self, ids) {
                Look::Nothing => {}
                Look::Later(why) => later = later.or(Some(why)),
                Look::Found(finding) => return finding,
            }
        }
        later.map_or(Finding::Healthy, Finding::Blocked)
    }

    /// It neither votes nor serves: taking it away first costs nothing, and leaves its store free.
    fn give_up_broken(&self) -> Look {
        let others = |peer: &metapb::Peer| self.record.voters().any(|voter| voter.id != peer.id);
        let mut peers = self.record.region.peers.iter();
        let broken =
            peers.find(|peer| crate::placement::is_given_up(self.record, peer) && others(peer));
        broken.map_or(Look::Nothing, |peer| self.remove(peer, "remove-broken-replica"))
    }

    fn replace(&self, condition: Condition, ids: &mut Ids) -> Look {
        let description = match condition {
            Condition::Lost => "replace-rule-down-peer",
            Condition::CatchingUp | Condition::Leaving | Condition::Behind | Condition::Well => {
                "replace-rule-offline-peer"
            }
        };
        let mut later = Look::Nothing;
        for rule in &self.fit.rules {
            // Followers before the leader, which is heard.
            let mut bad: Vec<_> =
                rule.peers.iter().filter(|placed| placed.condition == condition).collect();
            bad.sort_by_key(|placed| placed.leads);
            for placed in bad {
                match self.move_peer(rule, placed, description, ids) {
                    Ok(found) => return Look::Found(found),
                    Err(why) => later = Look::Later(why),
                }
            }
        }
        later
    }

    fn make_up(&self, ids: &mut Ids) -> Look {
        let mut later = Look::Nothing;
        for rule in self.fit.rules.iter().filter(|fit| fit.peers.len() < fit.rule.count) {
            match self.place(rule, None) {
                Place::There(target) => {
                    let to = target.store.id();
                    return Look::Found(match take_id(ids) {
                        Err(bound) => Finding::NeedsIds(bound),
                        Ok(id) => self.build(self.add("add-rule-peer", rule, to, id)),
                    });
                }
                Place::Later(store, why) => {
                    later = Look::Later(format!("{store} is to take another peer, but it {why}"));
                    continue;
                }
                Place::Nowhere => {}
            }
            // Its stores may hold peers that are of no use to any rule.
            let mut useless = self.fit.orphans.iter();
            let in_the_way = useless.find(|placed| rule.rule.matches(placed.store));
            if let Some(placed) = in_the_way.filter(|_| self.have_their_voters()) {
                return self.remove(&placed.peer, "remove-orphan-peer");
            }
            later = Look::Later(self.nobody_for(rule, None));
        }
        later
    }

    /// Whether every rule that wants votes has as many.
    fn have_their_voters(&self) -> bool {
        let mut of_voters = self.fit.rules.iter().filter(|fit| fit.rule.role != Role::Learner);
        of_voters.all(|fit| {
            let voters = fit.peers.iter().filter(|placed| !is_learner(&placed.peer)).count();
            voters == fit.rule.count
        })
    }

    /// Learners get their votes, and the lead goes where it belongs.
    fn mend_roles(&self) -> Look {
        let mut later = Look::Nothing;
        for rule in &self.fit.rules {
            let role = rule.rule.role;
            for placed in rule.peers.iter().filter(|placed| !placed.has_role(role)) {
                let store = StoreId(placed.peer.store_id);
                if is_learner(&placed.peer) {
                    if placed.condition >= Condition::Leaving {
                        let builder = self.builder("fix-peer-role").promote(store);
                        return Look::Found(self.build(builder));
                    }
                    later = Look::Later(format!("the learner on {store} is catching up"));
                    continue;
                }
                let (to, description) = match role {
                    Role::Leader => (self.may_lead(store).then_some(store), "fix-leader-role"),
                    Role::Voter | Role::Follower | Role::Learner => {
                        let other = |other: StoreId| other != store;
                        (self.view.best_leader(self.record, other), "fix-follower-role")
                    }
                };
                match (to, self.record.leader_store()) {
                    (Some(to), Some(from)) => {
                        let steps = vec![Step::TransferLeader { from, to }];
                        let purpose = Purpose::Replica;
                        let plan = Operator::new(description, purpose, self.record, steps);
                        return Look::Found(Finding::Wants(plan));
                    }
                    _ => later = Look::Later("nobody can lead where the rules want it".into()),
                }
            }
        }
        later
    }

    fn may_lead(&self, store: StoreId) -> bool {
        let question = Question { record: self.record, others: Vec::new(), view: self.view };
        let mut all = self.candidates.iter();
        all.find(|candidate| candidate.store.id() == store)
            .is_some_and(|candidate| excluded(LEADER_TARGET, candidate, &question).is_none())
    }

    /// Only when nothing is missing: until then what is spare may still be of use.
    fn remove_orphan(&self) -> Look {
        let is_bad =
            |placed: &Placed<'_>| matches!(placed.condition, Condition::Lost | Condition::Leaving);
        let are_served =
            self.fit.rules.iter().all(|fit| fit.is_satisfied() && !fit.peers.iter().any(is_bad));
        if !are_served {
            return Look::Nothing;
        }
        // The last of the worst: they are in order of their use.
        let worst = self.fit.orphans.iter().rev().min_by_key(|placed| placed.condition);
        worst.map_or(Look::Nothing, |placed| self.remove(&placed.peer, "remove-orphan-peer"))
    }

    fn better_location(&self, ids: &mut Ids) -> Look {
        let is_well = self.record.down_peers.is_empty() && self.record.pending_peers.is_empty();
        let is_wanted = self.view.policy.enable_location_replacement;
        if !is_well || !is_wanted || !self.fit.is_satisfied() {
            return Look::Nothing;
        }
        for rule in &self.fit.rules {
            let labels = &rule.rule.location_labels;
            let all = rule.stores(None);
            let apart_now = |placed: &&Placed<'_>| {
                placed.store.map_or(u64::MAX, |store| apart(store, &all, labels))
            };
            let worst = rule.peers.iter().min_by_key(|placed| (apart_now(placed), placed.leads));
            let Some(worst) = worst.filter(|_| !labels.is_empty()) else { continue };
            let others = rule.stores(Some(worst.peer.store_id));
            let from = StoreId(worst.peer.store_id);
            let is_better =
                |target: &Candidate<'_>| apart(target.store, &others, labels) > apart_now(&worst);
            if matches!(self.place(rule, Some(from)), Place::There(target) if is_better(target)) {
                let moved = self.move_peer(rule, worst, "move-to-better-location", ids);
                return moved.map_or(Look::Nothing, Look::Found);
            }
        }
        Look::Nothing
    }

    /// The best store for a peer of the rule, see [`best_place`].
    fn place(&self, rule: &RuleFit<'_>, instead_of: Option<StoreId>) -> Place<'_, '_> {
        let question = Question::new_peer(self.view, self.record, instead_of);
        let others = rule.stores(instead_of.map(|store| store.0));
        let isolated_by = rule.rule.isolated_by();
        let allowed =
            self.candidates.iter().filter(|target| rule.rule.matches(Some(target.store))).filter(
                |target| !others.iter().any(|other| shares(target.store, other, isolated_by)),
            );
        best_place(allowed, &question, |store| apart(store, &others, &rule.rule.location_labels))
    }

    /// Why nobody takes such a peer, in words.
    fn nobody_for(&self, rule: &RuleFit<'_>, instead_of: Option<StoreId>) -> String {
        let name = rule.rule.name();
        let what = match instead_of {
            Some(store) => format!("no store can take the place of {store}"),
            None => "no store can take another peer".into(),
        };
        if self.view.rules.is_derived() { what } else { format!("{what} by rule {name}") }
    }

    /// A new peer where the rule wants one, then the old one goes; or why that has to wait.
    fn move_peer(
        &self,
        rule: &RuleFit<'_>,
        placed: &Placed<'_>,
        description: &'static str,
        ids: &mut Ids,
    ) -> Result<Finding, String> {
        let gone = StoreId(placed.peer.store_id);
        let target = match self.place(rule, Some(gone)) {
            Place::There(target) => target.store.id(),
            Place::Later(store, why) => {
                return Err(format!("{store} is to take the place of {gone}, but it {why}"));
            }
            Place::Nowhere => return Err(self.nobody_for(rule, Some(gone))),
        };
        Ok(match take_id(ids) {
            Err(bound) => Finding::NeedsIds(bound),
            Ok(id) => self.build(self.add(description, rule, target, id).remove_peer(gone)),
        })
    }

    fn add(
        &self,
        description: &'static str,
        rule: &RuleFit<'_>,
        to: StoreId,
        id: u64,
    ) -> Builder<'_> {
        let builder = self.builder(description);
        match rule.rule.role {
            Role::Learner => builder.add_learner(to, id),
            Role::Voter | Role::Leader | Role::Follower => builder.add_peer(to, id),
        }
    }

    fn remove(&self, peer: &metapb::Peer, description: &'static str) -> Look {
        let builder = self.builder(description).remove_peer(StoreId(peer.store_id));
        Look::Found(self.build(builder))
    }

    fn builder(&self, description: &'static str) -> Builder<'_> {
        Builder::new(description, Purpose::Replica, self.record, self.view.policy)
    }

    fn build(&self, builder: Builder<'_>) -> Finding {
        match builder.build(|stays| self.view.best_leader(self.record, stays)) {
            Ok(operator) => Finding::Wants(operator),
            Err(Unbuildable::NothingToDo) => Finding::Healthy,
            Err(why) => Finding::Blocked(why.to_string()),
        }
    }
}

fn take_id(ids: &mut Ids) -> Result<u64, u64> {
    match ids.take(1) {
        Taken::Block(block) => Ok(*block.start()),
        Taken::NeedBound(bound) => Err(bound),
    }
}

#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
