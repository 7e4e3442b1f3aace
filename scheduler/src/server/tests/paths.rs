//! PD's HTTP paths, as the tools and clients that were written for PD use them.

use proto::{metapb, pdpb};
use serde_json::{Value, json};

use super::cluster::{Heartbeats, put_store};
use super::operators::{ask, region_is_known, whole, with_four_stores};
use super::port::http;
use super::{
    PATIENCE, alone, bootstrap, eventually, founders, header, leader, pd, region, start, start_all,
    store,
};
use crate::SchedulerNode;

async fn served() -> SchedulerNode {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    node
}

async fn bootstrapped() -> SchedulerNode {
    let node = served().await;
    bootstrap(&node).await;
    node
}

async fn get(node: &SchedulerNode, path: &str) -> Value {
    let (status, answer) = ask(node, "GET", path, "").await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

async fn keyspace(node: &SchedulerNode, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (head, body) = http(node, method, &format!("/pd/api/v2/keyspaces{path}"), body).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

#[tokio::test]
async fn keys_that_are_no_text_are_found() {
    let node = bootstrapped().await;
    let stream = Heartbeats::open(&node).await;
    let bound: &[u8] = b"t\x80\0 \xff";
    let left = metapb::Region { end_key: bound.to_vec().into(), ..region(2, "", "", 2, &[1]) };
    let right = metapb::Region { start_key: bound.to_vec().into(), ..region(3, "", "", 2, &[1]) };
    stream.say(&left).await;
    stream.say(&right).await;
    eventually("both halves are known", async || get(&node, "/regions/count").await["count"] == 2)
        .await;
    for (path, id) in [
        ("/region/key/t%80%00+%FE", 2),
        ("/region/key/t%80%00+%FF", 3),
        ("/region/key/t%80%00%20%FF%2F%00", 3),
        ("/region/key/748000?format=hex", 2),
        ("/region/key/74800020FF?format=hex", 3),
    ] {
        assert_eq!(get(&node, path).await["id"], id, "{path}");
    }
    for (path, count) in [
        ("/regions/key?key=t%80%00+%FF", 1),
        ("/regions/key?key=&end_key=t%80%00+%FF", 1),
        ("/regions/key?key=&end_key=t%80%00+%FF%00", 2),
        ("/regions/key?key=&end_key=&limit=1", 1),
        ("/regions/key?key=&end_key=74800020FF00&format=hex&limit=-1", 2),
        ("/stats/region?start_key=t%80%00+%FF&end_key=", 1),
        ("/stats/region?start_key=&end_key=t%80%00+%FF%00&count", 2),
    ] {
        assert_eq!(get(&node, path).await["count"], count, "{path}");
    }
    let counted = get(&node, "/stats/region?start_key=&end_key=&count").await;
    assert_eq!((&counted["storage_size"], &counted["store_peer_count"]), (&json!(0), &json!({})));
    let summed = get(&node, "/stats/region?start_key=&end_key=").await;
    assert_eq!(
        (&summed["storage_size"], &summed["store_peer_count"]),
        (&json!(20), &json!({"1": 2}))
    );
    for path in ["/region/key/%f", "/regions/key?key=%", "/region/key/7?format=hex"] {
        assert_eq!(ask(&node, "GET", path, "").await.0, 400, "{path}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_stores_regions_are_listed_by_what_its_peer_is() {
    let node = served().await;
    let _stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    for (path, count) in [
        ("/regions/store/1", 1),
        ("/regions/store/1?type=leader", 1),
        ("/regions/store/1?type=follower", 0),
        ("/regions/store/2?type=leader", 0),
        ("/regions/store/2?type=follower", 1),
        ("/regions/store/2?type=learner", 0),
        ("/regions/store/2?type=pending", 0),
        ("/regions/store/4", 0),
    ] {
        assert_eq!(get(&node, path).await["count"], count, "{path}");
    }
    assert_eq!(ask(&node, "GET", "/regions/store/1?type=king", "").await.0, 400);
    node.stop().await;
}

#[tokio::test]
async fn resolved_timestamps_are_kept_as_they_are_reported() {
    let node = served().await;
    let _stream = with_four_stores(&node).await;
    region_is_known(&node).await;
    let report = async |store_id, min_resolved_ts| {
        let request =
            pdpb::ReportMinResolvedTsRequest { header: header(&node), store_id, min_resolved_ts };
        let answer = pd(&node).await.report_min_resolved_ts(request).await.unwrap();
        answer.into_inner().header.unwrap().error
    };
    let nothing = json!({
        "is_real_time": true,
        "min_resolved_ts": 0,
        "persist_interval": "1s",
        "stores_min_resolved_ts": null,
    });
    assert_eq!(get(&node, "/min-resolved-ts").await, nothing);
    assert_eq!(report(1, 77).await, None);
    assert!(report(9, 77).await.unwrap().message.contains("not found"));
    assert_eq!(get(&node, "/min-resolved-ts").await["min_resolved_ts"], 77);
    assert_eq!(get(&node, "/min-resolved-ts/1").await["min_resolved_ts"], 77);
    // Store 2 leads nothing.
    assert_eq!(get(&node, "/min-resolved-ts/2").await["min_resolved_ts"], u64::MAX);
    let all = get(&node, "/min-resolved-ts?scope=cluster").await;
    assert_eq!(all["min_resolved_ts"], 77);
    assert_eq!(all["stores_min_resolved_ts"].as_object().unwrap().len(), 4);
    let some = get(&node, "/min-resolved-ts?scope=1,2").await;
    assert_eq!(some["stores_min_resolved_ts"], json!({"1": 77, "2": u64::MAX}));
    assert_eq!(ask(&node, "GET", "/min-resolved-ts/x", "").await.0, 400);
    node.stop().await;
}

#[tokio::test]
async fn a_services_safe_point_is_removed() {
    let node = bootstrapped().await;
    let request = pdpb::UpdateServiceGcSafePointRequest {
        header: header(&node),
        service_id: "backup".into(),
        ttl: 600,
        safe_point: 5,
    };
    pd(&node).await.update_service_gc_safe_point(request).await.unwrap();
    let services = async || {
        let shown = get(&node, "/gc/safepoint").await;
        shown["service_gc_safe_points"].as_array().unwrap().len()
    };
    assert_eq!(services().await, 2);
    for _ in 0..2 {
        let removed = ask(&node, "DELETE", "/gc/safepoint/backup", "").await;
        assert_eq!(removed, (200, "Delete service GC safepoint successfully.".into()));
    }
    assert_eq!(services().await, 1);
    assert_eq!(ask(&node, "DELETE", "/gc/safepoint/gc_worker", "").await.0, 400);
    node.stop().await;
}

#[tokio::test]
async fn keyspaces_are_configured_and_disabled() {
    let node = bootstrapped().await;
    let created = r#"{"name": "tenant", "config": {"a": "1", "b": "2"}}"#;
    assert_eq!(keyspace(&node, "POST", "", created).await.0, 200);
    let patch = r#"{"config": {"a": "9", "b": null, "c": ""}}"#;
    let (status, shown) = keyspace(&node, "PATCH", "/tenant/config", patch).await;
    assert_eq!((status, &shown["config"]), (200, &json!({"a": "9", "c": ""})));
    let unmet = r#"{"config": {"a": "0"}, "preconditions": {"a": "8"}}"#;
    assert_eq!(keyspace(&node, "PATCH", "/tenant/config", unmet).await.0, 409);
    let met = r#"{"config": {"a": "0"}, "preconditions": {"a": "9", "b": null}}"#;
    assert_eq!(keyspace(&node, "PATCH", "/tenant/config", met).await.0, 200);
    assert_eq!(keyspace(&node, "PATCH", "/nobody/config", patch).await.0, 404);
    let (status, shown) = keyspace(&node, "PUT", "/tenant/state", r#"{"state": "disabled"}"#).await;
    assert_eq!((status, &shown["state"]), (200, &json!("DISABLED")));
    let shown = keyspace(&node, "GET", "/id/1", "").await.1;
    assert_eq!((&shown["state"], &shown["config"]["a"]), (&json!("DISABLED"), &json!("0")));
    for state in [r#"{"state": "asleep"}"#, r#"{"state": "TOMBSTONE"}"#] {
        assert_eq!(keyspace(&node, "PUT", "/tenant/state", state).await.0, 400, "{state}");
    }
    let archived = r#"{"state": "ARCHIVED"}"#;
    assert_eq!(keyspace(&node, "PUT", "/tenant/state", archived).await.0, 200);
    assert_eq!(keyspace(&node, "PATCH", "/tenant/config", patch).await.0, 400);
    node.stop().await;
}

#[tokio::test]
async fn whoever_waits_for_placement_can_ask_and_hasten() {
    let node = bootstrapped().await;
    let state = async || get(&node, "/regions/replicated?startKey=&endKey=").await;
    assert_eq!(state().await, "PENDING", "there is one store");
    let stream = with_stores(&node).await;
    let one = region(2, "", "", 2, &[1]);
    stream.say(&one).await;
    eventually("a peer is on its way", async || state().await == "INPROGRESS").await;
    stream.say(&metapb::Region { region_epoch: later(), ..whole() }).await;
    eventually("all peers are there", async || state().await == "REPLICATED").await;
    assert_eq!(ask(&node, "GET", "/regions/replicated?startKey=7&endKey=", "").await.0, 400);

    let path = "/pd/api/v1/regions/accelerate-schedule";
    let body = r#"{"start_key": "7480", "end_key": "74FF"}"#;
    let (head, said) = http(&node, "POST", path, body).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(said, "Accelerate regions scheduling in a given range [7480,74FF)");
    let body = r#"[{"start_key": "", "end_key": "74"}, {"start_key": "75", "end_key": ""}]"#;
    let (head, said) = http(&node, "POST", &format!("{path}/batch?limit=7"), body).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(said, "Accelerate regions scheduling in given ranges: [,74), [75,)");
    for body in [r#"{"start_key": "7", "end_key": ""}"#, r#"{"start_key": ""}"#, "[]"] {
        assert!(http(&node, "POST", path, body).await.0.starts_with("HTTP/1.1 400"), "{body}");
    }
    node.stop().await;
}

/// Three more stores, heard; nothing is said of the region.
async fn with_stores(node: &SchedulerNode) -> Heartbeats {
    for id in 2..=4 {
        assert_eq!(put_store(node, store(id)).await, None);
    }
    for id in 1..=4 {
        super::cluster::beat(node, id).await;
    }
    Heartbeats::open(node).await
}

fn later() -> Option<metapb::RegionEpoch> {
    Some(metapb::RegionEpoch { conf_ver: 9, version: 2 })
}

#[tokio::test]
async fn items_without_effect_are_kept_and_shown() {
    let nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    bootstrap(first).await;
    let shown = get(first, "/config/schedule").await;
    assert_eq!(shown["merge-schedule-limit"], 8);
    assert_eq!(shown["enable-remove-down-replica"], "true");
    assert!(shown.get("halt-scheduling").is_none(), "{shown}");
    let wanted = r#"{
        "schedule.merge-schedule-limit": 0,
        "schedule.leader-schedule-limit": 40,
        "max-merge-region-size": 20,
        "schedule": {"patrol-region-interval": "100ms", "halt-scheduling": true}
    }"#;
    assert_eq!(ask(first, "POST", "/config", wanted).await.0, 200);
    let unknown = r#"{"schedule.merge-schedule-limit": 5, "schedule.no-such-thing": 1}"#;
    let refused = ask(first, "POST", "/config", unknown).await;
    assert_eq!(refused, (400, "config item schedule.no-such-thing not found".into()));
    // What is read is written back by tools.
    let whole = get(first, "/config/schedule").await;
    assert_eq!(ask(first, "POST", "/config/schedule", &whole.to_string()).await.0, 200);

    let nodes = without_its_leader(nodes).await;
    let second = leader(&nodes).await;
    let shown = get(second, "/config").await["schedule"].clone();
    assert_eq!(shown, whole);
    for (name, value) in [
        ("merge-schedule-limit", json!(0)),
        ("leader-schedule-limit", json!(40)),
        ("max-merge-region-size", json!(20)),
        ("patrol-region-interval", json!("100ms")),
        ("halt-scheduling", json!("true")),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
}

/// Stops the leader; the others, once one of them serves.
async fn without_its_leader(mut nodes: Vec<SchedulerNode>) -> Vec<SchedulerNode> {
    let first = leader(&nodes).await.name().to_owned();
    let at = nodes.iter().position(|node| node.name() == first).unwrap();
    nodes.remove(at).stop().await;
    let second = leader(&nodes).await;
    eventually("it answers", async || ask(second, "GET", "/config", "").await.0 == 200).await;
    nodes
}

#[tokio::test]
async fn settings_for_a_while_lapse_under_another_leader_too() {
    let nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    bootstrap(first).await;
    let long = r#"{"schedule.leader-schedule-limit": 40, "schedule.max-merge-region-keys": 0}"#;
    let set = ask(first, "POST", "/config?ttlSecond=3600", long).await;
    assert_eq!(set, (200, "The config is updated.".into()));
    let short = r#"{"schedule.max-snapshot-count": 99}"#;
    assert_eq!(ask(first, "POST", "/config?ttlSecond=2", short).await.0, 200);
    let lasting = r#"{"leader-schedule-limit": 9}"#;
    let refused = ask(first, "POST", "/config/schedule", lasting).await;
    let why = "need to clean up TTL first for schedule.leader-schedule-limit";
    assert_eq!(refused, (400, why.into()));
    for (path, body) in [
        ("/config?ttlSecond=soon", short),
        ("/config?ttlSecond=-1", short),
        ("/config?ttlSecond=5", r#"{"schedule.max-store-down-time": "1m"}"#),
    ] {
        assert_eq!(ask(first, "POST", path, body).await.0, 400, "{path} {body}");
    }

    let nodes = without_its_leader(nodes).await;
    let second = leader(&nodes).await;
    eventually("the time is over", async || {
        get(second, "/config/schedule").await["max-snapshot-count"] == 64
    })
    .await;
    assert_eq!(get(second, "/config/schedule").await["leader-schedule-limit"], 40);
    assert_eq!(ask(second, "POST", "/config?ttlSecond=0", long).await.0, 200);
    assert_eq!(get(second, "/config/schedule").await["leader-schedule-limit"], 4);
    assert_eq!(ask(second, "POST", "/config/schedule", lasting).await.0, 200);
}

#[tokio::test]
async fn stores_are_changed_in_pds_words() {
    let node = served().await;
    let _stream = with_four_stores(&node).await;
    for state in ["offline", "UP", "Offline", "up"] {
        let changed = ask(&node, "POST", &format!("/store/4/state?state={state}"), "").await;
        assert_eq!(changed, (200, "The store's state is updated.".into()), "{state}");
    }
    for state in ["Tombstone", "away", ""] {
        let path = format!("/store/4/state?state={state}");
        assert_eq!(ask(&node, "POST", &path, "").await.0, 400, "{state}");
    }
    assert_eq!(ask(&node, "POST", "/store/1/label", r#"{"disk": "ssd"}"#).await.0, 200);
    assert_eq!(ask(&node, "POST", "/store/2/label", r#"{"disk": "hdd"}"#).await.0, 200);
    let reserved = ask(&node, "POST", "/store/1/label", r#"{"engine": "tiflash"}"#).await;
    assert_eq!(reserved, (400, "label key \"engine\" is reserved".into()));
    assert_eq!(ask(&node, "DELETE", "/store/1/label", "\"engine\"").await.0, 400);

    let some = r#"{"rate": 7, "type": "add-peer", "labels": {"disk": "ssd", "zone": "z1"}}"#;
    let limited = ask(&node, "POST", "/stores/limit", some).await;
    assert_eq!(limited, (200, "Set store limit successfully.".into()));
    let limits = get(&node, "/stores/limit").await;
    assert_eq!(
        (&limits["1"]["add-peer"], &limits["1"]["remove-peer"]),
        (&json!(7.0), &json!(15.0))
    );
    assert_eq!(limits["2"]["add-peer"], 15.0);

    for (weights, why) in
        [(r#"{"leader": 2}"#, "region weight unset"), (r#"{"region": 2}"#, "leader weight unset")]
    {
        let refused = ask(&node, "POST", "/store/1/weight", weights).await;
        assert_eq!(refused, (400, why.into()));
    }
    let both = r#"{"leader": 2, "region": 0.5}"#;
    assert_eq!(ask(&node, "POST", "/store/1/weight", both).await.0, 200);
    let paused = ask(&node, "POST", "/schedulers/no-such-scheduler", r#"{"delay": 5}"#).await;
    assert_eq!(paused.0, 500, "{paused:?}");
    node.stop().await;
}
