//! What travels: between stores, between a store and the overseer, between a client and a store.

#![allow(clippy::wildcard_enum_match_arm, reason = "an observer looks for some kinds among many")]

use prost::Message as _;
use proto::{pdpb, raft_serverpb::RaftMessage, region};
use raftstore::effects::{OutgoingSnapshot, Report};
use raftstore::msg::{SnapshotSource, StoreMsg};

use super::clients::{Request, Wish};
use super::events::{MILLISECOND, SECOND};
use super::node::{Local, Out};
use super::notation::{becomes, lost};
use super::probes::Probe;
use super::region_map::RegionMap;
use super::world::{Event, World};

/// The network knows clients and overseer by this number.
pub(super) const OUTSIDE: u64 = 0;

/// Beyond so many regions no store is allowed to split one of its own accord, when there are transactions.
const REGIONS_MAX: usize = 12;

/// What the network carries between stores.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    Message(RaftMessage),
    /// The same as bytes: what the real wire would carry.
    Encoded(Vec<u8>),
    Snapshot(RaftMessage, SnapshotSource),
}

impl World {
    pub(super) fn perform(&mut self, store: u64, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send(message) => self.send(store, message),
                Out::SendSnapshot(snapshot) => self.send_snapshot(store, snapshot),
                Out::Report(report) => {
                    self.see_report(&report);
                    self.remark_on(store, &report);
                    if let Some(delay) = self.network.arrivals(store, OUTSIDE).first() {
                        self.events.after(*delay, Event::Tell(store, Box::new(report)));
                    }
                }
                Out::Respond(response) => {
                    self.see_response(&response);
                    if let Some(delay) = self.network.arrivals(store, OUTSIDE).first() {
                        self.events.after(*delay, Event::Respond(store, response));
                    }
                }
                Out::TxnAnswer(id, answer) => self.carry_answer(store, id, answer),
                Out::AskTimestamp(id) => self.store_asks_oracle(store, id),
                // Clients here send requests, never messages with a reply of their own.
                Out::Reply(..) => {}
                Out::After(delay, local) => {
                    let life = self.nodes[&store].life();
                    let life = local.belongs_to_process().then_some(life);
                    self.events.after(delay, Event::At(store, life, local));
                }
            }
        }
    }

    /// What a person wants to read between the events.
    fn remark_on(&mut self, store: u64, report: &Report) {
        if let Report::LeaderChanged { region, term, is_leader } = report {
            let now = self.events.now();
            self.trace.remark(now, || becomes(store, region, *term, *is_leader));
        }
    }

    fn send(&mut self, from: u64, message: RaftMessage) {
        let to = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
        self.see_sent(from, &message);
        let arrivals = self.network.arrivals(from, to);
        if arrivals.is_empty() {
            self.trace.remark(self.events.now(), || lost(from, to, &message));
        }
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
        self.judges.saw(Probe::SnapshotSent);
        if arrival.is_none() {
            self.judges.saw(Probe::SnapshotLost);
        }
        let is_damaged = self.dice.happens(self.options.damage);
        let source = if is_damaged { self.damage(source) } else { source };
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

    /// Changes one byte of a snapshot, which a checksum finds.
    fn damage(&mut self, source: SnapshotSource) -> SnapshotSource {
        match source {
            SnapshotSource::Bytes(bytes) if !bytes.is_empty() => {
                let mut damaged = bytes.to_vec();
                let at = self.dice.within(0..damaged.len() as u64) as usize;
                damaged[at] ^= 1 << self.dice.within(0..8);
                SnapshotSource::Bytes(damaged.into())
            }
            whole => whole,
        }
    }

    pub(super) fn deliver(&mut self, from: u64, to: u64, carried: Carried) {
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
    pub(super) fn tell(&mut self, from: u64, report: Report) {
        let answer = match report {
            Report::RegionHeartbeat(heartbeat) => self.hear_heartbeat(&heartbeat),
            Report::AskSplit { region, ask, count } => {
                // Records pile up, and would be cut into ever more regions.
                let may = self.txn.is_none() || self.overseer.regions().count() < REGIONS_MAX;
                let ids = may.then(|| self.overseer.ids(count, region.peers.len()));
                Some(StoreMsg::SplitIds { region_id: region::id(&region), ask, ids })
            }
            Report::ValidatePeer { region, peer } => {
                self.overseer.knows_peer_gone(&region, &peer).map(|newest| {
                    self.judges.saw(Probe::SchedulerTells);
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
                self.tell_clients(|map| regions.iter().for_each(|region| map.learn(region)));
                None
            }
            Report::StoreHeartbeat(_)
            | Report::LeaderChanged { .. }
            | Report::HandingOver { .. } => None,
        };
        if let Some(message) = answer
            && let Some(delay) = self.network.arrivals(OUTSIDE, from).first()
        {
            let local = Local::Arrives(Box::new(message));
            self.events.after(*delay, Event::At(from, None, local));
        }
    }

    /// Clients learn what the scheduler learns.
    pub(super) fn tell_clients(&mut self, what: impl Fn(&mut RegionMap)) {
        what(self.clients.map());
        if let Some(txn) = &self.txn {
            txn.learn(what);
        }
    }

    fn hear_heartbeat(&mut self, heartbeat: &pdpb::RegionHeartbeatRequest) -> Option<StoreMsg> {
        let order = self.overseer.on_heartbeat(heartbeat);
        if let (Some(region), Some(leader)) = (&heartbeat.region, &heartbeat.leader) {
            self.tell_clients(|map| {
                map.learn(region);
                map.learn_leader(region.id, leader.store_id);
            });
        }
        order.map(|order| StoreMsg::Order(Box::new(order)))
    }

    pub(super) fn grant(&mut self, wishes: Vec<Wish>) {
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
