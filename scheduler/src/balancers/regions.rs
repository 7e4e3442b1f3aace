//! Peers spread over the stores by the size of what they hold.
//!
//! From the fullest store, a region goes to the emptiest that may take it, when the two differ by more
//! than is tolerated (`score.rs`), and the store that gives stays the fuller one: a smaller difference
//! would only turn round. Which region: one whose peer there is catching up anyway, else one that the
//! store follows, else one that it leads. Each turn does that as often as the limits allow, every time
//! with the stores as the moves before will leave them.
//!
//! Regions that need repair are left to the checkers, and those that are hot to the balancer of hot
//! regions: it moves them for their load, not for their size.
//!
//! Left out: passing over empty regions in large clusters.

use std::sync::Arc;

use proto::StoreId;

use super::score;
use crate::cluster::RegionRecord;
use crate::ids::{Ids, Taken};
use crate::operator::store_limit::{Direction, cost};
use crate::operator::{Builder, Operator, Purpose};
use crate::placement::{Candidate, PEER_SOURCE, PEER_TARGET, Question, View, excluded, isolation};
use crate::scheduling::{Desk, Scheduler, Verdict};

/// Regions looked at for each source store before the next is tried.
const TRIES_PER_STORE: usize = 16;
/// The same, counting those that cannot be moved.
const LOOKED_AT_PER_STORE: usize = 512;

const DESCRIPTION: &str = "balance-region";

/// The scheduler of this name.
#[derive(Clone, Debug, Default)]
pub struct BalanceRegion;

impl Scheduler for BalanceRegion {
    fn name(&self) -> &str {
        "balance-region-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "balance-region"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Region
    }

    fn is_schedule_allowed(&self, view: View<'_>) -> bool {
        view.policy.balance_regions && view.operators.room(Purpose::Region, view.policy) > 0
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let mut operators = Vec::new();
        while desk.room() > 0 {
            let start = desk.dice().roll();
            let is_free = |record: &RegionRecord| desk.is_free(record.id());
            let picked = pick(desk.view(), desk.candidates(), start, is_free);
            let Some((record, from, to)) = picked else { break };
            let moved = desk.move_peer(DESCRIPTION, Purpose::Region, &record, from, to);
            match moved {
                Some(operator) => operators.push(operator),
                None => desk.pass_over(record.id()),
            }
        }
        operators
    }

    fn verdict(&self, view: View<'_>, record: &RegionRecord) -> Verdict {
        Verdict::says(verdict(view, record))
    }

    fn store_verdict(&self, view: View<'_>, store: &Candidate<'_>) -> Verdict {
        Verdict::says(store_verdict(view, store))
    }
}

/// One move that evens out the peers, if any is worth it; `Err` names a bound of ids that has to
/// be saved first.
pub fn balance(view: View<'_>, ids: &mut Ids) -> Result<Option<Operator>, u64> {
    let candidates = view.candidates();
    let is_free = |record: &RegionRecord| view.operators.of(record.id()).is_none();
    let Some((record, from, to)) = pick(view, &candidates, 0, is_free) else { return Ok(None) };
    let id = match ids.take(1) {
        Taken::Block(block) => *block.start(),
        Taken::NeedBound(bound) => return Err(bound),
    };
    let builder = Builder::new(DESCRIPTION, Purpose::Region, &record, view.policy)
        .add_peer(to, id)
        .remove_peer(from);
    Ok(builder.build(|stays| view.best_leader(&record, stays)).ok())
}

/// A region that is worth moving, from where, and where to.
fn pick(
    view: View<'_>,
    candidates: &[Candidate<'_>],
    start: u64,
    is_free: impl Fn(&RegionRecord) -> bool,
) -> Option<(Arc<RegionRecord>, StoreId, StoreId)> {
    let nothing = RegionRecord::default();
    let question = Question { record: &nothing, others: Vec::new(), view };
    let is_source = |c: &&Candidate<'_>| excluded(PEER_SOURCE, c, &question).is_none();
    let mut sources: Vec<_> = candidates.iter().filter(is_source).collect();
    sources.sort_by_key(|source| std::cmp::Reverse(load(source, view)));
    let least = candidates
        .iter()
        .filter(|candidate| candidate.store.is_up())
        .map(|candidate| score::peers(candidate, view, 0))
        .min()?;
    let tolerated = score::tolerance_mib(candidates, view);
    for source in sources {
        // The others have less to give still.
        if score::peers(source, view, 0) - least <= tolerated {
            break;
        }
        let store = source.store.id();
        let pending = view.regions.pending_on(store);
        let followed = view.regions.followed_from(store, start);
        let led = view.regions.led_from(store, start);
        // Of each kind only so many: a store with much of one kind has the others looked at too.
        let of_kind = |records: &mut dyn Iterator<Item = &Arc<RegionRecord>>| {
            records
                .take(LOOKED_AT_PER_STORE)
                .filter(|record| is_free(record) && why_not_movable(view, record).is_none())
                .filter(|record| {
                    let tokens = source.tokens_left(Direction::RemovePeer, view);
                    tokens >= cost(record.size_mib())
                })
                .take(TRIES_PER_STORE)
                .find_map(|record| {
                    let target = target_of(view, candidates, source, record)?;
                    is_worth_it(view, source, target, record, tolerated)
                        .then(|| (Arc::clone(record), store, target.store.id()))
                })
        };
        let found = of_kind(&mut pending.into_iter())
            .or_else(|| of_kind(&mut followed.into_iter()))
            .or_else(|| of_kind(&mut led.into_iter()));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// How loaded the store is: by its score, then by the number of its peers, then by its id so that the
/// choice is the same each time.
fn load(candidate: &Candidate<'_>, view: View<'_>) -> (i64, i64, StoreId) {
    (score::peers(candidate, view, 0), candidate.region_count(), candidate.store.id())
}

/// Whether the two differ by more than is tolerated, and the giver is the fuller one afterwards too.
fn is_worth_it(
    view: View<'_>,
    source: &Candidate<'_>,
    target: &Candidate<'_>,
    record: &RegionRecord,
    tolerated: i64,
) -> bool {
    let size_mib = i64::try_from(record.size_mib()).unwrap_or(i64::MAX / 4);
    let gap = score::peers(source, view, 0) - score::peers(target, view, 0);
    gap > tolerated && score::peers(source, view, -size_mib) > score::peers(target, view, size_mib)
}

fn why_not_movable(view: View<'_>, record: &RegionRecord) -> Option<String> {
    if record.leader.is_none() {
        Some("no leader has spoken for it".into())
    } else if let Some(why) = view.why_not_complete(record) {
        Some(why)
    } else if !record.down_peers.is_empty() {
        Some(format!("{} of its peers are silent", record.down_peers.len()))
    } else if view.flow.is_hot(record.id(), view.policy.hot_region_cache_hits_threshold) {
        Some("it is hot, so it is moved for its load or not at all".into())
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
    let question = Question { record, others: Vec::new(), view };
    let source = candidates
        .iter()
        .filter(|candidate| record.peer_on(candidate.store.id()).is_some())
        .filter(|candidate| excluded(PEER_SOURCE, candidate, &question).is_none())
        .max_by_key(|candidate| load(candidate, view));
    let Some(source) = source else { return "none of its stores is one to move peers from".into() };
    let Some(target) = target_of(view, &candidates, source, record) else {
        return format!("no store can take its peer on {}", source.store.id());
    };
    let (from, to) = (source.store.id(), target.store.id());
    let (has, would_have) = (score::peers(source, view, 0), score::peers(target, view, 0));
    let tolerated = score::tolerance_mib(&candidates, view);
    let size_mib = i64::try_from(record.size_mib()).unwrap_or(i64::MAX / 4);
    let sizes =
        format!("{from}, the fullest of its stores, holds {has} MiB, {to} holds {would_have}");
    if is_worth_it(view, source, target, record, tolerated) {
        format!("{sizes}: its peer, or that of another region, goes from {from} to {to}")
    } else if tolerated > 2 * size_mib {
        format!("{sizes}: a difference of up to {tolerated} is left alone")
    } else {
        format!("{sizes}: a difference of up to {}, twice its size, is left alone", 2 * size_mib)
    }
}

fn store_verdict(view: View<'_>, store: &Candidate<'_>) -> String {
    let nothing = RegionRecord::default();
    let question = Question { record: &nothing, others: Vec::new(), view };
    let candidates = view.candidates();
    let up = candidates.iter().filter(|candidate| candidate.store.is_up());
    let scores: Vec<_> = up.map(|candidate| score::peers(candidate, view, 0)).collect();
    let has = score::peers(store, view, 0);
    let least = scores.iter().min().copied().unwrap_or(has);
    let most = scores.iter().max().copied().unwrap_or(has);
    let gives = excluded(PEER_SOURCE, store, &question)
        .map_or("may give peers".to_owned(), |why| format!("gives no peers: it {why}"));
    let takes = excluded(PEER_TARGET, store, &question)
        .map_or("may take some".to_owned(), |why| format!("takes none: it {why}"));
    format!(
        "its score is {has}, those of all lie between {least} and {most}, and a difference of up to {} \
         is left alone; it {gives}, and {takes}",
        score::tolerance_mib(&candidates, view)
    )
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
        .min_by_key(|target| load(target, view))
}
