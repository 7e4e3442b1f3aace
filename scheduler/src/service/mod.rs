//! What clients and stores ask: PD's services, and the slice of etcd that clients need.
//!
//! Every method does the same: *enter* (does this member lead? is it the right cluster? does the
//! lease hold?), decide, make durable, answer under a header. Refusals travel in the header with
//! a gRPC status of OK; a member that does not lead, a wrong cluster and a missed deadline are
//! gRPC errors. Each wait has a deadline.
//!
//! | file | what |
//! |---|---|
//! | `pd.rs` | the list of all RPCs of `pdpb.PD`, one line each |
//! | `members.rs` | who the members are |
//! | `oracle.rs` | timestamps, ids |
//! | `stores.rs` | bootstrap, stores and their heartbeats |
//! | `regions.rs` | which region holds a key, and its buckets |
//! | `heartbeats.rs` | the stream of region heartbeats, splits |
//! | `operators.rs` | splits and scattering that clients ask for |
//! | `gc.rs` | safe points, and moving them when it is time |
//! | `keyspaces.rs` | keyspaces |
//! | `settings.rs` | global configuration, external timestamp |
//! | `metadata.rs` | etcd's and the meta storage's reads and writes |
//! | `watch.rs` | what changes in them |

pub(crate) mod answer;
pub(crate) mod members;
pub(crate) mod oracle;
pub(crate) mod stores;
pub(crate) mod regions;
pub(crate) mod keyspaces;
pub(crate) mod operators;
pub(crate) mod gc;
mod heartbeats;
mod metadata;
mod pd;
mod settings;
mod watch;

use std::sync::Arc;

pub(crate) use answer::answer;
#[cfg(test)]
pub(crate) use metadata::WRITE_BYTES_MAX;
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::keyspacepb::keyspace_server::KeyspaceServer;
use proto::meta_storagepb::meta_storage_server::MetaStorageServer;
use proto::pdpb;
use proto::pdpb::pd_server::PdServer;
use proto::schedulerpb::garbage_server::GarbageServer;
use tonic::Status;
use tonic::service::Routes;

use crate::server::front::MESSAGE_BYTES_MAX;
use crate::server::node::{Node, not_leader};
use crate::server::serving::Serving;

/// The version that clients see. Official clients and tools parse it, and some want at least 6.1.
pub const VERSION: &str = "8.5.5";

/// The services of one member. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) node: Arc<Node>,
}

impl Service {
    /// The leader's affairs and the cluster's id, if this member leads, the caller means this
    /// cluster, and the lease holds.
    pub(crate) async fn enter(
        &self,
        header: Option<&pdpb::RequestHeader>,
    ) -> Result<(Arc<Serving>, u64), Status> {
        let serving = self.node.serving().ok_or_else(not_leader)?;
        let cluster_id = self.check_cluster(header)?;
        serving.await_lease(&self.node).await?;
        Ok((serving, cluster_id))
    }

    /// Whether the caller means this cluster; its id.
    pub(crate) fn check_cluster(
        &self,
        header: Option<&pdpb::RequestHeader>,
    ) -> Result<u64, Status> {
        let cluster_id = self.node.cluster_id();
        let meant = header.map_or(0, |header| header.cluster_id);
        if meant == cluster_id {
            Ok(cluster_id)
        } else {
            Err(Status::failed_precondition(format!(
                "mismatch cluster id, need {cluster_id} but got {meant}"
            )))
        }
    }
}

/// All gRPC services of the client port.
pub(crate) fn routes(node: &Arc<Node>) -> Routes {
    let service = Service { node: Arc::clone(node) };
    macro_rules! unlimited {
        ($server:ident) => {
            $server::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    // Serving on every member: whether it leads is not a question of health.
    let (_, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(unlimited!(PdServer))
        .add_service(unlimited!(KeyspaceServer))
        .add_service(unlimited!(MetaStorageServer))
        .add_service(unlimited!(ClusterServer))
        .add_service(unlimited!(KvServer))
        .add_service(unlimited!(GarbageServer))
        .add_service(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Of all services described, those that this port serves.
            .with_service_name(proto::pdpb::pd_server::SERVICE_NAME)
            .with_service_name(proto::keyspacepb::keyspace_server::SERVICE_NAME)
            .with_service_name(proto::meta_storagepb::meta_storage_server::SERVICE_NAME)
            .with_service_name(proto::etcdserverpb::cluster_server::SERVICE_NAME)
            .with_service_name(proto::etcdserverpb::kv_server::SERVICE_NAME)
            .with_service_name(proto::schedulerpb::garbage_server::SERVICE_NAME)
            .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
            .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "clients cannot ask for the protocol's description");
        }
    }
    routes
}
