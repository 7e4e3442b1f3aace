//! The course's scheduler: believes heartbeats, has at most one order a region, and repeats it until a
//! heartbeat shows it done.
//!
//! - The leader of a heartbeat is noted before anything else is looked at: an isolated leader that goes on
//!   reporting and the new one overwrite each other.
//! - A heartbeat with an older epoch changes nothing. One with a newer version replaces the regions that it
//!   overlaps, so after a split there is a hole until the other part has reported.
//! - A change of membership is counted: a conf_ver that grows by one stands for exactly one peer more or
//!   less. Anything else is a bug of the stores, and ends the test.
//! - An order is repeated with each heartbeat. So stores get the same order many times.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::eraftpb::ConfChangeType;
use proto::{KeyRange, PeerId, metapb, pdpb, region};

/// What is wanted of a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// This peer is a member, and has what the others have.
    Add(metapb::Peer),
    /// This peer is no member.
    Remove(metapb::Peer),
    /// This peer leads.
    Lead(metapb::Peer),
}

/// The picture of the cluster.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    /// By start key.
    regions: BTreeMap<Bytes, metapb::Region>,
    leaders: BTreeMap<u64, metapb::Peer>,
    pending: BTreeMap<u64, BTreeSet<u64>>,
    wishes: BTreeMap<u64, Wish>,
    next_id: u64,
}

impl Scheduler {
    /// A picture of nothing; ids begin at the given one.
    pub(super) fn new(next_id: u64) -> Self {
        Self { next_id, ..Self::default() }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// In key order.
    pub(super) fn regions(&self) -> impl Iterator<Item = &metapb::Region> {
        self.regions.values()
    }

    /// The region that holds the key.
    pub(super) fn region_of(&self, key: &[u8]) -> Option<&metapb::Region> {
        let (_, region) = self.regions.range(..=Bytes::copy_from_slice(key)).next_back()?;
        KeyRange::of(region).contains(key).then_some(region)
    }

    pub(super) fn region(&self, id: u64) -> Option<&metapb::Region> {
        self.regions.values().find(|region| region.id == id)
    }

    /// Who leads, as it was last said.
    pub(super) fn leader(&self, region: u64) -> Option<metapb::Peer> {
        self.leaders.get(&region).copied()
    }

    /// Whether the leader said that this peer lacks what is no longer in the log.
    pub(super) fn is_pending(&self, region: u64, peer: u64) -> bool {
        self.pending.get(&region).is_some_and(|pending| pending.contains(&peer))
    }

    /// From now on this is wanted of the region, and nothing else.
    pub(super) fn want(&mut self, region: u64, wish: Wish) {
        self.wishes.insert(region, wish);
    }

    /// A leader reports; the answer is what is wanted of it.
    pub(super) fn on_heartbeat(
        &mut self,
        heartbeat: &pdpb::RegionHeartbeatRequest,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        let (new, leader) = (heartbeat.region.as_ref()?, heartbeat.leader.as_ref()?);
        let pending = heartbeat.pending_peers.iter().map(|peer| peer.id).collect();
        self.pending.insert(new.id, pending);
        self.leaders.insert(new.id, *leader);
        if !self.believe(new) {
            return None;
        }
        self.order(new, leader)
    }

    /// Takes a region into the picture unless something there is newer.
    fn believe(&mut self, new: &metapb::Region) -> bool {
        let (range, epoch) = (KeyRange::of(new), region::epoch(new));
        let overlapping = |known: &&metapb::Region| KeyRange::of(known).overlaps(&range);
        let is_in_the_way = |known: &metapb::Region| {
            let known_epoch = region::epoch(known);
            if KeyRange::of(known) == range {
                region::is_epoch_stale(&epoch, &known_epoch)
            } else {
                epoch.version <= known_epoch.version
            }
        };
        if self.regions.values().filter(overlapping).any(is_in_the_way) {
            return false;
        }
        if let Some(known) = self.region(new.id) {
            count_changes(known, new);
        }
        self.regions.retain(|_, known| known.id != new.id && !overlapping(&&*known));
        self.regions.insert(new.start_key.clone(), new.clone());
        true
    }

    fn order(
        &mut self,
        region: &metapb::Region,
        leader: &metapb::Peer,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        let wish = *self.wishes.get(&region.id)?;
        let mut order = pdpb::RegionHeartbeatResponse {
            region_id: region.id,
            region_epoch: region.region_epoch,
            target_peer: Some(*leader),
            ..Default::default()
        };
        let change = |peer, kind: ConfChangeType| {
            Some(pdpb::ChangePeer { peer: Some(peer), change_type: kind.into() })
        };
        match wish {
            Wish::Add(peer) => match region::peer_by_id(region, PeerId(peer.id)) {
                None => order.change_peer = change(peer, ConfChangeType::AddNode),
                // Done, but for what it has yet to get.
                Some(_) if self.is_pending(region.id, peer.id) => return None,
                Some(_) => {
                    self.wishes.remove(&region.id);
                    return None;
                }
            },
            Wish::Remove(peer) => {
                if region::peer_by_id(region, PeerId(peer.id)).is_none() {
                    self.wishes.remove(&region.id);
                    return None;
                }
                order.change_peer = change(peer, ConfChangeType::RemoveNode);
            }
            Wish::Lead(peer) => {
                if leader.id == peer.id {
                    self.wishes.remove(&region.id);
                    return None;
                }
                order.transfer_leader =
                    Some(pdpb::TransferLeader { peer: Some(peer), ..Default::default() });
            }
        }
        Some(order)
    }

    /// Ids for the parts of a region; none if it is not known as it describes itself.
    pub(super) fn split_ids(
        &mut self,
        asking: &metapb::Region,
        count: u32,
    ) -> Option<Vec<pdpb::SplitId>> {
        let known = self.region(asking.id)?;
        if region::is_epoch_stale(&region::epoch(asking), &region::epoch(known)) {
            return None;
        }
        let one = |_| pdpb::SplitId {
            new_region_id: self.next_id(),
            new_peer_ids: asking.peers.iter().map(|_| self.next_id()).collect(),
        };
        Some((0..count).map(one).collect())
    }

    /// The newest description of a region to which this peer no longer belongs.
    pub(super) fn knows_peer_gone(
        &self,
        of: &metapb::Region,
        peer: &metapb::Peer,
    ) -> Option<metapb::Region> {
        let known = self.region(of.id)?;
        let is_gone = region::peer_by_id(known, PeerId(peer.id)).is_none();
        let is_newer = region::is_epoch_stale(&region::epoch(of), &region::epoch(known));
        (is_gone && is_newer).then(|| known.clone())
    }
}

/// As many peers came or went as the conf_ver grew by, but for those that came and went unseen.
fn count_changes(known: &metapb::Region, new: &metapb::Region) {
    let members = |region: &metapb::Region| {
        let peers = region.peers.iter().map(|peer| (peer.id, peer.store_id));
        peers.collect::<BTreeSet<_>>()
    };
    let seen = members(known).symmetric_difference(&members(new)).count() as u64;
    let counted = region::epoch(new).conf_ver.saturating_sub(region::epoch(known).conf_ver);
    assert!(
        seen <= counted && (counted - seen).is_multiple_of(2),
        "{seen} changes of membership make {} of {}",
        region::Readable(new),
        region::Readable(known),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, range: (&'static str, &'static str), epoch: (u64, u64)) -> metapb::Region {
        let (version, conf_ver) = epoch;
        metapb::Region {
            id,
            start_key: range.0.into(),
            end_key: range.1.into(),
            region_epoch: Some(metapb::RegionEpoch { version, conf_ver }),
            peers: vec![peer(1), peer(2)],
            ..Default::default()
        }
    }

    fn peer(id: u64) -> metapb::Peer {
        metapb::Peer { id, store_id: id, ..Default::default() }
    }

    fn beat(
        scheduler: &mut Scheduler,
        region: &metapb::Region,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        scheduler.on_heartbeat(&pdpb::RegionHeartbeatRequest {
            leader: region.peers.first().copied(),
            region: Some(region.clone()),
            ..Default::default()
        })
    }

    #[test]
    fn a_split_leaves_a_hole_until_both_parts_have_reported() {
        let mut scheduler = Scheduler::new(10);
        beat(&mut scheduler, &region(1, ("", ""), (1, 1)));
        beat(&mut scheduler, &region(1, ("", "m"), (2, 1)));
        assert!(scheduler.region_of(b"a").is_some());
        assert!(scheduler.region_of(b"z").is_none());
        beat(&mut scheduler, &region(2, ("m", ""), (2, 1)));
        assert_eq!(scheduler.region_of(b"z").unwrap().id, 2);
        beat(&mut scheduler, &region(1, ("", ""), (1, 1)));
        assert_eq!(scheduler.regions().count(), 2, "old news");
    }

    #[test]
    fn an_order_is_repeated_until_it_is_done() {
        let mut scheduler = Scheduler::new(10);
        let mut first = region(1, ("", ""), (1, 1));
        beat(&mut scheduler, &first);
        scheduler.want(1, Wish::Add(peer(3)));
        assert!(beat(&mut scheduler, &first).is_some());
        assert!(beat(&mut scheduler, &first).is_some());
        first.peers.push(peer(3));
        first.region_epoch = Some(metapb::RegionEpoch { version: 1, conf_ver: 2 });
        assert!(beat(&mut scheduler, &first).is_none());
        scheduler.want(1, Wish::Lead(peer(2)));
        assert!(beat(&mut scheduler, &first).unwrap().transfer_leader.is_some());
    }

    #[test]
    #[should_panic(expected = "changes of membership")]
    fn a_peer_that_comes_uncounted_is_noticed() {
        let mut scheduler = Scheduler::new(10);
        let mut first = region(1, ("", ""), (1, 1));
        beat(&mut scheduler, &first);
        first.peers.push(peer(3));
        beat(&mut scheduler, &first);
    }
}
