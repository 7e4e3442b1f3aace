//! Giving back reservations: of a statement that is tried again, or of a whole transaction. No
//! record is written; the transaction goes on, or is rolled back by other commands.

use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::txn::problem::Stop;
use crate::txn::reader::Reader;
use crate::txn::writer::Writer;

/// Removes the transaction's pessimistic locks on these keys that were taken at or before
/// `for_update_ts`; a later statement's and everything else stays.
pub fn pessimistic_rollback<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    start_ts: u64,
    for_update_ts: u64,
) -> Result<(), Stop> {
    for key in keys {
        if let Some(lock) = reader.lock(key)?
            && lock.start_ts == start_ts
            && lock.is_pessimistic()
            && lock.for_update_ts <= for_update_ts
        {
            writer.remove_lock(key, start_ts, 0);
        }
    }
    Ok(())
}
