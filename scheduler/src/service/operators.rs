//! What administrators have regions do, splits and scattering that clients ask for, and how plans
//! stand.
//!
//! A plan's first order is pushed to the region's leader when the plan is taken. The leader would
//! otherwise hear of it only with its next heartbeat, up to a minute later.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{RegionId, pdpb, region};
use tonic::Status;

use super::{Service, answer};
use crate::cluster::{Cluster, Moment, Refusal, Regions};
use crate::instructions::{Instructed, Instruction};
use crate::member::reign::NotYet;
use crate::operator::{Operator, Purpose, Step};
use crate::server::node::Node;
use crate::server::serving::Serving;

/// Keys one request may split at; more are refused.
const SPLIT_KEYS_MAX: usize = 10_000;

/// An order for a region's leader.
type Order = pdpb::RegionHeartbeatResponse;

/// Takes an administrator's instruction and pushes its first order; the number of its plan.
pub(crate) async fn instruct(
    node: &Node,
    serving: &Serving,
    instruction: &Instruction,
) -> Result<Result<u64, Refusal>, Status> {
    let decided = serving.decide_with_ids(node, |affairs| {
        let instructed = affairs
            .cluster_and_ids()
            .and_then(|(cluster, ids)| cluster.instruct(instruction, ids, node.clock.moment()));
        match instructed {
            Err(refusal) => Ok(Err(refusal)),
            Ok(Instructed::UnderWay { number, order }) => Ok(Ok((number, order))),
            Ok(Instructed::NeedBound(bound)) => {
                affairs.reign.need_ids(bound);
                Err(NotYet::NeedBound)
            }
        }
    });
    let (number, order) = match decided.await? {
        Ok(under_way) => under_way,
        Err(refusal) => return Ok(Err(refusal)),
    };
    push(node, serving, order).await;
    Ok(Ok(number))
}

/// Sends orders as soon as the log holds the descriptions of the regions that they are for. Those
/// that are not sent are repeated by the tick.
async fn push(node: &Node, serving: &Serving, orders: impl IntoIterator<Item = Order>) {
    for order in orders {
        let wanted = order.region_epoch.unwrap_or_default();
        let is_known = || {
            let state = node.state.read();
            let known = state.region(order.region_id).map(region::epoch);
            known.is_some_and(|known| !region::is_epoch_stale(&known, &wanted))
        };
        if serving.await_until(is_known).await.is_ok() {
            serving.send_order(node, order);
        }
    }
}

/// Plans to cut regions so that each of these keys begins one, and returns the orders to send. Keys
/// that do already are done; regions that are busy are left for another try.
pub(crate) fn plan_splits(cluster: &mut Cluster, keys: &[Bytes], moment: Moment) -> Vec<Order> {
    let mut orders = Vec::new();
    let mut by_region: BTreeMap<RegionId, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        let Some(record) = cluster.regions().by_key(key) else { continue };
        if record.region.start_key != *key {
            by_region.entry(record.id()).or_default().push(key.clone());
        }
    }
    for (region, mut keys) in by_region {
        keys.sort();
        keys.dedup();
        let Some(record) = cluster.regions().by_id(region).cloned() else { continue };
        let policy = pdpb::CheckPolicy::Usekey;
        let step = Step::Split { keys, policy, version: record.epoch().version };
        let plan = Operator::new("split-region", Purpose::Split, &record, vec![step]);
        match cluster.add_operator(plan, moment) {
            Ok(order) => orders.extend(order),
            Err(declined) => tracing::debug!(%declined, "a split has to wait"),
        }
    }
    orders
}

/// The regions that begin at these keys, as far as there are any.
fn starting_at(regions: &Regions, keys: &[Bytes]) -> Vec<u64> {
    keys.iter()
        .filter_map(|key| regions.by_key(key))
        .zip(keys)
        .filter(|(record, key)| record.region.start_key == **key)
        .map(|(record, _)| record.id().0)
        .collect()
}

fn percentage(done: usize, all: usize) -> u64 {
    (done * 100).checked_div(all).map_or(100, |percent| percent as u64)
}

impl Service {
    /// Regions are where the balancers want them: there is nothing to do.
    pub(super) async fn scatter_region(
        &self,
        request: pdpb::ScatterRegionRequest,
    ) -> Result<pdpb::ScatterRegionResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let decided = affairs.cluster().and_then(|cluster| {
            let regions = cluster.regions();
            // The older form names one region, and wants to hear when it does not exist.
            let is_older_form = request.regions_id.is_empty();
            if is_older_form && regions.by_id(RegionId(request.region_id)).is_none() {
                return Err(Refusal::RegionNotFound);
            }
            let all = request.regions_id.len();
            let failed_regions_id: Vec<u64> = request
                .regions_id
                .into_iter()
                .filter(|&id| regions.by_id(RegionId(id)).is_none())
                .collect();
            Ok(pdpb::ScatterRegionResponse {
                header: None,
                finished_percentage: percentage(all - failed_regions_id.len(), all),
                failed_regions_id,
            })
        });
        Ok(answer(cluster_id, decided))
    }

    pub(super) async fn get_operator(
        &self,
        request: pdpb::GetOperatorRequest,
    ) -> Result<pdpb::GetOperatorResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let moment = self.node.clock.moment();
        let mut affairs = serving.lock();
        let found = affairs.cluster().and_then(|cluster| {
            cluster
                .operators()
                .status(RegionId(request.region_id), moment)
                .ok_or(Refusal::RegionNotFound)
        });
        Ok(match found {
            // Clients of PD know this text for a region without a plan.
            Err(Refusal::RegionNotFound) => pdpb::GetOperatorResponse {
                header: Some(pdpb::ResponseHeader {
                    cluster_id,
                    error: Some(pdpb::Error {
                        r#type: pdpb::ErrorType::RegionNotFound.into(),
                        message: "Not Found".into(),
                    }),
                }),
                ..Default::default()
            },
            found => answer(cluster_id, found),
        })
    }

    /// Has regions cut at these keys, and waits until heartbeats show it, or until the caller's
    /// patience is over: then it is told how far it came.
    pub(super) async fn split_regions(
        &self,
        request: pdpb::SplitRegionsRequest,
    ) -> Result<pdpb::SplitRegionsResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let split = self.split_at(&serving, &request.split_keys).await?;
        Ok(match split {
            Err(refusal) => pdpb::SplitRegionsResponse {
                header: Some(super::answer::refused(cluster_id, refusal)),
                ..Default::default()
            },
            Ok(regions_id) => pdpb::SplitRegionsResponse {
                header: Some(pdpb::ResponseHeader { cluster_id, error: None }),
                finished_percentage: percentage(regions_id.len(), request.split_keys.len()),
                regions_id,
            },
        })
    }

    pub(super) async fn split_and_scatter_regions(
        &self,
        request: pdpb::SplitAndScatterRegionsRequest,
    ) -> Result<pdpb::SplitAndScatterRegionsResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let split = self.split_at(&serving, &request.split_keys).await?;
        Ok(match split {
            Err(refusal) => pdpb::SplitAndScatterRegionsResponse {
                header: Some(super::answer::refused(cluster_id, refusal)),
                ..Default::default()
            },
            Ok(regions_id) => pdpb::SplitAndScatterRegionsResponse {
                header: Some(pdpb::ResponseHeader { cluster_id, error: None }),
                split_finished_percentage: percentage(regions_id.len(), request.split_keys.len()),
                scatter_finished_percentage: 100,
                regions_id,
            },
        })
    }

    async fn split_at(
        &self,
        serving: &Serving,
        keys: &[Bytes],
    ) -> Result<Result<Vec<u64>, Refusal>, Status> {
        if keys.len() > SPLIT_KEYS_MAX {
            let why = format!("at most {SPLIT_KEYS_MAX} split keys at once");
            return Ok(Err(Refusal::InvalidValue(why)));
        }
        let moment = self.node.clock.moment();
        let orders = {
            let mut affairs = serving.lock();
            match affairs.cluster() {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(cluster) => plan_splits(cluster, keys, moment),
            }
        };
        push(&self.node, serving, orders).await;
        let done = || {
            serving
                .lock()
                .cluster()
                .is_ok_and(|cluster| starting_at(cluster.regions(), keys).len() == keys.len())
        };
        serving.await_until(done).await.ok();
        serving.await_lease(&self.node).await?;
        let mut affairs = serving.lock();
        Ok(affairs.cluster().map(|cluster| starting_at(cluster.regions(), keys)))
    }
}
