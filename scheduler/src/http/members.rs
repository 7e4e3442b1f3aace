//! Members, their leader, and this process.

use std::time::Duration;

use axum::extract::{Path, State};
use proto::{pdpb, schedulerpb};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{Failure, Json, Reply, Shared, no_leader, serving};
use crate::member::Membership;
use crate::server::node::{Node, Said};
use crate::service::VERSION;
use crate::service::members::{member_of, members as members_of};

/// How long a member may take to accept a connection and still count as healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);

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

/// A member is healthy when its client port accepts a connection.
pub(super) async fn health(State(node): Shared) -> Json<Vec<Health>> {
    let checks = node.members().into_iter().map(|member| {
        let is_self = member.member_id == node.member_id;
        async move {
            let health = is_self || accepts(&member.client_urls).await;
            let schedulerpb::Member { name, member_id, client_urls, .. } = member;
            Health { name, member_id, client_urls, health }
        }
    });
    Json(futures_util::future::join_all(checks).await)
}

async fn accepts(urls: &[String]) -> bool {
    for url in urls {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let attempt = tokio::net::TcpStream::connect(address);
        if let Ok(Ok(_)) = tokio::time::timeout(HEALTH_TIMEOUT, attempt).await {
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
    let member =
        member.ok_or_else(|| Failure::not_found(format!("member {name:?} does not exist")))?;
    node.tell(Said::HandOver { to: member.member_id });
    Ok(Json("The transfer command is submitted."))
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
