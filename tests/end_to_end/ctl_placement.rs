//! `tessera ctl store`, `rule`, `config`, `member` and `region --check` against a running cluster.

use serde_json::{Value, json};
use tessera::Cluster;

use crate::cluster::own_address;
use crate::ctl::Ctl;

async fn with_cluster(stores: u8, check: impl FnOnce(Ctl) + Send + 'static) {
    let builder = Cluster::builder().host(own_address()).stores(stores);
    let cluster = builder.start().await.unwrap();
    let ctl = Ctl { endpoint: cluster.pd_endpoints()[0].clone() };
    tokio::task::spawn_blocking(move || check(ctl)).await.unwrap();
    cluster.stop().await;
}

fn items<'a>(document: &'a Value, list: &str) -> &'a Vec<Value> {
    document[list].as_array().unwrap_or_else(|| panic!("{document} has no list {list}"))
}

/// Asks until it is so; fails with what was said last.
fn until(what: &str, look: impl Fn() -> Result<(), String>) {
    let mut said = String::new();
    // Each look takes a process, so this is minutes.
    for _ in 0..600 {
        match look() {
            Ok(()) => return,
            Err(seen) => said = seen,
        }
    }
    panic!("waited in vain for this: {what}; {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_labelled_weighed_drained_and_forgotten() {
    with_cluster(4, |ctl| {
        let listed = ctl.json(&["store", "list"]);
        assert_eq!(items(&listed, "stores").len(), 4);
        let id = items(&listed, "stores")[3]["store"]["id"].as_u64().unwrap().to_string();
        ctl.ok(&["store", "label", &id, "zone=a", "host=h1"]);
        ctl.ok(&["store", "label", &id, "host="]);
        ctl.ok(&["store", "weight", &id, "2", "0.5"]);
        let shown = ctl.json(&["store", &id]);
        assert_eq!(shown["store"]["labels"], json!([{ "key": "zone", "value": "a" }]));
        assert_eq!(shown["status"]["region_weight"], 0.5);
        assert_eq!(ctl.output(&["store", "label", &id, "zone"]).0, 2);
        assert_eq!(ctl.output(&["store", "list", "--state", "lost"]).0, 2);

        let gone = |ctl: &Ctl| {
            until("the store is gone", || {
                let shown = ctl.json(&["store", &id]);
                let state = shown["store"]["state_name"].clone();
                if state == "Tombstone" { Ok(()) } else { Err(shown.to_string()) }
            });
        };
        ctl.ok(&["store", "delete", &id]);
        gone(&ctl);
        let (code, _, why) = ctl.output(&["store", "cancel-delete", &id]);
        assert_eq!(code, 4, "{why}");
        // Three are left for three replicas.
        let other = items(&listed, "stores")[0]["store"]["id"].as_u64().unwrap().to_string();
        let (code, _, why) = ctl.output(&["store", "delete", &other]);
        assert!(code == 4 && why.contains("2 stores would remain"), "{why}");
        ctl.ok(&["store", "remove-tombstone"]);
        assert_eq!(items(&ctl.json(&["store", "list"]), "stores").len(), 3);
        assert_eq!(ctl.output(&["store", &id]).0, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_move_replicas_to_the_stores_they_name() {
    with_cluster(4, |ctl| {
        let listed = ctl.json(&["store", "list"]);
        let chosen = items(&listed, "stores")[3]["store"]["id"].as_u64().unwrap();
        ctl.ok(&["store", "label", &chosen.to_string(), "disk=ssd"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.json");
        let rules = json!([
            { "group_id": "pd", "id": "default", "role": "voter", "count": 2 },
            {
                "group_id": "pd", "id": "fast", "role": "leader", "count": 1,
                "label_constraints": [{ "key": "disk", "op": "in", "values": ["ssd"] }],
            },
        ]);
        std::fs::write(&file, rules.to_string()).unwrap();
        ctl.ok(&["rule", "save", file.to_str().unwrap()]);
        assert_eq!(items(&ctl.json(&["rule", "show"]), "rules").len(), 2);
        assert_eq!(items(&ctl.json(&["rule", "show", "--key", "a"]), "rules").len(), 2);
        until("every region is led from the store that the rule names", || {
            let regions = ctl.json(&["regions"]);
            let regions = items(&regions, "regions");
            let is_there = |region: &Value| region["leader_store_id"] == chosen;
            if regions.iter().all(is_there) { Ok(()) } else { Err(format!("{regions:?}")) }
        });
        std::fs::write(&file, r#"{"group_id": "pd", "id": "default", "role": "voter"}"#).unwrap();
        let (code, out, why) = ctl.output(&["rule", "save", file.to_str().unwrap()]);
        assert!(code == 2 && out.is_empty() && why.contains("count"), "{why}");
        ctl.ok(&["rule", "delete", "pd", "fast"]);
        assert_eq!(ctl.output(&["rule", "delete", "pd", "fast"]).0, 1);
        let (code, _, why) = ctl.output(&["rule", "delete", "pd", "default"]);
        assert!(code == 2 && why.contains("there is no rule"), "{why}");
        ctl.ok(&["rule", "group", "set", "extra", "3", "--override"]);
        assert_eq!(items(&ctl.json(&["rule", "group", "show"]), "groups").len(), 2);
        ctl.ok(&["rule", "group", "delete", "extra"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_members_and_checks() {
    with_cluster(3, |ctl| {
        ctl.ok(&["config", "set", "leader-schedule-limit", "7"]);
        ctl.ok(&["config", "set", "replication.location-labels", "zone,host"]);
        let shown = ctl.json(&["config", "show", "schedule"]);
        let limit = json!({ "name": "leader-schedule-limit", "value": 7 });
        assert!(items(&shown, "settings").contains(&limit), "{shown}");
        let all = ctl.ok(&["config", "show"]);
        assert!(all.contains("replication.location-labels") && all.contains("zone,host"), "{all}");
        let (code, out, why) = ctl.output(&["config", "set", "no-such-item", "1"]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(why.contains("no-such-item not found"), "{why}");
        assert_eq!(ctl.output(&["config", "set", "max-replicas", "0"]).0, 2);

        let members = ctl.json(&["member", "list"]);
        let name = items(&members, "members")[0]["name"].as_str().unwrap().to_owned();
        assert!(ctl.ok(&["member", "health"]).contains(&name));
        let leader = ctl.json(&["member", "leader", "show"])["name"].clone();
        ctl.ok(&["member", "priority", leader.as_str().unwrap(), "5"]);
        assert_eq!(ctl.output(&["member", "delete", "nobody"]).0, 2);
        assert_eq!(ctl.output(&["member", "delete", leader.as_str().unwrap()]).0, 4);

        for kind in ["miss-peer", "extra-peer", "down-peer", "offline-peer", "learner-peer"] {
            let found = ctl.json(&["region", "--check", kind]);
            assert_eq!(items(&found, "regions").len(), 0, "{kind}: {found}");
        }
        assert!(!items(&ctl.json(&["region", "--check", "empty-region"]), "regions").is_empty());
        assert!(!items(&ctl.json(&["region", "--check", "hist-size"]), "classes").is_empty());
        assert_eq!(ctl.output(&["region", "--check", "odd-peer"]).0, 2);
    })
    .await;
}
