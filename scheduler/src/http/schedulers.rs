//! The schedulers: listed, added, removed, paused, configured; and checkers, paused.
//!
//! | status | means |
//! |---|---|
//! | 400 | the request lacks something, or names something that cannot be meant |
//! | 404 | there is no such scheduler or checker |
//! | 500 | there is one of this name already, or none that could pause, as in PD |

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::{Cluster, Moment, Refusal, Writes};
use crate::scheduling::ScheduleController;
use crate::server::node::Node;
use crate::server::serving::change_of;

type Parameters = Query<BTreeMap<String, String>>;

/// A JSON object.
fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("not a JSON object: {error}")))
}

fn refused(refusal: Refusal) -> Failure {
    if let Refusal::Duplicate(why) = refusal {
        return Failure(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    Failure::from(refusal)
}

/// Who is to pause and is not there is a failure of the server, in PD's eyes.
fn not_paused(refusal: Refusal) -> Failure {
    if let Refusal::NotFound(why) = refusal {
        return Failure(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    refused(refusal)
}

/// Changes the schedulers, and waits until that is durable.
async fn change(
    node: &Node,
    decide: impl FnOnce(&mut Cluster, Moment) -> Result<Writes, Refusal>,
) -> Result<(), Failure> {
    change_or(node, decide, refused).await
}

/// The same, with another word for what is refused.
async fn change_or(
    node: &Node,
    decide: impl FnOnce(&mut Cluster, Moment) -> Result<Writes, Refusal>,
    refused: impl FnOnce(Refusal) -> Failure,
) -> Result<(), Failure> {
    let decided = serving(node)?
        .change(node, |affairs, moment| Ok((change_of(decide(affairs.cluster()?, moment)?), ())))
        .await?;
    decided.map_err(refused)
}

#[derive(Serialize)]
struct Paused {
    name: String,
    resume_at: String,
}

/// The names of all; with `status=paused` of those that pause, and with `timestamp=true` until when.
pub(super) async fn list(
    State(node): Shared,
    Query(query): Parameters,
) -> Result<Response, Failure> {
    let is_set = |name: &str| query.get(name).is_some_and(|value| value == "true");
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let seats = cluster.coordinator().seats();
    let name = |seat: &ScheduleController| seat.scheduler.name().to_owned();
    match query.get("status").map(String::as_str) {
        None | Some("") => Ok(Json(seats.iter().map(name).collect::<Vec<_>>()).into_response()),
        Some("paused") => {
            let paused = seats.iter().filter_map(|seat| {
                let until_ms = seat.controller.paused_until(moment)?;
                Some(Paused { name: name(seat), resume_at: format::time(until_ms) })
            });
            let paused: Vec<_> = paused.collect();
            if is_set("timestamp") {
                return Ok(Json(paused).into_response());
            }
            let names: Vec<_> = paused.into_iter().map(|paused| paused.name).collect();
            Ok(Json(names).into_response())
        }
        Some("disabled") => Ok(Json(Vec::<String>::new()).into_response()),
        Some(other) => Err(Failure::bad_request(format!("{other} is no status of a scheduler"))),
    }
}

/// One more: `{"name": "evict-leader-scheduler", "store_id": 1}`.
pub(super) async fn add(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let mut arguments = object(&body)?;
    let name = match arguments.remove("name") {
        Some(Value::String(name)) => name,
        _ => return Err(Failure::bad_request("missing scheduler name")),
    };
    let arguments = Value::Object(arguments);
    change(&node, |cluster, moment| cluster.add_scheduler(&name, &arguments, moment)).await?;
    Ok(Json("The scheduler is created."))
}

pub(super) async fn remove(State(node): Shared, Path(name): Path<String>) -> Reply<&'static str> {
    change(&node, |cluster, moment| cluster.remove_scheduler(&name, moment)).await?;
    Ok(Json("The scheduler is removed."))
}

/// Seconds of a pause.
fn delay(body: &[u8]) -> Result<u64, Failure> {
    let delay = object(body)?.get("delay").and_then(Value::as_u64);
    delay.ok_or_else(|| Failure::bad_request("missing pause time (delay, in seconds)"))
}

/// `{"delay": seconds}`; 0 resumes.
pub(super) async fn pause(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let seconds = delay(&body)?;
    let pause = |cluster: &mut Cluster, moment| cluster.pause_scheduler(&name, seconds, moment);
    change_or(&node, pause, not_paused).await?;
    Ok(Json("Pause or resume the scheduler successfully."))
}

/// The arguments as an object, also of those that take none.
fn arguments_of(seat: &ScheduleController) -> Value {
    let arguments = seat.scheduler.arguments();
    if arguments.is_null() { json!({}) } else { arguments }
}

/// The arguments of all, by name.
pub(super) async fn configs(State(node): Shared) -> Reply<BTreeMap<String, Value>> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let seats = affairs.cluster()?.coordinator().seats();
    let all = seats.iter().map(|seat| (seat.scheduler.name().to_owned(), arguments_of(seat)));
    Ok(Json(all.collect()))
}

fn config_of(node: &Node, name: &str) -> Result<Value, Failure> {
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let seat = affairs.cluster()?.coordinator().find(name);
    seat.map(arguments_of).ok_or_else(|| Failure::not_found("scheduler not found"))
}

pub(super) async fn config(State(node): Shared, Path(name): Path<String>) -> Reply<Value> {
    config_of(&node, &name).map(Json)
}

/// New arguments, in PD's words; what is not named stays.
pub(super) async fn configure(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let arguments = Value::Object(object(&body)?);
    change(&node, |cluster, moment| cluster.configure_scheduler(&name, &arguments, moment)).await?;
    Ok(Json("The scheduler's config is updated."))
}

/// Which peers are shuffled.
pub(super) async fn roles(State(node): Shared, Path(name): Path<String>) -> Reply<Value> {
    let roles = config_of(&node, &name)?.get("roles").cloned();
    roles.map(Json).ok_or_else(|| Failure::not_found(format!("{name} has no roles")))
}

/// The same changed; the body is a list.
pub(super) async fn set_roles(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let roles: Value =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let arguments = json!({ "roles": roles });
    change(&node, |cluster, moment| cluster.configure_scheduler(&name, &arguments, moment)).await?;
    Ok(Json("The scheduler's config is updated."))
}

/// A scheduler lets go of one of its stores; without any left it ends.
pub(super) async fn let_go(
    State(node): Shared,
    Path((name, store)): Path<(String, u64)>,
) -> Reply<&'static str> {
    let named = format!("{name}-{store}");
    change(&node, |cluster, moment| cluster.remove_scheduler(&named, moment)).await?;
    Ok(Json("The scheduler's config is updated."))
}

#[derive(Serialize)]
pub(super) struct CheckerState {
    paused: bool,
}

pub(super) async fn checker(State(node): Shared, Path(name): Path<String>) -> Reply<CheckerState> {
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let coordinator = affairs.cluster()?.coordinator();
    Ok(Json(CheckerState { paused: coordinator.is_checker_paused(&name, moment)? }))
}

/// `{"delay": seconds}`; 0 resumes.
pub(super) async fn pause_checker(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let seconds = delay(&body)?;
    change(&node, |cluster, moment| cluster.pause_checker(&name, seconds, moment)).await?;
    Ok(Json("Pause or resume the checker successfully."))
}
