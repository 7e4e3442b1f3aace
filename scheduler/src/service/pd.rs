//! The list of all RPCs of `pdpb.PD`. What they do is told in the files beside this one.

use std::pin::Pin;

use proto::StoreId;
use proto::pdpb::{self, pd_server::Pd};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, answer};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What nobody here does, and why that is no mistake of the caller's.
fn unsupported(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported"))
}

#[tonic::async_trait]
impl Pd for Service {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        Ok(Response::new(Service::get_members(self)))
    }

    async fn get_cluster_info(
        &self,
        _: Request<pdpb::GetClusterInfoRequest>,
    ) -> Result<Response<pdpb::GetClusterInfoResponse>, Status> {
        Ok(Response::new(Service::get_cluster_info(self)))
    }

    type TsoStream = Answers<pdpb::TsoResponse>;

    async fn tso(
        &self,
        request: Request<Streaming<pdpb::TsoRequest>>,
    ) -> Result<Response<Self::TsoStream>, Status> {
        Ok(Response::new(Box::pin(self.tso_stream(request.into_inner()))))
    }

    type QueryRegionStream = Answers<pdpb::QueryRegionResponse>;

    async fn query_region(
        &self,
        request: Request<Streaming<pdpb::QueryRegionRequest>>,
    ) -> Result<Response<Self::QueryRegionStream>, Status> {
        Ok(Response::new(Box::pin(self.query_region_stream(request.into_inner()))))
    }

    type RegionHeartbeatStream = Answers<pdpb::RegionHeartbeatResponse>;

    async fn region_heartbeat(
        &self,
        request: Request<Streaming<pdpb::RegionHeartbeatRequest>>,
    ) -> Result<Response<Self::RegionHeartbeatStream>, Status> {
        Ok(Response::new(Box::pin(self.region_heartbeat_stream(request.into_inner()))))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        Service::get_region(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_prev_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        Service::get_prev_region(self, request.into_inner()).await.map(Response::new)
    }

    async fn advance_gc_safe_point(
        &self,
        request: Request<pdpb::AdvanceGcSafePointRequest>,
    ) -> Result<Response<pdpb::AdvanceGcSafePointResponse>, Status> {
        Service::advance_gc_safe_point(self, request.into_inner()).await.map(Response::new)
    }

    async fn advance_txn_safe_point(
        &self,
        request: Request<pdpb::AdvanceTxnSafePointRequest>,
    ) -> Result<Response<pdpb::AdvanceTxnSafePointResponse>, Status> {
        Service::advance_txn_safe_point(self, request.into_inner()).await.map(Response::new)
    }

    async fn alloc_id(
        &self,
        request: Request<pdpb::AllocIdRequest>,
    ) -> Result<Response<pdpb::AllocIdResponse>, Status> {
        Service::alloc_id(self, request.into_inner()).await.map(Response::new)
    }

    async fn ask_batch_split(
        &self,
        request: Request<pdpb::AskBatchSplitRequest>,
    ) -> Result<Response<pdpb::AskBatchSplitResponse>, Status> {
        Service::ask_batch_split(self, request.into_inner()).await.map(Response::new)
    }

    async fn ask_split(
        &self,
        request: Request<pdpb::AskSplitRequest>,
    ) -> Result<Response<pdpb::AskSplitResponse>, Status> {
        Service::ask_split(self, request.into_inner()).await.map(Response::new)
    }

    async fn batch_scan_regions(
        &self,
        request: Request<pdpb::BatchScanRegionsRequest>,
    ) -> Result<Response<pdpb::BatchScanRegionsResponse>, Status> {
        Service::batch_scan_regions(self, request.into_inner()).await.map(Response::new)
    }

    async fn bootstrap(
        &self,
        request: Request<pdpb::BootstrapRequest>,
    ) -> Result<Response<pdpb::BootstrapResponse>, Status> {
        Service::bootstrap(self, request.into_inner()).await.map(Response::new)
    }

    async fn delete_gc_barrier(
        &self,
        request: Request<pdpb::DeleteGcBarrierRequest>,
    ) -> Result<Response<pdpb::DeleteGcBarrierResponse>, Status> {
        Service::delete_gc_barrier(self, request.into_inner()).await.map(Response::new)
    }

    async fn delete_global_gc_barrier(
        &self,
        request: Request<pdpb::DeleteGlobalGcBarrierRequest>,
    ) -> Result<Response<pdpb::DeleteGlobalGcBarrierResponse>, Status> {
        Service::delete_global_gc_barrier(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_all_gc_safe_point_v2(
        &self,
        request: Request<pdpb::GetAllGcSafePointV2Request>,
    ) -> Result<Response<pdpb::GetAllGcSafePointV2Response>, Status> {
        Service::get_all_gc_safe_point_v2(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_all_keyspaces_gc_states(
        &self,
        request: Request<pdpb::GetAllKeyspacesGcStatesRequest>,
    ) -> Result<Response<pdpb::GetAllKeyspacesGcStatesResponse>, Status> {
        Service::get_all_keyspaces_gc_states(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_all_stores(
        &self,
        request: Request<pdpb::GetAllStoresRequest>,
    ) -> Result<Response<pdpb::GetAllStoresResponse>, Status> {
        Service::get_all_stores(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_cluster_config(
        &self,
        request: Request<pdpb::GetClusterConfigRequest>,
    ) -> Result<Response<pdpb::GetClusterConfigResponse>, Status> {
        Service::get_cluster_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_external_timestamp(
        &self,
        request: Request<pdpb::GetExternalTimestampRequest>,
    ) -> Result<Response<pdpb::GetExternalTimestampResponse>, Status> {
        Service::get_external_timestamp(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_gc_safe_point(
        &self,
        request: Request<pdpb::GetGcSafePointRequest>,
    ) -> Result<Response<pdpb::GetGcSafePointResponse>, Status> {
        Service::get_gc_safe_point(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_gc_safe_point_v2(
        &self,
        request: Request<pdpb::GetGcSafePointV2Request>,
    ) -> Result<Response<pdpb::GetGcSafePointV2Response>, Status> {
        Service::get_gc_safe_point_v2(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_gc_state(
        &self,
        request: Request<pdpb::GetGcStateRequest>,
    ) -> Result<Response<pdpb::GetGcStateResponse>, Status> {
        Service::get_gc_state(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_min_ts(
        &self,
        request: Request<pdpb::GetMinTsRequest>,
    ) -> Result<Response<pdpb::GetMinTsResponse>, Status> {
        Service::get_min_ts(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_operator(
        &self,
        request: Request<pdpb::GetOperatorRequest>,
    ) -> Result<Response<pdpb::GetOperatorResponse>, Status> {
        Service::get_operator(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        Service::get_region_by_id(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        Service::get_store(self, request.into_inner()).await.map(Response::new)
    }

    async fn is_bootstrapped(
        &self,
        request: Request<pdpb::IsBootstrappedRequest>,
    ) -> Result<Response<pdpb::IsBootstrappedResponse>, Status> {
        Service::is_bootstrapped(self, request.into_inner()).await.map(Response::new)
    }

    async fn load_global_config(
        &self,
        request: Request<pdpb::LoadGlobalConfigRequest>,
    ) -> Result<Response<pdpb::LoadGlobalConfigResponse>, Status> {
        Service::load_global_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn put_cluster_config(
        &self,
        request: Request<pdpb::PutClusterConfigRequest>,
    ) -> Result<Response<pdpb::PutClusterConfigResponse>, Status> {
        Service::put_cluster_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn put_store(
        &self,
        request: Request<pdpb::PutStoreRequest>,
    ) -> Result<Response<pdpb::PutStoreResponse>, Status> {
        Service::put_store(self, request.into_inner()).await.map(Response::new)
    }

    async fn report_batch_split(
        &self,
        request: Request<pdpb::ReportBatchSplitRequest>,
    ) -> Result<Response<pdpb::ReportBatchSplitResponse>, Status> {
        Service::report_batch_split(self, request.into_inner()).await.map(Response::new)
    }

    async fn report_split(
        &self,
        request: Request<pdpb::ReportSplitRequest>,
    ) -> Result<Response<pdpb::ReportSplitResponse>, Status> {
        Service::report_split(self, request.into_inner()).await.map(Response::new)
    }

    async fn scan_regions(
        &self,
        request: Request<pdpb::ScanRegionsRequest>,
    ) -> Result<Response<pdpb::ScanRegionsResponse>, Status> {
        Service::scan_regions(self, request.into_inner()).await.map(Response::new)
    }

    async fn scatter_region(
        &self,
        request: Request<pdpb::ScatterRegionRequest>,
    ) -> Result<Response<pdpb::ScatterRegionResponse>, Status> {
        Service::scatter_region(self, request.into_inner()).await.map(Response::new)
    }

    async fn set_external_timestamp(
        &self,
        request: Request<pdpb::SetExternalTimestampRequest>,
    ) -> Result<Response<pdpb::SetExternalTimestampResponse>, Status> {
        Service::set_external_timestamp(self, request.into_inner()).await.map(Response::new)
    }

    async fn set_gc_barrier(
        &self,
        request: Request<pdpb::SetGcBarrierRequest>,
    ) -> Result<Response<pdpb::SetGcBarrierResponse>, Status> {
        Service::set_gc_barrier(self, request.into_inner()).await.map(Response::new)
    }

    async fn set_global_gc_barrier(
        &self,
        request: Request<pdpb::SetGlobalGcBarrierRequest>,
    ) -> Result<Response<pdpb::SetGlobalGcBarrierResponse>, Status> {
        Service::set_global_gc_barrier(self, request.into_inner()).await.map(Response::new)
    }

    async fn split_and_scatter_regions(
        &self,
        request: Request<pdpb::SplitAndScatterRegionsRequest>,
    ) -> Result<Response<pdpb::SplitAndScatterRegionsResponse>, Status> {
        Service::split_and_scatter_regions(self, request.into_inner()).await.map(Response::new)
    }

    async fn split_regions(
        &self,
        request: Request<pdpb::SplitRegionsRequest>,
    ) -> Result<Response<pdpb::SplitRegionsResponse>, Status> {
        Service::split_regions(self, request.into_inner()).await.map(Response::new)
    }

    async fn store_global_config(
        &self,
        request: Request<pdpb::StoreGlobalConfigRequest>,
    ) -> Result<Response<pdpb::StoreGlobalConfigResponse>, Status> {
        Service::store_global_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn store_heartbeat(
        &self,
        request: Request<pdpb::StoreHeartbeatRequest>,
    ) -> Result<Response<pdpb::StoreHeartbeatResponse>, Status> {
        Service::store_heartbeat(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_gc_safe_point(
        &self,
        request: Request<pdpb::UpdateGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateGcSafePointResponse>, Status> {
        Service::update_gc_safe_point(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_gc_safe_point_v2(
        &self,
        request: Request<pdpb::UpdateGcSafePointV2Request>,
    ) -> Result<Response<pdpb::UpdateGcSafePointV2Response>, Status> {
        Service::update_gc_safe_point_v2(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_service_gc_safe_point(
        &self,
        request: Request<pdpb::UpdateServiceGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateServiceGcSafePointResponse>, Status> {
        Service::update_service_gc_safe_point(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_service_safe_point_v2(
        &self,
        request: Request<pdpb::UpdateServiceSafePointV2Request>,
    ) -> Result<Response<pdpb::UpdateServiceSafePointV2Response>, Status> {
        Service::update_service_safe_point_v2(self, request.into_inner()).await.map(Response::new)
    }

    /// No snapshot recovery is ever under way: it belongs to backup tools.
    async fn is_snapshot_recovering(
        &self,
        _: Request<pdpb::IsSnapshotRecoveringRequest>,
    ) -> Result<Response<pdpb::IsSnapshotRecoveringResponse>, Status> {
        let response = pdpb::IsSnapshotRecoveringResponse { header: None, marked: false };
        Ok(Response::new(answer(self.node.cluster_id(), Ok(response))))
    }

    async fn report_buckets(
        &self,
        request: Request<Streaming<pdpb::ReportBucketsRequest>>,
    ) -> Result<Response<pdpb::ReportBucketsResponse>, Status> {
        Service::report_buckets(self, request.into_inner()).await.map(Response::new)
    }

    /// Kept for those who ask over HTTP.
    async fn report_min_resolved_ts(
        &self,
        request: Request<pdpb::ReportMinResolvedTsRequest>,
    ) -> Result<Response<pdpb::ReportMinResolvedTsResponse>, Status> {
        let request = request.into_inner();
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let reported = affairs.cluster().and_then(|cluster| {
            cluster.report_resolved(StoreId(request.store_id), request.min_resolved_ts)
        });
        Ok(Response::new(answer(cluster_id, reported.map(|()| Default::default()))))
    }

    async fn sync_max_ts(
        &self,
        _: Request<pdpb::SyncMaxTsRequest>,
    ) -> Result<Response<pdpb::SyncMaxTsResponse>, Status> {
        Err(unsupported("a timestamp oracle for each data center"))
    }

    async fn get_dc_location_info(
        &self,
        _: Request<pdpb::GetDcLocationInfoRequest>,
    ) -> Result<Response<pdpb::GetDcLocationInfoResponse>, Status> {
        Err(unsupported("a timestamp oracle for each data center"))
    }

    type SyncRegionsStream = Answers<pdpb::SyncRegionResponse>;

    async fn sync_regions(
        &self,
        _: Request<Streaming<pdpb::SyncRegionRequest>>,
    ) -> Result<Response<Self::SyncRegionsStream>, Status> {
        Err(unsupported("a copy of the regions: members have their own log"))
    }

    type WatchGCSafePointV2Stream = Answers<pdpb::WatchGcSafePointV2Response>;

    async fn watch_gc_safe_point_v2(
        &self,
        _: Request<pdpb::WatchGcSafePointV2Request>,
    ) -> Result<Response<Self::WatchGCSafePointV2Stream>, Status> {
        Err(unsupported("watching the safe points of keyspaces"))
    }

    type WatchGlobalConfigStream = Answers<pdpb::WatchGlobalConfigResponse>;

    async fn watch_global_config(
        &self,
        request: Request<pdpb::WatchGlobalConfigRequest>,
    ) -> Result<Response<Self::WatchGlobalConfigStream>, Status> {
        Service::watch_global_config(self, &request.into_inner()).map(Response::new)
    }
}
