//! Leaders spread over the stores: by their number, or by the size of what they lead.
//!
//! From the store that leads most, a region whose leadership another of its voters' stores could take
//! is handed over, when the two differ by more than twice the tolerance: a transfer costs little, but
//! a leader that is passed to and fro costs something each time. The most and the least loaded store
//! may have no region in common: when they differ by more than that, the one gives to, and the other
//! takes from, whomever it can.
//!
//! Each turn does that as often as the limit allows, every time with the stores as the transfers
//! before will leave them; when no source can give, the store that leads least is asked which region
//! it could take. Every transfer leaves the giver no worse off than the taker, so they come to an end.

use std::sync::Arc;

use proto::StoreId;

use super::score;
use crate::cluster::{LeaderSchedulePolicy, RegionRecord};
use crate::operator::{Operator, Purpose, Step};
use crate::placement::{Candidate, LEADER_SOURCE, LEADER_TARGET, Question, View, excluded};
use crate::scheduling::{ByScore, Desk, Scheduler, Selector, TableFilter, Verdict};

/// Regions of one store that are looked at before another store is tried.
const TRIES_PER_STORE: usize = 256;

const DESCRIPTION: &str = "balance-leader";

/// The scheduler of this name.
#[derive(Clone, Debug, Default)]
pub struct BalanceLeader;

impl Scheduler for BalanceLeader {
    fn name(&self) -> &str {
        "balance-leader-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "balance-leader"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Leader
    }

    fn is_schedule_allowed(&self, view: View<'_>) -> bool {
        view.policy.balance_leaders && view.operators.room(Purpose::Leader, view.policy) > 0
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let mut operators = Vec::new();
        while desk.room() > 0 {
            let start = desk.dice().roll();
            let is_free = |record: &RegionRecord| desk.is_free(record.id());
            let picked = pick(desk.view(), desk.candidates(), start, is_free);
            let Some((record, to)) = picked else { break };
            let transfer = desk.transfer_leader(DESCRIPTION, Purpose::Leader, &record, to);
            match transfer {
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

/// One transfer that evens out the leaders, if any is worth it.
pub fn balance(view: View<'_>) -> Option<Operator> {
    let candidates = view.candidates();
    let is_free = |record: &RegionRecord| view.operators.of(record.id()).is_none();
    let (record, to) = pick(view, &candidates, 0, is_free)?;
    let from = record.leader_store()?;
    let steps = vec![Step::TransferLeader { from, to }];
    Some(Operator::new(DESCRIPTION, Purpose::Leader, &record, steps))
}

/// A region whose lead is worth handing over, and to whom.
fn pick(
    view: View<'_>,
    candidates: &[Candidate<'_>],
    start: u64,
    is_free: impl Fn(&RegionRecord) -> bool,
) -> Option<(Arc<RegionRecord>, StoreId)> {
    let policy = view.policy.leader_schedule_policy;
    let score = |candidate: &Candidate<'_>| score::leaders(candidate, policy, 0);
    let nothing = RegionRecord::default();
    let question = Question { record: &nothing, others: Vec::new(), view };
    let is_source = |c: &&Candidate<'_>| excluded(LEADER_SOURCE, c, &question).is_none();
    let mut sources: Vec<_> = candidates.iter().filter(is_source).collect();
    sources.sort_by_key(|source| (std::cmp::Reverse(score(source)), source.store.id()));
    let ends = Ends::of(view, candidates)?;
    let least = ends.least;
    let tolerated = tolerated(view);
    for source in &sources {
        // The others have less to give still.
        if score(source) - least <= tolerated {
            break;
        }
        let found = view
            .regions
            .led_from(source.store.id(), start)
            .take(TRIES_PER_STORE)
            .filter(|record| is_free(record))
            .find_map(|record| {
                let target = target_of(view, candidates, source, record)?;
                is_worth_it(view, source, target, record, ends)
                    .then(|| (Arc::clone(record), target.store.id()))
            });
        if found.is_some() {
            return found;
        }
    }
    // Nobody could give; what could the emptiest take?
    let mut targets: Vec<_> = candidates.iter().filter(|c| c.store.is_up()).collect();
    targets.sort_by_key(|target| (score(target), target.store.id()));
    let most = sources.first().map(|source| score(source))?;
    for target in targets {
        if most - score(target) <= tolerated {
            break;
        }
        let found = view
            .regions
            .followed_from(target.store.id(), start)
            .take(TRIES_PER_STORE)
            .filter(|record| is_free(record))
            .find(|record| {
                let leads = record.leader_store();
                let source = sources.iter().find(|source| Some(source.store.id()) == leads);
                let question = Question { record, others: Vec::new(), view };
                source.is_some_and(|source| is_worth_it(view, source, target, record, ends))
                    && excluded(LEADER_TARGET, target, &question).is_none()
            });
        if let Some(record) = found {
            return Some((Arc::clone(record), target.store.id()));
        }
    }
    None
}

/// How much the stores lead that lead most and least.
#[derive(Clone, Copy)]
struct Ends {
    most: i64,
    least: i64,
}

impl Ends {
    fn of(view: View<'_>, candidates: &[Candidate<'_>]) -> Option<Self> {
        let policy = view.policy.leader_schedule_policy;
        let up = candidates.iter().filter(|candidate| candidate.store.is_up());
        let scores: Vec<_> = up.map(|candidate| score::leaders(candidate, policy, 0)).collect();
        Some(Self { most: *scores.iter().max()?, least: *scores.iter().min()? })
    }
}

/// Whether the two differ by more than is tolerated, or one of them is at an end of what is too wide a
/// spread, and they still differ in the same direction afterwards.
fn is_worth_it(
    view: View<'_>,
    source: &Candidate<'_>,
    target: &Candidate<'_>,
    record: &RegionRecord,
    ends: Ends,
) -> bool {
    let policy = view.policy.leader_schedule_policy;
    let unit = match policy {
        LeaderSchedulePolicy::Count => 1,
        LeaderSchedulePolicy::Size => i64::try_from(record.size_mib()).unwrap_or(i64::MAX / 4),
    };
    let (has, would_have) = (score::leaders(source, policy, 0), score::leaders(target, policy, 0));
    let gap = has - would_have;
    let stays_even = score::leaders(source, policy, -unit) >= score::leaders(target, policy, unit);
    let is_too_wide = ends.most - ends.least > tolerated(view);
    let is_at_an_end = has >= ends.most || would_have <= ends.least;
    stays_even && (gap > tolerated(view) || (is_too_wide && is_at_an_end))
}

/// A difference of leaders that is left alone.
fn tolerated(view: View<'_>) -> i64 {
    let twice = i64::try_from(view.policy.leader_balance_tolerance.saturating_mul(2));
    let twice = twice.unwrap_or(i64::MAX / 4);
    match view.policy.leader_schedule_policy {
        LeaderSchedulePolicy::Count => twice,
        LeaderSchedulePolicy::Size => twice.saturating_mul(view.regions.average_size_mib()),
    }
}

/// Of the stores that could lead the region instead, the one that leads least.
fn target_of<'c, 'a>(
    view: View<'_>,
    candidates: &'c [Candidate<'a>],
    source: &Candidate<'_>,
    record: &RegionRecord,
) -> Option<&'c Candidate<'a>> {
    let question = Question { record, others: Vec::new(), view };
    let may_lead = TableFilter {
        name: "leader target",
        source: LEADER_SOURCE,
        target: LEADER_TARGET,
        question: &question,
    };
    let policy = view.policy.leader_schedule_policy;
    let score = |candidate: &Candidate<'_>| {
        if candidate.store.id() == source.store.id() {
            return i64::MAX;
        }
        score::leaders(candidate, policy, 0)
    };
    let target = ByScore { score }.select_target(candidates, &[&may_lead])?;
    (target.store.id() != source.store.id()).then_some(target)
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
    let question = Question { record, others: Vec::new(), view };
    let from = source.store.id();
    if let Some(why) = excluded(LEADER_SOURCE, source, &question) {
        return format!("its lead stays: {from} {why}");
    }
    let Some(target) = target_of(view, &candidates, source, record) else {
        return "no other store can lead it".into();
    };
    let to = target.store.id();
    let policy = view.policy.leader_schedule_policy;
    let (has, would_have) = (score::leaders(source, policy, 0), score::leaders(target, policy, 0));
    let counts = match policy {
        LeaderSchedulePolicy::Count => {
            format!("{from} leads {has} regions, {to} leads {would_have}")
        }
        LeaderSchedulePolicy::Size => {
            format!("{from} leads regions of {has} MiB, {to} leads {would_have} MiB")
        }
    };
    let ends = Ends::of(view, &candidates);
    if ends.is_some_and(|ends| is_worth_it(view, source, target, record, ends)) {
        format!("{counts}: its lead, or that of another region of {from}, goes to {to}")
    } else {
        format!("{counts}: a difference of up to {} is left alone", tolerated(view))
    }
}

fn store_verdict(view: View<'_>, store: &Candidate<'_>) -> String {
    let nothing = RegionRecord::default();
    let question = Question { record: &nothing, others: Vec::new(), view };
    let policy = view.policy.leader_schedule_policy;
    let has = score::leaders(store, policy, 0);
    let scores: Vec<_> = view
        .candidates()
        .iter()
        .filter(|candidate| candidate.store.is_up())
        .map(|candidate| score::leaders(candidate, policy, 0))
        .collect();
    let least = scores.iter().min().copied().unwrap_or(has);
    let most = scores.iter().max().copied().unwrap_or(has);
    let gives = excluded(LEADER_SOURCE, store, &question)
        .map_or("may give leaders".to_owned(), |why| format!("gives no leaders: it {why}"));
    format!(
        "its score is {has}, those of the others lie between {least} and {most}, and a difference of up \
         to {} is left alone; it {gives}",
        tolerated(view)
    )
}
