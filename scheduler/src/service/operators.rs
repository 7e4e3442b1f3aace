//! What administrators have regions do, splits and scattering that clients ask for, and how plans
//! stand.
//!
//! A plan's first order is pushed to the region's leader when the plan is taken. The leader would
//! otherwise hear of it only with its next heartbeat, up to a minute later.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{RegionId, pdpb};
use tonic::Status;

use super::{Service, answer};
use crate::cluster::{Cluster, Moment, Refusal, Regions, ScatterStep};
use crate::instructions::{Instructed, Instruction};
use crate::member::reign::NotYet;
use crate::operator::{Operator, Purpose, Step};
use crate::server::node::Node;
use crate::server::serving::Serving;

/// Keys one request may split at; more are refused.
const SPLIT_KEYS_MAX: usize = 10_000;
/// Regions one request may scatter; more are refused.
const SCATTERED_MAX: usize = 10_000;

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
    if let Some(order) = order {
        serving.send_order(node, order);
    }
    Ok(Ok(number))
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
    /// Spreads a group of regions over the stores. It is answered when their plans are made; clients
    /// ask `GetOperator` how those stand.
    pub(super) async fn scatter_region(
        &self,
        request: pdpb::ScatterRegionRequest,
    ) -> Result<pdpb::ScatterRegionResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        // The older form names one region, and wants to hear when it does not exist.
        let is_older_form = request.regions_id.is_empty();
        let regions =
            if is_older_form { vec![request.region_id] } else { request.regions_id.clone() };
        let wish = Scatter {
            group: &request.group,
            skip_store_limits: request.skip_store_limit,
            regions: &regions,
        };
        let failed = match scatter(&self.node, &serving, &wish).await? {
            Ok(failed) => failed,
            Err(refusal) => return Ok(answer(cluster_id, Err(refusal))),
        };
        if let Some(failed) = failed.first().filter(|_| is_older_form) {
            return Ok(answer(cluster_id, Err(failed.why.clone())));
        }
        let failed_regions_id: Vec<u64> = failed.into_iter().map(|failed| failed.region).collect();
        let all = regions.len();
        let response = pdpb::ScatterRegionResponse {
            header: None,
            finished_percentage: percentage(all - failed_regions_id.len(), all),
            failed_regions_id,
        };
        Ok(answer(cluster_id, Ok(response)))
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
                .ok_or_else(|| Refusal::no_region(RegionId(request.region_id)))
        });
        Ok(match found {
            // Clients of PD know this text for a region without a plan.
            Err(Refusal::RegionNotFound(_)) => pdpb::GetOperatorResponse {
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
        let split = split_at(&self.node, &serving, &request.split_keys).await?;
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
        let split = split_at(&self.node, &serving, &request.split_keys).await?;
        let regions_id = match split {
            Ok(regions_id) => regions_id,
            Err(refusal) => return Ok(refused_split(cluster_id, refusal)),
        };
        let wish =
            Scatter { group: &request.group, skip_store_limits: false, regions: &regions_id };
        let failed = match scatter(&self.node, &serving, &wish).await? {
            Ok(failed) => failed,
            Err(refusal) => return Ok(refused_split(cluster_id, refusal)),
        };
        Ok(pdpb::SplitAndScatterRegionsResponse {
            header: Some(pdpb::ResponseHeader { cluster_id, error: None }),
            split_finished_percentage: percentage(regions_id.len(), request.split_keys.len()),
            scatter_finished_percentage: percentage(
                regions_id.len() - failed.len(),
                regions_id.len(),
            ),
            regions_id,
        })
    }
}

fn refused_split(cluster_id: u64, refusal: Refusal) -> pdpb::SplitAndScatterRegionsResponse {
    pdpb::SplitAndScatterRegionsResponse {
        header: Some(super::answer::refused(cluster_id, refusal)),
        ..Default::default()
    }
}

/// Has regions cut at these keys, and waits for a while; the regions that begin at them then.
pub(crate) async fn split_at(
    node: &Node,
    serving: &Serving,
    keys: &[Bytes],
) -> Result<Result<Vec<u64>, Refusal>, Status> {
    if keys.len() > SPLIT_KEYS_MAX {
        let why = format!("at most {SPLIT_KEYS_MAX} split keys at once");
        return Ok(Err(Refusal::InvalidValue(why)));
    }
    let moment = node.clock.moment();
    let orders = {
        let mut affairs = serving.lock();
        match affairs.cluster() {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(cluster) => plan_splits(cluster, keys, moment),
        }
    };
    for order in orders {
        serving.send_order(node, order);
    }
    let done = || {
        serving
            .lock()
            .cluster()
            .is_ok_and(|cluster| starting_at(cluster.regions(), keys).len() == keys.len())
    };
    serving.await_until(done).await.ok();
    serving.await_lease(node).await?;
    let mut affairs = serving.lock();
    Ok(affairs.cluster().map(|cluster| starting_at(cluster.regions(), keys)))
}

/// A group of regions that shall be spread.
pub(crate) struct Scatter<'a> {
    /// What they have in common; those scattered before under the same name count too.
    pub(crate) group: &'a str,
    /// Whether the limits of stores are passed over.
    pub(crate) skip_store_limits: bool,
    /// Their ids.
    pub(crate) regions: &'a [u64],
}

/// A region that is not scattered.
pub(crate) struct NotScattered {
    /// Which.
    pub(crate) region: u64,
    /// Why.
    pub(crate) why: Refusal,
}

/// Makes the plans that spread the group, and pushes their first orders. Returns the regions that
/// were left out.
pub(crate) async fn scatter(
    node: &Node,
    serving: &Serving,
    wish: &Scatter<'_>,
) -> Result<Result<Vec<NotScattered>, Refusal>, Status> {
    if wish.regions.len() > SCATTERED_MAX {
        let why = format!("at most {SCATTERED_MAX} regions at once");
        return Ok(Err(Refusal::InvalidValue(why)));
    }
    let mut failed = Vec::new();
    for &region in wish.regions {
        let decided = serving.decide_with_ids(node, |affairs| {
            let moment = node.clock.moment();
            let step = affairs.cluster_and_ids().and_then(|(cluster, ids)| {
                let (group, skip) = (wish.group, wish.skip_store_limits);
                cluster.scatter(RegionId(region), group, skip, ids, moment)
            });
            match step {
                Ok(ScatterStep::Done(order)) => Ok(Ok(order)),
                Err(refusal) => Ok(Err(refusal)),
                Ok(ScatterStep::NeedBound(bound)) => {
                    affairs.reign.need_ids(bound);
                    Err(NotYet::NeedBound)
                }
            }
        });
        match decided.await? {
            Ok(order) => order.into_iter().for_each(|order| serving.send_order(node, order)),
            Err(Refusal::NotBootstrapped) => return Ok(Err(Refusal::NotBootstrapped)),
            Err(why) => {
                tracing::debug!(region, %why, "a region is not scattered");
                failed.push(NotScattered { region, why });
            }
        }
    }
    Ok(Ok(failed))
}
