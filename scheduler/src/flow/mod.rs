//! What is read and written, where, and how fast: the flow that heartbeats tell of.
//!
//! A region's leader counts what was written to the region, which is written on every peer's store,
//! and what was read of it. A store that counts reads peer by peer tells of them in its own heartbeat
//! (`peer_stats`), which includes reads of followers; for such a store the leaders' counts are not
//! used.
//!
//! ```text
//!   region heartbeat ─► written ─► one stream a region       ─► load of every store with a peer
//!                    └► read    ─► one stream a region and store ─► load of that store
//!   store heartbeat  ─► read, by peer ─┘
//! ```
//!
//! A stream is *hot* when a number of reports in a row (`hot-region-cache-hits-threshold`) show it
//! above a threshold: a fixed lowest rate, and, on stores with many hot streams, a share of what the
//! [`TOP`]th of them has, so that hot means hotter than the rest. The *degree* says for how many
//! reports it has been so.
//!
//! Nothing of this is written down: a new leader of the scheduler counts anew.
//!
//! Left out: processor time, and buckets within a region.

mod stream;

use std::collections::{BTreeMap, BTreeSet};

use proto::{RegionId, StoreId, pdpb};

use crate::cluster::{Moment, RegionRecord};
use stream::Stream;
pub use stream::{Rates, Sample};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// Out of a region.
    Read,
    /// Into a region.
    Write,
}

impl Traffic {
    /// Below this nothing is hot, however cold the rest is.
    fn floor(self) -> Rates {
        match self {
            Self::Read => Rates { bytes: 8 << 10, keys: 128, queries: 128 },
            Self::Write => Rates { bytes: 1 << 10, keys: 32, queries: 32 },
        }
    }
}

/// Hot streams of a store after which only hotter ones count.
pub const TOP: usize = 60;
/// Share of the last of them, in percent, that is hot enough.
const TOP_PERCENT: u64 = 80;
/// A threshold that depends on all of a store's streams is good for so long.
const THRESHOLD_MS: u64 = 10_000;

/// What the streams of a store come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Read from peers here.
    pub read: Rates,
    /// Written to peers here.
    pub written: Rates,
    /// Written to regions that are led here.
    pub written_as_leader: Rates,
}

/// A stream at one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotPeer {
    /// Of which region.
    pub region: RegionId,
    /// At which store.
    pub store: StoreId,
    /// Whether the peer there leads.
    pub is_leader: bool,
    /// For how many reports it has been hot.
    pub degree: u32,
    /// Reports in a row that would have to show it cold before it is forgotten.
    pub anti_count: u32,
    /// How fast it is.
    pub rates: Rates,
    /// Steady time of the last word about it; `None` when nobody has said anything but that the region was split.
    pub heard_at_ms: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct RegionFlow {
    heard_at_ms: Option<u64>,
    leader: Option<StoreId>,
    stores: Vec<StoreId>,
    written: Stream,
    read: BTreeMap<StoreId, Stream>,
}

/// All streams.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    regions: BTreeMap<RegionId, RegionFlow>,
    loads: BTreeMap<StoreId, StoreLoad>,
    /// Stores that tell of reads peer by peer, and when they did last.
    tell_by_peer: BTreeMap<StoreId, u64>,
    thresholds: BTreeMap<(StoreId, Traffic), (Rates, u64)>,
    /// The regions whose streams are hot at a store, of what it reads and of what it leads. A threshold depends
    /// on these alone, and there are few of them among all that are known.
    hot: BTreeMap<(StoreId, Traffic), BTreeSet<RegionId>>,
}

/// What a region's heartbeat has counted. Taken before the heartbeat is taken apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    written: Sample,
    read: Sample,
    /// Seconds that it counts over; 0 when it does not say.
    seconds: u64,
}

impl Counted {
    /// What the heartbeat says.
    pub fn of(heartbeat: &pdpb::RegionHeartbeatRequest) -> Self {
        let (reads, writes) = queries(heartbeat.query_stats.as_ref());
        Self {
            written: Sample {
                bytes: heartbeat.bytes_written,
                keys: heartbeat.keys_written,
                queries: writes,
                ms: 0,
            },
            read: Sample {
                bytes: heartbeat.bytes_read,
                keys: heartbeat.keys_read,
                queries: reads,
                ms: 0,
            },
            seconds: seconds(heartbeat.interval.as_ref()),
        }
    }
}

/// Where a region's streams are hot: what is written counts at its leader.
fn hot_places(flow: &RegionFlow) -> Vec<(StoreId, Traffic)> {
    let is_written = |store: &StoreId| flow.written.degree() > 0 && flow.stores.contains(store);
    let written = flow.leader.filter(is_written).map(|store| (store, Traffic::Write));
    let read = flow.read.iter().filter(|(_, read)| read.degree() > 0);
    written.into_iter().chain(read.map(|(&store, _)| (store, Traffic::Read))).collect()
}

fn seconds(interval: Option<&pdpb::TimeInterval>) -> u64 {
    interval.map_or(0, |span| span.end_timestamp.saturating_sub(span.start_timestamp))
}

/// Requests that read, and requests that write.
fn queries(stats: Option<&pdpb::QueryStats>) -> (u64, u64) {
    let Some(stats) = stats else { return (0, 0) };
    let reads = [stats.get, stats.scan, stats.coprocessor];
    let writes = [
        stats.put,
        stats.delete,
        stats.delete_range,
        stats.prewrite,
        stats.commit,
        stats.rollback,
        stats.acquire_pessimistic_lock,
    ];
    let sum = |counts: &[u64]| counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    (sum(&reads), sum(&writes))
}

impl Flow {
    /// A region's leader has counted.
    pub fn on_region(&mut self, record: &RegionRecord, counted: Counted, moment: Moment) {
        let id = record.id();
        let leader = record.leader_store();
        // With this region among the others: before it is taken out.
        let at = leader.unwrap_or_default();
        let hot_written = self.threshold(at, Traffic::Write, moment);
        let hot_read = self.threshold(at, Traffic::Read, moment);
        let mut flow = self.take(id);
        let heard_before = flow.heard_at_ms.replace(moment.steady_ms);
        self.settle(&mut flow, record);
        // Before the first heartbeat nobody knows over which time it has counted.
        let ms = match (counted.seconds, heard_before) {
            (0, Some(before)) => moment.steady_ms.saturating_sub(before),
            (0, None) => 0,
            (seconds, _) => seconds.saturating_mul(1_000),
        };
        if ms > 0 {
            if flow.written.count(Sample { ms, ..counted.written }) {
                flow.written.judge(hot_written);
            }
            if let Some(leader) = leader
                && !self.tells_by_peer(leader)
            {
                let read = flow.read.entry(leader).or_default();
                if read.count(Sample { ms, ..counted.read }) {
                    read.judge(hot_read);
                }
            }
        }
        self.put(id, flow);
    }

    /// Where the region's peers are now decides whose load its streams are. The reads that a leader
    /// has counted go with the lead.
    fn settle(&self, flow: &mut RegionFlow, record: &RegionRecord) {
        flow.stores = record.region.peers.iter().map(|peer| StoreId(peer.store_id)).collect();
        let leader = record.leader_store();
        if let (Some(before), Some(now)) = (flow.leader, leader)
            && before != now
            && !self.tells_by_peer(before)
            && let Some(read) = flow.read.remove(&before)
            && !self.tells_by_peer(now)
        {
            flow.read.insert(now, read);
        }
        flow.leader = leader;
        let RegionFlow { stores, read, .. } = flow;
        read.retain(|store, _| {
            stores.contains(store) && (leader == Some(*store) || self.tells_by_peer(*store))
        });
    }

    /// A store has counted reads peer by peer.
    pub fn on_store(&mut self, stats: &pdpb::StoreStats, moment: Moment) {
        if stats.peer_stats.is_empty() {
            return;
        }
        let store = StoreId(stats.store_id);
        let heard_before = self.tell_by_peer.insert(store, moment.steady_ms);
        let ms = match (seconds(stats.interval.as_ref()), heard_before) {
            (0, Some(before)) => moment.steady_ms.saturating_sub(before),
            (0, None) => 0,
            (seconds, _) => seconds.saturating_mul(1_000),
        };
        if ms == 0 {
            return;
        }
        let told: BTreeMap<_, _> =
            stats.peer_stats.iter().map(|peer| (RegionId(peer.region_id), peer)).collect();
        // A peer that is not named was not read.
        let silent = self
            .regions
            .iter()
            .filter(|(id, flow)| flow.read.contains_key(&store) && !told.contains_key(id))
            .map(|(id, _)| *id);
        let silent: Vec<_> = silent.collect();
        let samples = told.iter().map(|(&id, peer)| {
            let (queries, _) = queries(peer.query_stats.as_ref());
            (id, Sample { bytes: peer.read_bytes, keys: peer.read_keys, queries, ms })
        });
        let samples: Vec<_> = samples
            .chain(silent.into_iter().map(|id| (id, Sample { ms, ..Sample::default() })))
            .collect();
        for (id, sample) in samples {
            // A region that no leader has spoken of has no place yet.
            if !self.regions.get(&id).is_some_and(|flow| flow.stores.contains(&store)) {
                continue;
            }
            let hot = self.threshold(store, Traffic::Read, moment);
            let mut flow = self.take(id);
            let read = flow.read.entry(store).or_default();
            if read.count(sample) {
                read.judge(hot);
            }
            self.put(id, flow);
        }
    }

    fn tells_by_peer(&self, store: StoreId) -> bool {
        self.tell_by_peer.contains_key(&store)
    }

    /// Regions that are gone have no streams.
    pub fn forget(&mut self, regions: &[RegionId]) {
        for &id in regions {
            self.take(id);
        }
    }

    /// A region has split: its parts go on as it did, each with its share, until their leaders count.
    pub fn on_split(&mut self, parent: RegionId, parts: &[RegionId]) {
        let Some(whole) = self.regions.get(&parent).cloned() else { return };
        let count = parts.len().max(1) as u64;
        for &part in parts {
            let shared = RegionFlow {
                heard_at_ms: whole.heard_at_ms,
                leader: whole.leader,
                stores: whole.stores.clone(),
                written: whole.written.share(count),
                read: whole.read.iter().map(|(store, read)| (*store, read.share(count))).collect(),
            };
            self.take(part);
            self.put(part, shared);
        }
    }

    /// Takes a region out of the loads.
    fn take(&mut self, id: RegionId) -> RegionFlow {
        let Some(flow) = self.regions.remove(&id) else { return RegionFlow::default() };
        self.load(&flow, Rates::minus);
        for place in hot_places(&flow) {
            if let Some(regions) = self.hot.get_mut(&place) {
                regions.remove(&id);
            }
        }
        flow
    }

    fn put(&mut self, id: RegionId, flow: RegionFlow) {
        self.load(&flow, Rates::plus);
        for place in hot_places(&flow) {
            self.hot.entry(place).or_default().insert(id);
        }
        self.regions.insert(id, flow);
    }

    fn load(&mut self, flow: &RegionFlow, change: fn(Rates, Rates) -> Rates) {
        let written = flow.written.rates();
        for &store in &flow.stores {
            let load = self.loads.entry(store).or_default();
            load.written = change(load.written, written);
        }
        if let Some(leader) = flow.leader {
            let load = self.loads.entry(leader).or_default();
            load.written_as_leader = change(load.written_as_leader, written);
        }
        for (store, read) in &flow.read {
            let load = self.loads.entry(*store).or_default();
            load.read = change(load.read, read.rates());
        }
    }

    /// From which rates on a stream of the store is hot.
    fn threshold(&mut self, store: StoreId, traffic: Traffic, moment: Moment) -> Rates {
        if let Some((threshold, at_ms)) = self.thresholds.get(&(store, traffic))
            && moment.steady_ms.saturating_sub(*at_ms) < THRESHOLD_MS
        {
            return *threshold;
        }
        let floor = traffic.floor();
        let regions = self.hot.get(&(store, traffic)).into_iter().flatten();
        let hot: Vec<Rates> = regions
            .filter_map(|id| self.regions.get(id))
            .filter_map(|flow| match traffic {
                Traffic::Write => Some(flow.written.rates()),
                Traffic::Read => flow.read.get(&store).map(Stream::rates),
            })
            .collect();
        let of_top = |rate: fn(&Rates) -> u64, floor: u64| {
            let mut rates: Vec<_> = hot.iter().map(rate).collect();
            rates.sort_unstable_by(|a, b| b.cmp(a));
            let last = rates.get(TOP - 1).copied().unwrap_or(0);
            floor.max(last.saturating_mul(TOP_PERCENT) / 100)
        };
        let threshold = Rates {
            bytes: of_top(|rates| rates.bytes, floor.bytes),
            keys: of_top(|rates| rates.keys, floor.keys),
            queries: of_top(|rates| rates.queries, floor.queries),
        };
        self.thresholds.insert((store, traffic), (threshold, moment.steady_ms));
        threshold
    }

    /// Every stream, at every store where it is.
    pub fn peers(&self, traffic: Traffic) -> impl Iterator<Item = HotPeer> {
        self.regions.iter().flat_map(move |(&region, flow)| {
            let (written, read): (&[StoreId], _) = match traffic {
                Traffic::Write => (&flow.stores, None),
                Traffic::Read => (&[], Some(&flow.read)),
            };
            let peer = move |store: StoreId, stream: &Stream| HotPeer {
                region,
                store,
                is_leader: flow.leader == Some(store),
                degree: stream.degree(),
                anti_count: stream.anti_count(),
                rates: stream.rates(),
                heard_at_ms: match traffic {
                    Traffic::Write => flow.heard_at_ms,
                    // From the store itself, if it tells.
                    Traffic::Read => self.tell_by_peer.get(&store).copied().or(flow.heard_at_ms),
                },
            };
            let written = written.iter().map(move |&store| peer(store, &flow.written));
            let read = read.into_iter().flatten();
            written.chain(read.map(move |(&store, stream)| peer(store, stream)))
        })
    }

    /// The streams that have been hot for so many reports.
    pub fn hot_peers(&self, traffic: Traffic, degree: u32) -> impl Iterator<Item = HotPeer> {
        self.peers(traffic).filter(move |peer| peer.degree >= degree.max(1))
    }

    /// Whether anything about the region has been hot for so many reports.
    pub fn is_hot(&self, region: RegionId, degree: u32) -> bool {
        let degree = degree.max(1);
        self.regions.get(&region).is_some_and(|flow| {
            flow.written.degree() >= degree
                || flow.read.values().any(|read| read.degree() >= degree)
        })
    }

    /// How fast the region is written, and read at each store.
    pub fn of(&self, region: RegionId) -> (Rates, BTreeMap<StoreId, Rates>) {
        let Some(flow) = self.regions.get(&region) else { return Default::default() };
        let read = flow.read.iter().map(|(store, read)| (*store, read.rates()));
        (flow.written.rates(), read.collect())
    }

    /// What all streams at the store come to.
    pub fn load_of(&self, store: StoreId) -> StoreLoad {
        self.loads.get(&store).copied().unwrap_or_default()
    }

    /// A store that is gone has no load, and tells of nothing.
    pub fn forget_store(&mut self, store: StoreId) {
        self.tell_by_peer.remove(&store);
        self.thresholds.retain(|(of, _), _| *of != store);
        if self.load_of(store) == StoreLoad::default() {
            self.loads.remove(&store);
        }
    }

    /// The stores that have any.
    pub fn stores(&self) -> BTreeSet<StoreId> {
        self.loads.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
