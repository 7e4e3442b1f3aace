//! The cluster as this client knows it: the scheduler, the map of regions, the stores' addresses.
//!
//! Shared by everything made from one [`Client`](crate::Client). What it holds is belief, kept until
//! contradicted (`region_cache.rs`); a miss asks the scheduler, one caller at a time for keys that
//! fall together, so that a crowd of callers on a new region asks once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use proto::{KeyRange, StoreId, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::backoff::Pause;
use crate::batch_stream::BatchStreams;
use crate::call::Call;
use crate::config::Config;
use crate::connection::Connections;
use crate::error::{Cause, Result};
use crate::metrics::Metrics;
use crate::region_cache::{RegionCache, first_target};
use crate::route::{Correction, Route};
use crate::scheduler::{Described, Scheduler};
use crate::timestamps::Timestamps;

/// How many keys may be looked up with the scheduler at a time; keys are spread over these by hash.
const LOOKUPS_MAX: usize = 16;
/// A key, in the scheduler's form, behind every key anybody uses: the way to ask for the last region.
const LAST_KEY: &[u8] = &[0xff; 64];

/// Everything that the clients made from one connection share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) connections: Arc<Connections>,
    pub(crate) batches: BatchStreams,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scheduler: Arc<Scheduler>,
    timestamps: Timestamps,
    regions: Mutex<RegionCache>,
    addresses: Mutex<BTreeMap<StoreId, String>>,
    lookups: [tokio::sync::Mutex<()>; LOOKUPS_MAX],
    seeds: AtomicU64,
    /// Whose turn it is among replicas that may answer.
    turns: AtomicU64,
    background: watch::Sender<usize>,
    /// The runtime the client was made in: what goes on in the background goes on there.
    runtime: Handle,
}

impl Cluster {
    pub(crate) fn new(config: Config, endpoints: Vec<String>) -> Self {
        let connections = Arc::new(Connections::default());
        let timeout = config.scheduler_timeout;
        let scheduler = Arc::new(Scheduler::new(connections.clone(), endpoints, timeout));
        let seed = config.seed.unwrap_or_else(rand::random);
        let timestamps = Timestamps::start(scheduler.clone(), connections.clone(), timeout, seed);
        Self {
            config,
            connections,
            batches: BatchStreams::default(),
            metrics: Arc::default(),
            scheduler,
            timestamps,
            regions: Mutex::default(),
            addresses: Mutex::default(),
            lookups: Default::default(),
            seeds: AtomicU64::new(seed),
            turns: AtomicU64::new(0),
            background: watch::Sender::new(0),
            runtime: Handle::current(),
        }
    }

    /// The beginning of a call.
    pub(crate) fn call(&self, what: &'static str) -> Call {
        self.call_within(what, self.config.timeout)
    }

    /// The beginning of a call with a deadline of its own.
    pub(crate) fn call_within(&self, what: &'static str, timeout: std::time::Duration) -> Call {
        Call::new(what, timeout, self.seeds.fetch_add(1, Ordering::Relaxed))
    }

    /// A number that is another one each time.
    pub(crate) fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh timestamp.
    pub(crate) async fn timestamp(&self, call: &mut Call) -> Result<Timestamp> {
        self.timestamps.next(call).await
    }

    /// The way to the region that holds this key, in the scheduler's form.
    pub(crate) async fn locate(&self, call: &mut Call, key: &[u8]) -> Result<Route> {
        loop {
            if let Some(route) = self.regions.lock().find(key) {
                return Ok(route);
            }
            call.waits_for("the scheduler to say where the key lives", None);
            let _turn = call.bounded(self.lookups[spread(key)].lock()).await?;
            if let Some(route) = self.regions.lock().find(key) {
                return Ok(route);
            }
            self.metrics.lookup();
            let described = self.scheduler.region(call, key).await?;
            let described = self.learn(described);
            if let Some(route) = self.regions.lock().find(key) {
                return Ok(route);
            }
            if let Some(route) = described
                && KeyRange::of(&route.region).contains(key)
            {
                return Ok(route);
            }
            self.wait_for_region(call).await?;
        }
    }

    /// The way to the region that holds the keys right before `end`; `None` is the end of all keys.
    pub(crate) async fn locate_before(&self, call: &mut Call, end: Option<&[u8]>) -> Result<Route> {
        loop {
            if let Some(route) = self.regions.lock().find_before(end) {
                return Ok(route);
            }
            call.waits_for("the scheduler to say where the range ends", None);
            self.metrics.lookup();
            let key = end.unwrap_or(LAST_KEY);
            let mut described = self.scheduler.region(call, key).await?;
            // A bound between two regions belongs to the right one; the keys before it do not.
            if let Some(end) = end
                && described.as_ref().is_some_and(|(region, _)| region.start_key == end)
            {
                described = self.scheduler.region_before(call, end).await?;
            }
            // Unless somebody writes beyond the last key, the region that holds it has no end.
            while end.is_none()
                && let Some((region, _)) = &described
                && !region.end_key.is_empty()
            {
                described = self.scheduler.region(call, &region.end_key.clone()).await?;
            }
            let described = self.learn(described);
            if let Some(route) = self.regions.lock().find_before(end) {
                return Ok(route);
            }
            if let Some(route) = described {
                let range = KeyRange::of(&route.region);
                let reaches = match (&range.end, end) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(region_end), Some(end)) => region_end.as_ref() >= end,
                };
                if reaches && end.is_none_or(|end| range.start.as_ref() < end) {
                    return Ok(route);
                }
            }
            self.wait_for_region(call).await?;
        }
    }

    /// Takes in what the scheduler said about a region. Where the map knows better about some of its
    /// keys and nothing about others, the route is good for one try: the store answers with what is
    /// newer.
    fn learn(&self, described: Described) -> Option<Route> {
        let (region, leader) = described?;
        let peer = first_target(&region, leader, None)?;
        self.regions.lock().insert(region.clone(), leader, None);
        Some(Route { region: Arc::new(region), peer })
    }

    async fn wait_for_region(&self, call: &mut Call) -> Result<()> {
        let cause = Cause::Words("the scheduler knows of no such region yet".into());
        call.waits_for("a region for the key", Some(cause));
        call.pause(Pause::Scheduler).await
    }

    /// Where the store of this route listens. `None`: it has left, and the map was corrected.
    pub(crate) async fn address(&self, call: &mut Call, route: &Route) -> Result<Option<String>> {
        let id = route.store_id();
        if let Some(address) = self.addresses.lock().get(&id) {
            return Ok(Some(address.clone()));
        }
        match self.scheduler.store(call, id).await? {
            Some(store) => {
                self.addresses.lock().insert(id, store.address.clone());
                Ok(Some(store.address))
            }
            None => {
                self.regions.lock().next_peer(route);
                let cause = Cause::Words(format!("{id} has left the cluster"));
                call.waits_for(format!("a peer of {}", route.region_id()), Some(cause));
                call.pause(Pause::Region).await?;
                Ok(None)
            }
        }
    }

    /// The store did not answer there; it may be back under another address.
    pub(crate) fn forget_address(&self, route: &Route) {
        self.addresses.lock().remove(&route.store_id());
    }

    /// Teaches the map what a refusal said.
    pub(crate) fn correct(&self, route: &Route, correction: Correction) {
        let mut regions = self.regions.lock();
        match correction {
            Correction::Keep => {}
            Correction::Leader(leader) => regions.set_leader(route, leader),
            Correction::NextPeer => regions.next_peer(route),
            Correction::ForgetRegion => regions.forget_route(route),
            Correction::ForgetStore => {
                regions.forget_route(route);
                drop(regions);
                self.forget_address(route);
            }
            Correction::Regions(current) => {
                regions.forget_route(route);
                for region in current {
                    // Whoever led the whole most likely leads its parts.
                    regions.insert(region, None, Some(route.store_id()));
                }
            }
        }
    }

    /// The route held what it promised.
    pub(crate) fn confirm(&self, route: &Route) {
        self.regions.lock().confirm(route);
    }

    /// Does something that nobody waits for, and counts it until it is over. After the client's
    /// runtime has shut down it is not done at all.
    pub(crate) fn in_background(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted(self.clone());
        self.background.send_modify(|count| *count += 1);
        self.runtime.spawn(async move {
            let _counted = counted;
            work.await;
        });
    }

    /// Waits until nothing goes on in the background.
    pub(crate) async fn settled(&self, call: &mut Call) -> Result<()> {
        call.waits_for("work in the background", None);
        let mut count = self.background.subscribe();
        call.bounded(async {
            // The sender lives as long as `self` does.
            let _ = count.wait_for(|count| *count == 0).await;
        })
        .await
    }
}

/// One piece of background work; counted down also when its task is dropped half-way.
struct Counted(Arc<Cluster>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.background.send_modify(|count| *count -= 1);
    }
}

/// Which turn a key waits for: FNV-1a, because it is short and need not be more.
fn spread(key: &[u8]) -> usize {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % LOOKUPS_MAX as u64) as usize
}
