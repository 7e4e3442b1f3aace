//! Timestamps and ids.
//!
//! A timestamp stream is served from memory: one lock for each message, no raft round, one answer
//! for each request and in order, ended cleanly when the client ends its side. Saving the bound
//! ahead (see [`crate::timestamps`]) keeps the log out of the way.

use std::sync::Arc;

use proto::{Timestamp, pdpb};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::{Service, answer};
use crate::ids;
use crate::server::serving::Serving;

/// A timestamp as it crosses the wire.
pub(crate) fn timestamp_of(timestamp: Timestamp) -> pdpb::Timestamp {
    pdpb::Timestamp {
        // 46 bits of milliseconds and 18 bits of counter.
        physical: timestamp.physical() as i64,
        logical: timestamp.logical() as i64,
        suffix_bits: 0,
    }
}

impl Service {
    /// Answers each request with the largest of `count` timestamps. Any failure ends the stream:
    /// clients then look for the leader.
    pub(super) fn tso_stream(
        &self,
        requests: Streaming<pdpb::TsoRequest>,
    ) -> impl Stream<Item = Result<pdpb::TsoResponse, Status>> + Send + 'static {
        let service = self.clone();
        let serving: Option<Arc<Serving>> = None;
        futures_util::stream::unfold(Some((service, requests, serving)), |stream| async move {
            let (service, mut requests, mut serving) = stream?;
            let request = match requests.next().await? {
                Ok(request) => request,
                Err(status) => return Some((Err(status), None)),
            };
            match service.tso(&mut serving, &request).await {
                Ok(response) => Some((Ok(response), Some((service, requests, serving)))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    /// One request. The leadership found by the first one is used until it ends.
    async fn tso(
        &self,
        serving: &mut Option<Arc<Serving>>,
        request: &pdpb::TsoRequest,
    ) -> Result<pdpb::TsoResponse, Status> {
        if serving.as_ref().is_none_or(|serving| serving.has_ended()) {
            *serving = Some(self.node.serving().ok_or_else(not_granted)?);
        }
        let Some(serving) = serving else { return Err(not_granted()) };
        let cluster_id = self.check_cluster(request.header.as_ref())?;
        if request.count == 0 {
            return Err(Status::unknown("tso count should be positive"));
        }
        let last = serving.timestamp(&self.node, request.count).await?;
        let response = pdpb::TsoResponse {
            header: None,
            count: request.count,
            timestamp: Some(timestamp_of(last)),
        };
        Ok(answer(cluster_id, Ok(response)))
    }

    /// Any fresh timestamp: there is one oracle only.
    pub(super) async fn get_min_ts(
        &self,
        request: pdpb::GetMinTsRequest,
    ) -> Result<pdpb::GetMinTsResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let timestamp = serving.timestamp(&self.node, 1).await?;
        let response =
            pdpb::GetMinTsResponse { header: None, timestamp: Some(timestamp_of(timestamp)) };
        Ok(answer(cluster_id, Ok(response)))
    }

    /// The *last* of `count` ids; `count` is said only when it is more than one. Who asks for more than
    /// [`ids::COUNT_MAX`] is told how many it got.
    pub(super) async fn alloc_id(
        &self,
        request: pdpb::AllocIdRequest,
    ) -> Result<pdpb::AllocIdResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let given = u64::from(request.count).min(ids::COUNT_MAX);
        let id = serving.ids(&self.node, given).await?;
        let count = if given > 1 { given as u32 } else { 0 };
        Ok(answer(cluster_id, Ok(pdpb::AllocIdResponse { header: None, id, count })))
    }
}

/// Why a stream of timestamps ends on a member that does not lead. Clients look for "not leader".
fn not_granted() -> Status {
    Status::unknown("generate timestamp failed, requested pd is not leader of cluster: not leader")
}
