//! Keyspaces: listed, found, created, enabled and disabled; their settings.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use proto::keyspacepb::{KeyspaceMeta, KeyspaceState};
use serde::{Deserialize, Serialize};

use super::{Failure, Json, Reply, Shared, serving};
use crate::cluster::Refusal;
use crate::keyspaces::id_of;
use crate::service::keyspaces::change;

#[derive(Serialize)]
pub(super) struct Keyspace {
    id: u32,
    name: String,
    state: &'static str,
    created_at: i64,
    state_changed_at: i64,
    config: BTreeMap<String, String>,
}

impl From<&KeyspaceMeta> for Keyspace {
    fn from(keyspace: &KeyspaceMeta) -> Self {
        Self {
            id: id_of(keyspace),
            name: keyspace.name.clone(),
            state: keyspace.state().as_str_name(),
            created_at: keyspace.created_at,
            state_changed_at: keyspace.state_changed_at,
            config: keyspace.config.clone(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Keyspaces {
    keyspaces: Vec<Keyspace>,
    next_page_token: String,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

pub(super) async fn list(State(node): Shared) -> Reply<Keyspaces> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?;
    let keyspaces = affairs.keyspaces.list(0, 0).iter().map(Keyspace::from).collect();
    Ok(Json(Keyspaces { keyspaces, next_page_token: String::new() }))
}

pub(super) async fn create(State(node): Shared, body: Bytes) -> Reply<Keyspace> {
    let wanted: Wanted =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let serving = serving(&node)?;
    let created =
        crate::service::keyspaces::create(&node, &serving, &wanted.name, wanted.config).await??;
    Ok(Json(Keyspace::from(&created)))
}

pub(super) async fn by_name(State(node): Shared, Path(name): Path<String>) -> Reply<Keyspace> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?;
    Ok(Json(Keyspace::from(affairs.keyspaces.by_name(&name)?)))
}

pub(super) async fn by_id(State(node): Shared, Path(id): Path<u32>) -> Reply<Keyspace> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?;
    Ok(Json(Keyspace::from(affairs.keyspaces.by_id(id)?)))
}

/// Settings to put, or with null to remove; the others stay. With `preconditions` only if these are as they
/// say, where null is "not there".
#[derive(Deserialize)]
struct WantedConfig {
    #[serde(default)]
    config: BTreeMap<String, Option<String>>,
    #[serde(default)]
    preconditions: BTreeMap<String, Option<String>>,
}

pub(super) async fn set_config(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<Keyspace> {
    let wanted: WantedConfig =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let WantedConfig { config, preconditions } = wanted;
    let serving = serving(&node)?;
    let set =
        change(&node, &serving, |keyspaces, _| keyspaces.set_config(&name, config, &preconditions));
    match set.await? {
        Ok(keyspace) => Ok(Json(Keyspace::from(&keyspace))),
        Err(Refusal::Duplicate(why)) => Err(Failure(StatusCode::CONFLICT, why)),
        Err(refusal) => Err(refusal.into()),
    }
}

#[derive(Deserialize)]
struct WantedState {
    state: String,
}

/// `{"state": "disabled"}`, in letters of either case.
pub(super) async fn set_state(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<Keyspace> {
    let WantedState { state } =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let wanted = KeyspaceState::from_str_name(&state.to_ascii_uppercase())
        .ok_or_else(|| Failure::bad_request(format!("unknown target state: {state}")))?;
    let serving = serving(&node)?;
    let set = change(&node, &serving, |keyspaces, now_s| {
        let id = id_of(keyspaces.by_name(&name)?);
        keyspaces.set_state(id, wanted, now_s)
    });
    Ok(Json(Keyspace::from(&set.await?.map_err(Failure::from)?)))
}
