//! The scheduler's leader is killed, or stands still, while clients ask for timestamps without a pause.
//!
//! Whatever happens, a timestamp is later than every one that had been answered before it was asked for, and
//! somebody serves again soon: when the lease is over and another member is elected. How soon is printed, not
//! judged: that is the machine's business as much as ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use tessera::ApiVersion;

use crate::cluster::{Processes, until};

/// How often the leader is hurt in turn; `TESSERA_SCHEDULER_ROUNDS` asks for more.
const ROUNDS: usize = 5;
/// Callers that ask for timestamps, each for the next when it has the last.
const CALLERS: usize = 16;
/// Timestamps that must be answered before the next blow.
const BETWEEN: u64 = 200;

fn rounds() -> usize {
    let asked = std::env::var("TESSERA_SCHEDULER_ROUNDS").ok();
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

/// What the callers share.
#[derive(Default)]
struct Seen {
    /// The latest timestamp that anybody has been answered.
    latest: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// Callers at work.
struct Load {
    seen: Arc<Seen>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(cluster: &Processes) -> Self {
        let seen = Arc::new(Seen::default());
        let mut callers = Vec::new();
        // Two clients: what one is answered binds the other.
        for client in [cluster.client().await, cluster.client().await] {
            for _ in 0..CALLERS / 2 {
                callers.push(tokio::spawn(ask(client.clone(), seen.clone())));
            }
        }
        let load = Self { seen, callers };
        load.goes_on().await;
        load
    }

    fn answered(&self) -> u64 {
        self.seen.answered.load(Ordering::Acquire)
    }

    /// Waits until many more were answered than now.
    async fn goes_on(&self) {
        let enough = self.answered() + BETWEEN;
        until("timestamps to go on", || async move { (self.answered() >= enough).then_some(()) })
            .await;
    }

    /// The longest time without any answer, from this moment to when they go on.
    async fn outage(&self) -> Duration {
        let (mut last, mut since, mut longest) = (self.answered(), Instant::now(), Duration::ZERO);
        let enough = last + BETWEEN;
        while last < enough {
            let now = until("a timestamp after the leader was hurt", || async move {
                (self.answered() > last).then(|| self.answered())
            })
            .await;
            longest = longest.max(since.elapsed());
            (last, since) = (now, Instant::now());
        }
        longest
    }

    async fn finish(self) {
        self.seen.stop.store(true, Ordering::Release);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let (answered, failed) = (self.seen.answered.load(Ordering::Acquire), &self.seen.failed);
        println!("{answered} timestamps, {} calls failed", failed.load(Ordering::Acquire));
    }
}

async fn ask(client: Client, seen: Arc<Seen>) {
    while !seen.stop.load(Ordering::Acquire) {
        let before = seen.latest.load(Ordering::Acquire);
        match client.timestamp().await {
            Ok(timestamp) => {
                assert!(timestamp.0 > before, "{timestamp} after {}", client::Timestamp(before));
                seen.latest.fetch_max(timestamp.0, Ordering::AcqRel);
                seen.answered.fetch_add(1, Ordering::AcqRel);
            }
            Err(_) => {
                seen.failed.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_grow_while_each_leader_is_killed() {
    let mut cluster = Processes::start(3, 1, ApiVersion::V1).await;
    let load = Load::start(&cluster).await;
    let mut longest = Duration::ZERO;
    for round in 1..=rounds() {
        let leader = cluster.leader_scheduler().await;
        cluster.schedulers[leader].kill();
        let outage = load.outage().await;
        println!("round {round}: no timestamp for {} ms", outage.as_millis());
        longest = longest.max(outage);
        cluster.schedulers[leader].start();
        load.goes_on().await;
    }
    println!("the longest wait was {} ms", longest.as_millis());
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_grow_while_each_leader_stands_still() {
    let cluster = Processes::start(3, 1, ApiVersion::V1).await;
    let load = Load::start(&cluster).await;
    for round in 1..=rounds() {
        let leader = cluster.leader_scheduler().await;
        let member = &cluster.schedulers[leader];
        member.pause();
        // Others serve; so its lease is over, and what waits in its sockets is old.
        let outage = load.outage().await;
        println!("round {round}: no timestamp for {} ms", outage.as_millis());
        member.resume();
        load.goes_on().await;
    }
    load.finish().await;
}
