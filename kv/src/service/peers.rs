//! What other stores send: raft messages and snapshots.
//!
//! A message is handed to the raft worker's inbox and forgotten; there it is checked like anything
//! that comes from outside. When the inbox is full the message is lost and raft says it again.

use proto::raft_serverpb::{Done, RaftMessage, SnapshotChunk};
use proto::tikvpb::BatchRaftMessage;
use raftstore::engine::DataEngine;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::Store;
use crate::net::snapshot_stream;

impl<D: DataEngine> Store<D> {
    pub(super) async fn receive_raft(
        &self,
        mut messages: impl Stream<Item = Result<RaftMessage, Status>> + Unpin,
    ) -> Result<Done, Status> {
        while let Some(message) = messages.next().await {
            self.take_in(message?)?;
        }
        Ok(Done {})
    }

    pub(super) async fn receive_batch_raft(
        &self,
        mut batches: impl Stream<Item = Result<BatchRaftMessage, Status>> + Unpin,
    ) -> Result<Done, Status> {
        while let Some(batch) = batches.next().await {
            for message in batch?.msgs {
                self.take_in(message)?;
            }
        }
        Ok(Done {})
    }

    fn take_in(&self, message: RaftMessage) -> Result<(), Status> {
        self.check_addressee(&message)?;
        self.metrics.raft_messages_received.inc();
        self.router.raft_message(message);
        Ok(())
    }

    /// An address may have passed from one store to another: the stream is ended, so that the
    /// sender asks for the address again.
    fn check_addressee(&self, message: &RaftMessage) -> Result<(), Status> {
        let meant = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
        if meant == self.store_id.0 {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "the message is for store {meant}, this is store {}",
            self.store_id.0
        )))
    }

    pub(super) async fn receive_snapshot(
        &self,
        chunks: impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin,
    ) -> Result<Done, Status> {
        let _place = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many snapshots are on their way in"))?;
        let check = |message: &RaftMessage| self.check_addressee(message);
        let (message, source) =
            snapshot_stream::receive(chunks, &self.snapshot_place, check).await?;
        self.metrics.snapshots_received.inc();
        self.router.snapshot_received(message, source);
        Ok(Done {})
    }
}
