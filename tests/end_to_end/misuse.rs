//! A person's mistakes: one clear line, exit code 2, nothing touched.

use std::net::TcpListener;

use tessera::ApiVersion;

use crate::cluster::{Processes, own_address, run, until};

/// Runs, expects the code, returns what stderr said.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn unknown_flags_and_wrong_values_end_with_two() {
    assert!(refused(&["playground", "--shops", "3"], 2).contains("--shops"));
    refused(&["playground", "--stores", "0"], 2);
    refused(&["playground", "--api-version", "7"], 2);
    refused(&["store", "--addr", "nowhere"], 2);
    refused(&["store", "--labels", "zone"], 2);
    refused(&["scheduler", "--initial-cluster", "m1"], 2);
    refused(&["scheduler", "--client-urls", "https://127.0.0.1:1"], 2);
    assert!(refused(&["playground", "--host", "0.0.0.0", "--port", "0"], 2).contains("0.0.0.0"));
    refused(&["ctl", "raw", "get", "hex:0"], 2);
    refused(&["ctl", "region"], 2);
    refused(&["dance"], 2);
    refused(&[], 2);
}

#[test]
fn every_unknown_key_of_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.toml");
    std::fs::write(&file, "colour = 1\n[server]\nadrr = \"127.0.0.1:1\"\n").unwrap();
    let file = file.to_str().unwrap();
    let said = refused(&["store", "--config", file], 2);
    assert!(said.contains("colour") && said.contains("server.adrr"), "{said}");
    assert!(said.contains("did you mean server.addr"), "{said}");
    refused(&["store", "--config", "/nonexistent.toml"], 2);
}

#[test]
fn a_used_port_is_named() {
    let taken = TcpListener::bind((own_address(), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let said = refused(&["playground", "--host", &host, "--port", &port], 2);
    assert!(said.contains(&address.to_string()), "{said}");
    let said = refused(&["playground", "--processes", "--host", &host, "--port", &port], 2);
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "precious").unwrap();
    let path = folder.path().to_str().unwrap();
    let said = refused(&["playground", "--port", "0", "--data", path], 2);
    assert!(said.contains(path), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was written");
}

#[test]
fn a_file_is_no_directory_for_data() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let ways: [&[&str]; 2] = [&[], &["--processes"]];
    for more in ways {
        let words = [&["playground", "--port", "0", "--data", path][..], more].concat();
        assert!(refused(&words, 2).contains(path));
    }
}

#[test]
fn an_unreachable_cluster_ends_with_three() {
    let nobody = format!("{}:1", own_address());
    let said = refused(&["ctl", "--pd", &nobody, "members"], 3);
    assert!(said.contains(&nobody), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_refuses_another_clusters_scheduler() {
    let mut first = Processes::start(1, 1, ApiVersion::V1).await;
    let second = Processes::start(1, 1, ApiVersion::V1).await;
    first.stores[0].terminate().await;
    let folder = first.stores[0].folder.to_str().unwrap().to_owned();
    let address = first.stores[0].address.to_string();
    let endpoint = second.endpoints()[0].clone();
    let said = tokio::task::spawn_blocking(move || {
        refused(
            &["store", "--addr", &address, "--data-dir", &folder, "--pd-endpoints", &endpoint],
            2,
        )
    })
    .await
    .unwrap();
    assert!(said.contains("cluster"), "{said}");
    // And it still serves its own.
    first.stores[0].start();
    let client = first.client().await;
    until("the store to serve its own cluster again", || {
        let client = client.clone();
        async move { client.raw().put("a", "1").await.ok() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_and_the_others_serve_on() {
    let mut cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let client = cluster.client().await;
    for n in 0..200 {
        client.raw().put(format!("k{n:03}"), vec![b'v'; 500]).await.unwrap();
    }
    let hurt = (cluster.leader_store(b"k").await + 1) % 3;
    cluster.stores[hurt].kill();
    damage_log(&cluster.stores[hurt].folder.join("log"));
    cluster.stores[hurt].start();
    let status = cluster.stores[hurt].ended().await;
    assert!(!status.success(), "a store with a damaged log must not serve");
    let log = cluster.stores[hurt].log();
    assert!(!log.contains("panicked"), "{log}");
    client.raw().put("after", "1").await.unwrap();
    assert!(client.raw().get("k199").await.unwrap().is_some());
}

/// Flips a byte in the middle of the largest write-ahead log file.
fn damage_log(folder: &std::path::Path) {
    let largest = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .expect("the log engine has a write-ahead log");
    let mut bytes = std::fs::read(&largest).unwrap();
    // Recycled files are longer than what is written: the middle of the written part is meant.
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[written / 2] ^= 0x40;
    std::fs::write(&largest, bytes).unwrap();
}
