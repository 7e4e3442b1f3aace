//! Leaders leave certain stores, and none come: before a restart, or because a store is trouble.
//!
//! Every leader there is handed to the voter of its region whose store leads least. A region whose
//! other voters cannot lead keeps its leader, and is tried again.

use proto::StoreId;
use serde_json::Value;

use super::held_stores::HeldStores;
use crate::cluster::RegionRecord;
use crate::operator::{Operator, Priority, Purpose};
use crate::placement::{Candidate, View};
use crate::scheduling::{Bars, Desk, LetGo, Scheduler, Verdict};

const NAME: &str = "evict-leader-scheduler";
const TYPE: &str = "evict-leader";

/// Regions of one store that are looked at in one turn.
const TRIES: usize = 256;

/// The scheduler of this name.
#[derive(Clone, Debug)]
pub struct EvictLeader {
    held: HeldStores,
}

impl EvictLeader {
    /// One that empties the stores which the arguments name.
    pub fn make(arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        Ok(Box::new(Self { held: HeldStores::read(arguments)? }))
    }
}

/// Up to `batch` leaders leave the store.
pub(super) fn evict(
    desk: &mut Desk<'_>,
    store: StoreId,
    batch: usize,
    description: &'static str,
) -> Vec<Operator> {
    let mut operators = Vec::new();
    let start = desk.dice().roll();
    let view = desk.view();
    for record in view.regions.led_from(store, start).take(TRIES) {
        if operators.len() == batch || desk.room() == 0 {
            break;
        }
        if !desk.is_free(record.id()) {
            continue;
        }
        let Some(to) = desk.best_leader(record, |other| other != store) else { continue };
        let transfer = desk.transfer_leader(description, Purpose::Leader, record, to);
        operators.extend(transfer.map(|operator| operator.with_priority(Priority::Urgent)));
    }
    operators
}

/// Why the region's leader does (not) leave a store that is to have none.
pub(super) fn verdict_of(view: View<'_>, record: &RegionRecord, store: StoreId) -> Verdict {
    match view.best_leader(record, |other| other != store) {
        Some(to) => Verdict::says(format!("its lead leaves {store}, and {to} can take it")),
        None => {
            Verdict::says(format!("its lead would leave {store}, but no other store can lead it"))
        }
    }
}

impl Scheduler for EvictLeader {
    fn name(&self) -> &str {
        NAME
    }

    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn purpose(&self) -> Purpose {
        Purpose::Leader
    }

    fn prepare(&mut self, view: View<'_>) -> Result<(), String> {
        self.held.prepare(view)
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let stores = self.held.stores().clone();
        stores.into_iter().flat_map(|store| evict(desk, store, self.held.batch(), TYPE)).collect()
    }

    fn bars(&self) -> Bars {
        Bars { no_leaders_in: self.held.stores().clone(), ..Bars::default() }
    }

    fn arguments(&self) -> Value {
        self.held.to_json()
    }

    fn configure(&mut self, arguments: &Value, view: View<'_>) -> Result<(), String> {
        self.held.configure(arguments, view)
    }

    fn let_go(&mut self, store: StoreId) -> LetGo {
        self.held.let_go(store)
    }

    fn verdict(&self, view: View<'_>, record: &RegionRecord) -> Verdict {
        match record.leader_store().filter(|leads| self.held.stores().contains(leads)) {
            Some(leads) => verdict_of(view, record, leads),
            None => Verdict::Silent,
        }
    }

    fn store_verdict(&self, _: View<'_>, store: &Candidate<'_>) -> Verdict {
        if !self.held.stores().contains(&store.store.id()) {
            return Verdict::Silent;
        }
        Verdict::says(format!("it is to have no leaders; it has {}", store.counts.leaders))
    }
}
