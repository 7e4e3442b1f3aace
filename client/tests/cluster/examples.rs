//! The examples run, and the README shows what they say.

use std::time::Duration;

use client::{Config, blocking};
use tokio::runtime::Runtime;

use crate::fake::Fake;

#[path = "../../examples/past.rs"]
mod past;
#[path = "../../examples/threads.rs"]
mod threads;
#[path = "../../examples/tour.rs"]
mod tour;
#[path = "../../examples/transfer.rs"]
mod transfer;

#[tokio::test]
async fn the_examples_run() {
    let fake = Fake::split_at(&["past/050"]).await;
    let client = fake.client_with(Config::default()).await;
    tour::example(&client).await.unwrap();
    transfer::example(&client).await.unwrap();
    past::example(&client).await.unwrap();
}

#[test]
fn the_example_without_async_runs() {
    let runtime = Runtime::new().unwrap();
    let fake = runtime.block_on(Fake::start());
    let client = blocking::Client::connect(fake.endpoints()).unwrap();
    threads::example(&client).unwrap();
    client.settled(Duration::from_secs(5)).unwrap();
}

#[test]
fn a_transaction_dropped_by_a_thread_releases_its_locks() {
    let runtime = Runtime::new().unwrap();
    let fake = runtime.block_on(Fake::start());
    let client = blocking::Client::connect(fake.endpoints()).unwrap();
    let txn = client.transactions().begin_pessimistic().unwrap();
    txn.put("k", "v").unwrap();
    drop(txn);
    client.settled(Duration::from_secs(5)).unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
}

#[test]
fn the_readme_shows_the_tour() {
    let readme = include_str!("../../README.md");
    let tour = include_str!("../../examples/tour.rs");
    let shown = readme.split("```").nth(1).unwrap();
    let lines: Vec<_> = tour.lines().map(str::trim).collect();
    let told = shown.lines().skip(1).map(str::trim).filter(|line| !line.is_empty());
    for line in told.filter(|line| !line.starts_with('#') && !line.contains("connect")) {
        let line = line.replace("use client::Client;", "use client::{Client, Result};");
        assert!(lines.contains(&line.as_str()), "the tour does not say: {line}");
    }
}
