//! Out of a joint membership: two majorities must agree to everything there, so nobody should stay.
//!
//! A plan that led in leads out again, but plans are in memory only, and a plan can be given up half way. So a
//! region without a plan that is found in a joint membership is told to leave it. A leader that loses its vote
//! by that hands over first, to a voter that keeps its own.
//!
//! Stores leave by themselves too, after an election timeout without an order. Whoever is first, the other
//! finds nothing to do.

use proto::StoreId;
use proto::region::{is_incoming, is_joint};

use super::Finding;
use crate::cluster::RegionRecord;
use crate::ids::Ids;
use crate::operator::{Operator, Purpose, Step, Votes};
use crate::placement::View;

/// Leads the region out, if it is in.
pub fn check(view: View<'_>, record: &RegionRecord, _: &mut Ids) -> Finding {
    if !is_joint(&record.region) {
        return Finding::Healthy;
    }
    let Some(from) = record.leader_store() else {
        return Finding::Blocked("no leader has spoken for the region yet".into());
    };
    let mut steps = Vec::new();
    let keeps_vote = |store: StoreId| record.peer_on(store).is_some_and(is_incoming);
    if !keeps_vote(from) {
        // Nobody fit to lead: the store finds somebody, or leaves all the same and steps down.
        let heir = view.best_leader(record, keeps_vote);
        steps.extend(heir.map(|to| Step::TransferLeader { from, to }));
    }
    steps.push(Step::LeaveJoint(Votes::changing(&record.region)));
    Finding::Wants(Operator::new("leave-joint-state", Purpose::Replica, record, steps))
}
