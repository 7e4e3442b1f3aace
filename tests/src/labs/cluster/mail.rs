//! What travels: between stores through the filters; to and from clients and the scheduler past them.

use proto::{PeerId, RegionId, StoreId, raft_serverpb::RaftMessage, region};
use raftstore::effects::{OutgoingSnapshot, Report};
use raftstore::msg::{SnapshotSource, StoreMsg};

use super::world::{Event, UNREACHABLE_AFTER, World};
use crate::sim::events::SECOND;
use crate::sim::node::{Local, Out};
use crate::sim::notation::lost;

/// The network knows clients and scheduler by this number.
const OUTSIDE: u64 = 0;

/// What the network carries between stores.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    Message(RaftMessage),
    Snapshot(RaftMessage, SnapshotSource),
}

impl World {
    /// Does what a store asks for.
    pub(super) fn perform(&mut self, store: u64, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send(message) => self.send(store, message),
                Out::SendSnapshot(snapshot) => self.send_snapshot(store, snapshot),
                Out::Report(report) => {
                    let delay = self.outside_delay(store);
                    self.events.after(delay, Event::Tell(store, Box::new(report)));
                }
                Out::Reply(id, reply) => self.on_reply(store, id, reply),
                // Requests of registers and transactions are the simulator's own.
                Out::Respond(_) | Out::TxnAnswer(..) | Out::AskTimestamp(_) => {}
                Out::After(delay, local) => {
                    let life = self.nodes[&store].life();
                    let life = local.belongs_to_process().then_some(life);
                    self.events.after(delay, Event::At(store, life, local));
                }
            }
        }
    }

    /// How long something takes between a store and the outside, where nothing is lost.
    pub(super) fn outside_delay(&mut self, store: u64) -> u64 {
        let arrivals = self.outside.arrivals(store, OUTSIDE);
        *arrivals.first().expect("the network outside is whole")
    }

    /// Something for a store's raft worker comes from outside.
    fn tell_store(&mut self, store: u64, delay: u64, message: StoreMsg) {
        let local = Local::Arrives(Box::new(message));
        self.events.after(delay, Event::At(store, None, local));
    }

    fn send(&mut self, from: u64, message: RaftMessage) {
        let to = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
        let arrivals = self.network.arrivals(from, to);
        if arrivals.is_empty() {
            self.trace.remark(self.events.now(), || lost(from, to, &message));
        }
        // A sender does not always learn that nothing arrives.
        if arrivals.is_empty() && self.dice.happens(20) {
            let told = StoreMsg::Unreachable { store_id: StoreId(to) };
            self.tell_store(from, UNREACHABLE_AFTER, told);
        }
        for delay in arrivals {
            let carried = Carried::Message(message.clone());
            self.events.after(delay, Event::Deliver(from, to, Box::new(carried)));
        }
    }

    fn send_snapshot(&mut self, from: u64, snapshot: OutgoingSnapshot) {
        let OutgoingSnapshot { message, source } = snapshot;
        let to_peer = message.to_peer.unwrap_or_default();
        let to = to_peer.store_id;
        let arrival = self.network.arrivals(from, to).first().map(|delay| delay * 4);
        let told = StoreMsg::SnapshotSent {
            region_id: RegionId(message.region_id),
            to: PeerId(to_peer.id),
            ok: arrival.is_some(),
        };
        if let Some(delay) = arrival {
            let carried = Carried::Snapshot(message, source);
            self.events.after(delay, Event::Deliver(from, to, Box::new(carried)));
        }
        self.tell_store(from, arrival.unwrap_or(SECOND) * 2, told);
    }

    pub(super) fn deliver(&mut self, from: u64, to: u64, carried: Carried) {
        // A cut also swallows what was on its way.
        if self.network.is_cut(from, to) || !self.nodes.contains_key(&to) {
            return;
        }
        let message = match carried {
            Carried::Message(message) => StoreMsg::Raft(Box::new(message)),
            Carried::Snapshot(message, source) => {
                StoreMsg::SnapshotReceived { message: Box::new(message), source }
            }
        };
        self.at_store(to, Local::Arrives(Box::new(message)));
    }

    /// Something happens on a store now.
    pub(super) fn at_store(&mut self, store: u64, local: Local) {
        let now = self.events.now();
        let node = self.nodes.get_mut(&store).expect("a store exists");
        let outs = node.on(local, now, &mut self.judges);
        self.perform(store, outs);
    }

    /// The scheduler hears something, and perhaps answers.
    pub(super) fn tell(&mut self, from: u64, report: Report) {
        let answer = match report {
            Report::RegionHeartbeat(heartbeat) => {
                let order = self.scheduler.on_heartbeat(&heartbeat);
                order.map(|order| StoreMsg::Order(Box::new(order)))
            }
            Report::AskSplit { region, ask, count } => {
                let ids = self.scheduler.split_ids(&region, count);
                Some(StoreMsg::SplitIds { region_id: region::id(&region), ask, ids })
            }
            Report::ValidatePeer { region, peer } => {
                self.scheduler.knows_peer_gone(&region, &peer).map(|newest| {
                    StoreMsg::Raft(Box::new(RaftMessage {
                        region_id: region.id,
                        region_epoch: newest.region_epoch,
                        to_peer: Some(peer),
                        is_tombstone: true,
                        ..Default::default()
                    }))
                })
            }
            // The course's scheduler learns of a split from the heartbeats of its parts.
            Report::RegionsSplit(_)
            | Report::StoreHeartbeat(_)
            | Report::HandingOver { .. }
            | Report::LeaderChanged { .. } => None,
        };
        if let Some(message) = answer {
            let delay = self.outside_delay(from);
            self.tell_store(from, delay, message);
        }
    }
}
