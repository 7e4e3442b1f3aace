//! Members that come, go, and are to lead; and calls that one member passes on to another.

use proto::pdpb;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::port::http;
use super::{PATIENCE, alone, eventually, founders, header, leader, on_disk, pd, start, start_all};
use crate::{Config, SchedulerNode, StartError};

async fn ask(node: &SchedulerNode, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (head, body) = http(node, method, &format!("/pd/api/v1{path}"), &body).await;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

fn joining(to: &SchedulerNode, name: &str) -> Config {
    Config { join: vec![to.client_url().to_owned()], ..alone(name) }
}

/// Starts a member that joins, and waits until it has its vote.
async fn joined(to: &SchedulerNode, config: Config) -> SchedulerNode {
    let node = start(config).await;
    let id = node.member_id();
    eventually("the new member votes", async || {
        [to, &node].iter().all(|known| {
            let members = known.node.members();
            members.iter().any(|member| member.member_id == id && !member.is_learner)
        })
    })
    .await;
    node
}

/// S1.4 with real members: one that was removed while it was away does not come back by its data; one that
/// lost its data is not let in before it is removed; both join as new members then.
#[tokio::test]
async fn a_member_that_is_gone_comes_back_only_by_joining_anew() {
    let directory = tempfile::tempdir().unwrap();
    let founder = start(alone("a")).await;
    assert!(founder.wait_until_served(PATIENCE).await);
    let data = || on_disk(directory.path());
    let b = joined(&founder, Config { data: data(), ..joining(&founder, "b") }).await;
    let c = joined(&founder, joining(&founder, "c")).await;
    let old_id = b.member_id();
    b.stop().await;
    eventually("it is removed", async || {
        ask(&founder, "DELETE", "/members/name/b", Value::Null).await.0 == 200
    })
    .await;
    let again = SchedulerNode::start(Config { data: data(), ..alone("b") }).await;
    let refused = again.unwrap_err();
    assert!(matches!(&refused, StartError::Removed { name, .. } if name == "b"), "{refused}");
    let again = SchedulerNode::start(Config { data: data(), ..joining(&founder, "b") }).await;
    assert!(matches!(again.unwrap_err(), StartError::Removed { .. }), "join is not looked at");
    let anew = joined(&founder, joining(&founder, "b")).await;
    assert_ne!(anew.member_id(), old_id);

    c.kill().await;
    let lost = SchedulerNode::start(joining(&founder, "c")).await.unwrap_err();
    assert!(lost.to_string().contains("its data is missing"), "{lost}");
    eventually("the lost one is removed", async || {
        ask(&founder, "DELETE", "/members/name/c", Value::Null).await.0 == 200
    })
    .await;
    joined(&founder, joining(&founder, "c")).await.stop().await;
    anew.stop().await;
    founder.stop().await;
}

#[tokio::test]
async fn a_member_that_is_removed_while_it_runs_stops_and_says_why() {
    let nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    let other = nodes.iter().find(|node| node.name() != first.name()).unwrap();
    let path = format!("/members/id/{}", other.member_id());
    eventually("it is removed", async || {
        let leads = leader(&nodes).await;
        ask(leads, "DELETE", &path, Value::Null).await.0 == 200
    })
    .await;
    eventually("it stops", async || {
        other.fault().is_some_and(|fault| fault.contains("removed from its cluster"))
    })
    .await;
    let leads = leader(&nodes).await;
    let (status, why) =
        ask(leads, "DELETE", &format!("/members/id/{}", leads.member_id()), Value::Null).await;
    assert!(status == 400 && why.as_str().unwrap().contains("leads"), "{why}");
}

#[tokio::test]
async fn priorities_are_the_groups_and_health_is_an_answer() {
    let mut nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    let name = first.name().to_owned();
    let path = format!("/members/name/{name}");
    let (status, said) = ask(first, "POST", &path, json!({ "leader-priority": 3 })).await;
    assert_eq!(status, 200, "{said}");
    for bad in [json!({ "leader-priority": 0.5 }), json!({ "priority": 1 })] {
        assert_eq!(ask(first, "POST", &path, bad).await.0, 400);
    }
    let unknown = ask(first, "POST", "/members/name/z", json!({ "leader-priority": 1 })).await;
    assert_eq!(unknown.0, 404);
    eventually("every member shows it", async || {
        let mut shown = true;
        for node in &nodes {
            let (_, members) = ask(node, "GET", "/members", Value::Null).await;
            let members = members["members"].as_array().cloned().unwrap_or_default();
            let member = members.iter().find(|member| member["name"] == name.as_str());
            shown &= member.is_some_and(|member| member["leader_priority"] == 3);
        }
        shown
    })
    .await;
    let at = nodes.iter().position(|node| node.name() != name).unwrap();
    let dead = nodes.remove(at);
    let dead_name = dead.name().to_owned();
    dead.kill().await;
    let (_, health) = ask(leader(&nodes).await, "GET", "/health", Value::Null).await;
    for member in health.as_array().unwrap() {
        assert_eq!(member["health"] == true, member["name"] != dead_name.as_str(), "{health}");
    }
}

/// D9: a follower relays what is meant for the leader, one question or a stream.
#[tokio::test]
async fn a_follower_relays_calls_that_name_the_leader() {
    let nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.name() != first.name()).unwrap();
    let host: MetadataValue<_> = first.client_url().parse().unwrap();
    let to_leader = |mut request: Request<pdpb::AllocIdRequest>| {
        request.metadata_mut().insert("pd-forwarded-host", host.clone());
        request
    };
    let alloc = || Request::new(pdpb::AllocIdRequest { header: header(first), count: 1 });
    eventually("the follower knows where the leader is", async || {
        pd(follower).await.alloc_id(to_leader(alloc())).await.is_ok()
    })
    .await;
    assert_eq!(pd(follower).await.alloc_id(alloc()).await.unwrap_err().message(), "not leader");

    let ask = |count| pdpb::TsoRequest { header: header(first), count, ..Default::default() };
    let mut stream = Request::new(tokio_stream::iter([ask(3), ask(4), ask(5)]));
    stream.metadata_mut().insert("pd-forwarded-host", host.clone());
    let answers = pd(follower).await.tso(stream).await.unwrap().into_inner();
    let counts: Vec<u32> = answers.map(|answer| answer.unwrap().count).collect().await;
    assert_eq!(counts, [3, 4, 5]);

    let mut astray = alloc();
    astray.metadata_mut().insert("pd-forwarded-host", "http://127.0.0.1:1".parse().unwrap());
    let refused = pd(follower).await.alloc_id(astray).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut refused = to_leader(alloc());
    refused.get_mut().header.as_mut().unwrap().cluster_id = 1;
    let refused = pd(follower).await.alloc_id(refused).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "its status comes back too: {refused}");
}
