//! When a lock matters to a reader.
//!
//! A lock says that a value may come to be, at a commit timestamp not known yet. A reader at T may
//! pass it by when that commit certainly lies after T, or when nothing it reads can change by it;
//! otherwise it must learn the transaction's fate first.

use bytes::Bytes;
use proto::kvrpcpb::{self, IsolationLevel, write_conflict::Reason};

use super::problem::{KeyProblem, Stop, WriteConflict};
use super::record::{Lock, LockKind, Write};
use crate::keys::Key;

/// How a request reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What was committed up to here is seen.
    pub ts: u64,
    /// Whether locks matter.
    pub isolation: IsolationLevel,
    /// Transactions that the caller knows to be no obstacle: rolled back, or to be committed after
    /// `ts`.
    pub resolved: Vec<u64>,
    /// Transactions that the caller knows to be committed at or before `ts`.
    pub committed: Vec<u64>,
    /// A single key is asked for: only then may its own primary lock be passed by.
    pub is_point: bool,
}

/// What a reader does about a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Reads as if it were not there.
    Pass,
    /// Takes the lock's value: its transaction is committed.
    TakeValue,
    /// Must learn the transaction's fate first.
    Blocked,
    /// Reads at an outdated timestamp (read committed, checked).
    Outdated,
}

impl Reading {
    /// How this request reads at `ts`.
    pub fn new(context: &kvrpcpb::Context, ts: u64) -> Self {
        Self {
            ts,
            isolation: context.isolation_level(),
            resolved: context.resolved_locks.clone(),
            committed: context.committed_locks.clone(),
            is_point: false,
        }
    }

    /// The same for the read of single keys.
    pub fn of_keys(context: &kvrpcpb::Context, ts: u64) -> Self {
        Self { is_point: true, ..Self::new(context, ts) }
    }

    /// What to do about this lock on this key.
    pub fn verdict(&self, key: &Key, lock: &Lock) -> Verdict {
        let changes_nothing = matches!(lock.kind, LockKind::Lock | LockKind::Pessimistic);
        if changes_nothing || self.resolved.contains(&lock.start_ts) {
            return Verdict::Pass;
        }
        match self.isolation {
            IsolationLevel::Rc => return Verdict::Pass,
            IsolationLevel::RcCheckTs => return Verdict::Outdated,
            IsolationLevel::Si => {}
        }
        // The primary's commit is the commit point: while its lock stands, nothing is committed yet,
        // so "the latest committed" does not include it. Not so for async commit.
        let latest_of_own_primary = self.is_point
            && self.ts == u64::MAX
            && lock.primary == key.user()
            && !lock.async_commit;
        if lock.start_ts > self.ts || lock.min_commit_ts > self.ts || latest_of_own_primary {
            Verdict::Pass
        } else if self.committed.contains(&lock.start_ts) {
            Verdict::TakeValue
        } else {
            Verdict::Blocked
        }
    }

    /// Whether this lock stops the reader.
    pub(crate) fn is_stopped_by(&self, key: &Key, lock: &Lock) -> bool {
        match self.verdict(key, lock) {
            Verdict::Pass | Verdict::TakeValue => false,
            Verdict::Blocked | Verdict::Outdated => true,
        }
    }

    /// What the caller is told of a lock that stops it.
    pub(crate) fn stopped_by(&self, key: &Key, lock: &Lock) -> Stop {
        match self.isolation {
            IsolationLevel::RcCheckTs => self.outdated(key, lock.start_ts, 0, &lock.primary),
            IsolationLevel::Si | IsolationLevel::Rc => Stop::locked(lock, key),
        }
    }

    /// A record newer than the reader's timestamp is on the key (read committed, checked).
    pub(crate) fn outdated_by(&self, key: &Key, write: &Write, commit_ts: u64) -> Stop {
        // A record does not say where its transaction's primary is.
        self.outdated(key, write.start_ts, commit_ts, &Bytes::new())
    }

    fn outdated(&self, key: &Key, start_ts: u64, commit_ts: u64, primary: &Bytes) -> Stop {
        KeyProblem::WriteConflict(Box::new(WriteConflict {
            start_ts: self.ts,
            conflict_start_ts: start_ts,
            conflict_commit_ts: commit_ts,
            key: key.user().clone(),
            primary: primary.clone(),
            reason: Reason::RcCheckTs,
        }))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock::new(LockKind::Put, "p", 10, 100)
    }

    fn at(ts: u64) -> Reading {
        Reading { ts, is_point: true, ..Default::default() }
    }

    #[test]
    fn each_row_of_the_rule() {
        let (key, primary) = (Key::new("k"), Key::new("p"));
        assert_eq!(at(10).verdict(&key, &lock()), Verdict::Blocked);
        assert_eq!(at(9).verdict(&key, &lock()), Verdict::Pass);
        for kind in [LockKind::Lock, LockKind::Pessimistic] {
            assert_eq!(at(20).verdict(&key, &Lock { kind, ..lock() }), Verdict::Pass);
        }
        let pushed = Lock { min_commit_ts: 21, ..lock() };
        assert_eq!(at(20).verdict(&key, &pushed), Verdict::Pass);
        assert_eq!(at(21).verdict(&key, &pushed), Verdict::Blocked);
        let resolved = Reading { resolved: vec![10], ..at(20) };
        assert_eq!(resolved.verdict(&key, &lock()), Verdict::Pass);
        let committed = Reading { committed: vec![10], ..at(20) };
        assert_eq!(committed.verdict(&key, &lock()), Verdict::TakeValue);
        assert_eq!(at(u64::MAX).verdict(&primary, &lock()), Verdict::Pass);
        assert_eq!(at(u64::MAX).verdict(&key, &lock()), Verdict::Blocked);
        let async_commit = Lock { async_commit: true, ..lock() };
        assert_eq!(at(u64::MAX).verdict(&primary, &async_commit), Verdict::Blocked);
        let scan = Reading { is_point: false, ..at(u64::MAX) };
        assert_eq!(scan.verdict(&primary, &lock()), Verdict::Blocked);
    }

    #[test]
    fn read_committed_passes_locks_and_its_checked_form_refuses_them() {
        let key = Key::new("k");
        let rc = Reading { isolation: IsolationLevel::Rc, ..at(20) };
        assert_eq!(rc.verdict(&key, &lock()), Verdict::Pass);
        let checked = Reading { isolation: IsolationLevel::RcCheckTs, ..at(5) };
        assert_eq!(checked.verdict(&key, &lock()), Verdict::Outdated);
        let Stop::Key(KeyProblem::WriteConflict(conflict)) = checked.stopped_by(&key, &lock())
        else {
            panic!("a checked reader is told of a conflict");
        };
        assert_eq!((conflict.conflict_start_ts, conflict.conflict_commit_ts), (10, 0));
        assert_eq!((conflict.key, conflict.primary), ("k".into(), "p".into()));
    }
}
