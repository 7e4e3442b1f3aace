//! Carrying out a transaction's fate on the locks it left behind.
//!
//! A client that knows the fate (from the primary) names the keys (*lite*), or leaves it to the
//! region to find every lock of one or of many transactions. Finding is done without latches, in
//! batches; each batch is then looked at again under its latches, and only locks that still stand
//! are touched.

use std::collections::BTreeMap;

use raftstore::engine::Snapshot;

use super::commit::commit;
use super::rollback::{rollback_key, rollback_lock};
use crate::keys::Key;
use crate::txn::problem::{Abort, Stop};
use crate::txn::reader::Reader;
use crate::txn::writer::Writer;

/// Locks resolved under one set of latches and in one write.
pub const BATCH_LOCKS_MAX: usize = 256;

/// Fates by start timestamp: committed then, or 0 for rolled back.
pub type Fates = BTreeMap<u64, u64>;

/// Resolves exactly these keys of one transaction, with every check of commit and rollback.
pub fn resolve_keys<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    start_ts: u64,
    commit_ts: u64,
) -> Result<(), Stop> {
    if commit_ts > 0 {
        commit(reader, writer, keys, start_ts, commit_ts, 0).map(|_| ())
    } else {
        keys.iter().try_for_each(|key| rollback_key(reader, writer, key, start_ts))
    }
}

/// Resolves the locks on these keys, as far as they still stand, whose fate is known.
pub fn resolve_found<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    keys: &[Key],
    fates: &Fates,
) -> Result<(), Stop> {
    for key in keys {
        let Some(lock) = reader.lock(key)? else { continue };
        let start_ts = lock.start_ts;
        match fates.get(&start_ts) {
            None => {}
            Some(0) => rollback_lock(reader, writer, key, &lock)?,
            Some(&commit_ts) if commit_ts <= start_ts => {
                return Err(Abort::InvalidTxnTso { start_ts, commit_ts }.into());
            }
            Some(&commit_ts) => {
                commit(reader, writer, std::slice::from_ref(key), start_ts, commit_ts, 0)?;
            }
        }
    }
    Ok(())
}
