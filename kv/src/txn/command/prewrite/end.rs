//! Every check has passed: locks, or commit records where the commit timestamp can be had here.

use proto::kvrpcpb::PrewriteRequest;

use super::Prewritten;
use super::plan::Planned;
use crate::txn::memory_locks::MemoryLocks;
use crate::txn::record::Lock;
use crate::txn::writer::Writer;

/// How the transaction wants to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    TwoPhase,
    Async,
    OnePhase,
}

/// All checks have passed: writes locks or commit records.
pub(super) fn end(
    writer: &mut Writer,
    memory: &MemoryLocks,
    request: &PrewriteRequest,
    mut planned: Vec<Planned>,
    already: &[u64],
) -> Prewritten {
    let wanted = match (request.try_one_pc, request.use_async_commit) {
        (true, _) => Ending::OnePhase,
        (false, true) => Ending::Async,
        (false, false) => Ending::TwoPhase,
    };
    // An earlier try has left a lock in two phases (or cannot be taken back to one): so must we.
    let falls_back = match wanted {
        Ending::OnePhase => !already.is_empty(),
        Ending::Async => already.contains(&0),
        Ending::TwoPhase => false,
    };
    let mut ending = if falls_back { Ending::TwoPhase } else { wanted };
    let mut commit_ts = already.iter().copied().max().unwrap_or(0);
    // What stands in locks already is the promise; it must not become another one.
    let promises_anew = !planned.is_empty() || already.is_empty();
    if ending != Ending::TwoPhase && promises_anew {
        match show_locks(writer, memory, request, &planned, commit_ts) {
            Some(ts) => commit_ts = ts,
            None => ending = Ending::TwoPhase,
        }
    }
    for plan in &mut planned {
        if let Some(value) = plan.long_value.take() {
            writer.put_value(&plan.key, request.start_version, value);
        } else if plan.drops_long_value {
            writer.delete_value(&plan.key, request.start_version);
        }
        match ending {
            Ending::TwoPhase => writer.put_lock(&plan.key, &plan.lock),
            Ending::Async => {
                plan.lock.async_commit = true;
                plan.lock.min_commit_ts = commit_ts;
                if request.primary_lock == plan.key.user() {
                    plan.lock.secondaries = request.secondaries.clone();
                }
                writer.put_lock(&plan.key, &plan.lock);
            }
            Ending::OnePhase => {
                writer.commit(&plan.key, &plan.lock, commit_ts);
                if plan.replaces_pessimistic {
                    writer.remove_lock(&plan.key, request.start_version, commit_ts);
                }
            }
        }
    }
    match ending {
        Ending::TwoPhase => Prewritten::Done { min_commit_ts: 0, one_pc_commit_ts: 0 },
        Ending::Async => Prewritten::Done { min_commit_ts: commit_ts, one_pc_commit_ts: 0 },
        Ending::OnePhase => committed(request, commit_ts),
    }
}

/// The answer in one phase. Who also asked for an async commit is told in both places.
pub(super) fn committed(request: &PrewriteRequest, commit_ts: u64) -> Prewritten {
    let min_commit_ts = if request.use_async_commit { commit_ts } else { 0 };
    Prewritten::Done { min_commit_ts, one_pc_commit_ts: commit_ts }
}

/// Computes the earliest commit while readers can already meet the locks; `None` when it would be
/// later than the client allows, and then nothing is shown.
fn show_locks(
    writer: &mut Writer,
    memory: &MemoryLocks,
    request: &PrewriteRequest,
    planned: &[Planned],
    promised: u64,
) -> Option<u64> {
    let mut commit_ts = 0;
    let keys = planned.iter().map(|plan| plan.key.clone()).collect();
    let published = memory.publish(keys, |newest_read| {
        let newest = newest_read.max(request.start_version).max(request.for_update_ts);
        let after = newest.checked_add(1).expect("nobody begins or reads at the maximum");
        let locks_ask = planned.iter().map(|plan| plan.lock.min_commit_ts).max().unwrap_or(0);
        commit_ts = after.max(request.min_commit_ts).max(promised).max(locks_ask);
        if request.max_commit_ts > 0 && commit_ts > request.max_commit_ts {
            return None;
        }
        let shown = |plan: &Planned| Lock {
            min_commit_ts: commit_ts,
            async_commit: true,
            ..plan.lock.clone()
        };
        Some(planned.iter().map(shown).collect())
    })?;
    writer.hold(published);
    Some(commit_ts)
}
