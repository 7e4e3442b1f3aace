//! A stand-in for the scheduler: believes heartbeats, gives out ids, and now and then wants a change.
//!
//! Not the real one, on purpose: what is tested here are stores, under orders that no sane scheduler
//! would give so often. It is one place that never fails and is reached over the lossy network.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{KeyRange, eraftpb::ConfChangeType, metapb, pdpb, region};

use super::dice::Dice;

/// Regions are not split beyond this many.
const REGIONS_MAX: usize = 8;

/// The picture of the cluster, made of heartbeats.
#[derive(Debug)]
pub struct Overseer {
    dice: Dice,
    regions: BTreeMap<u64, Known>,
    next_id: u64,
    stores: Vec<u64>,
    /// Whether it wants changes at all.
    restless: bool,
}

#[derive(Clone, Debug)]
struct Known {
    region: metapb::Region,
    term: u64,
    leader: metapb::Peer,
}

/// Voters of a region that is left in peace.
const REPLICAS: usize = 3;

impl Overseer {
    /// A picture of nothing; ids begin at the given one.
    pub fn new(dice: Dice, stores: Vec<u64>, restless: bool, next_id: u64) -> Self {
        Self { dice, regions: BTreeMap::new(), next_id, stores, restless }
    }

    /// Ids that were never given before.
    pub fn ids(&mut self, count: u32, peers: usize) -> Vec<pdpb::SplitId> {
        (0..count)
            .map(|_| pdpb::SplitId {
                new_region_id: self.next_id(),
                new_peer_ids: (0..peers).map(|_| self.next_id()).collect(),
            })
            .collect()
    }

    /// Leaves the cluster in peace from now on, except that regions get their full number of peers.
    pub fn calm_down(&mut self) {
        self.restless = false;
    }

    /// Believes a heartbeat if it is not older than what is known, and perhaps answers an order.
    pub fn on_heartbeat(
        &mut self,
        heartbeat: &pdpb::RegionHeartbeatRequest,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        let new = heartbeat.region.as_ref()?;
        let leader = heartbeat.leader.as_ref()?;
        if !self.believe(new, heartbeat.term, leader) {
            return None;
        }
        let order = pdpb::RegionHeartbeatResponse {
            region_id: new.id,
            region_epoch: new.region_epoch,
            target_peer: Some(*leader),
            ..Default::default()
        };
        self.wish(new, leader, heartbeat, order)
    }

    fn believe(&mut self, new: &metapb::Region, term: u64, leader: &metapb::Peer) -> bool {
        let range = KeyRange::of(new);
        let epoch = region::epoch(new);
        let overlapping = |known: &Known| {
            known.region.id == new.id || KeyRange::of(&known.region).overlaps(&range)
        };
        let is_old_news = |known: &Known| {
            let known_epoch = region::epoch(&known.region);
            if known.region.id != new.id {
                return epoch.version < known_epoch.version;
            }
            region::is_epoch_stale(&epoch, &known_epoch)
                || (epoch == known_epoch && term < known.term)
        };
        if self.regions.values().any(|known| overlapping(known) && is_old_news(known)) {
            return false;
        }
        self.regions.retain(|_, known| !overlapping(known));
        let known = Known { region: new.clone(), term, leader: *leader };
        self.regions.insert(new.id, known);
        true
    }

    fn wish(
        &mut self,
        new: &metapb::Region,
        leader: &metapb::Peer,
        heartbeat: &pdpb::RegionHeartbeatRequest,
        mut order: pdpb::RegionHeartbeatResponse,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        let draw = self.dice.within(0..100);
        if region::is_joint(new) {
            // Now and then nobody says that it is to be left.
            order.change_peer_v2 = (draw < 60).then(pdpb::ChangePeerV2::default);
            return order.change_peer_v2.is_some().then_some(order);
        }
        let voters = new.peers.iter().filter(|peer| !region::is_learner(peer)).count();
        let learner = new.peers.iter().find(|peer| {
            region::is_learner(peer) && !heartbeat.pending_peers.iter().any(|p| p.id == peer.id)
        });
        if let Some(learner) = learner {
            // One that has caught up becomes a voter, alone or in the place of another; or it must go.
            if voters < REPLICAS || (self.restless && draw < 30) {
                order.change_peer = Some(change(*learner, ConfChangeType::AddNode));
            } else if self.restless && draw < 80 {
                let demoted = self.some_voter(new)?;
                order.change_peer_v2 = Some(pdpb::ChangePeerV2 {
                    changes: vec![
                        change(*learner, ConfChangeType::AddNode),
                        change(demoted, ConfChangeType::AddLearnerNode),
                    ],
                });
            } else {
                order.change_peer = Some(change(*learner, ConfChangeType::RemoveNode));
            }
            return Some(order);
        }
        if new.peers.len() < REPLICAS {
            order.change_peer = self.add_peer(new);
        } else if new.peers.len() > REPLICAS {
            order.change_peer = self.remove_peer(new, leader);
        } else if !self.restless {
            return None;
        } else if draw < 15 {
            let to = self.dice.one_of(&new.peers).filter(|peer| peer.id != leader.id)?;
            order.transfer_leader =
                Some(pdpb::TransferLeader { peer: Some(*to), ..Default::default() });
        } else if draw < 25 && self.regions.len() < REGIONS_MAX {
            let key = Bytes::from(format!("{:02x}", self.dice.within(0..256)));
            if !KeyRange::of(new).contains(&key) || key == new.start_key {
                return None;
            }
            order.split_region = Some(pdpb::SplitRegion {
                policy: pdpb::CheckPolicy::Usekey.into(),
                keys: vec![key],
            });
        } else if draw < 35 && self.stores.len() > REPLICAS {
            order.change_peer = self.add_peer(new);
        } else if draw < 38 {
            order.change_peer = self.remove_peer(new, leader);
        } else if draw < 42 {
            order.change_peer = Some(change(self.some_voter(new)?, ConfChangeType::AddLearnerNode));
        } else if draw < 48 && self.stores.len() > REPLICAS {
            let added = self.add_peer(new)?.peer?;
            let demoted = self.some_voter(new)?;
            order.change_peer_v2 = Some(pdpb::ChangePeerV2 {
                changes: vec![
                    change(added, ConfChangeType::AddNode),
                    change(demoted, ConfChangeType::AddLearnerNode),
                ],
            });
        } else {
            return None;
        }
        Some(order)
    }

    /// Any voter, the leader among them: it must hand over, or finish what takes its vote.
    fn some_voter(&mut self, of: &metapb::Region) -> Option<metapb::Peer> {
        let voters: Vec<_> = of.peers.iter().filter(|peer| !region::is_learner(peer)).collect();
        self.dice.one_of(&voters).map(|peer| **peer)
    }

    fn add_peer(&mut self, to: &metapb::Region) -> Option<pdpb::ChangePeer> {
        let free: Vec<u64> = self
            .stores
            .iter()
            .copied()
            .filter(|store| to.peers.iter().all(|peer| peer.store_id != *store))
            .collect();
        let store_id = *self.dice.one_of(&free)?;
        let role = metapb::PeerRole::Learner.into();
        let peer = metapb::Peer { id: self.next_id(), store_id, role, ..Default::default() };
        Some(change(peer, ConfChangeType::AddLearnerNode))
    }

    fn remove_peer(
        &mut self,
        from: &metapb::Region,
        leader: &metapb::Peer,
    ) -> Option<pdpb::ChangePeer> {
        // Now and then the leader itself, which must refuse or hand over first.
        let any = self.dice.happens(100);
        let chosen: Vec<_> = from.peers.iter().filter(|p| any || p.id != leader.id).collect();
        let peer = **self.dice.one_of(&chosen)?;
        Some(change(peer, ConfChangeType::RemoveNode))
    }

    /// Every region, as far as is known.
    pub fn regions(&self) -> impl Iterator<Item = (&metapb::Region, u64)> {
        self.regions.values().map(|known| (&known.region, known.leader.store_id))
    }

    /// Whether this peer still belongs to its region, as far as is known.
    pub fn knows_peer_gone(
        &self,
        of: &metapb::Region,
        peer: &metapb::Peer,
    ) -> Option<metapb::Region> {
        let known = &self.regions.get(&of.id)?.region;
        let gone = region::peer_by_id(known, proto::PeerId(peer.id)).is_none();
        let newer = region::is_epoch_stale(&region::epoch(of), &region::epoch(known));
        (gone && newer).then(|| known.clone())
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

fn change(peer: metapb::Peer, kind: ConfChangeType) -> pdpb::ChangePeer {
    pdpb::ChangePeer { peer: Some(peer), change_type: kind.into() }
}
