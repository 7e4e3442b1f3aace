//! Plans carried out step by step on a region, with everything that must hold in between.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::PeerId;
use proto::region::peer_by_id;

use super::*;

fn region(voters: &[u64], leader: u64) -> RegionRecord {
    let peers: Vec<_> = voters
        .iter()
        .map(|&store_id| metapb::Peer { id: 100 + store_id, store_id, ..Default::default() })
        .collect();
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

/// As a store would carry it out.
fn carry_out(step: &Step, record: &mut RegionRecord) {
    let mut conf_ver = record.epoch().conf_ver;
    match step {
        Step::AddPeer(peer) => {
            record.region.peers.push(*peer);
            conf_ver += 1;
        }
        Step::PromoteLearner(peer) => {
            let learner = record.region.peers.iter_mut().find(|have| have.id == peer.id).unwrap();
            learner.set_role(metapb::PeerRole::Voter);
            conf_ver += 1;
        }
        Step::RemovePeer(peer) => {
            record.region.peers.retain(|have| have.id != peer.id);
            conf_ver += 1;
        }
        Step::TransferLeader { to, .. } => record.leader = record.peer_on(*to).copied(),
        Step::LeaveJoint { .. } | Step::Split { .. } => {}
    }
    record.region.region_epoch = Some(metapb::RegionEpoch { conf_ver, version: 1 });
}

fn voters(record: &RegionRecord) -> BTreeSet<u64> {
    record.voters().map(|peer| peer.store_id).collect()
}

fn first_voter(record: &RegionRecord, stays: &dyn Fn(StoreId) -> bool) -> Option<StoreId> {
    record.voters().map(|peer| StoreId(peer.store_id)).find(|&store| stays(store))
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
        let mut builder = Builder::new("test", Purpose::Admin, &start, as_learner);
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
            carry_out(step, &mut record);
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

fn steps(plan: Result<Operator, Unbuildable>) -> String {
    match plan {
        Ok(plan) => plan.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Err(why) => why.to_string(),
    }
}

#[test]
fn a_replacement_adds_before_it_removes() {
    let record = region(&[1, 2, 3], 1);
    let plan = Builder::new("test", Purpose::Replica, &record, true)
        .add_peer(StoreId(4), 204)
        .remove_peer(StoreId(3))
        .build(|_| None);
    assert_eq!(
        steps(plan),
        "add learner p204 on s4, promote learner p204 on s4, remove peer p103 on s3"
    );
}

#[test]
fn a_leader_hands_over_before_it_goes() {
    let record = region(&[1, 2, 3], 1);
    let builder = || {
        Builder::new("test", Purpose::Region, &record, false)
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
    let nobody = Builder::new("test", Purpose::Region, &record, false)
        .remove_peer(StoreId(1))
        .build(|_| None);
    assert_eq!(steps(nobody), "no other peer can take over the lead");
}

#[test]
fn impossible_wishes_are_refused() {
    let record = region(&[1], 1);
    let builder = || Builder::new("test", Purpose::Admin, &record, true);
    assert_eq!(builder().build(|_| None), Err(Unbuildable::NothingToDo));
    assert_eq!(builder().remove_peer(StoreId(1)).build(|_| None), Err(Unbuildable::NoVoterLeft));
    assert_eq!(
        builder().add_peer(StoreId(1), 9).build(|_| None),
        Err(Unbuildable::AlreadyThere(StoreId(1)))
    );
    assert_eq!(
        builder().remove_peer(StoreId(2)).build(|_| None),
        Err(Unbuildable::NotThere(StoreId(2)))
    );
}
