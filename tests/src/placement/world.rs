//! The scheduler, the stores, the regions, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{RegionId, StoreId, metapb, pdpb};
use scheduler::cluster::{Cluster, Moment, Policy, Writes};
use scheduler::ids::Ids;

use super::region::{Obeyed, Region};
use super::tally::Tally;
use crate::sim::dice::Dice;
use crate::sim::events::{Events, Instant, MILLISECOND, SECOND};

/// How often a store speaks.
const STORE_BEAT: Instant = 10 * SECOND;
/// How often a region speaks that has no news.
const REGION_BEAT: Instant = 60 * SECOND;
/// How often the scheduler ticks, as its shell has it.
const TICK: Instant = 100 * MILLISECOND;
/// From an order to its being followed, usually: the way there and back, and an entry in the log.
const ORDER_USUAL: Instant = 20 * MILLISECOND;
/// A new peer needs this long for each MiB, and never less than [`CATCH_UP_LEAST`].
const CATCH_UP_PER_MIB: Instant = 20 * MILLISECOND;
const CATCH_UP_LEAST: Instant = 200 * MILLISECOND;
/// From the death of a leader to the next, at least; at most twice that.
const ELECTION: Instant = 10 * SECOND;
/// What every store's disk can hold, in bytes.
const CAPACITY: u64 = 10 << 40;
/// Ids that the machine gives out begin above those that the world makes up.
const IDS_FROM: u64 = 10_000_000;
/// For so long nothing may have moved before the cluster counts as at rest.
const QUIET: Instant = 120 * SECOND;

/// A store.
#[derive(Clone, Debug)]
struct Store {
    meta: metapb::Store,
    /// Since when it is dead.
    dead_since: Option<Instant>,
}

#[derive(Debug)]
enum Event {
    Tick,
    StoreBeat(u64),
    RegionBeat(u64),
    Order(Box<pdpb::RegionHeartbeatResponse>),
    CaughtUp { region: u64, peer: u64 },
    Election(u64),
}

/// Everything.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
    ids: Ids,
    events: Events<Event>,
    dice: Dice,
    stores: BTreeMap<u64, Store>,
    alive: BTreeSet<u64>,
    regions: BTreeMap<u64, Region>,
    /// What the scheduler group's log would hold.
    logged_stores: BTreeMap<u64, metapb::Store>,
    logged_regions: BTreeMap<u64, metapb::Region>,
    /// What was moved since the last reset.
    pub tally: Tally,
    moved_at: Instant,
}

impl World {
    /// No stores and no regions.
    pub fn new(seed: u64, policy: Policy) -> Self {
        let mut events = Events::default();
        events.after(TICK, Event::Tick);
        let mut ids = Ids::begin(IDS_FROM);
        ids.bound_saved(IDS_FROM + 1_000);
        Self {
            cluster: Cluster::load(policy, "", [], [], Moment { steady_ms: 0, wall_ms: WALL_MS }),
            ids,
            events,
            dice: Dice::new(seed),
            stores: BTreeMap::new(),
            alive: BTreeSet::new(),
            regions: BTreeMap::new(),
            logged_stores: BTreeMap::new(),
            logged_regions: BTreeMap::new(),
            tally: Tally::default(),
            moved_at: 0,
        }
    }

    /// The scheduler's picture.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Now, as the scheduler's shell would say it.
    pub fn moment(&self) -> Moment {
        let steady_ms = self.events.now() / MILLISECOND;
        Moment { steady_ms, wall_ms: WALL_MS + steady_ms }
    }

    /// When something moved last.
    pub fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// The regions, as they are.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// Whether the store runs.
    pub fn is_alive(&self, store: u64) -> bool {
        self.alive.contains(&store)
    }

    /// A store begins, with labels like `zone=a`.
    pub fn add_store(&mut self, id: u64, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|&(key, value)| metapb::StoreLabel { key: key.into(), value: value.into() });
        let meta = metapb::Store {
            id,
            address: format!("store-{id}:20160"),
            version: "8.5.0".into(),
            labels: labels.collect(),
            ..Default::default()
        };
        let moment = self.moment();
        let writes = self.cluster.put_store(meta.clone(), moment).expect("a new store is welcome");
        self.log(writes);
        self.stores.insert(id, Store { meta, dead_since: None });
        self.alive.insert(id);
        self.beat_store(id);
    }

    /// A region begins, with a peer on each of these stores; the first leads. It keeps the keys of its
    /// number, in bytes.
    pub fn add_region(&mut self, id: u64, stores: &[u64], size_mib: u64) {
        let peers = stores.iter().map(|&store_id| metapb::Peer {
            id: id * 1_000 + store_id,
            store_id,
            ..Default::default()
        });
        let region = metapb::Region {
            id,
            start_key: id.to_be_bytes().to_vec().into(),
            end_key: (id + 1).to_be_bytes().to_vec().into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: stores.len() as u64, version: 1 }),
            peers: peers.collect(),
            ..Default::default()
        };
        self.regions.insert(id, Region::new(region, size_mib << 20));
        self.say(id);
        let first = self.dice.within(0..REGION_BEAT);
        self.events.after(first, Event::RegionBeat(id));
    }

    /// What a region's leader says from now on about what is read and written.
    pub fn set_load(&mut self, region: u64, set: impl FnOnce(&mut pdpb::RegionHeartbeatRequest)) {
        set(&mut self.regions.get_mut(&region).expect("the region exists").said);
    }

    /// The store dies with all that is on it.
    pub fn kill_store(&mut self, id: u64) {
        let now = self.events.now();
        self.alive.remove(&id);
        self.stores.get_mut(&id).expect("the store exists").dead_since = Some(now);
        let led: Vec<u64> =
            self.regions.values().filter(|r| r.leader().store_id == id).map(Region::id).collect();
        for region in led {
            let silence = self.dice.within(ELECTION..2 * ELECTION);
            self.events.after(silence, Event::Election(region));
        }
    }

    /// An administrator has the store drained.
    pub fn drain_store(&mut self, id: u64) {
        let writes = self.cluster.take_store_offline(StoreId(id), false);
        self.log(writes.expect("enough stores remain"));
    }

    /// Whether the store has been drained and buried.
    pub fn is_buried(&self, id: u64) -> bool {
        self.cluster.stores().find(StoreId(id)).is_some_and(|store| store.is_tombstone())
    }

    /// Another member of the scheduler group leads: it knows what the log holds, and no more.
    pub fn change_scheduler(&mut self) {
        let stores: Vec<_> = self.logged_stores.values().cloned().collect();
        let regions: Vec<_> = self.logged_regions.values().cloned().collect();
        let version = self.cluster.version().to_string();
        let policy = self.cluster.policy().clone();
        self.cluster = Cluster::load(policy, &version, stores, regions, self.moment());
        self.ids = Ids::begin(self.ids.bound());
        // Stores and regions find the new leader and say at once how they are.
        let stores: Vec<u64> = self.alive.iter().copied().collect();
        stores.into_iter().for_each(|id| self.say_store(id));
        let regions: Vec<u64> = self.regions.keys().copied().collect();
        regions.into_iter().for_each(|id| self.say(id));
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Instant) {
        let end = self.events.now() + duration;
        while let Some(event) = self.events.next_before(end) {
            self.happen(event);
        }
        self.events.pass_until(end);
    }

    /// Lets time pass until nothing has moved for a while, and nothing is planned; says whether that was
    /// before `limit` had passed.
    pub fn run_until_rest(&mut self, limit: Instant) -> bool {
        let end = self.events.now() + limit;
        self.moved_at = self.events.now();
        while self.events.now() < end {
            self.run(SECOND);
            let is_quiet = self.events.now() - self.moved_at >= QUIET;
            if is_quiet && self.cluster.operators().running().next().is_none() {
                return true;
            }
        }
        false
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick => {
                self.events.after(TICK, Event::Tick);
                let moment = self.moment();
                let ticked = self.cluster.tick(&mut self.ids, moment);
                self.log(ticked.writes);
                self.reserve(ticked.ids_wanted);
                ticked.orders.into_iter().for_each(|order| self.send(order));
            }
            Event::StoreBeat(id) => self.beat_store(id),
            Event::RegionBeat(id) => {
                self.events.after(REGION_BEAT, Event::RegionBeat(id));
                self.say(id);
            }
            Event::Order(order) => self.obey(&order),
            Event::CaughtUp { region, peer } => self.catch_up(region, peer),
            Event::Election(id) => {
                let region = self.regions.get_mut(&id).expect("regions stay");
                if region.elect(&self.alive) {
                    self.say(id);
                }
            }
        }
    }

    /// The store speaks, and will again; a dead one does not.
    fn beat_store(&mut self, id: u64) {
        if self.alive.contains(&id) {
            self.say_store(id);
            self.events.after(STORE_BEAT, Event::StoreBeat(id));
        }
    }

    fn say_store(&mut self, id: u64) {
        let counts = self.cluster.regions().counts(StoreId(id));
        let used = counts.region_size_mib << 20;
        let stats = pdpb::StoreStats {
            store_id: id,
            capacity: CAPACITY,
            used_size: used,
            available: CAPACITY - used,
            region_count: u32::try_from(counts.regions).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let moment = self.moment();
        // One that is gone for good goes on speaking until it is told; nobody listens.
        let _ = self.cluster.on_store_heartbeat(stats, moment);
    }

    /// The region's leader speaks, if it lives.
    fn say(&mut self, id: u64) {
        let now = self.events.now();
        let stores = &self.stores;
        let region = self.regions.get_mut(&id).expect("regions stay");
        if !self.alive.contains(&region.leader().store_id) {
            return;
        }
        if self.alive.len() < stores.len() {
            region.silent_peers(|store| {
                stores[&store].dead_since.map(|since| (now - since) / SECOND)
            });
        }
        let said = region.said.clone();
        self.tally.beats += 1;
        let moment = self.moment();
        let heard = self.cluster.on_region_heartbeat(said, &mut self.ids, moment);
        let heard = heard.expect("a leader is listened to");
        self.log(heard.writes);
        self.reserve(heard.ids_wanted);
        if let Some(order) = heard.order {
            self.send(order);
        }
    }

    /// What the group's log is asked to hold, it holds.
    fn log(&mut self, writes: Writes) {
        for id in writes.removed_stores {
            self.logged_stores.remove(&id);
        }
        for id in writes.removed_regions {
            self.logged_regions.remove(&id);
        }
        self.logged_stores.extend(writes.stores.into_iter().map(|store| (store.id, store)));
        self.logged_regions.extend(writes.regions.into_iter().map(|region| (region.id, region)));
    }

    fn reserve(&mut self, wanted: Option<u64>) {
        let bound = wanted.max(self.ids.wants_bound());
        if let Some(bound) = bound {
            self.ids.bound_saved(bound);
        }
    }

    fn send(&mut self, order: pdpb::RegionHeartbeatResponse) {
        let delay = self.dice.delay(ORDER_USUAL);
        self.events.after(delay, Event::Order(Box::new(order)));
    }

    fn obey(&mut self, order: &pdpb::RegionHeartbeatResponse) {
        let Some(region) = self.regions.get_mut(&order.region_id) else { return };
        let leads = self.alive.contains(&region.leader().store_id);
        if !leads || !region.has_quorum(&self.alive) {
            self.tally.dropped += 1;
            return;
        }
        let size_mib = region.said.approximate_size >> 20;
        let obeyed = region.obey(order);
        // A plan never takes from a region what it needs to decide anything.
        assert!(region.has_quorum(&self.alive), "r{} is left without a quorum", order.region_id);
        match obeyed {
            Obeyed::Dropped | Obeyed::Unheard => {
                self.tally.dropped += 1;
                return;
            }
            Obeyed::PeerAdded(peer) => {
                self.tally.peers_added += 1;
                self.tally.added_mib += size_mib;
                let takes = CATCH_UP_LEAST.max(CATCH_UP_PER_MIB * size_mib);
                let takes = self.dice.within(takes..2 * takes);
                let caught_up = Event::CaughtUp { region: order.region_id, peer: peer.id };
                self.events.after(takes, caught_up);
            }
            Obeyed::LeaderMoved => self.tally.leaders_moved += 1,
            Obeyed::PeerRemoved(_) => self.tally.peers_removed += 1,
            Obeyed::RolesChanged => {}
        }
        self.moved_at = self.events.now();
        self.say(order.region_id);
    }

    fn catch_up(&mut self, region: u64, peer: u64) {
        let known = self.regions.get_mut(&region).expect("regions stay");
        let lives = known
            .region()
            .peers
            .iter()
            .any(|have| have.id == peer && self.alive.contains(&have.store_id));
        if lives && known.caught_up(peer) {
            self.say(region);
        }
    }

    /// For each store that takes part, what `count` makes of each region and its peer there.
    pub fn by_store(&self, count: impl Fn(&Region, &metapb::Peer) -> u64) -> BTreeMap<u64, u64> {
        let takes_part = |id: &&u64| {
            let store = self.cluster.stores().find(StoreId(**id));
            self.alive.contains(*id) && store.is_some_and(|store| store.is_up())
        };
        let mut by_store: BTreeMap<u64, u64> =
            self.stores.keys().filter(takes_part).map(|&id| (id, 0)).collect();
        for region in self.regions.values() {
            for peer in &region.region().peers {
                if let Some(sum) = by_store.get_mut(&peer.store_id) {
                    *sum += count(region, peer);
                }
            }
        }
        by_store
    }

    /// The value of a store's label, as it registered.
    pub fn label(&self, store: u64, key: &str) -> Option<&str> {
        let labels = &self.stores.get(&store)?.meta.labels;
        labels.iter().find(|label| label.key == key).map(|label| label.value.as_str())
    }

    /// The scheduler's picture is what is: every region's peers and leader, and what each store holds.
    pub fn check_picture(&self) {
        let picture = self.cluster.regions();
        assert_eq!(picture.len(), self.regions.len());
        for region in self.regions.values() {
            let known = picture.by_id(RegionId(region.id())).map(Arc::as_ref);
            let known = known.expect("every region is known");
            assert_eq!(known.region, *region.region());
            assert_eq!(known.leader, region.said.leader);
        }
        for (store, peers) in self.by_store(|_, _| 1) {
            assert_eq!(picture.counts(StoreId(store)).regions as u64, peers, "s{store}");
        }
    }
}

/// Where the wall clock stands when the world begins.
const WALL_MS: u64 = 1_700_000_000_000;
