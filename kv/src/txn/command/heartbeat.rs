//! A client says that its transaction is alive: the primary's lock lives longer.

use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::txn::problem::{KeyProblem, Stop};
use crate::txn::reader::Reader;
use crate::txn::record::Lock;
use crate::txn::writer::Writer;

/// Raises the lock's time to live to what is advised, never lowers it, and returns the lock as it is
/// then. Pipelined transactions (whose locks are not async) may raise their earliest commit too.
pub fn heartbeat<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    primary: &Key,
    start_ts: u64,
    advised_ttl: u64,
    min_commit_ts: u64,
) -> Result<Lock, Stop> {
    match reader.lock(primary)? {
        Some(mut lock) if lock.start_ts == start_ts => {
            let before = (lock.ttl, lock.min_commit_ts);
            lock.ttl = lock.ttl.max(advised_ttl);
            if lock.generation > 0 && !lock.async_commit {
                lock.min_commit_ts = lock.min_commit_ts.max(min_commit_ts);
            }
            if before != (lock.ttl, lock.min_commit_ts) {
                writer.put_lock(primary, &lock);
            }
            Ok(lock)
        }
        Some(_) | None => {
            Err(KeyProblem::TxnNotFound { start_ts, primary: primary.user().clone() }.into())
        }
    }
}
