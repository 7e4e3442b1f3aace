//! Where commands read and write: the one boundary between `txn`, `raw` and replication.
//!
//! Two implementations: [`replicated`] goes through raftstore, [`local`] is one engine without raft,
//! for tests of commands.

pub mod local;
pub mod replicated;

use std::future::Future;

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

    /// Writes the batch through the region's log. `Ok` means applied on this store and durable on a
    /// quorum. A refusal means that it certainly did not apply, except `UndeterminedResult`.
    fn write(
        &self,
        context: &kvrpcpb::Context,
        batch: WriteBatch,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}
