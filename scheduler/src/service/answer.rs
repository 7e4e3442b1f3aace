//! Answers carry a header: whose cluster answers, and why not if it does not.

use proto::{keyspacepb, pdpb};

use crate::cluster::Refusal;

/// An answer with a place for a header.
pub(crate) trait Answer: Default {
    /// The same answer under this header.
    fn under(self, header: pdpb::ResponseHeader) -> Self;
}

/// The header of an answer that is none.
pub(crate) fn refused(cluster_id: u64, refusal: Refusal) -> pdpb::ResponseHeader {
    pdpb::ResponseHeader { cluster_id, error: Some(refusal.into()) }
}

/// An answer, good or bad, under its header.
pub(crate) fn answer<A: Answer>(cluster_id: u64, decided: Result<A, Refusal>) -> A {
    match decided {
        Ok(answer) => answer.under(pdpb::ResponseHeader { cluster_id, error: None }),
        Err(refusal) => A::default().under(refused(cluster_id, refusal)),
    }
}

macro_rules! answers {
    ($($package:ident :: { $($name:ident),* $(,)? })*) => {
        $($(impl Answer for $package::$name {
            fn under(mut self, header: pdpb::ResponseHeader) -> Self {
                self.header = Some(header);
                self
            }
        })*)*
    };
}

answers! {
    pdpb::{
        AdvanceGcSafePointResponse, AdvanceTxnSafePointResponse, AllocIdResponse,
        AskBatchSplitResponse, AskSplitResponse, BatchScanRegionsResponse, BootstrapResponse,
        DeleteGcBarrierResponse, DeleteGlobalGcBarrierResponse, GetAllGcSafePointV2Response,
        GetAllKeyspacesGcStatesResponse, GetAllStoresResponse, GetClusterConfigResponse,
        GetClusterInfoResponse, GetExternalTimestampResponse, GetGcSafePointResponse,
        GetGcSafePointV2Response, GetGcStateResponse, GetMembersResponse, GetMinTsResponse,
        GetOperatorResponse, GetRegionResponse, GetStoreResponse, IsBootstrappedResponse,
        IsSnapshotRecoveringResponse, PutClusterConfigResponse, PutStoreResponse,
        QueryRegionResponse, RegionHeartbeatResponse, ReportBatchSplitResponse,
        ReportBucketsResponse, ReportMinResolvedTsResponse, ReportSplitResponse,
        ScanRegionsResponse, ScatterRegionResponse, SetExternalTimestampResponse,
        SetGcBarrierResponse, SetGlobalGcBarrierResponse, StoreHeartbeatResponse,
        SyncMaxTsResponse, TsoResponse, UpdateGcSafePointResponse, UpdateGcSafePointV2Response,
        UpdateServiceGcSafePointResponse, UpdateServiceSafePointV2Response,
    }
    keyspacepb::{
        GetAllKeyspacesResponse, LoadKeyspaceResponse, UpdateKeyspaceStateResponse,
        WatchKeyspacesResponse,
    }
}
