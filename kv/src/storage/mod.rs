//! Where commands read and write: the one boundary between `txn`, `raw` and replication.
//!
//! Two implementations: [`replicated`] goes through raftstore, [`local`] is one engine without raft,
//! for tests of commands.

pub mod local;
pub mod replicated;

use std::future::Future;

use bytes::Bytes;
use proto::{KeyRange, Refusal, kvrpcpb};
use raftstore::engine::{Snapshot, WriteBatch};

/// A region as a command sees it: a consistent snapshot, and the keys that belong to the region.
#[derive(Clone, Debug)]
pub struct View<S> {
    /// The engine at one instant, applied at least up to every write acknowledged before the
    /// request came.
    pub snapshot: S,
    /// Reads outside are the neighbour's: clamp to it or refuse with `KeyNotInRegion`.
    pub range: KeyRange,
    /// The raft term this peer led in when the snapshot was taken; 0 when there is none to speak
    /// of. What was decided from this view is written with `context.term` set to it, so that a
    /// leader which lost and regained its place in between refuses it instead of writing a decision
    /// about data that has changed since.
    pub term: u64,
}

/// Reads and writes one region, named by the request's context.
pub trait Storage: Clone + Send + Sync + 'static {
    /// What a view holds.
    type Snapshot: Snapshot;

    /// A linearizable view of the region, or why not.
    fn view(
        &self,
        context: &kvrpcpb::Context,
    ) -> impl Future<Output = Result<View<Self::Snapshot>, Refusal>> + Send;

    /// Writes the batch through the region's log, after checking that every key of it is the
    /// region's (else `KeyNotInRegion`). `Ok` means applied on this store and durable on a
    /// quorum. A refusal means that it certainly did not and will not apply, except
    /// `UndeterminedResult`. Latches are held until the answer, so the next command on the key must not
    /// decide from a view without this write. Therefore that is only said when this peer is gone or the
    /// store stops, or when it has lost its leadership: the next view here is of a later term, and has
    /// waited until an entry of that term is applied, behind which nothing of this one can follow.
    ///
    /// `context.term` other than 0 must be this peer's term, or the one before (see [`View::term`]).
    fn write(
        &self,
        context: &kvrpcpb::Context,
        batch: WriteBatch,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Whether a whole range, in the engine's form, lies in the region.
pub fn check_covered(
    context: &kvrpcpb::Context,
    region: &KeyRange,
    range: &KeyRange,
) -> Result<(), Refusal> {
    if region.covers(range) {
        return Ok(());
    }
    let key = if region.contains(&range.start) { range.wire_end() } else { range.start.clone() };
    Err(outside(context, region, key))
}

/// The refusal of a key, in the engine's form, that lies outside the region.
pub fn outside(context: &kvrpcpb::Context, range: &KeyRange, key: Bytes) -> Refusal {
    Refusal::KeyNotInRegion {
        key,
        region_id: context.region_id,
        start_key: range.start.clone(),
        end_key: range.wire_end(),
    }
}
