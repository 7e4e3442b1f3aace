//! Who this store is, and the first region of a cluster.
//!
//! A crash between any two steps is made good by the next start:
//!
//! | step | a crash after it |
//! |---|---|
//! | 1 the scheduler gives an id | the id is lost; another is given |
//! | 2 write the identity, synced | the store keeps it for good |
//! | 3 write the first region, marked as prepared | the mark is found: offered again, or found taken |
//! | 4 offer store and region to the scheduler | the scheduler knows whose region it took |
//! | 5 ours was taken: drop the mark; another's: drop the region | done |
//!
//! A directory of another cluster, or of another api version, is refused before anything is
//! written or served.

use std::sync::Arc;
use std::time::Instant;

use proto::{PeerId, RegionId, StoreId, metapb, raft_serverpb, region};
use raftstore::engine::DataEngine;
use raftstore::storage::bootstrap;

use crate::config::{ApiVersion, Config};
use crate::error::StartError;
use crate::scheduler_link::client::{CallError, SchedulerClient};

/// The version stores report: what clients compare with to know which commands they may use.
const COMPATIBLE_VERSION: &str = "8.5.5";

/// Who this store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) store_id: StoreId,
}

/// Reads the identity, if there is one, and checks it against the configuration.
pub(crate) fn read<D: DataEngine>(
    data: &D,
    config: &Config,
) -> Result<Option<Identity>, StartError> {
    let Some(ident) = bootstrap::ident(data)? else { return Ok(None) };
    if ident.api_version() != config.api_version.to_wire() {
        return Err(StartError::AnotherApiVersion {
            ours: name(ident.api_version()),
            configured: config.api_version.to_string(),
        });
    }
    Ok(Some(Identity { cluster_id: ident.cluster_id, store_id: StoreId(ident.store_id) }))
}

fn name(version: proto::kvrpcpb::ApiVersion) -> String {
    [ApiVersion::V1, ApiVersion::V1Ttl, ApiVersion::V2]
        .into_iter()
        .find(|known| known.to_wire() == version)
        .map_or_else(|| version.as_str_name().to_owned(), |known| known.to_string())
}

/// Waits for any scheduler. For a store without a directory, which has nothing to say before.
pub(crate) async fn await_scheduler(config: &Config, deadline: Instant) -> Result<(), StartError> {
    let client = SchedulerClient::new(&config.scheduler_endpoints, 0);
    let asked = SchedulerClient::until(deadline, || client.is_bootstrapped()).await;
    asked.map(|_| ()).map_err(|error| failed("ask the scheduler who this store is", error, config))
}

/// Steps 1 and 2, if they were not done before; and that the scheduler serves our cluster.
pub(crate) async fn establish<D: DataEngine>(
    client: &SchedulerClient,
    data: &D,
    known: Option<Identity>,
    config: &Config,
    deadline: Instant,
) -> Result<Identity, StartError> {
    let failed = |error| failed("ask the scheduler who this store is", error, config);
    // Any answer shows which cluster it is.
    SchedulerClient::until(deadline, || client.is_bootstrapped()).await.map_err(&failed)?;
    if let Some(identity) = known {
        return Ok(identity);
    }
    let ids = SchedulerClient::until(deadline, || client.allocate_ids(1)).await.map_err(&failed)?;
    let identity = Identity { cluster_id: client.cluster_id(), store_id: StoreId(ids[0]) };
    let ident = raft_serverpb::StoreIdent {
        cluster_id: identity.cluster_id,
        store_id: identity.store_id.0,
        api_version: config.api_version.to_wire() as i32,
    };
    bootstrap::write_ident(data, &ident)?;
    tracing::info!(store = %identity.store_id, cluster = identity.cluster_id, "a new store");
    Ok(identity)
}

/// Steps 3 to 5: the cluster has a first region when this returns.
pub(crate) async fn bootstrap<D: DataEngine>(
    client: &SchedulerClient,
    data: &D,
    identity: Identity,
    store: &metapb::Store,
    config: &Config,
    deadline: Instant,
) -> Result<(), StartError> {
    let failed = |error| failed("bootstrap the cluster", error, config);
    let prepared = bootstrap::prepared_region(data)?;
    let is_bootstrapped =
        SchedulerClient::until(deadline, || client.is_bootstrapped()).await.map_err(&failed)?;
    let region = match (prepared, is_bootstrapped) {
        (None, true) => return Ok(()),
        (Some(region), _) => region,
        (None, false) => {
            let ids = SchedulerClient::until(deadline, || client.allocate_ids(2))
                .await
                .map_err(&failed)?;
            let (region_id, peer_id) = (RegionId(ids[0]), PeerId(ids[1]));
            bootstrap::prepare_first_region(data, identity.store_id, region_id, peer_id)?
        }
    };
    let offer = || client.bootstrap(store.clone(), region.clone());
    let taken = SchedulerClient::until(deadline, offer).await.map_err(&failed)?;
    // Not taken may also mean: taken before the crash.
    let is_ours = taken || {
        let ask = || client.region(region.id);
        let known = SchedulerClient::until(deadline, ask).await.map_err(&failed)?;
        known.is_some_and(|known| region::peer_on(&known, identity.store_id).is_some())
    };
    if is_ours {
        tracing::info!(region = %region::Readable(&region), "bootstrapped the cluster");
        bootstrap::confirm_first_region(data)?;
    } else {
        tracing::info!("another store bootstrapped the cluster");
        bootstrap::discard_first_region(data)?;
    }
    Ok(())
}

/// What the scheduler and clients are told of this store.
pub(crate) fn describe(
    identity: Identity,
    config: &Config,
    address: &str,
    status_address: &str,
    started_unix_seconds: i64,
) -> metapb::Store {
    let labels = config.labels.iter();
    metapb::Store {
        id: identity.store_id.0,
        address: address.into(),
        peer_address: address.into(),
        status_address: status_address.into(),
        version: COMPATIBLE_VERSION.into(),
        start_timestamp: started_unix_seconds,
        labels: labels
            .map(|(key, value)| metapb::StoreLabel { key: key.clone(), value: value.clone() })
            .collect(),
        ..Default::default()
    }
}

/// Makes the store known under its address.
pub(crate) async fn register(
    client: &Arc<SchedulerClient>,
    store: &metapb::Store,
    config: &Config,
    deadline: Instant,
) -> Result<(), StartError> {
    SchedulerClient::until(deadline, || client.put_store(store.clone()))
        .await
        .map_err(|error| failed("make this store known to the scheduler", error, config))
}

fn failed(attempt: &'static str, error: CallError, config: &Config) -> StartError {
    match error {
        CallError::AnotherCluster { ours, theirs } => StartError::AnotherCluster {
            ours,
            theirs,
            endpoints: config.scheduler_endpoints.join(", "),
        },
        CallError::Unreachable(cause) | CallError::Refused { message: cause, .. } => {
            StartError::Scheduler { attempt, cause }
        }
    }
}
