//! A region of two peers loses its leader to an order, over a network that loses messages.
//!
//! The classic way to hang: the leader removes itself, is gone before the other knows that it is committed,
//! and the other asks a dead voter for its vote for ever. Here clients write all the time, the network
//! between the stores loses, repeats and delays (theirs to the stores does not), and:
//!
//! - the one that is left serves alone in the end, and the removed one is gone;
//! - from the order on, no two writes that succeed are further apart than two election timeouts;
//! - no call of a client takes longer than a client waits.
//!
//! `TESSERA_TWO_PEERS_SEEDS` says how many seeds to run, from `TESSERA_TWO_PEERS_FROM` on; a sample runs without
//! it. With `TESSERA_TWO_PEERS_TRACE` every message and report is printed.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other refusal means the same to this client"
)]

use std::collections::BTreeMap;

use proto::{RegionId, eraftpb, metapb, pdpb, raft_serverpb::RaftMessage, region};
use raftstore::config::Config;
use raftstore::effects::Report;
use raftstore::engine::DataEngine as _;
use raftstore::msg::StoreMsg;
use raftstore::storage::{RegionState, bootstrap, region_state};
use tests::history::Call;
use tests::sim::clients::{Request, Response};
use tests::sim::dice::Dice;
use tests::sim::events::{Events, Instant, MILLISECOND, SECOND};
use tests::sim::judges::Judges;
use tests::sim::network::{Network, Weather};
use tests::sim::node::{Local, Node, Out};
use tests::sim::notation::Words;

const SEEDS_USUAL: u64 = 60;

const REGION: u64 = 1;
const WRITERS: usize = 3;
/// The order is given from here on.
const ORDERED: Instant = 4 * SECOND;
/// Until here all must be well.
const END: Instant = 24 * SECOND;
/// What the course's client waits for a call.
const CALL_MAX: Instant = 5 * SECOND;

#[derive(Debug)]
enum Event {
    At(u64, Option<u64>, Local),
    Deliver(u64, Box<RaftMessage>),
    Tell(u64, Box<Report>),
    Respond(Response),
    Write(usize),
}

#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    /// When its call began, if one is under way.
    since: Option<Instant>,
    attempt: u64,
    next: u64,
}

struct World {
    dice: Dice,
    events: Events<Event>,
    nodes: BTreeMap<u64, Node>,
    network: Network,
    judges: Judges,
    writers: [Writer; WRITERS],
    /// The clients' idea of the region and its leader.
    known: metapb::Region,
    leader: u64,
    /// The peer that is to go.
    doomed: Option<metapb::Peer>,
    last_success: Instant,
    outcome: Figures,
    verbose: bool,
}

/// What was measured, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    writes: u64,
    unknown: u64,
    longest_gap: Instant,
    longest_call: Instant,
}

fn config(seed: u64) -> Config {
    Config { seed, region_heartbeat_ticks: 10, leader_missing_ticks: 80, ..Config::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed).stream("two peers");
        let peers = (1..=2).map(|id| metapb::Peer { id, store_id: id, ..Default::default() });
        let known = metapb::Region {
            id: REGION,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: peers.collect(),
            ..Default::default()
        };
        let nodes: BTreeMap<u64, Node> = (1..=2)
            .map(|id| {
                let dice = dice.stream(&format!("store {id}"));
                (id, Node::new(id, config(seed ^ id), dice, 10_000, None))
            })
            .collect();
        for node in nodes.values() {
            bootstrap::prepare(&node.data, known.clone()).expect("memory does not fail");
            bootstrap::confirm_first_region(&node.data).expect("memory does not fail");
        }
        let disks = nodes.iter().map(|(store, node)| (*store, node.log.clone())).collect();
        let weather = Weather {
            loss: dice.within(0..100),
            repeat: dice.within(0..50),
            delay: dice.within(MILLISECOND / 5..5 * MILLISECOND),
            very_late: dice.within(0..20),
        };
        Self {
            events: Events::default(),
            network: Network::new(dice.stream("network"), weather),
            dice,
            nodes,
            judges: Judges::new(disks),
            writers: [Writer::default(); WRITERS],
            known,
            leader: 1,
            doomed: None,
            last_success: ORDERED,
            outcome: Figures::default(),
            verbose: std::env::var_os("TESSERA_TWO_PEERS_TRACE").is_some(),
        }
    }

    fn run(mut self) -> Result<Figures, String> {
        for store in [1, 2] {
            let node = self.nodes.get_mut(&store).expect("a store");
            let outs = node.start(0, &mut self.judges);
            self.perform(store, outs);
        }
        (0..WRITERS).for_each(|slot| self.events.after(2 * SECOND, Event::Write(slot)));
        while self.judges.violation().is_none()
            && let Some(event) = self.events.next_before(END)
        {
            self.happen(event);
        }
        if let Some(violation) = self.judges.violation() {
            return Err(violation.to_owned());
        }
        self.judge()
    }

    fn judge(self) -> Result<Figures, String> {
        let mut outcome = self.outcome;
        outcome.longest_gap = outcome.longest_gap.max(END - self.last_success);
        for since in self.writers.iter().filter_map(|writer| writer.since) {
            outcome.longest_call = outcome.longest_call.max(END - since);
        }
        let doomed = self.doomed.ok_or("there never was a leader")?;
        let state = |store: u64| {
            let snapshot = self.nodes[&store].data.snapshot();
            region_state(&snapshot, RegionId(REGION)).expect("memory does not fail")
        };
        if !matches!(state(doomed.store_id), Some(RegionState::Tombstone(_))) {
            return Err(format!("the removed peer is still there: {outcome:?}"));
        }
        match state(3 - doomed.store_id) {
            Some(RegionState::Normal(region)) if region.peers.len() == 1 => {}
            other => return Err(format!("nobody is left alone: {other:?} {outcome:?}")),
        }
        let election = config(0).election_micros();
        // A follower campaigns after one election timeout up to two.
        if outcome.longest_gap > 2 * 2 * election {
            return Err(format!("nobody served for too long: {outcome:?}"));
        }
        if outcome.longest_call > CALL_MAX {
            return Err(format!("a client has given up: {outcome:?}"));
        }
        Ok(outcome)
    }

    fn happen(&mut self, event: Event) {
        let now = self.events.now();
        match event {
            Event::At(store, life, local) => {
                let node = self.nodes.get_mut(&store).expect("a store");
                if life.is_none_or(|life| life == node.life()) {
                    let outs = node.on(local, now, &mut self.judges);
                    self.perform(store, outs);
                }
            }
            Event::Deliver(to, message) => {
                self.tell_reader(|| format!("{} s{to}", Words(&message)));
                let local = Local::Arrives(Box::new(StoreMsg::Raft(message)));
                let node = self.nodes.get_mut(&to).expect("a store");
                let outs = node.on(local, now, &mut self.judges);
                self.perform(to, outs);
            }
            Event::Tell(from, report) => self.tell(from, *report),
            Event::Respond(response) => self.on_response(response),
            Event::Write(slot) => self.write(slot),
        }
    }

    fn tell_reader(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            let now = self.events.now();
            eprintln!("{:>9}.{:03} {}", now / MILLISECOND, now % MILLISECOND, line());
        }
    }

    fn perform(&mut self, store: u64, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send(message) => {
                    let to = message.to_peer.map_or(0, |peer| peer.store_id);
                    for delay in self.network.arrivals(store, to) {
                        self.events.after(delay, Event::Deliver(to, Box::new(message.clone())));
                    }
                }
                Out::SendSnapshot(_) => self.judges.fail("a snapshot is not needed here".into()),
                Out::Report(report) => {
                    self.events.after(MILLISECOND, Event::Tell(store, Box::new(report)));
                }
                Out::Respond(response) => {
                    self.events.after(MILLISECOND, Event::Respond(response));
                }
                // Nobody here asks by a message of its own, or runs transactions.
                Out::Reply(..) | Out::TxnAnswer(..) | Out::AskTimestamp(_) => {}
                Out::After(delay, local) => {
                    let life = self.nodes[&store].life();
                    let life = local.belongs_to_process().then_some(life);
                    self.events.after(delay, Event::At(store, life, local));
                }
            }
        }
    }

    /// The scheduler hears something, and orders what it wants until it is so.
    fn tell(&mut self, from: u64, report: Report) {
        let Report::RegionHeartbeat(heartbeat) = report else { return };
        self.tell_reader(|| {
            let region = heartbeat.region.as_ref().map(region::Readable);
            format!("s{from} reports {}", region.map_or("nothing".into(), |it| it.to_string()))
        });
        let (Some(region), Some(leader)) = (heartbeat.region, heartbeat.leader) else { return };
        if region::is_epoch_stale(&region::epoch(&region), &region::epoch(&self.known)) {
            return;
        }
        self.known = region.clone();
        self.leader = leader.store_id;
        if self.events.now() < ORDERED {
            self.doomed = Some(leader);
            return;
        }
        let Some(doomed) = self.doomed.filter(|doomed| region.peers.contains(doomed)) else {
            return;
        };
        let change = pdpb::ChangePeer {
            peer: Some(doomed),
            change_type: eraftpb::ConfChangeType::RemoveNode.into(),
        };
        let order = pdpb::RegionHeartbeatResponse {
            region_id: REGION,
            region_epoch: region.region_epoch,
            change_peer: Some(change),
            ..Default::default()
        };
        let local = Local::Arrives(Box::new(StoreMsg::Order(Box::new(order))));
        self.events.after(MILLISECOND, Event::At(from, None, local));
    }

    fn write(&mut self, slot: usize) {
        let now = self.events.now();
        let writer = &mut self.writers[slot];
        writer.since.get_or_insert(now);
        writer.attempt += 1;
        let request = Request {
            slot,
            attempt: writer.attempt,
            key: slot as u64,
            call: Call::Write(writer.next),
            region: self.known.clone(),
            replica_read: false,
        };
        let local = Local::Request(Box::new(request));
        self.events.after(MILLISECOND, Event::At(self.leader, None, local));
    }

    fn on_response(&mut self, response: Response) {
        let now = self.events.now();
        let writer = &mut self.writers[response.slot];
        if writer.attempt != response.attempt {
            return;
        }
        let pause = match response.result {
            Ok(_) => {
                let since = writer.since.take().unwrap_or(now);
                writer.next += 1;
                self.outcome.writes += 1;
                self.outcome.longest_call = self.outcome.longest_call.max(now - since);
                if now > ORDERED {
                    self.outcome.longest_gap =
                        self.outcome.longest_gap.max(now - self.last_success);
                    self.last_success = now;
                }
                self.dice.within(MILLISECOND..20 * MILLISECOND)
            }
            Err(refusal) => {
                match refusal {
                    proto::Refusal::NotLeader { leader: Some(leader), .. } => {
                        self.leader = leader.store_id;
                    }
                    proto::Refusal::EpochNotMatch { current_regions } => {
                        self.known = current_regions[0].clone();
                    }
                    proto::Refusal::UndeterminedResult { .. } => self.outcome.unknown += 1,
                    _ => self.leader = 3 - self.leader,
                }
                10 * MILLISECOND
            }
        };
        self.events.after(pause, Event::Write(response.slot));
    }
}

#[test]
fn the_leader_of_two_is_removed_and_the_other_serves_at_once() {
    let number = |name: &str, usual: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => usual,
    };
    let first = number("TESSERA_TWO_PEERS_FROM", 0);
    let seeds = number("TESSERA_TWO_PEERS_SEEDS", SEEDS_USUAL);
    let mut all = Figures::default();
    for seed in first..first + seeds {
        let figures = World::new(seed).run().and_then(|figures| match figures.writes {
            0..=100 => Err(format!("hardly a write: {figures:?}")),
            _ => Ok(figures),
        });
        let figures = figures.unwrap_or_else(|what| {
            panic!(
                "seed {seed}: {what}\nagain: TESSERA_TWO_PEERS_FROM={seed} TESSERA_TWO_PEERS_SEEDS=1 \
                 TESSERA_TWO_PEERS_TRACE=1 cargo xtask test two_peers"
            )
        });
        all.writes += figures.writes;
        all.unknown += figures.unknown;
        all.longest_gap = all.longest_gap.max(figures.longest_gap);
        all.longest_call = all.longest_call.max(figures.longest_call);
    }
    eprintln!("{seeds} seeds: {all:?}");
}
