//! Bugs planted on purpose, to show that the simulator finds them.
//!
//! As `raftstore::plant` for the replication: each [`Bug`] is a mistake that somebody made elsewhere, or could
//! make here, and begins with the number of its story. A store's transactions have at most one; the code asks
//! where it would make the mistake. The feature `plant` is for the simulator alone: without it a [`Planted`]
//! has no size, cannot hold a bug, and its answer is a constant.
//!
//! A plant is the missing check and nothing else; one that another guard makes harmless is not kept. Looked for
//! in vain, in a few seeds each: a new leader that computes commit timestamps without knowing what its
//! predecessors' readers saw (T6), and a rollback that is a transaction's fate and is collapsed like one that is
//! a courtesy (T3). Not planted: a write that does not carry the term of its view (T8). A simulated store hands
//! it to its raft worker in the moment of the view, and cannot lose and win a leadership in between.
//!
//! `tests/README.md` has the table of all plants.

/// The bug of a store's transactions, if they have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(#[cfg(feature = "plant")] Option<Bug>);

impl Planted {
    /// Transactions with this bug.
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
    /// T1. A prewrite does not look whether somebody has written since the transaction began.
    ConflictUnchecked,
    /// T1. A key is reserved whatever was written there since the value was asked for.
    ReservedUnchecked,
    /// T2. A reservation that was lost is taken for one that still stands.
    LostLockAmended,
    /// T2. What a store has reserved in memory stands when it leads again, whoever led in between.
    ReservationsOutliveLeader,
    /// T3. Who rolls back a transaction that has not come yet does not write it down.
    RollbackUnrecorded,
    /// T3. A prewrite does not mind the record of its own rollback.
    OwnRollbackOverlooked,
    /// T4. A commit that finds neither lock nor record is answered as if it had come twice.
    CommitWithoutLock,
    /// T7. Readers do not say their timestamp.
    ReadUnsaid,
    /// T7. Locks that are about to be written are not shown to readers.
    LocksUnshown,
    /// T7. A commit is accepted below what readers were promised.
    PromiseBroken,
    /// T9. Who is older than the safe point is let in.
    SafePointIgnored,
    /// T10. Latches are released before the write is applied.
    LatchesLetGoEarly,
}
