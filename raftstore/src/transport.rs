//! How messages leave a store. Everything may be lost: raft says it again.

use proto::{StoreId, raft_serverpb::RaftMessage};

use crate::effects::OutgoingSnapshot;

/// Carries messages to other stores. Called by the raft worker, so no call may wait: what does not
/// fit into a queue is dropped.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages to one store; those that arrive keep their order as a rule, and raft copes
    /// when they do not. A store that cannot be reached should be told by
    /// [`Router::unreachable`](crate::driver::Router::unreachable).
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>);

    /// Sends a snapshot on a stream of its own to the store of the message's `to_peer`. When it is
    /// through or has failed, the transport says so by
    /// [`Router::snapshot_sent`](crate::driver::Router::snapshot_sent).
    fn send_snapshot(&self, snapshot: OutgoingSnapshot);
}
