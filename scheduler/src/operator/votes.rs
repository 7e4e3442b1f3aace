//! Several votes given and taken at once: the way into a joint membership, and out of it.
//!
//! ```text
//!   s1 s2 s3 s4(learner) ──enter──► s1 s2 s3(demoting) s4(incoming) ──leave──► s1 s2 s3(learner) s4
//! ```
//!
//! A single change lets one majority grow into the next, since the two overlap. Of several changes made one by
//! one each is a membership of its own, and the worst of them decides what the region survives: a region whose
//! peer moves within one of three places has two of four voters there for a while, and with that place it loses
//! its majority. While the membership is joint a majority of each half must agree, and neither half is worse
//! than what the region was or shall be.
//!
//! A store leaves a joint membership by itself when it is not told to in time, so what was entered may be seen
//! left at once.

use std::fmt;

use proto::region::{is_incoming, is_joint, is_outgoing, peer_by_id};
use proto::{PeerId, eraftpb, metapb, pdpb};

use crate::cluster::RegionRecord;

/// Who gets a vote, and who loses it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Votes {
    /// Learners that get one.
    pub promoted: Vec<metapb::Peer>,
    /// Voters that become learners.
    pub demoted: Vec<metapb::Peer>,
}

impl Votes {
    /// What is changing about the region, if its membership is joint; otherwise nothing.
    pub fn changing(region: &metapb::Region) -> Self {
        let those = |changes: fn(&&metapb::Peer) -> bool| {
            region.peers.iter().filter(changes).copied().collect()
        };
        Self {
            promoted: those(|peer| is_incoming(peer) && !is_outgoing(peer)),
            demoted: those(|peer| !is_incoming(peer) && is_outgoing(peer)),
        }
    }

    /// How many votes change; a region's conf version grows by so much on the way in, and again on the way
    /// out.
    pub fn count(&self) -> u64 {
        (self.promoted.len() + self.demoted.len()) as u64
    }

    /// Whether the region shows the way in: it is in, or out again on the other side.
    pub fn are_entered(&self, region: &metapb::Region) -> bool {
        self.are_changed(region, false)
    }

    /// By how much the way in has raised the region's conf version so far.
    pub fn entered_by(&self, region: &metapb::Region) -> u64 {
        if self.are_changed(region, true) { self.count() } else { 0 }
    }

    /// By how much the way out has raised it so far.
    pub fn left_by(&self, region: &metapb::Region) -> u64 {
        if is_joint(region) { 0 } else { self.entered_by(region) }
    }

    /// Whether everybody has the vote that it shall have, in the half to come at least. Who has lost it may have
    /// been removed since.
    fn are_changed(&self, region: &metapb::Region, or_removed: bool) -> bool {
        let have = |peer: &metapb::Peer| peer_by_id(region, PeerId(peer.id));
        let has_none =
            |peer: &metapb::Peer| have(peer).map_or(or_removed, |have| !is_incoming(have));
        self.promoted.iter().all(|peer| have(peer).is_some_and(is_incoming))
            && self.demoted.iter().all(has_none)
    }

    /// Why the region must not go in as it is now seen. `counts` says of a voter that it can be relied on, and
    /// `what` completes "only so many of the voters that there would be …".
    pub fn obstacle(
        &self,
        record: &RegionRecord,
        what: &str,
        counts: impl Fn(&metapb::Peer) -> bool,
    ) -> Option<String> {
        let region = &record.region;
        let mut all = self.promoted.iter().chain(&self.demoted);
        if let Some(gone) = all.find(|peer| peer_by_id(region, PeerId(peer.id)).is_none()) {
            return Some(format!("p{} is gone", gone.id));
        }
        let named = |peers: &[metapb::Peer], id: u64| peers.iter().any(|peer| peer.id == id);
        let after: Vec<_> = region
            .peers
            .iter()
            .filter(|peer| is_incoming(peer) || named(&self.promoted, peer.id))
            .filter(|peer| !named(&self.demoted, peer.id))
            .collect();
        let good = after.iter().filter(|voter| counts(voter)).count();
        (good * 2 <= after.len()).then(|| {
            format!("only {good} of the {} voters that there would be {what}", after.len())
        })
    }

    /// The changes in the words of an order.
    pub fn order(&self) -> pdpb::ChangePeerV2 {
        use eraftpb::ConfChangeType::{AddLearnerNode, AddNode};
        use metapb::PeerRole::{Learner, Voter};
        let change =
            |peer: &metapb::Peer, kind: eraftpb::ConfChangeType, role: metapb::PeerRole| {
                let peer = Some(metapb::Peer { role: role.into(), ..*peer });
                pdpb::ChangePeer { peer, change_type: kind.into() }
            };
        let promotions = self.promoted.iter().map(|peer| change(peer, AddNode, Voter));
        let demotions = self.demoted.iter().map(|peer| change(peer, AddLearnerNode, Learner));
        pdpb::ChangePeerV2 { changes: promotions.chain(demotions).collect() }
    }
}

impl fmt::Display for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let promotions = self.promoted.iter().map(|peer| ("promote", peer));
        let demotions = self.demoted.iter().map(|peer| ("demote", peer));
        for (number, (verb, peer)) in promotions.chain(demotions).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{verb} p{} on s{}", peer.id, peer.store_id)?;
        }
        Ok(())
    }
}
