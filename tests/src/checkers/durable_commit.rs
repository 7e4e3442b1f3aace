//! A committed entry is durable on a quorum of voters (I7), of each half when the membership is joint.
//!
//! Asked of the disks, not of the replicas' memory, at the moment an entry is given to anyone to apply:
//! had the power failed everywhere in that instant, the entry would have to come back.
//!
//! **Which membership?** A change takes effect when the leader applies it, not when it is committed. So a
//! leader that has yet to apply the newest change rightly counts by the one before; never by an older one,
//! since it does not propose a change before it has applied the last. Hence two rules:
//!
//! - an entry that its own leader proposed *after* it applied its newest change needs a quorum of that
//!   membership and no other ([`DurableCommit::by_leader`]);
//! - of any other entry only this is known: the newest membership that anybody has applied, or the one
//!   before it ([`DurableCommit::by_anyone`]).

use std::collections::{BTreeMap, BTreeSet};

use proto::metapb;
use proto::region::{epoch, is_incoming, is_joint, is_outgoing};

/// The stores that vote: one set, or two when the membership is joint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    new: BTreeSet<u64>,
    /// Empty outside a joint membership.
    old: BTreeSet<u64>,
}

impl Voters {
    /// Those of this region.
    pub fn of(region: &metapb::Region) -> Self {
        let stores = |votes: fn(&metapb::Peer) -> bool| {
            region.peers.iter().filter(|peer| votes(peer)).map(|peer| peer.store_id).collect()
        };
        let old = if is_joint(region) { stores(is_outgoing) } else { BTreeSet::new() };
        Self { new: stores(is_incoming), old }
    }

    /// Whether these stores hold a majority of each half.
    pub fn have_quorum(&self, holders: &[u64]) -> bool {
        [&self.new, &self.old].into_iter().filter(|half| !half.is_empty()).all(|half| {
            let with = half.iter().filter(|store| holders.contains(store)).count();
            with > half.len() / 2
        })
    }
}

/// An entry that somebody is given to apply.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// Its region.
    pub region: u64,
    /// Its place.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The stores that hold it on disk, in their log or in a durable snapshot.
    pub durable_on: &'a [u64],
}

/// Every membership that was applied anywhere, and from which entry on leaders count by their newest.
#[derive(Debug, Default)]
pub struct DurableCommit {
    /// By region and conf version.
    applied: BTreeMap<(u64, u64), Voters>,
    /// By store and region: entries behind this one were proposed under the newest membership there.
    settled: BTreeMap<(u64, u64), u64>,
}

impl DurableCommit {
    /// Told of a region as some store has applied it.
    pub fn describes(&mut self, region: &metapb::Region) {
        let key = (region.id, epoch(region).conf_ver);
        self.applied.entry(key).or_insert_with(|| Voters::of(region));
    }

    /// Told that a peer has taken over a membership, when its log ended there.
    pub fn changed(&mut self, store: u64, region: u64, last_index: u64) {
        self.settled.insert((store, region), last_index);
    }

    /// Told that a store ended: its next life begins with what it has applied.
    pub fn stopped(&mut self, store: u64) {
        self.settled.retain(|(other, _), _| *other != store);
    }

    /// Told that the leader of an entry's term has committed it, under the membership that it shows.
    pub fn by_leader(
        &mut self,
        store: u64,
        shown: &metapb::Region,
        commit: &Commit<'_>,
    ) -> Result<(), String> {
        self.describes(shown);
        let settled = self.settled.get(&(store, shown.id)).copied().unwrap_or(0);
        let newest = epoch(shown).conf_ver;
        self.check(commit, newest, if commit.index > settled { 1 } else { 2 })
    }

    /// Told that some store is given an entry as committed, the first to be.
    pub fn by_anyone(&mut self, commit: &Commit<'_>) -> Result<(), String> {
        self.check(commit, u64::MAX, 2)
    }

    fn check(&self, commit: &Commit<'_>, newest: u64, allowed: usize) -> Result<(), String> {
        let Commit { region, index, term, durable_on } = commit;
        let known = self.applied.range((*region, 0)..=(*region, newest)).rev().take(allowed);
        let memberships: Vec<(u64, &Voters)> = known.map(|((_, ver), v)| (*ver, v)).collect();
        if memberships.is_empty() || memberships.iter().any(|(_, v)| v.have_quorum(durable_on)) {
            return Ok(());
        }
        Err(format!(
            "r{region} {index}@{term} is committed but durable only on {durable_on:?}, no quorum of {memberships:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};

    use super::*;

    fn region(conf_ver: u64, peers: &[(u64, metapb::PeerRole)]) -> metapb::Region {
        let peer = |(store, role): &(u64, metapb::PeerRole)| metapb::Peer {
            id: store + 10,
            store_id: *store,
            role: (*role).into(),
            ..Default::default()
        };
        metapb::Region {
            id: 1,
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version: 1 }),
            peers: peers.iter().map(peer).collect(),
            ..Default::default()
        }
    }

    fn three() -> metapb::Region {
        region(1, &[(1, Voter), (2, Voter), (3, Voter)])
    }

    fn commit(index: u64, durable_on: &[u64]) -> Commit<'_> {
        Commit { region: 1, index, term: 2, durable_on }
    }

    #[test]
    fn a_commit_on_a_minority_of_disks_is_found() {
        let mut checker = DurableCommit::default();
        assert!(checker.by_leader(1, &three(), &commit(4, &[1, 3])).is_ok());
        assert!(checker.by_leader(1, &three(), &commit(5, &[3])).is_err());
        assert!(checker.by_leader(1, &three(), &commit(5, &[3, 9])).is_err());
        assert!(checker.by_anyone(&commit(5, &[2, 3])).is_ok());
        assert!(checker.by_anyone(&commit(5, &[2])).is_err());
    }

    #[test]
    fn a_learner_counts_for_nothing() {
        let mut checker = DurableCommit::default();
        let region = region(2, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
        assert!(checker.by_leader(1, &region, &commit(4, &[1, 4])).is_err());
        assert!(checker.by_leader(1, &region, &commit(4, &[1, 2, 4])).is_ok());
    }

    #[test]
    fn a_joint_membership_needs_both_halves() {
        let mut checker = DurableCommit::default();
        let joint =
            region(2, &[(1, Voter), (2, DemotingVoter), (3, DemotingVoter), (4, IncomingVoter)]);
        assert!(checker.by_leader(1, &joint, &commit(4, &[1, 4])).is_err());
        assert!(checker.by_leader(1, &joint, &commit(4, &[1, 2])).is_err());
        assert!(checker.by_leader(1, &joint, &commit(4, &[1, 2, 4])).is_ok());
    }

    #[test]
    fn the_membership_before_counts_until_the_leader_has_applied_the_newest() {
        let mut checker = DurableCommit::default();
        checker.describes(&three());
        let two = region(2, &[(1, Voter), (2, Voter)]);
        // Somebody has applied the removal of s3; the leader may not have.
        checker.describes(&two);
        assert!(checker.by_anyone(&commit(7, &[1, 3])).is_ok());
        // The leader has, when its log ended at 8: what was there may have been counted before.
        checker.changed(1, 1, 8);
        assert!(checker.by_leader(1, &two, &commit(8, &[1, 3])).is_ok());
        assert!(checker.by_leader(1, &two, &commit(9, &[1, 3])).is_err());
        assert!(checker.by_leader(1, &two, &commit(9, &[1, 2])).is_ok());
        // Never the one before that.
        checker.describes(&region(3, &[(1, Voter), (2, Voter), (4, Voter)]));
        checker.describes(&region(4, &[(2, Voter), (4, Voter)]));
        assert!(checker.by_anyone(&commit(10, &[1, 3])).is_err());
    }
}
