//! Which region holds a key, who leads it, and how it lies in buckets.

use std::sync::Arc;

use proto::{KeyRange, RegionId, pdpb};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::{Service, answer};
use crate::cluster::{Refusal, RegionRecord, Regions};

/// Nobody known to lead is an empty peer where the wire wants one.
fn leader_of(record: &RegionRecord) -> proto::metapb::Peer {
    record.leader.unwrap_or_default()
}

/// The limit of a scan: none when it is not positive.
fn limit(wire: i32) -> usize {
    usize::try_from(wire).unwrap_or(0)
}

impl Service {
    /// A lookup of one region; not found is an answer without a region.
    async fn find(
        &self,
        header: Option<pdpb::RequestHeader>,
        need_buckets: bool,
        find: impl FnOnce(&Regions) -> Option<&Arc<RegionRecord>>,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        let (serving, cluster_id) = self.enter(header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|cluster| {
            find(cluster.regions())
                .map(|record| pdpb::GetRegionResponse {
                    buckets: record.buckets_if(need_buckets),
                    ..pdpb::GetRegionResponse::from(record.as_ref())
                })
                .unwrap_or_default()
        });
        Ok(answer(cluster_id, found))
    }

    pub(super) async fn get_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        let need_buckets = request.need_buckets;
        self.find(request.header, need_buckets, |regions| regions.by_key(&request.region_key)).await
    }

    pub(super) async fn get_prev_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        let need_buckets = request.need_buckets;
        self.find(request.header, need_buckets, |regions| regions.previous_of(&request.region_key))
            .await
    }

    pub(super) async fn get_region_by_id(
        &self,
        request: pdpb::GetRegionByIdRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        let need_buckets = request.need_buckets;
        self.find(request.header, need_buckets, |regions| {
            regions.by_id(RegionId(request.region_id))
        })
        .await
    }

    pub(super) async fn scan_regions(
        &self,
        request: pdpb::ScanRegionsRequest,
    ) -> Result<pdpb::ScanRegionsResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let range = KeyRange::from_wire(request.start_key, request.end_key);
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|cluster| {
            let records = cluster.regions().scan(&range, limit(request.limit));
            pdpb::ScanRegionsResponse {
                header: None,
                region_metas: records.iter().map(|record| record.region.clone()).collect(),
                leaders: records.iter().map(|record| leader_of(record)).collect(),
                regions: records.iter().map(with_leader).collect(),
            }
        });
        Ok(answer(cluster_id, found))
    }

    pub(super) async fn batch_scan_regions(
        &self,
        request: pdpb::BatchScanRegionsRequest,
    ) -> Result<pdpb::BatchScanRegionsResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let ranges: Vec<_> = request
            .ranges
            .into_iter()
            .map(|range| KeyRange::from_wire(range.start_key, range.end_key))
            .collect();
        let mut affairs = serving.lock();
        let found = affairs.cluster().and_then(|cluster| {
            let contain_all = request.contain_all_key_range;
            let records =
                cluster.regions().batch_scan(&ranges, limit(request.limit), contain_all)?;
            Ok(pdpb::BatchScanRegionsResponse {
                header: None,
                regions: records
                    .iter()
                    .map(|record| pdpb::Region {
                        buckets: record.buckets_if(request.need_buckets),
                        ..with_leader(record)
                    })
                    .collect(),
            })
        });
        Ok(answer(cluster_id, found))
    }

    /// Reads a store's reports of buckets until it ends the stream. Nothing says whether one was
    /// kept: what was not is as good as lost, and another report follows.
    pub(super) async fn report_buckets(
        &self,
        mut reports: Streaming<pdpb::ReportBucketsRequest>,
    ) -> Result<pdpb::ReportBucketsResponse, Status> {
        while let Some(report) = reports.message().await? {
            let (serving, cluster_id) = self.enter(report.header.as_ref()).await?;
            let mut affairs = serving.lock();
            match affairs.cluster() {
                Ok(cluster) => {
                    let Some(buckets) = report.buckets else { continue };
                    cluster.on_buckets(report.region_epoch, buckets);
                }
                Err(refusal) => return Ok(answer(cluster_id, Err(refusal))),
            }
        }
        Ok(answer(self.node.cluster_id(), Ok(Default::default())))
    }

    /// Many lookups on one stream, answered in order. A wrong cluster, or a member that does not
    /// lead, ends it.
    pub(super) fn query_region_stream(
        &self,
        requests: Streaming<pdpb::QueryRegionRequest>,
    ) -> impl Stream<Item = Result<pdpb::QueryRegionResponse, Status>> + Send + 'static {
        let service = self.clone();
        futures_util::stream::unfold(Some((service, requests)), |stream| async move {
            let (service, mut requests) = stream?;
            let request = match requests.next().await? {
                Ok(request) => request,
                Err(status) => return Some((Err(status), None)),
            };
            match service.query_region(request).await {
                Ok(response) => Some((Ok(response), Some((service, requests)))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn query_region(
        &self,
        request: pdpb::QueryRegionRequest,
    ) -> Result<pdpb::QueryRegionResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|cluster| {
            let regions = cluster.regions();
            let mut response = pdpb::QueryRegionResponse::default();
            let mut name = |found: Option<&Arc<RegionRecord>>| {
                let Some(record) = found else { return 0 };
                let id = record.id().0;
                response.regions_by_id.entry(id).or_insert_with(|| pdpb::RegionResponse {
                    buckets: record.buckets_if(request.need_buckets),
                    ..pdpb::RegionResponse::from(record.as_ref())
                });
                id
            };
            let key_id_map = request.keys.iter().map(|key| name(regions.by_key(key))).collect();
            let prev_key_id_map =
                request.prev_keys.iter().map(|key| name(regions.previous_of(key))).collect();
            for id in request.ids {
                name(regions.by_id(RegionId(id)));
            }
            pdpb::QueryRegionResponse { key_id_map, prev_key_id_map, ..response }
        });
        Ok(answer(cluster_id, found))
    }
}

/// A region as scans return it; clients want some leader there, be it an empty one.
fn with_leader(record: &Arc<RegionRecord>) -> pdpb::Region {
    pdpb::Region { leader: Some(leader_of(record)), ..pdpb::Region::from(record.as_ref()) }
}

/// The regions of the cluster, for the HTTP API; not bootstrapped is a refusal.
pub(crate) fn regions_of<T>(
    serving: &crate::server::serving::Serving,
    look: impl FnOnce(&Regions) -> T,
) -> Result<T, Refusal> {
    serving.lock().cluster().map(|cluster| look(cluster.regions()))
}
