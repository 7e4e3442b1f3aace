//! Regions' heartbeats, the orders that answer them, and splits.
//!
//! A store keeps one stream open for all regions it leads. Heartbeats come in, orders go out, not
//! one for one: an order may also be pushed when a plan is made between heartbeats. A plan's
//! first order waits until what it rests on is durable.

use std::sync::Arc;

use proto::{StoreId, pdpb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::answer::refused;
use super::{Service, answer};
use crate::cluster::{Asked, Heard, Refusal};
use crate::member::reign::NotYet;
use crate::server::node::not_leader;
use crate::server::serving::{ORDERS_MAX, OrderStream, Serving, change_of};

/// How often a stream that has nothing to say says so: it shows both ends that it lives.
const KEEPALIVE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);

impl Service {
    /// Reads a store's heartbeats until the stream or the leadership ends.
    pub(super) fn region_heartbeat_stream(
        &self,
        heartbeats: Streaming<pdpb::RegionHeartbeatRequest>,
    ) -> ReceiverStream<Result<pdpb::RegionHeartbeatResponse, Status>> {
        let (orders, stream) = mpsc::channel(ORDERS_MAX);
        let service = self.clone();
        self.node.runtime.spawn(async move {
            if let Err(status) = service.hear_regions(heartbeats, &orders).await {
                // The store opens another stream, to whoever leads then.
                orders.send(Err(status)).await.ok();
            }
        });
        ReceiverStream::new(stream)
    }

    async fn hear_regions(
        &self,
        mut heartbeats: Streaming<pdpb::RegionHeartbeatRequest>,
        orders: &OrderStream,
    ) -> Result<(), Status> {
        let serving = self.node.serving().ok_or_else(not_leader)?;
        loop {
            let next = tokio::time::timeout(KEEPALIVE_INTERVAL, heartbeats.message());
            let heartbeat = tokio::select! {
                biased;
                // Idle stores must learn of it too: they speak to the next leader then.
                () = serving.ended() => return Err(not_leader()),
                heartbeat = next => heartbeat,
            };
            let Ok(heartbeat) = heartbeat else {
                let nothing = answer(self.node.cluster_id(), Ok(Default::default()));
                // Full: there is plenty to say.
                orders.try_send(Ok(nothing)).ok();
                continue;
            };
            let Some(heartbeat) = heartbeat? else { return Ok(()) };
            let cluster_id = self.check_cluster(heartbeat.header.as_ref())?;
            serving.await_lease(&self.node).await?;
            let target_peer = heartbeat.leader;
            if let Some(leader) = target_peer {
                serving.bind(StoreId(leader.store_id), orders);
            }
            match self.hear_region(&serving, heartbeat) {
                Ok(()) => {}
                // A store that nobody knows must register before it may speak.
                Err(Refusal::UnknownStore(id)) => {
                    return Err(Status::unknown(Refusal::UnknownStore(id).to_string()));
                }
                Err(refusal) => {
                    let response = pdpb::RegionHeartbeatResponse {
                        header: Some(refused(cluster_id, refusal)),
                        target_peer,
                        ..Default::default()
                    };
                    orders.try_send(Ok(response)).ok();
                }
            }
        }
    }

    fn hear_region(
        &self,
        serving: &Arc<Serving>,
        heartbeat: pdpb::RegionHeartbeatRequest,
    ) -> Result<(), Refusal> {
        if !self.node.has_room() {
            // As good as lost; the next one says the same.
            return Ok(());
        }
        let moment = self.node.clock.moment();
        let order = {
            let mut affairs = serving.lock();
            let (cluster, ids) = affairs.cluster_and_ids()?;
            let Heard { verdict: _, writes, order, ids_wanted } =
                cluster.on_region_heartbeat(heartbeat, ids, moment)?;
            if let Some(bound) = ids_wanted {
                affairs.reign.need_ids(bound);
                serving.propose_bounds(&self.node, &mut affairs, moment);
            }
            // Nobody waits for the outcome: an order that follows from it waits in the outbox, and
            // a heartbeat is not acknowledged.
            drop(serving.propose(&self.node, change_of(writes)));
            order
        };
        if let Some(order) = order {
            serving.send_order(&self.node, order);
        }
        Ok(())
    }

    pub(super) async fn ask_batch_split(
        &self,
        request: pdpb::AskBatchSplitRequest,
    ) -> Result<pdpb::AskBatchSplitResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let ids = self.split_ids(&serving, request.region, request.split_count).await?;
        Ok(answer(cluster_id, ids.map(|ids| pdpb::AskBatchSplitResponse { header: None, ids })))
    }

    pub(super) async fn ask_split(
        &self,
        request: pdpb::AskSplitRequest,
    ) -> Result<pdpb::AskSplitResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let ids = self.split_ids(&serving, request.region, 1).await?;
        Ok(answer(
            cluster_id,
            ids.map(|ids| {
                let first = ids.into_iter().next().unwrap_or_default();
                pdpb::AskSplitResponse {
                    header: None,
                    new_region_id: first.new_region_id,
                    new_peer_ids: first.new_peer_ids,
                }
            }),
        ))
    }

    /// Ids for a split, which may have to wait for their bound.
    async fn split_ids(
        &self,
        serving: &Serving,
        region: Option<proto::metapb::Region>,
        count: u32,
    ) -> Result<Result<Vec<pdpb::SplitId>, Refusal>, Status> {
        let Some(region) = region else {
            return Ok(Err(Refusal::RegionNotFound("missing region for split".into())));
        };
        serving
            .decide_with_ids(&self.node, |affairs| {
                let asked = affairs
                    .cluster_and_ids()
                    .and_then(|(cluster, ids)| cluster.ask_batch_split(&region, count, ids));
                match asked {
                    Ok(Asked::Ids(ids)) => Ok(Ok(ids)),
                    Err(refusal) => Ok(Err(refusal)),
                    Ok(Asked::NeedBound(bound)) => {
                        affairs.reign.need_ids(bound);
                        Err(NotYet::NeedBound)
                    }
                }
            })
            .await
    }

    /// Both halves are found from now on; their heartbeats will say more.
    pub(super) async fn report_batch_split(
        &self,
        request: pdpb::ReportBatchSplitRequest,
    ) -> Result<pdpb::ReportBatchSplitResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self.note_split(&serving, request.regions).await?;
        Ok(answer(cluster_id, decided.map(|()| Default::default())))
    }

    pub(super) async fn report_split(
        &self,
        request: pdpb::ReportSplitRequest,
    ) -> Result<pdpb::ReportSplitResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let halves = request.left.into_iter().chain(request.right).collect();
        let decided = self.note_split(&serving, halves).await?;
        Ok(answer(cluster_id, decided.map(|()| Default::default())))
    }

    async fn note_split(
        &self,
        serving: &Serving,
        halves: Vec<proto::metapb::Region>,
    ) -> Result<Result<(), Refusal>, Status> {
        serving
            .change(&self.node, |affairs, _| {
                let writes = affairs.cluster()?.report_batch_split(halves)?;
                Ok((change_of(writes), ()))
            })
            .await
    }
}
