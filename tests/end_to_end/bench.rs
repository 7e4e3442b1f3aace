//! `tessera bench` against a running cluster: every workload runs, counts, and prints what it says.

use serde_json::{Value, json};
use tessera::{ApiVersion, Cluster};

use crate::cluster::{own_address, run};

fn rows(endpoint: &str, words: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["bench"];
    arguments.extend_from_slice(words);
    arguments.extend(["--pd", endpoint, "--seconds", "1", "--keys", "50", "-o", "json"]);
    let output = run(&arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {err}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], 1);
    document["rows"].as_array().unwrap().clone()
}

fn operations(rows: &[Value]) -> Vec<(&str, &str)> {
    rows.iter()
        .map(|row| (row["workload"].as_str().unwrap(), row["operation"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workload_runs_and_counts() {
    let cluster = Cluster::builder().host(own_address()).api_version(ApiVersion::V1);
    let cluster = cluster.start().await.unwrap();
    let endpoint = cluster.pd_endpoints()[0].clone();
    tokio::task::spawn_blocking(move || {
        for locking in ["optimistic", "pessimistic"] {
            let rows = rows(&endpoint, &["txn", "--threads", "4", "--locking", locking]);
            assert_eq!(operations(&rows), [("txn", "transaction")]);
            assert!(rows[0]["count"].as_u64().unwrap() > 0, "{rows:?}");
            assert_eq!(rows[0]["undetermined"], 0, "{rows:?}");
        }
        // It fails, and so would this, if money were lost or made.
        for flags in [&["--locking", "pessimistic"][..], &["--two-phases"]] {
            let rows = rows(&endpoint, &[&["bank", "--threads", "4"], flags].concat());
            assert!(operations(&rows).contains(&("bank", "transfer")), "{rows:?}");
        }
        let raw = rows(&endpoint, &["ycsb", "--threads", "2"]);
        for (workload, operation) in [
            ("ycsb a", "update"),
            ("ycsb b", "read"),
            ("ycsb c", "read"),
            ("ycsb d", "read"),
            ("ycsb e", "scan"),
            ("ycsb f", "read-modify-write"),
        ] {
            assert!(operations(&raw).contains(&(workload, operation)), "{raw:?}");
        }
        assert!(raw.iter().all(|row| row["failed"] == 0), "{raw:?}");
    })
    .await
    .unwrap();
    cluster.stop().await;
    // Raw and transactional keys do not meet in one cluster of version 1.
    let cluster = Cluster::builder().host(own_address()).api_version(ApiVersion::V2);
    let cluster = cluster.start().await.unwrap();
    let endpoint = cluster.pd_endpoints()[0].clone();
    tokio::task::spawn_blocking(move || {
        let rows = rows(&endpoint, &["ycsb", "A", "e", "--txn", "--keyspace", "DEFAULT"]);
        assert!(operations(&rows).contains(&("ycsb e", "insert")), "{rows:?}");
    })
    .await
    .unwrap();
    cluster.stop().await;
}

/// S1.8: many clients fetch timestamps in batches for as long as is asked; none fails and each caller's grow, or
/// the benchmark would. How many a second is for a quiet machine to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_fetch_timestamps_in_batches() {
    let cluster = Cluster::builder().host(own_address()).api_version(ApiVersion::V1);
    let cluster = cluster.start().await.unwrap();
    let endpoint = cluster.pd_endpoints()[0].clone();
    let words = ["--clients", "64", "--callers", "32", "--seconds", "1", "-o", "json"];
    let output = tokio::task::spawn_blocking(move || {
        run(&[&["bench", "tso", "--pd", &endpoint][..], &words].concat())
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["clients"], &report["callers"]), (&json!(64), &json!(32)));
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["timestamps_per_second"].as_f64().unwrap() > 0.0, "{report}");
    cluster.stop().await;
}

#[test]
fn a_workload_that_does_not_exist_is_a_mistake() {
    assert_eq!(run(&["bench", "ycsb", "g"]).status.code(), Some(2));
    assert_eq!(run(&["bench", "bank", "--threads", "0"]).status.code(), Some(2));
}
