//! What members ask each other: raft messages, who is there, and to be let in.

use std::sync::Arc;

use proto::schedulerpb::peer_server::Peer;
use proto::schedulerpb::{
    DescribeRequest, DescribeResponse, JoinRequest, JoinResponse, RaftBatch, RaftDone,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::node::{Node, REMOVED, Said, not_leader};
use crate::member::{Membership, join};

/// The service on the peer listener.
#[derive(Debug)]
pub(super) struct PeerService {
    pub(super) node: Arc<Node>,
}

impl PeerService {
    /// A batch of another group, or of another cluster founded with the same flags, is refused.
    fn check(&self, batch: &RaftBatch) -> Result<(), Status> {
        let node = &self.node;
        let cluster_id = node.cluster_id();
        let is_other_cluster =
            batch.cluster_id != 0 && cluster_id != 0 && batch.cluster_id != cluster_id;
        if batch.group_id != node.group_id || is_other_cluster {
            return Err(Status::failed_precondition(format!(
                "mismatch cluster: member {:?} is of group {:x} and cluster {cluster_id}, the \
                 sender of group {:x} and cluster {}",
                node.name, node.group_id, batch.group_id, batch.cluster_id
            )));
        }
        Ok(())
    }
}

impl PeerService {
    /// One that is no member any more does not know: nobody sends it anything. A leader that serves has seen
    /// everybody come who has come, and says so; nobody else can be sure.
    fn refuse_removed(&self, sender: Option<u64>) -> Result<(), Status> {
        let is_member = |id: u64| self.node.state.read().members().contains_key(&id);
        let may_tell = self.node.serving().is_some_and(|serving| serving.holds_lease(&self.node));
        match sender {
            Some(id) if may_tell && !is_member(id) => Err(Status::permission_denied(REMOVED)),
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn raft(
        &self,
        request: Request<Streaming<RaftBatch>>,
    ) -> Result<Response<RaftDone>, Status> {
        let mut batches = request.into_inner();
        let mut sender = None;
        while let Some(batch) = batches.message().await? {
            self.check(&batch)?;
            sender = batch.from.as_ref().map(|from| from.member_id).or(sender);
            self.refuse_removed(sender)?;
            if let Some(from) = batch.from {
                self.node.heard(from);
            }
            self.node.tell(Said::Raft(batch.messages));
        }
        Ok(Response::new(RaftDone {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let asking =
            request.into_inner().member.ok_or_else(|| Status::invalid_argument("nobody asks"))?;
        let node = &self.node;
        if node.serving().is_none() {
            return Err(not_leader());
        }
        let mut response = JoinResponse {
            group_id: node.group_id,
            cluster_id: node.cluster_id(),
            ..JoinResponse::default()
        };
        match join::may_join(&asking, &node.members()) {
            Err(why) => response.error = why,
            Ok(true) => {}
            Ok(false) => {
                let (done, outcome) = oneshot::channel();
                node.tell(Said::Membership { change: Membership::Admit(asking), done });
                node.applied(outcome).await?;
            }
        }
        response.members = node.members();
        Ok(Response::new(response))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let leader_id = self.node.view().leader_id;
        let state = self.node.state.read();
        Ok(Response::new(DescribeResponse {
            group_id: self.node.group_id,
            cluster_id: state.cluster_id(),
            members: state.members().values().cloned().collect(),
            leader_id,
            index: state.index(),
        }))
    }
}
