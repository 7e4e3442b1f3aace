//! Members, a network and disks on one thread under one seed.
//!
//! Time is virtual and moves in steps. In every step each member that believes it may serve hands
//! out a timestamp and ids; the world watches that timestamps only grow, whoever gives them, and
//! that no id is given twice. Clocks differ between members; hosts pause, crash in the middle of
//! a round, and come back with what their disk had.

use std::collections::{BTreeMap, BTreeSet};

use proto::schedulerpb::{Change, Identity, Member as Description};
use proto::{Timestamp, eraftpb};
use raftstore::engine::memory::MemoryLog;
use raftstore::msg::{Now, ReplyId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::machine::State;
use super::super::reign::Reign;
use super::super::{Effects, Member, Membership, Options, Outcome, View, records};
use crate::cluster::Moment;

pub(super) const STEP_US: u64 = 10_000;
const TICK_US: u64 = 50_000;

pub(super) struct Host {
    pub(super) id: u64,
    options: Options,
    log: MemoryLog,
    pub(super) member: Option<Member<MemoryLog>>,
    pub(super) state: State,
    reign: Option<Reign>,
    next_tick_us: u64,
    inbox: Vec<eraftpb::Message>,
    /// Does nothing before this; messages wait.
    pub(super) paused_until_us: u64,
    wall_skew_ms: u64,
    replies: u64,
}

pub(super) struct World {
    pub(super) hosts: BTreeMap<u64, Host>,
    pub(super) now_us: u64,
    rng: StdRng,
    network: BTreeMap<(u64, u64), eraftpb::Message>,
    sent: u64,
    /// Messages lost, in percent.
    pub(super) loss_percent: u32,
    /// Rounds in which a host dies, per million.
    pub(super) crashes_per_million: u32,
    /// Messages that never arrive.
    pub(super) swallows: Option<fn(&eraftpb::Message) -> bool>,
    /// Pairs that cannot hear each other.
    pub(super) cut: BTreeSet<(u64, u64)>,
    pub(super) last_timestamp: Timestamp,
    pub(super) ids: BTreeSet<u64>,
    pub(super) outcomes: BTreeMap<(u64, u64), Outcome>,
    /// What was found wrong.
    pub(super) violation: Option<String>,
    /// How many grants there were.
    pub(super) grants: u64,
    /// Everything that happened, as one number.
    pub(super) trace: u64,
}

pub(super) fn description(id: u64) -> Description {
    Description {
        member_id: id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://m{id}:2380")],
        ..Description::default()
    }
}

impl World {
    pub(super) fn new(seed: u64, members: u64, options: &Options) -> Self {
        let mut world = Self {
            hosts: BTreeMap::new(),
            now_us: 0,
            rng: StdRng::seed_from_u64(seed),
            network: BTreeMap::new(),
            sent: 0,
            loss_percent: 0,
            crashes_per_million: 0,
            swallows: None,
            cut: BTreeSet::new(),
            last_timestamp: Timestamp::ZERO,
            ids: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            violation: None,
            grants: 0,
            trace: 0,
        };
        let founders: Vec<_> = (1..=members).map(description).collect();
        let state = State::founding(founders, records::FOUNDING_INDEX, records::FOUNDING_TERM);
        for id in 1..=members {
            let log = MemoryLog::new();
            let identity = Identity { member_id: id, ..Identity::default() };
            records::write_founding(&log, &identity, &state).unwrap();
            world.add(id, log, seed, options);
        }
        world
    }

    /// A host without data, which is to join.
    pub(super) fn add_empty(&mut self, id: u64, seed: u64, options: &Options) {
        self.add(id, MemoryLog::new(), seed, options);
    }

    fn add(&mut self, id: u64, log: MemoryLog, seed: u64, options: &Options) {
        let mut options = options.clone();
        options.group.seed = seed ^ (id << 32);
        let mut host = Host {
            id,
            options,
            log,
            member: None,
            state: State::default(),
            reign: None,
            next_tick_us: self.now_us + self.rng.random_range(0..TICK_US),
            inbox: Vec::new(),
            paused_until_us: 0,
            wall_skew_ms: self.rng.random_range(0..10_000),
            replies: 0,
        };
        host.start();
        self.hosts.insert(id, host);
    }

    fn mark(&mut self, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn is_cut(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// Cuts a host off from all others.
    pub(super) fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.hosts.keys().copied().filter(|&other| other != id).collect();
        self.cut.extend(others.into_iter().map(|other| (id, other)));
    }

    pub(super) fn crash(&mut self, id: u64) {
        self.mark(id);
        let keep = self.rng.random_range(0..2);
        let host = self.hosts.get_mut(&id).unwrap();
        host.member = None;
        host.reign = None;
        host.inbox.clear();
        host.log.power_loss(keep);
    }

    pub(super) fn restart(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        host.next_tick_us = self.now_us + TICK_US;
        host.start();
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    /// Runs for so long, with everything in order or until something is wrong.
    pub(super) fn run(&mut self, duration_us: u64) {
        let until_us = self.now_us + duration_us;
        while self.now_us < until_us && self.violation.is_none() {
            self.step();
        }
    }

    /// Runs until this holds; says whether it did within so long.
    pub(super) fn run_until(
        &mut self,
        duration_us: u64,
        condition: impl Fn(&Self) -> bool,
    ) -> bool {
        let until_us = self.now_us + duration_us;
        while self.now_us < until_us && self.violation.is_none() {
            if condition(self) {
                return true;
            }
            self.step();
        }
        condition(self)
    }

    fn step(&mut self) {
        self.now_us += STEP_US;
        let due: Vec<_> = {
            let later = self.network.split_off(&(self.now_us + 1, 0));
            std::mem::replace(&mut self.network, later).into_values().collect()
        };
        for message in due {
            if let Some(host) = self.hosts.get_mut(&message.to)
                && host.member.is_some()
            {
                host.inbox.push(message);
            }
        }
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for &id in &ids {
            self.run_host(id);
        }
        // Whoever believes it may serve, serves, the paused ones too: a pause may end right here.
        for &id in &ids {
            self.serve(id);
        }
    }

    fn run_host(&mut self, id: u64) {
        let now_us = self.now_us;
        let crashes = self.crashes_per_million;
        let host = self.hosts.get_mut(&id).unwrap();
        let moment = host.moment(now_us);
        if host.paused_until_us > now_us {
            return;
        }
        let Some(member) = &mut host.member else { return };
        let mut effects = Effects::default();
        for message in host.inbox.drain(..) {
            member.step(message);
        }
        if now_us >= host.next_tick_us {
            host.next_tick_us = now_us + TICK_US;
            member.tick(Now(now_us), &host.state, &mut effects);
        }
        let mut outgoing = Vec::new();
        let mut died = false;
        while let Some(mut round) = member.take_round(&host.state) {
            outgoing.append(&mut round.send_now);
            let log = std::mem::take(&mut round.log);
            host.log.write_unsynced(log).unwrap();
            if self.rng.random_range(0..1_000_000) < crashes {
                died = true;
                break;
            }
            host.log.sync().unwrap();
            member.finish_round(round, &mut host.state, &mut effects).unwrap();
            outgoing.append(&mut effects.send);
            if self.rng.random_range(0..1_000_000) < crashes {
                died = true;
                break;
            }
        }
        // As the shell does: begin, go on with, or end the leadership.
        let view = member.view();
        let may_reign = view.may_reign && !view.is_handing_over;
        if host.reign.as_ref().is_some_and(|reign| reign.term() != view.term || !may_reign) {
            host.reign = None;
        }
        if may_reign && host.reign.is_none() {
            host.reign = Some(Reign::begin(view.term, &host.state, moment));
        }
        let mut proposals = Vec::new();
        if let Some(reign) = &mut host.reign {
            effects.applied.iter().for_each(|change| reign.on_applied(change));
            proposals.extend(reign.wants(moment, 1 + self.rng.random_range(0..u64::MAX - 1)));
        }
        let term = view.term;
        for (reply, outcome) in std::mem::take(&mut effects.replies) {
            self.outcomes.insert((id, reply.0), outcome);
        }
        for change in proposals {
            self.propose(id, term, &change);
        }
        self.send(outgoing);
        if died {
            self.crash(id);
        }
    }

    fn send(&mut self, messages: Vec<eraftpb::Message>) {
        for message in messages {
            self.sent += 1;
            let lost = self.rng.random_range(0..100) < self.loss_percent;
            let delay_us = self.rng.random_range(0..3) * STEP_US;
            self.mark(message.to ^ message.term << 8 ^ message.index << 16);
            let lost = lost || self.swallows.is_some_and(|swallows| swallows(&message));
            if !lost && !self.is_cut(message.from, message.to) {
                self.network.insert((self.now_us + delay_us, self.sent), message);
            }
        }
    }

    /// Proposes on a host; the outcome appears under the number returned.
    pub(super) fn propose(&mut self, id: u64, term: u64, change: &Change) -> (u64, u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        host.replies += 1;
        let reply = ReplyId(host.replies);
        let mut effects = Effects::default();
        if let Some(member) = &mut host.member {
            member.propose(reply, term, change, &mut effects);
        }
        self.outcomes.extend(effects.replies.iter().map(|(reply, o)| ((id, reply.0), *o)));
        (id, reply.0)
    }

    pub(super) fn propose_membership(&mut self, id: u64, change: Membership) -> (u64, u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        host.replies += 1;
        let reply = ReplyId(host.replies);
        let mut effects = Effects::default();
        if let Some(member) = &mut host.member {
            member.propose_membership(reply, change, &mut effects);
        }
        self.outcomes.extend(effects.replies.iter().map(|(reply, o)| ((id, reply.0), *o)));
        (id, reply.0)
    }

    pub(super) fn hand_over(&mut self, id: u64, to: u64) {
        if let Some(member) = &mut self.hosts.get_mut(&id).unwrap().member {
            member.hand_over(to);
        }
    }

    /// These are told to campaign at once, as by a leader that hands over; all of them hear it in the next step.
    pub(super) fn call_to_campaign(&mut self, leader: u64, rivals: &[u64]) {
        for &id in rivals {
            let host = self.hosts.get_mut(&id).unwrap();
            let term = host.member.as_ref().map_or(0, |member| member.view().term);
            let mut call = eraftpb::Message { from: leader, to: id, term, ..Default::default() };
            call.set_msg_type(eraftpb::MessageType::MsgTimeoutNow);
            host.inbox.push(call);
        }
    }

    fn serve(&mut self, id: u64) {
        let now_us = self.now_us;
        let host = self.hosts.get_mut(&id).unwrap();
        let moment = host.moment(now_us);
        if !host.may_serve(now_us) {
            return;
        }
        let Some(reign) = &mut host.reign else { return };
        if let Ok(timestamp) = reign.grant(3, moment) {
            self.grants += 1;
            // The lowest of the three must lie above everything given before.
            if timestamp.0 - 2 <= self.last_timestamp.0 {
                self.violation = Some(format!(
                    "m{id} gives {timestamp} at {now_us} after {}",
                    self.last_timestamp
                ));
            }
            self.last_timestamp = timestamp;
            self.mark(timestamp.0);
        }
        let reign = self.hosts.get_mut(&id).unwrap().reign.as_mut().unwrap();
        if let Ok(given) = reign.take_ids(2) {
            for given in given - 1..=given {
                if !self.ids.insert(given) {
                    self.violation = Some(format!("m{id} gives id {given} again"));
                }
            }
        }
    }

    /// The hosts that believe they may serve.
    pub(super) fn serving(&self) -> Vec<u64> {
        self.hosts.values().filter(|host| host.may_serve(self.now_us)).map(|host| host.id).collect()
    }

    /// Who leads, as this host sees it; `None` while it is dead.
    pub(super) fn view(&self, id: u64) -> Option<View> {
        self.hosts[&id].member.as_ref().map(Member::view)
    }

    pub(super) fn term(&self, id: u64) -> u64 {
        self.view(id).map_or(0, |view| view.term)
    }
}

impl Host {
    fn start(&mut self) {
        let (member, state) =
            Member::open(self.log.clone(), self.id, self.options.clone()).unwrap();
        self.member = Some(member);
        self.state = state;
        self.reign = None;
    }

    fn moment(&self, now_us: u64) -> Moment {
        let steady_ms = now_us / 1_000;
        Moment { steady_ms, wall_ms: 1_700_000_000_000 + self.wall_skew_ms + steady_ms }
    }

    fn may_serve(&self, now_us: u64) -> bool {
        let Some(member) = &self.member else { return false };
        let view = member.view();
        view.may_reign
            && !view.is_handing_over
            && Now(now_us) < member.lease_until()
            && self
                .reign
                .as_ref()
                .is_some_and(|reign| reign.term() == view.term && reign.is_ready())
    }
}
