//! Barriers and safe points, and ranges that go at once.

use std::time::Duration;

use client::{Barrier, Timestamp};

use crate::fake::{Fake, Reaction};

#[tokio::test]
async fn barriers_are_set_seen_and_ended() {
    let fake = Fake::start().await;
    let gc = fake.client().await.gc();
    gc.set_barrier("backup", Timestamp(70), None).await.unwrap();
    let state = gc.state().await.unwrap();
    let barrier = Barrier { id: "backup".into(), at: Timestamp(70), ttl: None };
    assert_eq!(state.barriers, [barrier]);
    let hour = Duration::from_secs(3600);
    assert_eq!(gc.keep("reader", Timestamp(50), hour).await.unwrap(), Timestamp(50));
    assert_eq!(gc.keep("reader", Timestamp(50), Duration::ZERO).await.unwrap(), Timestamp(70));
    gc.delete_barrier("backup").await.unwrap();
    assert_eq!(gc.state().await.unwrap().barriers, []);
}

#[tokio::test]
async fn a_destroyed_range_goes_from_every_store() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let txn = transactions.begin().await.unwrap();
    for key in ["a", "b", "z"] {
        txn.put(key, "v").unwrap();
    }
    txn.commit().await.unwrap();
    client.settled(Duration::from_secs(5)).await.unwrap();
    fake.state.lock().served.clear();
    fake.script("UnsafeDestroyRange", [Reaction::Break]);
    client.gc().unsafe_destroy_range("a".."n").await.unwrap();
    let served: Vec<_> = fake.state.lock().served.iter().map(|(_, store)| *store).collect();
    assert_eq!(served, [1, 2, 3], "each of them, and no store of another engine");
    let left = transactions.snapshot().await.unwrap().scan_keys(.., 9).await.unwrap();
    assert_eq!(left, ["z"]);
}
