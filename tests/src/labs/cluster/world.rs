//! Stores, networks and scheduler, moved by one queue of events.

use std::collections::{BTreeMap, VecDeque};

use proto::{metapb, region};
use raftstore::effects::Report;
use raftstore::storage::bootstrap;

use super::mail::Carried;
use super::scheduler::Scheduler;
use super::server::{Asked, Look, Response, Server};
use super::settings::Settings;
use super::tasks::TaskId;
use crate::checkers::tiling;
use crate::sim::dice::{Dice, mix};
use crate::sim::events::{Events, Instant, MILLISECOND};
use crate::sim::judges::Judges;
use crate::sim::network::{Network, Weather};
use crate::sim::node::{Local, Node};
use crate::sim::notation::Words;
use crate::sim::trace::Trace;

/// The first region of the cluster.
pub(super) const FIRST_REGION: u64 = 1;

/// Clocks run apart by at most so many millionths.
const CLOCK_DRIFT: u64 = 1_000;

/// A lost message, in thousandths: the course's filter lets pass what is above 100 of 0 to 999.
const LOSS: u64 = 101;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// On a store: by its process of this life, or from outside (`None`).
    At(u64, Option<u64>, Local),
    /// A message arrives at a store.
    Deliver(u64, u64, Box<Carried>),
    /// The scheduler is told something.
    Tell(u64, Box<Report>),
    /// A request arrives at a store.
    Request(u64, Box<Asked>),
    /// A read on a store is looked at, in the same life.
    Look(u64, u64, Box<Look>),
    /// An answer arrives at a client.
    Respond(CallId, Response),
    /// A task has waited long enough.
    Wake(TaskId),
}

/// A call of a client, by number.
pub(super) type CallId = u64;

/// What became of a call.
#[derive(Debug)]
pub(super) struct Call {
    task: TaskId,
    response: Option<Response>,
}

/// Everything but the tasks.
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) dice: Dice,
    pub(super) events: Events<Event>,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) servers: BTreeMap<u64, Server>,
    /// Between stores: what the filters are about.
    pub(super) network: Network,
    /// Whether nothing filters that network.
    pub(super) is_network_whole: bool,
    /// To clients and scheduler.
    pub(super) outside: Network,
    pub(super) scheduler: Scheduler,
    pub(super) judges: Judges,
    pub(super) trace: Trace,
    /// The task that is polled now.
    pub(super) current_task: TaskId,
    calls: BTreeMap<CallId, Call>,
    calls_made: CallId,
    tasks_made: TaskId,
    ready: VecDeque<TaskId>,
    /// Who waits for the end of a task.
    awaiting: BTreeMap<TaskId, Vec<TaskId>>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let dice = Dice::new(settings.seed);
        let stores: Vec<u64> = (1..=settings.stores).collect();
        let nodes: BTreeMap<u64, Node> = stores
            .iter()
            .map(|store| {
                let dice = dice.stream(&format!("store {store}"));
                let config = settings.config_of(*store);
                (*store, Node::new(*store, config, dice, CLOCK_DRIFT, settings.plant))
            })
            .collect();
        let peer =
            |store: &u64| metapb::Peer { id: *store, store_id: *store, ..Default::default() };
        let first = metapb::Region {
            id: FIRST_REGION,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: stores.iter().map(peer).collect(),
            ..Default::default()
        };
        for node in nodes.values() {
            bootstrap::prepare(&node.data, first.clone()).expect("memory does not fail");
            bootstrap::confirm_first_region(&node.data).expect("memory does not fail");
        }
        let disks = nodes.iter().map(|(store, node)| (*store, node.log.clone())).collect();
        Self {
            network: Network::new(dice.stream("network"), Weather::FAIR),
            is_network_whole: true,
            outside: Network::new(dice.stream("outside"), Weather::FAIR),
            scheduler: Scheduler::new(settings.stores + 1),
            judges: Judges::new(disks),
            trace: Trace::new(std::env::var_os("TESSERA_LAB_TRACE").is_some()),
            servers: stores.into_iter().map(|store| (store, Server::default())).collect(),
            events: Events::default(),
            calls: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            ready: VecDeque::new(),
            current_task: 0,
            calls_made: 0,
            tasks_made: 0,
            settings,
            dice,
            nodes,
        }
    }

    pub(super) fn stores(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn start_all(&mut self) {
        self.stores().into_iter().for_each(|store| self.start(store));
    }

    pub(super) fn start(&mut self, store: u64) {
        let now = self.events.now();
        let node = self.nodes.get_mut(&store).expect("a store exists");
        let outs = node.start(now, &mut self.judges);
        self.perform(store, outs);
    }

    /// The power fails on a store. Requests under way there are never answered.
    pub(super) fn power_off(&mut self, store: u64) {
        let node = self.nodes.get_mut(&store).expect("a store exists");
        node.power_off(&mut self.judges);
        self.servers.get_mut(&store).expect("a store exists").forget();
    }

    pub(super) fn happen(&mut self, event: Event) {
        let now = self.events.now();
        self.judges.at(now);
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
            Event::Request(store, asked) => self.on_request(store, *asked),
            Event::Look(store, life, look) => self.on_look(store, life, *look),
            Event::Respond(call, response) => {
                // Nobody waits for an answer that comes too late.
                if let Some(call) = self.calls.get_mut(&call) {
                    call.response = Some(response);
                    self.ready.push_back(call.task);
                }
            }
            Event::Wake(task) => self.ready.push_back(task),
        }
    }

    /// A call of the task that is polled now, which waits at most so long.
    pub(super) fn begin_call(&mut self, patience: Instant) -> CallId {
        self.calls_made += 1;
        self.calls.insert(self.calls_made, Call { task: self.current_task, response: None });
        self.events.after(patience, Event::Wake(self.current_task));
        self.calls_made
    }

    /// The answer to a call, if it has come.
    pub(super) fn take_response(&mut self, call: CallId) -> Option<Response> {
        let response = self.calls.get_mut(&call)?.response.take()?;
        self.calls.remove(&call);
        Some(response)
    }

    /// Nobody waits for this call any more.
    pub(super) fn forget_call(&mut self, call: CallId) {
        self.calls.remove(&call);
    }

    pub(super) fn new_task(&mut self) -> TaskId {
        self.tasks_made += 1;
        self.ready.push_back(self.tasks_made);
        self.tasks_made
    }

    /// The task to poll next, which becomes the current one.
    pub(super) fn next_ready(&mut self) -> Option<TaskId> {
        self.current_task = self.ready.pop_front()?;
        Some(self.current_task)
    }

    pub(super) fn end_task(&mut self, task: TaskId) {
        self.ready.extend(self.awaiting.remove(&task).unwrap_or_default());
    }

    /// The current task waits for the end of another.
    pub(super) fn await_task(&mut self, task: TaskId) {
        self.awaiting.entry(task).or_default().push(self.current_task);
    }

    /// No message passes between the two groups; stores of neither are not concerned.
    pub(super) fn partition(&mut self, left: &[u64], right: &[u64]) {
        self.is_network_whole = false;
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.network.cut(a, b);
            self.network.cut(b, a);
        }
    }

    /// One message in ten is lost.
    pub(super) fn lose_messages(&mut self) {
        self.is_network_whole = false;
        self.network.set_weather(Weather { loss: LOSS, ..Weather::FAIR });
    }

    /// The network between stores is whole again.
    pub(super) fn clear_filters(&mut self) {
        self.is_network_whole = true;
        self.network.restore_all();
        self.network.set_weather(Weather::FAIR);
    }

    /// At the end of a test, when nothing is in trouble: the regions that the scheduler knows tile the
    /// key space.
    pub(super) fn judge_the_end(&self) {
        let regions: Vec<_> = self.scheduler.regions().cloned().collect();
        if let Err(what) = tiling::check(&regions) {
            panic!("{}: {what}", self.settings.test);
        }
    }
}

fn digest_of(event: &Event) -> u64 {
    let facts = match event {
        Event::At(store, life, local) => {
            [1, *store, life.unwrap_or(0), local.belongs_to_process().into()]
        }
        Event::Deliver(from, to, carried) => {
            let (Carried::Message(message) | Carried::Snapshot(message, _)) = carried.as_ref();
            let facts = |m: &proto::eraftpb::Message| m.term ^ (m.index << 20) ^ (m.commit << 40);
            [2, *from, *to, message.message.as_ref().map_or(0, facts)]
        }
        Event::Tell(from, _) => [3, *from, 0, 0],
        Event::Request(store, asked) => [4, *store, asked.call, 0],
        Event::Look(store, life, _) => [5, *store, *life, 0],
        Event::Respond(call, response) => [6, *call, response.is_ok().into(), 0],
        Event::Wake(task) => [7, *task, 0, 0],
    };
    facts.iter().fold(0, |hash, fact| mix(hash ^ fact))
}

fn line_of(event: &Event) -> String {
    match event {
        Event::Deliver(from, to, carried) => match carried.as_ref() {
            Carried::Message(message) => format!("s{from} {} s{to}", Words(message)),
            Carried::Snapshot(message, _) => format!("s{from} {} s{to} with data", Words(message)),
        },
        Event::At(..)
        | Event::Tell(..)
        | Event::Request(..)
        | Event::Look(..)
        | Event::Respond(..)
        | Event::Wake(_) => format!("{event:?}"),
    }
}

/// The usual time until a sender learns that a message did not get through.
pub(super) const UNREACHABLE_AFTER: Instant = 10 * MILLISECOND;
