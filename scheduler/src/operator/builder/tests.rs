//! Plans carried out step by step on a region, with everything that must hold in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::PeerId;
use proto::region::{is_joint, peer_by_id};

use super::*;
use crate::cluster::Moment;
use crate::operator::obedience::{has_majorities, obey};
use crate::operator::{RunningOperators, Status};

/// One after the other, with learners first or not.
fn one_by_one(add_as_learner: bool) -> Policy {
    Policy { add_as_learner, enable_joint_consensus: false, ..Policy::default() }
}

/// A region with voters on these stores, and learners on those.
fn region_with(voters: &[u64], learners: &[u64], leader: u64) -> RegionRecord {
    let peer = |store_id, role: metapb::PeerRole| metapb::Peer {
        id: 100 + store_id,
        store_id,
        role: role.into(),
        ..Default::default()
    };
    let voters = voters.iter().map(|&store| peer(store, metapb::PeerRole::Voter));
    let learners = learners.iter().map(|&store| peer(store, metapb::PeerRole::Learner));
    let peers: Vec<_> = voters.chain(learners).collect();
    RegionRecord {
        leader: peers.iter().find(|peer| peer.store_id == leader).copied(),
        region: metapb::Region {
            id: 1,
            region_epoch: Some(proto::region::FIRST_EPOCH),
            peers,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn region(voters: &[u64], leader: u64) -> RegionRecord {
    region_with(voters, &[], leader)
}

fn voters(record: &RegionRecord) -> BTreeSet<u64> {
    record.voters().map(|peer| peer.store_id).collect()
}

fn first_voter(record: &RegionRecord, stays: &dyn Fn(StoreId) -> bool) -> Option<StoreId> {
    let voters = record.voters().filter(|voter| record.is_healthy(voter));
    voters.map(|peer| StoreId(peer.store_id)).find(|&store| stays(store))
}

proptest! {
    #[test]
    fn every_plan_is_safe_at_every_step_and_arrives(
        before in proptest::sample::subsequence(vec![1_u64, 2, 3, 4, 5], 1..=5),
        after in proptest::sample::subsequence(vec![1_u64, 2, 3, 4, 5, 6, 7], 1..=5),
        leader in any::<prop::sample::Index>(),
        as_learner in any::<bool>(),
    ) {
        let leader = *leader.get(&before);
        let mut record = region(&before, leader);
        let start = record.clone();
        let policy = one_by_one(as_learner);
        let mut builder = Builder::new("test", Purpose::Admin, &start, &policy);
        for &store in &after {
            if !before.contains(&store) {
                builder = builder.add_peer(StoreId(store), 200 + store);
            }
        }
        for &store in &before {
            if !after.contains(&store) {
                builder = builder.remove_peer(StoreId(store));
            }
        }
        let plan = match builder.build(|stays| first_voter(&start, stays)) {
            Ok(plan) => plan,
            Err(why) => {
                prop_assert_eq!(why, Unbuildable::NothingToDo);
                prop_assert_eq!(before, after);
                return Ok(());
            }
        };
        let fewest = before.len().min(after.len());
        let mut conf_ver = 0;
        for step in plan.steps() {
            prop_assert!(!step.is_done(&record), "{step} is done before it is ordered");
            prop_assert_eq!(step.obstacle(&record), None);
            prop_assert_eq!(obey(&step.order(&record), &mut record), Ok(()));
            prop_assert!(step.is_done(&record));
            conf_ver += step.conf_ver_changed(&record);
            prop_assert_eq!(record.epoch().conf_ver, 1 + conf_ver, "each step explains itself");
            prop_assert!(voters(&record).len() >= fewest);
            let leader = record.leader.expect("it is always led");
            let leads = peer_by_id(&record.region, PeerId(leader.id));
            prop_assert!(leads.is_some_and(|peer| !is_learner(peer)), "its leader is a voter");
        }
        prop_assert_eq!(voters(&record), after.iter().copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(record.learners().count(), 0);
        let transfers =
            plan.steps().iter().filter(|s| matches!(s, Step::TransferLeader { .. })).count();
        prop_assert_eq!(transfers, usize::from(!after.contains(&leader)));
    }
}

/// From one membership to another, while some peers are silent.
#[derive(Clone, Debug)]
struct Change {
    before: RegionRecord,
    /// Whether there shall be a vote on the store; none there, no peer.
    after: BTreeMap<u64, bool>,
    /// Who shall lead, if somebody cares.
    leader: Option<u64>,
}

impl Change {
    fn is_heard(&self, peer: &metapb::Peer) -> bool {
        !self.before.is_down(peer.id)
    }

    fn plan(&self, policy: &Policy) -> Result<Operator, Unbuildable> {
        let mut builder = Builder::new("test", Purpose::Admin, &self.before, policy);
        for (&store_id, &votes) in &self.after {
            let store = StoreId(store_id);
            builder = match (self.before.peer_on(store).map(is_learner), votes) {
                (None, true) => builder.add_peer(store, 200 + store_id),
                (None, false) => builder.add_learner(store, 200 + store_id),
                (Some(_), true) => builder.promote(store),
                (Some(_), false) => builder.demote(store),
            };
        }
        for peer in &self.before.region.peers {
            if !self.after.contains_key(&peer.store_id) {
                builder = builder.remove_peer(StoreId(peer.store_id));
            }
        }
        if let Some(store) = self.leader {
            builder = builder.leader(StoreId(store));
        }
        builder.build(|stays| first_voter(&self.before, stays))
    }

    /// Whether somebody has to take over.
    fn moves_leader(&self) -> bool {
        let leads = self.before.leader.unwrap().store_id;
        self.leader.map_or(self.after.get(&leads) != Some(&true), |wanted| wanted != leads)
    }

    /// How many get or lose a vote.
    fn votes_changed(&self) -> usize {
        let after: BTreeSet<u64> =
            self.after.iter().filter(|(_, votes)| **votes).map(|(store, _)| *store).collect();
        voters(&self.before).symmetric_difference(&after).count()
    }

    fn has_arrived(&self, record: &RegionRecord) -> bool {
        let is = |peer: &metapb::Peer| match peer.role() {
            metapb::PeerRole::Voter => Some((peer.store_id, true)),
            metapb::PeerRole::Learner => Some((peer.store_id, false)),
            metapb::PeerRole::IncomingVoter | metapb::PeerRole::DemotingVoter => None,
        };
        let roles: Option<BTreeMap<_, _>> = record.region.peers.iter().map(is).collect();
        roles.as_ref() == Some(&self.after)
            && self.leader.is_none_or(|wanted| record.leader_store() == Some(StoreId(wanted)))
    }
}

/// Any change between memberships that both have a majority which is heard; who gets a vote is heard too.
fn any_change() -> impl Strategy<Value = Change> {
    let role = || prop::sample::select(vec![None, None, Some(false), Some(true), Some(true)]);
    let before = prop::collection::vec(role(), 7);
    let after = prop::collection::vec(role(), 7);
    let silent = prop::collection::vec(prop::bool::weighted(0.2), 7);
    let leaders = (any::<prop::sample::Index>(), any::<Option<prop::sample::Index>>());
    (before, after, silent, leaders).prop_filter_map(
        "a majority of each is heard",
        |(before, after, silent, (leader, wanted))| {
            let on = |roles: &[Option<bool>], votes: bool| -> Vec<u64> {
                (1..).zip(roles).filter(|(_, r)| **r == Some(votes)).map(|(s, _)| s).collect()
            };
            let is_silent = |store: &u64| silent[*store as usize - 1];
            let old = on(&before, true);
            let new = on(&after, true);
            let heard: Vec<_> = old.iter().copied().filter(|store| !is_silent(store)).collect();
            let has_majority = |voters: &[u64]| {
                voters.iter().filter(|store| !is_silent(store)).count() * 2 > voters.len()
            };
            let is_new = |store: &&u64| !old.contains(store);
            let new_is_silent = new.iter().filter(is_new).any(&is_silent);
            if !has_majority(&old) || !has_majority(&new) || new_is_silent {
                return None;
            }
            let mut record = region_with(&old, &on(&before, false), *leader.get(&heard));
            let down = record.region.peers.iter().filter(|peer| is_silent(&peer.store_id));
            record.down_peers = down
                .map(|peer| proto::pdpb::PeerStats { peer: Some(*peer), down_seconds: 60 })
                .collect();
            let able: Vec<_> = new.iter().copied().filter(|store| !is_silent(store)).collect();
            let roles = (1..).zip(&after).filter_map(|(store, role)| role.map(|r| (store, r)));
            Some(Change {
                before: record,
                after: roles.collect(),
                leader: wanted.map(|wanted| *wanted.get(&able)),
            })
        },
    )
}

proptest! {
    #[test]
    fn several_votes_change_at_once_and_each_half_keeps_its_majority(change in any_change()) {
        let plan = match change.plan(&Policy::default()) {
            Ok(plan) => plan,
            Err(why) => {
                prop_assert_eq!(why, Unbuildable::NothingToDo);
                prop_assert!(change.has_arrived(&change.before));
                return Ok(());
            }
        };
        let mut record = change.before.clone();
        for (number, step) in plan.steps().iter().enumerate() {
            prop_assert!(!step.is_done(&record), "{step} is done before it is ordered");
            prop_assert_eq!(step.obstacle(&record), None, "{}", plan);
            // A leader without a vote would be among what it refuses.
            prop_assert_eq!(obey(&step.order(&record), &mut record), Ok(()), "{}: {}", plan, step);
            prop_assert!(step.is_done(&record));
            prop_assert!(
                has_majorities(&record.region, |peer| change.is_heard(peer)),
                "{} loses its majority by {}", plan, step
            );
            let leader = record.leader.expect("it is always led");
            prop_assert!(change.is_heard(&leader));
            let done = &plan.steps()[..=number];
            let explained: u64 = done.iter().map(|step| step.conf_ver_changed(&record)).sum();
            prop_assert_eq!(record.epoch().conf_ver, 1 + explained, "each step explains itself");
        }
        prop_assert!(change.has_arrived(&record), "{}", plan);
        let count = |is: fn(&Step) -> bool| plan.steps().iter().filter(|step| is(step)).count();
        let joint = usize::from(change.votes_changed() > 1);
        prop_assert_eq!(count(|step| matches!(step, Step::EnterJoint(_))), joint, "{}", plan);
        prop_assert_eq!(count(|step| matches!(step, Step::LeaveJoint(_))), joint, "{}", plan);
        let transfers = count(|step| matches!(step, Step::TransferLeader { .. }));
        prop_assert_eq!(transfers, usize::from(change.moves_leader()), "{}", plan);
    }

    /// Orders are repeated, a store leaves a joint membership by itself, somebody else is elected: a plan that
    /// was begun is carried out, or given up for a reason that has to do with who leads.
    #[test]
    fn a_plan_arrives_though_its_region_does_more_than_it_is_told(
        change in any_change(),
        luck in prop::collection::vec(0..10_u8, 64),
    ) {
        let Ok(plan) = change.plan(&Policy::default()) else { return Ok(()) };
        let mut record = change.before.clone();
        let mut operators = RunningOperators::default();
        let mut moment = Moment::default();
        let story = plan.to_string();
        operators.add(plan, Some(&record), &Policy::default(), moment).unwrap();
        let mut was_elected = false;
        for luck in luck {
            moment.steady_ms += 2_500;
            let order = operators.on_heartbeat(&record, moment);
            if operators.of(record.id()).is_none() {
                break;
            }
            match (luck, order) {
                // The order is lost, and what happens instead:
                (0, _) => {
                    let able = |peer: &&metapb::Peer| is_incoming(peer) && change.is_heard(peer);
                    record.leader = record.region.peers.iter().rev().find(able).copied();
                    was_elected = true;
                }
                (1..=2, _) if is_joint(&record.region) => leave_joint(&change, &mut record),
                (1..=2, _) => {}
                // A leader that is to lose its vote hands over first.
                (_, Some(order)) if order.change_peer_v2.as_ref().is_some_and(is_empty) => {
                    leave_joint(&change, &mut record);
                }
                (_, Some(order)) => {
                    prop_assert_eq!(obey(&order, &mut record), Ok(()), "{}", story);
                    prop_assert!(has_majorities(&record.region, |peer| change.is_heard(peer)));
                }
                (_, None) => {}
            }
        }
        let ended = operators.history().next().map(|finished| finished.status.clone());
        match ended {
            Some(Status::Success) => {
                prop_assert!(was_elected || change.has_arrived(&record), "{}", story);
            }
            Some(Status::Cancel(why)) => {
                prop_assert!(was_elected && why.ends_with("leads"), "{}: {}", story, why);
            }
            // Its luck ran out first.
            None => {}
            Some(other) => return Err(TestCaseError::fail(format!("{story}: {other}"))),
        }
    }
}

fn is_empty(joint: &proto::pdpb::ChangePeerV2) -> bool {
    joint.changes.is_empty()
}

/// As a leader does it, told to or not: one that is to lose its vote hands over first.
fn leave_joint(change: &Change, record: &mut RegionRecord) {
    let keeps_vote = |peer: &&metapb::Peer| is_incoming(peer) && change.is_heard(peer);
    let leader = record.leader_peer().and_then(|leader| peer_by_id(&record.region, leader));
    if leader.filter(keeps_vote).is_none() {
        record.leader = record.region.peers.iter().find(keeps_vote).copied();
    }
    let leave = Step::LeaveJoint(Votes::changing(&record.region));
    obey(&leave.order(record), record).unwrap();
}

fn steps(plan: Result<Operator, Unbuildable>) -> String {
    match plan {
        Ok(plan) => plan.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Err(why) => why.to_string(),
    }
}

#[test]
fn a_replacement_adds_before_it_removes() {
    let record = region(&[1, 2, 3], 1);
    let plan = |policy: &Policy| {
        let builder = Builder::new("test", Purpose::Replica, &record, policy);
        steps(builder.add_peer(StoreId(4), 204).remove_peer(StoreId(3)).build(|_| None))
    };
    assert_eq!(
        plan(&Policy::default()),
        "add learner p204 on s4, enter a joint membership (promote p204 on s4, demote p103 on s3), \
         leave the joint membership, remove peer p103 on s3"
    );
    assert_eq!(
        plan(&one_by_one(true)),
        "add learner p204 on s4, promote learner p204 on s4, remove peer p103 on s3"
    );
    // Who gets a vote at once gets it alone.
    let plan = plan(&Policy { add_as_learner: false, ..Policy::default() });
    assert_eq!(plan, "add peer p204 on s4, remove peer p103 on s3");
}

#[test]
fn a_leader_hands_over_before_it_goes() {
    let record = region(&[1, 2, 3], 1);
    let policy = one_by_one(false);
    let builder = || {
        Builder::new("test", Purpose::Region, &record, &policy)
            .add_peer(StoreId(4), 204)
            .remove_peer(StoreId(1))
    };
    assert_eq!(
        steps(builder().build(|stays| first_voter(&record, stays))),
        "add peer p204 on s4, transfer leader from s1 to s2, remove peer p101 on s1"
    );
    // Nobody who stays can take over: the new peer does.
    assert_eq!(
        steps(builder().build(|_| None)),
        "add peer p204 on s4, transfer leader from s1 to s4, remove peer p101 on s1"
    );
    let nobody = Builder::new("test", Purpose::Region, &record, &policy)
        .remove_peer(StoreId(1))
        .build(|_| None);
    assert_eq!(steps(nobody), "no other peer can take over the lead");
}

#[test]
fn a_leader_hands_over_before_it_loses_its_vote_and_to_a_new_voter_in_between() {
    let policy = Policy::default();
    let record = region(&[1, 2, 3], 1);
    let builder = || {
        Builder::new("test", Purpose::Region, &record, &policy)
            .add_peer(StoreId(4), 204)
            .remove_peer(StoreId(1))
    };
    let enter = "enter a joint membership (promote p204 on s4, demote p101 on s1)";
    assert_eq!(
        steps(builder().build(|stays| first_voter(&record, stays))),
        format!(
            "add learner p204 on s4, transfer leader from s1 to s2, {enter}, \
             leave the joint membership, remove peer p101 on s1"
        )
    );
    assert_eq!(
        steps(builder().build(|_| None)),
        format!(
            "add learner p204 on s4, {enter}, transfer leader from s1 to s4, \
             leave the joint membership, remove peer p101 on s1"
        )
    );
    // A new voter that shall lead beside the old leader takes over when all is calm.
    let plan = Builder::new("test", Purpose::Region, &record, &policy)
        .add_peer(StoreId(4), 204)
        .remove_peer(StoreId(3))
        .leader(StoreId(4))
        .build(|_| None);
    assert_eq!(
        steps(plan),
        "add learner p204 on s4, enter a joint membership (promote p204 on s4, demote p103 on s3), \
         leave the joint membership, transfer leader from s1 to s4, remove peer p103 on s3"
    );
}

#[test]
fn one_vote_is_changed_as_it_always_was() {
    let policy = Policy::default();
    let record = region_with(&[1, 2, 3], &[4, 5], 1);
    let builder = || Builder::new("test", Purpose::Region, &record, &policy);
    for (builder, expected) in [
        (builder().promote(StoreId(4)), "promote learner p104 on s4"),
        (builder().demote(StoreId(3)), "demote voter p103 on s3"),
        (builder().remove_peer(StoreId(3)), "remove peer p103 on s3"),
        (
            builder().add_learner(StoreId(6), 206).remove_peer(StoreId(4)).remove_peer(StoreId(5)),
            "add learner p206 on s6, remove peer p104 on s4, remove peer p105 on s5",
        ),
        (builder().demote(StoreId(1)), "transfer leader from s1 to s2, demote voter p101 on s1"),
        (
            builder().demote(StoreId(2)).promote(StoreId(5)),
            "enter a joint membership (promote p105 on s5, demote p102 on s2), \
             leave the joint membership",
        ),
    ] {
        assert_eq!(steps(builder.build(|stays| first_voter(&record, stays))), expected);
    }
    // It is one already, or has its vote.
    for builder in [builder().demote(StoreId(4)), builder().promote(StoreId(1))] {
        assert_eq!(builder.build(|_| None), Err(Unbuildable::NothingToDo));
    }
}

#[test]
fn impossible_wishes_are_refused() {
    let record = region(&[1], 1);
    let policy = Policy::default();
    let builder = || Builder::new("test", Purpose::Admin, &record, &policy);
    let refused = |builder: Builder<'_>| builder.build(|_| None).unwrap_err();
    assert_eq!(refused(builder()), Unbuildable::NothingToDo);
    assert_eq!(refused(builder().remove_peer(StoreId(1))), Unbuildable::NoVoterLeft);
    assert_eq!(refused(builder().demote(StoreId(1))), Unbuildable::NoVoterLeft);
    let nobody = builder().add_learner(StoreId(2), 9).demote(StoreId(1));
    assert_eq!(refused(nobody), Unbuildable::NoVoterLeft);
    assert_eq!(refused(builder().add_peer(StoreId(1), 9)), Unbuildable::AlreadyThere(StoreId(1)));
    for builder in [builder().remove_peer(StoreId(2)), builder().demote(StoreId(2))] {
        assert_eq!(refused(builder), Unbuildable::NotThere(StoreId(2)));
    }
}
