//! Why a region does (not) move, and why a store does (not) fill or empty.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use proto::{RegionId, StoreId};

use super::{Failure, Json, Reply, Shared, serving};
use crate::explain::{self, Explanation, StoreExplanation};

/// Regions of a store that are told of when no limit is given.
const REGIONS_SHOWN: usize = 16;

pub(super) async fn region(State(node): Shared, Path(id): Path<u64>) -> Reply<Explanation> {
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let explained = explain::region(affairs.cluster()?, RegionId(id), moment);
    explained.map(Json).ok_or_else(|| Failure::not_found(format!("region {id} not found")))
}

/// With at most `limit` of its regions.
pub(super) async fn store(
    State(node): Shared,
    Path(id): Path<u64>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply<StoreExplanation> {
    let limit = query.get("limit").map_or(Ok(REGIONS_SHOWN), |text| text.parse());
    let limit = limit.map_err(|_| Failure::bad_request("limit is not a number"))?;
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let explained = explain::store(affairs.cluster()?, StoreId(id), moment, limit);
    explained.map(Json).ok_or_else(|| Failure::not_found(format!("store {id} not found")))
}
