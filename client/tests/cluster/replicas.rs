//! Reads from peers that do not lead.

use std::collections::BTreeSet;

use client::{Client, ReplicaRead, Snapshot};
use proto::Refusal;

use crate::fake::{Fake, Reaction};

async fn written(fake: &Fake) -> (Client, Snapshot) {
    let client = fake.client().await;
    let txn = client.transactions().begin().await.unwrap();
    txn.put("k", "v").unwrap();
    txn.commit().await.unwrap();
    client.raw().put("raw", "v").await.unwrap();
    let snapshot = client.transactions().snapshot().await.unwrap();
    fake.state.lock().served.clear();
    (client, snapshot)
}

fn stores(fake: &Fake) -> BTreeSet<u64> {
    let mut state = fake.state.lock();
    let served = std::mem::take(&mut state.served);
    served.into_iter().map(|(_, store)| store).collect()
}

/// S3.4: with `ReplicaRead::Follower` every read is asked of a follower.
#[tokio::test]
async fn reads_go_to_whom_they_are_meant_for() {
    let fake = Fake::start().await;
    let (client, snapshot) = written(&fake).await;
    let read = async |wish| {
        let snapshot = snapshot.with_replica_read(wish);
        for _ in 0..6 {
            assert_eq!(snapshot.get("k").await.unwrap(), Some("v".into()));
            assert_eq!(snapshot.scan(.., 9).await.unwrap().len(), 1);
            assert_eq!(snapshot.batch_get(["k"]).await.unwrap().len(), 1);
            let raw = client.raw().with_replica_read(wish);
            assert_eq!(raw.get("raw").await.unwrap(), Some("v".into()));
            assert_eq!(raw.scan(.., 9).await.unwrap().len(), 1);
        }
        stores(&fake)
    };
    assert_eq!(read(ReplicaRead::Leader).await, [1].into());
    assert_eq!(read(ReplicaRead::Follower).await, [2, 3].into());
    assert_eq!(read(ReplicaRead::Mixed).await, [1, 2, 3].into());
}

/// S3.4: … and where one refuses, of the leader.
#[tokio::test]
async fn what_a_replica_refuses_the_leader_answers() {
    let fake = Fake::start().await;
    let (client, snapshot) = written(&fake).await;
    let followers = snapshot.with_replica_read(ReplicaRead::Follower);
    let not_ready = Refusal::ReadIndexNotReady { region_id: 1, reason: "it merges".into() };
    for reaction in [Reaction::Refuse(not_ready), Reaction::Break] {
        fake.script("KvGet", [reaction]);
        assert_eq!(followers.get("k").await.unwrap(), Some("v".into()));
        let served: Vec<_> = fake.state.lock().served.drain(..).map(|(_, store)| store).collect();
        assert!(served.len() == 2 && served[0] != 1 && served[1] == 1, "{served:?}");
    }
    // The map is what it was: a write finds the leader at once.
    client.raw().put("raw", "w").await.unwrap();
    assert_eq!(stores(&fake), [1].into());
}

#[tokio::test]
async fn a_stale_read_asks_the_leader_only_where_the_replica_lags() {
    let fake = Fake::start().await;
    let (_client, snapshot) = written(&fake).await;
    let stale = snapshot.with_replica_read(ReplicaRead::Stale);
    for _ in 0..3 {
        assert_eq!(stale.get("k").await.unwrap(), Some("v".into()), "by the leader");
    }
    stores(&fake);
    fake.state.lock().has_safe_time = true;
    for _ in 0..3 {
        assert_eq!(stale.get("k").await.unwrap(), Some("v".into()));
    }
    assert_eq!(fake.state.lock().served.len(), 3);
    assert_eq!(stores(&fake), [1, 2, 3].into());
}

#[tokio::test]
async fn writes_and_locks_never_go_to_a_replica() {
    let fake = Fake::start().await;
    let config = client::Config { replica_read: ReplicaRead::Follower, ..Default::default() };
    let client = fake.client_with(config).await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.put("k", "v").await.unwrap();
    txn.commit().await.unwrap();
    client.raw().put("raw", "v").await.unwrap();
    assert_eq!(stores(&fake), [1].into());
    assert_eq!(client.raw().get("raw").await.unwrap(), Some("v".into()));
    assert!(!stores(&fake).contains(&1));
}
