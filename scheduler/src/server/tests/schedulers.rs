//! Schedulers, limits, hot regions and scattering, over HTTP and gRPC; kept over a change of leaders.

use proto::pdpb;
use serde_json::{Value, json};

use super::cluster::{Heartbeats, beat, put_store};
use super::operators::{ask, region_is_known, whole, with_four_stores};
use super::{
    PATIENCE, alone, bootstrap, eventually, founders, header, leader, pd, start, start_all, store,
};
use crate::SchedulerNode;

const DEFAULTS: [&str; 4] = [
    "balance-region-scheduler",
    "balance-leader-scheduler",
    "balance-hot-region-scheduler",
    "evict-slow-store-scheduler",
];

async fn names(node: &SchedulerNode, query: &str) -> Vec<String> {
    let (status, listed) = ask(node, "GET", &format!("/schedulers{query}"), "").await;
    assert_eq!(status, 200, "{listed}");
    serde_json::from_value(listed).unwrap()
}

async fn served() -> SchedulerNode {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    node
}

/// S0.4, S0.13: schedulers are added, paused, resumed and removed by name over HTTP, as PD's tools do it.
#[tokio::test]
async fn schedulers_are_listed_added_paused_configured_and_removed_in_pds_words() {
    let node = served().await;
    assert_eq!(ask(&node, "GET", "/schedulers", "").await.0, 500, "not bootstrapped");
    let _stream = with_four_stores(&node).await;
    assert_eq!(names(&node, "").await, DEFAULTS);

    let evict = r#"{"name": "evict-leader-scheduler", "store_id": 1}"#;
    let created = ask(&node, "POST", "/schedulers", evict).await;
    assert_eq!(created, (200, "The scheduler is created.".into()));
    assert_eq!(names(&node, "").await.last().unwrap(), "evict-leader-scheduler");
    let config = "/scheduler-config/evict-leader-scheduler";
    let (_, told) = ask(&node, "GET", &format!("{config}/list"), "").await;
    let everything = json!([{"start-key": "", "end-key": ""}]);
    assert_eq!(told, json!({"store-id-ranges": {"1": everything}, "batch": 3}));
    let (status, _) = ask(&node, "POST", &format!("{config}/config"), r#"{"batch": 5}"#).await;
    assert_eq!(status, 200);
    let more = r#"{"name": "evict-leader-scheduler", "store_id": 2}"#;
    assert_eq!(ask(&node, "POST", "/schedulers", more).await.0, 200, "it takes one more store");
    let (_, told) = ask(&node, "GET", config, "").await;
    assert_eq!(
        (&told["batch"], told["store-id-ranges"].as_object().unwrap().len()),
        (&json!(5), 2)
    );
    let (_, all) = ask(&node, "GET", "/scheduler-config", "").await;
    assert_eq!(all["balance-leader-scheduler"], json!({}));

    let path = "/schedulers/balance-leader-scheduler";
    let paused = ask(&node, "POST", path, r#"{"delay": 60}"#).await;
    assert_eq!(paused, (200, "Pause or resume the scheduler successfully.".into()));
    assert_eq!(names(&node, "?status=paused").await, ["balance-leader-scheduler"]);
    let (_, until) = ask(&node, "GET", "/schedulers?status=paused&timestamp=true", "").await;
    assert!(until[0]["resume_at"].is_string(), "{until}");
    assert_eq!(ask(&node, "POST", path, r#"{"delay": 0}"#).await.0, 200);
    assert_eq!(names(&node, "?status=paused").await, Vec::<String>::new());

    let (status, _) = ask(&node, "DELETE", &format!("{config}/delete/2"), "").await;
    assert_eq!(status, 200);
    let removed = ask(&node, "DELETE", "/schedulers/evict-leader-scheduler-1", "").await;
    assert_eq!(removed, (200, "The scheduler is removed.".into()));
    assert_eq!(names(&node, "").await, DEFAULTS, "with its last store it went");

    let roles = "/scheduler-config/shuffle-region-scheduler/roles";
    assert_eq!(ask(&node, "GET", roles, "").await.0, 404);
    let shuffle = r#"{"name": "shuffle-region-scheduler"}"#;
    assert_eq!(ask(&node, "POST", "/schedulers", shuffle).await.0, 200);
    assert_eq!(ask(&node, "POST", roles, r#"["follower"]"#).await.0, 200);
    assert_eq!(ask(&node, "GET", roles, "").await, (200, json!(["follower"])));
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_pds_statuses() {
    let node = served().await;
    bootstrap(&node).await;
    for (method, path, body, status, why) in [
        ("POST", "/schedulers", "{}", 400, "missing scheduler name"),
        (
            "POST",
            "/schedulers",
            r#"{"name": "dance"}"#,
            400,
            "there is no scheduler dance-scheduler",
        ),
        ("POST", "/schedulers", r#"{"name": "evict-leader-scheduler"}"#, 400, "missing store id"),
        (
            "POST",
            "/schedulers",
            r#"{"name": "balance-leader-scheduler"}"#,
            500,
            "scheduler existed",
        ),
        ("DELETE", "/schedulers/dance", "", 404, "scheduler not found"),
        ("POST", "/schedulers/dance", r#"{"delay": 1}"#, 500, "scheduler not found"),
        ("POST", "/schedulers/balance-leader-scheduler", "{}", 400, "missing pause time"),
        ("GET", "/scheduler-config/dance/list", "", 404, "scheduler not found"),
        ("GET", "/checker/dance", "", 404, "there is no checker dance"),
        ("POST", "/store/9/limit", r#"{"rate": 5}"#, 404, "invalid store ID 9"),
        ("POST", "/store/1/limit", r#"{"rate": 0}"#, 400, "rate should be a number that > 0"),
        ("POST", "/store/1/limit", r#"{"rate": 1, "type": "x"}"#, 400, "x is not add-peer"),
        ("GET", "/hotspot/regions/dance", "", 404, "dance is not read or write"),
        ("POST", "/regions/scatter", "{}", 400, "missing region ids"),
        ("POST", "/regions/split", r#"{"split_keys": ["xy"]}"#, 400, "xy is not in hex format"),
    ] {
        let (code, told) = ask(&node, method, path, body).await;
        assert_eq!(code, status, "{method} {path} {body}: {told}");
        assert!(told.as_str().unwrap().starts_with(why), "{method} {path} {body}: {told}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_new_leader_runs_the_same_schedulers_with_the_same_limits() {
    let nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    bootstrap(first).await;
    for id in 2..=4 {
        assert_eq!(put_store(first, store(id)).await, None);
    }
    let grant = r#"{"name": "grant-leader-scheduler", "store_id": 3}"#;
    assert_eq!(ask(first, "POST", "/schedulers", grant).await.0, 200);
    assert_eq!(ask(first, "DELETE", "/schedulers/balance-region-scheduler", "").await.0, 200);
    let delay = r#"{"delay": 600}"#;
    assert_eq!(ask(first, "POST", "/schedulers/balance-leader-scheduler", delay).await.0, 200);
    assert_eq!(ask(first, "POST", "/checker/replica", delay).await.0, 200);
    assert_eq!(ask(first, "POST", "/stores/limit", r#"{"rate": 20}"#).await.0, 200);
    let own = r#"{"rate": 2.5, "type": "add-peer"}"#;
    assert_eq!(ask(first, "POST", "/store/2/limit", own).await.0, 200);

    let was = first.name().to_owned();
    let mut rest = nodes;
    let at = rest.iter().position(|node| node.name() == was).unwrap();
    rest.remove(at).stop().await;
    let second = leader(&rest).await;
    eventually("the new leader answers", async || {
        ask(second, "GET", "/schedulers", "").await.0 == 200
    })
    .await;
    let expected = [
        "balance-leader-scheduler",
        "balance-hot-region-scheduler",
        "evict-slow-store-scheduler",
        "grant-leader-scheduler",
    ];
    assert_eq!(names(second, "").await, expected);
    assert_eq!(names(second, "?status=paused").await, ["balance-leader-scheduler"]);
    let (_, told) = ask(second, "GET", "/scheduler-config/grant-leader-scheduler/list", "").await;
    assert!(told["store-id-ranges"]["3"].is_array(), "{told}");
    assert_eq!(ask(second, "GET", "/checker/replica", "").await, (200, json!({"paused": true})));
    let (_, limits) = ask(second, "GET", "/stores/limit", "").await;
    assert_eq!(limits["1"], json!({"add-peer": 20.0, "remove-peer": 20.0}));
    assert_eq!(limits["2"], json!({"add-peer": 2.5, "remove-peer": 20.0}));
}

#[tokio::test]
async fn regions_are_scattered_and_get_operator_reports_it() {
    let node = served().await;
    let stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    let mut client = pd(&node).await;
    // The first of a group lies as well as anywhere else, and the second takes the fourth store.
    let wish = pdpb::ScatterRegionRequest {
        header: header(&node),
        group: "g".into(),
        regions_id: vec![2, 99],
        ..Default::default()
    };
    let response = client.scatter_region(wish.clone()).await.unwrap().into_inner();
    assert_eq!((response.finished_percentage, &response.failed_regions_id[..]), (50, &[99][..]));
    let again = pdpb::ScatterRegionRequest { regions_id: vec![2], ..wish.clone() };
    let response = client.scatter_region(again).await.unwrap().into_inner();
    assert_eq!(response.finished_percentage, 100);
    let which = pdpb::GetOperatorRequest { header: header(&node), region_id: 2 };
    let operator = client.get_operator(which).await.unwrap().into_inner();
    assert_eq!(operator.desc, "scatter-region".as_bytes());
    assert_eq!(operator.status(), pdpb::OperatorStatus::Running);
    let kinds = String::from_utf8_lossy(&operator.kind);
    assert!(kinds.contains("scatter"), "{kinds}");
    // The older form names one region, and hears when it cannot be.
    let older = pdpb::ScatterRegionRequest { regions_id: Vec::new(), ..wish };
    let refused = client.scatter_region(older).await.unwrap().into_inner();
    let error = refused.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), pdpb::ErrorType::RegionNotFound);
    assert!(error.message.starts_with("region ") && error.message.ends_with(" not found"));

    let body = r#"{"name": "scatter-region", "region_id": 2}"#;
    let (status, why) = ask(&node, "POST", "/operators", body).await;
    assert_eq!((status, &why), (500, &"r2: scatter-region is under way".into()));
    assert_eq!(ask(&node, "DELETE", "/operators/2", "").await.0, 200);
    let body = r#"{"start_key": "", "end_key": "", "group": "h"}"#;
    let scattered = ask(&node, "POST", "/regions/scatter", body).await;
    assert_eq!(scattered, (200, json!({"processed-percentage": 100})));
    drop(stream);
    node.stop().await;
}

#[tokio::test]
async fn what_is_hot_is_shown_by_store() {
    let node = served().await;
    let stream: Heartbeats = with_four_stores(&node).await;
    region_is_known(&node).await;
    for round in 1..=3 {
        stream.say_flow(&whole(), 600_000, 1_200_000, 60 * round).await;
    }
    let as_leader = |found: &Value| found["as_leader"]["1"]["statistics"][0].clone();
    eventually("the region is hot", async || {
        let (_, found) = ask(&node, "GET", "/hotspot/regions/write", "").await;
        as_leader(&found)["hot_degree"] == 3
    })
    .await;
    let (_, written) = ask(&node, "GET", "/hotspot/regions/write", "").await;
    let hot = as_leader(&written);
    assert_eq!((&hot["region_id"], &hot["flow_bytes"]), (&json!(2), &json!(10_000.0)));
    assert_eq!((&hot["stores"], &hot["is_learner"]), (&json!([1, 2, 3]), &json!(false)));
    assert_eq!(hot["anti_count"], 2);
    let said_at = hot["last_update_time"].as_str().unwrap();
    assert!(said_at.starts_with("20") && said_at.ends_with('Z'), "{said_at}");
    let sums = &written["as_leader"]["1"];
    let rates = ["store_bytes", "store_keys", "store_query", "total_flow_bytes"];
    assert_eq!(rates.map(|name| sums[name].as_f64()), [10_000.0, 0.0, 0.0, 10_000.0].map(Some));
    assert_eq!(written["as_peer"]["2"]["regions_count"], 1);
    assert_eq!(written["as_peer"]["4"]["regions_count"], 0);
    let (_, read) = ask(&node, "GET", "/hotspot/regions/read", "").await;
    assert_eq!(read["as_peer"]["1"]["total_flow_bytes"], 20_000.0);
    assert_eq!(read["as_peer"]["2"]["regions_count"], 0);
    let (_, of_two) = ask(&node, "GET", "/hotspot/regions/write?store_id=2&store_id=3", "").await;
    let shown: Vec<_> = of_two["as_peer"].as_object().unwrap().keys().collect();
    assert_eq!(shown, ["2", "3"]);
    assert_eq!(ask(&node, "GET", "/hotspot/regions/write?store_id=9", "").await.0, 404);
    let history = ask(&node, "GET", "/hotspot/regions/history", r#"{"start_time": 1}"#).await;
    assert_eq!(history, (200, json!({"history_hot_region": []})));
    let (_, stores) = ask(&node, "GET", "/hotspot/stores", "").await;
    assert_eq!(stores["bytes-write-rate"]["3"], 10_000.0);
    assert_eq!(stores["bytes-read-rate"]["1"], 20_000.0);
    let (_, explained) = ask(&node, "GET", "/explain/region/2", "").await;
    let verdicts = explained["schedulers"].as_array().unwrap();
    let hot = verdicts.iter().find(|v| v["scheduler"] == "balance-hot-region-scheduler").unwrap();
    assert!(hot["says"].as_str().unwrap().contains("written at 10000 B/s"), "{hot}");
    beat(&node, 1).await;
    node.stop().await;
}
