//! Bugs planted on purpose, to show that the simulator finds them.
//!
//! Each [`Bug`] is a mistake that somebody made elsewhere, or could make here. It begins with the
//! number that its story has (as in the names of the tests in `store/tests/famous`), or with the
//! invariant that it breaks (`I…`). A store has at most one of them, by its [`Config`]; the machines
//! ask where they would make the mistake:
//!
//! ```text
//!   if !self.planted.has(Bug::RangeKeptOfDestroyed) {
//!       self.region_map.remove(&range, region_id);
//!   }
//! ```
//!
//! **What it costs.** The feature `plant` is for the simulator alone, and no program is built with it.
//! Without it a [`Planted`] has no size, cannot hold a bug, and its answer is a constant: the compiler
//! leaves nothing of the question.
//!
//! **What makes a good plant.** The check or the line of code is missing, and nothing else: the fault
//! that it was a guard against must come from the world. A plant that another guard makes harmless
//! says so by never being found, and is not kept here.
//!
//! Left out: what the raft crate guards by itself (the acknowledgement of a learner, two changes of
//! membership at once). Looked for in vain so far: a lease kept through a transfer (L7), a follower
//! that votes at once after a restart, a lease asked of one half of a joint membership, a snapshot
//! installed while older entries are being applied (G11).
//!
//! `tests/README.md` has the table of all plants, with how many seeds it takes to find each.
//!
//! [`Config`]: crate::config::Config

/// The bug of a store, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(#[cfg(feature = "plant")] Option<Bug>);

impl Planted {
    /// A store with this bug.
    #[cfg(feature = "plant")]
    pub fn one(bug: Bug) -> Self {
        Self(Some(bug))
    }

    /// Whether this bug is here.
    #[cfg(feature = "plant")]
    pub fn has(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    /// Whether this bug is here. It is not.
    #[cfg(not(feature = "plant"))]
    pub const fn has(self, _bug: Bug) -> bool {
        false
    }
}

/// A mistake to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    // Reads without asking, and leases.
    /// L5. A lease counts from when a heartbeat's answer came, not from when the heartbeat was sent.
    LeaseFromAnswer,
    /// L8. A leader trusts its lease before it has applied an entry of its own term.
    LeaseBeforeOwnEntry,
    /// R4. The answer of a learner counts for a lease.
    LeaseFromLearners,

    // Reads that ask.
    /// L1. A new leader answers a barrier before it knows what is committed.
    BarrierBeforeOwnEntry,
    /// L2. A leader answers a barrier by its own commit index, without asking whether it still leads.
    BarrierWithoutQuorum,
    /// L3. A new read joins a question that was asked before it came.
    ReadJoinsQuestion,
    /// L4. A follower asks again under the old name, and takes the late answer to its first question.
    OldAnswerTaken,
    /// L11. A follower answers by what it has applied, without asking its leader.
    FollowerAnswersUnasked,
    /// L9. A follower asks its leader, and answers before it has applied as far.
    FollowerAnswersUnapplied,

    // Writes.
    /// I12. A write is answered when it is proposed.
    AnsweredWhenProposed,
    /// I12. Whatever is committed at the index of a proposal answers it, whoever proposed it.
    OverwrittenAcknowledged,
    /// T5. A write whose leader lost its role is said to have failed, though nobody knows.
    UnknownSaidToFail,
    /// I8. A write that has waited through a split is proposed as if it had come after it.
    WaitingWriteUnchecked,
    /// I8. A write is applied whatever the epoch it was proposed at.
    EpochUncheckedWhenApplied,
    /// I5. A split leaves the version of the region as it was.
    SplitKeepsVersion,

    // What is on disk.
    /// S1. The applied index is written in a batch of its own, before the data it speaks of.
    AppliedIndexApart,
    /// S1. A change of membership is applied and not written down.
    MembersUnwritten,
    /// I8. The batch that applies a split does not hold the new region.
    SplitHalfWritten,
    /// S3. A log is cut before the data of its entries is durable.
    LogCutBeforeSync,
    /// G16. A log is cut one entry too far.
    LogCutTooFar,
    /// S2. A sync of the data that did not happen is taken for done.
    FailedSyncBelieved,
    /// R13. Entries that were overwritten stay in the cache.
    CacheKeepsOverwritten,

    // Snapshots.
    /// G3. The log begins anew behind a snapshot that is not in the engine yet.
    LogBeforeSnapshotData,
    /// S5. An installed snapshot is not synced.
    SnapshotNotSynced,
    /// I6. A snapshot is installed over the keys that are there, which stay.
    SnapshotKeepsOldKeys,
    /// R3. A peer that is brought up by a snapshot keeps the membership it knew.
    SnapshotMembersIgnored,
    /// G3. A snapshot is taken though another region here holds some of its keys.
    SnapshotOverNeighbour,
    /// G14. Of a damaged snapshot the part before the damage is installed.
    DamagedSnapshotInstalled,

    // Peers that go.
    /// G2. The range of a destroyed peer stays in the map of regions.
    RangeKeptOfDestroyed,
    /// G12. A removed peer leaves no tombstone on disk.
    TombstoneUnwritten,
    /// G13. The data of a destroyed peer is cleared so late that its successor's is hit.
    LateClearing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "plant"))]
    fn without_the_feature_there_is_nothing_to_ask() {
        const _: () = assert!(!Planted().has(Bug::LateClearing));
        assert_eq!(size_of::<Planted>(), 0);
    }

    #[test]
    #[cfg(feature = "plant")]
    fn a_store_has_the_bug_it_was_given_and_no_other() {
        assert!(Planted::one(Bug::LateClearing).has(Bug::LateClearing));
        assert!(!Planted::one(Bug::LateClearing).has(Bug::LeaseFromAnswer));
        assert!(!Planted::default().has(Bug::LateClearing));
    }
}
