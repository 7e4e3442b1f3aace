//! Plans for regions: what is under way, what has ended, and instructions of administrators.
//!
//! As in PD an operator is a line of text, and an instruction is answered "The operator is created.".
//! With `?object=true` each is an object with PD's fields, its steps, and a number by which
//! `/operators/{region id}?object=true&number=N` finds it after its end.
//!
//! | status | means |
//! |---|---|
//! | 400 | the request lacks something, or names something that is not offered |
//! | 500 | refused, as in PD: the text says why in one sentence |

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use proto::{RegionId, StoreId, pdpb};
use serde::Serialize;
use serde_json::{Map, Value};

use super::regions::Epoch;
use super::{Failure, Json, Reply, Shared, format, serving, spread};
use crate::cluster::{Moment, Refusal, RegionRecord};
use crate::instructions::{Act, Instruction, Role};
use crate::operator::{Operator, Standing};
use crate::service::operators::instruct;

/// Query parameters, each once.
type Parameters = Query<BTreeMap<String, String>>;

/// One operator, for programs.
#[derive(Serialize)]
struct Plan {
    number: u64,
    desc: &'static str,
    brief: String,
    region_id: u64,
    region_epoch: Epoch,
    kind: String,
    priority: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How long all its steps together may take.
    timeout: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    duration_ms: u64,
    steps: Vec<StepShown>,
}

#[derive(Serialize)]
struct StepShown {
    step: String,
    is_done: bool,
}

impl Plan {
    fn new(standing: Standing<'_>, record: Option<&RegionRecord>, moment: Moment) -> Self {
        let operator = standing.operator;
        let size_mib = record.map_or(0, RegionRecord::size_mib);
        let timeout_ms: u64 = operator.steps().iter().map(|step| step.timeout_ms(size_mib)).sum();
        let steps = operator.steps().iter().enumerate().map(|(number, step)| StepShown {
            step: step.to_string(),
            is_done: number < operator.current_index(),
        });
        Self {
            number: operator.number,
            desc: operator.description,
            brief: operator.brief(),
            region_id: operator.region.0,
            region_epoch: Epoch::from(operator.epoch),
            kind: operator.kind(),
            priority: operator.priority.name(),
            status: standing.status().name(),
            reason: standing.reason().map(str::to_owned),
            timeout: format::duration(timeout_ms / 1_000),
            created_at: format::time(operator.taken.wall_ms),
            finished_at: standing.finished.map(|finished| format::time(finished.at_wall_ms)),
            duration_ms: standing.duration_ms(moment),
            steps: steps.collect(),
        }
    }
}

fn wants_objects(query: &BTreeMap<String, String>) -> bool {
    query.get("object").is_some_and(|value| matches!(value.as_str(), "" | "1" | "true"))
}

/// PD says 500 to whatever it refuses here.
pub(super) fn refused(refusal: Refusal) -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string())
}

/// The operators under way; `kind` may be given several times, as a word of their kinds.
pub(super) async fn list(
    State(node): Shared,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let kinds: Vec<_> = pairs.iter().filter(|(name, _)| name == "kind").map(|(_, v)| v).collect();
    let is_meant = |operator: &&Operator| {
        kinds.is_empty() || operator.kind().split(',').any(|word| kinds.iter().any(|k| *k == word))
    };
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let running = cluster.operators().running().filter(is_meant);
    if !wants_objects(&pairs.iter().cloned().collect()) {
        return Ok(Json(running.map(ToString::to_string).collect::<Vec<_>>()).into_response());
    }
    let objects = running.map(|operator| {
        let record = cluster.regions().by_id(operator.region);
        Plan::new(Standing { operator, finished: None }, record.map(AsRef::as_ref), moment)
    });
    Ok(Json(objects.collect::<Vec<_>>()).into_response())
}

/// The region's operator, or the last one that ended a short while ago.
pub(super) async fn show(
    State(node): Shared,
    Path(id): Path<u64>,
    Query(query): Parameters,
) -> Result<Response, Failure> {
    let number = query.get("number").map(|text| text.parse::<u64>()).transpose();
    let number = number.map_err(|_| Failure::bad_request("the operator's number is no number"))?;
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let standing = cluster
        .operators()
        .standing(RegionId(id), number, moment)
        .ok_or_else(|| refused(Refusal::NotFound("operator not found".into())))?;
    if wants_objects(&query) {
        let record = cluster.regions().by_id(RegionId(id));
        return Ok(Json(Plan::new(standing, record.map(AsRef::as_ref), moment)).into_response());
    }
    let text = format!("status: {}, operator: {}", standing.status(), standing.operator);
    Ok(Json(text).into_response())
}

/// The operators that have ended, the latest first; `from` is a time in Unix seconds.
pub(super) async fn records(
    State(node): Shared,
    Query(query): Parameters,
) -> Result<Response, Failure> {
    let from = query.get("from").map_or(Ok(0), |text| text.parse::<u64>());
    let from_s = from.map_err(|_| Failure::bad_request("from is no time in Unix seconds"))?;
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let ended = cluster
        .operators()
        .history()
        .filter(|finished| finished.at_wall_ms >= from_s.saturating_mul(1_000));
    if wants_objects(&query) {
        let objects = ended.map(|finished| {
            let record = cluster.regions().by_id(finished.operator.region);
            Plan::new(Standing::from(finished), record.map(AsRef::as_ref), moment)
        });
        return Ok(Json(objects.collect::<Vec<_>>()).into_response());
    }
    let lines = ended.map(|finished| {
        let duration_s = Standing::from(finished).duration_ms(moment) / 1_000;
        format!(
            "{} (status:{}, finishAt:{}, duration:{})",
            finished.operator,
            finished.status,
            format::time(finished.at_wall_ms),
            format::duration(duration_s)
        )
    });
    Ok(Json(lines.collect::<Vec<_>>()).into_response())
}

/// Takes an administrator's instruction.
pub(super) async fn create(
    State(node): Shared,
    Query(query): Parameters,
    body: Bytes,
) -> Result<Response, Failure> {
    if let Some(wish) = spread::scatter_of(&body).map_err(Failure::bad_request)? {
        spread::scatter_all(&node, wish).await?;
        return Ok(Json("The operator is created.").into_response());
    }
    let instruction = read(&body).map_err(Failure::bad_request)?;
    let serving = serving(&node)?;
    let number = instruct(&node, &serving, &instruction).await?.map_err(refused)?;
    if !wants_objects(&query) {
        return Ok(Json("The operator is created.").into_response());
    }
    let moment = node.clock.moment();
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let record = cluster.regions().by_id(instruction.region);
    let standing = cluster.operators().standing(instruction.region, Some(number), moment);
    let standing = standing.ok_or_else(|| Failure::not_found("the operator has just ended"))?;
    Ok(Json(Plan::new(standing, record.map(AsRef::as_ref), moment)).into_response())
}

pub(super) async fn cancel(State(node): Shared, Path(id): Path<u64>) -> Reply<&'static str> {
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?.cancel_operator(RegionId(id), moment).map_err(refused)?;
    Ok(Json("The pending operator is canceled."))
}

/// An instruction in PD's words.
fn read(body: &[u8]) -> Result<Instruction, String> {
    let input: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("not a JSON object: {error}"))?;
    let id = |name: &str, missing: &str| input.get(name).and_then(whole).ok_or(missing.to_owned());
    let store = |name: &str, missing: &str| id(name, missing).map(StoreId);
    let name = input.get("name").and_then(Value::as_str).ok_or("missing operator name")?;
    let region = || id("region_id", "missing region id").map(RegionId);
    let act = match name {
        "transfer-leader" => Act::TransferLeader {
            to: store("to_store_id", "missing store id to transfer leader to")?,
        },
        "add-peer" => Act::AddPeer {
            to: store("store_id", "missing store id to add a peer to")?,
            role: Role::Voter,
        },
        "add-learner" => Act::AddPeer {
            to: store("store_id", "missing store id to add a learner to")?,
            role: Role::Learner,
        },
        "remove-peer" => {
            Act::RemovePeer { from: store("store_id", "missing store id to remove a peer from")? }
        }
        "transfer-peer" => Act::TransferPeer {
            from: store("from_store_id", "missing store id to transfer peer from")?,
            to: store("to_store_id", "missing store id to transfer peer to")?,
        },
        "transfer-region" => Act::TransferRegion { to: places(&input)? },
        "split-region" => split(&input)?,
        "merge-region" => {
            return Err(format!("the operator {name} is not offered here"));
        }
        name => return Err(format!("unknown operator {name}")),
    };
    Ok(Instruction { region: region()?, act })
}

/// A whole number; some tools write `5.0`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let fraction = || value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    value.as_u64().or_else(|| fraction().map(|number| number as u64))
}

/// The stores of a region, and what its peers are to be there: voters, unless said otherwise.
fn places(input: &Map<String, Value>) -> Result<BTreeMap<StoreId, Role>, String> {
    let stores = input.get("to_store_ids").and_then(Value::as_array);
    let stores = stores.ok_or("missing store ids to transfer region to")?;
    let roles = input.get("peer_roles").and_then(Value::as_array);
    if stores.is_empty() {
        return Err("missing store ids to transfer region to".into());
    }
    if roles.is_some_and(|roles| roles.len() != stores.len()) {
        return Err("there must be as many peer roles as stores".into());
    }
    let mut places = BTreeMap::new();
    for (number, store) in stores.iter().enumerate() {
        let store = whole(store).ok_or("invalid store ids to transfer region to")?;
        let role = match roles.and_then(|roles| roles[number].as_str()) {
            None | Some("voter" | "follower" | "") => Role::Voter,
            Some("leader") => Role::Leader,
            Some("learner") => Role::Learner,
            Some(role) => return Err(format!("{role} is no role of a peer")),
        };
        if places.insert(StoreId(store), role).is_some() {
            return Err(format!("store {store} is named twice"));
        }
    }
    Ok(places)
}

/// Keys are in hexadecimal, in the form that regions are cut in.
fn split(input: &Map<String, Value>) -> Result<Act, String> {
    let policy = input.get("policy").and_then(Value::as_str).ok_or("missing split policy")?;
    let policy = pdpb::CheckPolicy::from_str_name(&policy.to_uppercase())
        .ok_or_else(|| format!("check policy {policy} is not supported"))?;
    let mut keys = Vec::new();
    for key in input.get("keys").map_or(Ok([].as_slice()), as_list)? {
        let text = key.as_str().ok_or("bad format keys")?;
        let bytes = format::parse_hex(text)
            .ok_or_else(|| format!("split key {text} is not in hex format"))?;
        keys.push(bytes.into());
    }
    Ok(Act::Split { policy, keys })
}

fn as_list(value: &Value) -> Result<&[Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| "bad format keys".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        read(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn instructions_are_read_in_pds_words() {
        let act = |body: &str| read(body.as_bytes()).unwrap().act;
        assert_eq!(
            act(r#"{"name": "transfer-leader", "region_id": 5, "to_store_id": 2}"#),
            Act::TransferLeader { to: StoreId(2) }
        );
        assert_eq!(
            act(r#"{"name": "add-learner", "region_id": 5.0, "store_id": 4.0}"#),
            Act::AddPeer { to: StoreId(4), role: Role::Learner }
        );
        let body =
            r#"{"name": "transfer-peer", "region_id": 5, "from_store_id": 1, "to_store_id": 4}"#;
        assert_eq!(act(body), Act::TransferPeer { from: StoreId(1), to: StoreId(4) });
        let body = r#"{"name": "transfer-region", "region_id": 5, "to_store_ids": [1, 4],
            "peer_roles": ["leader", "learner"]}"#;
        let to = BTreeMap::from([(StoreId(1), Role::Leader), (StoreId(4), Role::Learner)]);
        assert_eq!(act(body), Act::TransferRegion { to });
        let body =
            r#"{"name": "split-region", "region_id": 5, "policy": "usekey", "keys": ["6D"]}"#;
        let keys = vec!["m".into()];
        assert_eq!(act(body), Act::Split { policy: pdpb::CheckPolicy::Usekey, keys });
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (body, reason) in [
            ("[]", "not a JSON object"),
            ("{}", "missing operator name"),
            (r#"{"name": "dance"}"#, "unknown operator dance"),
            (r#"{"name": "merge-region"}"#, "merge-region is not offered here"),
            (r#"{"name": "add-peer", "store_id": 4}"#, "missing region id"),
            (r#"{"name": "add-peer", "region_id": 5}"#, "missing store id to add a peer to"),
            (r#"{"name": "add-peer", "region_id": 5, "store_id": -1}"#, "missing store id"),
            (r#"{"name": "split-region", "region_id": 5}"#, "missing split policy"),
            (r#"{"name": "split-region", "region_id": 5, "policy": "HALF"}"#, "HALF is not"),
            (
                r#"{"name": "split-region", "region_id": 5, "policy": "USEKEY", "keys": ["xy"]}"#,
                "split key xy is not in hex format",
            ),
            (r#"{"name": "split-region", "policy": "USEKEY", "keys": "6D"}"#, "bad format keys"),
            (r#"{"name": "transfer-region", "region_id": 5, "to_store_ids": []}"#, "missing store"),
            (
                r#"{"name": "transfer-region", "region_id": 5, "to_store_ids": [1, 1]}"#,
                "store 1 is named twice",
            ),
        ] {
            assert!(refusal(body).contains(reason), "{body}: {}", refusal(body));
        }
    }
}
