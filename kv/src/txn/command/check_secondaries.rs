//! Is an async-commit transaction committed? Its primary names all other keys; if every one of them
//! is locked, it is, at the largest of the promised timestamps. A key that was never locked will
//! never be: the rollback record written here stops the prewrite, and decides the fate.

use proto::kvrpcpb::LockInfo;
use raftstore::engine::Snapshot;

use super::rollback::{Protection, rollback_lock_as, rollback_unlocked};
use crate::keys::Key;
use crate::txn::problem::Stop;
use crate::txn::reader::{OwnRecord, Reader};
use crate::txn::writer::Writer;

/// What a transaction's other keys say of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Secondaries {
    /// All of them are locked.
    Locked(Vec<LockInfo>),
    /// One is committed, and so all are.
    Committed(u64),
    /// One is rolled back (perhaps just now), and so all will be.
    RolledBack,
}

/// Looks at the keys until one decides.
pub fn check_secondaries<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    start_ts: u64,
) -> Result<Secondaries, Stop> {
    let mut locked = Vec::with_capacity(keys.len());
    for key in keys {
        let foreign = match reader.lock(key)? {
            Some(lock) if lock.start_ts == start_ts => {
                if lock.is_pessimistic() {
                    rollback_lock_as(reader, writer, key, &lock, Protection::Protected)?;
                    return Ok(Secondaries::RolledBack);
                }
                locked.push(lock.info(key));
                continue;
            }
            foreign => foreign,
        };
        match reader.own_record(key, start_ts)? {
            OwnRecord::Committed { commit_ts, .. } => return Ok(Secondaries::Committed(commit_ts)),
            OwnRecord::RolledBack => return Ok(Secondaries::RolledBack),
            OwnRecord::Unknown { overlapped } => {
                let protection = Protection::Protected;
                rollback_unlocked(reader, writer, key, start_ts, foreign, overlapped, protection)?;
                return Ok(Secondaries::RolledBack);
            }
        }
    }
    Ok(Secondaries::Locked(locked))
}
