//! Undoing a transaction on a key, and remembering that it was undone.
//!
//! A prewrite may arrive after its transaction was given up. The rollback record, at the
//! transaction's start, stops it. Records on the primary are *protected*: they are the
//! transaction's fate. Others are a courtesy: the next rollback of the key may collapse them.
//!
//! There is one place per key and timestamp. When another transaction's commit record sits at our
//! start, that record gets a flag instead. When another's lock stands there that may still be
//! committed at our start (an async commit takes a computed timestamp), the lock remembers our start
//! and its commit record will get the flag. (TiKV does so for protected records only and lets the
//! others be lost; a flag costs nothing, and a late prewrite then never slips through.)

use raftstore::engine::Snapshot;
use raftstore::error::Fault;

use crate::keys::Key;
use crate::plant::Bug;
use crate::txn::problem::{Abort, Stop};
use crate::txn::reader::{Overlapped, OwnRecord, Reader};
use crate::txn::record::{Lock, LockKind, Write, WriteKind};
use crate::txn::writer::Writer;

/// Rolls back a transaction on these keys; the first committed key ends the command.
///
/// Who rolls back takes the answer for certain. Of a transaction that began at or before the safe point and of
/// which nothing is known on a key, nothing can be said any more: it may be committed, and its record gone.
/// A safe point of 0 is none.
pub fn batch_rollback<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    start_ts: u64,
    safe_point: u64,
) -> Result<(), Stop> {
    for key in keys {
        if safe_point > 0 && start_ts <= safe_point && is_forgotten(reader, key, start_ts)? {
            return Err(Abort::TooOld { start_ts, safe_point }.into());
        }
        rollback_key(reader, writer, key, start_ts)?;
    }
    Ok(())
}

/// Whether a transaction has left neither a lock nor a record on the key.
fn is_forgotten<S: Snapshot>(
    reader: &mut Reader<S>,
    key: &Key,
    start_ts: u64,
) -> Result<bool, Fault> {
    if reader.lock(key)?.is_some_and(|lock| lock.start_ts == start_ts) {
        return Ok(false);
    }
    Ok(matches!(reader.own_record(key, start_ts)?, OwnRecord::Unknown { .. }))
}

/// Rolls back a transaction on one key, whether it locked it or not.
pub(crate) fn rollback_key<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
) -> Result<(), Stop> {
    let foreign = match reader.lock(key)? {
        Some(lock) if lock.start_ts == start_ts => {
            return Ok(rollback_lock(reader, writer, key, &lock)?);
        }
        foreign => foreign,
    };
    match reader.own_record(key, start_ts)? {
        OwnRecord::Committed { commit_ts, .. } => {
            Err(Abort::Committed { start_ts, commit_ts, key: key.user().clone() }.into())
        }
        OwnRecord::RolledBack => Ok(()),
        OwnRecord::Unknown { overlapped } => {
            let protection = Protection::Collapsible;
            Ok(rollback_unlocked(reader, writer, key, start_ts, foreign, overlapped, protection)?)
        }
    }
}

/// Whether a rollback record may be collapsed with others later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It is the transaction's fate.
    Protected,
    /// It is a courtesy.
    Collapsible,
}

/// Writes the rollback record of a transaction that has neither lock nor record on the key.
/// `foreign` is another transaction's lock on it.
pub(crate) fn rollback_unlocked<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
    foreign: Option<Lock>,
    overlapped: Option<Overlapped>,
    protection: Protection,
) -> Result<(), Fault> {
    if reader.has(Bug::RollbackUnrecorded) {
        return Ok(());
    }
    if protection == Protection::Collapsible {
        collapse_previous(reader, writer, key, start_ts)?;
    }
    if let Some(mut lock) = foreign
        && overlapped.is_none()
        && lock.async_commit
        && lock.min_commit_ts <= start_ts
        && !lock.rollback_ts.contains(&start_ts)
    {
        lock.rollback_ts.push(start_ts);
        writer.put_lock(key, &lock);
    }
    put_rollback(writer, key, start_ts, protection, overlapped);
    Ok(())
}

/// Removes a transaction's own lock, whatever its kind, and records the rollback.
pub(crate) fn rollback_lock<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    lock: &Lock,
) -> Result<(), Fault> {
    let protection = if lock.primary == key.user() || lock.generation > 0 {
        Protection::Protected
    } else {
        Protection::Collapsible
    };
    rollback_lock_as(reader, writer, key, lock, protection)
}

/// [`rollback_lock`] by a command that decides the transaction's fate.
pub(crate) fn rollback_lock_as<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    lock: &Lock,
    protection: Protection,
) -> Result<(), Fault> {
    // A lock taken in spite of a conflict may outlive its own transaction's record; that stands.
    if let OwnRecord::Unknown { overlapped } = reader.own_record(key, lock.start_ts)? {
        if lock.kind == LockKind::Put && lock.short_value.is_none() {
            writer.delete_value(key, lock.start_ts);
        }
        put_rollback(writer, key, lock.start_ts, protection, overlapped);
        collapse_previous(reader, writer, key, lock.start_ts)?;
    }
    writer.remove_lock(key, lock.start_ts, 0);
    Ok(())
}

fn put_rollback(
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
    protection: Protection,
    overlapped: Option<Overlapped>,
) {
    match overlapped {
        None => {
            let protected = protection == Protection::Protected;
            writer.put_write(key, start_ts, &Write::rollback(start_ts, protected));
        }
        Some(Overlapped { mut write, next_data_ts }) => {
            write.overlapped_rollback = true;
            write.gc_fence = Some(next_data_ts);
            writer.put_write(key, start_ts, &write);
        }
    }
}

/// Of unprotected rollback records one is enough for the prewrites that may still come: a later
/// start's record conflicts with them too.
fn collapse_previous<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    key: &Key,
    start_ts: u64,
) -> Result<(), Fault> {
    if let Some((commit_ts, write)) = reader.write_at_or_before(key, start_ts)?
        && commit_ts < start_ts
        && write.kind == WriteKind::Rollback
        && !write.is_protected_rollback()
    {
        writer.delete_write(key, commit_ts);
    }
    Ok(())
}
