//! One act of a plan: is it done in what we see, and what to order if not?
//!
//! A step is done when a heartbeat shows it done, whoever did it. Nobody reports "done".

use std::fmt;

use bytes::Bytes;
use proto::region::{is_incoming, is_joint, is_learner, peer_by_id};
use proto::{PeerId, StoreId, eraftpb, metapb, pdpb};

use super::Votes;
use crate::cluster::RegionRecord;

/// One act on one region.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A new peer, as a voter or (by its role) as a learner. Done when it is there and has
    /// caught up.
    AddPeer(metapb::Peer),
    /// A learner gets a vote. Done when it has it.
    PromoteLearner(metapb::Peer),
    /// A voter becomes a learner. Done when it is one.
    DemoteVoter(metapb::Peer),
    /// A peer goes. Done when its store has no peer of the region.
    RemovePeer(metapb::Peer),
    /// Another voter leads. Done when it does.
    TransferLeader {
        /// Who led when the plan was made.
        from: StoreId,
        /// Who shall.
        to: StoreId,
    },
    /// Several votes change at once. Done when each is so in the half to come.
    EnterJoint(Votes),
    /// A joint membership, of these changes, is left. Done when it is none any more.
    LeaveJoint(Votes),
    /// The region is cut at these keys. Done when its version has grown.
    Split {
        /// Where; empty leaves the choice to the store.
        keys: Vec<Bytes>,
        /// How the store finds keys when none are given.
        policy: pdpb::CheckPolicy,
        /// The region's version when the plan was made.
        version: u64,
    },
}

/// A step that moves data may take this long, plus [`SLOW_MS_PER_MIB`].
const SLOW_STEP_MS: u64 = 10 * 60 * 1_000;
const SLOW_MS_PER_MIB: u64 = 6_000;
/// A step that only changes who may do what may take this long, plus [`FAST_MS_PER_MIB`].
const FAST_STEP_MS: u64 = 60 * 1_000;
const FAST_MS_PER_MIB: u64 = 600;
/// An order is repeated after this long without a sign of its being done: it may have been lost,
/// or refused by a leader that has since changed.
const SLOW_RESEND_MS: u64 = 5_000;
const FAST_RESEND_MS: u64 = 2_000;

impl Step {
    /// Whether the region, as it is now seen, shows this step done.
    pub fn is_done(&self, record: &RegionRecord) -> bool {
        match self {
            Self::AddPeer(peer) => record
                .peer_on(StoreId(peer.store_id))
                .is_some_and(|have| have.id == peer.id && !record.is_pending(peer.id)),
            Self::PromoteLearner(peer) => {
                peer_by_id(&record.region, PeerId(peer.id)).is_some_and(|have| !is_learner(have))
            }
            Self::DemoteVoter(peer) => {
                peer_by_id(&record.region, PeerId(peer.id)).is_some_and(is_learner)
            }
            Self::RemovePeer(peer) => record.peer_on(StoreId(peer.store_id)).is_none(),
            Self::TransferLeader { to, .. } => record.leader_store() == Some(*to),
            Self::EnterJoint(votes) => votes.are_entered(&record.region),
            Self::LeaveJoint(_) => !is_joint(&record.region),
            Self::Split { version, .. } => record.epoch().version > *version,
        }
    }

    /// By how much this step has raised the region's conf version so far.
    pub fn conf_ver_changed(&self, record: &RegionRecord) -> u64 {
        let changed = match self {
            // Counted from the log's point of view: also while the peer still catches up.
            Self::AddPeer(peer) => {
                record.peer_on(StoreId(peer.store_id)).is_some_and(|have| have.id == peer.id)
            }
            Self::PromoteLearner(_) | Self::RemovePeer(_) => self.is_done(record),
            // It may have been removed since.
            Self::DemoteVoter(peer) => {
                peer_by_id(&record.region, PeerId(peer.id)).is_none_or(is_learner)
            }
            Self::EnterJoint(votes) => return votes.entered_by(&record.region),
            Self::LeaveJoint(votes) => return votes.left_by(&record.region),
            Self::TransferLeader { .. } | Self::Split { .. } => false,
        };
        u64::from(changed)
    }

    /// Why a plan must not begin with this step. More is asked than of a step under way: a plan that has
    /// not begun can wait.
    pub fn obstacle_to_begin(&self, record: &RegionRecord) -> Option<String> {
        self.obstacle(record).or_else(|| match self {
            Self::RemovePeer(peer) | Self::DemoteVoter(peer) => {
                too_few_healthy_without(record, peer)
            }
            Self::EnterJoint(votes) => {
                votes.obstacle(record, "are healthy", |voter| record.is_healthy(voter))
            }
            Self::AddPeer(_)
            | Self::PromoteLearner(_)
            | Self::TransferLeader { .. }
            | Self::LeaveJoint(_)
            | Self::Split { .. } => None,
        })
    }

    /// Why this step must not be ordered in the region as it is now seen; the plan is then given
    /// up and thought of again.
    pub fn obstacle(&self, record: &RegionRecord) -> Option<String> {
        if self.changes_members() && is_joint(&record.region) {
            return Some("the region is in a joint membership, which must be left first".into());
        }
        match self {
            Self::AddPeer(peer) => {
                let have = record.peer_on(StoreId(peer.store_id))?;
                (have.id != peer.id)
                    .then(|| format!("s{} already has peer p{}", peer.store_id, have.id))
            }
            Self::PromoteLearner(peer) => peer_by_id(&record.region, PeerId(peer.id))
                .is_none()
                .then(|| format!("the learner p{} is gone", peer.id)),
            Self::DemoteVoter(peer) => match peer_by_id(&record.region, PeerId(peer.id)) {
                None => Some(format!("the voter p{} is gone", peer.id)),
                Some(_) => unvoting_obstacle(peer, record),
            },
            Self::RemovePeer(peer) => match record.peer_on(StoreId(peer.store_id)) {
                Some(have) if have.id != peer.id => {
                    Some(format!("s{} has another peer, p{}", peer.store_id, have.id))
                }
                Some(have) => unvoting_obstacle(have, record),
                None => None,
            },
            Self::EnterJoint(votes) => {
                votes.obstacle(record, "are heard", |voter| !record.is_down(voter.id))
            }
            Self::TransferLeader { to, .. } => match record.peer_on(*to) {
                None => Some(format!("{to} has no peer to lead")),
                Some(peer) if is_learner(peer) => Some(format!("the peer on {to} has no vote")),
                Some(peer) if !is_incoming(peer) => {
                    Some(format!("the peer on {to} is about to lose its vote"))
                }
                Some(peer) if !record.is_healthy(peer) => {
                    Some(format!("the peer on {to} is behind or silent"))
                }
                Some(_) => None,
            },
            Self::LeaveJoint(_) | Self::Split { .. } => None,
        }
    }

    /// Whether it changes who is a member, or who votes. No more than one such change is under way at once.
    fn changes_members(&self) -> bool {
        match self {
            Self::AddPeer(_)
            | Self::PromoteLearner(_)
            | Self::DemoteVoter(_)
            | Self::RemovePeer(_)
            | Self::EnterJoint(_) => true,
            Self::LeaveJoint(_) | Self::TransferLeader { .. } | Self::Split { .. } => false,
        }
    }

    /// The order for the region's leader. The header is the shell's to fill in.
    pub fn order(&self, record: &RegionRecord) -> pdpb::RegionHeartbeatResponse {
        let mut order = pdpb::RegionHeartbeatResponse {
            region_id: record.region.id,
            region_epoch: record.region.region_epoch,
            target_peer: record.leader,
            ..Default::default()
        };
        let change = |peer: &metapb::Peer, change_type: eraftpb::ConfChangeType| {
            Some(pdpb::ChangePeer { peer: Some(*peer), change_type: change_type.into() })
        };
        match self {
            Self::AddPeer(peer) if is_learner(peer) => {
                order.change_peer = change(peer, eraftpb::ConfChangeType::AddLearnerNode);
            }
            Self::AddPeer(peer) => {
                order.change_peer = change(peer, eraftpb::ConfChangeType::AddNode);
            }
            Self::PromoteLearner(peer) => {
                let voter = metapb::Peer { role: metapb::PeerRole::Voter.into(), ..*peer };
                order.change_peer = change(&voter, eraftpb::ConfChangeType::AddNode);
            }
            Self::DemoteVoter(peer) => {
                let learner = metapb::Peer { role: metapb::PeerRole::Learner.into(), ..*peer };
                order.change_peer = change(&learner, eraftpb::ConfChangeType::AddLearnerNode);
            }
            Self::RemovePeer(peer) => {
                order.change_peer = change(peer, eraftpb::ConfChangeType::RemoveNode);
            }
            Self::TransferLeader { to, .. } => {
                let peer = record.peer_on(*to).copied();
                order.transfer_leader =
                    Some(pdpb::TransferLeader { peer, peers: peer.into_iter().collect() });
            }
            Self::EnterJoint(votes) => order.change_peer_v2 = Some(votes.order()),
            // No changes: the way out.
            Self::LeaveJoint(_) => order.change_peer_v2 = Some(pdpb::ChangePeerV2::default()),
            Self::Split { keys, policy, .. } => {
                order.split_region =
                    Some(pdpb::SplitRegion { policy: (*policy).into(), keys: keys.clone() });
            }
        }
        order
    }

    /// How long this step may take in a region of that size.
    pub fn timeout_ms(&self, size_mib: u64) -> u64 {
        match self {
            Self::AddPeer(_) => SLOW_STEP_MS.max(SLOW_MS_PER_MIB * size_mib),
            Self::PromoteLearner(_)
            | Self::DemoteVoter(_)
            | Self::RemovePeer(_)
            | Self::TransferLeader { .. }
            | Self::EnterJoint(_)
            | Self::LeaveJoint(_)
            | Self::Split { .. } => FAST_STEP_MS.max(FAST_MS_PER_MIB * size_mib),
        }
    }

    /// How long to wait before an order is repeated.
    pub fn resend_ms(&self) -> u64 {
        match self {
            Self::AddPeer(_) => SLOW_RESEND_MS,
            Self::PromoteLearner(_)
            | Self::DemoteVoter(_)
            | Self::RemovePeer(_)
            | Self::TransferLeader { .. }
            | Self::EnterJoint(_)
            | Self::LeaveJoint(_)
            | Self::Split { .. } => FAST_RESEND_MS,
        }
    }
}

/// A leader takes neither itself away nor its own vote, and no change may leave a region that cannot elect one.
/// A leader of a moment ago knows of nobody how far he is, so only silence counts here; who lacks what is asked
/// when the operator is made, and by the leader when it carries out the step.
fn unvoting_obstacle(peer: &metapb::Peer, record: &RegionRecord) -> Option<String> {
    if record.leader_store() == Some(StoreId(peer.store_id)) {
        return Some(format!("p{} leads", peer.id));
    }
    too_few_without(record, peer, "are heard", |voter| !record.is_down(voter.id))
}

/// What speaks against removing the peer: too few of the voters that remain are healthy.
pub(crate) fn too_few_healthy_without(
    record: &RegionRecord,
    peer: &metapb::Peer,
) -> Option<String> {
    too_few_without(record, peer, "are healthy", |voter| record.is_healthy(voter))
}

fn too_few_without(
    record: &RegionRecord,
    peer: &metapb::Peer,
    what: &str,
    counts: impl Fn(&metapb::Peer) -> bool,
) -> Option<String> {
    if is_learner(peer) {
        return None;
    }
    let remaining: Vec<_> = record.voters().filter(|voter| voter.id != peer.id).collect();
    let good = remaining.iter().filter(|voter| counts(voter)).count();
    (good * 2 <= remaining.len())
        .then(|| format!("only {good} of the {} voters that remain {what}", remaining.len()))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPeer(peer) if is_learner(peer) => {
                write!(f, "add learner p{} on s{}", peer.id, peer.store_id)
            }
            Self::AddPeer(peer) => write!(f, "add peer p{} on s{}", peer.id, peer.store_id),
            Self::PromoteLearner(peer) => {
                write!(f, "promote learner p{} on s{}", peer.id, peer.store_id)
            }
            Self::DemoteVoter(peer) => write!(f, "demote voter p{} on s{}", peer.id, peer.store_id),
            Self::RemovePeer(peer) => write!(f, "remove peer p{} on s{}", peer.id, peer.store_id),
            Self::TransferLeader { from, to } => write!(f, "transfer leader from {from} to {to}"),
            Self::EnterJoint(votes) => write!(f, "enter a joint membership ({votes})"),
            Self::LeaveJoint(_) => f.write_str("leave the joint membership"),
            Self::Split { keys, .. } if keys.is_empty() => f.write_str("split"),
            Self::Split { keys, .. } => {
                f.write_str("split at")?;
                keys.iter().try_for_each(|key| write!(f, " {}", proto::key::Readable(key)))
            }
        }
    }
}
