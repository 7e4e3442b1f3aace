//! The whole cluster on one thread: stores, overseer, clients, network and nemesis, moved by one
//! queue of events and one seed.
//!
//! A run has two phases. *Safety*: everything that the options allow goes wrong, and the judges
//! watch. *Liveness*: everything heals, nobody makes trouble any more, and then every register must
//! answer (`ending.rs`). A cluster that is merely safe may stand still for ever.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::{metapb, region};
use raftstore::effects::Report;
use raftstore::storage::bootstrap;

use super::clients::{Clients, Response};
use super::dice::Dice;
use super::ending::{RECOVERY, REST};
use super::events::{Events, Instant, SECOND};
use super::judges::Judges;
use super::knobs::config_of;
use super::listener::Listener;
use super::mail::Carried;
use super::nemesis::{Act, Mischief, Nemesis};
use super::network::Network;
use super::node::{Local, Node};
use super::notation::{digest_of, line_of};
use super::options::Options;
use super::overseer::Overseer;
use super::probes::Probe;
use super::sightings::Sightings;
use super::summary::{Summary, in_words};
use super::trace::Trace;
use super::txn::{TxnClients, TxnEvent};
use crate::checkers::linearizability;
use crate::workload::Registers;

/// A run with more events than this goes round in circles.
const EVENTS_MAX: u64 = 20_000_000;

/// The first region of the cluster.
const FIRST_REGION: u64 = 1;

/// Something that happens in the world.
#[derive(Debug)]
pub(super) enum Event {
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
    /// Of the mischief with this number.
    Act(u32, Act),
    /// Of transactional clients.
    Txn(TxnEvent),
}

/// A cluster and all that surrounds it.
pub struct World {
    pub(super) options: Options,
    pub(super) dice: Dice,
    pub(super) events: Events<Event>,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) network: Network,
    pub(super) overseer: Overseer,
    pub(super) clients: Clients,
    /// Those who run transactions, if any.
    pub(super) txn: Option<TxnClients>,
    pub(super) nemesis: Nemesis,
    pub(super) judges: Judges,
    pub(super) sightings: Sightings,
    pub(super) trace: Trace,
    mischiefs: BTreeMap<Mischief, u64>,
    story: Vec<(u32, Instant, Mischief)>,
    calls_in_trouble: u64,
    /// Clients begin calls of their own, and the nemesis thinks.
    pub(super) is_restless: bool,
}

/// Runs a seed from beginning to end.
pub fn run(options: Options, verbose: bool) -> Summary {
    let listener = Listener::default();
    let run = || World::new(options, verbose).run();
    let mut summary = tracing::subscriber::with_default(listener.clone(), run);
    summary.probes.add(&listener.heard());
    summary
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
        let registers = Registers::new(dice.stream("registers"), options.keys);
        let mut clients = Clients::new(
            dice.stream("clients"),
            options.clients,
            registers,
            stores.clone(),
            options.think,
            options.replica_reads,
        );
        clients.map().learn(&first);
        let mut judges = Judges::new(disks);
        if options.transactions.is_some() {
            judges = judges.over_much_data();
        }
        let txn = options.transactions.as_ref().map(|transacting| {
            let txn = TxnClients::new(&dice, transacting, options.plant);
            txn.learn(|map| map.learn(&first));
            txn
        });
        let next_id = FIRST_REGION + options.stores + 1;
        Self {
            dice: dice.stream("world"),
            events: Events::default(),
            nodes,
            network: Network::new(dice.stream("network"), options.weather),
            overseer: Overseer::new(dice.stream("overseer"), stores, options.topology, next_id),
            clients,
            txn,
            nemesis: Nemesis::new(
                dice.stream("nemesis"),
                options.mischief.clone(),
                options.mischief_every,
            ),
            judges,
            sightings: Sightings::default(),
            trace: Trace::new(verbose),
            mischiefs: BTreeMap::new(),
            story: Vec::new(),
            calls_in_trouble: 0,
            is_restless: true,
            options,
        }
    }

    /// An assertion that fails inside a machine is a violation like others, and has its story.
    fn run(mut self) -> Summary {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.go())) {
            self.judges.fail(in_words(panic.as_ref()));
        }
        self.summary()
    }

    fn go(&mut self) {
        for store in self.stores() {
            self.start(store);
        }
        for slot in 0..self.clients.count() {
            let delay = self.dice.within(0..SECOND);
            self.events.after(delay, Event::Think(slot));
        }
        let delay = self.dice.within(SECOND..3 * SECOND);
        self.events.after(delay, Event::Mischief);
        self.begin_transactions();
        self.go_on_until(self.options.safety);
        self.calls_in_trouble = self.clients.done();
        if self.judges.violation().is_none() {
            self.heal();
            self.go_on_until(self.options.safety + RECOVERY);
            self.ask_every_register();
            self.end_transactions();
            let end = self.events.now() + REST;
            self.go_on_until(end);
        }
        if self.judges.violation().is_none() {
            self.await_equal_replicas();
            self.compare_replicas();
            self.look_for_leftovers();
            self.judge_transactions();
        }
        if self.judges.violation().is_none()
            && let Err(violation) = linearizability::check(self.clients.history.operations())
        {
            self.judges.fail(violation.to_string());
        }
    }

    fn summary(self) -> Summary {
        let (leaders, entries) = self.judges.counts();
        Summary {
            hash: self.trace.hash(),
            events: self.trace.events(),
            simulated: self.events.now(),
            calls: self.clients.done(),
            calls_in_trouble: self.calls_in_trouble,
            checked: self.clients.history.operations().len() as u64,
            transactions: self.txn.as_ref().map_or(0, TxnClients::begun),
            committed: self.txn.as_ref().map_or(0, TxnClients::done),
            timestamps: self.txn.as_ref().map_or(0, |txn| txn.counts().0),
            leaders,
            entries,
            crashes: self.judges.deaths(),
            mischiefs: self.mischiefs,
            story: self.story,
            messages_lost: self.network.lost(),
            probes: self.judges.probes().clone(),
            queues: self.judges.longest_queues().clone(),
            violation: self.judges.violation().map(str::to_owned),
            lines: self.trace.lines().map(str::to_owned).collect(),
        }
    }

    pub(super) fn stores(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn go_on_until(&mut self, end: Instant) {
        while self.judges.violation().is_none()
            && let Some(event) = self.events.next_before(end)
        {
            self.happen(event);
        }
        self.events.pass_until(end);
    }

    pub(super) fn happen(&mut self, event: Event) {
        let now = self.events.now();
        self.judges.at(now);
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
                    self.think_of_mischief();
                }
            }
            Event::Txn(event) => self.on_txn(event),
            Event::Act(_, act) => {
                if self.is_restless {
                    self.act(act);
                }
            }
        }
    }

    fn think_of_mischief(&mut self) {
        let thought = self.nemesis.next(&self.stores());
        self.events.after(thought.pause, Event::Mischief);
        if self.options.only.as_ref().is_some_and(|only| !only.contains(&thought.number)) {
            return;
        }
        *self.mischiefs.entry(thought.kind).or_default() += 1;
        self.story.push((thought.number, self.events.now(), thought.kind));
        if thought.kind == Mischief::Blackout {
            self.judges.saw(Probe::Blackout);
        }
        for (delay, act) in thought.plan {
            self.events.after(delay, Event::Act(thought.number, act));
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        let now = self.events.now();
        match act {
            Act::Cut(from, to) => self.network.cut(from, to),
            Act::Restore(from, to) => self.network.restore(from, to),
            Act::Clog(from, to, more) => self.network.clog(from, to, more),
            Act::Kill(store) => {
                let (node, judges) = self.node_and_judges(store);
                node.kill(judges);
            }
            Act::PowerOff(store) => {
                let (node, judges) = self.node_and_judges(store);
                node.power_off(judges);
            }
            Act::Start(store) => self.start(store),
            Act::Pause(store) => {
                self.see_pause(store);
                self.node_and_judges(store).0.pause();
            }
            Act::Resume(store) => {
                self.see_resume(store);
                let outs = self.node_and_judges(store).0.resume();
                self.perform(store, outs);
            }
            Act::SlowLog(store, usual) => self.node_and_judges(store).0.set_sync(usual),
            Act::SlowData(store, times) => self.node_and_judges(store).0.set_data_slowness(times),
            Act::Stall(store, disk) => self.node_and_judges(store).0.stall(disk),
            Act::Unstall(store) => {
                let outs = self.node_and_judges(store).0.unstall();
                self.perform(store, outs);
            }
            Act::Fail(store, disk, after) => self.node_and_judges(store).0.fail_after(disk, after),
            Act::Fill(store) => self.node_and_judges(store).0.set_full(true),
            Act::Mend(store) => self.node_and_judges(store).0.mend(),
            Act::Jump(store, micros) => {
                let (node, judges) = self.node_and_judges(store);
                let outs = node.jump(micros, now, judges);
                self.perform(store, outs);
            }
        }
    }

    fn node_and_judges(&mut self, store: u64) -> (&mut Node, &mut Judges) {
        (self.nodes.get_mut(&store).expect("a store exists"), &mut self.judges)
    }

    fn start(&mut self, store: u64) {
        let now = self.events.now();
        let (node, judges) = self.node_and_judges(store);
        let outs = node.start(now, judges);
        self.perform(store, outs);
    }
}
