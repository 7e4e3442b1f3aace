//! One key, as a transaction sees it.

use proto::kvrpcpb::IsolationLevel;
use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::txn::problem::Stop;
use crate::txn::read_rule::{Reading, Verdict};
use crate::txn::reader::{Reader, Version};
use crate::txn::record::LockKind;

/// The value of a key, `None` when it does not exist for this reader; stops at a lock that matters.
pub fn get<S: Snapshot>(
    reader: &mut Reader<S>,
    key: &Key,
    reading: &Reading,
) -> Result<Option<Version>, Stop> {
    if let Some(lock) = reader.lock(key)? {
        match reading.verdict(key, &lock) {
            Verdict::Pass => {}
            Verdict::TakeValue => {
                return Ok(match lock.kind {
                    LockKind::Put => {
                        Some(Version { commit_ts: 0, value: reader.lock_value(key, &lock)? })
                    }
                    LockKind::Delete | LockKind::Lock | LockKind::Pessimistic => None,
                });
            }
            Verdict::Blocked | Verdict::Outdated => return Err(reading.stopped_by(key, &lock)),
        }
    }
    check_newest(reader, key, reading)?;
    Ok(reader.version(key, reading.ts)?)
}

/// Under checked read committed, stops at a record newer than the reader.
pub(crate) fn check_newest<S: Snapshot>(
    reader: &mut Reader<S>,
    key: &Key,
    reading: &Reading,
) -> Result<(), Stop> {
    if reading.isolation == IsolationLevel::RcCheckTs
        && let Some((commit_ts, write)) = reader.write_at_or_before(key, u64::MAX)?
        && commit_ts > reading.ts
    {
        return Err(reading.outdated_by(key, &write, commit_ts));
    }
    Ok(())
}
