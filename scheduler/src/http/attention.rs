//! Whether regions are placed as they shall be, and a word to look at them soon.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use proto::KeyRange;
use serde::Deserialize;

use super::keys::{Parameters, hex};
use super::{Failure, Json, Reply, Shared, serving};
use crate::server::node::Node;

/// Regions of a range that are looked at when no limit is given.
const LOOK_LIMIT: usize = 256;

/// `REPLICATED`, `INPROGRESS` or `PENDING`, of the regions from `startKey` to `endKey`, which are in hexadecimal.
pub(super) async fn replicated(State(node): Shared, parameters: Parameters) -> Reply<&'static str> {
    let key = |name: &str| hex(parameters.text(name)?.unwrap_or_default());
    let range = KeyRange::from_wire(key("startKey")?, key("endKey")?);
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    Ok(Json(affairs.cluster()?.placement(&range, moment).name()))
}

/// Keys in hexadecimal, in the form that regions are cut in.
#[derive(Deserialize)]
struct Range {
    start_key: String,
    end_key: String,
}

impl Range {
    fn shown(&self) -> String {
        format!("[{},{})", self.start_key, self.end_key)
    }
}

/// Has up to `limit` regions of each of the ranges looked at soon.
fn look_soon(node: &Node, parameters: &Parameters, ranges: &[Range]) -> Result<(), Failure> {
    let limit = parameters.limit(LOOK_LIMIT)?.unwrap_or(0);
    let range =
        |range: &Range| Ok(KeyRange::from_wire(hex(&range.start_key)?, hex(&range.end_key)?));
    let ranges = ranges.iter().map(range).collect::<Result<Vec<_>, Failure>>()?;
    let moment = node.clock.moment();
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    ranges.iter().for_each(|range| cluster.look_soon(range, limit, moment));
    Ok(())
}

/// These paths are answered in plain text.
fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=UTF-8")], text).into_response()
}

/// `{"start_key": …, "end_key": …}`.
pub(super) async fn accelerate(
    State(node): Shared,
    parameters: Parameters,
    body: Bytes,
) -> Result<Response, Failure> {
    let range: Range =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let said = format!("Accelerate regions scheduling in a given range {}", range.shown());
    look_soon(&node, &parameters, &[range])?;
    Ok(text(said))
}

/// A list of the same.
pub(super) async fn accelerate_all(
    State(node): Shared,
    parameters: Parameters,
    body: Bytes,
) -> Result<Response, Failure> {
    let ranges: Vec<Range> =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let shown: Vec<_> = ranges.iter().map(Range::shown).collect();
    look_soon(&node, &parameters, &ranges)?;
    let shown = shown.join(", ");
    Ok(text(format!("Accelerate regions scheduling in given ranges: {shown}")))
}
