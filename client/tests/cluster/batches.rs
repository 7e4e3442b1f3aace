//! Many requests on one stream, and what becomes of them when it breaks.

use std::time::Duration;

use client::{Config, ErrorKind};
use futures_util::future::join_all;

use crate::fake::{Fake, Reaction};

#[tokio::test]
async fn requests_that_come_together_leave_together() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let raw = client.raw();
    raw.put("k", "v").await.unwrap();
    let (before, gets) = (fake.calls("BatchCommands"), 500);
    let all = join_all((0..gets).map(|_| raw.get("k"))).await;
    assert!(all.into_iter().all(|value| value.unwrap() == Some("v".into())));
    assert_eq!(fake.calls("RawGet"), gets);
    let batches = fake.calls("BatchCommands") - before;
    assert!((1..gets / 4).contains(&batches), "{gets} requests in {batches} batches");
    assert_eq!(client.metrics().requests("raw_get"), gets as u64);
}

#[tokio::test]
async fn a_request_that_hangs_holds_up_no_other() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "v").await.unwrap();
    fake.script("RawScan", [Reaction::Hang]);
    let hangs = raw.scan(.., 9);
    tokio::select! {
        _ = hangs => panic!("the store does not answer"),
        () = async {
            fake.until("it was asked", |state| state.calls.contains_key("RawScan")).await;
            for _ in 0..10 {
                assert_eq!(raw.get("k").await.unwrap(), Some("v".into()));
            }
        } => {}
    }
    assert_eq!(raw.scan(.., 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "v").await.unwrap();
    fake.script("RawGet", (0..3).map(|_| Reaction::Break));
    let all = join_all((0..50).map(|_| raw.get("k"))).await;
    assert!(all.into_iter().all(|value| value.unwrap() == Some("v".into())));
}

#[tokio::test]
async fn a_write_on_a_broken_stream_may_have_happened() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw().strict();
    raw.put("k", "1").await.unwrap();
    fake.script("RawPut", [Reaction::DoThenBreak]);
    assert!(raw.put("k", "2").await.unwrap_err().is_undetermined());
    assert_eq!(raw.get("k").await.unwrap(), Some("2".into()));
}

#[tokio::test]
async fn a_silent_store_is_given_up_and_found_again() {
    let fake = Fake::start().await;
    let config = Config { store_timeout: Duration::from_millis(200), ..Default::default() };
    let raw = fake.client_with(config).await.raw().with_timeout(Duration::from_millis(500));
    raw.put("k", "v").await.unwrap();
    fake.script("RawGet", (0..99).map(|_| Reaction::Hang));
    let error = raw.get("k").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout, "{error}");
    fake.state.lock().script.clear();
    assert_eq!(raw.get("k").await.unwrap(), Some("v".into()));
}

#[tokio::test]
async fn stores_without_the_stream_are_asked_one_by_one() {
    let fake = Fake::start().await;
    fake.state.lock().knows_batches = false;
    let client = fake.client().await;
    let raw = client.raw();
    let all = join_all((0..50).map(|_| raw.put("k", "v"))).await;
    assert!(all.iter().all(Result::is_ok));
    let txn = client.transactions().begin().await.unwrap();
    txn.put("t", "v").unwrap();
    txn.commit().await.unwrap();
    assert_eq!((fake.calls("BatchCommands"), client.metrics().failures()), (0, 0));
}

#[tokio::test]
async fn the_stream_can_be_switched_off() {
    let fake = Fake::start().await;
    let config = Config { batch_commands: false, ..Default::default() };
    let raw = fake.client_with(config).await.raw();
    raw.put("k", "v").await.unwrap();
    assert_eq!(raw.get("k").await.unwrap(), Some("v".into()));
    assert_eq!(fake.calls("BatchCommands"), 0);
}
