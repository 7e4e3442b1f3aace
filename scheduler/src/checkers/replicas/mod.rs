//! Too few, too many, or on a store that is lost or leaving.
//!
//! The first of these that is true decides, one plan at a time:
//!
//! | the region has | plan |
//! |---|---|
//! | a peer on a store that has been silent for too long, or is gone | replace it; only remove it when there are voters to spare |
//! | a peer that its leader has given up for good, beside others | remove it; then there are too few |
//! | a peer on a store that is leaving | as for one on a lost store |
//! | too few voters, and a learner that has caught up | promote the learner |
//! | too few voters, and a learner that is catching up | wait |
//! | too few voters | make one up on the best store |
//! | too many voters | remove the worst |
//! | a learner beside enough voters | remove it: it is left from a plan that was given up |
//! | peers that another store would keep further apart | move the one that is kept apart least |
//!
//! A learner that has caught up and whose store stays is promoted before anything is replaced: it was meant to
//! take the place of the peer that goes, or can. One that never catches up is passed by; it goes when there
//! are enough voters without it.
//!
//! A store counts as lost by its own silence (`max-store-down-time`), not by what a leader says
//! of one peer, so that one bad link does not move data. A peer on a store that nobody knows is
//! left alone: the store may be about to register.
//!
//! A peer is given up for good when its data turned out to differ from those of the others (the leader says so by
//! [`proto::region::DOWN_FOR_GOOD_SECONDS`]). It neither votes nor serves, so taking it away first costs nothing,
//! and leaves its store free for a successor where there is no other.
//!
//! A learner does not count as a voter anywhere here, so a stuck one hides nothing.
//!
//! This checker counts only while `enable-placement-rules` is off; otherwise see `super::rules`.

use std::cmp::Reverse;

use proto::{StoreId, metapb};

use super::Finding;
use crate::cluster::RegionRecord;
use crate::cluster::stores::StoreRecord;
use crate::ids::{Ids, Taken};
use crate::operator::{Builder, Purpose, Unbuildable};
use crate::placement::{Candidate, Place, Question, View, best_place, is_given_up, isolation};

/// What the region needs, if anything.
pub fn check(view: View<'_>, record: &RegionRecord, ids: &mut Ids) -> Finding {
    if record.leader.is_none() {
        return Finding::Blocked("no leader has spoken for the region yet".into());
    }
    let max = view.policy.max_replicas;
    let voters = record.voters().count();
    let judge = Judge { view, record };
    if voters <= max
        && let Some(successor) = judge.successor()
    {
        return judge.build(judge.builder("promote-learner").promote(successor));
    }
    if let Some(peer) = judge.peer_where(|store| view.is_lost(store)) {
        return judge.replace(
            peer,
            voters > max,
            ["replace-down-replica", "remove-extra-down-replica"],
            ids,
        );
    }
    if let Some(peer) = judge.given_up() {
        return judge.remove(peer, "remove-broken-replica");
    }
    if let Some(peer) = judge.peer_where(StoreRecord::is_offline) {
        let words = ["replace-offline-replica", "remove-extra-offline-replica"];
        return judge.replace(peer, voters > max, words, ids);
    }
    if voters < max {
        return judge.make_up(ids);
    }
    if voters > max {
        return judge.remove_extra();
    }
    match record.learners().next() {
        Some(learner) => judge.remove(*learner, "remove-orphan-peer"),
        None => judge.better_location(ids),
    }
}

struct Judge<'a> {
    view: View<'a>,
    record: &'a RegionRecord,
}

impl<'a> Judge<'a> {
    /// The first peer on a known store of that kind; followers before the leader, who is heard.
    fn peer_where(&self, is_bad: impl Fn(&StoreRecord) -> bool) -> Option<metapb::Peer> {
        let leads = self.record.leader_peer().map(|peer| peer.0);
        self.record
            .region
            .peers
            .iter()
            .filter(|peer| self.view.stores.find(StoreId(peer.store_id)).is_some_and(&is_bad))
            .min_by_key(|peer| Some(peer.id) == leads)
            .copied()
    }

    /// A peer that will not come back, unless nobody else would be left.
    fn given_up(&self) -> Option<metapb::Peer> {
        let others = |peer: &metapb::Peer| self.record.voters().any(|voter| voter.id != peer.id);
        let mut peers = self.record.region.peers.iter();
        peers.find(|peer| is_given_up(self.record, peer) && others(peer)).copied()
    }

    /// A learner that has caught up on a store that stays, while a voter's store does not.
    fn successor(&self) -> Option<StoreId> {
        let stays = |peer: &metapb::Peer| {
            let store = self.view.stores.find(StoreId(peer.store_id));
            store.is_none_or(|store| store.is_up() && !self.view.is_lost(store))
        };
        if self.record.voters().all(stays) {
            return None;
        }
        let mut learners = self.record.learners();
        let ready = learners.find(|learner| stays(learner) && self.record.is_healthy(learner))?;
        Some(StoreId(ready.store_id))
    }

    /// While all is well: the peer that is kept apart from the others least goes to where it is kept apart
    /// more, if there is such a place.
    fn better_location(&self, ids: &mut Ids) -> Finding {
        let View { policy, stores, .. } = self.view;
        let is_well = self.record.down_peers.is_empty() && self.record.pending_peers.is_empty();
        if policy.location_labels.is_empty() || !policy.enable_location_replacement || !is_well {
            return Finding::Healthy;
        }
        let all: Vec<_> =
            self.record.voters().filter_map(|voter| stores.find(StoreId(voter.store_id))).collect();
        let Some(worst) =
            all.iter().min_by_key(|store| (isolation(store, &all, policy), store.id()))
        else {
            return Finding::Healthy;
        };
        let from = worst.id();
        let candidates = self.view.candidates();
        let question = Question::new_peer(self.view, self.record, Some(from));
        let apart_now = isolation(worst, &question.others, policy);
        // Elsewhere only what is further apart counts, and nobody waits for it.
        let Place::There(target) = self.place(&candidates, &question) else {
            return Finding::Healthy;
        };
        if isolation(target.store, &question.others, policy) <= apart_now {
            return Finding::Healthy;
        }
        let id = match ids.take(1) {
            Taken::Block(block) => *block.start(),
            Taken::NeedBound(bound) => return Finding::NeedsIds(bound),
        };
        let builder = self.builder("move-to-better-location");
        self.build(builder.add_peer(target.store.id(), id).remove_peer(from))
    }

    fn place<'c>(&self, candidates: &'c [Candidate<'a>], question: &Question<'_>) -> Place<'c, 'a> {
        let policy = self.view.policy;
        best_place(candidates.iter(), question, |store| isolation(store, &question.others, policy))
    }

    fn replace(
        &self,
        peer: metapb::Peer,
        has_spare: bool,
        [replace, remove]: [&'static str; 2],
        ids: &mut Ids,
    ) -> Finding {
        if has_spare || proto::region::is_learner(&peer) {
            return self.remove(peer, remove);
        }
        let gone = StoreId(peer.store_id);
        let candidates = self.view.candidates();
        let question = Question::new_peer(self.view, self.record, Some(gone));
        let target = match self.place(&candidates, &question) {
            Place::There(target) => target.store.id(),
            Place::Later(store, why) => {
                return Finding::Blocked(format!(
                    "{store} is to take the place of {gone}, but it {why}"
                ));
            }
            Place::Nowhere => {
                return Finding::Blocked(format!("no store can take the place of {gone}"));
            }
        };
        let id = match ids.take(1) {
            Taken::Block(block) => *block.start(),
            Taken::NeedBound(bound) => return Finding::NeedsIds(bound),
        };
        self.build(self.builder(replace).add_peer(target, id).remove_peer(gone))
    }

    fn make_up(&self, ids: &mut Ids) -> Finding {
        if let Some(learner) = self.record.learners().next() {
            let store = StoreId(learner.store_id);
            return if self.record.is_healthy(learner) {
                self.build(self.builder("promote-learner").promote(store))
            } else {
                Finding::Blocked(format!("the learner on {store} is catching up"))
            };
        }
        let candidates = self.view.candidates();
        let question = Question::new_peer(self.view, self.record, None);
        let target = match self.place(&candidates, &question) {
            Place::There(target) => target.store.id(),
            Place::Later(store, why) => {
                return Finding::Blocked(format!("{store} is to take another peer, but it {why}"));
            }
            Place::Nowhere => return Finding::Blocked("no store can take another peer".into()),
        };
        let id = match ids.take(1) {
            Taken::Block(block) => *block.start(),
            Taken::NeedBound(bound) => return Finding::NeedsIds(bound),
        };
        self.build(self.builder("make-up-replica").add_peer(target, id))
    }

    /// The worst voter: unhealthy ones first, then the one that is kept apart from the others
    /// least, then the one on the most loaded store.
    fn remove_extra(&self) -> Finding {
        let candidates = self.view.candidates();
        let stores: Vec<_> = self
            .record
            .voters()
            .filter_map(|voter| self.view.stores.find(StoreId(voter.store_id)))
            .collect();
        let worst = self.record.voters().max_by_key(|voter| {
            let store = StoreId(voter.store_id);
            let candidate = candidates.iter().find(|candidate| candidate.store.id() == store);
            let apart = candidate
                .map_or(0, |candidate| isolation(candidate.store, &stores, self.view.policy));
            (!self.record.is_healthy(voter), Reverse(apart), candidate.map(|c| c.load()))
        });
        match worst {
            Some(&worst) => self.remove(worst, "remove-extra-replica"),
            None => Finding::Healthy,
        }
    }

    fn remove(&self, peer: metapb::Peer, description: &'static str) -> Finding {
        self.build(self.builder(description).remove_peer(StoreId(peer.store_id)))
    }

    fn builder(&self, description: &'static str) -> Builder<'a> {
        Builder::new(description, Purpose::Replica, self.record, self.view.policy)
    }

    fn build(&self, builder: Builder<'a>) -> Finding {
        match builder.build(|stays| self.view.best_leader(self.record, stays)) {
            Ok(operator) => Finding::Wants(operator),
            Err(Unbuildable::NothingToDo) => Finding::Healthy,
            Err(why) => Finding::Blocked(why.to_string()),
        }
    }
}

#[cfg(test)]
pub(crate) mod script;
