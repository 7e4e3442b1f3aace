//! Stores: what they are and how they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use proto::metapb::{StoreLabel, StoreState};
use proto::{StoreId, metapb};
use serde::{Deserialize, Serialize};

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::Refusal;
use crate::cluster::{Cluster, Moment, StoreRecord, Writes};
use crate::server::node::Node;
use crate::server::serving::change_of;

#[derive(Serialize, Deserialize)]
pub(super) struct Label {
    key: String,
    value: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Serialize)]
pub(super) struct Description {
    id: u64,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Label>,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    status_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    git_hash: String,
    #[serde(skip_serializing_if = "is_zero")]
    start_timestamp: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    deploy_path: String,
    #[serde(skip_serializing_if = "is_zero")]
    last_heartbeat: i64,
    #[serde(skip_serializing_if = "is_false")]
    physically_destroyed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_state: Option<i32>,
    state_name: &'static str,
}

#[derive(Serialize)]
pub(super) struct Condition {
    capacity: String,
    available: String,
    used_size: String,
    leader_count: usize,
    leader_weight: f64,
    leader_score: f64,
    leader_size: u64,
    region_count: usize,
    region_weight: f64,
    region_score: f64,
    region_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_score: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    start_ts: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_heartbeat_ts: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uptime: String,
}

#[derive(Serialize)]
pub(super) struct Store {
    store: Description,
    status: Condition,
}

#[derive(Serialize)]
pub(super) struct Stores {
    count: usize,
    stores: Vec<Store>,
}

fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

fn describe(cluster: &Cluster, record: &StoreRecord, moment: Moment) -> Store {
    let store = record.to_wire();
    let state_name = record.state_name(cluster.policy(), moment);
    let stats = record.stats.clone().unwrap_or_default();
    let counts = cluster.regions().counts(record.id());
    let started_ms = u64::from(stats.start_time) * 1_000;
    let heard_ms = record.heard_at_wall_ms();
    let time = |ms: u64| if ms == 0 { String::new() } else { format::time(ms) };
    Store {
        store: Description {
            id: store.id,
            state: present(store.state),
            node_state: present(store.node_state),
            address: store.address,
            labels: store
                .labels
                .into_iter()
                .map(|StoreLabel { key, value }| Label { key, value })
                .collect(),
            version: store.version,
            peer_address: store.peer_address,
            status_address: store.status_address,
            git_hash: store.git_hash,
            start_timestamp: store.start_timestamp,
            deploy_path: store.deploy_path,
            last_heartbeat: store.last_heartbeat,
            physically_destroyed: store.physically_destroyed,
            state_name,
        },
        status: Condition {
            capacity: format::size(stats.capacity),
            available: format::size(stats.available),
            used_size: format::size(stats.used_size),
            leader_count: counts.leaders,
            leader_weight: 1.0,
            leader_score: counts.leaders as f64,
            leader_size: counts.leader_size_mib,
            region_count: counts.regions,
            region_weight: 1.0,
            region_score: counts.region_size_mib as f64,
            region_size: counts.region_size_mib,
            slow_score: (stats.slow_score != 0).then_some(stats.slow_score),
            start_ts: time(started_ms),
            last_heartbeat_ts: time(heard_ms),
            uptime: if started_ms == 0 || heard_ms <= started_ms {
                String::new()
            } else {
                format::duration((heard_ms - started_ms) / 1_000)
            },
        },
    }
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// Numbers of states, once or more; none is all but tombstones.
    state: Option<String>,
}

pub(super) async fn stores(
    State(node): Shared,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Reply<Stores> {
    let mut wanted = Vec::new();
    for value in pairs.iter().filter(|(key, _)| key == "state").flat_map(|(_, v)| v.split(',')) {
        let number: i32 = value
            .parse()
            .map_err(|_| Failure::bad_request(format!("state {value:?} is not a number")))?;
        wanted.push(number);
    }
    if wanted.is_empty() {
        wanted = vec![StoreState::Up.into(), StoreState::Offline.into()];
    }
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let stores: Vec<_> = cluster
        .stores()
        .iter()
        .filter(|record| wanted.contains(&record.meta.state))
        .map(|record| describe(cluster, record, moment))
        .collect();
    Ok(Json(Stores { count: stores.len(), stores }))
}

pub(super) async fn store(State(node): Shared, Path(id): Path<u64>) -> Reply<Store> {
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let record = cluster.stores().get(StoreId(id))?;
    Ok(Json(describe(cluster, record, moment)))
}

/// Decides about stores and waits until it is durable.
async fn change(
    node: &Arc<Node>,
    decide: impl FnOnce(&mut Cluster) -> Result<Writes, Refusal>,
) -> Result<(), Failure> {
    let decided = serving(node)?
        .change(node, |affairs, _| Ok((change_of(decide(affairs.cluster()?)?), ())))
        .await?;
    decided.map_err(Failure::from)
}

pub(super) async fn take_offline(
    State(node): Shared,
    Path(id): Path<u64>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply<&'static str> {
    let destroyed = query.contains_key("force");
    change(&node, |cluster| cluster.take_store_offline(StoreId(id), destroyed)).await?;
    Ok(Json("The store is set as Offline."))
}

pub(super) async fn set_state(
    State(node): Shared,
    Path(id): Path<u64>,
    Query(wanted): Query<Wanted>,
) -> Reply<String> {
    let id = StoreId(id);
    let state = wanted.state.unwrap_or_default();
    match metapb::StoreState::from_str_name(&state) {
        Some(StoreState::Up) => change(&node, |cluster| cluster.bring_store_up(id)).await?,
        Some(StoreState::Offline) => {
            change(&node, |cluster| cluster.take_store_offline(id, false)).await?;
        }
        Some(StoreState::Tombstone) | None => {
            return Err(Failure::bad_request(format!("invalid state {state:?}: Up or Offline")));
        }
    }
    Ok(Json(format!("The store's state is updated to {state}.")))
}

pub(super) async fn set_labels(
    State(node): Shared,
    Path(id): Path<u64>,
    body: Bytes,
) -> Reply<&'static str> {
    let labels: BTreeMap<String, String> =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let labels: Vec<_> = labels.into_iter().map(|(key, value)| StoreLabel { key, value }).collect();
    change(&node, |cluster| cluster.set_store_labels(StoreId(id), &labels)).await?;
    Ok(Json("The store's label is updated."))
}

pub(super) async fn forget_tombstones(State(node): Shared) -> Reply<&'static str> {
    change(&node, |cluster| Ok(cluster.forget_tombstones())).await?;
    Ok(Json("Remove tombstone successfully."))
}
