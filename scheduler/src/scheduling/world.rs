//! Stores and regions that do at once what they are told: what schedulers lead to in the end.

use std::collections::{BTreeMap, BTreeSet};

use proto::{RegionId, StoreId, metapb, pdpb};

use crate::cluster::notation;
use crate::cluster::{Cluster, Moment, Policy, RegionRecord, Ticked};
use crate::ids::Ids;
use crate::operator::obedience::obey;
use crate::operator::{Operator, Purpose};

/// How often the scheduler is ticked at first, in milliseconds.
const TICK_MS: u64 = 10;
/// How often stores speak.
const STORE_MS: u64 = 10_000;

/// A cluster in which every order is carried out with the next tick.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) ids: Ids,
    pub(crate) moment: Moment,
    pub(crate) regions: BTreeMap<u64, RegionRecord>,
    pub(crate) stats: BTreeMap<u64, pdpb::StoreStats>,
    /// Bytes that are written to, and read from, a region in each second.
    pub(crate) flow: BTreeMap<u64, (u64, u64)>,
    orders: Vec<pdpb::RegionHeartbeatResponse>,
    told_at_ms: u64,
    /// How often the scheduler is ticked, in milliseconds.
    pub(crate) tick_ms: u64,
    /// Orders carried out.
    pub(crate) obeyed: usize,
}

impl World {
    /// So many empty stores.
    pub(crate) fn new(stores: u64, policy: Policy) -> Self {
        let moment = Moment { steady_ms: 1_000, wall_ms: 1_000_000 };
        let mut ids = Ids::begin(1_000_000);
        ids.bound_saved(2_000_000);
        let mut world = Self {
            cluster: Cluster::load(policy, "", [], [], moment),
            ids,
            moment,
            regions: BTreeMap::new(),
            stats: BTreeMap::new(),
            flow: BTreeMap::new(),
            orders: Vec::new(),
            told_at_ms: 0,
            tick_ms: TICK_MS,
            obeyed: 0,
        };
        (1..=stores).for_each(|id| world.add_store(id));
        world
    }

    pub(crate) fn add_store(&mut self, id: u64) {
        let address = format!("store-{id}:1");
        let store = metapb::Store { id, address, version: "8.5.0".into(), ..Default::default() };
        self.cluster.put_store(store, self.moment).unwrap();
        self.stats.insert(id, pdpb::StoreStats { store_id: id, ..Default::default() });
        self.store_speaks(id);
    }

    pub(crate) fn store_speaks(&mut self, id: u64) {
        self.cluster.on_store_heartbeat(self.stats[&id].clone(), self.moment).unwrap();
    }

    /// A region with voters on these stores, led from the first.
    pub(crate) fn add_region(&mut self, id: u64, stores: &[u64], mib: u64) {
        let peers: Vec<_> = stores
            .iter()
            .map(|&store_id| metapb::Peer {
                id: 100 * id + store_id,
                store_id,
                ..Default::default()
            })
            .collect();
        let record = RegionRecord {
            leader: peers.first().copied(),
            term: 6,
            approximate_bytes: mib << 20,
            region: metapb::Region {
                id,
                start_key: format!("{id:>9}").into(),
                end_key: format!("{:>9}", id + 1).into(),
                region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
                peers,
                ..Default::default()
            },
            ..Default::default()
        };
        self.regions.insert(id, record);
        self.beat(id, 0);
    }

    /// The region's leader speaks; so many seconds of its flow have passed.
    pub(crate) fn beat(&mut self, id: u64, seconds: u64) {
        let (written, read) = self.flow.get(&id).copied().unwrap_or_default();
        let now_s = self.moment.steady_ms / 1_000;
        let interval = (seconds > 0)
            .then(|| pdpb::TimeInterval { start_timestamp: now_s - seconds, end_timestamp: now_s });
        let heartbeat = pdpb::RegionHeartbeatRequest {
            bytes_written: written * seconds,
            bytes_read: read * seconds,
            keys_written: written * seconds / 1_000,
            keys_read: read * seconds / 1_000,
            interval,
            ..notation::heartbeat(&self.regions[&id])
        };
        let heard =
            self.cluster.on_region_heartbeat(heartbeat, &mut self.ids, self.moment).unwrap();
        self.orders.extend(heard.order);
    }

    /// Every leader speaks.
    pub(crate) fn all_beat(&mut self, seconds: u64) {
        let ids: Vec<_> = self.regions.keys().copied().collect();
        ids.into_iter().for_each(|id| self.beat(id, seconds));
    }

    /// Time passes.
    pub(crate) fn run(&mut self, ms: u64) {
        let until_ms = self.moment.steady_ms + ms;
        while self.moment.steady_ms < until_ms {
            self.tick();
        }
    }

    /// Time passes until there has been nothing to do for ten seconds.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let obeyed = self.obeyed;
            self.run(10_000);
            if self.obeyed == obeyed {
                return;
            }
        }
        panic!("it goes on and on:\n{:?}", self.cluster.operators().history().next());
    }

    fn tick(&mut self) {
        self.moment.steady_ms += self.tick_ms;
        self.moment.wall_ms += self.tick_ms;
        if self.moment.steady_ms - self.told_at_ms >= STORE_MS {
            self.told_at_ms = self.moment.steady_ms;
            let ids: Vec<_> = self.stats.keys().copied().collect();
            ids.into_iter().for_each(|id| self.store_speaks(id));
        }
        for order in std::mem::take(&mut self.orders) {
            self.follow(order);
        }
        let Ticked { orders, .. } = self.cluster.tick(&mut self.ids, self.moment);
        self.orders.extend(orders);
    }

    fn follow(&mut self, order: pdpb::RegionHeartbeatResponse) {
        let Some(record) = self.regions.get_mut(&order.region_id) else { return };
        if obey(&order, record).is_err() {
            return;
        }
        self.obeyed += 1;
        self.beat(order.region_id, 0);
    }

    /// Peers of each store, by id.
    pub(crate) fn peers(&self) -> Vec<usize> {
        let counts = |id: &u64| self.cluster.regions().counts(StoreId(*id)).regions;
        self.stats.keys().map(counts).collect()
    }

    /// Peers of one store, whether it speaks or not.
    pub(crate) fn held(&self, store: u64) -> usize {
        self.cluster.regions().counts(StoreId(store)).regions
    }

    /// Leaders of each store, by id.
    pub(crate) fn leaders(&self) -> Vec<usize> {
        let counts = |id: &u64| self.cluster.regions().counts(StoreId(*id)).leaders;
        self.stats.keys().map(counts).collect()
    }

    /// The plan under way for a region.
    pub(crate) fn plan(&self, region: u64) -> Option<&Operator> {
        self.cluster.operators().of(RegionId(region))
    }

    /// Plans under way of this purpose.
    pub(crate) fn under_way(&self, purpose: Purpose) -> usize {
        self.cluster.operators().count(purpose)
    }

    /// What the plans that have ended, or are under way, were called.
    pub(crate) fn descriptions(&self) -> BTreeSet<&'static str> {
        let ended = self.cluster.operators().history().map(|ended| ended.operator.description);
        let running = self.cluster.operators().running().map(|operator| operator.description);
        ended.chain(running).collect()
    }
}

/// The highest less the lowest.
pub(crate) fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}
