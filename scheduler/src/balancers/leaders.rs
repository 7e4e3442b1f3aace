//! Leaders spread over the stores by their number.
//!
//! From the store that leads most, one region whose leadership another of its voters' stores
//! could take is handed over, when the two differ by more than twice the tolerance: a transfer
//! costs little, but a leader that is passed to and fro costs something each time.
//!
//! Left out: leaders weighed by size, and several transfers at a time.

use proto::StoreId;

use crate::operator::{Operator, Purpose, Step};
use crate::placement::{Candidate, LEADER_TARGET, Question, View, excluded};

/// One transfer that evens out the leaders, if any is worth it.
pub fn balance(view: View<'_>) -> Option<Operator> {
    let tolerance = i64::try_from(view.policy.leader_balance_tolerance).unwrap_or(i64::MAX / 2);
    let candidates = view.candidates();
    let mut sources: Vec<&Candidate<'_>> =
        candidates.iter().filter(|candidate| !candidate.store.is_tombstone()).collect();
    sources.sort_by_key(|c| (std::cmp::Reverse(c.leader_count()), c.store.id()));
    for source in sources {
        for record in view.regions.led_by(source.store.id()) {
            if view.operators.of(record.id()).is_some() {
                continue;
            }
            let question = Question { record, others: Vec::new(), view };
            let target = candidates
                .iter()
                .filter(|target| target.store.id() != source.store.id())
                .filter(|target| record.peer_on(target.store.id()).is_some())
                .filter(|target| excluded(LEADER_TARGET, target, &question).is_none())
                .min_by_key(|target| (target.leader_count(), target.store.id()));
            if let Some(target) = target
                && source.leader_count() - target.leader_count() > 2 * tolerance
            {
                let (from, to): (StoreId, StoreId) = (source.store.id(), target.store.id());
                let steps = vec![Step::TransferLeader { from, to }];
                return Some(Operator::new("balance-leader", Purpose::Leader, record, steps));
            }
        }
    }
    None
}
