//! Members, their leader, and this process.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use proto::{pdpb, schedulerpb};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Failure, Json, Reply, Shared, forward, no_leader, serving};
use crate::member::Membership;
use crate::server::node::{Node, Said};
use crate::service::VERSION;
use crate::service::members::{member_of, members as members_of};

/// How long a member may take to answer and still count as healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub(super) struct Header {
    cluster_id: u64,
}

#[derive(Serialize)]
pub(super) struct Member {
    name: String,
    member_id: u64,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    deploy_path: String,
    binary_version: String,
    git_hash: String,
    #[serde(skip_serializing_if = "is_zero")]
    leader_priority: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl From<pdpb::Member> for Member {
    fn from(member: pdpb::Member) -> Self {
        Self {
            name: member.name,
            member_id: member.member_id,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            deploy_path: member.deploy_path,
            binary_version: member.binary_version,
            git_hash: member.git_hash,
            leader_priority: member.leader_priority,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Members {
    header: Header,
    members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_leader: Option<Member>,
}

pub(super) async fn members(State(node): Shared) -> Json<Members> {
    let found = members_of(&node);
    Json(Members {
        header: Header { cluster_id: node.cluster_id() },
        members: found.members.into_iter().map(Member::from).collect(),
        leader: found.leader.map(Member::from),
        etcd_leader: found.etcd_leader.map(Member::from),
    })
}

pub(super) async fn leader(State(node): Shared) -> Reply<Member> {
    node.leader().map(|leader| Json(member_of(leader).into())).ok_or_else(no_leader)
}

#[derive(Serialize)]
pub(super) struct Health {
    name: String,
    member_id: u64,
    client_urls: Vec<String>,
    health: bool,
}

/// A member is healthy when it answers on its client port: one that stands still accepts connections too.
pub(super) async fn health(State(node): Shared) -> Json<Vec<Health>> {
    let checks = node.members().into_iter().map(|member| {
        let is_self = member.member_id == node.member_id;
        async move {
            let health = is_self || answers(&member.client_urls).await;
            let schedulerpb::Member { name, member_id, client_urls, .. } = member;
            Health { name, member_id, client_urls, health }
        }
    });
    Json(futures_util::future::join_all(checks).await)
}

async fn answers(urls: &[String]) -> bool {
    for url in urls {
        let ping = forward::get(url, "/pd/api/v1/ping");
        let answer = tokio::time::timeout(HEALTH_TIMEOUT, ping).await;
        if answer.ok().flatten().is_some_and(|response| response.status() == StatusCode::OK) {
            return true;
        }
    }
    false
}

#[derive(Serialize)]
pub(super) struct Version {
    version: &'static str,
    build_time: &'static str,
    hash: &'static str,
    branch: &'static str,
}

pub(super) async fn version() -> Json<Version> {
    Json(Version { version: VERSION, build_time: "", hash: "", branch: "" })
}

#[derive(Serialize)]
pub(super) struct ProcessStatus {
    build_ts: &'static str,
    version: &'static str,
    git_hash: &'static str,
    start_timestamp: u64,
    kernel_type: &'static str,
}

pub(super) async fn status(State(node): Shared) -> Json<ProcessStatus> {
    Json(ProcessStatus {
        build_ts: "",
        version: VERSION,
        git_hash: "",
        start_timestamp: node.started_at_ms / 1_000,
        kernel_type: "Tessera",
    })
}

pub(super) async fn resign(State(node): Shared) -> Reply<&'static str> {
    if node.members().len() < 2 {
        return Err(Failure::bad_request("there is no other member to lead"));
    }
    node.tell(Said::HandOver { to: 0 });
    Ok(Json("The resign command is submitted."))
}

pub(super) async fn transfer(State(node): Shared, Path(name): Path<String>) -> Reply<&'static str> {
    let member = node.members().into_iter().find(|member| member.name == name);
    let member = member.ok_or_else(|| no_member(&name))?;
    if member.is_learner {
        return Err(Failure::bad_request(format!("member {name:?} has no vote yet")));
    }
    node.tell(Said::HandOver { to: member.member_id });
    Ok(Json("The transfer command is submitted."))
}

/// What can be set of a member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedMember {
    #[serde(rename = "leader-priority")]
    leader_priority: f64,
}

/// A healthy member of a higher priority is to lead: within seconds, by an orderly hand-over.
pub(super) async fn set_priority(
    State(node): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let wanted: WantedMember =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let priority = wanted.leader_priority;
    let leader_priority = priority as i32;
    if f64::from(leader_priority) != priority {
        return Err(Failure::bad_request(format!("leader-priority {priority} is no whole number")));
    }
    let member = node.members().into_iter().find(|member| member.name == name);
    let member_id = member.ok_or_else(|| no_member(&name))?.member_id;
    let put_priorities = vec![schedulerpb::MemberPriority { member_id, leader_priority }];
    let change = schedulerpb::Change { put_priorities, ..Default::default() };
    serving(&node)?.change(&node, |_, _| Ok((change, ()))).await?.map_err(Failure::from)?;
    Ok(Json("The leader priority is updated."))
}

fn no_member(name: &str) -> Failure {
    Failure::not_found(format!("member {name:?} does not exist"))
}

pub(super) async fn dismiss_by_name(
    State(node): Shared,
    Path(name): Path<String>,
) -> Reply<String> {
    dismiss(&node, |member| member.name == name).await
}

pub(super) async fn dismiss_by_id(State(node): Shared, Path(id): Path<u64>) -> Reply<String> {
    dismiss(&node, |member| member.member_id == id).await
}

async fn dismiss(node: &Node, is_meant: impl Fn(&schedulerpb::Member) -> bool) -> Reply<String> {
    serving(node)?;
    let member = node
        .members()
        .into_iter()
        .find(is_meant)
        .ok_or_else(|| Failure::not_found("there is no such member"))?;
    if member.member_id == node.member_id {
        return Err(Failure::bad_request(
            "this member leads: transfer the leadership to another one first",
        ));
    }
    let (done, outcome) = oneshot::channel();
    node.tell(Said::Membership { change: Membership::Dismiss(member.member_id), done });
    node.applied(outcome).await?;
    Ok(Json(format!("removed, member: {}", member.name)))
}
