//! Three stores in one process, with real threads and clocks, over engines in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{PeerId, Refusal, RegionId, StoreId, metapb, raft_serverpb::RaftMessage, region};

use super::*;
use crate::effects::{OutgoingSnapshot, Report};
use crate::engine::memory::{MemoryData, MemoryLog};
use crate::engine::{ColumnFamily, WriteBatch};
use crate::msg::Target;
use crate::storage::bootstrap;

/// No wait is longer; on a busy machine elections take a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// Routers by store; a message to a store that is not there is lost.
#[derive(Clone, Default)]
struct Mesh(Arc<Mutex<BTreeMap<StoreId, Router<MemoryData>>>>);

impl Mesh {
    fn router(&self, store: StoreId) -> Option<Router<MemoryData>> {
        self.0.lock().get(&store).cloned()
    }
}

impl Transport for Mesh {
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>) {
        if let Some(router) = self.router(to) {
            messages.into_iter().for_each(|message| router.raft_message(message));
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let OutgoingSnapshot { message, source } = snapshot;
        let (from, to) = (message.from_peer.unwrap(), message.to_peer.unwrap());
        let region = RegionId(message.region_id);
        let receiver = self.router(StoreId(to.store_id));
        if let Some(router) = &receiver {
            router.snapshot_received(message, source);
        }
        if let Some(router) = self.router(StoreId(from.store_id)) {
            router.snapshot_sent(region, PeerId(to.id), receiver.is_some());
        }
    }
}

/// Passes on what a store says.
struct Listener {
    store: StoreId,
    news: Mutex<Sender<News>>,
}

enum News {
    Leads(StoreId),
    Fault(StoreId, Fault),
}

impl Observer for Listener {
    fn report(&self, report: Report) {
        if let Report::LeaderChanged { is_leader: true, .. } = report {
            // Nobody listens any more once the test is over.
            drop(self.news.lock().send(News::Leads(self.store)));
        }
    }

    fn fault(&self, fault: Fault) {
        drop(self.news.lock().send(News::Fault(self.store, fault)));
    }
}

struct Cluster {
    mesh: Mesh,
    region: metapb::Region,
    stores: BTreeMap<StoreId, RaftStore<MemoryData, MemoryLog>>,
    disks: BTreeMap<StoreId, (MemoryData, MemoryLog)>,
    news: Receiver<News>,
    says: Sender<News>,
    lives: u64,
}

impl Cluster {
    fn start() -> Self {
        let peers = (1..=3).map(|id| metapb::Peer { id, store_id: id, ..Default::default() });
        let region = metapb::Region {
            id: 1,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: peers.collect(),
            ..Default::default()
        };
        let (says, news) = channel();
        let mut cluster = Self {
            mesh: Mesh::default(),
            region: region.clone(),
            stores: BTreeMap::new(),
            disks: BTreeMap::new(),
            news,
            says,
            lives: 0,
        };
        for store in (1..=3).map(StoreId) {
            let disks = (MemoryData::new(), MemoryLog::new());
            bootstrap::prepare(&disks.0, region.clone()).unwrap();
            bootstrap::confirm_first_region(&disks.0).unwrap();
            cluster.disks.insert(store, disks);
            cluster.start_store(store);
        }
        cluster
    }

    fn start_store(&mut self, store: StoreId) {
        self.lives += 1;
        let config = Config {
            tick_interval_ms: 20,
            seed: store.0,
            incarnation: self.lives,
            ..Config::default()
        };
        let (data, log) = self.disks[&store].clone();
        let background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
        let listener = Listener { store, news: Mutex::new(self.says.clone()) };
        let transport = Arc::new(self.mesh.clone());
        let raft_store =
            RaftStore::start(config, store, data, log, background, transport, Arc::new(listener))
                .unwrap();
        self.mesh.0.lock().insert(store, raft_store.router());
        self.stores.insert(store, raft_store);
    }

    fn stop_store(&mut self, store: StoreId) {
        self.mesh.0.lock().remove(&store);
        self.stores.remove(&store).unwrap().stop();
    }

    fn target(&self) -> Target {
        Target { region_id: RegionId(1), epoch: region::epoch(&self.region), ..Target::default() }
    }

    /// Writes through whoever leads, waiting for a new leader as often as it takes.
    fn put(&mut self, key: &'static str, value: &'static str) -> StoreId {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (store, raft_store) in &self.stores {
                match call(|done| raft_store.router().write(self.target(), one(key, value), done)) {
                    Ok(()) => return *store,
                    Err(Refusal::UndeterminedResult { .. }) => panic!("nobody was stopped"),
                    Err(_) => {}
                }
            }
            self.wait_for_leader(deadline);
        }
    }

    fn wait_for_leader(&self, deadline: Instant) -> StoreId {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.news.recv_timeout(left).expect("a leader is found in time") {
            News::Leads(store) => store,
            News::Fault(store, fault) => panic!("{store}: {fault}"),
        }
    }

    /// Reads on one store through a barrier.
    fn get(&self, store: StoreId, key: &str, replica_read: bool) -> Result<Option<Bytes>, Refusal> {
        let router = self.stores[&store].router();
        let target = Target { replica_read, ..self.target() };
        call(|done| router.read_barrier(target, done))?;
        Ok(router.data().get(ColumnFamily::Default, key.as_bytes()).unwrap())
    }

    /// Reads on a follower until it has caught up enough to answer.
    fn get_eventually(&self, store: StoreId, key: &str) -> Option<Bytes> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.get(store, key, true) {
                Ok(value) => return value,
                Err(refusal) => assert!(Instant::now() < deadline, "{store}: {refusal}"),
            }
        }
    }
}

/// Calls and waits for the answer.
fn call(ask: impl FnOnce(Box<dyn FnOnce(Result<(), Refusal>) + Send>)) -> Result<(), Refusal> {
    let (tx, rx) = channel();
    ask(Box::new(move |answer| tx.send(answer).unwrap()));
    rx.recv_timeout(PATIENCE).expect("every call is answered")
}

fn one(key: &'static str, value: &'static str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, key, value);
    batch
}

/// S3.4: every store answers a replica read, the leader's and the followers'.
#[test]
fn a_write_is_read_on_every_store() {
    let mut cluster = Cluster::start();
    cluster.put("a", "1");
    for store in (1..=3).map(StoreId) {
        assert_eq!(cluster.get_eventually(store, "a"), Some("1".into()));
    }
}

#[test]
fn a_store_that_was_down_catches_up_on_the_same_disks() {
    let mut cluster = Cluster::start();
    let leader = cluster.put("a", "1");
    cluster.stop_store(leader);
    let second = cluster.put("a", "2");
    assert_ne!(second, leader);
    cluster.start_store(leader);
    assert_eq!(cluster.get_eventually(leader, "a"), Some("2".into()));
}

#[test]
fn a_stop_answers_everybody_and_does_not_guess() {
    let mut cluster = Cluster::start();
    let leader = cluster.put("a", "1");
    // Nobody hears the leader any more, so what it proposes stays undecided.
    cluster.mesh.0.lock().clear();
    let router = cluster.stores[&leader].router();
    let (tx, rx) = channel();
    router.write(cluster.target(), one("a", "2"), move |answer| tx.send(answer).unwrap());
    cluster.stores.remove(&leader).unwrap().stop();
    let answer = rx.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(answer, Err(Refusal::UndeterminedResult { .. })), "{answer:?}");
    let answer = call(|done| router.write(cluster.target(), one("a", "3"), done));
    assert_eq!(answer, Err(Refusal::closing()));
}

#[test]
fn a_fault_of_the_log_stops_the_store_loudly() {
    let mut cluster = Cluster::start();
    let leader = cluster.put("a", "1");
    cluster.disks[&leader].1.set_broken(true);
    let router = cluster.stores[&leader].router();
    let answer = call(|done| router.write(cluster.target(), one("a", "2"), done));
    assert!(matches!(answer, Err(Refusal::UndeterminedResult { .. })), "{answer:?}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let News::Fault(store, _) = cluster.news.recv_timeout(left).unwrap() {
            assert_eq!(store, leader);
            break;
        }
    }
    cluster.stop_store(leader);
    assert_ne!(cluster.put("a", "3"), leader);
}

#[test]
fn a_failed_assertion_stops_the_store_loudly() {
    let mut cluster = Cluster::start();
    let leader = cluster.put("a", "1");
    let router = cluster.stores[&leader].router();
    // The callback runs on the raft worker's thread.
    router.read_barrier(cluster.target(), |_| panic!("on purpose"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let News::Fault(store, fault) = cluster.news.recv_timeout(left).unwrap() {
            assert_eq!(store, leader);
            assert!(fault.to_string().contains("on purpose"), "{fault}");
            break;
        }
    }
    let answer = call(|done| router.write(cluster.target(), one("a", "2"), done));
    assert_eq!(answer, Err(Refusal::closing()));
    cluster.stop_store(leader);
    assert_ne!(cluster.put("a", "3"), leader);
}
