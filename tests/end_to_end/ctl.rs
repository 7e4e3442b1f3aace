//! `tessera ctl` against a running cluster: data on stdout, codes that can be trusted.

use serde_json::Value;
use tessera::{ApiVersion, Cluster};

use crate::cluster::{own_address, run};

pub(crate) struct Ctl {
    pub(crate) endpoint: String,
}

impl Ctl {
    pub(crate) fn output(&self, words: &[&str]) -> (i32, String, String) {
        let mut arguments = vec!["ctl", "--pd", &self.endpoint];
        arguments.extend_from_slice(words);
        // Far beyond what is expected: the machine may be busy.
        if !words.contains(&"--timeout") {
            arguments.extend(["--timeout", "60"]);
        }
        let output = run(&arguments);
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let (code, out, err) = self.output(words);
        assert_eq!(code, 0, "{words:?}: {err}");
        out
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&words)).unwrap()
    }
}

async fn with_cluster(api_version: ApiVersion, check: impl FnOnce(Ctl) + Send + 'static) {
    let builder = Cluster::builder().host(own_address()).api_version(api_version);
    let cluster = builder.start().await.unwrap();
    let ctl = Ctl { endpoint: cluster.pd_endpoints()[0].clone() };
    tokio::task::spawn_blocking(move || check(ctl)).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_can_be_looked_at() {
    with_cluster(ApiVersion::V1, |ctl| {
        let members = ctl.json(&["members"]);
        assert_eq!(members["schema"], 1);
        assert_eq!(members["members"][0]["role"], "leader");
        let stores = ctl.json(&["stores"]);
        assert_eq!(stores["stores"].as_array().unwrap().len(), 3);
        assert_eq!(stores["stores"][0]["state"], "up");
        let regions = ctl.json(&["regions"]);
        let id = regions["regions"][0]["id"].as_u64().unwrap().to_string();
        let region = ctl.json(&["region", &id]);
        assert_eq!(region["peers"].as_array().unwrap().len(), 3);
        assert_eq!(ctl.json(&["region", "--key", "anything"])["id"], region["id"]);
        let status = ctl.json(&["status"]);
        assert_eq!(status["healthy"], true);
        let first = ctl.json(&["tso"])["timestamp"].as_u64().unwrap();
        let second = ctl.json(&["tso"])["timestamp"].as_u64().unwrap();
        assert!(second > first);
        assert_eq!(ctl.json(&["tso", "262145"])["logical"], 1);
        for command in ["members", "stores", "regions", "status", "tso"] {
            assert!(!ctl.ok(&[command]).is_empty());
        }
        assert_eq!(ctl.output(&["region", "999999"]).0, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_are_added_paused_and_removed_and_do_what_they_are_told() {
    with_cluster(ApiVersion::V1, |ctl| {
        let named = |listed: &Value| -> Vec<String> {
            let schedulers = listed["schedulers"].as_array().unwrap();
            schedulers.iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(named(&ctl.json(&["scheduler", "list"])).len(), 4);
        // Whoever leads the one region gives it away, and gets it back from nobody.
        let regions = ctl.json(&["regions"]);
        let region = regions["regions"][0]["id"].as_u64().unwrap().to_string();
        let leads = || ctl.json(&["region", &region])["leader_store_id"].as_u64().unwrap();
        let store = leads().to_string();
        let added = ctl.json(&["scheduler", "add", "evict-leader", &store]);
        assert!(named(&added).contains(&"evict-leader-scheduler".to_owned()));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while leads().to_string() == store {
            assert!(std::time::Instant::now() < deadline, "the lead stays on store {store}");
        }
        let told = ctl.json(&["scheduler", "config", "evict-leader", "batch=5"]);
        assert_eq!(told["config"]["batch"], 5);
        let explained = ctl.json(&["explain", "store", &store]);
        assert_eq!(explained["no_leader_because"], "must not lead, as a scheduler wants it");
        assert!(ctl.ok(&["scheduler", "pause", "balance-region", "60"]).contains("pauses until"));
        assert!(!ctl.ok(&["scheduler", "resume", "all"]).contains("pauses until"));
        ctl.ok(&["scheduler", "remove", &format!("evict-leader-scheduler-{store}")]);
        assert_eq!(named(&ctl.json(&["scheduler", "list"])).len(), 4);
        let (code, _, err) = ctl.output(&["scheduler", "add", "dance"]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("there is no scheduler dance-scheduler"), "{err}");

        let limits = ctl.json(&["store", "limit", &store, "5", "--type", "add-peer"]);
        let own = limits["limits"].as_array().unwrap().iter().find(|l| l["add_peer"] == 5.0);
        assert_eq!(own.unwrap()["remove_peer"], 15.0);
        for command in ["read", "write", "store"] {
            ctl.ok(&["hot", command]);
        }
        let records = ctl.ok(&["operator", "records"]);
        assert!(records.contains("evict-leader"), "{records}");
        ctl.ok(&["operator", "list", "--kind", "admin"]);
        let (code, _, err) = ctl.output(&["operator", "add", "add-peer", &region, &store]);
        assert!(code != 0 && err.contains("already has a peer"), "{code} {err}");
        ctl.ok(&["operator", "add", "scatter", &region]);
    })
    .await;
}

fn keys_can_be_read_and_written(ctl: &Ctl, flags: &[&str]) {
    let ok = |words: &[&str]| ctl.ok(&[words, flags].concat());
    let (code, out, _) = ctl.output(&[&["raw", "get", "missing"], flags].concat());
    assert_eq!((code, out.as_str()), (1, ""));
    ok(&["raw", "put", "user:1", "ada"]);
    ok(&["raw", "put", "hex:00ff", "binary"]);
    assert_eq!(ok(&["raw", "get", "user:1"]), "ada\n");
    assert_eq!(ok(&["raw", "get", r"esc:\x00\xff"]), "binary\n");
    let scanned = ok(&["raw", "scan"]);
    assert!(scanned.contains("hex:00ff") && scanned.contains("user:1"), "{scanned}");
    ok(&["raw", "delete", "user:1"]);
    assert_eq!(ctl.output(&[&["raw", "get", "user:1"], flags].concat()).0, 1);
    ok(&["txn", "put", "account", "100"]);
    assert_eq!(ok(&["txn", "get", "account"]), "100\n");
    let scanned = ctl.json(&[&["txn", "scan", "a", "b"], flags].concat());
    assert_eq!(scanned["pairs"][0]["key"], "account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_read_and_written_under_api_version_1() {
    with_cluster(ApiVersion::V1, |ctl| keys_can_be_read_and_written(&ctl, &[])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_read_and_written_under_api_version_2() {
    with_cluster(ApiVersion::V2, |ctl| {
        keys_can_be_read_and_written(&ctl, &["--keyspace", "DEFAULT"]);
    })
    .await;
}
