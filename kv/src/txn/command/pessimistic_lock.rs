//! A pessimistic transaction reserves keys before it knows what it will write there, so that its
//! commit cannot fail on them.
//!
//! The reservation is checked at `for_update_ts`, not at the transaction's start: the client reads
//! the latest values and takes a newer `for_update_ts` when somebody was faster. All keys of a
//! request are reserved or none.
//!
//! | the key holds | answer |
//! |---|---|
//! | another's lock | wait, or locked |
//! | own prewrite lock | `LockTypeNotMatch` |
//! | own pessimistic lock | read and checked again; the lock is renewed for a newer `for_update_ts` only |
//! | a record newer than `for_update_ts` | conflict; by force, locked at that record's timestamp |
//! | own rollback record | `PessimisticLockRolledBack` |
//! | a value, and it must be new | already exists; by force past a conflict, that conflict |
//! | no value, and only existing keys are to be locked | no lock; by force past a conflict, that conflict |

use bytes::Bytes;
use proto::kvrpcpb::{
    Assertion, Mutation, Op, PessimisticLockRequest, PessimisticLockWakeUpMode,
    write_conflict::Reason,
};
use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::plant::Bug;
use crate::txn::problem::{Abort, KeyProblem, Stop, WriteConflict};
use crate::txn::reader::Reader;
use crate::txn::record::{Lock, LockKind, Write, WriteKind};
use crate::txn::writer::Writer;

/// One key, reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Its value if asked for; `None` when it does not exist.
    pub value: Option<Bytes>,
    /// Whether it exists, if asked for.
    pub exists: bool,
    /// Not 0: it was reserved in spite of a write committed then, and that is the value's version.
    pub conflict_ts: u64,
}

/// Whether the caller wants the key even when somebody has written since.
fn forces(request: &PessimisticLockRequest) -> bool {
    request.wake_up_mode() == PessimisticLockWakeUpMode::WakeUpModeForceLock
}

/// Reserves the keys of all mutations; stops at the first lock of another transaction.
pub fn pessimistic_lock<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    request: &PessimisticLockRequest,
) -> Result<Vec<Reserved>, Stop> {
    if forces(request) && request.mutations.len() > 1 {
        return Err(Abort::InvalidRequest("only a single key can be locked by force").into());
    }
    request.mutations.iter().map(|mutation| reserve(reader, writer, request, mutation)).collect()
}

fn reserve<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    request: &PessimisticLockRequest,
    mutation: &Mutation,
) -> Result<Reserved, Stop> {
    if mutation.op() != Op::PessimisticLock {
        return Err(Abort::InvalidRequest("not an operation of a pessimistic lock").into());
    }
    let key = Key::new(mutation.key.clone());
    let start_ts = request.start_version;
    if request.lock_only_if_exists && !request.return_values {
        return Err(Abort::LockIfExistsFailed { start_ts, key: key.user().clone() }.into());
    }
    match reader.lock(&key)? {
        Some(lock) if lock.start_ts != start_ts => Err(Stop::locked(&lock, &key)),
        Some(lock) if !lock.is_pessimistic() => {
            Err(Abort::LockTypeNotMatch { start_ts, key: key.user().clone(), found: "prewritten" }
                .into())
        }
        Some(lock) => renew(reader, writer, request, mutation, &key, lock),
        None => take(reader, writer, request, mutation, &key),
    }
}

/// The request has been here before, or locks the key again for a later statement: what it wants to know is
/// read again, as of its statement. The lock stays as it is unless the statement is newer.
fn renew<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    request: &PessimisticLockRequest,
    mutation: &Mutation,
    key: &Key,
    mut lock: Lock,
) -> Result<Reserved, Stop> {
    // Locked at a newer timestamp than asked for: in spite of a conflict, and the answer was lost.
    let conflict_ts = if forces(request) && lock.for_update_ts > request.for_update_ts {
        lock.for_update_ts
    } else {
        0
    };
    let read_ts = request.for_update_ts.max(conflict_ts);
    if mutation.assertion() == Assertion::NotExist && reader.exists(key, read_ts)? {
        let newest = reader.data_at_or_before(key, read_ts)?;
        return Err(match newest.filter(|(commit_ts, _)| *commit_ts > request.for_update_ts) {
            Some((commit_ts, write)) => conflict(request, key, commit_ts, &write),
            None => KeyProblem::AlreadyExist { key: key.user().clone() }.into(),
        });
    }
    let reserved = read(reader, request, key, read_ts, conflict_ts)?;
    if request.for_update_ts > lock.for_update_ts {
        lock.primary = request.primary_lock.clone();
        lock.for_update_ts = request.for_update_ts;
        lock.ttl = request.lock_ttl;
        // Readers rest on what it promised before.
        lock.min_commit_ts = lock.min_commit_ts.max(request.min_commit_ts);
        // It stays where it is, as far as that is possible.
        if reader.held(key).is_some() {
            writer.reserve(key, &lock);
        } else {
            writer.put_lock(key, &lock);
        }
    }
    Ok(reserved)
}

fn take<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    request: &PessimisticLockRequest,
    mutation: &Mutation,
    key: &Key,
) -> Result<Reserved, Stop> {
    let start_ts = request.start_version;
    let mut newer = None;
    if let Some((commit_ts, write)) = reader.write_at_or_before(key, u64::MAX)? {
        if commit_ts > request.for_update_ts && !reader.has(Bug::ReservedUnchecked) {
            if !forces(request) {
                return Err(conflict(request, key, commit_ts, &write));
            }
            newer = Some((commit_ts, write.clone()));
        }
        check_not_rolled_back(reader, key, start_ts, commit_ts, &write)?;
        if mutation.assertion() == Assertion::NotExist && reader.exists(key, u64::MAX)? {
            return Err(match newer {
                Some((commit_ts, write)) => conflict(request, key, commit_ts, &write),
                None => KeyProblem::AlreadyExist { key: key.user().clone() }.into(),
            });
        }
    }
    let conflict_ts = newer.as_ref().map_or(0, |(commit_ts, _)| *commit_ts);
    let reserved = read(reader, request, key, u64::MAX, conflict_ts)?;
    if request.lock_only_if_exists && !reserved.exists {
        return match newer {
            // Nothing is locked, so there is no lock to tell the conflict with.
            Some((commit_ts, write)) => Err(conflict(request, key, commit_ts, &write)),
            None => Ok(reserved),
        };
    }
    let primary = request.primary_lock.clone();
    let mut lock = Lock::new(LockKind::Pessimistic, primary, start_ts, request.lock_ttl);
    lock.for_update_ts = request.for_update_ts.max(conflict_ts);
    lock.min_commit_ts = request.min_commit_ts;
    lock.locked_with_conflict = conflict_ts > 0;
    writer.reserve(key, &lock);
    Ok(reserved)
}

/// A transaction that was rolled back must not take locks again: nobody would remove them.
fn check_not_rolled_back<S: Snapshot>(
    reader: &mut Reader<S>,
    key: &Key,
    start_ts: u64,
    commit_ts: u64,
    newest: &Write,
) -> Result<(), Stop> {
    let is_rolled_back = |commit_ts: u64, write: &Write| {
        commit_ts == start_ts && (write.kind == WriteKind::Rollback || write.overlapped_rollback)
    };
    let found = if commit_ts > start_ts {
        reader
            .write_at_or_before(key, start_ts)?
            .is_some_and(|(commit_ts, write)| is_rolled_back(commit_ts, &write))
    } else {
        is_rolled_back(commit_ts, newest)
    };
    if found {
        return Err(Abort::PessimisticLockRolledBack { start_ts, key: key.user().clone() }.into());
    }
    Ok(())
}

fn conflict(request: &PessimisticLockRequest, key: &Key, commit_ts: u64, write: &Write) -> Stop {
    KeyProblem::WriteConflict(Box::new(WriteConflict {
        start_ts: request.start_version,
        conflict_start_ts: write.start_ts,
        conflict_commit_ts: commit_ts,
        key: key.user().clone(),
        primary: request.primary_lock.clone(),
        reason: Reason::PessimisticRetry,
    }))
    .into()
}

/// The value committed at or before `ts`, as far as it was asked for; in spite of a conflict it always is.
fn read<S: Snapshot>(
    reader: &mut Reader<S>,
    request: &PessimisticLockRequest,
    key: &Key,
    ts: u64,
    conflict_ts: u64,
) -> Result<Reserved, Stop> {
    let mut reserved = Reserved { conflict_ts, ..Default::default() };
    if request.return_values || conflict_ts > 0 {
        reserved.value = reader.version(key, ts)?.map(|version| version.value);
        reserved.exists = reserved.value.is_some();
    } else if request.check_existence {
        reserved.exists = reader.exists(key, ts)?;
    }
    Ok(reserved)
}
