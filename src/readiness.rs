//! Is the cluster complete, and does a write come back?
//!
//! Asked over the wire, as any client would, so that it holds for a cluster in this process and for
//! one made of processes alike. Every wait has a deadline and says what it waited for.

use std::time::{Duration, Instant};

use client::Client;
use kv::ApiVersion;
use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
use tonic::transport::{Channel, Endpoint};

/// How often the question is asked again: short beside the start it measures.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Replicas of a region in a cluster with enough stores.
const REPLICAS: usize = 3;

/// Written, read and removed to see that the cluster serves.
const PROBE_KEY: &str = "tessera-playground-probe";

/// The cluster was not complete in time.
#[derive(Debug, thiserror::Error)]
#[error("the cluster was not ready within {} s: {waited_for}", timeout.as_secs())]
pub struct NotReady {
    /// What was still missing, in words.
    pub waited_for: String,
    /// How long it was waited for.
    pub timeout: Duration,
}

/// A cluster that is complete.
#[derive(Clone, Debug)]
pub struct Complete {
    /// The name of the leading scheduler member.
    pub leader: String,
    /// All stores.
    pub stores: Vec<proto::metapb::Store>,
    /// How many regions there are.
    pub regions: usize,
}

/// Waits until some scheduler member leads; its name.
pub async fn leader(endpoints: &[String], timeout: Duration) -> Result<String, NotReady> {
    until(timeout, || async {
        let (_, members) = connect(endpoints).await?;
        Ok(members.leader.map(|leader| leader.name).unwrap_or_default())
    })
    .await
}

/// Waits until all stores have joined, every region has its replicas and a leader, and, where keys have
/// keyspaces, regions end where the default keyspace does: official clients scan to a region's end.
pub async fn replicas(
    endpoints: &[String],
    stores: usize,
    api_version: ApiVersion,
    timeout: Duration,
) -> Result<Complete, NotReady> {
    until(timeout, || look(endpoints, stores, api_version)).await
}

async fn until<T, F>(timeout: Duration, mut ask: impl FnMut() -> F) -> Result<T, NotReady>
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let mut waited_for = "nothing was asked yet".to_owned();
    while let Some(left) = timeout.checked_sub(start.elapsed()) {
        match tokio::time::timeout(left, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(missing)) => waited_for = missing,
            Err(_) => break,
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Err(NotReady { waited_for, timeout })
}

/// One look; the error says what is missing.
async fn look(
    endpoints: &[String],
    expected: usize,
    api_version: ApiVersion,
) -> Result<Complete, String> {
    let (mut scheduler, members) = connect(endpoints).await?;
    let cluster_id = members.header.map_or(0, |header| header.cluster_id);
    let header = Some(pdpb::RequestHeader { cluster_id, ..Default::default() });
    let request = pdpb::GetAllStoresRequest { header: header.clone(), ..Default::default() };
    let stores = scheduler
        .get_all_stores(request)
        .await
        .map_err(|status| format!("list the stores: {}", status.message()))?
        .into_inner()
        .stores;
    if stores.len() < expected {
        return Err(format!("{} of {expected} stores have joined", stores.len()));
    }
    let request = pdpb::ScanRegionsRequest { header, ..Default::default() };
    let regions = scheduler
        .scan_regions(request)
        .await
        .map_err(|status| format!("list the regions: {}", status.message()))?
        .into_inner()
        .regions;
    if regions.is_empty() {
        return Err("the first region has not reported".into());
    }
    for region in &regions {
        let meta = region.region.clone().unwrap_or_default();
        if region.leader.as_ref().is_none_or(|leader| leader.id == 0) {
            return Err(format!("region {} has no leader", meta.id));
        }
        let pending = region.pending_peers.len();
        let voters = meta.peers.iter().filter(|peer| !proto::region::is_learner(peer)).count();
        if voters < REPLICAS.min(expected) || pending > 0 {
            return Err(format!(
                "region {} has {voters} of {} replicas, {pending} of them without data",
                meta.id,
                REPLICAS.min(expected)
            ));
        }
    }
    if api_version == ApiVersion::V2 {
        let begins = |bound: &bytes::Bytes| {
            let mut metas = regions.iter().filter_map(|region| region.region.as_ref());
            metas.any(|meta| meta.start_key == *bound)
        };
        let missing = kv::keyspace_bounds().iter().filter(|bound| !begins(bound)).count();
        if missing > 0 {
            return Err(format!("{missing} bounds of the default keyspace lie inside a region"));
        }
    }
    let leader = members.leader.map(|leader| leader.name).unwrap_or_default();
    Ok(Complete { leader, stores, regions: regions.len() })
}

async fn connect(
    endpoints: &[String],
) -> Result<(PdClient<Channel>, pdpb::GetMembersResponse), String> {
    let mut reason = "there are no endpoints".to_owned();
    for endpoint in endpoints {
        let answer = async {
            let members = open(endpoint)
                .await?
                .get_members(pdpb::GetMembersRequest::default())
                .await
                .map_err(|status| status.message().to_owned())?
                .into_inner();
            let leader = members.leader.as_ref().ok_or("the scheduler has no leader")?;
            let url = leader.client_urls.first().ok_or("the leader has no client URL")?;
            Ok::<_, String>((open(url).await?, members))
        };
        match answer.await {
            Ok(found) => return Ok(found),
            Err(why) => reason = format!("{endpoint}: {why}"),
        }
    }
    Err(reason)
}

async fn open(endpoint: &str) -> Result<PdClient<Channel>, String> {
    let url =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let channel = Endpoint::from_shared(url)
        .map_err(|error| error.to_string())?
        .connect_timeout(Duration::from_secs(1))
        .timeout(Duration::from_secs(2))
        .connect()
        .await
        .map_err(|_| "does not answer".to_owned())?;
    Ok(PdClient::new(channel))
}

/// A client of our own for this cluster.
pub async fn client(
    endpoints: &[String],
    api_version: ApiVersion,
) -> Result<Client, client::Error> {
    let api_version = match api_version {
        ApiVersion::V1 => client::ApiVersion::V1,
        ApiVersion::V1Ttl => client::ApiVersion::V1Ttl,
        ApiVersion::V2 => client::ApiVersion::V2,
    };
    let config = client::Config { api_version, ..Default::default() };
    Client::connect_with(endpoints.iter().cloned(), config).await
}

/// Writes a key, reads it back and removes it: through a transaction where there are
/// transactions, so that raw readers never see it.
pub async fn probe(endpoints: &[String], api_version: ApiVersion) -> Result<(), client::Error> {
    let client = client(endpoints, api_version).await?;
    if api_version == ApiVersion::V1Ttl {
        let raw = client.raw();
        raw.put(PROBE_KEY, "1").await?;
        raw.get(PROBE_KEY).await?;
        return raw.delete(PROBE_KEY).await;
    }
    let transactions = client.transactions();
    let writer = transactions.begin().await?;
    writer.put(PROBE_KEY, "1")?;
    writer.commit().await?;
    let eraser = transactions.begin().await?;
    eraser.get(PROBE_KEY).await?;
    eraser.delete(PROBE_KEY)?;
    eraser.commit().await?;
    Ok(())
}
