//! Pessimistic locks in memory, as a simulated store keeps them: it hears who leads, and before a leader hands
//! over, or its region is split, they are written into the log.
//!
//! In production `kv::handover` and `kv::scheduler_link` do the same.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use kv::txn::reservations::Led;
use proto::{RegionId, kvrpcpb, metapb, region};
use raftstore::effects::Report;
use raftstore::msg::StoreMsg;
use raftstore::read_view::ReadViews;

use super::server::TxnServer;
use crate::sim::judges::Judges;
use crate::sim::node::{Inbound, Node, Out};
use crate::sim::probes::Probe;

/// How long writing a region's locks may take.
const SAVE_TIME_MAX: Duration = Duration::from_millis(300);

impl TxnServer {
    /// What the store leads when the server begins.
    pub(super) fn hear_all(&self, views: &ReadViews) {
        for view in views.all().iter().filter(|view| view.is_leader) {
            self.transactions.reservations().on_leader(led(&view.region, view.term));
        }
    }

    fn begin_saving(&mut self, region: &metapb::Region, then: StoreMsg) {
        let (transactions, saved) = (self.transactions.clone(), self.saved.clone());
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            max_execution_duration_ms: SAVE_TIME_MAX.as_millis() as u64,
            ..Default::default()
        };
        self.runtime.spawn(async move {
            let work = AssertUnwindSafe(transactions.save_reservations(&context)).catch_unwind();
            // What could not be saved is lost.
            let panic = work.await.is_err();
            saved.lock().push((then, panic));
        });
        self.is_woken = true;
    }
}

impl Node {
    /// The store reports: whether that was for its transactions alone.
    pub(in crate::sim) fn tell_transactions(
        &mut self,
        report: &Report,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) -> bool {
        let keeps = self.config.asks_before_handover;
        match report {
            Report::LeaderChanged { region, term, is_leader } if keeps => {
                let Some(server) = &self.process().txn else { return false };
                let reservations = server.transactions.reservations();
                if *is_leader {
                    reservations.on_leader(led(region, *term));
                } else {
                    if reservations.count_in(region.id) > 0 {
                        judges.saw(Probe::ReservationsLost);
                    }
                    reservations.on_leader_lost(region.id, *term);
                }
                false
            }
            Report::HandingOver { region, term, to } => {
                let (region_id, term, to) = (region::id(region), *term, *to);
                self.save_first(region, StoreMsg::HandOver { region_id, term, to }, judges, outs);
                true
            }
            Report::LeaderChanged { .. }
            | Report::RegionHeartbeat(_)
            | Report::StoreHeartbeat(_)
            | Report::AskSplit { .. }
            | Report::RegionsSplit(_)
            | Report::ValidatePeer { .. } => false,
        }
    }

    /// A message for the raft worker comes. Ids for a split have to wait.
    pub(in crate::sim) fn take_in(
        &mut self,
        message: StoreMsg,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        if let StoreMsg::SplitIds { region_id, ids: Some(_), .. } = &message
            && self.config.asks_before_handover
            && let Some(view) = self.process().server.views().by_id(*region_id)
        {
            return self.save_first(&view.region, message, judges, outs);
        }
        self.process().inbox.push_back(Inbound::Message(message));
        self.wake(outs);
    }

    fn save_first(
        &mut self,
        region: &metapb::Region,
        then: StoreMsg,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        match &mut self.process().txn {
            Some(server) => {
                if server.transactions.reservations().count_in(region.id) > 0 {
                    judges.saw(Probe::ReservationsSaved);
                }
                server.begin_saving(region, then);
            }
            None => {
                self.process().inbox.push_back(Inbound::Message(then));
                self.wake(outs);
            }
        }
    }

    /// What waited for locks to be saved goes on.
    pub(super) fn go_on_after_saving(&mut self, judges: &mut Judges, outs: &mut Vec<Out>) {
        let Some(server) = &self.process().txn else { return };
        if !server.transactions.reservations().is_empty() {
            judges.saw(Probe::ReservedInMemory);
        }
        let saved = std::mem::take(&mut *server.saved.lock());
        for (then, panic) in saved {
            if panic {
                judges.fail(format!("panic on s{} while locks were saved", self.id));
            }
            self.process().inbox.push_back(Inbound::Message(then));
            self.wake(outs);
        }
    }
}

fn led(region: &metapb::Region, term: u64) -> Led {
    let RegionId(region_id) = region::id(region);
    Led { region_id, term, version: region::epoch(region).version }
}
