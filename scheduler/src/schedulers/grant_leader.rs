//! Certain stores lead every region of which they have a voter, and nobody takes it from them.

use proto::StoreId;
use serde_json::Value;

use super::held_stores::HeldStores;
use crate::cluster::RegionRecord;
use crate::operator::{Operator, Priority, Purpose};
use crate::placement::{Candidate, LEADER_TARGET, Question, View, excluded};
use crate::scheduling::{Bars, Desk, LetGo, Scheduler, Verdict};

const NAME: &str = "grant-leader-scheduler";
const TYPE: &str = "grant-leader";

/// Regions of one store that are looked at in one turn.
const TRIES: usize = 256;

/// The scheduler of this name.
#[derive(Clone, Debug)]
pub struct GrantLeader {
    held: HeldStores,
}

impl GrantLeader {
    /// One that has the stores lead which the arguments name.
    pub fn make(arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        Ok(Box::new(Self { held: HeldStores::read(arguments)? }))
    }

    fn grant(&self, desk: &mut Desk<'_>, store: StoreId) -> Vec<Operator> {
        let mut operators = Vec::new();
        let start = desk.dice().roll();
        let view = desk.view();
        for record in view.regions.followed_from(store, start).take(TRIES) {
            if operators.len() == self.held.batch() || desk.room() == 0 {
                break;
            }
            // A region between two stores that are granted stays with the one that leads it.
            let is_granted =
                record.leader_store().is_none_or(|leads| self.held.stores().contains(&leads));
            if is_granted
                || !desk.is_free(record.id())
                || why_not(desk.view(), record, store).is_some()
            {
                continue;
            }
            let transfer = desk.transfer_leader(TYPE, Purpose::Leader, record, store);
            operators.extend(transfer.map(|operator| operator.with_priority(Priority::High)));
        }
        operators
    }
}

/// What keeps the store from leading the region.
fn why_not(view: View<'_>, record: &RegionRecord, store: StoreId) -> Option<&'static str> {
    let question = Question { record, others: Vec::new(), view };
    let candidates = view.candidates();
    let candidate = candidates.iter().find(|candidate| candidate.store.id() == store);
    candidate
        .map_or(Some("is not known"), |candidate| excluded(LEADER_TARGET, candidate, &question))
}

impl Scheduler for GrantLeader {
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
        stores.into_iter().flat_map(|store| self.grant(desk, store)).collect()
    }

    fn bars(&self) -> Bars {
        Bars { no_leaders_out: self.held.stores().clone(), ..Bars::default() }
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
        let leads = record.leader_store();
        if let Some(leads) = leads.filter(|leads| self.held.stores().contains(leads)) {
            return Verdict::says(format!("its lead is granted to {leads}, and stays"));
        }
        let granted = self.held.stores().iter().find(|store| record.peer_on(**store).is_some());
        match granted {
            None => Verdict::Silent,
            Some(&store) => match why_not(view, record, store) {
                None => Verdict::says(format!("its lead goes to {store}, to which it is granted")),
                Some(why) => {
                    Verdict::says(format!("its lead is granted to {store}, but {store} {why}"))
                }
            },
        }
    }

    fn store_verdict(&self, view: View<'_>, store: &Candidate<'_>) -> Verdict {
        let id = store.store.id();
        if !self.held.stores().contains(&id) {
            return Verdict::Silent;
        }
        let to_come = view.regions.followed_by(id).count();
        Verdict::says(format!(
            "it is to lead every region of which it has a voter; it leads {} and follows {to_come}",
            store.counts.leaders
        ))
    }
}
