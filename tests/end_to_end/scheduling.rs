//! Stores come, are drained, and die, while clients work: peers and leaders even out, and nobody notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::Client;
use proto::pdpb;
use tessera::ApiVersion;

use crate::cluster::{Processes, http_with, until};

/// Regions that the keys are cut into: enough that a tenth of a store's leaders is more than the balancer
/// leaves alone.
const REGIONS: usize = 120;
/// Clients that write and read over all regions.
const USERS: usize = 4;
/// How long one change of the cluster may take; moves of many regions are not a matter of seconds.
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(200);

/// The key at which region `number` begins.
fn bound(number: usize) -> String {
    format!("k/{number:04}")
}

/// What the scheduler knows of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holds {
    peers: usize,
    leaders: usize,
}

/// Users at work, and what went wrong for them.
struct Users {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Users {
    async fn start(cluster: &Processes) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for number in 0..USERS {
            let client = cluster.client().await;
            tasks.push(tokio::spawn(use_cluster(client, number, stop.clone(), calls.clone())));
        }
        Self { stop, calls, tasks }
    }

    /// No call of any user failed.
    async fn finish(self) {
        self.stop.store(true, Ordering::Release);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(task.await.unwrap());
        }
        println!("{} calls", self.calls.load(Ordering::Acquire));
        assert!(failed.is_empty(), "calls failed: {failed:#?}");
    }
}

/// Writes a key of each region in turn and reads it back.
async fn use_cluster(
    client: Client,
    number: usize,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
) -> Vec<String> {
    let mut failed = Vec::new();
    let mut round = 0_u64;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        for region in (0..REGIONS).skip(number).step_by(USERS) {
            let (key, value) = (format!("{}/{number}", bound(region)), format!("{round}"));
            let written = client.raw().put(key.clone(), value.clone()).await;
            let read = client.raw().get(key.clone()).await;
            calls.fetch_add(2, Ordering::AcqRel);
            if let Err(error) = written {
                failed.push(format!("put {key}: {error}"));
            }
            match read {
                Ok(read) if read.as_deref() == Some(value.as_bytes()) => {}
                Ok(read) => failed.push(format!("{key} is {read:?}, not {value}")),
                Err(error) => failed.push(format!("get {key}: {error}")),
            }
            if failed.len() > 10 || stop.load(Ordering::Acquire) {
                return failed;
            }
        }
        // Busy, but not so that the machine has no time to move regions.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    failed
}

/// A cluster of three stores whose keys are cut into [`REGIONS`].
async fn cut_cluster() -> Processes {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    set(&cluster, "leader-balance-tolerance", "1").await;
    let (mut scheduler, header) = cluster.scheduler().await;
    let split_keys: Vec<Bytes> = (1..REGIONS).map(|number| bound(number).into()).collect();
    let request = pdpb::SplitRegionsRequest { header, split_keys, retry_limit: 10 };
    scheduler.split_regions(request).await.unwrap();
    wait("the keys to be cut", &cluster, |regions, _| regions.len() >= REGIONS).await;
    cluster
}

/// Sets one of the scheduler's settings.
async fn set(cluster: &Processes, name: &str, value: &str) {
    let member = cluster.schedulers[cluster.leader_scheduler().await].address;
    let body = format!("{{\"{name}\": {value}}}");
    let (status, answer) = http_with(member, "POST", "/config", &body).await.unwrap();
    assert!(status.contains("200"), "{name}: {status} {answer}");
}

/// Every region as the scheduler knows it, and what each store holds of them.
async fn look(cluster: &Processes) -> Option<(Vec<pdpb::Region>, BTreeMap<u64, Holds>)> {
    let (mut scheduler, header) = cluster.scheduler().await;
    let request = pdpb::ScanRegionsRequest { header: header.clone(), ..Default::default() };
    let regions = scheduler.scan_regions(request).await.ok()?.into_inner().regions;
    let request = pdpb::GetAllStoresRequest { header, exclude_tombstone_stores: true };
    let stores = scheduler.get_all_stores(request).await.ok()?.into_inner().stores;
    let mut holds: BTreeMap<u64, Holds> =
        stores.iter().map(|store| (store.id, Holds::default())).collect();
    for region in &regions {
        for peer in &region.region.as_ref()?.peers {
            holds.entry(peer.store_id).or_default().peers += 1;
        }
        if let Some(leader) = &region.leader {
            holds.entry(leader.store_id).or_default().leaders += 1;
        }
    }
    Some((regions, holds))
}

/// Looks until it is so; says what was seen last if it never is.
async fn wait(
    what: &str,
    cluster: &Processes,
    is_so: impl Fn(&[pdpb::Region], &BTreeMap<u64, Holds>) -> bool,
) -> BTreeMap<u64, Holds> {
    let start = Instant::now();
    let mut last = BTreeMap::new();
    while start.elapsed() < PATIENCE {
        if let Some((regions, holds)) = look(cluster).await {
            if is_so(&regions, &holds) {
                println!("{what}: after {:.1} s {holds:?}", start.elapsed().as_secs_f64());
                return holds;
            }
            last = holds;
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("waited {PATIENCE:?} in vain for {what}: {last:?}");
}

/// Every region has three voters, none of them behind, and no peer more; none is on `not_on`.
fn is_whole(regions: &[pdpb::Region], not_on: u64) -> bool {
    regions.len() >= REGIONS
        && regions.iter().all(|region| {
            let Some(meta) = &region.region else { return false };
            let voters = meta.peers.iter().filter(|peer| !proto::region::is_learner(peer));
            voters.count() == 3
                && meta.peers.len() == 3
                && region.pending_peers.is_empty()
                && region.leader.is_some()
                && meta.peers.iter().all(|peer| peer.store_id != not_on)
        })
}

/// Whether no store has more than a tenth above the one that has least.
fn is_even(holds: &BTreeMap<u64, Holds>, of: impl Fn(&Holds) -> usize) -> bool {
    let (least, most) = (holds.values().map(&of).min(), holds.values().map(&of).max());
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
    (most - least) * 10 <= most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_store_takes_its_share_and_is_drained_again() {
    let mut cluster = cut_cluster().await;
    let users = Users::start(&cluster).await;
    cluster.add_store();
    wait("a fourth store's share", &cluster, |regions, holds| {
        holds.len() == 4
            && is_whole(regions, 0)
            && is_even(holds, |store| store.peers)
            && is_even(holds, |store| store.leaders)
    })
    .await;

    let drained = cluster.store_id(0).await;
    let (status, answer) = cluster.http("DELETE", &format!("/store/{drained}")).await;
    assert!(status.contains("200"), "{status} {answer}");
    wait("a store without peers", &cluster, |regions, _| is_whole(regions, drained)).await;
    until("the drained store to be buried", || async {
        let (_, body) = cluster.http("GET", &format!("/store/{drained}")).await;
        body.contains("Tombstone").then_some(())
    })
    .await;
    // Its process may go now, and nobody misses it.
    cluster.stores[0].kill();
    let calls = users.calls.load(Ordering::Acquire);
    until("users to go on without it", || async {
        (users.calls.load(Ordering::Acquire) > calls + 200).then_some(())
    })
    .await;
    users.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_is_replaced_everywhere() {
    let mut cluster = cut_cluster().await;
    cluster.add_store();
    wait("four stores", &cluster, |regions, holds| {
        holds.len() == 4 && is_whole(regions, 0) && holds.values().all(|store| store.peers > 0)
    })
    .await;
    // Longer than the ten seconds between two heartbeats of a store, and not half an hour.
    set(&cluster, "max-store-down-time", "\"20s\"").await;
    let dead = cluster.store_id(1).await;
    cluster.stores[1].kill();
    wait("three healthy voters everywhere", &cluster, |regions, _| is_whole(regions, dead)).await;
    let client = cluster.client().await;
    for region in 0..REGIONS {
        client.raw().put(format!("{}/last", bound(region)), "x").await.unwrap();
    }
}
