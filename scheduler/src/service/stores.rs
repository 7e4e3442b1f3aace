//! Bootstrap, stores, and how they are.

use proto::replication_modepb::{ReplicationMode, ReplicationStatus};
use proto::schedulerpb::Change;
use proto::{StoreId, metapb, pdpb};
use tonic::Status;

use super::{Service, answer};
use crate::cluster::{Cluster, Refusal, check_bootstrap};
use crate::keyspaces::default_keyspace;
use crate::server::node::Node;
use crate::server::serving::{Serving, change_of, policy};

/// Replicas are equal: there is no other mode.
fn majority() -> Option<ReplicationStatus> {
    Some(ReplicationStatus { mode: ReplicationMode::Majority.into(), dr_auto_sync: None })
}

/// Begins the cluster with its first store and region.
async fn bootstrap(
    node: &Node,
    serving: &Serving,
    store: metapb::Store,
    region: metapb::Region,
) -> Result<Result<(), Refusal>, Status> {
    let policy = policy(node, &node.state.read());
    serving
        .change(node, |affairs, moment| {
            if affairs.cluster.is_some() {
                return Err(Refusal::AlreadyBootstrapped);
            }
            check_bootstrap(&store, &region)?;
            let mut cluster = Cluster::load(policy, "", [], [region.clone()], moment);
            let mut change = change_of(cluster.put_store(store, moment)?);
            let keyspace = default_keyspace(moment.wall_s());
            change.put_regions.push(region);
            change.put_keyspaces.push(keyspace.clone());
            change.bootstrapped_at_ms = moment.wall_ms;
            affairs.keyspaces.put(keyspace);
            affairs.cluster = Some(cluster);
            Ok((change, ()))
        })
        .await
}

impl Service {
    pub(super) async fn is_bootstrapped(
        &self,
        request: pdpb::IsBootstrappedRequest,
    ) -> Result<pdpb::IsBootstrappedResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let bootstrapped = serving.lock().cluster.is_some();
        Ok(answer(cluster_id, Ok(pdpb::IsBootstrappedResponse { header: None, bootstrapped })))
    }

    pub(super) async fn bootstrap(
        &self,
        request: pdpb::BootstrapRequest,
    ) -> Result<pdpb::BootstrapResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let (Some(store), Some(region)) = (request.store, request.region) else {
            let what = "a bootstrap needs a store and a region".into();
            return Ok(answer(cluster_id, Err(Refusal::InvalidBootstrap(what))));
        };
        let decided = bootstrap(&self.node, &serving, store, region).await?;
        Ok(answer(
            cluster_id,
            decided
                .map(|()| pdpb::BootstrapResponse { header: None, replication_status: majority() }),
        ))
    }

    pub(super) async fn put_store(
        &self,
        request: pdpb::PutStoreRequest,
    ) -> Result<pdpb::PutStoreResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = serving
            .change(&self.node, |affairs, moment| {
                let cluster = affairs.cluster()?;
                let store = request
                    .store
                    .ok_or_else(|| Refusal::InvalidStore("no store was given".into()))?;
                Ok((change_of(cluster.put_store(store, moment)?), ()))
            })
            .await?;
        Ok(answer(
            cluster_id,
            decided
                .map(|()| pdpb::PutStoreResponse { header: None, replication_status: majority() }),
        ))
    }

    pub(super) async fn get_store(
        &self,
        request: pdpb::GetStoreRequest,
    ) -> Result<pdpb::GetStoreResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().and_then(|cluster| {
            let record = cluster.stores().get(StoreId(request.store_id))?;
            Ok(pdpb::GetStoreResponse {
                header: None,
                store: Some(record.to_wire()),
                stats: record.stats.clone(),
            })
        });
        Ok(answer(cluster_id, found))
    }

    pub(super) async fn get_all_stores(
        &self,
        request: pdpb::GetAllStoresRequest,
    ) -> Result<pdpb::GetAllStoresResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|cluster| pdpb::GetAllStoresResponse {
            header: None,
            stores: cluster
                .stores()
                .iter()
                .filter(|record| !(request.exclude_tombstone_stores && record.is_tombstone()))
                .map(|record| record.to_wire())
                .collect(),
        });
        Ok(answer(cluster_id, found))
    }

    pub(super) async fn store_heartbeat(
        &self,
        request: pdpb::StoreHeartbeatRequest,
    ) -> Result<pdpb::StoreHeartbeatResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let moment = self.node.clock.moment();
        let mut affairs = serving.lock();
        let heard = affairs.cluster().and_then(|cluster| {
            let stats = request
                .stats
                .ok_or_else(|| Refusal::InvalidStore("a heartbeat without statistics".into()))?;
            let response = cluster.on_store_heartbeat(stats, moment)?;
            Ok(pdpb::StoreHeartbeatResponse { replication_status: majority(), ..response })
        });
        Ok(answer(cluster_id, heard))
    }

    pub(super) async fn get_cluster_config(
        &self,
        request: pdpb::GetClusterConfigRequest,
    ) -> Result<pdpb::GetClusterConfigResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|cluster| pdpb::GetClusterConfigResponse {
            header: None,
            cluster: Some(metapb::Cluster {
                id: cluster_id,
                max_peer_count: u32::try_from(cluster.policy().max_replicas).unwrap_or(u32::MAX),
            }),
        });
        Ok(answer(cluster_id, found))
    }

    /// Takes over how many replicas the cluster should have.
    pub(super) async fn put_cluster_config(
        &self,
        request: pdpb::PutClusterConfigRequest,
    ) -> Result<pdpb::PutClusterConfigResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let wanted = request.cluster.unwrap_or_default().max_peer_count as usize;
        let decided = set_policy(&self.node, &serving, |policy| {
            if wanted != 0 {
                policy.max_replicas = wanted;
            }
            Ok(())
        })
        .await?;
        Ok(answer(cluster_id, decided.map(|()| pdpb::PutClusterConfigResponse::default())))
    }
}

/// Changes the cluster's wishes, if the result makes sense.
pub(crate) async fn set_policy(
    node: &Node,
    serving: &Serving,
    edit: impl FnOnce(&mut crate::cluster::Policy) -> Result<(), String>,
) -> Result<Result<(), Refusal>, Status> {
    serving
        .change(node, |affairs, _| {
            let cluster = affairs.cluster()?;
            let mut policy = cluster.policy().clone();
            edit(&mut policy).and_then(|()| policy.validate()).map_err(Refusal::InvalidValue)?;
            let settings = serde_json::to_vec(&policy)
                .map_err(|error| Refusal::InvalidValue(error.to_string()))?;
            let rules = cluster.adopt_policy(policy)?.unwrap_or_default();
            Ok((Change { settings: settings.into(), rules: rules.into(), ..Change::default() }, ()))
        })
        .await
}
