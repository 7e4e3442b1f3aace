//! Operators over HTTP: ordered, pushed, listed, refused, cancelled.

use proto::{metapb, pdpb};
use serde_json::Value;

use super::cluster::{Heartbeats, beat, put_store};
use super::port::http;
use super::{PATIENCE, alone, bootstrap, eventually, founders, leader, region, start, store};
use crate::SchedulerNode;

/// Region 2 on the stores 1, 2 and 3; store 4 has no peer of it.
pub(super) fn whole() -> metapb::Region {
    region(2, "", "", 2, &[1, 2, 3])
}

/// Four stores that speak, and a region whose leader is on store 1.
pub(super) async fn with_four_stores(node: &SchedulerNode) -> Heartbeats {
    bootstrap(node).await;
    for id in 2..=4 {
        assert_eq!(put_store(node, store(id)).await, None);
    }
    for id in 1..=4 {
        beat(node, id).await;
    }
    let stream = Heartbeats::open(node).await;
    stream.say(&whole()).await;
    stream
}

pub(super) async fn ask(
    node: &SchedulerNode,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, Value) {
    let (head, body) = http(node, method, &format!("/pd/api/v1{path}"), body).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// Waits until the first heartbeat is heard, which travels on another connection.
pub(super) async fn region_is_known(node: &SchedulerNode) {
    eventually("the region has a leader", async || {
        ask(node, "GET", "/region/id/2", "").await.1["leader"]["store_id"] == 1
    })
    .await;
}

#[tokio::test]
async fn an_order_is_pushed_when_it_is_given_and_its_end_can_be_read() {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    let mut stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    let transfer = r#"{"name": "transfer-leader", "region_id": 2, "to_store_id": 3}"#;
    let created = ask(&node, "POST", "/operators", transfer).await;
    assert_eq!(created, (200, "The operator is created.".into()));
    // Without another heartbeat.
    let order = stream.order().await;
    assert_eq!(order.transfer_leader.unwrap().peer.unwrap().store_id, 3);

    let (_, listed) = ask(&node, "GET", "/operators", "").await;
    let line = listed[0].as_str().unwrap();
    assert!(line.contains("r2 admin-transfer-leader (admin,leader)"), "{line}");
    assert_eq!(ask(&node, "GET", "/operators?kind=region", "").await, (200, Value::Array(vec![])));
    let (_, listed) = ask(&node, "GET", "/operators?object=true&kind=admin", "").await;
    let number = listed[0]["number"].as_u64().unwrap();
    assert_eq!(listed[0]["status"], "RUNNING");
    assert_eq!(listed[0]["steps"][0]["step"], "transfer leader from s1 to s3");
    assert_eq!(listed[0]["steps"][0]["is_done"], false);
    let (status, busy) = ask(&node, "POST", "/operators", transfer).await;
    assert_eq!((status, &busy), (500, &"r2: admin-transfer-leader is under way".into()));

    stream.say_led_by(&whole(), whole().peers.last().copied()).await;
    let path = format!("/operators/2?object=true&number={number}");
    eventually("the plan has succeeded", async || {
        ask(&node, "GET", &path, "").await.1["status"] == "SUCCESS"
    })
    .await;
    let (_, ended) = ask(&node, "GET", &path, "").await;
    assert_eq!(ended["steps"][0]["is_done"], true);
    assert!(ended["finished_at"].is_string());
    let (_, text) = ask(&node, "GET", "/operators/2", "").await;
    let text = text.as_str().unwrap();
    assert!(text.starts_with("status: SUCCESS, operator: r2 admin-transfer-leader"), "{text}");
    let (_, records) = ask(&node, "GET", "/operators/records", "").await;
    assert!(records[0].as_str().unwrap().contains("status:SUCCESS"), "{records}");
    let far_away = "/operators/records?from=99999999999";
    assert_eq!(ask(&node, "GET", far_away, "").await, (200, Value::Array(vec![])));
    node.stop().await;
}

#[tokio::test]
async fn instructions_are_refused_in_one_sentence_with_pds_statuses() {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    let (status, why) = ask(&node, "GET", "/operators", "").await;
    assert_eq!((status, &why), (500, &"cluster is not bootstrapped".into()));
    let _stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    for (body, status, why) in [
        ("no JSON", 400, "not a JSON object"),
        (r#"{"name": "dance", "region_id": 2}"#, 400, "unknown operator dance"),
        (r#"{"name": "remove-peer", "region_id": 2}"#, 400, "missing store id"),
        (
            r#"{"name": "remove-peer", "region_id": 99, "store_id": 1}"#,
            500,
            "r99: there is no such region",
        ),
        (
            r#"{"name": "remove-peer", "region_id": 2, "store_id": 4}"#,
            500,
            "r2: s4 has no peer of the region",
        ),
        (
            r#"{"name": "add-peer", "region_id": 2, "store_id": 3}"#,
            500,
            "r2: s3 already has a peer of the region",
        ),
        (r#"{"name": "add-peer", "region_id": 2, "store_id": 9}"#, 500, "r2: there is no store 9"),
    ] {
        let (code, told) = ask(&node, "POST", "/operators", body).await;
        assert_eq!(code, status, "{body}: {told}");
        assert!(told.as_str().unwrap().starts_with(why), "{body}: {told}");
    }
    let none = ask(&node, "GET", "/operators/2", "").await;
    assert_eq!(none, (500, "operator not found".into()));
    let none = ask(&node, "DELETE", "/operators/2", "").await;
    assert_eq!(none, (500, "r2: no operator is under way".into()));
    node.stop().await;
}

/// S1.15: regions are split and never merged, so far. Who asks for a merge is told so, and nothing is begun.
#[tokio::test]
async fn a_merge_is_not_offered() {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    let _stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    let merge = r#"{"name": "merge-region", "source_region_id": 2, "target_region_id": 3}"#;
    let refused = ask(&node, "POST", "/operators", merge).await;
    assert_eq!(refused, (400, "the operator merge-region is not offered here".into()));
    let merger = r#"{"name": "merge-scheduler"}"#;
    let (status, told) = ask(&node, "POST", "/schedulers", merger).await;
    assert!(status == 400 && told.as_str().unwrap().contains("there is no scheduler merge"));
    assert_eq!(ask(&node, "GET", "/operators", "").await, (200, Value::Array(vec![])));
    node.stop().await;
}

#[tokio::test]
async fn a_follower_passes_an_instruction_on_and_it_can_be_cancelled() {
    let nodes = super::start_all(founders(&["a", "b", "c"])).await;
    let leader = leader(&nodes).await;
    let mut stream = with_four_stores(leader).await;
    region_is_known(leader).await;
    let follower = nodes.iter().find(|node| node.name() != leader.name()).unwrap();
    eventually("the follower knows where clients reach the leader", async || {
        ask(follower, "GET", "/operators", "").await.0 == 200
    })
    .await;
    let split = r#"{"name": "split-region", "region_id": 2, "policy": "USEKEY", "keys": ["6d"]}"#;
    let (status, plan) = ask(follower, "POST", "/operators?object=true", split).await;
    assert_eq!((status, &plan["brief"]), (200, &"split at m".into()));
    let order = stream.order().await.split_region.unwrap();
    assert_eq!((order.policy(), &order.keys[..]), (pdpb::CheckPolicy::Usekey, &["m".into()][..]));
    let cancelled = ask(follower, "DELETE", "/operators/2", "").await;
    assert_eq!(cancelled, (200, "The pending operator is canceled.".into()));
    let path = format!("/operators/2?object=true&number={}", plan["number"]);
    let (_, ended) = ask(follower, "GET", &path, "").await;
    assert_eq!(ended["status"], "CANCEL");
    assert_eq!(ended["reason"], "an administrator gave it up");
}
