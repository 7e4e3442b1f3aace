//! The second phase: locks become commit records. Once the primary's has, the transaction is
//! committed, whatever happens to the others.
//!
//! | the key holds | answer |
//! |---|---|
//! | own prewrite lock | commit record, lock removed |
//! | own prewrite lock that promises readers a later commit | `CommitTsExpired` |
//! | own pessimistic lock, never prewritten | lock removed, nothing else |
//! | no own lock, own commit record | nothing to do: the request came twice |
//! | no own lock, rolled back or nothing known | `TxnLockNotFound` |
//! | the same, nothing known, and the commit would lie at or before the safe point | `GCTooEarly` |
//!
//! The answer says when the transaction is committed: an earlier try, or one phase whose answer was lost, may have
//! done it at another timestamp than this request's.
//!
//! `TxnLockNotFound` says for certain that the transaction is not committed. Behind the safe point nobody knows:
//! the record of an earlier try may be gone, as those of keys that were only locked are. (TiKV says the former
//! there too; a client whose earlier try was not answered then takes a committed transaction for lost.)

use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::plant::Bug;
use crate::txn::problem::{Abort, KeyProblem, Stop};
use crate::txn::reader::{OwnRecord, Reader};
use crate::txn::writer::Writer;

/// Commits a transaction's locks on these keys and returns when it is committed; the first problem ends the
/// command. With a safe point of 0 nothing is taken for forgotten.
pub fn commit<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    start_ts: u64,
    commit_ts: u64,
    safe_point: u64,
) -> Result<u64, Stop> {
    if commit_ts <= start_ts {
        return Err(Abort::InvalidTxnTso { start_ts, commit_ts }.into());
    }
    let mut committed_at = commit_ts;
    for key in keys {
        let already = commit_key(reader, writer, key, start_ts, commit_ts, safe_point)?;
        committed_at = already.unwrap_or(committed_at);
    }
    Ok(committed_at)
}

/// Returns when it was committed before, if it was.
fn commit_key<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
    commit_ts: u64,
    safe_point: u64,
) -> Result<Option<u64>, Stop> {
    match reader.lock(key)? {
        Some(lock) if lock.start_ts == start_ts => {
            // A reader at a timestamp before `min_commit_ts` has passed this lock by.
            if commit_ts < lock.min_commit_ts && !reader.has(Bug::PromiseBroken) {
                return Err(KeyProblem::CommitTsExpired {
                    start_ts,
                    attempted_commit_ts: commit_ts,
                    key: key.user().clone(),
                    min_commit_ts: lock.min_commit_ts,
                }
                .into());
            }
            // Left over from a statement that was tried again: it reserves, but changes nothing.
            if !lock.is_pessimistic() {
                writer.commit(key, &lock, commit_ts);
            }
            writer.remove_lock(key, start_ts, commit_ts);
            Ok(None)
        }
        Some(_) | None => match reader.own_record(key, start_ts)? {
            OwnRecord::Committed { commit_ts, .. } => Ok(Some(commit_ts)),
            OwnRecord::RolledBack | OwnRecord::Unknown { .. }
                if reader.has(Bug::CommitWithoutLock) =>
            {
                Ok(None)
            }
            OwnRecord::Unknown { .. } if commit_ts <= safe_point => {
                Err(Abort::TooOld { start_ts, safe_point }.into())
            }
            OwnRecord::RolledBack | OwnRecord::Unknown { .. } => {
                Err(KeyProblem::TxnLockNotFound { start_ts, key: key.user().clone() }.into())
            }
        },
    }
}
