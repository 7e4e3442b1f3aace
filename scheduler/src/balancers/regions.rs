//! Peers spread over the stores by the size of what they hold.
//!
//! From the fullest store, one region goes to the emptiest that may take it, when the two differ
//! by more than twice the region's size: a smaller difference would only turn round. Which
//! region: one whose peer there is catching up anyway, else one that the store follows, else one
//! that it leads.
//!
//! Left out: tolerances that grow with the regions' average size, empty regions in large
//! clusters, and capacity-weighted scores.

use std::sync::Arc;

use proto::StoreId;

use crate::cluster::RegionRecord;
use crate::cluster::stores::Liveness;
use crate::ids::{Ids, Taken};
use crate::operator::{Builder, Operator, Purpose};
use crate::placement::{Candidate, PEER_TARGET, Question, View, excluded, isolation};

/// Regions looked at for each source store before the next is tried.
const TRIES_PER_STORE: usize = 10;

/// One move that evens out the peers, if any is worth it; `Err` names a bound of ids that has to
/// be saved first.
pub fn balance(view: View<'_>, ids: &mut Ids) -> Result<Option<Operator>, u64> {
    let candidates = view.candidates();
    let mut sources: Vec<&Candidate<'_>> =
        candidates.iter().filter(|candidate| is_source(view, candidate)).collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.load()));
    for source in sources {
        let Some((record, target)) = pick(view, &candidates, source) else { continue };
        let id = match ids.take(1) {
            Taken::Block(block) => *block.start(),
            Taken::NeedBound(bound) => return Err(bound),
        };
        let builder =
            Builder::new("balance-region", Purpose::Region, &record, view.policy.add_as_learner)
                .add_peer(target, id)
                .remove_peer(source.store.id());
        if let Ok(operator) = builder.build(|stays| view.best_leader(&record, stays)) {
            return Ok(Some(operator));
        }
    }
    Ok(None)
}

/// A region of the source that is worth moving, and where to.
fn pick(
    view: View<'_>,
    candidates: &[Candidate<'_>],
    source: &Candidate<'_>,
) -> Option<(Arc<RegionRecord>, StoreId)> {
    let store = source.store.id();
    let regions = view.regions;
    let pending = regions.pending_on(store);
    let followed = regions.followed_by(store);
    let led = regions.led_by(store);
    pending
        .chain(followed)
        .chain(led)
        .filter(|record| is_movable(view, record))
        .take(TRIES_PER_STORE)
        .find_map(|record| {
            let target = target_of(view, candidates, source, record)?;
            let size_mib = i64::try_from(record.size_mib()).unwrap_or(i64::MAX / 4);
            let gap = source.size_mib() - target.size_mib();
            (gap > 2 * size_mib).then(|| (Arc::clone(record), target.store.id()))
        })
}

/// Only a region that needs no repair is moved for balance.
fn is_movable(view: View<'_>, record: &RegionRecord) -> bool {
    why_not_movable(view, record).is_none()
}

fn why_not_movable(view: View<'_>, record: &RegionRecord) -> Option<String> {
    if record.leader.is_none() {
        Some("no leader has spoken for it".into())
    } else if let Some(why) = view.why_not_complete(record) {
        Some(why)
    } else if !record.down_peers.is_empty() {
        Some(format!("{} of its peers are silent", record.down_peers.len()))
    } else {
        view.operators
            .of(record.id())
            .map(|operator| format!("{} is under way", operator.description))
    }
}

/// Why no peer of this region is moved for balance, or which one may be, with numbers.
pub fn verdict(view: View<'_>, record: &RegionRecord) -> String {
    let limit = view.policy.region_schedule_limit;
    if !view.policy.balance_regions {
        return "peers are not balanced: balance-regions is off".into();
    }
    if view.operators.count(Purpose::Region) >= limit {
        return format!("it has to wait: {limit} moves are under way, the most there may be");
    }
    if let Some(why) = why_not_movable(view, record) {
        return format!("it is not moved for balance: {why}");
    }
    let candidates = view.candidates();
    let source = candidates
        .iter()
        .filter(|candidate| record.peer_on(candidate.store.id()).is_some())
        .filter(|candidate| is_source(view, candidate))
        .max_by_key(|candidate| candidate.load());
    let Some(source) = source else { return "none of its stores is one to move peers from".into() };
    let Some(target) = target_of(view, &candidates, source, record) else {
        return format!("no store can take its peer on {}", source.store.id());
    };
    let (from, to) = (source.store.id(), target.store.id());
    let (has, would_have) = (source.size_mib(), target.size_mib());
    let needed = 2 * i64::try_from(record.size_mib()).unwrap_or(i64::MAX / 4);
    let sizes =
        format!("{from}, the fullest of its stores, holds {has} MiB, {to} holds {would_have}");
    if has - would_have > needed {
        format!("{sizes}: its peer, or that of another region, goes from {from} to {to}")
    } else {
        format!("{sizes}: a difference of up to {needed}, twice its size, is left alone")
    }
}

/// Whether peers are moved from the store: it stays, and is not lost.
fn is_source(view: View<'_>, candidate: &Candidate<'_>) -> bool {
    let store = candidate.store;
    store.is_up() && store.liveness(view.policy, view.moment) != Liveness::Down
}

/// The emptiest store that may take the peer without standing worse apart from the others.
fn target_of<'c, 'a>(
    view: View<'_>,
    candidates: &'c [Candidate<'a>],
    source: &Candidate<'_>,
    record: &RegionRecord,
) -> Option<&'c Candidate<'a>> {
    let question = Question::new_peer(view, record, Some(source.store.id()));
    let apart_now = isolation(source.store, &question.others, view.policy);
    candidates
        .iter()
        .filter(|target| excluded(PEER_TARGET, target, &question).is_none())
        .filter(|target| isolation(target.store, &question.others, view.policy) >= apart_now)
        .min_by_key(|target| target.load())
}
