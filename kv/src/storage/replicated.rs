//! Storage through raftstore: views under a lease or behind a barrier, writes through the log.
//!
//! A view is taken in this order, and the order is the proof:
//!
//! 1. a look at the region's `ReadView`: does this peer hold a lease?
//! 2. a snapshot of the engine;
//! 3. the view again, with the clock read *now*: is it the same, is the epoch the caller's, does the
//!    lease still hold? Then nobody else can have acknowledged a write before the snapshot was taken
//!    that is not in it, and the answer needs no other thread.
//! 4. Else a barrier goes through the raft worker; then steps 2 and 3 again, where the barrier takes
//!    the place of the lease.
//!
//! The term that goes with the view is that of the first look: a write that builds on what was read is
//! refused if another leader may have written since.
//!
//! The range comes from the view that was checked: region id and version together name a range.
//!
//! Official clients treat "server is busy" as fatal or wait for seconds, and give up on a region
//! without a leader after 1.5 s. So a full inbox and an election are waited out here, for a bounded
//! time, before the client hears of them. So is a region of api version 2 that is still to be cut at the
//! bounds of a keyspace ([`bounds`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Refusal, RegionId, kvrpcpb, metapb, region};
use raftstore::driver::Router;
use raftstore::engine::{DataEngine, WriteBatch};
use raftstore::msg::Target;
use raftstore::read_view::{Before, ReadPath};
use tokio::sync::oneshot;

use super::{Storage, View};
use crate::bounds;
use crate::config::ApiVersion;
use crate::metrics::Metrics;

/// How long a read may take when the request does not say. At the end it is refused as not ready,
/// and clients ask again.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a full inbox is waited out before the client is told that the server is busy.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);
/// Between attempts at a full inbox: at first this long, doubling …
const BUSY_PAUSE_MIN: Duration = Duration::from_millis(2);
/// … up to this.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(64);

/// How long an election is waited out before the client is told that there is no leader. Ten tries
/// of a client that gives up after ten tries then outlast several elections.
const LEADER_WAIT_MAX: Duration = Duration::from_millis(200);

/// Regions told to a caller whose map is old, besides the one it asked.
const SIBLINGS_MAX: usize = 10;

/// How often it is looked whether a leader is known, or a region is cut.
const LEADER_PAUSE: Duration = Duration::from_millis(10);

/// The storage of a running store. Clones are the same store.
#[derive(Clone)]
pub struct Replicated<D> {
    router: Router<D>,
    metrics: Arc<Metrics>,
    api_version: ApiVersion,
}

impl<D> std::fmt::Debug for Replicated<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicated").finish_non_exhaustive()
    }
}

impl<D: DataEngine> Replicated<D> {
    pub(crate) fn new(router: Router<D>, metrics: Arc<Metrics>, api_version: ApiVersion) -> Self {
        Self { router, metrics, api_version }
    }

    /// Who is asked, and until when anybody waits for the answer.
    pub(crate) fn target(&self, context: &kvrpcpb::Context) -> Result<Target, Refusal> {
        let mut target = Target::of(context)?;
        if context.max_execution_duration_ms > 0 {
            let micros = context.max_execution_duration_ms.saturating_mul(1000);
            target.deadline = Some(self.router.now().plus(micros));
        }
        Ok(target)
    }

    /// Steps 2 and 3. `None` without a barrier: the lease does not hold.
    fn try_view(
        &self,
        target: &Target,
        before: &Before,
        barrier_passed: bool,
    ) -> Result<Option<View<D::Snapshot>>, Refusal> {
        let snapshot = self.router.data().snapshot();
        let (path, view) = self.router.read_views().check(before, target, self.router.now())?;
        match path {
            ReadPath::Lease => self.metrics.reads_by_lease.inc(),
            ReadPath::Barrier if barrier_passed => self.metrics.reads_by_barrier.inc(),
            ReadPath::Barrier => return Ok(None),
        };
        bounds::check(self.api_version, target.region_id, &view.range)?;
        Ok(Some(View {
            snapshot,
            range: view.range.clone(),
            term: before.term().unwrap_or(view.term),
        }))
    }

    async fn view_once(&self, context: &kvrpcpb::Context) -> Result<View<D::Snapshot>, Refusal> {
        let target = self.target(context)?;
        let before = self.router.read_views().before_snapshot(target.region_id);
        if let Some(view) = self.try_view(&target, &before, false)? {
            return Ok(view);
        }
        let (done, wait) = oneshot::channel();
        self.router.read_barrier(target.clone(), move |result| {
            // Nobody waits any more when the client has gone.
            let _ = done.send(result);
        });
        let limit = match context.max_execution_duration_ms {
            0 => READ_TIMEOUT,
            limit => Duration::from_millis(limit),
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Refusal::closing()))?,
            Err(_) if context.max_execution_duration_ms > 0 => {
                return Err(Refusal::deadline_exceeded());
            }
            Err(_) => {
                return Err(Refusal::ReadIndexNotReady {
                    region_id: context.region_id,
                    reason: "no quorum confirmed the leader in time".into(),
                });
            }
        }
        self.try_view(&target, &before, true)?.ok_or_else(Refusal::closing)
    }

    async fn write_once(
        &self,
        context: &kvrpcpb::Context,
        batch: WriteBatch,
    ) -> Result<(), Refusal> {
        let target = self.target(context)?;
        self.check_bounds(target.region_id)?;
        let (done, wait) = oneshot::channel();
        self.router.write(target, batch, move |result| {
            // The command has ended without waiting: the store stops.
            let _ = done.send(result);
        });
        // No deadline: latches are held until the fate is known, and the fate of a proposal is known
        // at the latest when this peer hears from the next leader, or stops.
        wait.await.unwrap_or_else(|_| Err(Refusal::closing()))
    }

    /// A caller whose map is old is told of the neighbours too: what it looks for is in one of the
    /// regions that a split made of the one it knew.
    fn with_siblings(&self, context: &kvrpcpb::Context, refusal: Refusal) -> Refusal {
        let Refusal::EpochNotMatch { current_regions } = &refusal else { return refusal };
        let [current] = current_regions.as_slice() else { return refusal };
        let known = context.region_epoch.unwrap_or_default().version;
        let splits = region::epoch(current).version.saturating_sub(known);
        let siblings_max = splits.min(SIBLINGS_MAX as u64) as usize;
        if siblings_max == 0 {
            return refusal;
        }
        let mut current_regions = current_regions.clone();
        let views = self.router.read_views().all();
        let here: Vec<_> = views.iter().map(|view| &view.region).collect();
        current_regions.extend(siblings(current, &here, siblings_max));
        Refusal::EpochNotMatch { current_regions }
    }

    /// Whether commands on this region are served yet. One that is not here is refused elsewhere.
    fn check_bounds(&self, region_id: RegionId) -> Result<(), Refusal> {
        if self.api_version != ApiVersion::V2 {
            return Ok(());
        }
        let view = self.router.read_views().by_id(region_id);
        view.map_or(Ok(()), |view| bounds::check(self.api_version, region_id, &view.range))
    }

    /// Waits a while for a leader to be known here, and for the region to be cut if it is to be.
    async fn await_leader(&self, region_id: RegionId) {
        let began = Instant::now();
        while began.elapsed() < LEADER_WAIT_MAX {
            tokio::time::sleep(LEADER_PAUSE).await;
            let view = self.router.read_views().by_id(region_id);
            let is_led = view.is_none_or(|view| view.leader.is_some());
            if is_led && self.check_bounds(region_id).is_ok() {
                return;
            }
        }
    }
}

/// Up to so many regions on either side of this one, without a gap between them.
fn siblings(
    current: &metapb::Region,
    here: &[&metapb::Region],
    siblings_max: usize,
) -> Vec<metapb::Region> {
    let mut found = Vec::new();
    let mut start = current.start_key.clone();
    while found.len() < siblings_max
        && !start.is_empty()
        && let Some(left) = here.iter().find(|region| region.end_key == start)
    {
        start = left.start_key.clone();
        found.push((*left).clone());
    }
    let mut end = current.end_key.clone();
    let both_max = (found.len() + siblings_max).min(SIBLINGS_MAX);
    while found.len() < both_max
        && !end.is_empty()
        && let Some(right) = here.iter().find(|region| region.start_key == end)
    {
        end = right.end_key.clone();
        found.push((*right).clone());
    }
    found
}

/// Waits that are worth another attempt, each for a bounded time.
#[derive(Default)]
struct Patience {
    busy_since: Option<Instant>,
    pause: Duration,
    waited_for_leader: bool,
}

impl Patience {
    /// Waits and returns `None` when another attempt is worth it; else the refusal to answer with.
    async fn wait<D: DataEngine>(
        &mut self,
        storage: &Replicated<D>,
        context: &kvrpcpb::Context,
        refusal: Refusal,
    ) -> Option<Refusal> {
        let is_uncut = matches!(&refusal, Refusal::RegionNotInitialized { .. })
            && storage.check_bounds(RegionId(context.region_id)).is_err();
        if is_uncut || matches!(&refusal, Refusal::NotLeader { leader: None, .. }) {
            if self.waited_for_leader || context.stale_read {
                return Some(refusal);
            }
            self.waited_for_leader = true;
            storage.await_leader(RegionId(context.region_id)).await;
            return None;
        }
        if !is_busy(&refusal) {
            return Some(refusal);
        }
        let since = *self.busy_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= BUSY_WAIT_MAX {
            return Some(refusal);
        }
        self.pause = (self.pause * 2).clamp(BUSY_PAUSE_MIN, BUSY_PAUSE_MAX);
        tokio::time::sleep(self.pause).await;
        None
    }
}

/// A limit was reached; not: the time is over.
fn is_busy(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::ServerIsBusy { .. }) && *refusal != Refusal::deadline_exceeded()
}

/// A stale read that finds no leader here finds no safe timestamp either: its client then asks the
/// leader, at once.
fn for_stale_read(context: &kvrpcpb::Context, refusal: Refusal) -> Refusal {
    if context.stale_read && matches!(refusal, Refusal::NotLeader { .. }) {
        let peer_id = context.peer.as_ref().map_or(0, |peer| peer.id);
        return Refusal::DataIsNotReady { region_id: context.region_id, peer_id, safe_ts: 0 };
    }
    refusal
}

impl<D: DataEngine> Storage for Replicated<D> {
    type Snapshot = D::Snapshot;

    async fn view(&self, context: &kvrpcpb::Context) -> Result<View<D::Snapshot>, Refusal> {
        let mut patience = Patience::default();
        loop {
            let refusal = match self.view_once(context).await {
                Ok(view) => return Ok(view),
                Err(refusal) => refusal,
            };
            if let Some(refusal) = patience.wait(self, context, refusal).await {
                self.metrics.refusals.inc();
                return Err(for_stale_read(context, self.with_siblings(context, refusal)));
            }
        }
    }

    async fn write(&self, context: &kvrpcpb::Context, batch: WriteBatch) -> Result<(), Refusal> {
        self.metrics.writes.inc();
        let mut patience = Patience::default();
        loop {
            // Keys and values are shared, not copied.
            let refusal = match self.write_once(context, batch.clone()).await {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            if let Some(refusal) = patience.wait(self, context, refusal).await {
                self.metrics.refusals.inc();
                return Err(self.with_siblings(context, refusal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start_key: &'static str, end_key: &'static str) -> metapb::Region {
        let (start_key, end_key) = (start_key.into(), end_key.into());
        metapb::Region { id, start_key, end_key, ..Default::default() }
    }

    #[test]
    fn siblings_are_the_neighbours_without_a_gap() {
        let all = [
            region(1, "", "b"),
            region(2, "b", "d"),
            region(3, "d", "f"),
            region(4, "f", "h"),
            // Here is a gap: a region of another store.
            region(5, "k", ""),
        ];
        let here: Vec<_> = all.iter().collect();
        let ids = |siblings_max| {
            let found = siblings(&all[2], &here, siblings_max);
            found.iter().map(|region| region.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), [2, 4]);
        assert_eq!(ids(9), [2, 1, 4]);
        assert!(siblings(&all[4], &here, 3).is_empty());
    }

    #[test]
    fn a_missed_deadline_is_not_a_busy_server() {
        let full = Refusal::ServerIsBusy { reason: "raft inbox is full".into(), backoff_ms: 0 };
        assert!(is_busy(&full));
        assert!(!is_busy(&Refusal::deadline_exceeded()));
    }

    #[test]
    fn a_stale_read_without_a_leader_here_is_sent_to_the_leader() {
        let stale = kvrpcpb::Context { stale_read: true, region_id: 2, ..Default::default() };
        let refusal = || Refusal::NotLeader { region_id: 2, leader: None };
        let answer = for_stale_read(&stale, refusal());
        assert!(matches!(answer, Refusal::DataIsNotReady { region_id: 2, safe_ts: 0, .. }));
        assert_eq!(for_stale_read(&kvrpcpb::Context::default(), refusal()), refusal());
    }
}
