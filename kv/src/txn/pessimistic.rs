//! The requests of pessimistic transactions: reserve keys, waiting for others if need be, and give
//! them back.

use std::time::Duration;

use bytes::Bytes;
use proto::KeyRange;
use proto::kvrpcpb::{
    self, KeyError, LockInfo, PessimisticLockKeyResult, PessimisticLockKeyResultType,
    PessimisticLockRequest, PessimisticLockResponse, PessimisticLockWakeUpMode,
    PessimisticRollbackRequest, PessimisticRollbackResponse, write_conflict::Reason,
};
use tokio::time::Instant;

use super::command::pessimistic_lock::{Reserved, pessimistic_lock};
use super::command::pessimistic_rollback::pessimistic_rollback;
use super::command::resolve_lock::BATCH_LOCKS_MAX;
use super::execution::{Execution, Stage};
use super::lock_wait::{NoWait, Ticket, WAIT_MAX, Wanted, Woken};
use super::problem::{KeyProblem, Stop, WriteConflict};
use super::record::Lock;
use super::transactions::{Transactions, distinct};
use super::writer::Released;
use crate::keys::Key;
use crate::storage::Storage;

/// One try to reserve the keys.
enum Try {
    Reserved(Vec<Reserved>),
    /// A lock stands in the way, and this is our place in its queue.
    Wait(Ticket, Box<LockInfo>),
}

impl<St: Storage> Transactions<St> {
    /// `KvPessimisticLock`: reserves keys for a transaction that will write them.
    pub async fn pessimistic_lock(
        &self,
        mut request: PessimisticLockRequest,
    ) -> PessimisticLockResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_pessimistic_lock(&context, &request, &mut execution).await;
        let mut answer = match result {
            Ok(reserved) => reserved_answer(&request, reserved),
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let mut answer = PessimisticLockResponse {
                    region_error,
                    errors: error.into_iter().collect(),
                    ..Default::default()
                };
                // Of a key it could not lock there is a result; other errors are the whole request's.
                let is_keys = |error: &KeyError| error.locked.is_some() || error.deadlock.is_some();
                if forces(&request) && answer.errors.iter().any(is_keys) {
                    answer.results = vec![PessimisticLockKeyResult {
                        r#type: PessimisticLockKeyResultType::LockResultFailed as i32,
                        ..Default::default()
                    }];
                }
                answer
            }
        };
        answer.exec_details_v2 = execution.of_write();
        answer
    }

    async fn try_pessimistic_lock(
        &self,
        context: &kvrpcpb::Context,
        request: &PessimisticLockRequest,
        execution: &mut Execution,
    ) -> Result<Vec<Reserved>, Stop> {
        self.check_written_keys(context, request.mutations.iter().map(|mutation| &mutation.key))?;
        let keys = distinct(request.mutations.iter().map(|mutation| mutation.key.clone()));
        let memory = self.memory();
        for ts in [request.start_version, request.for_update_ts] {
            memory.check_ahead(ts)?;
        }
        let must_not_exist =
            |mutation: &kvrpcpb::Mutation| mutation.assertion() == kvrpcpb::Assertion::NotExist;
        if request.return_values
            || request.check_existence
            || request.mutations.iter().any(must_not_exist)
        {
            // The latest value is read.
            memory.on_read(request.for_update_ts)?;
        }
        let patience = Instant::now() + wait_limit(request.wait_timeout);
        // When the lock that stands in the way last became another's, as far as was seen here.
        let mut changed_at = None;
        loop {
            let left = patience.saturating_duration_since(Instant::now());
            let (ticket, mut info) =
                match self.try_once(context, request, &keys, execution, left).await {
                    Ok(Try::Reserved(reserved)) => return Ok(reserved),
                    Ok(Try::Wait(ticket, info)) => (ticket, info),
                    Err(Stop::Key(KeyProblem::Locked(mut info))) => {
                        info.duration_to_last_update_ms = since(changed_at);
                        return Err(KeyProblem::Locked(info).into());
                    }
                    Err(stop) => return Err(stop),
                };
            let key = info.key.clone();
            let woken = execution.deadline.bound(ticket.wait(left)).await;
            execution.ends(Stage::LockWait);
            match woken? {
                None => {
                    info.duration_to_last_update_ms = since(changed_at);
                    return Err(KeyProblem::Locked(info).into());
                }
                Some(Woken::Deadlock(deadlock)) => {
                    return Err(KeyProblem::Deadlock(deadlock).into());
                }
                // It is granted here rather than after another round trip.
                Some(Woken::Released(_)) if forces(request) => changed_at = Some(Instant::now()),
                Some(Woken::Released(released)) => {
                    return Err(look_again(request, key, &released));
                }
            }
        }
    }

    async fn try_once(
        &self,
        context: &kvrpcpb::Context,
        request: &PessimisticLockRequest,
        keys: &[Key],
        execution: &mut Execution,
        patience: Duration,
    ) -> Result<Try, Stop> {
        // Anew with each try: a safe point may have passed it while it waited.
        let admitted = self.safe_points().admit(request.start_version)?;
        let entered = self.enter(keys, execution).await?.with_admitted(admitted);
        let view = self.view(context, execution).await?;
        let decided = self.decide(context, keys, &view, execution, |reader, writer| {
            pessimistic_lock(reader, writer, request)
        });
        match decided {
            Ok((reserved, writer)) => {
                self.write(context, view.term, execution, entered, writer).await?;
                Ok(Try::Reserved(reserved))
            }
            // Still under the latches: the lock cannot go before we are in its queue. They are given
            // up with our place among the commands while we wait.
            Err(Stop::Key(KeyProblem::Locked(info))) if !patience.is_zero() => {
                let wanted = Wanted {
                    txn: request.start_version,
                    holder: info.lock_version,
                    key: Key::new(info.key.clone()),
                    tag: context.resource_group_tag.clone(),
                    is_first_lock: request.is_first_lock,
                };
                match self.waiting().enter(&wanted) {
                    Ok(ticket) => Ok(Try::Wait(ticket, info)),
                    Err(NoWait::Full) => Err(KeyProblem::Locked(info).into()),
                    Err(NoWait::Deadlock(deadlock)) => {
                        Err(KeyProblem::Deadlock(Box::new(deadlock)).into())
                    }
                }
            }
            Err(stop) => Err(stop),
        }
    }

    /// `KVPessimisticRollback`: gives reserved keys back; without keys, all in the region.
    pub async fn pessimistic_rollback(
        &self,
        mut request: PessimisticRollbackRequest,
    ) -> PessimisticRollbackResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_pessimistic_rollback(&context, request, &mut execution).await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(()) => PessimisticRollbackResponse { exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let errors: Vec<KeyError> = error.into_iter().collect();
                PessimisticRollbackResponse { region_error, errors, exec_details_v2 }
            }
        }
    }

    async fn try_pessimistic_rollback(
        &self,
        context: &kvrpcpb::Context,
        request: PessimisticRollbackRequest,
        execution: &mut Execution,
    ) -> Result<(), Stop> {
        let (start_ts, for_update_ts) = (request.start_version, request.for_update_ts);
        if !request.keys.is_empty() {
            let keys = distinct(request.keys);
            self.check_written_keys(context, keys.iter().map(Key::user))?;
            return self
                .run(context, &keys, execution, |reader, writer| {
                    pessimistic_rollback(reader, writer, &keys, start_ts, for_update_ts)
                })
                .await;
        }
        let mut from = Bytes::new();
        loop {
            let rest = KeyRange { start: from, end: None };
            let is_its = |lock: &Lock| lock.start_ts == start_ts && lock.is_pessimistic();
            let look = self.reservations().look(context.region_id, &rest, is_its);
            let view = self.view(context, execution).await?;
            let (found, may_be_more) =
                self.reader(context, look, view).locks(&rest, BATCH_LOCKS_MAX, is_its)?;
            let keys: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
            let Some(last) = keys.last() else { return Ok(()) };
            from = [last.encoded().as_ref(), &[0]].concat().into();
            self.run(context, &keys, execution, |reader, writer| {
                pessimistic_rollback(reader, writer, &keys, start_ts, for_update_ts)
            })
            .await?;
            if !may_be_more {
                return Ok(());
            }
        }
    }
}

fn forces(request: &PessimisticLockRequest) -> bool {
    request.wake_up_mode() == PessimisticLockWakeUpMode::WakeUpModeForceLock
}

/// How long to wait: 0 is the store's limit, a negative number not at all.
fn wait_limit(wait_timeout_ms: i64) -> Duration {
    match u64::try_from(wait_timeout_ms) {
        Err(_) => Duration::ZERO,
        Ok(0) => WAIT_MAX,
        Ok(limit) => Duration::from_millis(limit).min(WAIT_MAX),
    }
}

/// Milliseconds since the lock in the way became another's, at least 1; 0 when it never did. Clients do
/// not resolve a lock that is so young.
fn since(changed_at: Option<Instant>) -> u64 {
    changed_at.map_or(0, |at| (at.elapsed().as_millis() as u64).max(1))
}

/// The lock is gone; the caller reads again at a newer timestamp.
fn look_again(request: &PessimisticLockRequest, key: Bytes, released: &Released) -> Stop {
    KeyProblem::WriteConflict(Box::new(WriteConflict {
        start_ts: request.start_version,
        conflict_start_ts: released.start_ts,
        conflict_commit_ts: released.commit_ts,
        key,
        primary: request.primary_lock.clone(),
        reason: Reason::PessimisticRetry,
    }))
    .into()
}

fn reserved_answer(
    request: &PessimisticLockRequest,
    reserved: Vec<Reserved>,
) -> PessimisticLockResponse {
    let mut answer = PessimisticLockResponse::default();
    if forces(request) {
        let result = |reserved: Reserved| PessimisticLockKeyResult {
            r#type: if reserved.conflict_ts > 0 {
                PessimisticLockKeyResultType::LockResultLockedWithConflict
            } else {
                PessimisticLockKeyResultType::LockResultNormal
            } as i32,
            existence: reserved.exists,
            value: reserved.value.unwrap_or_default(),
            locked_with_conflict_ts: reserved.conflict_ts,
            ..Default::default()
        };
        answer.results = reserved.into_iter().map(result).collect();
        return answer;
    }
    if request.return_values || request.check_existence {
        answer.not_founds = reserved.iter().map(|reserved| !reserved.exists).collect();
    }
    if request.return_values {
        answer.values =
            reserved.into_iter().map(|reserved| reserved.value.unwrap_or_default()).collect();
    }
    answer
}
