//! Members, clients, regions and a nemesis: one queue of events moves them all.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::pdpb;

use super::host::{Granted, Host, Local, Out, Question};
use super::judge::Judge;
use super::options::{Mischief, Options};
use super::tiles::Tiles;
use crate::sim::dice::Dice;
use crate::sim::events::{Events, Instant, MILLISECOND, SECOND};
use crate::sim::network::{Network, Weather};
use crate::sim::trace::Trace;

/// Clients and regions are at this place of the network.
const OUTSIDE: u64 = 0;
/// A client that hears nothing for so long asks somebody else.
const PATIENCE: Instant = 300 * MILLISECOND;
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
    pub mischiefs: u64,
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
    Mischief,
    /// It is over, or goes on.
    Later(Later),
}

/// What follows on a mischief.
#[derive(Clone, Copy, Debug)]
enum Later {
    Start(u64),
    Resume(u64),
    Restore(u64, u64),
    Disk(u64),
    /// The leader is cut off, and the follower that its lease rests on restarts.
    Deceive {
        leader: u64,
        follower: u64,
    },
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
    mischiefs: u64,
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
            mischiefs: 0,
            options,
        }
    }

    fn run(mut self) -> Summary {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.iter().for_each(|&id| self.later(Later::Disk(id)));
        ids.iter().for_each(|&id| self.start(id));
        for client in 1..=self.options.clients {
            self.events.after(client * MILLISECOND, Event::Ask(client));
        }
        self.events.after(SECOND, Event::News);
        self.events.after(SECOND, Event::Mischief);
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
            mischiefs: self.mischiefs,
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
            Event::Mischief => {
                let rest = self.dice.delay(self.options.mischief_every);
                self.events.after(rest, Event::Mischief);
                if !self.is_healed {
                    self.mischief();
                }
            }
            Event::Later(later) => self.later(later),
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
            wants_ids: self.dice.happens(self.options.asks_ids),
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
        let rest = self.dice.delay(self.options.news_every);
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

    fn mischief(&mut self) {
        let Some(&mischief) = self.dice.one_of(&self.options.mischiefs) else { return };
        let id = self.victim();
        let now = self.events.now();
        self.mischiefs += 1;
        self.trace.remark(now, || format!("{mischief:?} m{id}"));
        let for_long = self.dice.within(100 * MILLISECOND..3 * SECOND);
        match mischief {
            Mischief::Kill | Mischief::PowerOff => self.stop(id, mischief == Mischief::PowerOff),
            Mischief::AllOff => (1..=self.options.members).for_each(|id| self.stop(id, true)),
            Mischief::Pause => {
                let host = self.hosts.get_mut(&id).expect("members stay");
                if host.process.is_some() && !host.is_paused() {
                    host.held = Some(Vec::new());
                    self.events.after(for_long, Event::Later(Later::Resume(id)));
                }
            }
            Mischief::Isolate => {
                for other in (1..=self.options.members).filter(|&other| other != id) {
                    self.cut(id, other, for_long);
                    self.cut(other, id, for_long);
                }
            }
            Mischief::Deceive => {
                // The third has heard nobody for a while and asks for votes, when the leader is cut off and
                // the only one that has promised to keep quiet has forgotten it.
                let members = self.options.members;
                let (follower, third) = (1 + id % members, 1 + (id + 1) % members);
                let for_long = self.dice.within(SECOND..3 * SECOND);
                for other in (1..=members).filter(|&other| other != third) {
                    self.cut(third, other, for_long);
                    self.cut(other, third, for_long);
                }
                self.events.after(for_long, Event::Later(Later::Deceive { leader: id, follower }));
            }
            Mischief::OneWay => {
                let other = self.dice.within(1..self.options.members + 1);
                if other != id {
                    self.cut(id, other, for_long);
                }
            }
            Mischief::SlowDisk => {
                let slow = self.dice.within(20 * MILLISECOND..2 * SECOND);
                self.hosts.get_mut(&id).expect("members stay").sync_usual = slow;
                self.events.after(for_long, Event::Later(Later::Disk(id)));
            }
            Mischief::SetClock => {
                const STEPS_MS: [i64; 4] = [900, 1_500, 3_600_000, 365 * 86_400_000];
                let step = *self.dice.one_of(&STEPS_MS).expect("there are some");
                let signed = if self.dice.happens(500) { step } else { -step };
                let host = self.hosts.get_mut(&id).expect("members stay");
                host.wall_error_ms = signed;
            }
            Mischief::HandOver => {
                let to = self.dice.within(0..self.options.members + 1);
                let host = self.hosts.get_mut(&id).expect("members stay");
                if let Some(process) = &mut host.process {
                    process.member.hand_over(to);
                }
            }
        }
    }

    fn stop(&mut self, id: u64, power: bool) {
        let for_long = self.dice.within(MILLISECOND..self.options.down_most);
        let host = self.hosts.get_mut(&id).expect("members stay");
        if power {
            host.power_off();
        } else {
            host.kill();
        }
        self.events.after(for_long, Event::Later(Later::Start(id)));
    }

    fn cut(&mut self, from: u64, to: u64, for_long: Instant) {
        self.network.cut(from, to);
        self.events.after(for_long, Event::Later(Later::Restore(from, to)));
    }

    fn later(&mut self, later: Later) {
        match later {
            Later::Start(id) => self.start(id),
            Later::Resume(id) => {
                let held = self.hosts.get_mut(&id).expect("members stay").held.take();
                held.into_iter().flatten().for_each(|local| self.on(id, local));
            }
            Later::Deceive { leader, follower } => {
                for other in (1..=self.options.members).filter(|&other| other != leader) {
                    self.cut(leader, other, 2 * SECOND);
                    self.cut(other, leader, 2 * SECOND);
                }
                self.stop(follower, false);
            }
            Later::Restore(from, to) => self.network.restore(from, to),
            Later::Disk(id) => {
                let usual = self.options.sync_usual;
                self.hosts.get_mut(&id).expect("members stay").sync_usual = usual;
            }
        }
    }

    /// Nothing goes wrong any more, and what did is over.
    fn heal(&mut self) {
        self.is_healed = true;
        self.network.set_weather(Weather::FAIR);
        self.options.sync_usual = MILLISECOND;
        // From now on regions only say what is.
        self.options.news_every = 150 * MILLISECOND;
        self.events.after(0, Event::News);
        (1..=self.options.members).for_each(|id| self.later(Later::Disk(id)));
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
