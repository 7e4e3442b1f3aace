//! Keyspaces by name and id.

use std::collections::BTreeMap;
use std::pin::Pin;

use proto::keyspacepb::{self, keyspace_server::Keyspace};
use proto::schedulerpb::Change;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::operators::plan_splits;
use super::{Service, answer};
use crate::cluster::Refusal;
use crate::keyspaces::{Keyspaces, bounds, id_of};
use crate::server::node::Node;
use crate::server::serving::Serving;

/// Creates a keyspace, for the HTTP API.
pub(crate) async fn create(
    node: &Node,
    serving: &Serving,
    name: &str,
    config: BTreeMap<String, String>,
) -> Result<Result<keyspacepb::KeyspaceMeta, Refusal>, Status> {
    change(node, serving, |keyspaces, now_s| keyspaces.create(name, config, now_s)).await
}

/// Changes a keyspace's description, and waits until that is durable.
pub(crate) async fn change(
    node: &Node,
    serving: &Serving,
    describe: impl FnOnce(&Keyspaces, i64) -> Result<keyspacepb::KeyspaceMeta, Refusal>,
) -> Result<Result<keyspacepb::KeyspaceMeta, Refusal>, Status> {
    serving
        .change(node, |affairs, moment| {
            affairs.cluster()?;
            let keyspace = describe(&affairs.keyspaces, moment.wall_s())?;
            affairs.keyspaces.put(keyspace.clone());
            let change = Change { put_keyspaces: vec![keyspace.clone()], ..Change::default() };
            Ok((change, keyspace))
        })
        .await
}

/// Plans to cut regions at the bounds of keyspaces, where they are not cut yet.
pub(crate) fn plan_bounds(node: &Node, serving: &Serving) {
    if !serving.holds_lease(node) {
        return;
    }
    let moment = node.clock.moment();
    let mut affairs = serving.lock();
    let keys: Vec<_> = affairs
        .keyspaces
        .list(0, 0)
        .iter()
        .filter(|keyspace| keyspace.state() != keyspacepb::KeyspaceState::Tombstone)
        .flat_map(|keyspace| bounds(id_of(keyspace)))
        .collect();
    let orders = match affairs.cluster() {
        Ok(cluster) => plan_splits(cluster, &keys, moment),
        Err(_) => return,
    };
    drop(affairs);
    orders.into_iter().for_each(|order| serving.send_order(node, order));
}

impl Service {
    async fn find_keyspace(
        &self,
        header: Option<proto::pdpb::RequestHeader>,
        find: impl FnOnce(&Keyspaces) -> Result<&keyspacepb::KeyspaceMeta, Refusal>,
    ) -> Result<Response<keyspacepb::LoadKeyspaceResponse>, Status> {
        let (serving, cluster_id) = self.enter(header.as_ref()).await?;
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|_| ()).and_then(|()| find(&affairs.keyspaces));
        let response = found.map(|keyspace| keyspacepb::LoadKeyspaceResponse {
            header: None,
            keyspace: Some(keyspace.clone()),
        });
        Ok(Response::new(answer(cluster_id, response)))
    }
}

#[tonic::async_trait]
impl Keyspace for Service {
    async fn load_keyspace(
        &self,
        request: Request<keyspacepb::LoadKeyspaceRequest>,
    ) -> Result<Response<keyspacepb::LoadKeyspaceResponse>, Status> {
        let request = request.into_inner();
        self.find_keyspace(request.header, |keyspaces| keyspaces.by_name(&request.name)).await
    }

    async fn load_keyspace_by_id(
        &self,
        request: Request<keyspacepb::LoadKeyspaceByIdRequest>,
    ) -> Result<Response<keyspacepb::LoadKeyspaceResponse>, Status> {
        let request = request.into_inner();
        let id = match request.keyspace {
            Some(keyspacepb::load_keyspace_by_id_request::Keyspace::Id(id)) => id,
            None => 0,
        };
        self.find_keyspace(request.header, |keyspaces| keyspaces.by_id(id)).await
    }

    async fn get_all_keyspaces(
        &self,
        request: Request<keyspacepb::GetAllKeyspacesRequest>,
    ) -> Result<Response<keyspacepb::GetAllKeyspacesResponse>, Status> {
        let request = request.into_inner();
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let start = match request.start_keyspace {
            Some(keyspacepb::get_all_keyspaces_request::StartKeyspace::StartId(id)) => id,
            None => 0,
        };
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|_| ()).map(|()| keyspacepb::GetAllKeyspacesResponse {
            header: None,
            keyspaces: affairs.keyspaces.list(start, request.limit),
        });
        Ok(Response::new(answer(cluster_id, found)))
    }

    async fn update_keyspace_state(
        &self,
        request: Request<keyspacepb::UpdateKeyspaceStateRequest>,
    ) -> Result<Response<keyspacepb::UpdateKeyspaceStateResponse>, Status> {
        let request = request.into_inner();
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let wanted = request.state();
        let id = match request.keyspace {
            Some(keyspacepb::update_keyspace_state_request::Keyspace::Id(id)) => id,
            None => 0,
        };
        let set = |keyspaces: &Keyspaces, now_s| keyspaces.set_state(id, wanted, now_s);
        let decided = change(&self.node, &serving, set).await?;
        let response = decided.map(|keyspace| keyspacepb::UpdateKeyspaceStateResponse {
            header: None,
            keyspace: Some(keyspace),
        });
        Ok(Response::new(answer(cluster_id, response)))
    }

    type WatchKeyspacesStream =
        Pin<Box<dyn Stream<Item = Result<keyspacepb::WatchKeyspacesResponse, Status>> + Send>>;

    /// All keyspaces at once, and then whatever changes, for as long as this member leads.
    async fn watch_keyspaces(
        &self,
        request: Request<keyspacepb::WatchKeyspacesRequest>,
    ) -> Result<Response<Self::WatchKeyspacesStream>, Status> {
        let request = request.into_inner();
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let known = Keyspaces::default();
        let stream =
            futures_util::stream::unfold(Some((serving, known)), move |watching| async move {
                let (serving, known) = watching?;
                let next = serving
                    .next_state(|affairs| {
                        (affairs.keyspaces != known).then(|| affairs.keyspaces.clone())
                    })
                    .await;
                let Some(now) = next else {
                    return Some((Err(crate::server::node::not_leader()), None));
                };
                let changed = now
                    .list(0, 0)
                    .into_iter()
                    .filter(|keyspace| known.by_name(&keyspace.name).ok() != Some(keyspace))
                    .collect();
                let response =
                    keyspacepb::WatchKeyspacesResponse { header: None, keyspaces: changed };
                Some((Ok(answer(cluster_id, Ok(response))), Some((serving, now))))
            });
        Ok(Response::new(Box::pin(stream)))
    }
}
