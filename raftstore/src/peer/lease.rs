//! May a leader answer alone? Arithmetic over a given `now`.
//!
//! A follower that hears a leader grants nobody a vote for an election timeout (raft's check quorum).
//! So from the moment a heartbeat was *sent* that a quorum then answered, nobody else can be elected
//! for that long, and the leader may answer reads without asking for a little less. The answer's time
//! does not matter: it may have been on the way for long.
//!
//! ```text
//!   leader    sent ──────────────── lease ends
//!                \                     ┆
//!   follower      heard ───────────────┆──── may vote for another
//!                                      └──┘ margin: clock rates, tick grain (config.rs)
//! ```
//!
//! Every heartbeat carries a [`Mark`] that the follower sends back, so a quiet region renews its lease
//! without any further message.
//!
//! A call to campaign (`MsgTimeoutNow`) makes voters forget their promise, and it may arrive late, after
//! the transfer was given up. So once it was sent the lease is off for the rest of the term.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::PeerId;
use raft::eraftpb::ConfState;

use crate::msg::Now;
use crate::plant::{Bug, Planted};

/// Marks waiting for answers; the oldest are forgotten, which only delays a renewal.
const MARKS_MAX: usize = 256;

/// What a leader writes into a heartbeat or a read-index round and finds in the answer. It is never
/// used twice: not by another peer, and not by this peer in another life, whose answers may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) peer: PeerId,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
}

impl Mark {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.extend_from_slice(&self.peer.0.to_be_bytes());
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (peer, rest) = bytes.split_first_chunk::<8>()?;
        let (incarnation, rest) = rest.split_first_chunk::<8>()?;
        let number: &[u8; 8] = rest.try_into().ok()?;
        Some(Self {
            peer: PeerId(u64::from_be_bytes(*peer)),
            incarnation: u64::from_be_bytes(*incarnation),
            number: u64::from_be_bytes(*number),
        })
    }
}

/// Who votes: in a joint membership two sets, and nothing happens without a majority of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Voters {
    new: BTreeSet<PeerId>,
    /// Empty outside a joint membership.
    old: BTreeSet<PeerId>,
}

impl Voters {
    /// Those of this membership.
    pub(crate) fn of(members: &ConfState) -> Self {
        let set = |ids: &[u64]| ids.iter().copied().map(PeerId).collect();
        Self { new: set(&members.voters), old: set(&members.voters_outgoing) }
    }

    /// Whether those for whom this holds are a majority of each half.
    pub(crate) fn is_quorum(&self, has: impl Fn(PeerId) -> bool) -> bool {
        let has_most = |half: &BTreeSet<PeerId>| {
            half.iter().filter(|voter| has(**voter)).count() > half.len() / 2
        };
        has_most(&self.new) && (self.old.is_empty() || has_most(&self.old))
    }

    /// Everybody of either half.
    pub(crate) fn all(&self) -> impl Iterator<Item = PeerId> {
        self.new.union(&self.old).copied()
    }

    fn contains(&self, peer: PeerId) -> bool {
        self.new.contains(&peer) || self.old.contains(&peer)
    }
}

/// A leader's lease in one term.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    sent: VecDeque<(Mark, Now)>,
    /// The newest sending that each follower has answered.
    answered: BTreeMap<PeerId, Now>,
    is_revoked: bool,
    planted: Planted,
}

impl Lease {
    /// None yet.
    pub(crate) fn new(planted: Planted) -> Self {
        Self { planted, ..Self::default() }
    }

    /// A mark leaves with a heartbeat.
    pub(crate) fn on_sent(&mut self, mark: Mark, now: Now) {
        if self.sent.len() == MARKS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((mark, now));
    }

    /// A mark came back.
    pub(crate) fn on_answered(&mut self, from: PeerId, mark: Mark) {
        if let Ok(at) = self.sent.binary_search_by_key(&mark, |(mark, _)| *mark) {
            let sent = self.sent[at].1;
            let newest = self.answered.entry(from).or_insert(sent);
            *newest = sent.max(*newest);
        }
    }

    /// Planted: takes the moment of an answer for that of the question.
    pub(crate) fn on_answered_at(&mut self, from: PeerId, now: Now) {
        self.answered.insert(from, now);
    }

    /// Leadership may move without the voters' patience: no lease in this term any more.
    pub(crate) fn revoke(&mut self) {
        self.is_revoked = true;
    }

    /// From when on nobody else could be elected: the newest sending that a quorum of the voters,
    /// with this peer among them, has answered; in a joint membership a quorum of each half.
    pub(crate) fn started(&self, own: PeerId, voters: &Voters, now: Now) -> Option<Now> {
        if self.is_revoked || !voters.contains(own) {
            return None;
        }
        let new = self.answered_by_quorum(own, &voters.new, now);
        if voters.old.is_empty() {
            return new;
        }
        new.min(self.answered_by_quorum(own, &voters.old, now))
    }

    fn answered_by_quorum(&self, own: PeerId, half: &BTreeSet<PeerId>, now: Now) -> Option<Now> {
        let mut newest: Vec<Option<Now>> = half
            .iter()
            .map(|voter| if *voter == own { Some(now) } else { self.answered.get(voter).copied() })
            .collect();
        if self.planted.has(Bug::LeaseFromLearners) {
            newest = self.answered.values().map(|sent| Some(*sent)).chain([Some(now)]).collect();
        }
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.get(half.len() / 2).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: PeerId = PeerId(1);

    fn mark(number: u64) -> Mark {
        Mark { peer: OWN, incarnation: 7, number }
    }

    fn voters(ids: &[u64]) -> Voters {
        joint(ids, &[])
    }

    fn joint(new: &[u64], old: &[u64]) -> Voters {
        let members =
            ConfState { voters_outgoing: old.to_vec(), ..ConfState::from((new.to_vec(), vec![])) };
        Voters::of(&members)
    }

    #[test]
    fn a_lease_starts_when_the_answered_heartbeat_was_sent() {
        let three = voters(&[1, 2, 3]);
        let mut lease = Lease::default();
        lease.on_sent(mark(1), Now(100));
        lease.on_sent(mark(2), Now(200));
        assert_eq!(lease.started(OWN, &three, Now(900)), None);
        lease.on_answered(PeerId(2), mark(1));
        assert_eq!(lease.started(OWN, &three, Now(900)), Some(Now(100)));
        lease.on_answered(PeerId(3), mark(2));
        assert_eq!(lease.started(OWN, &three, Now(900)), Some(Now(200)));
        // An answer that comes late says nothing new.
        lease.on_answered(PeerId(3), mark(1));
        assert_eq!(lease.started(OWN, &three, Now(900)), Some(Now(200)));
    }

    #[test]
    fn it_takes_a_quorum_of_voters() {
        let mut lease = Lease::default();
        lease.on_sent(mark(1), Now(100));
        lease.on_answered(PeerId(2), mark(1));
        assert_eq!(lease.started(OWN, &voters(&[1, 2, 3, 4]), Now(900)), None);
        assert_eq!(lease.started(OWN, &voters(&[1, 3, 4]), Now(900)), None);
        assert_eq!(lease.started(OWN, &voters(&[1, 2]), Now(900)), Some(Now(100)));
        assert_eq!(lease.started(OWN, &voters(&[2, 3]), Now(900)), None);
    }

    #[test]
    fn between_two_memberships_it_takes_a_quorum_of_each() {
        let mut lease = Lease::default();
        lease.on_sent(mark(1), Now(100));
        lease.on_sent(mark(2), Now(200));
        lease.on_answered(PeerId(2), mark(2));
        let between = joint(&[1, 2, 4], &[1, 3, 4]);
        assert_eq!(lease.started(OWN, &between, Now(900)), None);
        lease.on_answered(PeerId(3), mark(1));
        assert_eq!(lease.started(OWN, &between, Now(900)), Some(Now(100)));
        lease.on_answered(PeerId(3), mark(2));
        assert_eq!(lease.started(OWN, &between, Now(900)), Some(Now(200)));
        // One that is to lose its vote counts in the old half only.
        assert_eq!(lease.started(OWN, &joint(&[2, 4], &[1, 2, 4]), Now(900)), None);
        assert_eq!(lease.started(OWN, &joint(&[2], &[1, 2]), Now(900)), Some(Now(200)));
    }

    #[test]
    fn the_only_voter_always_holds_it() {
        assert_eq!(Lease::default().started(OWN, &voters(&[1]), Now(900)), Some(Now(900)));
    }

    #[test]
    fn a_mark_of_another_life_counts_for_nothing() {
        let mut lease = Lease::default();
        lease.on_sent(mark(1), Now(100));
        lease.on_answered(PeerId(2), Mark { incarnation: 6, ..mark(1) });
        assert_eq!(lease.started(OWN, &voters(&[1, 2]), Now(900)), None);
        assert_eq!(Mark::decode(&mark(3).encode()), Some(mark(3)));
        assert_eq!(Mark::decode(b"short"), None);
    }

    #[test]
    fn after_a_call_to_campaign_there_is_no_lease_in_this_term() {
        let mut lease = Lease::default();
        lease.revoke();
        lease.on_sent(mark(1), Now(100));
        lease.on_answered(PeerId(2), mark(1));
        assert_eq!(lease.started(OWN, &voters(&[1, 2]), Now(900)), None);
    }
}
