//! Rolling back one key of a transaction that seems abandoned, unless it is still alive.

use raftstore::engine::Snapshot;

use super::rollback::{Protection, rollback_lock_as, rollback_unlocked};
use crate::keys::Key;
use crate::txn::problem::Stop;
use crate::txn::reader::{OwnRecord, Reader};
use crate::txn::writer::Writer;

/// Rolls the key back and returns 0, or returns when the transaction was committed. Stops at the
/// lock when it is alive at `current_ts`; 0 asks for a rollback in any case.
pub fn cleanup<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
    current_ts: u64,
) -> Result<u64, Stop> {
    let foreign = match reader.lock(key)? {
        Some(lock) if lock.start_ts == start_ts => {
            if current_ts != 0 && !lock.is_expired(current_ts) {
                return Err(Stop::locked(&lock, key));
            }
            rollback_lock_as(reader, writer, key, &lock, Protection::Protected)?;
            return Ok(0);
        }
        foreign => foreign,
    };
    match reader.own_record(key, start_ts)? {
        OwnRecord::Committed { commit_ts, .. } => Ok(commit_ts),
        OwnRecord::RolledBack => Ok(0),
        OwnRecord::Unknown { overlapped } => {
            let protection = Protection::Protected;
            rollback_unlocked(reader, writer, key, start_ts, foreign, overlapped, protection)?;
            Ok(0)
        }
    }
}
