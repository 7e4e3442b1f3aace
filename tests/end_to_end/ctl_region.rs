//! `tessera ctl region` and `ctl operator`: regions are split, led and placed as a person says.

use serde_json::Value;
use tessera::{ApiVersion, Cluster};

use crate::cluster::{http_with, own_address, until};
use crate::ctl::Ctl;

/// Four stores, three members, and a scheduler that moves nothing by itself.
async fn with_halted_cluster(api_version: ApiVersion, check: impl FnOnce(Ctl) + Send + 'static) {
    let builder = Cluster::builder().host(own_address()).stores(4).api_version(api_version);
    let cluster = builder.start().await.unwrap();
    let endpoint = cluster.pd_endpoints()[0].clone();
    let halted = r#"{"halt-scheduling": true}"#;
    let member = endpoint.parse().unwrap();
    let (status, _) = http_with(member, "POST", "/config/schedule", halted).await.unwrap();
    assert!(status.contains("200"), "{status}");
    // A repair or a split that was under way ends first.
    until("no operator is under way", async || {
        let (_, body) = http_with(member, "GET", "/operators", "").await.ok()?;
        let operators: Vec<String> = serde_json::from_str(&body).ok()?;
        operators.is_empty().then_some(())
    })
    .await;
    tokio::task::spawn_blocking(move || check(Ctl { endpoint })).await.unwrap();
    cluster.stop().await;
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The stores with a peer of the region.
fn stores(region: &Value) -> Vec<u64> {
    let peers = region["peers"].as_array().unwrap();
    let mut stores: Vec<_> = peers.iter().map(|peer| number(&peer["store_id"])).collect();
    stores.sort_unstable();
    stores
}

impl Ctl {
    fn all_stores(&self) -> Vec<u64> {
        let listed = self.json(&["stores"]);
        listed["stores"].as_array().unwrap().iter().map(|store| number(&store["id"])).collect()
    }

    fn region(&self, id: u64) -> Value {
        self.json(&["region", &id.to_string()])
    }

    /// One line on stderr, nothing on stdout.
    fn refused(&self, words: &[&str], code: i32) -> String {
        let (got, out, err) = self.output(words);
        assert_eq!((got, out.as_str()), (code, ""), "{words:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{words:?}: {err}");
        err
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_split_where_a_person_says() {
    with_halted_cluster(ApiVersion::V1, |ctl| {
        let whole = number(&ctl.json(&["region", "--key", "m"])["id"]);
        let id = whole.to_string();
        let split = ctl.json(&["region", "split", &id, "--key", "m"]);
        assert_eq!(
            (&split["schema"], &split["operator"]["status"]),
            (&1.into(), &"SUCCESS".into())
        );
        let parts = split["regions"].as_array().unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!((&parts[0]["end"], &parts[1]["start"]), (&"m".into(), &"m".into()));

        // The key of a transaction stands encoded in its region.
        let left = number(&parts[0]["id"]).to_string();
        ctl.ok(&["region", "split", &left, "--txn", "--key", "account:5", "--key", "account:1"]);
        let found = ctl.json(&["region", "--txn", "--key", "account:5"]);
        assert_eq!(found["start"], "enc(account:5)");
        assert_eq!(ctl.json(&["region", "--key", "enc(account:5)"])["id"], found["id"]);
        assert_eq!(ctl.json(&["region", "--txn", "--key", "account:4"])["end"], "enc(account:5)");
        assert_eq!(ctl.json(&["regions"])["regions"].as_array().unwrap().len(), 4);

        // Without a key its store finds the middle.
        let right = number(&parts[1]["id"]).to_string();
        for key in ["n1", "n2", "n3", "n4"] {
            ctl.ok(&["raw", "put", key, "value"]);
        }
        let split = ctl.json(&["region", "split", &right]);
        assert_eq!(split["regions"].as_array().unwrap().len(), 2, "{split}");
        let split = ctl.json(&["regions"]);
        assert_eq!(split["regions"].as_array().unwrap().len(), 5);
        assert_eq!(ctl.ok(&["raw", "get", "n4"]), "value\n");

        // A region without keys cannot be cut in the middle: what is waited for is said.
        let (code, out, err) = ctl.output(&["region", "split", &left, "--timeout", "1"]);
        assert_eq!((code, out.as_str()), (5, ""), "{err}");
        for words in ["not done within 1 s", "0 of 1 steps done", "shows: split", "operator show"] {
            assert!(err.contains(words), "{err}");
        }
        let listed = ctl.json(&["operator", "list"]);
        assert_eq!(listed["operators"][0]["desc"], "admin-split-region");
        assert!(ctl.ok(&["operator", "show", &left]).contains("split [now]"));
        let busy = ctl.refused(&["region", "split", &left, "--key", "b"], 4);
        assert!(busy.contains("admin-split-region is under way"), "{busy}");
        assert_eq!(ctl.json(&["operator", "cancel", &left])["status"], "CANCEL");
        ctl.refused(&["operator", "cancel", &left], 4);
        assert_eq!(ctl.json(&["operator", "list"])["operators"].as_array().unwrap().len(), 0);

        let outside = ctl.refused(&["region", "split", &left, "--key", "zebra"], 4);
        assert!(outside.contains("zebra is not a key of"), "{outside}");
        assert!(ctl.refused(&["region", "split", "999999"], 4).contains("there is no such region"));
        ctl.refused(&["operator", "show", "999999"], 1);
        ctl.refused(&["region", "split", &left, "--txn", "--key", "enc(a)"], 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_keyspace_is_found_and_cut_at() {
    with_halted_cluster(ApiVersion::V2, |ctl| {
        let before = ctl.json(&["region", "--txn", "--keyspace", "DEFAULT", "--key", "account:5"]);
        let id = number(&before["id"]).to_string();
        ctl.ok(&["region", "split", &id, "--txn", "--key", "account:5"]);
        let found = ctl.json(&["region", "--txn", "--key", "account:5"]);
        // The first eight bytes of the key that stands in the region: x, the keyspace, "acco".
        assert!(found["start_hex"].as_str().unwrap().starts_with("780000006163636fff"), "{found}");
        let raw = ctl.json(&["region", "--raw", "--key", "account:5"]);
        assert_ne!(raw["id"], found["id"]);
        ctl.refused(&["region", "--raw", "--keyspace", "nobody", "--key", "a"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_and_peers_go_where_a_person_says() {
    with_halted_cluster(ApiVersion::V1, |ctl| {
        let region = ctl.json(&["region", "--key", ""]);
        let id = number(&region["id"]);
        let name = id.to_string();
        let peers = stores(&region);
        assert_eq!(peers.len(), 3);
        let spare = *ctl.all_stores().iter().find(|store| !peers.contains(store)).unwrap();
        let order = |words: &[&str]| {
            let done = ctl.json(&[&["region", words[0], &name], &words[1..]].concat());
            assert_eq!(done["operator"]["status"], "SUCCESS", "{done}");
            done["regions"][0].clone()
        };
        let leader = number(&region["leader_store_id"]);
        let next = *peers.iter().find(|store| **store != leader).unwrap();
        let now = order(&["transfer-leader", &next.to_string()]);
        assert_eq!(number(&now["leader_store_id"]), next);

        let grown = order(&["add-peer", &spare.to_string()]);
        assert_eq!(stores(&grown).len(), 4);
        // The leader hands over before it goes.
        let shrunk = order(&["remove-peer", &next.to_string()]);
        assert!(!stores(&shrunk).contains(&next));
        assert_ne!(number(&shrunk["leader_store_id"]), next);
        let moved = order(&["move-peer", &spare.to_string(), &next.to_string()]);
        assert_eq!(stores(&moved), peers);
        let taught = order(&["add-peer", &spare.to_string(), "--learner"]);
        let is_learner = |peer: &&Value| peer["learner"] == true;
        let learner = taught["peers"].as_array().unwrap().iter().find(is_learner).unwrap();
        assert_eq!(number(&learner["store_id"]), spare);
        let no_vote = ctl.refused(&["region", "transfer-leader", &name, &spare.to_string()], 4);
        assert!(no_vote.contains("is a learner, which cannot lead"), "{no_vote}");
        assert_eq!(stores(&order(&["remove-peer", &spare.to_string()])), peers);
        assert_eq!(stores(&ctl.region(id)), peers);

        let (code, out, err) = ctl.output(&[
            "region",
            "move-peer",
            &name,
            &next.to_string(),
            &spare.to_string(),
            "--no-wait",
        ]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("admin-move-peer") && err.contains("accepted"), "{out}{err}");
        let mut tries = 0;
        while ctl.json(&["operator", "show", &name])["status"] == "RUNNING" {
            tries += 1;
            assert!(tries < 1_000, "it is never done");
        }
        assert!(ctl.ok(&["operator", "show", &name]).contains("success"));
        let explained = ctl.json(&["explain", "region", &name]);
        assert_eq!(explained["replicas"], "scheduling is halted");
        assert_eq!(explained["stores"].as_array().unwrap().len(), 4);
        assert!(ctl.ok(&["explain", "region", &name]).contains("already has a peer of the region"));
        let explained = ctl.json(&["explain", "store", &spare.to_string()]);
        assert_eq!((&explained["state"], &explained["peers"]), (&"Up".into(), &1.into()));
        assert!(ctl.ok(&["explain", "store", &spare.to_string()]).contains("holds 1 peers"));
        ctl.refused(&["explain", "store", "777"], 1);
        assert!(stores(&ctl.region(id)).contains(&spare));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_said_in_one_line() {
    with_halted_cluster(ApiVersion::V1, |ctl| {
        let region = ctl.json(&["region", "--key", ""]);
        let name = number(&region["id"]).to_string();
        let peers = stores(&region);
        let spare = *ctl.all_stores().iter().find(|store| !peers.contains(store)).unwrap();
        let (has, spare) = (peers[0].to_string(), spare.to_string());
        let leader = number(&region["leader_store_id"]).to_string();
        for (words, why) in [
            (&["add-peer", &name, &has][..], "already has a peer of the region"),
            (&["add-peer", &name, "777"], "there is no store 777"),
            (&["remove-peer", &name, &spare], "has no peer of the region"),
            (&["move-peer", &name, &spare, &has], "has no peer of the region"),
            (&["transfer-leader", &name, &leader], "leads the region already"),
            (&["transfer-leader", &name, &spare], "has no peer of the region"),
            (&["transfer-leader", "999999", &has], "there is no such region"),
        ] {
            let err = ctl.refused(&[&["region"], words].concat(), 4);
            assert!(err.contains(why), "{words:?}: {err}");
        }
        let same = ctl.refused(&["region", "move-peer", &name, &has, &has], 2);
        assert!(same.contains("cannot be both"), "{same}");
        let swapped = ctl.refused(&["region", &name, "split", &name], 2);
        assert!(swapped.contains("after the command"), "{swapped}");
        for words in [
            &["region"][..],
            &["region", "splt", &name],
            &["region", "split"],
            &["region", "split", &name, "--key", "a", "--policy", "scan"],
            &["region", "split", &name, "--raw", "--txn", "--key", "a"],
            &["region", "--key", "a", "--keyspace", "b"],
            &["region", "add-peer", &name],
            &["operator"],
        ] {
            let (code, out, err) = ctl.output(words);
            assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {err}");
        }
        // Help is data, and reads from top to bottom.
        let help = ctl.ok(&["region", "--help"]);
        for words in [
            "<ID | --key <KEY> | --check <KIND>>",
            "split",
            "transfer-leader",
            "move-peer",
            "enc(account:5)",
        ] {
            assert!(help.contains(words), "{help}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replicas_of_a_region_are_compared() {
    with_halted_cluster(ApiVersion::V1, |ctl| {
        let region = ctl.json(&["region", "--key", "m"]);
        let id = number(&region["id"]).to_string();
        let leader = &region["leader_store_id"];
        // One check at a time; that of a small region is soon over.
        let words = ["region", "consistency-check", &id, "-o", "json"];
        for _ in 0..3 {
            let begun = (0..600).find_map(|_| {
                let (code, out, err) = ctl.output(&words);
                assert!(code == 0 || err.contains("compared"), "{err}");
                (code == 0).then_some(out)
            });
            let begun: Value = serde_json::from_str(&begun.expect("it begins in the end")).unwrap();
            assert_eq!((&begun["region_id"], &begun["store_id"]), (&region["id"], leader));
        }
        let peers = ctl.region(number(&region["id"]))["peers"].clone();
        let is_down = |peer: &Value| peer["down"] == Value::Bool(true);
        assert!(!peers.as_array().unwrap().iter().any(is_down), "{peers}");
        let refused = ctl.refused(&["region", "consistency-check", "999999"], 1);
        assert!(refused.contains("there is none"), "{refused}");
    })
    .await;
}
