//! What became of a transaction? Its primary key knows; and if the client is gone, this decides.
//!
//! ```text
//! primary locked ─┬─ alive: say so; push its commit beyond the asking reader if it allows
//!                 ├─ time is over: roll back
//!                 └─ async commit: the other keys must be asked
//! not locked ─────┬─ committed, rolled back: say so
//!                 └─ nothing known: roll back for good, so that a late prewrite fails
//! ```

use proto::kvrpcpb::{Action, CheckTxnStatusRequest};
use raftstore::engine::Snapshot;

use super::rollback::{Protection, rollback_lock_as, rollback_unlocked};
use crate::keys::Key;
use crate::txn::problem::{KeyProblem, Stop};
use crate::txn::reader::{OwnRecord, Reader};
use crate::txn::record::Lock;
use crate::txn::writer::Writer;

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// It is under way.
    Alive {
        /// The lock on its primary.
        lock: Box<Lock>,
        /// Whether the asking reader need not wait for it.
        is_pushed: bool,
    },
    /// It is committed.
    Committed {
        /// When.
        commit_ts: u64,
    },
    /// It is rolled back, or there is nothing to decide; what was done about it.
    Gone(Action),
}

/// Answers, and decides where nobody else will.
pub fn check_status<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    primary: &Key,
    request: &CheckTxnStatusRequest,
) -> Result<Status, Stop> {
    match reader.lock(primary)? {
        Some(lock) if lock.start_ts == request.lock_ts => {
            if request.verify_is_primary && lock.primary != primary.user() {
                // Another key became the primary when the statement was tried again. A lock that was
                // prewritten, or is being resolved, tells the caller where to ask instead; a stray
                // reservation does not count.
                if !lock.is_pessimistic() || request.resolving_pessimistic_lock {
                    return Err(KeyProblem::PrimaryMismatch(Box::new(lock.info(primary))).into());
                }
                let status = unlocked(reader, writer, primary, request, None)?;
                writer.remove_lock(primary, lock.start_ts, 0);
                return Ok(status);
            }
            locked(reader, writer, primary, request, lock)
        }
        foreign => unlocked(reader, writer, primary, request, foreign),
    }
}

fn locked<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    primary: &Key,
    request: &CheckTxnStatusRequest,
    mut lock: Lock,
) -> Result<Status, Stop> {
    if lock.async_commit && !request.force_sync_commit {
        return Ok(Status::Alive { lock: Box::new(lock), is_pushed: false });
    }
    if lock.locked_with_conflict {
        // The lock may have been taken by a request that came late, after the transaction's end.
        match reader.own_record(primary, lock.start_ts)? {
            OwnRecord::Committed { commit_ts, .. } => {
                writer.remove_lock(primary, lock.start_ts, commit_ts);
                return Ok(Status::Committed { commit_ts });
            }
            OwnRecord::RolledBack => {
                writer.remove_lock(primary, lock.start_ts, 0);
                return Ok(Status::Gone(Action::NoAction));
            }
            OwnRecord::Unknown { .. } => {}
        }
    }
    if lock.is_expired(request.current_ts) {
        if lock.is_pessimistic() && request.resolving_pessimistic_lock {
            // Only the reservation is over; the transaction may have a primary elsewhere.
            writer.remove_lock(primary, lock.start_ts, 0);
            return Ok(Status::Gone(Action::TtlExpirePessimisticRollback));
        }
        rollback_lock_as(reader, writer, primary, &lock, Protection::Protected)?;
        return Ok(Status::Gone(Action::TtlExpireRollback));
    }
    let caller = request.caller_start_ts;
    if lock.min_commit_ts != 0 && caller != u64::MAX && caller >= lock.min_commit_ts {
        lock.min_commit_ts = (caller + 1).max(request.current_ts);
        writer.put_lock(primary, &lock);
    }
    let is_pushed = (caller != 0 && lock.min_commit_ts > caller) || caller == u64::MAX;
    Ok(Status::Alive { lock: Box::new(lock), is_pushed })
}

fn unlocked<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    primary: &Key,
    request: &CheckTxnStatusRequest,
    foreign: Option<Lock>,
) -> Result<Status, Stop> {
    let start_ts = request.lock_ts;
    match reader.own_record(primary, start_ts)? {
        OwnRecord::Committed { commit_ts, .. } => Ok(Status::Committed { commit_ts }),
        OwnRecord::RolledBack => Ok(Status::Gone(Action::NoAction)),
        OwnRecord::Unknown { .. } if !request.rollback_if_not_exist => {
            Err(KeyProblem::TxnNotFound { start_ts, primary: primary.user().clone() }.into())
        }
        OwnRecord::Unknown { .. } if request.resolving_pessimistic_lock => {
            Ok(Status::Gone(Action::LockNotExistDoNothing))
        }
        OwnRecord::Unknown { overlapped } => {
            let protection = Protection::Protected;
            rollback_unlocked(reader, writer, primary, start_ts, foreign, overlapped, protection)?;
            Ok(Status::Gone(Action::LockNotExistRollback))
        }
    }
}
