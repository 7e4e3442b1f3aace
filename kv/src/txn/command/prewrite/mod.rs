//! The first phase: a lock on every key, so that nobody else can commit there between this
//! transaction's start and its end.
//!
//! 1. *Plan* each mutation: is the key free, ours already, or in the way? Nothing is written while
//!    one of them fails; keys that are merely locked are all reported.
//! 2. *Choose the end*: two phases, or a commit timestamp right here (async commit, one phase), for
//!    which the locks are shown in memory while it is computed.
//! 3. *Write* locks, or commit records.
//!
//! A prewrite may come twice, even after its transaction has ended. A lock of our own means that it
//! has been here before. What would fail because of our own commit succeeds without writing. Our
//! own rollback record makes it fail: that is what the record is for.

mod plan;
mod end;

use std::collections::BTreeMap;

use proto::kvrpcpb::PrewriteRequest;
use raftstore::engine::Snapshot;

use self::end::{committed, end};
use self::plan::{Plan, Planned, Planner};
use crate::txn::memory_locks::MemoryLocks;
use crate::txn::problem::{KeyProblem, Stop};
use crate::txn::reader::Reader;
use crate::txn::writer::Writer;

/// How a prewrite ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Prewritten {
    /// Every key is locked, or already committed.
    Done {
        /// Async commit, asked for at least: the transaction commits at the largest of these; 0 in two
        /// phases.
        min_commit_ts: u64,
        /// One phase: it is committed, then; 0 otherwise.
        one_pc_commit_ts: u64,
    },
    /// These keys are locked by others; nothing was written.
    Locked(Vec<KeyProblem>),
}

/// Locks the mutations' keys, or commits them in one phase.
pub fn prewrite<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    memory: &MemoryLocks,
    request: &PrewriteRequest,
) -> Result<Prewritten, Stop> {
    prewrite_generation(reader, writer, memory, request, 0)
}

/// [`prewrite`] of one generation of a pipelined transaction; 0 is none of one.
pub(super) fn prewrite_generation<S: Snapshot>(
    reader: &mut Reader<S>,
    writer: &mut Writer,
    memory: &MemoryLocks,
    request: &PrewriteRequest,
    generation: u64,
) -> Result<Prewritten, Stop> {
    let mut planner = Planner::new(reader, request, generation);
    let mut locked = Vec::new();
    let mut assertion_failed = None;
    let mut already: Vec<u64> = Vec::new();
    // The last mutation of a key wins; a request never stands in its own way.
    let mut planned = BTreeMap::new();
    for (index, mutation) in request.mutations.iter().enumerate() {
        match planner.plan(index, mutation) {
            Ok(Plan::Nothing) => {}
            Ok(Plan::AlreadyLocked { min_commit_ts }) => already.push(min_commit_ts),
            Ok(Plan::Lock(plan)) => {
                planned.insert(plan.key.clone(), *plan);
            }
            Err(Stop::Key(problem)) => {
                if let Some(commit_ts) = planner.own_commit(mutation, &problem)? {
                    return Ok(done_already(request, commit_ts));
                }
                match problem {
                    KeyProblem::Locked(_) => locked.push(problem),
                    KeyProblem::AssertionFailed(_) => {
                        assertion_failed.get_or_insert(problem);
                    }
                    KeyProblem::WriteConflict(_)
                    | KeyProblem::AlreadyExist { .. }
                    | KeyProblem::TxnLockNotFound { .. }
                    | KeyProblem::TxnNotFound { .. }
                    | KeyProblem::CommitTsExpired { .. }
                    | KeyProblem::PrimaryMismatch(_)
                    | KeyProblem::Deadlock(_)
                    | KeyProblem::Abort(_) => return Err(problem.into()),
                }
            }
            Err(stop @ (Stop::Refused(_) | Stop::Fault(_))) => return Err(stop),
        }
    }
    if !locked.is_empty() {
        return Ok(Prewritten::Locked(locked));
    }
    if let Some(problem) = assertion_failed {
        return Err(problem.into());
    }
    let planned: Vec<Planned> = planned.into_values().collect();
    Ok(end(writer, memory, request, planned, &already))
}

/// The answer to a prewrite whose transaction turns out to be committed.
fn done_already(request: &PrewriteRequest, commit_ts: u64) -> Prewritten {
    if request.try_one_pc {
        committed(request, commit_ts)
    } else {
        let min_commit_ts = if request.use_async_commit { commit_ts } else { 0 };
        Prewritten::Done { min_commit_ts, one_pc_commit_ts: 0 }
    }
}
