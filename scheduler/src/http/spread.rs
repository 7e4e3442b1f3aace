//! Cutting regions at keys, and spreading groups of regions over the stores.

use axum::body::Bytes;
use axum::extract::State;
use proto::KeyRange;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::keys::hex;
use super::operators::{refused, whole};
use super::{Failure, Json, Reply, Shared, serving};
use crate::server::node::Node;
use crate::service::operators::{Scatter, scatter as scatter_regions, split_at};

/// A group of regions, by their ids or by a range of keys, which are in hexadecimal, in the form that regions are
/// cut in.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    #[serde(alias = "region_ids")]
    regions_id: Vec<u64>,
    start_key: Option<String>,
    end_key: Option<String>,
    group: String,
}

/// What an instruction in PD's words wants spread; `None` when it wants something else.
pub(super) fn scatter_of(body: &[u8]) -> Result<Option<Wish>, String> {
    let Ok(input) = serde_json::from_slice::<Map<String, Value>>(body) else { return Ok(None) };
    match input.get("name").and_then(Value::as_str) {
        Some("scatter-region") => {
            let region = input.get("region_id").and_then(whole).ok_or("missing region id")?;
            let group = input.get("group").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Some(Wish { regions_id: vec![region], group, ..Wish::default() }))
        }
        Some("scatter-regions") => {
            let wish = serde_json::from_value(Value::Object(input));
            wish.map(Some).map_err(|error| error.to_string())
        }
        _ => Ok(None),
    }
}

/// The regions that are meant.
fn regions_of(node: &Node, wish: &Wish) -> Result<Vec<u64>, Failure> {
    if !wish.regions_id.is_empty() {
        return Ok(wish.regions_id.clone());
    }
    let (Some(start), Some(end)) = (&wish.start_key, &wish.end_key) else {
        return Err(Failure::bad_request("missing region ids, or a start_key and an end_key"));
    };
    let range = KeyRange::from_wire(hex(start)?, hex(end)?);
    if range.is_empty() {
        return Err(Failure::bad_request("no key lies between start_key and end_key"));
    }
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let regions = affairs.cluster()?.regions();
    Ok(regions.scan(&range, 0).iter().map(|record| record.id().0).collect())
}

/// Spreads them; of how many, how many. A single one that cannot be is a failure.
pub(super) async fn scatter_all(node: &Node, wish: Wish) -> Result<(usize, usize), Failure> {
    let regions = regions_of(node, &wish)?;
    let serving = serving(node)?;
    let group = Scatter { group: &wish.group, skip_store_limits: false, regions: &regions };
    let failed = scatter_regions(node, &serving, &group).await?.map_err(Failure::from)?;
    match failed.into_iter().collect::<Vec<_>>() {
        failed if failed.len() == 1 && regions.len() == 1 => {
            failed.into_iter().next().map_or(Ok((1, 1)), |failed| Err(refused(failed.why)))
        }
        failed => Ok((regions.len() - failed.len(), regions.len())),
    }
}

fn percentage(done: usize, all: usize) -> usize {
    (done * 100).checked_div(all).unwrap_or(100)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Scattered {
    processed_percentage: usize,
}

/// `{"start_key": …, "end_key": …, "group": …}` or `{"regions_id": […], "group": …}`.
pub(super) async fn scatter(State(node): Shared, body: Bytes) -> Reply<Scattered> {
    let wish =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let (done, all) = scatter_all(&node, wish).await?;
    Ok(Json(Scattered { processed_percentage: percentage(done, all) }))
}

#[derive(Deserialize)]
struct Cuts {
    split_keys: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Cut {
    processed_percentage: usize,
    regions_id: Vec<u64>,
}

/// `{"split_keys": […]}`; answered when heartbeats show the regions, or patience is over.
pub(super) async fn split(State(node): Shared, body: Bytes) -> Reply<Cut> {
    let cuts: Cuts =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    if cuts.split_keys.is_empty() {
        return Err(Failure::bad_request("split_keys should be provided."));
    }
    let keys = cuts.split_keys.iter().map(|text| hex(text)).collect::<Result<Vec<_>, _>>()?;
    let serving = serving(&node)?;
    let regions_id = split_at(&node, &serving, &keys).await?.map_err(Failure::from)?;
    Ok(Json(Cut { processed_percentage: percentage(regions_id.len(), keys.len()), regions_id }))
}
