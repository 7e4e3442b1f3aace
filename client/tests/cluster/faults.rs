//! Leaders move, regions split, stores hang, die and come back under the client's feet.

use std::time::Duration;

use client::{Config, ErrorKind};
use proto::Refusal;

use crate::fake::{Fake, Reaction};

fn impatient() -> Config {
    Config {
        timeout: Duration::from_millis(400),
        store_timeout: Duration::from_millis(80),
        ..Default::default()
    }
}

/// S0.33: the leader that a refusal names is remembered; the scheduler is not asked again.
#[tokio::test]
async fn a_new_leader_is_followed_by_its_name() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "1").await.unwrap();
    fake.move_leader(b"k", 3);
    raw.put("k", "2").await.unwrap();
    assert_eq!(fake.calls("RawPut"), 3);
    assert_eq!(fake.calls("GetRegion"), 1, "the scheduler was not needed");
    assert_eq!(raw.get("k").await.unwrap(), Some("2".into()));
    assert_eq!((fake.calls("RawGet"), fake.calls("GetRegion")), (1, 1), "it is asked at once");
}

#[tokio::test]
async fn a_nameless_leader_is_looked_for_among_the_peers() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    let refusal = Refusal::NotLeader { region_id: 1, leader: None };
    fake.script("RawGet", [Reaction::Refuse(refusal.clone()), Reaction::Refuse(refusal)]);
    assert_eq!(raw.get("k").await.unwrap(), None);
}

/// S0.34: a store says by `EpochNotMatch` that a region was split, and how it looks now.
#[tokio::test]
async fn a_split_is_learned_from_the_store_and_not_from_the_scheduler() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("a", "1").await.unwrap();
    // The scheduler has not heard of the split yet.
    fake.freeze_reports();
    fake.split(b"m");
    raw.put("z", "2").await.unwrap();
    raw.put("a", "3").await.unwrap();
    assert_eq!(fake.calls("GetRegion"), 1);
    assert_eq!(fake.calls("RawPut"), 4, "one refusal for both halves");
}

/// S0.34: stores of old said `StaleCommand` when a region had been split, and no more. The scheduler is asked then.
#[tokio::test]
async fn a_split_that_a_store_only_hints_at_is_learned_from_the_scheduler() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("a", "1").await.unwrap();
    fake.state.lock().tells_regions = false;
    fake.split(b"m");
    raw.put("z", "2").await.unwrap();
    raw.put("a", "3").await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap().len(), 2);
    assert!(fake.calls("GetRegion") > 1);
}

/// S0.34: `StaleCommand` of a store of today says that the term has changed: the route is as good as before, and
/// the scheduler is not asked.
#[tokio::test]
async fn a_stale_command_is_tried_again_without_the_scheduler() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "1").await.unwrap();
    fake.script("RawPut", [Reaction::Refuse(Refusal::StaleCommand)]);
    raw.put("k", "2").await.unwrap();
    assert_eq!(raw.get("k").await.unwrap(), Some("2".into()));
    assert_eq!(fake.calls("GetRegion"), 1);
}

#[tokio::test]
async fn a_batch_is_regrouped_when_its_region_splits_under_it() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.get("warm").await.unwrap();
    fake.split(b"m");
    raw.batch_put([("a", "1"), ("z", "2")]).await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap().len(), 2);
    assert_eq!(fake.calls("RawBatchPut"), 3);
}

#[tokio::test]
async fn a_stale_scheduler_does_not_stop_a_client_that_starts_cold() {
    let fake = Fake::start().await;
    fake.freeze_reports();
    fake.split(b"m");
    fake.split(b"t");
    fake.move_leader(b"z", 2);
    let raw = fake.client().await.raw();
    raw.batch_put([("a", "1"), ("n", "2"), ("z", "3")]).await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap().len(), 3);
    assert_eq!(raw.scan_reverse(.., 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn refusals_that_pass_are_waited_out() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    fake.script(
        "RawPut",
        [
            Refusal::ServerIsBusy { reason: "inbox full".into(), backoff_ms: 1 },
            Refusal::StaleCommand,
            Refusal::RegionNotFound { region_id: 1 },
            Refusal::MaxTimestampNotSynced,
            Refusal::proposal_dropped(),
            Refusal::closing(),
            Refusal::MismatchPeerId { requested: 1, actual: 2 },
            Refusal::EpochNotMatch { current_regions: vec![] },
        ]
        .map(Reaction::Refuse),
    );
    raw.put("k", "v").await.unwrap();
    assert!(fake.calls("RawPut") >= 9);
}

#[tokio::test]
async fn a_change_that_is_too_large_is_not_tried_again() {
    let fake = Fake::start().await;
    let too_large = Refusal::RaftEntryTooLarge { region_id: 1, entry_size: 9 << 20 };
    fake.script("RawPut", [Reaction::Refuse(too_large)]);
    let error = fake.client().await.raw().put("k", "v").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (&ErrorKind::TooLarge, 1));
}

#[tokio::test]
async fn a_store_that_restarts_elsewhere_is_found_again() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "1").await.unwrap();
    fake.stop_store(1).await;
    let asked = fake.calls("GetStore");
    let put = tokio::spawn({
        let raw = raw.clone();
        async move { raw.put("k", "2").await }
    });
    fake.until("the client looks for the store", |state| {
        state.calls.get("GetStore").copied().unwrap_or(0) > asked + 2
    })
    .await;
    fake.start_store(1).await;
    put.await.unwrap().unwrap();
    assert_eq!(raw.get("k").await.unwrap(), Some("2".into()));
}

#[tokio::test]
async fn when_the_leader_dies_the_others_say_who_is_next() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("k", "1").await.unwrap();
    fake.stop_store(1).await;
    fake.move_leader(b"k", 2);
    raw.put("k", "2").await.unwrap();
    assert_eq!(fake.calls("GetRegion"), 1);
}

#[tokio::test]
async fn a_store_that_hangs_is_left_for_another() {
    let fake = Fake::start().await;
    let raw = fake.client_with(impatient()).await.raw();
    fake.script("RawGet", [Reaction::Hang]);
    assert_eq!(raw.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_read_that_is_never_answered_ends_at_its_deadline_and_says_why() {
    let fake = Fake::start().await;
    let raw = fake.client_with(impatient()).await.raw();
    fake.script("RawGet", (0..50).map(|_| Reaction::Hang));
    let error = raw.get("k").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable() && error.attempts() > 1 && error.region().is_some());
    assert!(error.waited() >= Duration::from_millis(400));
    assert!(error.to_string().starts_with("raw get: waiting for"), "{error}");
}

#[tokio::test]
async fn a_write_that_is_never_answered_may_have_happened() {
    let fake = Fake::start().await;
    let raw = fake.client_with(impatient()).await.raw();
    fake.script("RawPut", (0..50).map(|_| Reaction::Hang));
    let error = raw.put("k", "v").await.unwrap_err();
    assert!(error.is_undetermined() && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_write_that_was_only_refused_has_not_happened() {
    let fake = Fake::start().await;
    let raw = fake.client_with(impatient()).await.raw();
    let refusal = Refusal::NotLeader { region_id: 1, leader: None };
    fake.script("RawPut", (0..500).map(|_| Reaction::Refuse(refusal.clone())));
    let error = raw.put("k", "v").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("a leader of r"), "{error}");
}

#[tokio::test]
async fn a_put_cut_off_is_sent_again_and_certain_in_the_end() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    fake.script("RawPut", [Reaction::DoThenBreak]);
    raw.put("k", "v").await.unwrap();
    assert!(fake.calls("RawPut") > 1);
}

#[tokio::test]
async fn a_strict_client_reports_a_put_cut_off() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw().strict();
    fake.script("RawPut", [Reaction::DoThenBreak]);
    assert!(raw.put("k", "v").await.unwrap_err().is_undetermined());
    assert_eq!(fake.calls("RawPut"), 1);
}

#[tokio::test]
async fn a_swap_cut_off_is_never_sent_twice() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    fake.script("RawCompareAndSwap", [Reaction::DoThenBreak]);
    let error = raw.compare_and_swap("k", None::<&str>, "v").await.unwrap_err();
    assert!(error.is_undetermined(), "{error}");
    assert_eq!(fake.calls("RawCompareAndSwap"), 1);
    assert_eq!(raw.get("k").await.unwrap(), Some("v".into()));
}

#[tokio::test]
async fn a_swap_that_never_left_is_sent_to_the_next_peer() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.get("warm").await.unwrap();
    fake.stop_store(1).await;
    fake.move_leader(b"k", 2);
    // The old connection may break on the way, and that leaves the outcome open; a read mends it.
    raw.get("warm").await.unwrap();
    fake.move_leader(b"k", 1);
    let swap = tokio::spawn({
        let raw = raw.clone();
        async move { raw.compare_and_swap("k", None::<&str>, "v").await }
    });
    let asked = fake.calls("GetStore");
    fake.until("the client is refused a connection", |state| {
        state.calls.get("GetStore").copied().unwrap_or(0) > asked
    })
    .await;
    fake.move_leader(b"k", 2);
    assert!(swap.await.unwrap().unwrap().swapped);
}

#[tokio::test]
async fn the_scheduler_is_followed_when_another_member_leads() {
    let fake = Fake::start().await;
    fake.add_member().await;
    let client = fake.client().await;
    fake.state.lock().scheduler_leader = None;
    let raw = client.raw();
    let get = tokio::spawn(async move { raw.get("k").await });
    let asked = fake.calls("GetMembers");
    fake.until("the client looks for a leader", |state| {
        state.calls.get("GetMembers").copied().unwrap_or(0) > asked + 2
    })
    .await;
    fake.state.lock().scheduler_leader = Some(1);
    assert_eq!(get.await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn without_a_scheduler_connecting_ends_at_its_deadline() {
    let config = Config { timeout: Duration::from_millis(100), ..Default::default() };
    // A port that was free a moment ago: nobody listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = client::Client::connect_with([address], config).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("the scheduler's leader"), "{error}");
}

#[tokio::test]
async fn a_client_needs_an_endpoint() {
    let error = client::Client::connect(Vec::<String>::new()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Mistake);
}
