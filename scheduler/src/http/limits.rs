//! How many peers stores may be given, and relieved of, in a minute.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use proto::StoreId;
use serde::Deserialize;

use super::{Failure, Json, Reply, Shared, serving};
use crate::cluster::{Policy, Refusal, StoreRecord};
use crate::operator::store_limit::{Direction, PerMinute, StoreRates};
use crate::server::node::Node;
use crate::service::stores::set_policy;

/// What is wanted: a rate, of one direction or of both.
#[derive(Deserialize)]
struct Wanted {
    rate: f64,
    #[serde(rename = "type")]
    direction: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// The rate, for the stores that carry one of the labels if there are any.
struct Limit {
    direction: Option<Direction>,
    rate: PerMinute,
    labels: Option<BTreeMap<String, String>>,
}

fn read(body: &[u8]) -> Result<Limit, Failure> {
    let wanted: Wanted =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    if wanted.rate <= 0.0 || !wanted.rate.is_finite() {
        return Err(Failure::bad_request("rate should be a number that > 0"));
    }
    let direction = match wanted.direction.as_deref() {
        None | Some("") => None,
        Some("add-peer") => Some(Direction::AddPeer),
        Some("remove-peer") => Some(Direction::RemovePeer),
        Some(other) => {
            return Err(Failure::bad_request(format!("{other} is not add-peer or remove-peer")));
        }
    };
    Ok(Limit { direction, rate: PerMinute::from(wanted.rate), labels: wanted.labels })
}

/// The limits of all stores that are not gone, by id.
pub(super) async fn all(State(node): Shared) -> Reply<BTreeMap<u64, StoreRates>> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let stores = cluster.stores().iter().filter(|store| !store.is_tombstone());
    Ok(Json(stores.map(|s| (s.id().0, cluster.policy().store_rates(s.id()))).collect()))
}

async fn edit(node: &Node, edit: impl FnOnce(&mut Policy)) -> Result<(), Failure> {
    let serving = serving(node)?;
    let edited = set_policy(node, &serving, |policy| {
        edit(policy);
        Ok(())
    });
    edited.await?.map_err(Failure::from)
}

/// Limits these stores, each by a limit of its own.
fn limit(policy: &mut Policy, stores: &[u64], limit: &Limit) {
    for &id in stores {
        let default = policy.default_store_limit;
        policy.store_limit.entry(id).or_insert(default).set(limit.direction, limit.rate);
    }
}

/// The stores that are not gone and carry one of these labels.
fn with_any(node: &Node, labels: &BTreeMap<String, String>) -> Result<Vec<u64>, Failure> {
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let is_meant = |store: &&StoreRecord| {
        let mut labels = labels.iter();
        !store.is_tombstone() && labels.any(|(key, value)| store.label(key) == Some(value))
    };
    Ok(affairs.cluster()?.stores().iter().filter(is_meant).map(|store| store.id().0).collect())
}

/// One limit for all stores, those to come included; with `labels` for those that carry one of them now.
pub(super) async fn set_all(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let wanted = read(&body)?;
    if let Some(labels) = &wanted.labels {
        let stores = with_any(&node, labels)?;
        edit(&node, |policy| limit(policy, &stores, &wanted)).await?;
    } else {
        let Limit { direction, rate, .. } = wanted;
        edit(&node, |policy| {
            policy.default_store_limit.set(direction, rate);
            policy.store_limit.values_mut().for_each(|rates| rates.set(direction, rate));
        })
        .await?;
    }
    Ok(Json("Set store limit successfully."))
}

/// A limit of one store's own.
pub(super) async fn set(
    State(node): Shared,
    Path(id): Path<u64>,
    body: Bytes,
) -> Reply<&'static str> {
    let wanted = read(&body)?;
    {
        let serving = serving(&node)?;
        let mut affairs = serving.lock();
        if affairs.cluster()?.stores().get(StoreId(id))?.is_tombstone() {
            return Err(Refusal::StoreTombstone(StoreId(id)).into());
        }
    }
    edit(&node, |policy| limit(policy, &[id], &wanted)).await?;
    Ok(Json("The store's limit is updated."))
}
