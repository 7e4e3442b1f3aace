//! How a region follows an order, for tests: what its leader refuses, and how its epoch grows. As stores do it,
//! but at once.

use proto::eraftpb::ConfChangeType::{self, AddLearnerNode, AddNode, RemoveNode};
use proto::metapb::PeerRole::{self, DemotingVoter, IncomingVoter, Learner, Voter};
use proto::region::{is_incoming, is_joint, is_learner, is_outgoing, peer_by_id, peer_on};
use proto::{PeerId, StoreId, metapb, pdpb};

use crate::cluster::RegionRecord;

/// The region does what it is told, or says why not.
pub(crate) fn obey(
    order: &pdpb::RegionHeartbeatResponse,
    record: &mut RegionRecord,
) -> Result<(), &'static str> {
    if order.region_epoch != record.region.region_epoch {
        return Err("the order is for another epoch");
    }
    if order.target_peer.map(|peer| peer.id) != record.leader.map(|leader| leader.id) {
        return Err("the order is for another leader");
    }
    if let Some(transfer) = &order.transfer_leader {
        let to = transfer.peer.and_then(|to| peer_by_id(&record.region, PeerId(to.id)));
        let to = to.filter(|to| is_incoming(to)).ok_or("nobody to lead")?;
        record.leader = Some(*to);
        record.term += 1;
    }
    let one = order.change_peer.iter().map(|change| vec![*change]);
    let several = order.change_peer_v2.iter().map(|v2| v2.changes.clone());
    for changes in one.chain(several) {
        let after = changed(&record.region, &changes)?;
        let leader = record.leader.and_then(|leader| peer_by_id(&after, PeerId(leader.id)));
        let leader = leader.filter(|leader| !is_learner(leader));
        record.leader = Some(*leader.ok_or("the leader would lose its vote")?);
        record.region = after;
    }
    let is_member = |id: u64| peer_by_id(&record.region, PeerId(id)).is_some();
    record.pending_peers.retain(|peer| is_member(peer.id));
    record.down_peers.retain(|down| down.peer.is_some_and(|peer| is_member(peer.id)));
    Ok(())
}

/// Whether this holds for a majority of the voters, in a joint membership for one of each half.
pub(crate) fn has_majorities(
    region: &metapb::Region,
    holds: impl Fn(&metapb::Peer) -> bool,
) -> bool {
    let halves: [fn(&metapb::Peer) -> bool; 2] = [is_incoming, is_outgoing];
    halves.into_iter().all(|votes| {
        let voters: Vec<_> = region.peers.iter().filter(|peer| votes(peer)).collect();
        voters.iter().filter(|peer| holds(peer)).count() * 2 > voters.len()
    })
}

fn changed(
    before: &metapb::Region,
    changes: &[pdpb::ChangePeer],
) -> Result<metapb::Region, &'static str> {
    let mut after = before.clone();
    let mut count = changes.len() as u64;
    match (is_joint(before), changes) {
        (true, []) => {
            for peer in &mut after.peers {
                let role = match peer.role() {
                    IncomingVoter => Voter,
                    DemotingVoter => Learner,
                    Voter | Learner => continue,
                };
                peer.set_role(role);
                count += 1;
            }
        }
        (true, _) => return Err("the joint membership must be left first"),
        (false, []) => return Err("the membership is not joint"),
        (false, [change]) => change_one(&mut after, change, [Voter, Learner])?,
        (false, several) => {
            for change in several {
                change_one(&mut after, change, [IncomingVoter, DemotingVoter])?;
            }
            if !is_joint(&after) {
                return Err("several changes of learners only");
            }
        }
    }
    after.region_epoch.get_or_insert_default().conf_ver += count;
    Ok(after)
}

fn change_one(
    region: &mut metapb::Region,
    change: &pdpb::ChangePeer,
    [voter, demoted]: [PeerRole; 2],
) -> Result<(), &'static str> {
    let peer = change.peer.ok_or("a change names a peer")?;
    let kind: ConfChangeType = change.change_type();
    let Some(at) = region.peers.iter().position(|have| have.id == peer.id) else {
        let role = match kind {
            RemoveNode => return Err("not a member"),
            AddNode => voter,
            AddLearnerNode => Learner,
        };
        if peer_on(region, StoreId(peer.store_id)).is_some() {
            return Err("the store has a peer already");
        }
        region.peers.push(metapb::Peer { role: role.into(), ..peer });
        return Ok(());
    };
    let have = &mut region.peers[at];
    match (kind, is_learner(have)) {
        (RemoveNode, false) if demoted == DemotingVoter => {
            return Err("a voter is demoted before it is removed");
        }
        (RemoveNode, _) => {
            region.peers.remove(at);
        }
        (AddNode, true) => have.set_role(voter),
        (AddLearnerNode, false) => have.set_role(demoted),
        (AddNode, false) => return Err("already a voter"),
        (AddLearnerNode, true) => return Err("already a learner"),
    }
    Ok(())
}
