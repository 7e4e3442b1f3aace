//! A store's part in garbage collection: hears of safe points, resolves old locks, removes old versions.
//!
//! ```text
//!            ┌────────────────── every so often ──────────────────────────┐
//!            ▼                                                            │
//! tells the scheduler: heard of T, no old lock left in these ranges       │
//!   ◄── txn safe point, GC safe point                                     │
//! lets in nobody below them, from now on                                  │
//! txn safe point ahead? ──► resolves the locks before it, region by region│
//!                           that this store leads                    ─────┤
//! GC safe point moved?  ──► tells the engine; removes versions,           │
//!                           region by region that is here            ─────┘
//! ```
//!
//! **Who resolves.** Whoever leads a region, when it hears of a new safe point: so there is always one who
//! can, and nobody else is needed. What became of a lock's transaction its primary knows, on whatever store
//! that is ([`elsewhere`]). A transaction that began before the safe point and is not committed is rolled
//! back, alive or not ([`resolve`]).
//!
//! **Why nothing that is needed goes.** A commit record at the primary may go only when no lock waits to
//! learn from it. So locks are resolved everywhere before the GC safe point moves, and none comes after:
//! every store refuses transactions that began at or before the txn safe point it has heard of, waits for
//! commands under way before it looks for locks, and the scheduler waits until all have heard. A store that
//! starts hears before it serves.
//!
//! **When nothing follows.** A store that cannot reach the scheduler goes on with what it has heard. A region
//! that has no leader keeps its locks, and so all of the cluster's versions; with a leader they go. A safe
//! point far in the future can only be a mistake, and is not heeded.
//!
//! Left out: TiKV's lock observers, by which TiDB finds locks below the replication.

mod elsewhere;
mod resolve;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::schedulerpb::{CollectResponse, ResolvedRange};
use proto::{KeyRange, RegionId, Timestamp, kvrpcpb, region};
use raftstore::engine::DataEngine;
use raftstore::read_view::ReadView;

pub(crate) use self::elsewhere::Elsewhere;
use crate::scheduler_link::client::{CallError, SchedulerClient};
use crate::service::Store;
use crate::txn::safe_points::SafePoints;

/// How far ahead of this store's clock a safe point may lie. Clocks differ; timestamps run ahead a little.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// After a region whose locks could not be resolved: when it is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long commands under way are waited for before locks are looked for; then the round is left out.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);

/// Regions whose locks are resolved before the scheduler is told.
const REGIONS_PER_REPORT: usize = 1024;

/// What a store needs to collect garbage, besides itself.
pub(crate) struct Parts {
    pub(crate) scheduler: Arc<SchedulerClient>,
    pub(crate) elsewhere: Elsewhere,
    /// How often the scheduler is asked when nothing is under way.
    pub(crate) interval: Duration,
}

/// Hears of the safe points before the store serves.
pub(crate) async fn hear_first<D: DataEngine>(
    scheduler: &SchedulerClient,
    store_id: u64,
    data: &D,
    points: &SafePoints,
    deadline: Instant,
) -> Result<(), CallError> {
    let ask = || scheduler.collect(store_id, 0, Vec::new());
    adopt(points, data, SchedulerClient::until(deadline, ask).await?).await;
    Ok(())
}

/// Goes by these safe points from now on: first readers and writers are kept out, then versions may go.
async fn adopt(points: &SafePoints, data: &impl DataEngine, told: CollectResponse) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + AHEAD_MAX;
    let latest = Timestamp::new(now.as_millis() as u64, 0).0;
    let heeded = |name, safe_point| {
        if safe_point > latest {
            tracing::warn!(name, safe_point, "a safe point lies in the future and is not heeded");
            return 0;
        }
        safe_point
    };
    points.adopt(heeded("txn", told.txn_safe_point), heeded("gc", told.gc_safe_point));
    let (data, safe_point) = (data.clone(), points.gc());
    if safe_point > data.safe_point() {
        // It is written down first.
        let raised = tokio::task::spawn_blocking(move || data.raise_safe_point(safe_point)).await;
        if let Ok(Err(fault)) = raised {
            tracing::error!(%fault, safe_point, "the engine keeps to its safe point");
        }
    }
}

/// What is done for the newest safe points.
#[derive(Default)]
struct Progress {
    /// The txn safe point that `clean` is about.
    target: u64,
    /// Regions without a lock before it, each with the version that was looked at.
    clean: BTreeMap<RegionId, (u64, KeyRange)>,
    /// The GC safe point up to which versions were removed.
    collected: u64,
}

impl Progress {
    fn report(&self) -> Vec<ResolvedRange> {
        let of = |(_, range): &(u64, KeyRange)| ResolvedRange {
            start_key: range.start.clone(),
            end_key: range.wire_end(),
        };
        self.clean.values().map(of).collect()
    }

    fn is_clean(&self, view: &ReadView) -> bool {
        let version = region::epoch(&view.region).version;
        self.clean.get(&RegionId(view.region.id)).is_some_and(|(seen, _)| *seen == version)
    }
}

/// Takes part in garbage collection for as long as the store lives.
pub(crate) async fn run<D: DataEngine>(store: Weak<Store<D>>, parts: Parts) {
    let mut progress = Progress::default();
    loop {
        let Some(alive) = store.upgrade() else { return };
        let points = alive.transactions.safe_points().clone();
        let report = if progress.target == points.txn() { progress.report() } else { Vec::new() };
        match parts.scheduler.collect(alive.store_id.0, points.txn(), report).await {
            Ok(told) => adopt(&points, alive.router.data(), told).await,
            Err(error) => tracing::debug!(%error, "the scheduler tells no safe points"),
        }
        if progress.target != points.txn() {
            progress.target = points.txn();
            progress.clean.clear();
        }
        let mut pause = parts.interval;
        if points.txn() > points.gc() {
            // Commands that were let in before may still be on their way into the log.
            let is_settled = tokio::time::timeout(SETTLE_TIME_MAX, points.settled()).await.is_ok();
            pause = if is_settled {
                match resolve_regions(&alive, &parts.elsewhere, &mut progress).await {
                    Resolved::Some => Duration::ZERO,
                    Resolved::Nothing => pause.min(TRY_AGAIN_AFTER * 2),
                    Resolved::Trouble => TRY_AGAIN_AFTER,
                }
            } else {
                tracing::warn!(
                    "a write of before the safe point does not end: locks are left alone"
                );
                TRY_AGAIN_AFTER
            };
        }
        let safe_point = alive.router.data().safe_point();
        if safe_point > progress.collected {
            remove_versions(&alive).await;
            progress.collected = safe_point;
        }
        drop(alive);
        tokio::time::sleep(pause).await;
    }
}

enum Resolved {
    /// There is something to tell.
    Some,
    /// All regions led here are clean, and the scheduler knows.
    Nothing,
    /// A region could not be resolved now.
    Trouble,
}

async fn resolve_regions<D: DataEngine>(
    store: &Arc<Store<D>>,
    elsewhere: &Elsewhere,
    progress: &mut Progress,
) -> Resolved {
    let views = store.router.read_views().all();
    let led = views.iter().filter(|view| view.is_leader && !progress.is_clean(view));
    let todo: Vec<_> = led.take(REGIONS_PER_REPORT).cloned().collect();
    let mut outcome = Resolved::Nothing;
    for view in todo {
        let context = context_of(&view);
        let resolved = resolve::resolve(
            &store.transactions,
            elsewhere,
            &context,
            &view.range,
            progress.target,
        );
        match resolved.await {
            Ok(count) => {
                store.metrics.old_locks.inc_by(count);
                if count > 0 {
                    tracing::info!(
                        region = view.region.id,
                        count,
                        "resolved locks of old transactions"
                    );
                }
                let version = region::epoch(&view.region).version;
                let clean = (version, view.range.clone());
                progress.clean.insert(RegionId(view.region.id), clean);
                if !matches!(outcome, Resolved::Trouble) {
                    outcome = Resolved::Some;
                }
            }
            Err(cause) => {
                tracing::debug!(region = view.region.id, cause, "old locks stay for now");
                outcome = Resolved::Trouble;
            }
        }
    }
    outcome
}

fn context_of(view: &ReadView) -> kvrpcpb::Context {
    kvrpcpb::Context {
        region_id: view.region.id,
        region_epoch: view.region.region_epoch,
        peer: Some(view.peer),
        ..Default::default()
    }
}

/// Every replica here, led or not: each store removes for itself.
async fn remove_versions<D: DataEngine>(store: &Arc<Store<D>>) {
    for view in store.router.read_views().all() {
        let metrics = store.metrics.clone();
        let (store, range) = (store.clone(), view.range.clone());
        // May take long: files may be rewritten. The node waits for its end when it stops.
        let removed =
            tokio::task::spawn_blocking(move || store.router.data().collect_garbage(&range));
        match removed.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => {
                metrics.old_versions.inc_by(count);
                tracing::debug!(region = view.region.id, count, "removed old versions");
            }
            Ok(Err(fault)) => {
                tracing::error!(%fault, region = view.region.id, "old versions stay");
            }
        }
    }
}
