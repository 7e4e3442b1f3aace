//! Placement rules, stores, settings and lists of regions over HTTP, as PD's tools use them.

use serde_json::{Value, json};

use super::cluster::{Heartbeats, beat, put_store};
use super::port::http;
use super::{
    PATIENCE, alone, bootstrap, eventually, founders, leader, region, start, start_all, store,
};
use crate::SchedulerNode;

const API: &str = "/pd/api/v1";

/// The answer to a request: its status and what it says.
async fn ask(node: &SchedulerNode, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (head, body) = http(node, method, &format!("{API}{path}"), &body).await;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// The answer to a request that is to be granted.
async fn granted(node: &SchedulerNode, method: &str, path: &str, body: Value) -> Value {
    let (status, said) = ask(node, method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {said}");
    said
}

async fn get(node: &SchedulerNode, path: &str) -> Value {
    granted(node, "GET", path, Value::Null).await
}

/// A member alone, with stores 1 to `count`, and region 2 on stores 1 to 3.
async fn served(count: u64) -> SchedulerNode {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    bootstrap(&node).await;
    for id in 1..=count {
        assert_eq!(put_store(&node, store(id)).await, None);
        beat(&node, id).await;
    }
    let stream = Heartbeats::open(&node).await;
    let known = region(2, "", "", 1, &[1, 2, 3]);
    stream.say(&known).await;
    eventually("the region is heard", async || {
        get(&node, "/region/id/2").await["peers"].as_array().is_some_and(|peers| peers.len() == 3)
    })
    .await;
    node
}

fn rule(group: &str, id: &str, role: &str, count: u64) -> Value {
    json!({ "group_id": group, "id": id, "role": role, "count": count })
}

fn ids(rules: &Value) -> Vec<String> {
    let rules = rules.as_array().unwrap().iter();
    rules.map(|rule| rule["id"].as_str().unwrap().to_owned()).collect()
}

/// D65: the rules of every path, and a set that is refused as a whole.
#[tokio::test]
async fn placement_rules_are_written_and_read_as_pd_does() {
    let node = served(3).await;
    let first = get(&node, "/config/rules").await;
    let default = json!([{
        "group_id": "pd", "id": "default", "start_key": "", "end_key": "", "role": "voter",
        "is_witness": false, "count": 3,
    }]);
    assert_eq!(first, default);
    let mut extra = rule("x", "extra", "learner", 1);
    extra["start_key"] = json!("6d");
    extra["label_constraints"] = json!([{ "key": "disk", "op": "in", "values": ["ssd"] }]);
    // Not before there is a store that it can be for.
    let (status, why) = ask(&node, "POST", "/config/rule", extra.clone()).await;
    let expected = "invalid rule content, rule 'extra' from rule group 'x' can not match any store";
    assert!(status == 400 && why.as_str().unwrap().contains(expected), "{status} {why}");
    granted(&node, "POST", "/store/3/label", json!({ "disk": "ssd" })).await;
    granted(&node, "POST", "/config/rule", extra.clone()).await;
    assert_eq!(get(&node, "/config/rule/x/extra").await["label_constraints"][0]["op"], "in");
    assert_eq!(ask(&node, "GET", "/config/rule/x/none", Value::Null).await.0, 404);
    assert_eq!(ids(&get(&node, "/config/rules/group/x").await), ["extra"]);
    assert_eq!(ids(&get(&node, "/config/rules/key/61").await), ["default"]);
    assert_eq!(ids(&get(&node, "/config/rules/key/7A").await), ["default", "extra"]);
    assert_eq!(ids(&get(&node, "/config/rules/region/2").await), ["default"]);
    assert_eq!(ask(&node, "GET", "/config/rules/region/9", Value::Null).await.0, 404);

    let batch = json!([
        { "action": "add", "group_id": "x", "id": "b1", "role": "voter", "count": 1 },
        { "action": "add", "group_id": "x", "id": "b2", "role": "voter", "count": 1 },
        { "action": "del", "group_id": "x", "id": "extra" },
    ]);
    granted(&node, "POST", "/config/rules/batch", batch).await;
    assert_eq!(ids(&get(&node, "/config/rules").await), ["default", "b1", "b2"]);
    let prefix = json!([
        { "action": "del", "group_id": "x", "id": "b", "delete_by_id_prefix": true },
    ]);
    granted(&node, "POST", "/config/rules/batch", prefix).await;
    assert_eq!(get(&node, "/config/rules").await, default);

    let detail = get(&node, "/config/rules/region/2/detail").await;
    assert_eq!(detail["rule-fits"][0]["peers"].as_array().unwrap().len(), 3);
    assert_eq!(detail["orphan-peers"], json!([]));

    for (bad, named) in [
        (json!([]), "there is no rule"),
        (json!([rule("pd", "default", "learner", 3)]), "no rule asks for a voter"),
        (json!([rule("pd", "default", "voter", 0)]), "count"),
        (json!([rule("pd", "default", "ruler", 3)]), "ruler"),
    ] {
        let (status, why) = ask(&node, "POST", "/config/rules", bad).await;
        assert!(status == 400 && why.as_str().unwrap().contains(named), "{status} {why}");
    }
    assert_eq!(get(&node, "/config/rules").await, default, "what is refused changes nothing");
    node.stop().await;
}

#[tokio::test]
async fn groups_and_bundles_of_rules() {
    let node = served(3).await;
    let group = json!({ "id": "x", "index": 5, "override": true });
    granted(&node, "POST", "/config/rule_group", group.clone()).await;
    assert_eq!(get(&node, "/config/rule_group/x").await, group);
    assert_eq!(get(&node, "/config/rule_groups").await, json!([{ "id": "pd" }, group]));
    granted(&node, "POST", "/config/rule", rule("x", "all", "voter", 1)).await;
    assert_eq!(ids(&get(&node, "/config/rules/key/61").await), ["all"], "the group overrides");
    let bundle = get(&node, "/config/placement-rule/x").await;
    assert_eq!((&bundle["group_index"], &bundle["group_override"]), (&json!(5), &json!(true)));
    assert_eq!(ids(&bundle["rules"]), ["all"]);

    let replaced = json!({ "group_id": "x", "rules": [rule("", "other", "voter", 2)] });
    granted(&node, "POST", "/config/placement-rule/x", replaced).await;
    assert_eq!(ids(&get(&node, "/config/rules").await), ["default", "other"]);
    let elsewhere = json!({ "group_id": "y", "rules": [] });
    assert_eq!(ask(&node, "POST", "/config/placement-rule/x", elsewhere).await.0, 400);
    let partial = json!([{ "group_id": "y", "rules": [rule("y", "more", "learner", 1)] }]);
    granted(&node, "POST", "/config/placement-rule?partial=true", partial).await;
    assert_eq!(get(&node, "/config/placement-rule").await.as_array().unwrap().len(), 3);
    let whole = json!([{ "group_id": "z", "rules": [rule("z", "only", "voter", 3)] }]);
    granted(&node, "POST", "/config/placement-rule", whole).await;
    assert_eq!(ids(&get(&node, "/config/rules").await), ["only"]);
    let (status, why) = ask(&node, "DELETE", "/config/placement-rule/z", Value::Null).await;
    assert!(status == 400 && why.as_str().unwrap().contains("no rule"), "{why}");

    granted(&node, "POST", "/config", json!({ "enable-placement-rules": "false" })).await;
    let (status, why) = ask(&node, "GET", "/config/rules", Value::Null).await;
    assert_eq!((status, why), (412, json!("placement rules feature is disabled")));
    node.stop().await;
}

/// Rules and settings are the group's, not the leader's: the next leader has them, and a follower passes
/// on what it is asked about them.
#[tokio::test]
async fn rules_settings_and_weights_outlive_their_leader() {
    let mut nodes = start_all(founders(&["a", "b", "c"])).await;
    let first = leader(&nodes).await;
    bootstrap(first).await;
    granted(first, "POST", "/config/rule", rule("x", "kept", "learner", 1)).await;
    granted(first, "POST", "/config/schedule", json!({ "leader-schedule-limit": 7 })).await;
    granted(first, "POST", "/store/1/weight", json!({ "leader": 2.5, "region": 0.0 })).await;
    granted(first, "POST", "/store/1/label", json!({ "zone": "a" })).await;
    let name = first.name().to_owned();
    let follower = nodes.iter().find(|node| node.name() != name).unwrap();
    eventually("a follower passes on", async || {
        ask(follower, "GET", "/config/rule/x/kept", Value::Null).await.0 == 200
    })
    .await;
    granted(follower, "POST", "/config/rule", rule("x", "through", "learner", 1)).await;
    let at = nodes.iter().position(|node| node.name() == name).unwrap();
    nodes.remove(at).kill().await;
    let next = leader(&nodes).await;
    eventually("the next leader serves", async || {
        ask(next, "GET", "/config/rules", Value::Null).await.0 == 200
    })
    .await;
    assert_eq!(ids(&get(next, "/config/rules/group/x").await), ["kept", "through"]);
    assert_eq!(get(next, "/config/schedule").await["leader-schedule-limit"], 7);
    let store = get(next, "/store/1").await;
    assert_eq!(store["status"]["leader_weight"], 2.5);
    assert_eq!(store["status"]["region_weight"], 0.0);
    assert_eq!(store["store"]["labels"], json!([{ "key": "zone", "value": "a" }]));
}

/// D33: a store leaves, is taken back, leaves for good, and is forgotten; each refusal says why.
#[tokio::test]
async fn a_store_leaves_comes_back_and_is_buried() {
    let node = served(3).await;
    let (status, why) = ask(&node, "DELETE", "/store/1", Value::Null).await;
    assert!(status == 400 && why.as_str().unwrap().contains("2 stores would remain"), "{why}");
    assert_eq!(put_store(&node, store(4)).await, None);
    beat(&node, 4).await;
    let said = granted(&node, "DELETE", "/store/4", Value::Null).await;
    assert_eq!(said, "The store is set as Offline.");
    granted(&node, "POST", "/store/4/state?state=Up", Value::Null).await;
    assert_eq!(get(&node, "/store/4").await["store"]["state_name"], "Up");
    assert_eq!(get(&node, "/stores/check?state=Offline").await["count"], 0);
    granted(&node, "DELETE", "/store/4", Value::Null).await;
    eventually("the empty store is buried", async || {
        get(&node, "/store/4").await["store"]["state_name"] == "Tombstone"
    })
    .await;
    assert_eq!(get(&node, "/store/4").await["store"]["node_state"], 3);
    assert_eq!(ask(&node, "POST", "/store/4/state?state=Up", Value::Null).await.0, 410);
    assert_eq!(get(&node, "/stores/check?state=Tombstone").await["count"], 1);
    assert_eq!(ask(&node, "GET", "/stores/check?state=Gone", Value::Null).await.0, 400);
    granted(&node, "DELETE", "/stores/remove-tombstone", Value::Null).await;
    assert_eq!(ask(&node, "GET", "/store/4", Value::Null).await.0, 404);

    // Its disk is lost: it goes however few are left, and cannot come back.
    granted(&node, "DELETE", "/store/3?force", Value::Null).await;
    let drain = &get(&node, "/explain/store/3").await["drain"];
    assert_eq!(drain["peers"], 1);
    assert!(drain["waiting"][0]["says"].as_str().unwrap().contains("place of s3"), "{drain}");
    assert_eq!(ask(&node, "POST", "/store/3/state?state=Up", Value::Null).await.0, 400);
    node.stop().await;
}

/// S0.26: what a store says of itself, and its regions say of it, is shown at once.
#[tokio::test]
async fn a_stores_heartbeat_is_shown() {
    let node = served(3).await;
    let shown = get(&node, "/store/1").await;
    assert_eq!(shown["status"]["capacity"], "100GiB");
    assert_eq!(shown["status"]["available"], "90GiB");
    assert_eq!(
        (&shown["status"]["leader_count"], &shown["status"]["region_count"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(shown["status"]["region_size"], 10);
    assert!(shown["status"]["last_heartbeat_ts"].as_str().is_some_and(|time| time.len() > 10));
    assert_eq!(get(&node, "/store/2").await["status"]["leader_count"], 0);
    node.stop().await;
}

#[tokio::test]
async fn labels_and_weights_of_a_store() {
    let node = served(3).await;
    granted(&node, "POST", "/store/1/label", json!({ "zone": "a", "disk": "ssd" })).await;
    granted(&node, "POST", "/store/2/label", json!({ "zone": "a" })).await;
    granted(&node, "POST", "/store/1/label?force", json!({ "zone": "b" })).await;
    let labels = json!([{ "key": "zone", "value": "a" }, { "key": "zone", "value": "b" }]);
    assert_eq!(get(&node, "/labels").await, labels);
    assert_eq!(get(&node, "/labels/stores?name=zone&value=b").await["count"], 1);
    assert_eq!(get(&node, "/labels/stores?name=zone").await["count"], 2);
    granted(&node, "DELETE", "/store/2/label", json!("zone")).await;
    assert_eq!(ask(&node, "DELETE", "/store/2/label", json!("zone")).await.0, 404);
    assert_eq!(ask(&node, "POST", "/store/1/label", json!({ "-": "x" })).await.0, 400);
    assert_eq!(ask(&node, "POST", "/store/9/label", json!({ "zone": "x" })).await.0, 404);

    granted(&node, "POST", "/store/1/weight", json!({ "leader": 1, "region": 2 })).await;
    let status = &get(&node, "/store/1").await["status"];
    assert_eq!((&status["leader_weight"], &status["region_weight"]), (&json!(1.0), &json!(2.0)));
    assert_eq!(status["region_score"], json!(5.0), "10 MiB, for a weight of 2");
    let negative = json!({ "leader": 1, "region": -1 });
    for bad in [negative, json!({}), json!({ "leader": 1, "region": 2, "weight": 1 })] {
        assert_eq!(ask(&node, "POST", "/store/1/weight", bad.clone()).await.0, 400, "{bad}");
    }
    let weights = json!({ "leader": 1, "region": 2 });
    assert_eq!(ask(&node, "POST", "/store/9/weight", weights).await.0, 404);
    node.stop().await;
}

#[tokio::test]
async fn settings_are_changed_by_name_and_nonsense_is_refused_in_one_line() {
    let node = served(3).await;
    let nested =
        json!({ "schedule": { "leader-schedule-limit": 9 }, "replication.max-replicas": 5 });
    granted(&node, "POST", "/config", nested).await;
    let config = get(&node, "/config").await;
    assert_eq!(config["schedule"]["leader-schedule-limit"], 9);
    assert_eq!(config["replication"]["max-replicas"], 5);
    assert_eq!(config["replication"]["enable-placement-rules"], "true");
    assert_eq!(get(&node, "/config/rules").await[0]["count"], 5, "the default rule follows");
    assert_eq!(get(&node, "/config/default").await["replication"]["max-replicas"], 3);
    for (path, bad, named) in [
        ("/config", json!({ "no-such-item": 1 }), "config item no-such-item not found"),
        ("/config", json!({ "max-replicas": 0 }), "max-replicas must be at least 1"),
        ("/config", json!({ "max-replicas": "many" }), "max-replicas cannot be"),
        ("/config/schedule", json!({ "max-replicas": 3 }), "config item max-replicas not found"),
        (
            "/config/replicate",
            json!({ "isolation-level": "rack" }),
            "not one of the location-labels",
        ),
        ("/config/cluster-version", json!({ "cluster-version": "1.0.0" }), "only rises"),
        ("/config/cluster-version", json!({ "cluster-version": "99.0.0" }), "store of version"),
        ("/config", json!({ "cluster-version": "eight" }), "is not a version"),
    ] {
        let (status, why) = ask(&node, "POST", path, bad).await;
        assert!(status == 400 && why.as_str().unwrap().contains(named), "{status} {why}");
    }
    assert_eq!(get(&node, "/config/cluster-version").await, "8.5.5");
    // Beside another rule the default one does not follow any more.
    granted(&node, "POST", "/config/rule", rule("x", "more", "learner", 1)).await;
    let (status, why) = ask(&node, "POST", "/config", json!({ "max-replicas": 3 })).await;
    assert!(status == 400 && why.as_str().unwrap().contains("change the rules"), "{why}");
    node.stop().await;
}

/// D41: the lists that say which regions something is wrong with, and those that are on top.
#[tokio::test]
async fn regions_are_listed_by_what_is_wrong_with_them() {
    let node = served(4).await;
    let stream = Heartbeats::open(&node).await;
    let regions = [
        region(2, "", "b", 2, &[1, 2, 3]),
        region(3, "b", "c", 3, &[1, 2]),
        region(4, "c", "", 4, &[1, 2, 3, 4]),
    ];
    for region in &regions {
        stream.say(region).await;
    }
    let of = async |path: &str| -> Vec<u64> {
        let found = get(&node, path).await;
        let ids = found["regions"].as_array().unwrap().iter();
        ids.map(|region| region["id"].as_u64().unwrap()).collect()
    };
    eventually("all are heard", async || of("/regions").await == [2, 3, 4]).await;
    assert_eq!(of("/regions/check/miss-peer").await, [3]);
    assert_eq!(of("/regions/check/extra-peer").await, [4]);
    for kind in ["down-peer", "pending-peer", "learner-peer", "offline-peer", "empty-region"] {
        assert!(of(&format!("/regions/check/{kind}")).await.is_empty(), "{kind}");
    }
    granted(&node, "DELETE", "/store/4", Value::Null).await;
    assert_eq!(of("/regions/check/offline-peer").await, [4]);
    assert_eq!(ask(&node, "GET", "/regions/check/odd-peer", Value::Null).await.0, 404);
    let sizes = get(&node, "/regions/check/hist-size").await;
    assert_eq!(sizes, json!([{ "start": 10, "end": 19, "count": 3 }]));
    assert_eq!(of("/regions/version?limit=2").await, [4, 3]);
    assert_eq!(of("/regions/confver").await, [4, 2, 3]);
    for list in ["writeflow", "readflow", "size", "keys"] {
        assert_eq!(of(&format!("/regions/{list}")).await.len(), 3, "{list}");
    }
    assert_eq!(ask(&node, "GET", "/regions/odd", Value::Null).await.0, 404);
    let sums = get(&node, "/stats/region?start_key=b&end_key=c").await;
    assert_eq!((&sums["count"], &sums["storage_size"]), (&json!(1), &json!(10)));
    assert_eq!(sums["store_peer_count"], json!({ "1": 1, "2": 1 }));
    assert_eq!(get(&node, "/stats/region").await["count"], 3);
    node.stop().await;
}
