//! `tessera playground` as a person or a script starts it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tessera::{ApiVersion, Cluster, readiness};

use crate::cluster::{TESSERA, own_address, signal, until};

struct Playground {
    child: Child,
    ready: PathBuf,
}

impl Playground {
    fn start(folder: &Path, flags: &[&str]) -> Self {
        let ready = folder.join("ready.json");
        let child = Command::new(TESSERA)
            .args(["playground", "--port", "0", "--host", &own_address().to_string()])
            .arg("--ready-file")
            .arg(&ready)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, ready }
    }

    async fn ready(&mut self) -> Value {
        let text = until("the ready file", || {
            let text = std::fs::read_to_string(&self.ready).ok();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the playground ended early: {ended:?}");
            async move { text }
        })
        .await;
        serde_json::from_str(&text).unwrap()
    }

    async fn stop(mut self) -> String {
        signal(self.child.id(), "-TERM");
        let status = until("the playground to stop", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await;
        assert_eq!(status.code(), Some(0));
        let mut screen = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut screen).unwrap();
        screen
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn endpoints(ready: &Value) -> Vec<String> {
    let all = ready["pd_endpoints"].as_array().unwrap();
    all.iter().map(|endpoint| endpoint.as_str().unwrap().to_owned()).collect()
}

async fn put_and_get(endpoints: &[String], api_version: ApiVersion) {
    let client = readiness::client(endpoints, api_version).await.unwrap();
    client.raw().put("a", "1").await.unwrap();
    assert_eq!(client.raw().get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

async fn starts_serves_and_stops(flags: &[&str], pids: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut playground = Playground::start(folder.path(), flags);
    let ready = playground.ready().await;
    assert_eq!(ready["stores"].as_array().unwrap().len(), 3);
    assert_eq!(ready["schedulers"].as_array().unwrap().len(), 3);
    let mut seen: Vec<u64> = Vec::new();
    for part in
        ready["stores"].as_array().unwrap().iter().chain(ready["schedulers"].as_array().unwrap())
    {
        seen.push(part["pid"].as_u64().unwrap());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), pids, "{ready:#}");
    assert!(ready["stores"][0]["id"].as_u64().unwrap() > 0);
    put_and_get(&endpoints(&ready), ApiVersion::V1).await;
    let file = playground.ready.clone();
    let screen = playground.stop().await;
    assert!(screen.lines().count() <= 12, "{screen}");
    assert!(screen.contains("PD endpoint"), "{screen}");
    assert!(!file.exists(), "the ready file outlived the playground");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_starts_serves_and_stops() {
    starts_serves_and_stops(&[], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_start_serve_and_stop() {
    starts_serves_and_stops(&["--processes"], 6).await;
}

#[test]
fn an_interrupted_start_says_so_and_leaves_nothing_behind() {
    let ways: [&[&str]; 2] = [&[], &["--processes"]];
    for flags in ways {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(TESSERA)
            .args(["playground", "--port", "0", "--host", &own_address().to_string()])
            .args(flags)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut screen = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut screen, &mut line).unwrap();
        assert!(line.contains("tessera playground"), "{line}");
        signal(child.id(), "-INT");
        assert_eq!(child.wait().unwrap().code(), Some(130), "{flags:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_directory_keeps_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let host = own_address();
    let data = folder.path().join("data");
    for round in 0..2 {
        let builder = Cluster::builder().host(host).api_version(ApiVersion::V2).data(&data);
        let cluster = builder.start().await.unwrap();
        let client = cluster.client().await.unwrap();
        if round == 0 {
            client.raw().put("kept", "yes").await.unwrap();
        }
        assert_eq!(client.raw().get("kept").await.unwrap().as_deref(), Some(&b"yes"[..]));
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_cluster_leaves_nothing_behind() {
    let cluster = Cluster::builder().host(own_address()).stores(1).start().await.unwrap();
    let endpoint = cluster.pd_endpoints()[0].clone();
    put_and_get(std::slice::from_ref(&endpoint), ApiVersion::V1).await;
    drop(cluster);
    until("the port to be free again", || {
        let free = std::net::TcpListener::bind(&endpoint).is_ok();
        async move { free.then_some(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_open_files_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready.json");
    let script = format!(
        "ulimit -n 1024; exec {TESSERA} playground --port 0 --host {} --ready-file {}",
        own_address(),
        ready.display()
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut playground = Playground { child, ready };
    let ready = playground.ready().await;
    let client = readiness::client(&endpoints(&ready), ApiVersion::V1).await.unwrap();
    let mut tasks = Vec::new();
    for task in 0..64 {
        let raw = client.raw();
        tasks.push(tokio::spawn(async move {
            for n in 0..10 {
                raw.put(format!("{task}/{n}"), vec![b'v'; 1000]).await.unwrap();
            }
        }));
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
    playground.stop().await;
}
