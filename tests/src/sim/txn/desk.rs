//! The desk between a store's transactions and its raft worker: what `kv` asks of its storage and of the
//! scheduler lies here until the store's shell takes it up.
//!
//! `kv::storage::replicated` is the same in production, with threads and channels in between.

use std::sync::Arc;

use kv::storage::{Storage, View};
use kv::txn::{TimestampFuture, TimestampSource};
use parking_lot::Mutex;
use proto::{Refusal, kvrpcpb};
use raftstore::engine::WriteBatch;
use raftstore::engine::memory::MemorySnapshot;
use tokio::sync::oneshot;

/// Where an answer is waited for. Who no longer waits does not mind.
pub(in crate::sim) type Done<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a command asks.
#[derive(Debug)]
pub(super) enum Ask {
    /// For a look at a region.
    View(Box<kvrpcpb::Context>, Done<View<MemorySnapshot>>),
    /// For a write through a region's log.
    Write(Box<kvrpcpb::Context>, WriteBatch, Done<()>),
    /// For a fresh timestamp.
    Timestamp(Done<u64>),
}

/// Clones share everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk {
    asks: Arc<Mutex<Vec<Ask>>>,
}

impl Desk {
    fn put(&self, ask: Ask) {
        self.asks.lock().push(ask);
    }

    /// What was asked since the last call, in order.
    pub(super) fn take(&self) -> Vec<Ask> {
        std::mem::take(&mut self.asks.lock())
    }
}

impl Storage for Desk {
    type Snapshot = MemorySnapshot;

    async fn view(&self, context: &kvrpcpb::Context) -> Result<View<MemorySnapshot>, Refusal> {
        let (done, wait) = oneshot::channel();
        self.put(Ask::View(Box::new(context.clone()), done));
        wait.await.unwrap_or_else(|_| Err(Refusal::closing()))
    }

    async fn write(&self, context: &kvrpcpb::Context, batch: WriteBatch) -> Result<(), Refusal> {
        let (done, wait) = oneshot::channel();
        self.put(Ask::Write(Box::new(context.clone()), batch, done));
        wait.await.unwrap_or_else(|_| Err(Refusal::closing()))
    }
}

impl TimestampSource for Desk {
    fn fresh(&self) -> TimestampFuture {
        let (done, wait) = oneshot::channel();
        self.put(Ask::Timestamp(done));
        Box::pin(async { wait.await.unwrap_or_else(|_| Err(Refusal::closing())) })
    }
}
