//! Members, clients, regions and a nemesis: one queue of events moves them all.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::pdpb;

use super::host::{Granted, Host, Local, Out, Question, SYNC_USUAL};
use super::judge::Judge;
use super::options::{Harm, Options};
use super::tiles::Tiles;
use crate::sim::dice::Dice;
use crate::sim::events::{Events, Instant, MILLISECOND, SECOND};
use crate::sim::network::{Network, Weather};
use crate::sim::trace::Trace;

/// Clients and regions are at this place of the network.
const OUTSIDE: u64 = 0;
/// A client that hears nothing for so long asks somebody else.
const PATIENCE: Instant = 300 * MILLISECOND;
/// Between two changes of the regions, usually.
const NEWS_EVERY: Instant = 150 * MILLISECOND;
/// A heartbeat that is late is so by at most this.
const LATE_MAX: Instant = 3 * SECOND;
/// When all has healed, the group must serve, know what is, and agree, within so long.
const HEALED_WITHIN: Instant = 30 * SECOND;

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What was found wrong; nothing, if all held.
    pub violation: Option<String>,
    /// Timestamps that clients were given.
    pub timestamps: u64,
    /// Heartbeats that a leader took in.
    pub heartbeats: u64,
    /// Things that went wrong.
    pub harms: u64,
    /// A digest of all that happened.
    pub hash: u64,
    /// What happened, when it was asked for.
    pub lines: Vec<String>,
}

#[derive(Debug)]
enum Event {
    /// On a member, if it is still the same process.
    On { host: u64, boot: u64, local: Local },
    /// For whatever process there is when it arrives.
    Arrives { from: u64, host: u64, local: Local },
    /// A client asks.
    Ask(u64),
    /// A client is answered.
    Answered { host: u64, question: Question, granted: Option<Granted> },
    /// A client has waited long enough.
    GiveUp { client: u64, number: u64 },
    /// Regions change, or somebody speaks.
    News,
    /// Something goes wrong.
    Harm,
    /// It is over.
    Undo(Undo),
}

#[derive(Clone, Copy, Debug)]
enum Undo {
    Start(u64),
    Resume(u64),
    Restore(u64, u64),
    Disk(u64),
}

#[derive(Debug)]
struct Client {
    /// Whom it thinks leads.
    asks: u64,
    number: u64,
    is_waiting: bool,
}

struct World {
    options: Options,
    events: Events<Event>,
    network: Network,
    hosts: BTreeMap<u64, Host>,
    clients: BTreeMap<u64, Client>,
    tiles: Tiles,
    judge: Judge,
    trace: Trace,
    dice: Dice,
    is_healed: bool,
    harms: u64,
}

/// Runs it; an assertion that fails inside a machine is a violation like others.
pub fn run(options: &Options, verbose: bool) -> Summary {
    let caught = catch_unwind(AssertUnwindSafe(|| World::new(options.clone(), verbose).run()));
    caught.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let words = words.unwrap_or("an assertion failed").to_owned();
        Summary { violation: Some(words), ..Summary::default() }
    })
}

impl World {
    fn new(options: Options, verbose: bool) -> Self {
        let dice = Dice::new(options.seed);
        let hosts: BTreeMap<u64, Host> = (1..=options.members)
            .map(|id| (id, Host::found(id, options.members, &options.member, options.plant, &dice)))
            .collect();
        let clients = (1..=options.clients)
            .map(|id| (id, Client { asks: 1, number: 0, is_waiting: false }))
            .collect();
        Self {
            events: Events::default(),
            network: Network::new(dice.stream("network"), options.weather),
            hosts,
            clients,
            tiles: Tiles::new(dice.stream("tiles")),
            judge: Judge::default(),
            trace: Trace::new(verbose),
            dice: dice.stream("world"),
            is_healed: false,
            harms: 0,
            options,
        }
    }

    fn run(mut self) -> Summary {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.iter().for_each(|&id| self.start(id));
        for client in 1..=self.options.clients {
            self.events.after(client * MILLISECOND, Event::Ask(client));
        }
        self.events.after(SECOND, Event::News);
        self.events.after(SECOND, Event::Harm);
        self.go_on_until(self.options.trouble);
        if self.judge.violation().is_none() {
            self.heal();
            self.end();
        }
        let violation = self.judge.violation().map(|what| {
            let (seed, plant) = (self.options.seed, self.options.plant);
            format!("{what} (seed {seed}, planted: {plant:?})")
        });
        Summary {
            violation,
            timestamps: self.judge.timestamps,
            heartbeats: self.judge.believed,
            harms: self.harms,
            hash: self.trace.hash(),
            lines: self.trace.lines().map(str::to_owned).collect(),
        }
    }

    fn go_on_until(&mut self, end: Instant) {
        while self.judge.violation().is_none() {
            let Some(event) = self.events.next_before(end) else { break };
            self.happen(event);
        }
        self.events.pass_until(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::On { host, boot, local } => {
                if self.hosts[&host].boot == boot {
                    self.on(host, local);
                }
            }
            Event::Arrives { from, host, local } => {
                if !self.network.is_cut(from, host) {
                    self.on(host, local);
                }
            }
            Event::Ask(client) => self.ask(client),
            Event::Answered { host, question, granted } => self.answered(host, question, granted),
            Event::GiveUp { client, number } => {
                let asker = self.clients.get_mut(&client).expect("clients stay");
                if asker.is_waiting && asker.number == number {
                    asker.is_waiting = false;
                    asker.asks = self.dice.within(1..self.options.members + 1);
                    self.ask(client);
                }
            }
            Event::News => self.news(),
            Event::Harm => {
                let rest = self.dice.delay(self.options.harm_every);
                self.events.after(rest, Event::Harm);
                if !self.is_healed {
                    self.harm();
                }
            }
            Event::Undo(undo) => self.undo(undo),
        }
    }

    fn on(&mut self, id: u64, local: Local) {
        let now = self.events.now();
        let host = self.hosts.get_mut(&id).expect("members stay");
        if host.process.is_none() {
            return;
        }
        let outs = host.happen(local, now);
        self.perform(id, outs);
    }

    fn perform(&mut self, id: u64, outs: Vec<Out>) {
        let boot = self.hosts[&id].boot;
        for out in outs {
            match out {
                Out::Send(message) => {
                    let to = message.to;
                    let facts = [id, to, message.term, message.index];
                    let kind = message.msg_type();
                    self.trace.note(self.events.now(), &facts, || {
                        format!("m{id} to m{to}: {kind:?} term {} index {}", facts[2], facts[3])
                    });
                    for delay in self.network.arrivals(id, to) {
                        let local = Local::Message(message.clone());
                        self.events.after(delay, Event::Arrives { from: id, host: to, local });
                    }
                }
                Out::After(delay, local) => {
                    self.events.after(delay, Event::On { host: id, boot, local });
                }
                Out::Answer(question, granted) => {
                    for delay in self.network.arrivals(id, OUTSIDE) {
                        let answered = Event::Answered { host: id, question, granted };
                        self.events.after(delay, answered);
                    }
                }
                Out::Believed => {
                    let process = self.hosts[&id].process.as_ref().expect("it spoke just now");
                    let term = process.member.view().term;
                    if let Some(cluster) = &process.cluster {
                        self.judge.pictures(id, term, cluster);
                    }
                }
            }
        }
    }

    fn start(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).expect("members stay");
        if host.process.is_none() {
            let outs = host.start();
            self.perform(id, outs);
        }
    }

    fn ask(&mut self, id: u64) {
        let before = self.judge.latest();
        let client = self.clients.get_mut(&id).expect("clients stay");
        client.number += 1;
        client.is_waiting = true;
        let (host, number) = (client.asks, client.number);
        let question = Question {
            client: id,
            number,
            wants_ids: self.dice.happens(200),
            count: self.dice.within(1..20) as u32,
            before,
        };
        for delay in self.network.arrivals(OUTSIDE, host) {
            let local = Local::Ask(question);
            self.events.after(delay, Event::Arrives { from: OUTSIDE, host, local });
        }
        self.events.after(PATIENCE, Event::GiveUp { client: id, number });
    }

    fn answered(&mut self, host: u64, question: Question, granted: Option<Granted>) {
        let now = self.events.now();
        let count = u64::from(question.count);
        let client = self.clients.get_mut(&question.client).expect("clients stay");
        // An answer that comes after the client has given up, or a second time, is nobody's.
        if !client.is_waiting || client.number != question.number {
            return;
        }
        client.is_waiting = false;
        let mut pause = self.dice.delay(self.options.think);
        match granted {
            Some(Granted::Timestamps(last)) => {
                self.trace.note(now, &[host, last.0], || format!("m{host} gives {last}"));
                self.judge.answered(host, last, count, question.before);
            }
            Some(Granted::Ids(last)) => {
                self.trace.note(now, &[host, last], || format!("m{host} gives id {last}"));
                self.judge.took_ids(host, last, count);
            }
            None => {
                client.asks = self.dice.within(1..self.options.members + 1);
                pause = 20 * MILLISECOND;
            }
        }
        self.events.after(pause, Event::Ask(question.client));
    }

    /// Some regions change and some leaders speak, to whoever is thought to lead.
    fn news(&mut self) {
        let rest = self.dice.delay(NEWS_EVERY);
        self.events.after(rest, Event::News);
        let mut said = Vec::new();
        if !self.is_healed {
            said.extend(self.tiles.change());
            said.push(self.tiles.say_again());
            if self.dice.happens(200) {
                said.extend(self.tiles.say_past());
            }
        } else {
            said.extend(self.tiles.say_all());
        }
        for heartbeat in said {
            self.tell(heartbeat);
        }
    }

    fn tell(&mut self, heartbeat: pdpb::RegionHeartbeatRequest) {
        let host = self.clients[&1].asks;
        let late = if self.dice.happens(200) && !self.is_healed {
            self.dice.within(0..LATE_MAX)
        } else {
            0
        };
        for delay in self.network.arrivals(OUTSIDE, host) {
            let local = Local::Heartbeat(Box::new(heartbeat.clone()));
            self.events.after(late + delay, Event::Arrives { from: OUTSIDE, host, local });
        }
    }

    /// Whoever serves is hurt more often than the others: that is where it hurts.
    fn victim(&mut self) -> u64 {
        let now = self.events.now();
        let serving = self.hosts.values().find(|host| host.may_serve(now)).map(|host| host.id);
        match serving {
            Some(id) if self.dice.happens(600) => id,
            _ => self.dice.within(1..self.options.members + 1),
        }
    }

    fn harm(&mut self) {
        let Some(&harm) = self.dice.one_of(&self.options.harms) else { return };
        let id = self.victim();
        let now = self.events.now();
        self.harms += 1;
        self.trace.remark(now, || format!("{harm:?} m{id}"));
        let for_long = self.dice.within(100 * MILLISECOND..3 * SECOND);
        match harm {
            Harm::Kill | Harm::PowerOff => self.stop(id, harm == Harm::PowerOff, for_long),
            Harm::AllOff => {
                for id in 1..=self.options.members {
                    let for_long = self.dice.within(MILLISECOND..SECOND);
                    self.stop(id, true, for_long);
                }
            }
            Harm::Pause => {
                let host = self.hosts.get_mut(&id).expect("members stay");
                if host.process.is_some() && !host.is_paused() {
                    host.held = Some(Vec::new());
                    self.events.after(for_long, Event::Undo(Undo::Resume(id)));
                }
            }
            Harm::Isolate => {
                for other in (1..=self.options.members).filter(|&other| other != id) {
                    self.cut(id, other, for_long);
                    self.cut(other, id, for_long);
                }
            }
            Harm::OneWay => {
                let other = self.dice.within(1..self.options.members + 1);
                if other != id {
                    self.cut(id, other, for_long);
                }
            }
            Harm::SlowDisk => {
                let slow = self.dice.within(20 * MILLISECOND..2 * SECOND);
                self.hosts.get_mut(&id).expect("members stay").sync_usual = slow;
                self.events.after(for_long, Event::Undo(Undo::Disk(id)));
            }
            Harm::SetClock => {
                const STEPS_MS: [i64; 4] = [900, 1_500, 3_600_000, 365 * 86_400_000];
                let step = *self.dice.one_of(&STEPS_MS).expect("there are some");
                let signed = if self.dice.happens(500) { step } else { -step };
                let host = self.hosts.get_mut(&id).expect("members stay");
                host.wall_error_ms = signed;
            }
            Harm::HandOver => {
                let to = self.dice.within(0..self.options.members + 1);
                let host = self.hosts.get_mut(&id).expect("members stay");
                if let Some(process) = &mut host.process {
                    process.member.hand_over(to);
                }
            }
        }
    }

    fn stop(&mut self, id: u64, power: bool, for_long: Instant) {
        let host = self.hosts.get_mut(&id).expect("members stay");
        if power {
            host.power_off();
        } else {
            host.kill();
        }
        self.events.after(for_long, Event::Undo(Undo::Start(id)));
    }

    fn cut(&mut self, from: u64, to: u64, for_long: Instant) {
        self.network.cut(from, to);
        self.events.after(for_long, Event::Undo(Undo::Restore(from, to)));
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Start(id) => self.start(id),
            Undo::Resume(id) => {
                let held = self.hosts.get_mut(&id).expect("members stay").held.take();
                held.into_iter().flatten().for_each(|local| self.on(id, local));
            }
            Undo::Restore(from, to) => self.network.restore(from, to),
            Undo::Disk(id) => {
                self.hosts.get_mut(&id).expect("members stay").sync_usual = SYNC_USUAL;
            }
        }
    }

    /// Nothing goes wrong any more, and what did is over.
    fn heal(&mut self) {
        self.is_healed = true;
        self.network.set_weather(Weather::FAIR);
        // What is still hurt heals by itself, in a few seconds at most.
        let calm = self.events.now() + 4 * SECOND;
        self.go_on_until(calm);
    }

    /// The group serves, knows what is, and agrees.
    fn end(&mut self) {
        let end = self.events.now() + HEALED_WITHIN;
        let served = self.judge.timestamps;
        let mut still = self.unhealed(served);
        while still.is_some() && self.events.now() < end && self.judge.violation().is_none() {
            let next = self.events.now() + 100 * MILLISECOND;
            self.go_on_until(next);
            still = self.unhealed(served);
        }
        if let Some(what) = still {
            self.judge.fail(format!("healed, and {what}"));
        }
    }

    /// What is not yet as it must be.
    fn unhealed(&self, served: u64) -> Option<String> {
        let now = self.events.now();
        let serving: Vec<&Host> = self.hosts.values().filter(|host| host.may_serve(now)).collect();
        let [leader] = serving.as_slice() else {
            return Some(format!("{} members serve", serving.len()));
        };
        if self.judge.timestamps == served {
            return Some("nobody is given a timestamp".into());
        }
        let process = leader.process.as_ref()?;
        let Some(cluster) = &process.cluster else { return Some("there is no picture".into()) };
        let truth = self.tiles.say_all();
        let known: Vec<_> = cluster.regions().iter().map(|record| &record.region).collect();
        let is: Vec<_> = truth.iter().filter_map(|said| said.region.as_ref()).collect();
        if known != is {
            return Some(format!("the picture of m{} is not what is", leader.id));
        }
        let logged: Vec<_> = process.state.regions().collect();
        if logged != is {
            return Some(format!("the log of m{} does not hold what is", leader.id));
        }
        let differs = self
            .hosts
            .values()
            .find(|host| host.process.as_ref().is_none_or(|other| other.state != process.state));
        differs.map(|host| format!("m{} does not agree with m{}", host.id, leader.id))
    }
}
