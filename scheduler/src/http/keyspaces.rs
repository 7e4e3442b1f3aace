//! Keyspaces: the one way to create them.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use proto::keyspacepb::KeyspaceMeta;
use serde::{Deserialize, Serialize};

use super::{Failure, Json, Reply, Shared, serving};
use crate::keyspaces::id_of;

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
