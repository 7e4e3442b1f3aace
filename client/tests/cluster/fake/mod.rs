//! A cluster in this process, over real sockets, that does as it is told.
//!
//! Its stores share one state, so a region may change its leader or its bounds between two requests;
//! what a real store refuses, these refuse too. On top, a test may script what becomes of the next
//! requests of a kind: refused, never answered, the connection broken before or after the deed.

mod batch;
mod percolator;
mod pessimistic;
mod scheduler;
mod serve;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use client::{Client, Config, TransactionOptions};
use parking_lot::Mutex;
use proto::{KeyRange, Refusal, Timestamp, memcomparable, metapb};
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub(crate) use percolator::Percolator;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Reaction {
    /// Refused with a region error.
    Refuse(Refusal),
    /// Never answered.
    Hang,
    /// Done, and never answered.
    DoThenHang,
    /// Not done, and the connection breaks.
    Break,
    /// Done, and the connection breaks before the answer.
    DoThenBreak,
    /// Nothing out of the ordinary.
    Do,
}

/// What becomes of a request for timestamps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TsoReaction {
    End,
    WrongCount,
    Hang,
}

pub(crate) struct Region {
    pub(crate) meta: metapb::Region,
    pub(crate) leader: metapb::Peer,
}

/// The state shared by all servers.
pub(crate) struct State {
    pub(crate) regions: Vec<Region>,
    /// What the scheduler believes; lags behind when a test says so.
    pub(crate) reported: Option<Vec<(metapb::Region, metapb::Peer)>>,
    pub(crate) stores: BTreeMap<u64, String>,
    pub(crate) members: Vec<String>,
    pub(crate) scheduler_leader: Option<usize>,
    pub(crate) raw: BTreeMap<Bytes, Bytes>,
    pub(crate) ttls: BTreeMap<Bytes, u64>,
    pub(crate) txn: Percolator,
    pub(crate) script: BTreeMap<&'static str, VecDeque<Reaction>>,
    pub(crate) tso_script: VecDeque<TsoReaction>,
    pub(crate) calls: BTreeMap<&'static str, usize>,
    /// Which store served which request, in order.
    pub(crate) served: Vec<(&'static str, u64)>,
    /// Whether the stores know the batched stream.
    pub(crate) knows_batches: bool,
    /// Whether stores say how a region looks when it has changed; those of old only say that it has.
    pub(crate) tells_regions: bool,
    /// Whether replicas know how far they have come.
    pub(crate) has_safe_time: bool,
    /// What must not be collected, by name.
    pub(crate) barriers: BTreeMap<String, u64>,
    /// Every key is stored memcomparable, as in API V2.
    pub(crate) is_v2: bool,
    ahead: Duration,
    last_timestamp: u64,
    next_id: u64,
}

impl State {
    /// The next `count` timestamps; returns the last.
    pub(crate) fn timestamps(&mut self, count: u64) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + self.ahead;
        let now = Timestamp::new(since.as_millis() as u64, 0).0;
        self.last_timestamp = now.max(self.last_timestamp + 1) + count - 1;
        Timestamp(self.last_timestamp)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// A running fake. Its servers end with it.
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    /// Each server has a runtime of its own: ending it breaks its connections, as a crash does.
    servers: Mutex<BTreeMap<String, Runtime>>,
}

impl Fake {
    /// Three stores, one member of the scheduler, one region led by store 1.
    pub(crate) async fn start() -> Arc<Self> {
        let mut state = State {
            regions: Vec::new(),
            reported: None,
            stores: BTreeMap::new(),
            members: Vec::new(),
            scheduler_leader: Some(0),
            raw: BTreeMap::new(),
            ttls: BTreeMap::new(),
            txn: Percolator::default(),
            script: BTreeMap::new(),
            tso_script: VecDeque::new(),
            calls: BTreeMap::new(),
            served: Vec::new(),
            knows_batches: true,
            tells_regions: true,
            has_safe_time: false,
            barriers: BTreeMap::new(),
            is_v2: false,
            ahead: Duration::ZERO,
            last_timestamp: 0,
            next_id: 100,
        };
        let peers: Vec<_> = (1..=3).map(|store_id| peer(state.id(), store_id)).collect();
        let meta = metapb::Region {
            id: state.id(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: peers.clone(),
            ..Default::default()
        };
        state.regions.push(Region { meta, leader: peers[0] });
        let fake = Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(()),
            servers: Mutex::default(),
        });
        for store in 1..=3 {
            fake.start_store(store).await;
        }
        fake.add_member().await;
        fake
    }

    /// A cluster whose raw and transactional keys are cut into regions at these keys.
    pub(crate) async fn split_at(keys: &[&'static str]) -> Arc<Self> {
        let fake = Self::start().await;
        for key in keys {
            fake.split(key.as_bytes());
            fake.split(&memcomparable::encode(key.as_bytes()));
        }
        fake
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.state.lock().members.iter().map(|member| format!("http://{member}")).collect()
    }

    /// A client whose transactions commit in two phases, so that each of them can be met.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(two_phases()).await
    }

    pub(crate) async fn client_with(&self, config: Config) -> Client {
        let config = Config { seed: Some(1), ..config };
        Client::connect_with(self.endpoints(), config).await.unwrap()
    }

    /// Starts a store's server, on a port of its own, and tells the scheduler.
    pub(crate) async fn start_store(self: &Arc<Self>, store: u64) {
        let (address, server) = serve::store(self.clone(), store).await;
        self.state.lock().stores.insert(store, address);
        self.servers.lock().insert(format!("store {store}"), server);
    }

    /// Stops a store's server; connections to it break, new ones are refused.
    pub(crate) async fn stop_store(&self, store: u64) {
        let server = self.servers.lock().remove(&format!("store {store}"));
        let server = server.expect("it was started");
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    }

    /// Adds a member to the scheduler.
    pub(crate) async fn add_member(self: &Arc<Self>) {
        let number = self.state.lock().members.len();
        let (address, server) = serve::member(self.clone(), number).await;
        self.state.lock().members.push(address);
        self.servers.lock().insert(format!("member {number}"), server);
    }

    /// Cuts the region that holds this key, in the scheduler's form; the old id stays on the right.
    pub(crate) fn split(&self, key: &[u8]) {
        let mut state = self.state.lock();
        let key = Bytes::copy_from_slice(key);
        let id = state.id();
        let at = state
            .regions
            .iter()
            .position(|region| KeyRange::of(&region.meta).contains(&key))
            .expect("regions cover all keys");
        let peers: Vec<_> = (1..=3).map(|store_id| peer(state.id(), store_id)).collect();
        let right = &mut state.regions[at];
        if right.meta.start_key == key {
            return;
        }
        let epoch = right.meta.region_epoch.as_mut().unwrap();
        epoch.version += 1;
        let mut left = right.meta.clone();
        right.meta.start_key = key.clone();
        let on_store = right.leader.store_id;
        left.id = id;
        left.end_key = key;
        left.peers = peers.clone();
        let leader = *peers.iter().find(|peer| peer.store_id == on_store).unwrap();
        state.regions.insert(at, Region { meta: left, leader });
    }

    /// Moves the leadership of the region that holds this key.
    pub(crate) fn move_leader(&self, key: &[u8], store: u64) {
        let mut state = self.state.lock();
        let region = state
            .regions
            .iter_mut()
            .find(|region| KeyRange::of(&region.meta).contains(key))
            .expect("regions cover all keys");
        let of_store = |peer: &&metapb::Peer| peer.store_id == store;
        region.leader = *region.meta.peers.iter().find(of_store).unwrap();
    }

    /// From now on the scheduler answers what it knows now.
    pub(crate) fn freeze_reports(&self) {
        let mut state = self.state.lock();
        let report = state.regions.iter().map(|region| (region.meta.clone(), region.leader));
        state.reported = Some(report.collect());
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.state.lock().ahead += by;
    }

    /// What becomes of the next requests of a kind, in order.
    pub(crate) fn script(&self, rpc: &'static str, reactions: impl IntoIterator<Item = Reaction>) {
        self.state.lock().script.entry(rpc).or_default().extend(reactions);
    }

    pub(crate) fn script_tso(&self, reactions: impl IntoIterator<Item = TsoReaction>) {
        self.state.lock().tso_script.extend(reactions);
    }

    /// How many requests of a kind came in.
    pub(crate) fn calls(&self, rpc: &str) -> usize {
        self.state.lock().calls.get(rpc).copied().unwrap_or(0)
    }

    pub(crate) fn record(&self, rpc: &'static str) -> Reaction {
        let mut state = self.state.lock();
        *state.calls.entry(rpc).or_default() += 1;
        let reaction = state.script.get_mut(rpc).and_then(VecDeque::pop_front);
        drop(state);
        self.changed.send_replace(());
        reaction.unwrap_or(Reaction::Do)
    }

    /// Something was done.
    pub(crate) fn note(&self) {
        self.changed.send_replace(());
    }

    /// Waits until something holds of the state; looks again at every request and after its deed.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(&self.state.lock()) {
                changed.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "waited in vain until {what}");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for (_, server) in std::mem::take(&mut *self.servers.lock()) {
            server.shutdown_background();
        }
    }
}

/// The usual settings, but no short cuts: what a commit leaves behind half-way is to be seen.
pub(crate) fn two_phases() -> Config {
    Config { transaction: TransactionOptions::two_phases(), ..Config::default() }
}

fn peer(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer { id, store_id, ..Default::default() }
}
