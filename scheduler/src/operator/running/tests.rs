//! One plan a region: who is let in, what is sent, and how each ends.

use proto::metapb;

use super::*;
use crate::operator::Votes;
use crate::operator::obedience::obey;

fn at(steady_ms: u64) -> Moment {
    Moment { steady_ms, wall_ms: steady_ms }
}

fn region(id: u64, voters: &[u64], leader: u64, conf_ver: u64) -> RegionRecord {
    let peers: Vec<_> = voters
        .iter()
        .map(|&store_id| metapb::Peer { id: 100 * id + store_id, store_id, ..Default::default() })
        .collect();
    RegionRecord {
        leader: peers.iter().find(|peer| peer.store_id == leader).copied(),
        region: metapb::Region {
            id,
            start_key: vec![u8::try_from(id).unwrap()].into(),
            end_key: vec![u8::try_from(id).unwrap() + 1].into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version: 1 }),
            peers,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn transfer(record: &RegionRecord, to: u64) -> Operator {
    let from = record.leader_store().unwrap();
    let steps = vec![Step::TransferLeader { from, to: StoreId(to) }];
    Operator::new("balance-leader", Purpose::Leader, record, steps)
}

fn removal(record: &RegionRecord, store: u64, purpose: Purpose) -> Operator {
    let peer = *record.peer_on(StoreId(store)).unwrap();
    Operator::new("remove-extra-replica", purpose, record, vec![Step::RemovePeer(peer)])
}

fn add(
    operators: &mut RunningOperators,
    plan: Operator,
    record: &RegionRecord,
) -> Result<(), Declined> {
    operators.add(plan, Some(record), &Policy::default(), at(0))
}

fn ended(operators: &RunningOperators) -> &Status {
    &operators.history().next().unwrap().status
}

/// S3.7: a region has one plan at a time.
#[test]
fn a_region_has_one_plan_and_only_a_more_urgent_one_replaces_it() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, transfer(&record, 2), &record).unwrap();
    let again = add(&mut operators, transfer(&record, 3), &record);
    assert_eq!(again, Err(Declined::Busy("balance-leader")));
    add(&mut operators, removal(&record, 3, Purpose::Replica), &record).unwrap();
    assert_eq!(ended(&operators), &Status::Replace);
    add(&mut operators, removal(&record, 2, Purpose::Admin), &record).unwrap();
    assert_eq!(operators.running().count(), 1);
    assert!(operators.cancel(RegionId(1), "enough", at(1)));
    assert!(add(&mut operators, transfer(&record, 2), &record).is_ok());
}

#[test]
fn a_plan_for_a_region_that_has_changed_is_declined() {
    let old = region(1, &[1, 2, 3], 1, 1);
    let new = region(1, &[1, 2, 3], 1, 2);
    let mut operators = RunningOperators::default();
    assert_eq!(add(&mut operators, transfer(&old, 2), &new), Err(Declined::EpochMoved));
    let unknown = operators.add(transfer(&old, 2), None, &Policy::default(), at(0));
    assert_eq!(unknown, Err(Declined::UnknownRegion));
}

/// S3.12: four leaders move at a time, and that holds up nothing else.
#[test]
fn each_purpose_has_its_limit() {
    let mut operators = RunningOperators::default();
    for id in 1..=5 {
        let record = region(id, &[1, 2, 3], 1, 1);
        let added = add(&mut operators, transfer(&record, 2), &record);
        assert_eq!(added, if id == 5 { Err(Declined::Limit(4)) } else { Ok(()) });
    }
    let record = region(9, &[1, 2, 3], 1, 1);
    assert!(add(&mut operators, removal(&record, 3, Purpose::Replica), &record).is_ok());
}

/// S3.7: the order is the answer to a heartbeat, once until the next is due.
#[test]
fn an_order_goes_out_once_and_is_repeated_when_nothing_happens() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, transfer(&record, 2), &record).unwrap();
    let order = operators.on_heartbeat(&record, at(0)).unwrap();
    assert_eq!(order.transfer_leader.unwrap().peer.unwrap().store_id, 2);
    assert_eq!(order.target_peer, record.leader);
    assert_eq!(order.region_epoch, record.region.region_epoch);
    assert_eq!(operators.on_heartbeat(&record, at(1_999)), None, "not yet");
    assert!(operators.on_heartbeat(&record, at(2_000)).is_some());
    // Between heartbeats, the tick repeats it.
    let mut regions = Regions::default();
    regions.offer(record);
    assert_eq!(operators.tick(&regions, at(3_999)), []);
    assert_eq!(operators.tick(&regions, at(4_000)).len(), 1);
}

/// S3.7: a heartbeat that shows a step done is answered with the next one.
#[test]
fn a_step_is_done_when_a_heartbeat_shows_it() {
    let record = region(1, &[1, 2, 3, 4], 1, 1);
    let mut operators = RunningOperators::default();
    let peer = *record.peer_on(StoreId(1)).unwrap();
    let steps =
        vec![Step::TransferLeader { from: StoreId(1), to: StoreId(2) }, Step::RemovePeer(peer)];
    let plan = Operator::new("remove-extra-replica", Purpose::Replica, &record, steps);
    assert_eq!(plan.kind(), "replica,leader,region");
    add(&mut operators, plan, &record).unwrap();
    operators.on_heartbeat(&record, at(0)).unwrap();
    let led_by_2 = region(1, &[1, 2, 3, 4], 2, 1);
    let order = operators.on_heartbeat(&led_by_2, at(1)).unwrap();
    assert_eq!(order.change_peer.unwrap().peer.unwrap().store_id, 1);
    assert_eq!(operators.on_heartbeat(&region(1, &[2, 3, 4], 2, 2), at(2)), None);
    assert_eq!(ended(&operators), &Status::Success);
    let status = operators.status(RegionId(1), at(3)).unwrap();
    assert_eq!(status.status(), pdpb::OperatorStatus::Success);
    assert_eq!(status.desc, "remove-extra-replica");
    assert!(operators.status(RegionId(1), at(REPORTED_FOR_MS + 3)).is_none());
    assert!(operators.status(RegionId(2), at(3)).is_none());
}

#[test]
fn a_peer_that_catches_up_holds_the_plan() {
    let record = region(1, &[1, 2], 1, 1);
    let learner = metapb::Peer { id: 103, store_id: 3, role: 1, ..Default::default() };
    let steps = vec![Step::AddPeer(learner), Step::PromoteLearner(learner)];
    let mut operators = RunningOperators::default();
    let plan = Operator::new("make-up-replica", Purpose::Replica, &record, steps);
    add(&mut operators, plan, &record).unwrap();
    let order = operators.on_heartbeat(&record, at(0)).unwrap().change_peer.unwrap();
    assert_eq!(order.change_type(), proto::eraftpb::ConfChangeType::AddLearnerNode);
    let mut added = region(1, &[1, 2], 1, 2);
    added.region.peers.push(learner);
    added.pending_peers.push(learner);
    assert_eq!(operators.on_heartbeat(&added, at(1)), None, "it catches up");
    added.pending_peers.clear();
    let order = operators.on_heartbeat(&added, at(2)).unwrap().change_peer.unwrap();
    assert_eq!(order.change_type(), proto::eraftpb::ConfChangeType::AddNode);
    assert_eq!(order.peer.unwrap().role(), metapb::PeerRole::Voter);
}

#[test]
fn a_change_that_the_plan_does_not_explain_ends_it() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, transfer(&record, 2), &record).unwrap();
    assert_eq!(operators.on_heartbeat(&region(1, &[1, 2, 4], 1, 3), at(1)), None);
    assert!(matches!(ended(&operators), Status::Cancel(_)));
}

#[test]
fn a_step_that_has_become_unsafe_is_not_ordered() {
    // The leader moved onto the peer that was to be removed.
    let record = region(1, &[1, 2, 3, 4], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, removal(&record, 4, Purpose::Replica), &record).unwrap();
    assert_eq!(operators.on_heartbeat(&region(1, &[1, 2, 3, 4], 4, 1), at(1)), None);
    assert_eq!(ended(&operators), &Status::Cancel("p104 leads".into()));
    // Nobody hears two of the three that would remain.
    let mut silent = region(1, &[1, 2, 3, 4], 1, 1);
    let down = |peer: metapb::Peer| pdpb::PeerStats { peer: Some(peer), down_seconds: 60 };
    silent.down_peers = vec![down(silent.region.peers[1]), down(silent.region.peers[2])];
    add(&mut operators, removal(&record, 4, Purpose::Replica), &record).unwrap();
    assert_eq!(operators.on_heartbeat(&silent, at(1)), None);
    assert!(matches!(ended(&operators), Status::Cancel(_)));
    // A new leader knows of nobody yet how far he is: that is no reason to give up, …
    let mut sick = region(1, &[1, 2, 3, 4], 1, 1);
    sick.pending_peers = vec![sick.region.peers[1], sick.region.peers[2]];
    add(&mut operators, removal(&record, 4, Purpose::Replica), &record).unwrap();
    assert!(operators.on_heartbeat(&sick, at(1)).is_some());
    operators = RunningOperators::default();
    // … but one not to begin.
    let declined = add(&mut operators, removal(&sick, 4, Purpose::Replica), &sick);
    assert!(matches!(declined, Err(Declined::Obstacle(_))), "{declined:?}");
    // But the sick one itself may go.
    sick.pending_peers = vec![sick.region.peers[3]];
    assert!(add(&mut operators, removal(&sick, 4, Purpose::Replica), &sick).is_ok());
}

/// The region gets a peer on store 4, whose vote takes the place of that on store 3.
fn joint_move(record: &RegionRecord) -> Operator {
    let learner = metapb::Peer { id: 104, store_id: 4, role: 1, ..Default::default() };
    let gone = *record.peer_on(StoreId(3)).unwrap();
    let votes = Votes { promoted: vec![learner], demoted: vec![gone] };
    let steps = vec![
        Step::AddPeer(learner),
        Step::EnterJoint(votes.clone()),
        Step::LeaveJoint(votes),
        Step::RemovePeer(gone),
    ];
    Operator::new("balance-region", Purpose::Region, record, steps)
}

fn obeyed(order: &pdpb::RegionHeartbeatResponse, record: &RegionRecord) -> RegionRecord {
    let mut record = record.clone();
    obey(order, &mut record).unwrap();
    record
}

#[test]
fn a_joint_membership_is_entered_and_left_by_order() {
    use proto::eraftpb::ConfChangeType::{AddLearnerNode, AddNode};
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, joint_move(&record), &record).unwrap();
    let order = operators.on_heartbeat(&record, at(0)).unwrap();
    let added = obeyed(&order, &record);
    let order = operators.on_heartbeat(&added, at(1)).unwrap();
    let changes = &order.change_peer_v2.as_ref().unwrap().changes;
    let changes: Vec<_> =
        changes.iter().map(|c| (c.peer.unwrap().store_id, c.change_type())).collect();
    assert_eq!(changes, [(4, AddNode), (3, AddLearnerNode)]);
    assert_eq!(operators.on_heartbeat(&added, at(2_000)), None, "not yet");
    assert_eq!(operators.on_heartbeat(&added, at(2_001)), Some(order.clone()), "it was lost");
    let joint = obeyed(&order, &added);
    assert_eq!(joint.epoch().conf_ver, 4);
    let order = operators.on_heartbeat(&joint, at(2_002)).unwrap();
    assert_eq!(order.change_peer_v2, Some(pdpb::ChangePeerV2::default()));
    // What the plan still has to do, and how long each step may take.
    let influence = &operators.influence()[&StoreId(3)];
    assert_eq!((influence.regions, operators.influence().len()), (-1, 1));
    let order = operators.on_heartbeat(&obeyed(&order, &joint), at(2_003)).unwrap();
    assert_eq!(order.change_peer.unwrap().peer.unwrap().store_id, 3);
    // The way in took too long.
    operators = RunningOperators::default();
    add(&mut operators, joint_move(&record), &record).unwrap();
    operators.on_heartbeat(&added, at(0)).unwrap();
    assert!(operators.on_heartbeat(&added, at(59_999)).is_some());
    assert_eq!(operators.on_heartbeat(&added, at(60_000)), None);
    assert_eq!(ended(&operators), &Status::Timeout);
}

#[test]
fn a_joint_membership_that_was_left_before_it_was_seen_is_explained() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, joint_move(&record), &record).unwrap();
    let added = obeyed(&operators.on_heartbeat(&record, at(0)).unwrap(), &record);
    let joint = obeyed(&operators.on_heartbeat(&added, at(1)).unwrap(), &added);
    let leave = Step::LeaveJoint(Votes::changing(&joint.region));
    let left = obeyed(&leave.order(&joint), &joint);
    let order = operators.on_heartbeat(&left, at(2)).unwrap();
    let done = obeyed(&order, &left);
    assert_eq!(voters_of(&done), [1, 2, 4]);
    assert_eq!(operators.on_heartbeat(&done, at(3)), None);
    assert_eq!(ended(&operators), &Status::Success);
}

fn voters_of(record: &RegionRecord) -> Vec<u64> {
    record.voters().map(|voter| voter.store_id).collect()
}

#[test]
fn no_joint_membership_is_entered_that_could_not_elect_or_in_another() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, joint_move(&record), &record).unwrap();
    let added = obeyed(&operators.on_heartbeat(&record, at(0)).unwrap(), &record);
    let down = |peer: metapb::Peer| pdpb::PeerStats { peer: Some(peer), down_seconds: 60 };
    // Of the three voters that there would be, only one is heard.
    let mut silent = added.clone();
    silent.down_peers = vec![down(silent.region.peers[1]), down(silent.region.peers[3])];
    assert_eq!(operators.on_heartbeat(&silent, at(1)), None);
    let why = "only 1 of the 3 voters that there would be are heard";
    assert_eq!(ended(&operators), &Status::Cancel(why.into()));
    // Who goes may be silent.
    operators = RunningOperators::default();
    add(&mut operators, joint_move(&record), &record).unwrap();
    let mut silent = added.clone();
    silent.down_peers = vec![down(silent.region.peers[2])];
    assert!(operators.on_heartbeat(&silent, at(1)).is_some());
    // A plan does not begin with what the peers that are behind would decide, …
    let mut behind = added.clone();
    behind.pending_peers = vec![behind.region.peers[1], behind.region.peers[3]];
    let joint_move = joint_move(&record);
    let enter = joint_move.steps()[1].clone();
    assert_eq!(enter.obstacle(&behind), None);
    let why = "only 1 of the 3 voters that there would be are healthy";
    assert_eq!(enter.obstacle_to_begin(&behind), Some(why.into()));
    // … nor in the joint membership that somebody else began. Only the way out is open there.
    let mut joint = added.clone();
    joint.region.peers[1].set_role(metapb::PeerRole::DemotingVoter);
    for step in joint_move.steps() {
        let is_way_out = matches!(step, Step::LeaveJoint(_));
        assert_eq!(step.obstacle(&joint).is_none(), is_way_out, "{step}");
    }
    let transfer = Step::TransferLeader { from: StoreId(1), to: StoreId(2) };
    let why = "the peer on s2 is about to lose its vote";
    assert_eq!(transfer.obstacle(&joint), Some(why.into()));
}

#[test]
fn a_plan_that_takes_too_long_times_out() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    add(&mut operators, transfer(&record, 2), &record).unwrap();
    assert!(operators.on_heartbeat(&record, at(59_999)).is_some());
    assert_eq!(operators.on_heartbeat(&record, at(60_000)), None);
    assert_eq!(ended(&operators), &Status::Timeout);
    // A region that is gone takes its plan with it.
    add(&mut operators, transfer(&record, 2), &record).unwrap();
    operators.tick(&Regions::default(), at(1));
    assert!(matches!(ended(&operators), Status::Cancel(_)));
}

#[test]
fn a_plan_that_nobody_can_be_told_of_expires() {
    let led = region(1, &[1, 2, 3], 1, 1);
    let leaderless = RegionRecord { leader: None, ..led.clone() };
    let mut operators = RunningOperators::default();
    add(&mut operators, transfer(&led, 2), &led).unwrap();
    assert_eq!(operators.on_heartbeat(&leaderless, at(EXPIRES_AFTER_MS - 1)), None);
    assert_eq!(operators.running().count(), 1);
    operators.on_heartbeat(&leaderless, at(EXPIRES_AFTER_MS));
    assert_eq!(ended(&operators), &Status::Expired);
    assert_eq!(ended(&operators).to_string(), "EXPIRED");
    // One that has begun goes on.
    add(&mut operators, transfer(&led, 2), &led).unwrap();
    assert!(operators.on_heartbeat(&led, at(0)).is_some());
    operators.on_heartbeat(&leaderless, at(EXPIRES_AFTER_MS));
    assert_eq!(operators.running().count(), 1);
}

/// S3.9: fifteen regions a minute come to a store, and as many go: the next one waits four seconds.
#[test]
fn s3_9_a_store_gets_and_loses_only_so_many_peers_a_minute() {
    let move_to_4 = |id: u64| {
        let mut record = region(id, &[1, 2, 3], 1, 1);
        record.approximate_bytes = 96 << 20;
        let new = metapb::Peer { id: 104, store_id: 4, ..Default::default() };
        let gone = record.region.peers[2];
        let steps = vec![Step::AddPeer(new), Step::RemovePeer(gone)];
        let plan = Operator::new("balance-region", Purpose::Region, &record, steps);
        (record, plan)
    };
    let mut operators = RunningOperators::default();
    let (record, plan) = move_to_4(1);
    add(&mut operators, plan, &record).unwrap();
    let (record, plan) = move_to_4(2);
    let declined = add(&mut operators, plan.clone(), &record);
    assert_eq!(declined, Err(Declined::StoreLimit(StoreId(4), Direction::AddPeer)));
    // Four seconds bring what one region costs, at fifteen a minute.
    let policy = Policy::default();
    assert!(operators.add(plan, Some(&record), &policy, at(3_999)).is_err());
    let (record, plan) = move_to_4(2);
    operators.add(plan, Some(&record), &policy, at(4_000)).unwrap();
    // An administrator does not wait, nor does what flees from a store that leaves.
    let (record, mut plan) = move_to_4(3);
    plan.purpose = Purpose::Admin;
    operators.add(plan, Some(&record), &policy, at(4_000)).unwrap();
    let (record, plan) = move_to_4(4);
    let removal = Step::RemovePeer(record.region.peers[2]);
    let mut flight = Operator::new("offline", Purpose::Replica, &record, vec![removal]);
    let declined = operators.add(flight.clone(), Some(&record), &policy, at(4_000));
    assert_eq!(declined, Err(Declined::StoreLimit(StoreId(3), Direction::RemovePeer)));
    flight.freed_stores = vec![StoreId(3)];
    operators.add(flight, Some(&record), &policy, at(4_000)).unwrap();
    let skipping = Operator { skips_store_limits: true, ..plan };
    operators.cancel(RegionId(4), "make room", at(4_000));
    operators.add(skipping, Some(&record), &policy, at(4_000)).unwrap();
}

#[test]
fn a_region_that_is_being_split_may_be_out_of_sight_for_a_while() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let policy = pdpb::CheckPolicy::Usekey;
    let steps = vec![Step::Split { keys: vec!["m".into()], policy, version: 1 }];
    let plan = Operator::new("split-region", Purpose::Split, &record, steps);
    let mut operators = RunningOperators::default();
    add(&mut operators, plan.clone(), &record).unwrap();
    // A new part was heard first.
    operators.tick(&Regions::default(), at(59_999));
    assert_eq!(operators.running().count(), 1);
    let mut part = region(1, &[1, 2, 3], 1, 1);
    part.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 2 });
    assert_eq!(operators.on_heartbeat(&part, at(59_999)), None);
    assert_eq!(ended(&operators), &Status::Success);
    add(&mut operators, plan, &record).unwrap();
    operators.tick(&Regions::default(), at(60_000));
    assert_eq!(ended(&operators), &Status::Cancel("the region is gone".into()));
}

#[test]
fn the_history_has_an_end() {
    let record = region(1, &[1, 2, 3], 1, 1);
    let mut operators = RunningOperators::default();
    for _ in 0..HISTORY_MAX + 10 {
        add(&mut operators, transfer(&record, 2), &record).unwrap();
        operators.cancel(RegionId(1), "again", at(0));
    }
    assert_eq!(operators.history().count(), HISTORY_MAX);
}

#[test]
fn influence_counts_what_is_still_to_come() {
    let mut record = region(1, &[1, 2, 3], 1, 1);
    record.approximate_bytes = 10 << 20;
    let new = metapb::Peer { id: 104, store_id: 4, ..Default::default() };
    let steps = vec![
        Step::AddPeer(new),
        Step::TransferLeader { from: StoreId(1), to: StoreId(4) },
        Step::RemovePeer(record.region.peers[0]),
    ];
    let mut operators = RunningOperators::default();
    let plan = Operator::new("balance-region", Purpose::Region, &record, steps);
    add(&mut operators, plan, &record).unwrap();
    let expected =
        Influence { regions: 1, size_mib: 10, leaders: 1, leader_size_mib: 10, adding: 1 };
    assert_eq!(operators.influence()[&StoreId(4)], expected);
    let expected =
        Influence { regions: -1, size_mib: -10, leaders: -1, leader_size_mib: -10, adding: 0 };
    assert_eq!(operators.influence()[&StoreId(1)], expected);
    // The new peer is there and leads: what is left is the removal.
    record.region.peers.push(new);
    record.leader = Some(new);
    record.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 2, version: 1 });
    operators.on_heartbeat(&record, at(1));
    let expected = Influence { regions: -1, size_mib: -10, ..Influence::default() };
    assert_eq!(operators.influence().iter().collect::<Vec<_>>(), [(&StoreId(1), &expected)]);
    operators.cancel(RegionId(1), "enough", at(2));
    assert!(operators.influence().is_empty());
}
