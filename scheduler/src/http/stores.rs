//! Stores: what they are and how they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use proto::StoreId;
use proto::metapb::{StoreLabel, StoreState};
use serde::{Deserialize, Serialize};

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::policy::Weights;
use crate::cluster::{Cluster, Moment, Refusal, StoreRecord, Writes};
use crate::server::node::Node;
use crate::server::serving::change_of;
use crate::service::stores::set_policy;

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
    let weights = cluster.policy().weights(record.id());
    let (leader_weight, region_weight) =
        (f64::from(weights.leader_milli) / 1_000.0, f64::from(weights.region_milli) / 1_000.0);
    // As the schedulers weigh it: next to nothing is not nothing.
    let weighed = |amount: f64, weight: f64| amount / weight.max(0.001);
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
            leader_weight,
            leader_score: weighed(counts.leaders as f64, leader_weight),
            leader_size: counts.leader_size_mib,
            region_count: counts.regions,
            region_weight,
            region_score: weighed(counts.region_size_mib as f64, region_weight),
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
    /// `Up` or `Offline`, in letters of either case.
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
    list(&node, |_, record| wanted.contains(&record.meta.state))
}

/// The stores that pass, described.
fn list(node: &Node, passes: impl Fn(&'static str, &StoreRecord) -> bool) -> Reply<Stores> {
    let moment = node.clock.moment();
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let stores: Vec<_> = cluster
        .stores()
        .iter()
        .filter(|record| passes(record.state_name(cluster.policy(), moment), record))
        .map(|record| describe(cluster, record, moment))
        .collect();
    Ok(Json(Stores { count: stores.len(), stores }))
}

/// The stores in one of these states by name, the derived ones too: `?state=Down&state=Offline`.
pub(super) async fn check(
    State(node): Shared,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Reply<Stores> {
    const NAMES: [&str; 5] = ["Up", "Disconnected", "Down", "Offline", "Tombstone"];
    let mut wanted = Vec::new();
    for value in pairs.iter().filter(|(key, _)| key == "state").flat_map(|(_, v)| v.split(',')) {
        let known = NAMES.iter().find(|name| name.eq_ignore_ascii_case(value));
        let name = known.ok_or_else(|| {
            Failure::bad_request(format!("state {value:?} is none of {}", NAMES.join(", ")))
        })?;
        wanted.push(*name);
    }
    list(&node, |name, _| wanted.contains(&name))
}

/// Every label that some store carries, each once.
pub(super) async fn labels(State(node): Shared) -> Reply<Vec<Label>> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let stores = affairs.cluster()?.stores().iter();
    let carried = stores.flat_map(|record| &record.meta.labels);
    let labels: BTreeSet<_> =
        carried.map(|label| (label.key.clone(), label.value.clone())).collect();
    Ok(Json(labels.into_iter().map(|(key, value)| Label { key, value }).collect()))
}

/// The stores that carry a label of this name, and of this value if one is given.
pub(super) async fn with_label(
    State(node): Shared,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply<Stores> {
    let name = query.get("name").cloned().unwrap_or_default();
    let value = query.get("value").filter(|value| !value.is_empty());
    list(&node, |_, record| {
        let carried = record.label(&name);
        carried.is_some_and(|carried| value.is_none_or(|value| value.as_str() == carried))
    })
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
) -> Reply<&'static str> {
    let id = StoreId(id);
    let state = wanted.state.unwrap_or_default();
    let is = |wanted: StoreState| state.eq_ignore_ascii_case(wanted.as_str_name());
    if is(StoreState::Up) {
        change(&node, |cluster| cluster.bring_store_up(id)).await?;
    } else if is(StoreState::Offline) {
        change(&node, |cluster| cluster.take_store_offline(id, false)).await?;
    } else {
        return Err(Failure::bad_request(format!("invalid state {state:?}: Up or Offline")));
    }
    Ok(Json("The store's state is updated."))
}

/// The label by which stores say what they are; people do not set it.
const ENGINE: &str = "engine";

/// Labels as a JSON object; with `?force` the store carries no others.
pub(super) async fn set_labels(
    State(node): Shared,
    Path(id): Path<u64>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Reply<&'static str> {
    let labels: BTreeMap<String, String> =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    if labels.contains_key(ENGINE) {
        return Err(Failure::bad_request(format!("label key {ENGINE:?} is reserved")));
    }
    let labels: Vec<_> = labels.into_iter().map(|(key, value)| StoreLabel { key, value }).collect();
    let replace = query.contains_key("force");
    change(&node, |cluster| cluster.set_store_labels(StoreId(id), &labels, replace)).await?;
    Ok(Json("The store's label is updated."))
}

/// One label by its key, a JSON string.
pub(super) async fn remove_label(
    State(node): Shared,
    Path(id): Path<u64>,
    body: Bytes,
) -> Reply<String> {
    let key: String =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    if key == ENGINE {
        return Err(Failure::bad_request(format!("can't modify label key {ENGINE:?}")));
    }
    let id = StoreId(id);
    let label = StoreLabel { key: key.clone(), value: String::new() };
    change(&node, |cluster| {
        if cluster.stores().get(id)?.label(&key).is_none() {
            return Err(Refusal::NotFound(format!("store {} carries no label {key}", id.0)));
        }
        cluster.set_store_labels(id, &[label], false)
    })
    .await?;
    Ok(Json(format!("The label {key} is deleted for store {}.", id.0)))
}

/// Highest weight; a store of it gets so many times the peers or leaders of one without a weight.
const WEIGHT_MAX: f64 = 1_000.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedWeights {
    leader: Option<f64>,
    region: Option<f64>,
}

/// Of the leaders and of the peers.
pub(super) async fn set_weight(
    State(node): Shared,
    Path(id): Path<u64>,
    body: Bytes,
) -> Reply<&'static str> {
    let wanted: WantedWeights =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let milli = |what: &str, weight: Option<f64>| match weight {
        None => Err(Failure::bad_request(format!("{what} weight unset"))),
        Some(weight) if (0.0..=WEIGHT_MAX).contains(&weight) => {
            Ok((weight * 1_000.0).round() as u32)
        }
        Some(weight) => Err(Failure::bad_request(format!(
            "{what} weight {weight} does not lie between 0 and {WEIGHT_MAX}"
        ))),
    };
    let weights = Weights {
        leader_milli: milli("leader", wanted.leader)?,
        region_milli: milli("region", wanted.region)?,
    };
    let serving = serving(&node)?;
    serving.lock().cluster()?.stores().get(StoreId(id))?;
    let decided = set_policy(&node, &serving, |policy| {
        policy.store_weights.insert(id, weights);
        Ok(())
    });
    decided.await?.map_err(Failure::from)?;
    Ok(Json("The store's weight is updated."))
}

pub(super) async fn forget_tombstones(State(node): Shared) -> Reply<&'static str> {
    change(&node, |cluster| Ok(cluster.forget_tombstones())).await?;
    Ok(Json("Remove tombstone successfully."))
}
