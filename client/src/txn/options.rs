//! How transactions lock and commit: what a caller may choose per transaction.

use std::time::Duration;

/// How transactions lock and commit. The same for all that one
/// [`TransactionClient`](crate::TransactionClient) begins; see
/// [`with_options`](crate::TransactionClient::with_options).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// Whether a transaction counts as committed once all its keys are locked, which saves the
    /// caller the second phase. Large transactions go through both phases all the same, and so does
    /// everything on a store that does not offer this. Default true.
    pub async_commit: bool,
    /// Whether a transaction whose keys lie in one region commits with a single request. Default
    /// true.
    pub one_phase_commit: bool,
    /// How long a pessimistic transaction waits for a lock of another. Default
    /// [`LockWait::UntilTimeout`].
    pub lock_wait: LockWait,
}

impl TransactionOptions {
    /// Two phases, always: a commit that is easy to follow.
    pub fn two_phases() -> Self {
        Self { async_commit: false, one_phase_commit: false, ..Self::default() }
    }
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self { async_commit: true, one_phase_commit: true, lock_wait: LockWait::UntilTimeout }
    }
}

/// How long a pessimistic transaction waits for a lock that another one holds. The lock of a dead
/// transaction is cleared away in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// As long as the call may take.
    UntilTimeout,
    /// Not at all: the call fails as locked.
    No,
    /// At most this long, and not longer than the call may take.
    For(Duration),
}
