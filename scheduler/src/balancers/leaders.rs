//! Leaders spread over the stores by their number.
//!
//! From the store that leads most, one region whose leadership another of its voters' stores
//! could take is handed over, when the two differ by more than twice the tolerance: a transfer
//! costs little, but a leader that is passed to and fro costs something each time.
//!
//! Left out: leaders weighed by size, and several transfers at a time.

use proto::StoreId;

use crate::cluster::RegionRecord;
use crate::operator::{Operator, Purpose, Step};
use crate::placement::{Candidate, LEADER_TARGET, Question, View, excluded};

/// One transfer that evens out the leaders, if any is worth it.
pub fn balance(view: View<'_>) -> Option<Operator> {
    let candidates = view.candidates();
    let mut sources: Vec<&Candidate<'_>> =
        candidates.iter().filter(|candidate| !candidate.store.is_tombstone()).collect();
    sources.sort_by_key(|c| (std::cmp::Reverse(c.leader_count()), c.store.id()));
    let fewest = candidates.iter().map(Candidate::leader_count).min()?;
    for source in sources {
        // Those that follow lead fewer still.
        if source.leader_count() - fewest <= tolerated(view) {
            break;
        }
        for record in view.regions.led_by(source.store.id()) {
            if view.operators.of(record.id()).is_some() {
                continue;
            }
            let target = target_of(view, &candidates, source, record);
            if let Some(target) = target
                && source.leader_count() - target.leader_count() > tolerated(view)
            {
                let (from, to): (StoreId, StoreId) = (source.store.id(), target.store.id());
                let steps = vec![Step::TransferLeader { from, to }];
                return Some(Operator::new("balance-leader", Purpose::Leader, record, steps));
            }
        }
    }
    None
}

/// A difference of leaders that is left alone.
fn tolerated(view: View<'_>) -> i64 {
    i64::try_from(view.policy.leader_balance_tolerance.saturating_mul(2)).unwrap_or(i64::MAX)
}

/// Of the stores that could lead the region instead, the one that leads fewest.
fn target_of<'c, 'a>(
    view: View<'_>,
    candidates: &'c [Candidate<'a>],
    source: &Candidate<'_>,
    record: &RegionRecord,
) -> Option<&'c Candidate<'a>> {
    let question = Question { record, others: Vec::new(), view };
    candidates
        .iter()
        .filter(|target| target.store.id() != source.store.id())
        .filter(|target| record.peer_on(target.store.id()).is_some())
        .filter(|target| excluded(LEADER_TARGET, target, &question).is_none())
        .min_by_key(|target| (target.leader_count(), target.store.id()))
}

/// Why the lead of this region is (not) handed over for balance, with numbers.
pub fn verdict(view: View<'_>, record: &RegionRecord) -> String {
    let limit = view.policy.leader_schedule_limit;
    if !view.policy.balance_leaders {
        return "leaders are not balanced: balance-leaders is off".into();
    }
    if view.operators.count(Purpose::Leader) >= limit {
        return format!("it has to wait: {limit} transfers are under way, the most there may be");
    }
    let candidates = view.candidates();
    let leads = record.leader_store();
    let Some(source) = candidates.iter().find(|store| Some(store.store.id()) == leads) else {
        return "no leader has spoken for it".into();
    };
    let Some(target) = target_of(view, &candidates, source, record) else {
        return "no other store can lead it".into();
    };
    let (from, to) = (source.store.id(), target.store.id());
    let (has, would_have) = (source.leader_count(), target.leader_count());
    let tolerated = tolerated(view);
    let counts = format!("{from} leads {has} regions, {to} leads {would_have}");
    if has - would_have > tolerated {
        format!("{counts}: its lead, or that of another region of {from}, goes to {to}")
    } else {
        format!("{counts}: a difference of up to {tolerated} is left alone")
    }
}
