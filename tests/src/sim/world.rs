//! The whole cluster on one thread: stores, overseer, clients, network and nemesis, moved by one
//! queue of events and one seed.
//!
//! A run has two phases. *Safety*: everything that the options allow goes wrong, and the judges
//! watch. *Liveness*: everything heals, nobody makes trouble any more, and then every register must
//! answer within `LIVENESS_PATIENCE`. A cluster that is merely safe may stand still for ever.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::{metapb, pdpb, raft_serverpb::RaftMessage, region};
use raftstore::config::Config;
use raftstore::effects::{OutgoingSnapshot, Report};
use raftstore::engine::DataEngine as _;
use raftstore::msg::{SnapshotSource, StoreMsg};
use raftstore::storage::{applied_state, bootstrap};

use super::clients::{Clients, Request, Response, Wish};
use super::dice::{Dice, digest};
use super::events::{Events, Instant, MILLISECOND, SECOND};
use super::judges::Judges;
use super::nemesis::{Act, Nemesis, SYNC_USUAL};
use super::network::{Network, Weather};
use super::node::{Local, Node, Out};
use super::options::{Options, Plant};
use super::overseer::Overseer;
use super::trace::Trace;
use crate::checkers::{linearizability, tiling};
use crate::history::{Call, Outcome};
use crate::workload::Registers;

/// The healed cluster is left alone for so long before it is asked.
const RECOVERY: Instant = 15 * SECOND;
/// Then every register answers a reader within this time.
const LIVENESS_PATIENCE: Instant = 10 * SECOND;
/// Registers asked in the liveness phase: the newest ones.
const LIVENESS_KEYS: usize = 20;

/// A run with more events than this goes round in circles.
const EVENTS_MAX: u64 = 20_000_000;

/// The first region of the cluster.
const FIRST_REGION: u64 = 1;

/// The network knows clients and overseer by this number.
const OUTSIDE: u64 = 0;

/// Something that happens in the world.
#[derive(Debug)]
enum Event {
    /// On a store: by its process of this life, or from outside (`None`).
    At(u64, Option<u64>, Local),
    /// A message arrives at a store.
    Deliver(u64, u64, Box<Carried>),
    /// A store tells the overseer something.
    Tell(u64, Box<Report>),
    Respond(u64, Response),
    Think(usize),
    Deadline(usize, u64),
    Retry(usize, u64),
    Mischief,
    Act(Act),
}

/// What the network carries between stores.
#[derive(Clone, Debug)]
enum Carried {
    Message(RaftMessage),
    /// The same as bytes: what the real wire would carry.
    Encoded(Vec<u8>),
    Snapshot(RaftMessage, SnapshotSource),
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Summary {
    /// A number that repeats for a seed.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// Calls of clients that ended well.
    pub calls: u64,
    /// Leaderships seen.
    pub leaders: usize,
    /// Entries committed.
    pub entries: usize,
    /// Crashes of a process, with or without its power.
    pub crashes: u64,
    /// What was broken, if anything.
    pub violation: Option<String>,
    /// The newest lines of the trace, when lines were asked for.
    pub lines: Vec<String>,
}

/// A cluster and all that surrounds it.
pub struct World {
    options: Options,
    dice: Dice,
    events: Events<Event>,
    nodes: BTreeMap<u64, Node>,
    network: Network,
    overseer: Overseer,
    clients: Clients,
    nemesis: Nemesis,
    judges: Judges,
    trace: Trace,
    crashes: u64,
    /// Clients begin calls of their own, and the nemesis thinks.
    is_restless: bool,
}

/// Runs a seed from beginning to end.
pub fn run(options: Options, verbose: bool) -> Summary {
    World::new(options, verbose).run()
}

fn config_of(options: &Options, store: u64) -> Config {
    // The same knobs on every store; drawn so that rare paths (snapshots, cut logs, waiting
    // proposals) are common.
    let mut dice = Dice::new(options.seed).stream("config");
    let small_log = dice.happens(600);
    let mut config = Config {
        seed: options.seed ^ store,
        message_bytes_max: if dice.happens(300) { 600 } else { 64 << 10 },
        inflight_messages_max: if dice.happens(300) { 2 } else { 256 },
        committed_bytes_max: if dice.happens(300) { 1 << 10 } else { 16 << 20 },
        entry_cache_bytes: if dice.happens(300) { 2 << 10 } else { 4 << 20 },
        compact_log_ticks: dice.within(10..60),
        compact_log_entries_min: if small_log { 5 } else { 50 },
        compact_log_entries_max: if small_log { dice.within(10..60) } else { 1000 },
        region_heartbeat_ticks: dice.within(10..40),
        store_heartbeat_ticks: 100,
        down_after_ms: 3_000,
        leader_missing_ticks: 80,
        region_split_bytes: 0,
        region_part_bytes: 0,
        split_check_ticks: 40,
        right_derive_when_split: dice.happens(500),
        snapshot_retry_ticks: 40,
        ..Config::default()
    };
    if options.topology && dice.happens(500) {
        config.region_split_bytes = dice.within(6 << 10..40 << 10);
        config.region_part_bytes = config.region_split_bytes / 2;
        config.split_check_written_bytes = 2 << 10;
    }
    if options.plant == Some(Plant::LongLease) {
        config.lease_ticks = 60;
    }
    config
}

impl World {
    /// A cluster that has just been set up and not begun.
    pub fn new(options: Options, verbose: bool) -> Self {
        let dice = Dice::new(options.seed);
        let stores: Vec<u64> = (1..=options.stores).collect();
        let nodes: BTreeMap<u64, Node> = stores
            .iter()
            .map(|store| {
                let dice = dice.stream(&format!("store {store}"));
                let config = config_of(&options, *store);
                (*store, Node::new(*store, config, dice, options.clock_drift, options.plant))
            })
            .collect();
        let peers = stores.iter().take(3).map(|store| metapb::Peer {
            id: FIRST_REGION + store,
            store_id: *store,
            ..Default::default()
        });
        let first = metapb::Region {
            id: FIRST_REGION,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: peers.collect(),
            ..Default::default()
        };
        for peer in &first.peers {
            let node = &nodes[&peer.store_id];
            bootstrap::prepare(&node.data, first.clone()).expect("memory does not fail");
            bootstrap::confirm_first_region(&node.data).expect("memory does not fail");
        }
        let disks = nodes.iter().map(|(store, node)| (*store, node.log.clone())).collect();
        let members_fixed = !options.topology && options.stores <= 3;
        let registers = Registers::new(dice.stream("registers"), options.keys);
        let mut clients = Clients::new(
            dice.stream("clients"),
            options.clients,
            registers,
            stores.clone(),
            options.think,
            options.replica_reads,
        );
        clients.learn(&first);
        let next_id = FIRST_REGION + options.stores + 1;
        Self {
            dice: dice.stream("world"),
            events: Events::default(),
            nodes,
            network: Network::new(dice.stream("network"), options.weather),
            overseer: Overseer::new(dice.stream("overseer"), stores, options.topology, next_id),
            clients,
            nemesis: Nemesis::new(
                dice.stream("nemesis"),
                options.mischief.clone(),
                options.mischief_every,
            ),
            judges: Judges::new(disks, members_fixed),
            trace: Trace::new(verbose),
            crashes: 0,
            is_restless: true,
            options,
        }
    }

    fn run(mut self) -> Summary {
        for store in self.stores() {
            self.start(store);
        }
        for slot in 0..self.clients.count() {
            let delay = self.dice.within(0..SECOND);
            self.events.after(delay, Event::Think(slot));
        }
        let delay = self.dice.within(SECOND..3 * SECOND);
        self.events.after(delay, Event::Mischief);
        self.go_on_until(self.options.safety);
        if self.judges.violation().is_none() {
            self.heal();
            self.go_on_until(self.options.safety + RECOVERY);
            self.ask_every_register();
            let end = self.events.now() + RECOVERY / 3;
            self.go_on_until(end);
        }
        if self.judges.violation().is_none() {
            self.compare_replicas();
        }
        if self.judges.violation().is_none()
            && let Err(violation) = linearizability::check(self.clients.history.operations())
        {
            self.judges.fail(violation.to_string());
        }
        let (leaders, entries) = self.judges.counts();
        Summary {
            hash: self.trace.hash(),
            events: self.trace.events(),
            calls: self.clients.done(),
            leaders,
            entries,
            crashes: self.crashes,
            violation: self.judges.violation().map(str::to_owned),
            lines: self.trace.lines().map(str::to_owned).collect(),
        }
    }

    fn stores(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn go_on_until(&mut self, end: Instant) {
        while self.judges.violation().is_none()
            && let Some(event) = self.events.next_before(end)
        {
            self.happen(event);
        }
        self.events.pass_until(end);
    }

    fn heal(&mut self) {
        self.is_restless = false;
        self.overseer.calm_down();
        self.network.restore_all();
        self.network.set_weather(Weather::FAIR);
        for store in self.stores() {
            self.act(Act::Disk(store, SYNC_USUAL));
            self.act(Act::Resume(store));
            self.act(Act::Start(store));
        }
    }

    fn ask_every_register(&mut self) {
        let keys = self.clients.keys_used();
        let newest = keys.into_iter().rev().take(LIVENESS_KEYS);
        for key in newest {
            if self.judges.violation().is_some() {
                return;
            }
            let calls = self.clients.history.operations().len();
            let wishes = self.clients.begin_call(0, key, Call::Read, false, LIVENESS_PATIENCE);
            self.grant(wishes);
            let end = self.events.now() + LIVENESS_PATIENCE + SECOND;
            while !self.clients.is_idle(0)
                && self.judges.violation().is_none()
                && let Some(event) = self.events.next_before(end)
            {
                self.happen(event);
            }
            let call = &self.clients.history.operations()[calls];
            if !matches!(call.outcome, Outcome::Read(_)) {
                self.judges.fail(format!("the healed cluster does not answer: {call}"));
            }
        }
    }

    /// The regions tile the key space, and every voter of each has applied equally far, and so holds
    /// equal data.
    fn compare_replicas(&mut self) {
        let mut regions: Vec<_> =
            self.overseer.regions().map(|(region, _)| region.clone()).collect();
        regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        if let Err(what) = tiling::check(&regions) {
            self.judges.fail(what);
        }
        for region in regions {
            let mut applied = BTreeMap::new();
            for peer in region.peers.iter().filter(|peer| !region::is_learner(peer)) {
                let node = &self.nodes[&peer.store_id];
                self.judges.applied(peer.store_id, &node.data, region.id);
                let position = applied_state(&node.data.snapshot(), region::id(&region));
                applied.insert(peer.store_id, position.expect("memory does not fail"));
            }
            let mut positions = applied.values();
            let first = positions.next();
            if positions.any(|position| Some(position) != first) {
                self.judges.fail(format!(
                    "the healed replicas of {} stay apart: {applied:?}",
                    region::Readable(&region)
                ));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.events.now();
        if self.trace.events() == EVENTS_MAX {
            self.judges.fail(format!("the world does not come to rest: {}", line_of(&event)));
        }
        self.trace.note(now, &[digest_of(&event)], || line_of(&event));
        match event {
            Event::At(store, life, local) => {
                let node = self.nodes.get_mut(&store).expect("a store exists");
                if life.is_none_or(|life| life == node.life()) {
                    let outs = node.on(local, now, &mut self.judges);
                    self.perform(store, outs);
                }
            }
            Event::Deliver(from, to, carried) => self.deliver(from, to, *carried),
            Event::Tell(from, report) => self.tell(from, *report),
            Event::Respond(from, response) => {
                let wishes = self.clients.on_response(from, response);
                self.grant(wishes);
            }
            Event::Think(slot) => {
                if self.is_restless {
                    let wishes = self.clients.begin(slot);
                    self.grant(wishes);
                }
            }
            Event::Deadline(slot, call) => {
                let wishes = self.clients.on_deadline(slot, call);
                self.grant(wishes);
            }
            Event::Retry(slot, attempt) => {
                let wishes = self.clients.retry(slot, attempt);
                self.grant(wishes);
            }
            Event::Mischief => {
                if self.is_restless {
                    let (plan, pause) = self.nemesis.next(&self.stores());
                    for (delay, act) in plan {
                        self.events.after(delay, Event::Act(act));
                    }
                    self.events.after(pause, Event::Mischief);
                }
            }
            Event::Act(act) => {
                if self.is_restless {
                    self.act(act);
                }
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Cut(from, to) => self.network.cut(from, to),
            Act::Restore(from, to) => self.network.restore(from, to),
            Act::Kill(store) | Act::PowerOff(store) => {
                let node = self.nodes.get_mut(&store).expect("a store exists");
                self.crashes += u64::from(node.is_up());
                if act == Act::Kill(store) {
                    node.kill(&mut self.judges);
                } else {
                    node.power_off(&mut self.judges);
                }
            }
            Act::Start(store) => self.start(store),
            Act::Pause(store) => self.nodes.get_mut(&store).expect("a store exists").pause(),
            Act::Resume(store) => {
                let outs = self.nodes.get_mut(&store).expect("a store exists").resume();
                self.perform(store, outs);
            }
            Act::Disk(store, usual) => {
                self.nodes.get_mut(&store).expect("a store exists").set_sync(usual);
            }
        }
    }

    fn start(&mut self, store: u64) {
        let now = self.events.now();
        let node = self.nodes.get_mut(&store).expect("a store exists");
        let outs = node.start(now, &mut self.judges);
        self.perform(store, outs);
    }

    fn perform(&mut self, store: u64, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send(message) => self.send(store, message),
                Out::SendSnapshot(snapshot) => self.send_snapshot(store, snapshot),
                Out::Report(report) => {
                    if let Some(delay) = self.network.arrivals(store, OUTSIDE).first() {
                        self.events.after(*delay, Event::Tell(store, Box::new(report)));
                    }
                }
                Out::Respond(response) => {
                    if let Some(delay) = self.network.arrivals(store, OUTSIDE).first() {
                        self.events.after(*delay, Event::Respond(store, response));
                    }
                }
                Out::After(delay, local) => {
                    let life = self.nodes[&store].life();
                    let life = local.belongs_to_process().then_some(life);
                    self.events.after(delay, Event::At(store, life, local));
                }
            }
        }
    }

    fn send(&mut self, from: u64, message: RaftMessage) {
        let to = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
        let arrivals = self.network.arrivals(from, to);
        if arrivals.is_empty() && self.dice.happens(20) {
            let told = StoreMsg::Unreachable { store_id: proto::StoreId(to) };
            let local = Local::Arrives(Box::new(told));
            self.events.after(10 * MILLISECOND, Event::At(from, None, local));
        }
        for delay in arrivals {
            let carried = if self.options.through_codec {
                Carried::Encoded(message.encode_to_vec())
            } else {
                Carried::Message(message.clone())
            };
            self.events.after(delay, Event::Deliver(from, to, Box::new(carried)));
        }
    }

    fn send_snapshot(&mut self, from: u64, snapshot: OutgoingSnapshot) {
        let OutgoingSnapshot { message, source } = snapshot;
        let to_peer = message.to_peer.unwrap_or_default();
        let to = to_peer.store_id;
        let arrival = self.network.arrivals(from, to).first().map(|delay| delay * 4);
        let told = StoreMsg::SnapshotSent {
            region_id: proto::RegionId(message.region_id),
            to: proto::PeerId(to_peer.id),
            // One in twenty senders never hears that all went well.
            ok: arrival.is_some() && !self.dice.happens(50),
        };
        if let Some(delay) = arrival {
            let carried = Carried::Snapshot(message, source);
            self.events.after(delay, Event::Deliver(from, to, Box::new(carried)));
        }
        let heard = arrival.unwrap_or(SECOND) * 2;
        self.events.after(heard, Event::At(from, None, Local::Arrives(Box::new(told))));
    }

    fn deliver(&mut self, from: u64, to: u64, carried: Carried) {
        // A cut also swallows what was on its way.
        if self.network.is_cut(from, to) || !self.nodes.contains_key(&to) {
            return;
        }
        let message = match carried {
            Carried::Message(message) => StoreMsg::Raft(Box::new(message)),
            Carried::Encoded(bytes) => {
                let message = RaftMessage::decode(&bytes[..]).expect("what we encode we decode");
                StoreMsg::Raft(Box::new(message))
            }
            Carried::Snapshot(message, source) => {
                StoreMsg::SnapshotReceived { message: Box::new(message), source }
            }
        };
        let now = self.events.now();
        let node = self.nodes.get_mut(&to).expect("looked at above");
        let outs = node.on(Local::Arrives(Box::new(message)), now, &mut self.judges);
        self.perform(to, outs);
    }

    /// The overseer hears something, and perhaps answers.
    fn tell(&mut self, from: u64, report: Report) {
        let answer = match report {
            Report::RegionHeartbeat(heartbeat) => self.hear_heartbeat(&heartbeat),
            Report::AskSplit { region, ask, count } => {
                let ids = Some(self.overseer.ids(count, region.peers.len()));
                Some(StoreMsg::SplitIds { region_id: region::id(&region), ask, ids })
            }
            Report::ValidatePeer { region, peer } => {
                self.overseer.knows_peer_gone(&region, &peer).map(|newest| {
                    StoreMsg::Raft(Box::new(RaftMessage {
                        region_id: region.id,
                        region_epoch: newest.region_epoch,
                        to_peer: Some(peer),
                        is_tombstone: true,
                        ..Default::default()
                    }))
                })
            }
            Report::RegionsSplit(regions) => {
                regions.iter().for_each(|region| self.clients.learn(region));
                None
            }
            Report::StoreHeartbeat(_) | Report::LeaderChanged { .. } => None,
        };
        if let Some(message) = answer
            && let Some(delay) = self.network.arrivals(OUTSIDE, from).first()
        {
            let local = Local::Arrives(Box::new(message));
            self.events.after(*delay, Event::At(from, None, local));
        }
    }

    fn hear_heartbeat(&mut self, heartbeat: &pdpb::RegionHeartbeatRequest) -> Option<StoreMsg> {
        let order = self.overseer.on_heartbeat(heartbeat);
        if let (Some(region), Some(leader)) = (&heartbeat.region, &heartbeat.leader) {
            self.clients.learn(region);
            self.clients.learn_leader(region.id, leader.store_id);
        }
        order.map(|order| StoreMsg::Order(Box::new(order)))
    }

    fn grant(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Think(slot, delay) => self.events.after(delay, Event::Think(slot)),
                Wish::Deadline(slot, call, delay) => {
                    self.events.after(delay, Event::Deadline(slot, call));
                }
                Wish::Retry(slot, attempt, delay) => {
                    self.events.after(delay, Event::Retry(slot, attempt));
                }
                Wish::Send(store, request) => self.request(store, request),
            }
        }
    }

    fn request(&mut self, store: u64, request: Request) {
        // A stream does not repeat: one arrival at most.
        if let Some(delay) = self.network.arrivals(OUTSIDE, store).first() {
            let local = Local::Request(Box::new(request));
            self.events.after(*delay, Event::At(store, None, local));
        }
    }
}

/// An event in words; messages in the house's notation.
fn line_of(event: &Event) -> String {
    match event {
        Event::At(store, _, Local::Arrives(message)) => {
            if let StoreMsg::Raft(message) = message.as_ref() {
                format!("s{store} resumes with {}", Words(message))
            } else {
                format!("s{store} <- {message:?}")
            }
        }
        Event::At(store, _, local) => format!("s{store} {local:?}"),
        Event::Deliver(from, to, carried) => match carried.as_ref() {
            Carried::Message(message) => format!("s{from} -> s{to} {}", Words(message)),
            Carried::Encoded(bytes) => format!("s{from} -> s{to} {} bytes", bytes.len()),
            Carried::Snapshot(message, _) => format!("s{from} => s{to} {}", Words(message)),
        },
        Event::Tell(..)
        | Event::Respond(..)
        | Event::Think(_)
        | Event::Deadline(..)
        | Event::Retry(..)
        | Event::Mischief
        | Event::Act(_) => format!("{event:?}"),
    }
}

/// A raft message: `r2.p4@5 -> p6 MsgAppend base=11@5 commit=10 [12@5]`.
struct Words<'a>(&'a RaftMessage);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = |peer: &Option<metapb::Peer>| peer.as_ref().map_or(0, |peer| peer.id);
        let (from, to) = (id(&self.0.from_peer), id(&self.0.to_peer));
        write!(f, "r{}.p{from}", self.0.region_id)?;
        let Some(message) = &self.0.message else {
            return write!(f, " -> p{to} tombstone={} {:?}", self.0.is_tombstone, self.0.extra_msg);
        };
        write!(
            f,
            "@{} -> p{to} {:?} base={}@{} commit={}",
            message.term,
            message.msg_type(),
            message.index,
            message.log_term,
            message.commit
        )?;
        if message.reject {
            write!(f, " rejected hint={}", message.reject_hint)?;
        }
        if let (Some(first), Some(last)) = (message.entries.first(), message.entries.last()) {
            write!(f, " [{}@{}..{}@{}]", first.index, first.term, last.index, last.term)?;
        }
        Ok(())
    }
}

/// What of an event must repeat: its words do, at some cost; these few facts are enough to tell two
/// runs apart soon.
fn digest_of(event: &Event) -> u64 {
    let (kind, facts) = match event {
        Event::At(store, life, local) => {
            let kind = match local {
                Local::Tick => 1,
                Local::Round => 2,
                Local::Synced => 3,
                Local::Apply => 4,
                Local::Background => 5,
                Local::Arrives(_) => 6,
                Local::Request(_) => 7,
                Local::Look(_) => 8,
            };
            (kind, [*store, life.unwrap_or(0), 0, 0])
        }
        Event::Deliver(from, to, carried) => {
            let (message, size) = match carried.as_ref() {
                Carried::Message(message) | Carried::Snapshot(message, _) => {
                    let message = message.message.as_ref();
                    (message.map_or(0, |m| m.term ^ (m.index << 20) ^ (m.commit << 40)), 0)
                }
                Carried::Encoded(bytes) => (digest(bytes), bytes.len() as u64),
            };
            (9, [*from, *to, message, size])
        }
        Event::Tell(from, _) => (10, [*from, 0, 0, 0]),
        Event::Respond(from, response) => {
            (11, [*from, response.slot as u64, response.attempt, response.result.is_ok().into()])
        }
        Event::Think(slot) => (12, [*slot as u64, 0, 0, 0]),
        Event::Deadline(slot, call) => (13, [*slot as u64, *call, 0, 0]),
        Event::Retry(slot, attempt) => (14, [*slot as u64, *attempt, 0, 0]),
        Event::Mischief => (15, [0; 4]),
        Event::Act(act) => (16, [digest(format!("{act:?}").as_bytes()), 0, 0, 0]),
    };
    facts.iter().fold(kind, |hash, fact| super::dice::mix(hash ^ fact))
}

impl Summary {
    /// What is left to say of a run that ended by a failed assertion.
    pub fn of_panic(words: &str) -> Self {
        Self {
            hash: 0,
            events: 0,
            calls: 0,
            leaders: 0,
            entries: 0,
            crashes: 0,
            violation: Some(format!("panic: {words}")),
            lines: Vec::new(),
        }
    }
}
