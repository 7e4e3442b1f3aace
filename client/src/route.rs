//! What each refusal means for the next try.
//!
//! [`Route`] is where the client believes a key lives: a region and the peer to ask. It is a machine:
//! shown an answer that is no answer, it says what the map of regions should learn from it, whether
//! and when to try again, and whether a write may have happened all the same. `request.rs` does what
//! it says.
//!
//! On unknown outcomes: a refusal given *before* a write is proposed is certain. One that may come
//! *after* (the leader changed under the proposal, the peer was destroyed, the store stopped, the
//! connection broke) leaves the outcome open. A read does not care, an idempotent write is sent
//! again, and everything else is reported as undetermined.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use proto::{Refusal, RegionId, StoreId, metapb, region};

use crate::backoff::Pause;
use crate::error::ErrorKind;

/// Where the client believes a key lives.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The region; its bounds are in the scheduler's form of keys.
    pub(crate) region: Arc<metapb::Region>,
    /// The peer to ask: the leader, as far as known.
    pub(crate) peer: metapb::Peer,
}

/// What the map of regions learns from a refusal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Correction {
    /// Nothing: the route stays as it is.
    Keep,
    /// This peer leads.
    Leader(metapb::Peer),
    /// These regions cover the keys now.
    Regions(Vec<metapb::Region>),
    /// This peer is not the one; ask the next.
    NextPeer,
    /// The region is not there any more; ask the scheduler.
    ForgetRegion,
    /// Nor is the store at that address.
    ForgetStore,
}

/// Whether there is a next try.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Yes, after this pause.
    Again(Pause),
    /// No: it would end the same way.
    GiveUp(ErrorKind),
}

/// What to make of an answer that is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) correction: Correction,
    pub(crate) fate: Fate,
    /// Whether a write may have happened although this was the answer.
    pub(crate) outcome_open: bool,
}

impl Verdict {
    fn again(correction: Correction, pause: Pause) -> Self {
        Self { correction, fate: Fate::Again(pause), outcome_open: false }
    }

    fn give_up(kind: ErrorKind) -> Self {
        Self { correction: Correction::Keep, fate: Fate::GiveUp(kind), outcome_open: false }
    }

    fn outcome_open(mut self) -> Self {
        self.outcome_open = true;
        self
    }
}

impl Route {
    pub(crate) fn region_id(&self) -> RegionId {
        region::id(&self.region)
    }

    pub(crate) fn store_id(&self) -> StoreId {
        StoreId(self.peer.store_id)
    }

    /// A store refused. The one place that knows what each refusal means to a client.
    pub(crate) fn on_refusal(&self, refusal: &Refusal) -> Verdict {
        use Correction::{ForgetRegion, ForgetStore, Keep, Leader, NextPeer};
        match refusal {
            // Somebody else leads, and this peer knows who.
            Refusal::NotLeader { leader: Some(leader), .. } => {
                Verdict::again(Leader(*leader), Pause::None)
            }
            // Nobody leads that this peer knows of: an election is on its way.
            Refusal::NotLeader { leader: None, .. } => Verdict::again(NextPeer, Pause::Region),
            // The peer is gone. If it was destroyed under the proposal, others may have applied it.
            Refusal::RegionNotFound { .. } => {
                Verdict::again(ForgetRegion, Pause::Region).outcome_open()
            }
            // The map led to the wrong region.
            Refusal::KeyNotInRegion { .. } => Verdict::again(ForgetRegion, Pause::Region),
            Refusal::EpochNotMatch { current_regions } => self.on_epoch_not_match(current_regions),
            // The request's own deadline passed inside the store, perhaps after it was proposed.
            Refusal::ServerIsBusy { reason, .. } if is_missed_deadline(reason) => {
                Verdict::again(Keep, Pause::Busy(Duration::ZERO)).outcome_open()
            }
            // A limit was reached and nothing was done.
            Refusal::ServerIsBusy { backoff_ms, .. } => {
                Verdict::again(Keep, Pause::Busy(Duration::from_millis(*backoff_ms)))
            }
            // The leader changed under the proposal, or before it: the next peer leads, or knows who does. Stores
            // of old said it of a region that had been split, too; when all peers say it the region is forgotten.
            Refusal::StaleCommand => Verdict::again(NextPeer, Pause::Region).outcome_open(),
            // Another store lives at this address now.
            Refusal::StoreNotMatch { .. } => Verdict::again(ForgetStore, Pause::Region),
            // The next try would be as large.
            Refusal::RaftEntryTooLarge { .. } => Verdict::give_up(ErrorKind::TooLarge),
            // The leader is new and still fetches a timestamp; or a merge is under way; or reads
            // cannot be ordered yet. It passes.
            Refusal::MaxTimestampNotSynced
            | Refusal::ReadIndexNotReady { .. }
            | Refusal::ProposalInMergingMode { .. } => Verdict::again(Keep, Pause::Region),
            // This replica lags behind or has nothing yet; others may do better.
            Refusal::DataIsNotReady { .. } | Refusal::RegionNotInitialized { .. } => {
                Verdict::again(NextPeer, Pause::Region)
            }
            // Room may be made.
            Refusal::DiskFull { .. } => Verdict::again(Keep, Pause::Busy(Duration::ZERO)),
            // The region was removed from that store and came back as another peer.
            Refusal::MismatchPeerId { .. } => Verdict::again(ForgetRegion, Pause::Region),
            // The store itself cannot tell.
            Refusal::UndeterminedResult { .. } => {
                Verdict::again(Keep, Pause::Region).outcome_open()
            }
            // Not taken by the consensus library: certainly not proposed.
            Refusal::Other { .. } if *refusal == Refusal::proposal_dropped() => {
                Verdict::again(Keep, Pause::Region)
            }
            // A timestamp that the scheduler never gave out.
            Refusal::Other { message } if message.contains("invalid max_ts update") => {
                Verdict::give_up(ErrorKind::Rejected)
            }
            // Stopping, applying a snapshot, and whatever newer stores may say.
            Refusal::Other { .. } => Verdict::again(NextPeer, Pause::Region).outcome_open(),
        }
    }

    fn on_epoch_not_match(&self, current: &[metapb::Region]) -> Verdict {
        let mine = region::epoch(&self.region);
        let store_is_behind = current
            .iter()
            .find(|theirs| theirs.id == self.region.id)
            .is_some_and(|theirs| region::epoch(theirs).version < mine.version);
        if current.is_empty() {
            Verdict::again(Correction::ForgetRegion, Pause::Region)
        } else if store_is_behind {
            // The store has yet to apply what the client already knows of.
            Verdict::again(Correction::Keep, Pause::Region)
        } else {
            Verdict::again(Correction::Regions(current.to_vec()), Pause::None)
        }
    }

    /// The transport failed, or gRPC itself said no.
    pub(crate) fn on_rpc_failure(&self, status: &tonic::Status) -> Verdict {
        use tonic::Code;
        if never_sent(status) {
            return Verdict::again(Correction::NextPeer, Pause::Unreachable);
        }
        match status.code() {
            // The store understood and will say the same next time.
            Code::Unimplemented
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated => Verdict::give_up(ErrorKind::Rejected),
            // The answer is larger than this client takes.
            Code::OutOfRange => Verdict::give_up(ErrorKind::TooLarge).outcome_open(),
            Code::ResourceExhausted => {
                Verdict::again(Correction::Keep, Pause::Busy(Duration::ZERO)).outcome_open()
            }
            // The connection broke, the store is stopping, or it did not answer in time: another
            // peer may lead by now, and this one will say who.
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => {
                Verdict::again(Correction::NextPeer, Pause::Unreachable).outcome_open()
            }
        }
    }
}

/// Stores say it in the reason or in the message, with either case.
fn is_missed_deadline(reason: &str) -> bool {
    reason.eq_ignore_ascii_case("deadline is exceeded")
}

/// Whether the connection could not be made, so that no store has seen the request.
fn never_sent(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u64, store_id: u64) -> metapb::Peer {
        metapb::Peer { id, store_id, ..Default::default() }
    }

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> metapb::Region {
        metapb::Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            peers: vec![peer(11, 1), peer(12, 2), peer(13, 3)],
            ..Default::default()
        }
    }

    fn route() -> Route {
        Route { region: Arc::new(region(1, "a", "z", 2)), peer: peer(11, 1) }
    }

    fn again(correction: Correction, pause: Pause) -> Verdict {
        Verdict { correction, fate: Fate::Again(pause), outcome_open: false }
    }

    /// S0.33: a refusal that names the leader is all it takes to find it.
    #[test]
    fn a_named_leader_is_asked_at_once_and_an_unknown_one_later() {
        let told = Refusal::NotLeader { region_id: 1, leader: Some(peer(12, 2)) };
        assert_eq!(route().on_refusal(&told), again(Correction::Leader(peer(12, 2)), Pause::None));
        let untold = Refusal::NotLeader { region_id: 1, leader: None };
        assert_eq!(route().on_refusal(&untold), again(Correction::NextPeer, Pause::Region));
    }

    /// S0.34: a store says by `EpochNotMatch` that a region has changed its version, and how it looks now; by
    /// `StaleCommand` that the term has changed, or, if it is an old one, that the version has.
    #[test]
    fn what_has_changed_is_told_by_two_refusals() {
        let newer = vec![region(1, "m", "z", 3), region(2, "a", "m", 3)];
        let changed = Refusal::EpochNotMatch { current_regions: newer.clone() };
        assert_eq!(route().on_refusal(&changed).correction, Correction::Regions(newer));
        let stale = route().on_refusal(&Refusal::StaleCommand);
        assert_eq!(stale, again(Correction::NextPeer, Pause::Region).outcome_open());
    }

    #[test]
    fn a_newer_map_replaces_ours_and_an_older_one_does_not() {
        let newer = vec![region(1, "m", "z", 3), region(2, "a", "m", 3)];
        let refusal = Refusal::EpochNotMatch { current_regions: newer.clone() };
        assert_eq!(route().on_refusal(&refusal), again(Correction::Regions(newer), Pause::None));
        let older = Refusal::EpochNotMatch { current_regions: vec![region(1, "", "z", 1)] };
        assert_eq!(route().on_refusal(&older), again(Correction::Keep, Pause::Region));
        let none = Refusal::EpochNotMatch { current_regions: vec![] };
        assert_eq!(route().on_refusal(&none), again(Correction::ForgetRegion, Pause::Region));
    }

    #[test]
    fn only_answers_that_may_follow_a_proposal_leave_the_outcome_open() {
        let open = [
            Refusal::StaleCommand,
            Refusal::UndeterminedResult { message: String::new() },
            Refusal::RegionNotFound { region_id: 1 },
            Refusal::deadline_exceeded(),
            Refusal::closing(),
        ];
        let certain = [
            Refusal::NotLeader { region_id: 1, leader: None },
            Refusal::EpochNotMatch { current_regions: vec![] },
            Refusal::ServerIsBusy { reason: "inbox full".into(), backoff_ms: 0 },
            Refusal::proposal_dropped(),
            Refusal::MismatchPeerId { requested: 1, actual: 2 },
            Refusal::DiskFull { store_ids: vec![1], reason: String::new() },
        ];
        assert!(open.iter().all(|refusal| route().on_refusal(refusal).outcome_open));
        assert!(certain.iter().all(|refusal| !route().on_refusal(refusal).outcome_open));
    }

    #[test]
    fn what_cannot_get_better_is_given_up() {
        let too_large = Refusal::RaftEntryTooLarge { region_id: 1, entry_size: 1 << 30 };
        assert_eq!(route().on_refusal(&too_large).fate, Fate::GiveUp(ErrorKind::TooLarge));
        let refused = route().on_rpc_failure(&tonic::Status::unimplemented("no such method"));
        assert_eq!(refused.fate, Fate::GiveUp(ErrorKind::Rejected));
    }

    #[test]
    fn a_request_that_was_never_sent_has_certainly_not_happened() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(refused.into())));
        assert!(!route().on_rpc_failure(&status).outcome_open);
        assert!(route().on_rpc_failure(&tonic::Status::unavailable("broken")).outcome_open);
    }
}
