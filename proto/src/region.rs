//! Pure questions about regions and epochs.

use std::cmp::Ordering;
use std::fmt;

use crate::{KeyRange, PeerId, RegionId, StoreId, metapb};

/// The epoch of a region that has seen neither a split nor a membership change.
pub const FIRST_EPOCH: metapb::RegionEpoch = metapb::RegionEpoch { conf_ver: 1, version: 1 };

/// What a leader says of a peer that will not come back, where a heartbeat says for how long a peer has been
/// down: ten years. Such a peer is to be replaced whatever becomes of its store.
pub const DOWN_FOR_GOOD_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;

/// The peer of this region on that store.
pub fn peer_on(region: &metapb::Region, store: StoreId) -> Option<&metapb::Peer> {
    region.peers.iter().find(|peer| peer.store_id == store.0)
}

/// The peer with this id.
pub fn peer_by_id(region: &metapb::Region, peer: PeerId) -> Option<&metapb::Peer> {
    region.peers.iter().find(|candidate| candidate.id == peer.0)
}

/// The region's id, typed.
pub fn id(region: &metapb::Region) -> RegionId {
    RegionId(region.id)
}

/// The region's epoch; an absent one counts as zero and so is older than every real one.
pub fn epoch(region: &metapb::Region) -> metapb::RegionEpoch {
    region.region_epoch.unwrap_or_default()
}

/// Whether `known` is older than `other` in either count: such knowledge must give way.
pub fn is_epoch_stale(known: &metapb::RegionEpoch, other: &metapb::RegionEpoch) -> bool {
    known.version < other.version || known.conf_ver < other.conf_ver
}

/// Splits first, then membership: the order in which descriptions of the same keys replace each
/// other.
pub fn compare_epochs(a: &metapb::RegionEpoch, b: &metapb::RegionEpoch) -> Ordering {
    (a.version, a.conf_ver).cmp(&(b.version, b.conf_ver))
}

/// Whether this peer receives the log without a vote.
pub fn is_learner(peer: &metapb::Peer) -> bool {
    peer.role() == metapb::PeerRole::Learner
}

/// Whether this peer votes in the membership that a joint change leads to (outside one: whether it votes).
pub fn is_incoming(peer: &metapb::Peer) -> bool {
    matches!(peer.role(), metapb::PeerRole::Voter | metapb::PeerRole::IncomingVoter)
}

/// Whether this peer votes in the membership that a joint change comes from (outside one: whether it votes).
pub fn is_outgoing(peer: &metapb::Peer) -> bool {
    matches!(peer.role(), metapb::PeerRole::Voter | metapb::PeerRole::DemotingVoter)
}

/// Whether the region is between two memberships, of which both must agree to everything.
pub fn is_joint(region: &metapb::Region) -> bool {
    region.peers.iter().any(|peer| is_incoming(peer) != is_outgoing(peer))
}

/// A region in the house's notation: `r1 [a,m) v2.c3 p1@s1 p2@s2`.
pub struct Readable<'a>(pub &'a metapb::Region);

impl fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = epoch(self.0);
        write!(
            f,
            "{} {} v{}.c{}",
            id(self.0),
            KeyRange::of(self.0),
            epoch.version,
            epoch.conf_ver
        )?;
        for peer in &self.0.peers {
            write!(f, " {}@{}", PeerId(peer.id), StoreId(peer.store_id))?;
            f.write_str(match peer.role() {
                metapb::PeerRole::Voter => "",
                metapb::PeerRole::Learner => "(learner)",
                metapb::PeerRole::IncomingVoter => "(incoming)",
                metapb::PeerRole::DemotingVoter => "(demoting)",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_count_makes_an_epoch_stale() {
        let epoch = |conf_ver, version| metapb::RegionEpoch { conf_ver, version };
        assert!(is_epoch_stale(&epoch(1, 1), &epoch(2, 1)));
        assert!(is_epoch_stale(&epoch(2, 1), &epoch(1, 2)));
        assert!(!is_epoch_stale(&epoch(2, 2), &epoch(2, 2)));
        assert_eq!(compare_epochs(&epoch(9, 1), &epoch(1, 2)), Ordering::Less);
    }

    #[test]
    fn a_region_is_joint_while_somebody_votes_in_one_of_two_memberships() {
        use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
        let region = |roles: &[metapb::PeerRole]| metapb::Region {
            peers: roles
                .iter()
                .map(|role| metapb::Peer { role: *role as i32, ..Default::default() })
                .collect(),
            ..Default::default()
        };
        assert!(!is_joint(&region(&[Voter, Learner])));
        assert!(is_joint(&region(&[Voter, IncomingVoter])));
        assert!(is_joint(&region(&[Voter, DemotingVoter])));
        assert!(!is_joint(&region(&[])));
    }

    #[test]
    fn a_region_prints_in_one_line() {
        let region = metapb::Region {
            id: 1,
            end_key: "m".into(),
            region_epoch: Some(FIRST_EPOCH),
            peers: vec![metapb::Peer { id: 4, store_id: 2, ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(Readable(&region).to_string(), "r1 [-inf,m) v1.c1 p4@s2");
        assert!(peer_on(&region, StoreId(2)).is_some());
        assert!(peer_by_id(&region, PeerId(2)).is_none());
    }
}
