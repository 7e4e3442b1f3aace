//! Writing a large transaction bit by bit, while it runs: a prewrite that goes on.
//!
//! A pipelined transaction does not keep its writes at the client until the end. It flushes them in
//! *generations*, each of which locks its keys at once. A later generation may write a key anew; an
//! earlier one that comes late does not. The client reads its own flushed writes back from the locks.
//!
//! There is no shortcut to the end: such a transaction is committed in two phases, its primary first.

use bytes::Bytes;
use proto::kvrpcpb::{FlushRequest, PrewriteRequest};
use raftstore::engine::Snapshot;

use super::prewrite::{Prewritten, prewrite_generation};
use crate::keys::Key;
use crate::txn::memory_locks::MemoryLocks;
use crate::txn::problem::{Abort, Stop};
use crate::txn::reader::Reader;
use crate::txn::record::LockKind;
use crate::txn::writer::Writer;

/// Locks the mutations' keys for one generation; what others have locked is reported key by key.
pub fn flush<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    memory: &MemoryLocks,
    request: &FlushRequest,
) -> Result<Prewritten, Stop> {
    if request.generation == 0 {
        return Err(Abort::InvalidRequest("generations of a flush begin at 1").into());
    }
    let start_ts = request.start_ts;
    let as_prewrite = PrewriteRequest {
        context: request.context.clone(),
        mutations: request.mutations.clone(),
        primary_lock: request.primary_key.clone(),
        start_version: start_ts,
        lock_ttl: request.lock_ttl,
        // Nobody knows yet, so whoever resolves it must look through whole regions.
        txn_size: u64::MAX,
        min_commit_ts: request.min_commit_ts.max(start_ts.saturating_add(1)),
        assertion_level: request.assertion_level,
        ..Default::default()
    };
    prewrite_generation(reader, writer, memory, &as_prewrite, request.generation)
}

/// What the transaction itself has flushed to a key: `Some` of an empty value is a deletion, `None`
/// that it has not written the key.
pub fn flushed<S: Snapshot>(
    reader: &Reader<S>,
    key: &Key,
    start_ts: u64,
) -> Result<Option<Bytes>, Stop> {
    let Some(lock) = reader.lock(key)?.filter(|lock| lock.start_ts == start_ts) else {
        return Ok(None);
    };
    Ok(match lock.kind {
        LockKind::Put => Some(reader.lock_value(key, &lock)?),
        LockKind::Delete => Some(Bytes::new()),
        LockKind::Lock | LockKind::Pessimistic => None,
    })
}
