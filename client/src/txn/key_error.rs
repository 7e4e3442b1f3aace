//! What a store says about a key that stands in the way.

use proto::{Timestamp, kvrpcpb};

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result, Waiting};
use crate::keyspace::KeyCodec;

/// The lock in question, or why the transaction cannot go on.
pub(super) fn lock_of(
    call: &Call,
    codec: &KeyCodec,
    error: kvrpcpb::KeyError,
) -> Result<kvrpcpb::LockInfo> {
    let debug = format!("{error:?}");
    if let Some(lock) = error.locked {
        return Ok(lock);
    }
    Err(if let Some(exists) = error.already_exist {
        let key = codec.decode(exists.key);
        call.fail(ErrorKind::KeyExists { key }, "insert found a value")
    } else if let Some(deadlock) = error.deadlock {
        let kind = ErrorKind::Deadlock {
            key: codec.decode(deadlock.lock_key),
            holder: Timestamp(deadlock.lock_ts),
            chain: deadlock.wait_chain.into_iter().map(|link| waiting(codec, link)).collect(),
        };
        call.fail(kind, "transactions wait for each other in a circle")
    } else if let Some(conflict) = error.conflict {
        let kind = ErrorKind::WriteConflict {
            key: codec.decode(conflict.key),
            start: Timestamp(conflict.start_ts),
            conflict_start: Timestamp(conflict.conflict_ts),
            conflict_commit: Timestamp(conflict.conflict_commit_ts),
        };
        let reason = kvrpcpb::write_conflict::Reason::try_from(conflict.reason)
            .unwrap_or(kvrpcpb::write_conflict::Reason::Unknown);
        match reason {
            // Another client took this transaction for dead.
            kvrpcpb::write_conflict::Reason::SelfRolledBack => rolled_back(call),
            kvrpcpb::write_conflict::Reason::Unknown
            | kvrpcpb::write_conflict::Reason::Optimistic
            | kvrpcpb::write_conflict::Reason::PessimisticRetry
            | kvrpcpb::write_conflict::Reason::RcCheckTs
            | kvrpcpb::write_conflict::Reason::LazyUniquenessCheck
            | kvrpcpb::write_conflict::Reason::NotLockedKeyConflict => {
                call.fail(kind, "another transaction wrote the key first")
            }
        }
    } else if error.txn_lock_not_found.is_some() || error.retryable.contains("TxnLockNotFound") {
        rolled_back(call)
    } else if !error.retryable.is_empty() {
        call.fail(ErrorKind::RolledBack, format!("the store says: {}", error.retryable))
    } else if error.abort.contains("PessimisticLockRolledBack")
        || error.abort.contains("PessimisticLockNotFound")
    {
        rolled_back(call)
    } else if error.abort.contains("GCTooEarly") {
        call.is_forgotten(format!("the store says: {}", error.abort))
    } else if !error.abort.is_empty() {
        call.fail(ErrorKind::Rejected, format!("the store says: {}", error.abort))
    } else {
        call.fail(ErrorKind::Rejected, format!("the store says: {debug}"))
    })
}

fn waiting(codec: &KeyCodec, link: proto::deadlock::WaitForEntry) -> Waiting {
    Waiting {
        waiter: Timestamp(link.txn),
        holder: Timestamp(link.wait_for_txn),
        key: codec.decode(link.key),
    }
}

fn rolled_back(call: &Call) -> Error {
    call.fail(ErrorKind::RolledBack, "the transaction took too long and was rolled back by another")
}
