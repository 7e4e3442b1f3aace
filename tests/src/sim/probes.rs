//! Rare things that should happen in some run ("sometimes"): a test that never saw a path has not tested it.
//!
//! Probes are observed from outside: messages, reports, answers, what the disks hold, and what the machines
//! say to the log of the program (`listener.rs`). No machine knows of them.
//!
//! A probe marked `must` happens in any thousand seeds; a run of so many fails when it does not: either the
//! simulator has stopped reaching that path, or the machines have stopped taking it. The others are told.

/// Declares the probes: name, whether it must be hit, and what it says of the run.
macro_rules! probes {
    ($($name:ident $must:ident $words:literal)*) => {
        /// Something rare that happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Probe {
            $(#[doc = $words] $name,)*
        }

        impl Probe {
            /// Every probe.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What happened, in words.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }

            /// Whether it happens in any thousand seeds.
            pub fn is_must(self) -> bool {
                match self { $(Self::$name => probes!($must),)* }
            }
        }
    };
    (must) => { true };
    (may) => { false };
}

probes! {
    // Elections.
    ElectionUnderPartition must "a leader is elected while links are cut"
    TwoLeaders must "two stores lead one region at once, in different terms"
    LeaderDeposed must "a leader that hears no quorum steps down"
    MessageOfOldTerm must "a message of an old term arrives"
    EarlyVote must "a vote is asked of a peer that a split has yet to create"
    LeaderPaused must "a leader stands still for longer than its lease"
    // The log.
    ConflictTruncated must "entries are replaced by a newer leader's"
    WritesFolded must "several writes travel in one entry"
    LogCut must "a log is cut"
    ReplicasCompared must "a quorum of replicas has come to the same hash"
    RefusedInLog may "an entry is refused when it is applied: the epoch has moved"
    ReplacedAnswered must "a caller is told that its entry was replaced by another"
    // Transactions.
    CommittedAsync must "a transaction is committed when all its keys are locked"
    CommittedInOnePhase must "a transaction is committed in one phase"
    AsyncCommitGivenUp must "a transaction goes back from async commit to two phases"
    PessimisticCommitted must "a transaction that reserved its keys is committed"
    ReservedInMemory must "a pessimistic lock is kept in memory"
    ReservationsSaved must "locks in memory are written before their leader hands over, or its region is split"
    ReservationsLost must "locks in memory are lost with their leader"
    LockedWithConflict must "a key is reserved in spite of a newer write"
    LockCommittedByOther must "who meets a lock commits it"
    LockRolledBackByOther must "who meets a lock rolls it back"
    AsyncCommitDecidedByOther must "an async commit is decided by its other keys"
    CommitPushed must "a reader pushes a commit behind its own time"
    CommitTooEarly must "a commit is refused: readers were promised a later one"
    CommitFoundRollback must "a commit finds that it was rolled back"
    ClientCrashedCommitting must "a client crashes while it commits"
    DeadlockFound must "a deadlock is found"
    KeptAlive must "a lock is kept alive"
    GarbageCollected must "old versions are removed"
    OracleMoved must "the source of timestamps moves"
    // Unknown outcomes.
    UnknownByDeposed must "a caller hears that nobody knows: leadership was lost"
    UnknownBySnapshot may "a caller hears that nobody knows: a snapshot took the entry's place"
    UnknownByRemoval may "a caller hears that nobody knows: the peer was removed"
    // Snapshots.
    SnapshotSent must "a snapshot is sent"
    SnapshotLost must "a snapshot is lost on its way"
    SnapshotDamaged must "a snapshot turns out damaged, and the peer is built again"
    SnapshotInstalled must "a snapshot is installed"
    SnapshotInTheWay must "a snapshot is refused: a region here is late to split, or stale"
    CrashBeforeInstall must "a store dies before it has installed a snapshot that it took"
    CrashAfterInstall must "a store dies between a snapshot's data and its log"
    // Splits.
    SplitApplied must "a region is split"
    SplitBySize must "a region is split because it is large"
    SplitOfAbsentChild may "a split leaves out a child whose newer peer is known here"
    SplitOverEmptyPeer must "a split finds an empty peer in the child's place"
    // Members.
    JointEntered must "a joint membership is entered"
    JointLeft must "a joint membership is left by an order"
    JointLeftUnbidden must "a joint membership is left because nobody gave the order"
    LeaderRemoved may "a leader applies its own removal"
    LeaderDemoted may "a leader loses its vote and steps down"
    HandsOverFirst must "a leader that is to go hands over first"
    TooFewHaveTheLog may "a change of members is refused: too few would have the log"
    TooFewAnswer must "a change of members is refused: too few would answer"
    LearnerPromoted must "a learner becomes a voter"
    // Transfers.
    TransferOffered must "leadership is offered"
    TransferCalled must "another peer is called to campaign"
    TransferAborted must "a transfer is given up, and the old leader leads on"
    // Reads.
    LeaseRead must "a read is served by lease"
    LeaseRefused must "a leader has no lease for a read and asks the others"
    SnapshotTooEarly must "a reader's snapshot is from before the view that would serve it"
    ReadIndexRetried must "a replica asks again for a read index"
    ReplicaRead must "a replica serves a read"
    LeaseLostWithPower must "a store loses power while it holds a lease"
    // Peers that come and go.
    EmptyPeerMade must "a message makes an empty peer"
    PeerDestroyed must "a peer is destroyed"
    StaleAsks must "a peer without a leader asks whether it still belongs"
    StaleDestroyed must "a peer that nobody told is destroyed as stale"
    DeadAnswers must "a tombstone answers a vote request"
    SchedulerTells may "the scheduler tells a peer that it is gone"
    PeerReplaced may "a store has a newer peer of a region than one it removed"
    // Disks.
    LogTailLost must "a log write under way is lost with the power"
    LogTailKept must "a log write under way survives the power though nobody was told"
    DataTailLost must "applied data is lost with the power, and the log replays it"
    CutsApart must "the power takes the newest of one disk and not of the other"
    FailedAtWrite must "a disk fails, and the store stops"
    FailedWriteIsThere must "a write that failed is on the disk all the same"
    FullDisk must "a disk is full, and the store stops"
    FullAtStart must "a store cannot start because its disk is full"
    LogStalled must "a log write takes longer than an election"
    StalledLosesPower must "a stalled disk loses power"
    Blackout must "every store loses power at once"
    // Clocks.
    JumpOfLeader must "the clock of a leader jumps forward"
    JumpOfFollower must "the clock of a follower jumps forward"
}

/// How often each probe was hit.
#[derive(Clone, Debug)]
pub struct Probes {
    hits: Vec<u64>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { hits: vec![0; Probe::ALL.len()] }
    }
}

impl Probes {
    /// It happened.
    pub fn saw(&mut self, probe: Probe) {
        self.hits[probe as usize] += 1;
    }

    /// How often it happened.
    pub fn hits(&self, probe: Probe) -> u64 {
        self.hits[probe as usize]
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        self.hits.iter_mut().zip(&other.hits).for_each(|(own, theirs)| *own += theirs);
    }

    /// Those that never happened.
    pub fn never(&self) -> impl Iterator<Item = Probe> + '_ {
        Probe::ALL.iter().copied().filter(|probe| self.hits(*probe) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_add_up_and_what_never_happened_is_told() {
        let (mut one, mut two) = (Probes::default(), Probes::default());
        one.saw(Probe::LogCut);
        two.saw(Probe::LogCut);
        two.saw(Probe::Blackout);
        one.add(&two);
        assert_eq!((one.hits(Probe::LogCut), one.hits(Probe::Blackout)), (2, 1));
        assert_eq!(one.never().count(), Probe::ALL.len() - 2);
        assert!(Probe::ALL.iter().enumerate().all(|(at, probe)| *probe as usize == at));
    }
}
