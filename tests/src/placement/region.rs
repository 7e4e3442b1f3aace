//! One region: what its leader says of it, and how it follows an order.

use std::collections::BTreeSet;

use proto::eraftpb::ConfChangeType;
use proto::region::{epoch, is_incoming, is_learner, is_outgoing};
use proto::{metapb, pdpb};

/// A region, all of which is in what its leader says.
#[derive(Clone, Debug)]
pub struct Region {
    /// The next heartbeat.
    pub said: pdpb::RegionHeartbeatRequest,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// It was for another epoch or another leader, or it is done already: a real region drops it.
    Dropped,
    /// A new peer is there and has to catch up.
    PeerAdded(metapb::Peer),
    /// Another peer leads.
    LeaderMoved,
    /// A peer is gone.
    PeerRemoved(metapb::Peer),
    /// Votes were given or taken; no data moves.
    RolesChanged,
    /// It is something that no region here does.
    Unheard,
}

impl Region {
    /// A region whose first peer leads.
    pub fn new(region: metapb::Region, size_bytes: u64) -> Self {
        let said = pdpb::RegionHeartbeatRequest {
            leader: region.peers.first().copied(),
            region: Some(region),
            term: 6,
            approximate_size: size_bytes,
            approximate_keys: size_bytes / 100,
            ..Default::default()
        };
        Self { said }
    }

    /// Its description.
    pub fn region(&self) -> &metapb::Region {
        self.said.region.as_ref().expect("a region has a description")
    }

    fn region_mut(&mut self) -> &mut metapb::Region {
        self.said.region.as_mut().expect("a region has a description")
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.region().id
    }

    /// Who leads.
    pub fn leader(&self) -> metapb::Peer {
        self.said.leader.expect("a region has a leader")
    }

    /// Its peers with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &metapb::Peer> {
        self.region().peers.iter().filter(|peer| !is_learner(peer))
    }

    /// Whether the peer is catching up.
    pub fn is_pending(&self, peer: &metapb::Peer) -> bool {
        self.said.pending_peers.iter().any(|pending| pending.id == peer.id)
    }

    /// Whether more than half of its voters are on these stores and up to date; in a joint membership of
    /// either half.
    pub fn has_quorum(&self, alive: &BTreeSet<u64>) -> bool {
        let good = |peer: &&metapb::Peer| alive.contains(&peer.store_id) && !self.is_pending(peer);
        let halves: [fn(&metapb::Peer) -> bool; 2] = [is_incoming, is_outgoing];
        halves.into_iter().all(|votes| {
            let voters: Vec<_> = self.voters().filter(|peer| votes(peer)).collect();
            voters.iter().copied().filter(good).count() * 2 > voters.len()
        })
    }

    /// Follows an order.
    pub fn obey(&mut self, order: &pdpb::RegionHeartbeatResponse) -> Obeyed {
        let is_for_leader = order.target_peer.is_some_and(|peer| peer.id == self.leader().id);
        if !is_for_leader || order.region_epoch != self.region().region_epoch {
            return Obeyed::Dropped;
        }
        if let Some(change) = &order.change_peer {
            let Some(peer) = change.peer else { return Obeyed::Unheard };
            return self.change(peer, change.change_type());
        }
        if let Some(changes) = &order.change_peer_v2 {
            return self.change_several(&changes.changes);
        }
        if let Some(transfer) = &order.transfer_leader {
            return self.hand_over(transfer);
        }
        Obeyed::Unheard
    }

    fn hand_over(&mut self, transfer: &pdpb::TransferLeader) -> Obeyed {
        let wanted = transfer.peers.iter().chain(transfer.peer.as_ref());
        let able = |peer: &&metapb::Peer| {
            let voter = self.voters().find(|voter| voter.id == peer.id);
            voter.is_some_and(is_incoming) && !self.is_pending(peer)
        };
        let to = wanted.filter(able).map(|peer| peer.id).next();
        let to = to.and_then(|id| self.voters().find(|voter| voter.id == id)).copied();
        match to {
            Some(to) if to.id != self.leader().id => self.lead(to),
            Some(_) | None => Obeyed::Dropped,
        }
    }

    fn lead(&mut self, to: metapb::Peer) -> Obeyed {
        self.said.leader = Some(to);
        self.said.term += 1;
        Obeyed::LeaderMoved
    }

    fn change(&mut self, peer: metapb::Peer, kind: ConfChangeType) -> Obeyed {
        let known = self.region().peers.iter().find(|have| have.id == peer.id).copied();
        let obeyed = match (kind, known) {
            // The leader does not remove itself.
            (ConfChangeType::RemoveNode, Some(known)) if known.id == self.leader().id => {
                return Obeyed::Dropped;
            }
            (ConfChangeType::RemoveNode, Some(known)) => {
                self.region_mut().peers.retain(|have| have.id != known.id);
                self.forget(known.id);
                Obeyed::PeerRemoved(known)
            }
            (ConfChangeType::RemoveNode, None) => return Obeyed::Dropped,
            // Said again while the peer catches up: a store refuses to make it what it is.
            (ConfChangeType::AddNode, Some(known)) if known.role() == metapb::PeerRole::Voter => {
                return Obeyed::Dropped;
            }
            (ConfChangeType::AddLearnerNode, Some(known)) if is_learner(&known) => {
                return Obeyed::Dropped;
            }
            (ConfChangeType::AddNode, Some(known)) => {
                self.set_role(known.id, metapb::PeerRole::Voter);
                Obeyed::RolesChanged
            }
            (ConfChangeType::AddLearnerNode, Some(known)) => {
                self.set_role(known.id, metapb::PeerRole::Learner);
                Obeyed::RolesChanged
            }
            (ConfChangeType::AddNode | ConfChangeType::AddLearnerNode, None) => {
                self.add(peer, kind == ConfChangeType::AddLearnerNode)
            }
        };
        self.conf_ver_grows(1);
        obeyed
    }

    /// Several at once are a joint membership, which an empty change leaves.
    fn change_several(&mut self, changes: &[pdpb::ChangePeer]) -> Obeyed {
        use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
        if changes.is_empty() {
            // A leader that is to lose its vote hands over first, and is told again.
            if !is_incoming(&self.leader()) {
                let able = |peer: &&metapb::Peer| is_incoming(peer) && !self.is_pending(peer);
                let heir = self.voters().find(able).copied();
                return heir.map_or(Obeyed::Dropped, |heir| self.lead(heir));
            }
            let joint: Vec<_> = self.region().peers.clone();
            let mut left = 0;
            for peer in joint {
                let role = match peer.role() {
                    IncomingVoter => Voter,
                    DemotingVoter => Learner,
                    Voter | Learner => continue,
                };
                self.set_role(peer.id, role);
                left += 1;
            }
            self.conf_ver_grows(left);
            return if left == 0 { Obeyed::Dropped } else { Obeyed::RolesChanged };
        }
        let mut obeyed = Obeyed::RolesChanged;
        for change in changes {
            let Some(peer) = change.peer else { return Obeyed::Unheard };
            let is_known = self.region().peers.iter().any(|have| have.id == peer.id);
            match (change.change_type(), is_known) {
                (ConfChangeType::AddNode, true) => self.set_role(peer.id, IncomingVoter),
                (ConfChangeType::AddLearnerNode, true) => self.set_role(peer.id, DemotingVoter),
                (ConfChangeType::AddLearnerNode, false) => obeyed = self.add(peer, true),
                (ConfChangeType::AddNode, false) => {
                    obeyed = self.add(peer, false);
                    self.set_role(peer.id, IncomingVoter);
                }
                (ConfChangeType::RemoveNode, _) => return Obeyed::Unheard,
            }
        }
        self.conf_ver_grows(changes.len() as u64);
        obeyed
    }

    fn add(&mut self, peer: metapb::Peer, as_learner: bool) -> Obeyed {
        if self.region().peers.iter().any(|have| have.store_id == peer.store_id) {
            return Obeyed::Dropped;
        }
        let role = if as_learner { metapb::PeerRole::Learner } else { metapb::PeerRole::Voter };
        let peer = metapb::Peer { role: role.into(), ..peer };
        self.region_mut().peers.push(peer);
        self.said.pending_peers.push(peer);
        Obeyed::PeerAdded(peer)
    }

    fn set_role(&mut self, id: u64, role: metapb::PeerRole) {
        for peer in &mut self.region_mut().peers {
            if peer.id == id {
                peer.set_role(role);
            }
        }
        let now = self.region().peers.iter().find(|peer| peer.id == id).copied();
        let now = now.expect("only known peers change their roles");
        if self.said.leader.is_some_and(|leader| leader.id == id) {
            self.said.leader = Some(now);
        }
        for pending in &mut self.said.pending_peers {
            if pending.id == id {
                *pending = now;
            }
        }
    }

    fn conf_ver_grows(&mut self, by: u64) {
        self.region_mut().region_epoch.get_or_insert_default().conf_ver += by;
    }

    fn forget(&mut self, id: u64) {
        self.said.pending_peers.retain(|pending| pending.id != id);
        self.said.down_peers.retain(|down| down.peer.is_some_and(|peer| peer.id != id));
    }

    /// The peer has caught up; says whether it was behind.
    pub fn caught_up(&mut self, id: u64) -> bool {
        let before = self.said.pending_peers.len();
        self.said.pending_peers.retain(|pending| pending.id != id);
        self.said.pending_peers.len() < before
    }

    /// The leader has gone, and one of the others on these stores takes over, if there is a quorum.
    pub fn elect(&mut self, alive: &BTreeSet<u64>) -> bool {
        if alive.contains(&self.leader().store_id) || !self.has_quorum(alive) {
            return false;
        }
        let able = |peer: &&metapb::Peer| alive.contains(&peer.store_id) && !self.is_pending(peer);
        let Some(next) = self.voters().find(able).copied() else { return false };
        self.said.leader = Some(next);
        self.said.term += 1;
        true
    }

    /// Which of its peers have not been heard for how long, as the leader sees it.
    pub fn silent_peers(&mut self, silent_s: impl Fn(u64) -> Option<u64>) {
        let down = |peer: &metapb::Peer| {
            let down_seconds = silent_s(peer.store_id)?;
            Some(pdpb::PeerStats { peer: Some(*peer), down_seconds })
        };
        self.said.down_peers = self.region().peers.iter().filter_map(down).collect();
    }

    /// The description's epoch.
    pub fn epoch(&self) -> metapb::RegionEpoch {
        epoch(self.region())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u64, store_id: u64) -> metapb::Peer {
        metapb::Peer { id, store_id, ..Default::default() }
    }

    fn three() -> Region {
        let region = metapb::Region {
            id: 1,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![peer(11, 1), peer(12, 2), peer(13, 3)],
            ..Default::default()
        };
        Region::new(region, 1 << 20)
    }

    fn order(region: &Region) -> pdpb::RegionHeartbeatResponse {
        pdpb::RegionHeartbeatResponse {
            region_id: 1,
            region_epoch: region.region().region_epoch,
            target_peer: Some(region.leader()),
            ..Default::default()
        }
    }

    #[test]
    fn an_order_for_an_epoch_that_has_passed_is_dropped() {
        let mut region = three();
        let mut late = order(&region);
        let change_type = ConfChangeType::AddLearnerNode.into();
        late.change_peer = Some(pdpb::ChangePeer { peer: Some(peer(14, 4)), change_type });
        assert!(matches!(region.obey(&late), Obeyed::PeerAdded(_)));
        assert_eq!(region.obey(&late), Obeyed::Dropped);
        assert!(region.caught_up(14));
    }

    #[test]
    fn a_leader_does_not_remove_itself_and_hands_over_to_a_voter() {
        let mut region = three();
        let mut removal = order(&region);
        let change_type = ConfChangeType::RemoveNode.into();
        removal.change_peer = Some(pdpb::ChangePeer { peer: Some(peer(11, 1)), change_type });
        assert_eq!(region.obey(&removal), Obeyed::Dropped);
        let mut transfer = order(&region);
        transfer.transfer_leader =
            Some(pdpb::TransferLeader { peer: Some(peer(12, 2)), ..Default::default() });
        assert_eq!(region.obey(&transfer), Obeyed::LeaderMoved);
        assert_eq!(region.leader().store_id, 2);
    }

    #[test]
    fn a_joint_membership_is_entered_and_left() {
        let mut region = three();
        region
            .region_mut()
            .peers
            .push(metapb::Peer { role: metapb::PeerRole::Learner.into(), ..peer(14, 4) });
        let mut enter = order(&region);
        let change = |peer, kind: ConfChangeType| pdpb::ChangePeer {
            peer: Some(peer),
            change_type: kind.into(),
        };
        enter.change_peer_v2 = Some(pdpb::ChangePeerV2 {
            changes: vec![
                change(peer(14, 4), ConfChangeType::AddNode),
                change(peer(13, 3), ConfChangeType::AddLearnerNode),
            ],
        });
        assert_eq!(region.obey(&enter), Obeyed::RolesChanged);
        assert_eq!(region.epoch().conf_ver, 3);
        let mut leave = order(&region);
        leave.change_peer_v2 = Some(pdpb::ChangePeerV2::default());
        assert_eq!(region.obey(&leave), Obeyed::RolesChanged);
        assert_eq!(region.epoch().conf_ver, 5, "as many changes out as in");
        let voters: Vec<u64> = region.voters().map(|peer| peer.store_id).collect();
        assert_eq!(voters, [1, 2, 4]);
    }

    #[test]
    fn without_a_quorum_nobody_is_elected() {
        let mut region = three();
        assert!(!region.elect(&BTreeSet::from([3])));
        assert!(region.elect(&BTreeSet::from([2, 3])));
        assert_eq!(region.leader().store_id, 2);
    }
}
