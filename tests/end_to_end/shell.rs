//! `tessera shell` and `ctl mvcc` against a running cluster: scripts, transactions, the past, misuse.

use serde_json::Value;
use tessera::{ApiVersion, Cluster};

use crate::cluster::{own_address, run, run_with_input};

struct Shell {
    endpoint: String,
}

impl Shell {
    /// Runs a script from stdin: exit code, stdout, stderr.
    fn script(&self, flags: &[&str], script: &str) -> (i32, String, String) {
        let mut arguments = vec!["shell", "--pd", &self.endpoint, "--timeout", "60"];
        arguments.extend_from_slice(flags);
        told(&run_with_input(&arguments, script))
    }

    fn ok(&self, script: &str) -> String {
        let (code, out, err) = self.script(&[], script);
        assert_eq!(code, 0, "{script}: {err}");
        out
    }

    fn mvcc(&self, key: &str, flags: &[&str]) -> String {
        let mut arguments = vec!["ctl", "--pd", &self.endpoint, "--timeout", "60", "mvcc", key];
        arguments.extend_from_slice(flags);
        let (code, out, err) = told(&run(&arguments));
        assert_eq!(code, 0, "{err}");
        out
    }
}

fn told(output: &std::process::Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

async fn with_shell(api_version: ApiVersion, check: impl FnOnce(Shell) + Send + 'static) {
    let builder = Cluster::builder().host(own_address()).api_version(api_version);
    let cluster = builder.start().await.unwrap();
    let shell = Shell { endpoint: cluster.pd_endpoints()[0].clone() };
    tokio::task::spawn_blocking(move || check(shell)).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_runs_transactions_and_reads_the_past() {
    with_shell(ApiVersion::V1, |shell| {
        let out = shell.ok("put account 100  # alone\nget account\n\
             begin; put account 70; get account\nrollback\nget account");
        assert_eq!(out, "100\n70\n100\n");
        let before: u64 = shell.ok("tso").trim().parse().unwrap();
        let out = shell.ok(&format!(
            "begin pessimistic\nget account for update\nput account 30\nput other 70\ncommit\n\
             get account; get account at {before}; scan a z keys; count; get account at '1h ago'"
        ));
        let words: Vec<_> = out.split_whitespace().collect();
        assert_eq!(words, ["100", "30", "100", "KEY", "account", "other", "2"], "{out}");
        let out = shell.ok("scan prefix acc");
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["KEY", "VALUE", "account", "30"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_one_document_a_line() {
    with_shell(ApiVersion::V2, |shell| {
        let (code, out, err) = shell.script(
            &["-o", "json", "--keyspace", "DEFAULT"],
            "put k v; get k; get none; scan; raw put k 1; raw cas k 1 2; raw ttl k; mvcc k",
        );
        assert_eq!(code, 0, "{err}");
        let documents: Vec<Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(documents.len(), 8, "{out}");
        assert!(documents[0]["committed"].is_u64());
        assert_eq!(documents[1]["value"], "v");
        assert_eq!((&documents[2]["found"], &documents[2]["value"]), (&false.into(), &Value::Null));
        assert_eq!(documents[3]["pairs"][0]["key"], "k");
        assert_eq!(documents[5]["swapped"], true);
        assert_eq!(documents[7]["records"][0]["value"], "v");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_stops_at_its_first_failure_and_names_the_line() {
    with_shell(ApiVersion::V1, |shell| {
        let (code, out, err) = shell.script(&[], "put k 1\ninsert k 2\nput k 3\n");
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("line 2") && err.contains("(key k)"), "{err}");
        assert_eq!(shell.ok("get k"), "1\n");
        let (code, _, err) = shell.script(&["-e", "get"], "");
        assert_eq!(code, 2);
        assert!(err.contains("get KEY"), "{err}");
        let (code, _, err) = shell.script(&["-e", "begin; put k 9"], "");
        assert_eq!(code, 1);
        assert!(err.contains("rolled back"), "{err}");
        assert_eq!(shell.ok("get k"), "1\n");
        let (code, out, _) = shell.script(&["-c", "get k"], "");
        assert_eq!((code, out.as_str()), (0, "1\n"));
        for nonsense in ["dance", "commit", "put k v ttl 3", "raw begin", "lock k", "get k at noon"]
        {
            let (code, out, err) = shell.script(&["-e", nonsense], "");
            assert_eq!((code, out.as_str()), (2, ""), "{nonsense}: {err}");
            assert!(!err.contains("panicked"), "{err}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keys_history_is_told_in_plain_words() {
    with_shell(ApiVersion::V1, |shell| {
        let long = "long".repeat(100);
        shell.ok(&format!("put k {long}; put k short; delete k"));
        let words = shell.mvcc("k", &[]);
        let order = ["removed at", "short  put at", &format!("{long}  put at")];
        let found: Vec<_> = order.iter().map(|piece| words.find(piece)).collect();
        assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{words}");
        let document: Value = serde_json::from_str(&shell.mvcc("k", &["-o", "json"])).unwrap();
        assert_eq!((&document["schema"], &document["lock"]), (&1.into(), &Value::Null));
        assert_eq!(document["records"][2]["value"], long.as_str());
        assert!(shell.mvcc("nothing", &[]).contains("never written"));
    })
    .await;
}

#[test]
fn a_shell_without_a_cluster_says_so() {
    let (code, _, err) = told(&run(&["shell", "--pd", "127.0.0.1:1", "-e", "get k"]));
    assert_eq!(code, 3, "{err}");
    assert_eq!(told(&run(&["shell", "--dance"])).0, 2);
}
