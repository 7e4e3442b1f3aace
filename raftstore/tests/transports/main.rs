//! A store does not care how its messages travel: three stores with real threads, over transports that have
//! nothing in common but the trait.

#![allow(clippy::unwrap_used, reason = "a test that cannot prepare its world has failed")]
#![expect(clippy::disallowed_methods, reason = "with real threads there are real deadlines")]

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::{PeerId, Refusal, RegionId, StoreId, metapb, raft_serverpb::RaftMessage, region};
use raftstore::config::Config;
use raftstore::driver::{Background, Observer, RaftStore, Router, SnapshotStorage};
use raftstore::effects::{OutgoingSnapshot, Report};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::{ColumnFamily, DataEngine, WriteBatch};
use raftstore::error::Fault;
use raftstore::msg::Target;
use raftstore::storage::bootstrap;
use raftstore::transport::Transport;

/// No wait is longer; on a busy machine elections take a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the stores are; one that is not there hears nothing.
type Doors = Arc<Mutex<BTreeMap<StoreId, Router<MemoryData>>>>;

fn door(doors: &Doors, store: u64) -> Option<Router<MemoryData>> {
    doors.lock().unwrap().get(&StoreId(store)).cloned()
}

/// A snapshot goes straight to the other store.
fn pass_on(doors: &Doors, snapshot: OutgoingSnapshot) {
    let OutgoingSnapshot { message, source } = snapshot;
    let (from, to) = (message.from_peer.unwrap(), message.to_peer.unwrap());
    let region = RegionId(message.region_id);
    let receiver = door(doors, to.store_id);
    let is_there = receiver.is_some();
    if let Some(router) = receiver {
        router.snapshot_received(message, source);
    }
    if let Some(router) = door(doors, from.store_id) {
        router.snapshot_sent(region, PeerId(to.id), is_there);
    }
}

/// Messages as they are, at once.
struct Straight(Doors);

impl Transport for Straight {
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>) {
        if let Some(router) = door(&self.0, to.0) {
            messages.into_iter().for_each(|message| router.raft_message(message));
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        pass_on(&self.0, snapshot);
    }
}

/// Bytes over a line with a thread of its own, and every seventh batch is lost.
struct Line(Mutex<Sender<(StoreId, Vec<Vec<u8>>)>>, Doors);

impl Line {
    fn new(doors: Doors) -> Self {
        let (sender, receiver) = channel::<(StoreId, Vec<Vec<u8>>)>();
        let there = doors.clone();
        std::thread::spawn(move || {
            for (number, (to, batch)) in receiver.into_iter().enumerate() {
                let Some(router) = door(&there, to.0).filter(|_| number % 7 != 6) else { continue };
                for bytes in batch {
                    router.raft_message(RaftMessage::decode(&bytes[..]).unwrap());
                }
            }
        });
        Self(Mutex::new(sender), doors)
    }
}

impl Transport for Line {
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>) {
        let batch = messages.iter().map(RaftMessage::encode_to_vec).collect();
        self.0.lock().unwrap().send((to, batch)).unwrap();
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        pass_on(&self.1, snapshot);
    }
}

/// Says when somebody leads; a fault is a failed test.
struct Listener(Mutex<Sender<()>>);

impl Observer for Listener {
    fn report(&self, report: Report) {
        if let Report::LeaderChanged { is_leader: true, .. } = report {
            // Nobody listens any more once the test is over.
            self.0.lock().unwrap().send(()).ok();
        }
    }

    fn fault(&self, fault: Fault) {
        panic!("{fault}");
    }
}

/// Calls and waits for the answer.
fn call(ask: impl FnOnce(Box<dyn FnOnce(Result<(), Refusal>) + Send>)) -> Result<(), Refusal> {
    let (says, hears) = channel();
    ask(Box::new(move |answer| says.send(answer).unwrap()));
    hears.recv_timeout(PATIENCE).expect("every call is answered")
}

fn three_stores_agree_over(transport_of: impl Fn(Doors) -> Arc<dyn Transport>) {
    let doors = Doors::default();
    let members = (1..=3).map(|id| metapb::Peer { id, store_id: id, ..Default::default() });
    let whole = metapb::Region {
        id: 1,
        region_epoch: Some(region::FIRST_EPOCH),
        peers: members.collect(),
        ..Default::default()
    };
    let (says, hears) = channel();
    let stores: Vec<RaftStore<MemoryData, MemoryLog>> = (1..=3)
        .map(|id| {
            let data = MemoryData::new();
            bootstrap::prepare(&data, whole.clone()).unwrap();
            bootstrap::confirm_first_region(&data).unwrap();
            let config =
                Config { tick_interval_ms: 20, seed: id, incarnation: id, ..Config::default() };
            let background = Background::new(data.clone(), SnapshotStorage::Memory).unwrap();
            let listener = Arc::new(Listener(Mutex::new(says.clone())));
            let transport = transport_of(doors.clone());
            let log = MemoryLog::new();
            let store =
                RaftStore::start(config, StoreId(id), data, log, background, transport, listener);
            let store = store.unwrap();
            doors.lock().unwrap().insert(StoreId(id), store.router());
            store
        })
        .collect();
    let target =
        Target { region_id: RegionId(1), epoch: region::epoch(&whole), ..Target::default() };
    let deadline = Instant::now() + PATIENCE;
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, "k", "v");
    let is_written = || {
        stores.iter().any(|store| {
            let (target, batch) = (target.clone(), batch.clone());
            call(|done| store.router().write(target, batch, done)).is_ok()
        })
    };
    while !is_written() {
        let left = deadline.saturating_duration_since(Instant::now());
        hears.recv_timeout(left).expect("somebody comes to lead");
    }
    for store in &stores {
        let router = store.router();
        let target = Target { replica_read: true, ..target.clone() };
        while let Err(refusal) = call(|done| router.read_barrier(target.clone(), done)) {
            assert!(Instant::now() < deadline, "{refusal}");
        }
        assert_eq!(router.data().get(ColumnFamily::Default, b"k").unwrap(), Some("v".into()));
    }
    // The lines hold doors, and the doors routers: let go of them before the stores go.
    doors.lock().unwrap().clear();
    stores.into_iter().for_each(RaftStore::stop);
}

/// S0.49: all that a store asks of a transport is that it sends; another one may be put in its place.
#[test]
fn messages_may_travel_as_they_are() {
    three_stores_agree_over(|doors| Arc::new(Straight(doors)));
}

/// S0.49: also one that encodes them, takes its time and loses some.
#[test]
fn messages_may_travel_as_bytes_over_a_line_that_loses_some() {
    three_stores_agree_over(|doors| Arc::new(Line::new(doors)));
}
