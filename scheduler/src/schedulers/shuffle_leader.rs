//! Leaders wander about for no reason: to see what a cluster makes of it.

use crate::cluster::RegionRecord;
use crate::operator::{Operator, Priority, Purpose};
use crate::placement::{LEADER_SOURCE, LEADER_TARGET, Question, View, excluded};
use crate::scheduling::{Desk, Scheduler, Verdict};

/// Regions of the chosen store that are looked at in one turn.
const TRIES: usize = 16;

/// The scheduler of this name.
#[derive(Clone, Debug, Default)]
pub struct ShuffleLeader;

impl Scheduler for ShuffleLeader {
    fn name(&self) -> &str {
        "shuffle-leader-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "shuffle-leader"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Leader
    }

    /// One leader comes to a store that chance has chosen.
    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let view = desk.view();
        let up: Vec<_> = view.stores.iter().filter(|store| store.is_up()).map(|s| s.id()).collect();
        let Some(&to) = desk.dice().one_of(&up) else { return Vec::new() };
        let start = desk.dice().roll();
        let found = view.regions.followed_from(to, start).take(TRIES).find(|record| {
            let question = Question { record, others: Vec::new(), view };
            let may = |store, table| {
                desk.candidate(store).is_some_and(|c| excluded(table, c, &question).is_none())
            };
            let leads = record.leader_store();
            desk.is_free(record.id())
                && may(to, LEADER_TARGET)
                && leads.is_some_and(|leads| may(leads, LEADER_SOURCE))
        });
        let Some(record) = found.cloned() else { return Vec::new() };
        let transfer = desk.transfer_leader("shuffle-leader", Purpose::Leader, &record, to);
        transfer.map(|operator| operator.with_priority(Priority::Low)).into_iter().collect()
    }

    fn verdict(&self, _: View<'_>, record: &RegionRecord) -> Verdict {
        match record.leader_store() {
            Some(_) => Verdict::says("its lead may go to any of its voters, by chance"),
            None => Verdict::Silent,
        }
    }
}
