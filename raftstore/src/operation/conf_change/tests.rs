use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
use metapb::PeerRole::{self, DemotingVoter, IncomingVoter, Learner, Voter};
use proptest::prelude::*;
use proto::RegionId;
use raft::eraftpb::ConfState;

use super::*;
use crate::config::Config;
use crate::engine::memory::MemoryLog;
use crate::group::{Group, GroupSettings};
use crate::storage::group_log::GroupLog;
use crate::storage::{FIRST_POSITION, conf_state_of};

fn peer(id: u64, store_id: u64, role: PeerRole) -> metapb::Peer {
    metapb::Peer { id, store_id, role: role.into(), ..Default::default() }
}

/// Peers 1, 2, … on the stores of the same numbers.
fn region(roles: &[PeerRole]) -> metapb::Region {
    metapb::Region {
        id: 1,
        region_epoch: Some(region::FIRST_EPOCH),
        peers: (1..).zip(roles).map(|(id, role)| peer(id, id, *role)).collect(),
        ..Default::default()
    }
}

fn apply(
    roles: &[PeerRole],
    changes: &[(ConfChangeType, u64, u64)],
) -> Result<String, &'static str> {
    let change = |(kind, id, store): &(ConfChangeType, u64, u64)| Change {
        kind: *kind,
        peer: peer(*id, *store, Voter),
    };
    let changes: Vec<_> = changes.iter().map(change).collect();
    changed(&region(roles), &changes).map(|after| region::Readable(&after).to_string())
}

/// Roles before, changes, and why they are refused.
type Refused<'a> = (&'a [PeerRole], &'a [(ConfChangeType, u64, u64)], &'a str);

/// S0.39, S4.8: conf_ver counts the member that a change concerns; what changes nothing is refused.
#[test]
fn one_change_is_made_at_once() {
    let before = [Voter, Learner, Voter];
    let cases = [
        ((AddNode, 4, 4), Ok("r1 [-inf,+inf) v1.c2 p1@s1 p2@s2(learner) p3@s3 p4@s4")),
        (
            (AddLearnerNode, 4, 4),
            Ok("r1 [-inf,+inf) v1.c2 p1@s1 p2@s2(learner) p3@s3 p4@s4(learner)"),
        ),
        ((AddNode, 2, 2), Ok("r1 [-inf,+inf) v1.c2 p1@s1 p2@s2 p3@s3")),
        ((AddLearnerNode, 1, 1), Ok("r1 [-inf,+inf) v1.c2 p1@s1(learner) p2@s2(learner) p3@s3")),
        ((RemoveNode, 2, 2), Ok("r1 [-inf,+inf) v1.c2 p1@s1 p3@s3")),
        ((RemoveNode, 1, 1), Ok("r1 [-inf,+inf) v1.c2 p2@s2(learner) p3@s3")),
        ((AddNode, 1, 1), Err("already a voter")),
        ((AddLearnerNode, 2, 2), Err("already a learner")),
        ((AddNode, 2, 3), Err("the peer is on another store")),
        ((RemoveNode, 2, 3), Err("the peer is on another store")),
        ((AddNode, 4, 2), Err("the store has a peer already")),
        ((RemoveNode, 9, 9), Err("not a member")),
        ((AddNode, 0, 9), Err("an incomplete peer")),
    ];
    for (change, wanted) in cases {
        assert_eq!(apply(&before, &[change]), wanted.map(str::to_owned), "{change:?}");
    }
    for kind in [RemoveNode, AddLearnerNode] {
        assert_eq!(apply(&[Voter, Learner], &[(kind, 1, 1)]), Err("no voter would be left"));
    }
}

/// S0.39: conf_ver counts each member that changes.
#[test]
fn several_changes_lead_into_a_joint_membership_and_none_leads_out() {
    let before = [Voter, Voter, Learner];
    let replace = [(AddNode, 3, 3), (AddLearnerNode, 1, 1)];
    let joint = "r1 [-inf,+inf) v1.c3 p1@s1(demoting) p2@s2 p3@s3(incoming)";
    assert_eq!(apply(&before, &replace), Ok(joint.into()));
    let halves = [DemotingVoter, Voter, IncomingVoter];
    let left = "r1 [-inf,+inf) v1.c3 p1@s1(learner) p2@s2 p3@s3";
    assert_eq!(apply(&halves, &[]), Ok(left.into()));
    let new = [(AddNode, 4, 4), (RemoveNode, 3, 3)];
    assert_eq!(apply(&before, &new), Ok("r1 [-inf,+inf) v1.c3 p1@s1 p2@s2 p4@s4(incoming)".into()));
    let refused: [Refused<'_>; 7] = [
        (&before, &[], "the membership is not joint"),
        (&halves, &[(AddNode, 4, 4)], "the joint membership must be left first"),
        (&halves, &replace, "the joint membership must be left first"),
        (
            &before,
            &[(AddNode, 3, 3), (RemoveNode, 1, 1)],
            "a voter is demoted before it is removed",
        ),
        (&before, &[(AddNode, 3, 3), (RemoveNode, 3, 3)], "a member is changed twice at once"),
        (
            &before,
            &[(RemoveNode, 3, 3), (AddLearnerNode, 4, 4)],
            "several changes that concern learners only",
        ),
        (&before, &[(AddLearnerNode, 1, 1), (AddLearnerNode, 2, 2)], "no voter would be left"),
    ];
    for (roles, changes, why) in refused {
        assert_eq!(apply(roles, changes), Err(why), "{changes:?}");
    }
}

fn sorted(mut members: ConfState) -> ConfState {
    for ids in [
        &mut members.voters,
        &mut members.learners,
        &mut members.voters_outgoing,
        &mut members.learners_next,
    ] {
        ids.sort_unstable();
    }
    members
}

fn any_role() -> impl Strategy<Value = PeerRole> {
    prop_oneof![
        4 => Just(Voter),
        2 => Just(Learner),
        1 => Just(IncomingVoter),
        1 => Just(DemotingVoter),
    ]
}

fn any_change() -> impl Strategy<Value = (ConfChangeType, u64, u64)> {
    let kind = prop_oneof![Just(AddNode), Just(AddLearnerNode), Just(RemoveNode)];
    // Mostly the peer and the store belong together.
    (kind, 0..8u64, prop_oneof![9 => Just(None), 1 => (0..8u64).prop_map(Some)])
        .prop_map(|(kind, id, store)| (kind, id, store.unwrap_or(id)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// From any membership any change is taken or refused; what is taken raft takes too, and both agree on
    /// who votes afterwards, also when it is read back from the region.
    #[test]
    fn bug_r8_every_change_from_every_membership_is_taken_or_refused_and_raft_agrees(
        roles in prop::collection::vec(any_role(), 1..6),
        ordered in prop::collection::vec(any_change(), 0..4),
    ) {
        let before = region(&roles);
        prop_assume!(before.peers.iter().any(is_incoming) && before.peers.iter().any(is_outgoing));
        let changes: Vec<Change> = ordered
            .iter()
            .map(|(kind, id, store)| Change { kind: *kind, peer: peer(*id, *store, Voter) })
            .collect();
        let log = GroupLog::open(
            MemoryLog::new(), RegionId(1), conf_state_of(&before), FIRST_POSITION, 1 << 20,
        ).unwrap();
        let settings = GroupSettings::from(&Config::default());
        let mut group = Group::new(PeerId(1), log, FIRST_POSITION.index, &settings).unwrap();
        if let Ok(after) = changed(&before, &changes) {
            let entry = entry_of(region::epoch(&before), &changes);
            group.apply_conf_change_v2(&entry).unwrap();
            prop_assert_eq!(sorted(group.members().clone()), sorted(conf_state_of(&after)));
            let grown = region::epoch(&after).conf_ver - region::epoch(&before).conf_ver;
            prop_assert!(grown > 0);
            // Whoever joins a region by this description, or restarts from it, votes the same.
            let log = GroupLog::open(
                MemoryLog::new(), RegionId(1), conf_state_of(&after), FIRST_POSITION, 1 << 20,
            ).unwrap();
            let again = Group::new(PeerId(1), log, FIRST_POSITION.index, &settings).unwrap();
            prop_assert_eq!(again.voters(), group.voters());
        }
    }
}
