//! Timestamps: many callers on one stream, which may break.

use std::time::Duration;

use client::{Config, ErrorKind, Timestamp};
use futures_util::future::join_all;

use crate::fake::{Fake, TsoReaction};

/// S0.25: callers that come at the same time are served by one request, and no two get the same timestamp.
#[tokio::test]
async fn many_callers_share_few_requests_and_no_timestamp() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let asked = join_all((0..500).map(|_| client.timestamp())).await;
    let mut timestamps: Vec<_> = asked.into_iter().map(Result::unwrap).collect();
    timestamps.sort();
    timestamps.dedup();
    assert_eq!(timestamps.len(), 500);
    assert_eq!(fake.calls("Tso"), 1, "one stream");
    let requests = fake.calls("TsoRequest");
    assert!((1..=10).contains(&requests), "{requests} requests for 500 callers");
}

#[tokio::test]
async fn a_broken_stream_is_mended_without_its_callers_noticing() {
    let fake = Fake::start().await;
    let config = Config { scheduler_timeout: Duration::from_millis(100), ..Default::default() };
    let client = fake.client_with(config).await;
    let mut last = Timestamp::ZERO;
    for reaction in [TsoReaction::End, TsoReaction::WrongCount, TsoReaction::Hang] {
        fake.script_tso([reaction]);
        let asked = join_all((0..20).map(|_| client.timestamp())).await;
        for timestamp in asked.into_iter().map(Result::unwrap) {
            assert!(timestamp > last);
            last = timestamp;
        }
    }
    assert_eq!(fake.calls("Tso"), 4);
}

#[tokio::test]
async fn without_a_leader_a_caller_waits_for_its_deadline_only() {
    let fake = Fake::start().await;
    let config = Config { timeout: Duration::from_millis(200), ..Default::default() };
    let client = fake.client_with(config).await;
    fake.state.lock().scheduler_leader = None;
    let error = client.timestamp().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("waiting for a timestamp"), "{error}");
    fake.state.lock().scheduler_leader = Some(0);
    client.timestamp().await.unwrap();
}
