//! Why a transactional command stops: something about a key, about the region, or about the disk.

use bytes::Bytes;
use proto::kvrpcpb::{self, KeyError, LockInfo, write_conflict::Reason};
use proto::{Refusal, deadlock};
use raftstore::error::Fault;

use crate::keys::{Key, KeyMistake};

/// Something about a key; travels in the answer as a `KeyError`, and the client branches on it.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyProblem {
    /// Another transaction's lock stands in the way. Resolve it or wait, then try again.
    Locked(Box<LockInfo>),
    /// Somebody else wrote. Begin again with a newer timestamp.
    WriteConflict(Box<WriteConflict>),
    /// The key was to be new and is not.
    AlreadyExist {
        /// Which key.
        key: Bytes,
    },
    /// Committing, but the lock is gone and no commit record says why: the transaction was rolled
    /// back, or never prewrote this key.
    TxnLockNotFound {
        /// Which transaction.
        start_ts: u64,
        /// Which key.
        key: Bytes,
    },
    /// There is no such transaction on its primary key, and none was to be rolled back.
    TxnNotFound {
        /// Which transaction.
        start_ts: u64,
        /// Its primary key.
        primary: Bytes,
    },
    /// The commit timestamp is below what readers were promised. Take a newer one.
    CommitTsExpired {
        /// Which transaction.
        start_ts: u64,
        /// When it wanted to commit.
        attempted_commit_ts: u64,
        /// Which key says no.
        key: Bytes,
        /// From when on it may.
        min_commit_ts: u64,
    },
    /// The mutation's assertion about the key does not hold.
    AssertionFailed(Box<kvrpcpb::AssertionFailed>),
    /// The key named as primary has a lock that names another.
    PrimaryMismatch(Box<LockInfo>),
    /// Waiting for this lock would close a circle.
    Deadlock(Box<Deadlock>),
    /// Give up the transaction.
    Abort(Abort),
}

/// Whose write stands in the way of whom.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteConflict {
    /// Who was stopped.
    pub start_ts: u64,
    /// Who wrote…
    pub conflict_start_ts: u64,
    /// … and when that became visible; 0 when it has not.
    pub conflict_commit_ts: u64,
    /// On which key.
    pub key: Bytes,
    /// Primary of the one who was stopped.
    pub primary: Bytes,
    /// Which rule was broken.
    pub reason: Reason,
}

/// Who waits for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Deadlock {
    /// Who was stopped.
    pub start_ts: u64,
    /// Who holds the lock it wants.
    pub lock_ts: u64,
    /// The key it wants.
    pub lock_key: Bytes,
    /// Hash of the key it holds and the last one in the chain wants.
    pub deadlock_key_hash: u64,
    /// That key.
    pub deadlock_key: Bytes,
    /// From the holder round to the one who was stopped.
    pub wait_chain: Vec<deadlock::WaitForEntry>,
}

/// Reasons to give up a transaction; clients know them by their text only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Abort {
    /// A pessimistic transaction prewrites a key whose lock it has lost.
    #[error("PessimisticLockNotFound: txn {start_ts} holds no lock on {}", show(.key))]
    PessimisticLockNotFound {
        /// Which transaction.
        start_ts: u64,
        /// Which key.
        key: Bytes,
    },
    /// The transaction was rolled back before it locked the key.
    #[error("PessimisticLockRolledBack: txn {start_ts} was rolled back on {}", show(.key))]
    PessimisticLockRolledBack {
        /// Which transaction.
        start_ts: u64,
        /// Which key.
        key: Bytes,
    },
    /// The key is locked by the same transaction in another way.
    #[error("LockTypeNotMatch: the lock of txn {start_ts} on {} is {found}", show(.key))]
    LockTypeNotMatch {
        /// Which transaction.
        start_ts: u64,
        /// Which key.
        key: Bytes,
        /// The kind of lock that stands there.
        found: &'static str,
    },
    /// A key was to be locked only if it exists, without being read.
    #[error(
        "LockIfExistsFailed: txn {start_ts} must ask for the value of {} to lock it only if it exists",
        show(.key)
    )]
    LockIfExistsFailed {
        /// Which transaction.
        start_ts: u64,
        /// Which key.
        key: Bytes,
    },
    /// Rolling back what is committed.
    #[error("Committed: txn {start_ts} is committed at {commit_ts} on {}", show(.key))]
    Committed {
        /// Which transaction.
        start_ts: u64,
        /// When.
        commit_ts: u64,
        /// On which key.
        key: Bytes,
    },
    /// A commit before its own start.
    #[error("InvalidTxnTso: txn {start_ts} cannot commit at {commit_ts}")]
    InvalidTxnTso {
        /// Which transaction.
        start_ts: u64,
        /// When it wanted to commit.
        commit_ts: u64,
    },
    /// The transaction began before the safe point: what it would see, or would have to be checked
    /// against, may be gone. The words are those that clients know from TiDB.
    #[error(
        "GCTooEarly: GC life time is shorter than transaction duration, transaction starts at \
         {start_ts}, GC safe point is {safe_point}"
    )]
    TooOld {
        /// When it began, or reads.
        start_ts: u64,
        /// From when on transactions are welcome.
        safe_point: u64,
    },
    /// The request asks for things that do not go together.
    #[error("InvalidRequest: {0}")]
    InvalidRequest(&'static str),
    /// The key is not one that this cluster serves.
    #[error(transparent)]
    Key(#[from] KeyMistake),
}

fn show(key: &Bytes) -> proto::key::Readable<'_> {
    proto::key::Readable(key)
}

impl KeyProblem {
    /// The lock stands in the way.
    pub fn locked(info: LockInfo) -> Self {
        Self::Locked(Box::new(info))
    }
}

impl From<Abort> for KeyProblem {
    fn from(abort: Abort) -> Self {
        Self::Abort(abort)
    }
}

impl From<KeyProblem> for KeyError {
    fn from(problem: KeyProblem) -> Self {
        let mut error = Self::default();
        match problem {
            KeyProblem::Locked(info) => error.locked = Some(*info),
            KeyProblem::WriteConflict(conflict) => {
                // Old clients look at the text, new ones at the fields.
                error.retryable = format!(
                    "WriteConflict: {:?}, txn {} met txn {} committed at {} on {}",
                    conflict.reason,
                    conflict.start_ts,
                    conflict.conflict_start_ts,
                    conflict.conflict_commit_ts,
                    show(&conflict.key)
                );
                error.conflict = Some(kvrpcpb::WriteConflict {
                    start_ts: conflict.start_ts,
                    conflict_ts: conflict.conflict_start_ts,
                    key: conflict.key,
                    primary: conflict.primary,
                    conflict_commit_ts: conflict.conflict_commit_ts,
                    reason: conflict.reason as i32,
                });
            }
            KeyProblem::AlreadyExist { key } => {
                error.already_exist = Some(kvrpcpb::AlreadyExist { key });
            }
            KeyProblem::TxnLockNotFound { start_ts, key } => {
                // Clients retry on this word.
                error.retryable =
                    format!("TxnLockNotFound: txn {start_ts} holds no lock on {}", show(&key));
                error.txn_lock_not_found = Some(kvrpcpb::TxnLockNotFound { key });
            }
            KeyProblem::TxnNotFound { start_ts, primary } => {
                error.txn_not_found = Some(kvrpcpb::TxnNotFound { start_ts, primary_key: primary });
            }
            KeyProblem::CommitTsExpired { start_ts, attempted_commit_ts, key, min_commit_ts } => {
                error.commit_ts_expired = Some(kvrpcpb::CommitTsExpired {
                    start_ts,
                    attempted_commit_ts,
                    key,
                    min_commit_ts,
                });
            }
            KeyProblem::AssertionFailed(failed) => error.assertion_failed = Some(*failed),
            KeyProblem::PrimaryMismatch(info) => {
                error.primary_mismatch = Some(kvrpcpb::PrimaryMismatch { lock_info: Some(*info) });
            }
            KeyProblem::Deadlock(deadlock) => {
                error.deadlock = Some(kvrpcpb::Deadlock {
                    lock_ts: deadlock.lock_ts,
                    lock_key: deadlock.lock_key,
                    deadlock_key_hash: deadlock.deadlock_key_hash,
                    wait_chain: deadlock.wait_chain,
                    deadlock_key: deadlock.deadlock_key,
                });
            }
            KeyProblem::Abort(abort) => error.abort = abort.to_string(),
        }
        error
    }
}

/// Why a command did not end well. Nothing was written.
#[derive(Debug)]
pub enum Stop {
    /// Something about a key.
    Key(KeyProblem),
    /// Something about the region, or a limit.
    Refused(Refusal),
    /// The engine failed.
    Fault(Fault),
}

impl From<KeyProblem> for Stop {
    fn from(problem: KeyProblem) -> Self {
        Self::Key(problem)
    }
}

impl From<Abort> for Stop {
    fn from(abort: Abort) -> Self {
        Self::Key(abort.into())
    }
}

impl From<KeyMistake> for Stop {
    fn from(mistake: KeyMistake) -> Self {
        Self::Key(Abort::Key(mistake).into())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Stop {
    /// A lock of another transaction stands in the way.
    pub(crate) fn locked(lock: &super::record::Lock, key: &Key) -> Self {
        KeyProblem::locked(lock.info(key)).into()
    }

    /// The two places of an answer that it belongs to: region error, key error.
    pub(crate) fn into_answer(self) -> (Option<proto::errorpb::Error>, Option<KeyError>) {
        match self {
            Self::Key(problem) => (None, Some(problem.into())),
            Self::Refused(refusal) => (Some(refusal.into()), None),
            Self::Fault(fault) => (Some(refuse(&fault).into()), None),
        }
    }
}

/// A fault met while serving a request: the store's own parts stop it; here the caller is told to go
/// elsewhere.
pub(crate) fn refuse(fault: &Fault) -> Refusal {
    tracing::error!(%fault, "a command met a fault");
    Refusal::Other { message: fault.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_their_words() {
        let error =
            KeyError::from(KeyProblem::TxnLockNotFound { start_ts: 1, key: Bytes::from("k") });
        assert!(error.retryable.contains("TxnLockNotFound"));
        assert!(error.txn_lock_not_found.is_some());

        let conflict = WriteConflict {
            start_ts: 1,
            conflict_start_ts: 2,
            conflict_commit_ts: 3,
            key: "k".into(),
            primary: "p".into(),
            reason: Reason::Optimistic,
        };
        let error = KeyError::from(KeyProblem::WriteConflict(Box::new(conflict)));
        assert!(!error.retryable.is_empty());
        assert_eq!(error.conflict.unwrap().conflict_commit_ts, 3);

        let abort = Abort::Committed { start_ts: 1, commit_ts: 2, key: "k".into() };
        let error = KeyError::from(KeyProblem::from(abort));
        assert_eq!(error.abort, "Committed: txn 1 is committed at 2 on k");
    }
}
