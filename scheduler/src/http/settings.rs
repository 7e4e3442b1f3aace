//! The cluster's settings, as PD groups and names them.

use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::items::{replication_of, schedule_of, set_all};
use super::keys::Parameters;
use super::{Failure, Json, Reply, Shared, format, serving, temporary};
use crate::cluster::Policy;
use crate::gc::Barrier;
use crate::server::node::Node;
use crate::server::serving::change_of;
use crate::service::VERSION;
use crate::service::gc::remove_service_safe_point;
use crate::service::stores::set_policy;

/// The wishes in force: the cluster's, or those it will begin with.
fn policy(node: &Node) -> Policy {
    crate::server::serving::policy(node, &node.state.read())
}

pub(super) async fn config(State(node): Shared) -> Json<Value> {
    let policy = policy(&node);
    let version = node.state.read().cluster_version().to_owned();
    Json(json!({
        "client-urls": node.client_urls.join(","),
        "peer-urls": node.peer_urls.join(","),
        "advertise-client-urls": node.client_urls.join(","),
        "advertise-peer-urls": node.peer_urls.join(","),
        "name": node.name,
        "data-dir": node.data_dir,
        "lease-ms": u64::try_from(node.lease.as_millis()).unwrap_or(u64::MAX),
        "schedule": schedule_of(&policy),
        "replication": replication_of(&policy),
        "pd-server": { "dashboard-address": "none" },
        "cluster-version": if version.is_empty() { VERSION.to_owned() } else { version },
    }))
}

pub(super) async fn replication(State(node): Shared) -> Json<Value> {
    Json(replication_of(&policy(&node)))
}

pub(super) async fn schedule(State(node): Shared) -> Json<Value> {
    Json(schedule_of(&policy(&node)))
}

pub(super) async fn cluster_version(State(node): Shared) -> Json<String> {
    Json(node.state.read().cluster_version().to_owned())
}

/// What a new cluster of this version begins with.
pub(super) async fn default_config() -> Json<Value> {
    let policy = Policy::default();
    Json(json!({ "schedule": schedule_of(&policy), "replication": replication_of(&policy) }))
}

/// There is nothing to set.
pub(super) async fn pd_server() -> Json<Value> {
    Json(json!({ "dashboard-address": "none" }))
}

async fn change(
    node: &Node,
    wanted: &Map<String, Value>,
    only: Option<&str>,
) -> Reply<&'static str> {
    let serving = serving(node)?;
    let decided = set_policy(node, &serving, |policy| set_all(policy, wanted, only));
    decided.await?.map_err(Failure::from)?;
    Ok(Json("The config is updated."))
}

fn read(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!("a JSON object of config items is expected: {error}"))
    })
}

/// Some settings of any group; the cluster's version alone. With `ttlSecond` they go back to what they were after
/// so many seconds, and 0 ends that early.
pub(super) async fn set_config(
    State(node): Shared,
    parameters: Parameters,
    body: Bytes,
) -> Reply<&'static str> {
    let wanted = read(&body)?;
    if let Some(text) = parameters.text("ttlSecond")?.filter(|text| !text.is_empty()) {
        let ttl_s = text.parse().map_err(|_| {
            Failure::bad_request(format!("ttlSecond {text:?} is not a number of seconds"))
        })?;
        let now_ms = node.clock.moment().wall_ms;
        let serving = serving(&node)?;
        let decided = set_policy(&node, &serving, |policy| {
            temporary::set_for(policy, &wanted, ttl_s, now_ms)
        });
        decided.await?.map_err(Failure::from)?;
        return Ok(Json("The config is updated."));
    }
    match wanted.get("cluster-version") {
        None => change(&node, &wanted, None).await,
        Some(version) if wanted.len() == 1 => set_version(&node, version).await,
        Some(_) => Err(Failure::bad_request("cluster-version is set by itself")),
    }
}

/// Some settings of the group `replication`.
pub(super) async fn set_replication(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    change(&node, &read(&body)?, Some("replication")).await
}

/// Some settings of the group `schedule`.
pub(super) async fn set_schedule(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    change(&node, &read(&body)?, Some("schedule")).await
}

pub(super) async fn set_cluster_version(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let wanted = read(&body)?;
    let version = wanted
        .get("cluster-version")
        .ok_or_else(|| Failure::bad_request("not set cluster-version"))?;
    set_version(&node, version).await
}

async fn set_version(node: &Node, version: &Value) -> Reply<&'static str> {
    let text = version.as_str().unwrap_or_default();
    let decided = serving(node)?
        .change(node, |affairs, _| Ok((change_of(affairs.cluster()?.set_version(text)?), ())))
        .await?;
    decided.map_err(Failure::from)?;
    Ok(Json("The cluster version is updated."))
}

#[derive(Serialize)]
pub(super) struct Cluster {
    id: u64,
    max_peer_count: usize,
}

pub(super) async fn cluster(State(node): Shared) -> Json<Cluster> {
    Json(Cluster { id: node.cluster_id(), max_peer_count: policy(&node).max_replicas })
}

#[derive(Serialize)]
pub(super) struct ClusterStatus {
    raft_bootstrap_time: String,
    is_initialized: bool,
    replication_status: &'static str,
}

pub(super) async fn cluster_status(State(node): Shared) -> Reply<ClusterStatus> {
    let bootstrapped_at_ms = node.state.read().bootstrapped_at_ms();
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let is_initialized = match serving.lock().cluster() {
        Ok(cluster) => cluster.is_prepared(moment),
        Err(_) => false,
    };
    let raft_bootstrap_time = match bootstrapped_at_ms {
        0 => format::NO_TIME.to_owned(),
        ms => format::time(ms),
    };
    Ok(Json(ClusterStatus { raft_bootstrap_time, is_initialized, replication_status: "" }))
}

#[derive(Serialize)]
pub(super) struct ServiceSafePoint {
    service_id: String,
    expired_at: i64,
    safe_point: u64,
}

#[derive(Serialize)]
pub(super) struct SafePoints {
    service_gc_safe_points: Vec<ServiceSafePoint>,
    min_service_gc_safe_point: u64,
    gc_safe_point: u64,
}

pub(super) async fn safe_points(State(node): Shared) -> Reply<SafePoints> {
    let now_s = node.clock.moment().wall_s();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?;
    let services = affairs.gc.service_safe_points(now_s);
    let min_service_gc_safe_point =
        services.iter().map(|barrier| barrier.ts).min().unwrap_or_default();
    let shown = |barrier: Barrier| ServiceSafePoint {
        service_id: barrier.id,
        expired_at: barrier.expires_at_s,
        safe_point: barrier.ts,
    };
    Ok(Json(SafePoints {
        service_gc_safe_points: services.into_iter().map(shown).collect(),
        min_service_gc_safe_point,
        gc_safe_point: affairs.gc.gc_safe_point(),
    }))
}

/// Removes a service's safe point; one that is not there is gone already.
pub(super) async fn remove_safe_point(
    State(node): Shared,
    Path(service): Path<String>,
) -> Reply<&'static str> {
    let serving = serving(&node)?;
    remove_service_safe_point(&node, &serving, &service).await?.map_err(Failure::from)?;
    Ok(Json("Delete service GC safepoint successfully."))
}
