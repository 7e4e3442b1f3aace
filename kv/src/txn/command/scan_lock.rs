//! Which locks of old transactions stand in a range: the first step of garbage collection.

use proto::KeyRange;
use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::txn::problem::Stop;
use crate::txn::reader::Reader;
use crate::txn::record::Lock;

/// Locks in the range (engine form) of transactions that began at or before `max_ts`, keys
/// ascending, at most `limit`; 0 is all of them.
pub fn scan_lock<S: Snapshot>(
    reader: &Reader<S>,
    range: &KeyRange,
    max_ts: u64,
    limit: usize,
) -> Result<Vec<(Key, Lock)>, Stop> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    Ok(reader.locks(range, limit, |lock| lock.start_ts <= max_ts)?.0)
}
