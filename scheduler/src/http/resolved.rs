//! Below which timestamps nothing is undecided any more, as stores report it.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use proto::StoreId;
use serde::Serialize;

use super::keys::Parameters;
use super::{Failure, Json, Reply, Shared, serving};
use crate::cluster::{Cluster, NO_SAY};

/// How often stores report when nothing else is set, in Go's words. PD writes the lowest down as often.
const REPORT_INTERVAL: &str = "1s";

/// What is told; `u64::MAX` stands for stores that lead nothing.
#[derive(Serialize)]
pub(super) struct Resolved {
    is_real_time: bool,
    min_resolved_ts: u64,
    persist_interval: &'static str,
    stores_min_resolved_ts: Option<BTreeMap<u64, u64>>,
}

impl Resolved {
    fn new(min_resolved_ts: u64, stores_min_resolved_ts: Option<BTreeMap<u64, u64>>) -> Self {
        let persist_interval = REPORT_INTERVAL;
        Self { is_real_time: true, min_resolved_ts, persist_interval, stores_min_resolved_ts }
    }
}

/// Ids of stores between commas.
fn ids(text: &str) -> Result<Vec<u64>, Failure> {
    let id = |text: &str| {
        text.parse().map_err(|_| Failure::bad_request(format!("{text:?} is not a store's id")))
    };
    text.split(',').map(id).collect()
}

fn of_stores(cluster: &Cluster, ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u64> {
    ids.into_iter().map(|id| (id, cluster.resolved_of(StoreId(id)))).collect()
}

fn lowest(of_stores: &BTreeMap<u64, u64>) -> u64 {
    of_stores.values().copied().min().unwrap_or(NO_SAY)
}

/// The cluster's; with `scope=cluster` also each store's, with ids as `scope` that of these stores.
pub(super) async fn lowest_of_all(State(node): Shared, parameters: Parameters) -> Reply<Resolved> {
    let scope = parameters.text("scope")?.unwrap_or_default();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let told = match scope {
        "" => Resolved::new(cluster.resolved(), None),
        "cluster" => {
            let all = of_stores(cluster, cluster.stores().iter().map(|store| store.id().0));
            Resolved::new(cluster.resolved(), Some(all))
        }
        some => {
            let some = of_stores(cluster, ids(some)?);
            Resolved::new(lowest(&some), Some(some))
        }
    };
    Ok(Json(told))
}

/// The lowest of one store, or of several between commas.
pub(super) async fn of(State(node): Shared, Path(text): Path<String>) -> Reply<Resolved> {
    let ids = ids(&text)?;
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let some = of_stores(affairs.cluster()?, ids);
    Ok(Json(Resolved::new(lowest(&some), None)))
}
