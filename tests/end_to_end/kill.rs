//! `kill -9` under load: every acknowledged write is there afterwards, and no call hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use tessera::ApiVersion;
use tokio::sync::Mutex;

use crate::cluster::{Processes, until};

/// How often everything is killed in turn; `TESSERA_KILL_ROUNDS` asks for more.
const ROUNDS: usize = 2;

/// Clients that write at the same time.
const WRITERS: usize = 4;

/// A call may take its deadline (10 s by default) and a little for the machine, never more.
const CALL_MAX: Duration = Duration::from_secs(15);

/// What the writers were told is written, and how their calls went.
#[derive(Default)]
struct Told {
    keys: Vec<String>,
    failures: usize,
    slowest: Duration,
}

struct Load {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write(client.clone(), writer, told.clone(), stop.clone())))
            .collect();
        Self { told, stop, writers }
    }

    /// Waits until more writes were acknowledged than now.
    async fn goes_on(&self) {
        let before = self.told.lock().await.keys.len();
        until("writes to go on", || async {
            (self.told.lock().await.keys.len() >= before + 2 * WRITERS).then_some(())
        })
        .await;
    }

    async fn finish(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        std::mem::take(&mut *self.told.lock().await)
    }
}

/// Raw and transactional writes in turn, each key once; the value is the key.
async fn write(client: Client, writer: usize, told: Arc<Mutex<Told>>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (start, transactional) = (Instant::now(), number % 2 == 0);
        let kind = if transactional { "t" } else { "r" };
        let key = format!("{kind}/{writer}/{number:06}");
        let written = if transactional {
            write_in_transaction(&client, &key).await
        } else {
            client.raw().put(&key, key.clone()).await
        };
        let mut told = told.lock().await;
        told.slowest = told.slowest.max(start.elapsed());
        match written {
            Ok(()) => told.keys.push(key),
            Err(_) => told.failures += 1,
        }
    }
}

async fn write_in_transaction(client: &Client, key: &str) -> client::Result<()> {
    let txn = client.transactions().begin().await?;
    txn.put(key, key.to_owned())?;
    txn.commit().await.map(drop)
}

async fn check(client: &Client, told: &Told) {
    println!(
        "{} writes acknowledged, {} failed, slowest {:?}",
        told.keys.len(),
        told.failures,
        told.slowest
    );
    assert!(told.slowest < CALL_MAX, "a call took {:?}", told.slowest);
    let reader = client.transactions().begin().await.unwrap();
    for key in &told.keys {
        let value = if key.starts_with('t') {
            reader.get(key).await.unwrap()
        } else {
            client.raw().get(key).await.unwrap()
        };
        assert_eq!(value.as_deref(), Some(key.as_bytes()), "{key} was acknowledged and is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_nine_of_each_and_of_all() {
    let rounds =
        std::env::var("TESSERA_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let mut cluster = Processes::start(3, 3, ApiVersion::V1).await;
    let client = cluster.client().await;
    let load = Load::start(&client);
    load.goes_on().await;
    for round in 1..=rounds {
        let leader = cluster.leader_store(b"r").await;
        cluster.stores[leader].kill();
        load.goes_on().await;
        cluster.stores[leader].start();

        let leader = cluster.leader_scheduler().await;
        cluster.schedulers[leader].kill();
        load.goes_on().await;
        cluster.schedulers[leader].start();

        cluster.kill_all();
        cluster.start_all();
        load.goes_on().await;
        cluster.wait_replicas().await;
        println!("round {round} of {rounds} done");
    }
    let told = load.finish().await;
    check(&client, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_grow_over_leader_changes() {
    let mut cluster = Processes::start(3, 1, ApiVersion::V1).await;
    let client = cluster.client().await;
    let mut last = client.transactions().timestamp().await.unwrap();
    for _ in 0..3 {
        let leader = cluster.leader_scheduler().await;
        cluster.schedulers[leader].kill();
        let next = until("a timestamp from another member", || {
            let client = client.clone();
            async move { client.transactions().timestamp().await.ok() }
        })
        .await;
        assert!(next > last, "{next} after {last}");
        last = next;
        cluster.schedulers[leader].start();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_away_long_catches_up_through_a_snapshot() {
    let mut cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let client = cluster.client().await;
    let leader = cluster.leader_store(b"k").await;
    let away = (leader + 1) % 3;
    cluster.stores[away].kill();
    // Far more entries and bytes than a leader keeps for one slow follower.
    let value = vec![b'v'; 32 * 1024];
    for batch in 0..40 {
        let pairs: Vec<_> =
            (0..64).map(|n| (format!("k/{batch:03}/{n:03}"), value.clone())).collect();
        client.raw().batch_put(pairs).await.unwrap();
    }
    cluster.stores[away].start();
    cluster.wait_replicas().await;
    // With the third store gone, the one that was away is needed for every write.
    let other = (leader + 2) % 3;
    cluster.stores[other].kill();
    until("a write that needs the returned store", || {
        let client = client.clone();
        async move { client.raw().put("k/last", "x").await.ok() }
    })
    .await;
    let value = client.raw().get("k/039/063").await.unwrap();
    assert_eq!(value.map(|value| value.len()), Some(32 * 1024));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_disk_is_replaced_by_a_new_store() {
    let mut cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let client = cluster.client().await;
    for number in 0..200 {
        client.raw().put(format!("k/{number:03}"), format!("value {number}")).await.unwrap();
    }
    let leader = cluster.leader_store(b"k").await;
    let lost = (leader + 1) % 3;
    let lost_id = cluster.store_id(lost).await;
    cluster.stores[lost].kill();
    std::fs::remove_dir_all(&cluster.stores[lost].folder).unwrap();

    // An empty disk may not speak for the store whose address it has: that one may have voted.
    cluster.stores[lost].start();
    let status = cluster.stores[lost].ended().await;
    assert!(!status.success());
    let log = cluster.stores[lost].log();
    assert!(log.contains(&format!("store {lost_id}")), "names who has the address: {log}");

    // The way TiKV has for it: the old store is deleted, a new one takes its replicas.
    cluster.add_store();
    // The scheduler refuses while too few would remain, so until the new one has joined.
    until("the lost store's delete to be taken", || async {
        let (status, _) = cluster.http("DELETE", &format!("/store/{lost_id}")).await;
        status.contains("200").then_some(())
    })
    .await;
    until("the lost store to keep no replica", || async {
        let (_, body) = cluster.http("GET", &format!("/store/{lost_id}")).await;
        body.contains("Tombstone").then_some(())
    })
    .await;
    cluster.wait_replicas().await;

    // With one of the old stores gone, the new one is needed for every write.
    cluster.stores[(leader + 2) % 3].kill();
    until("a write that needs the new store", || {
        let client = client.clone();
        async move { client.raw().put("k/last", "x").await.ok() }
    })
    .await;
    for number in 0..200 {
        let value = client.raw().get(format!("k/{number:03}")).await.unwrap();
        assert_eq!(value.as_deref(), Some(format!("value {number}").as_bytes()));
    }
}
