//! How long a command of a batched stream was on its way, for the answers that say so.
//!
//! ```text
//! its message ──kv_grpc_process──► begun ──executed──► answered ──kv_grpc_wait──► the message that takes it
//! └────────────────────────────────── total_rpc_wall_time ──────────────────────────────────────────────┘
//! ```
//!
//! A command that gets a task of its own waits for that too: it counts as waiting.

use std::time::Instant;

use proto::kvrpcpb;
use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;

/// When a command came with its message, and when it was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) arrived: Instant,
    pub(super) begun: Instant,
}

/// Commands whose answers say how long they took: those that [`details_of`] finds details in.
pub(super) fn tells_times(command: &Command) -> bool {
    matches!(
        command,
        Command::Get(_)
            | Command::BatchGet(_)
            | Command::BufferBatchGet(_)
            | Command::ScanLock(_)
            | Command::Prewrite(_)
            | Command::Flush(_)
            | Command::Commit(_)
            | Command::BatchRollback(_)
            | Command::ResolveLock(_)
            | Command::PessimisticLock(_)
            | Command::PessimisticRollback(_)
            | Command::CheckTxnStatus(_)
            | Command::TxnHeartBeat(_)
            | Command::CheckSecondaryLocks(_)
    )
}

/// What an answer says of its execution, if it has a place for it.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer has no place for it")]
fn details_of(answer: &mut Answer) -> Option<&mut kvrpcpb::ExecDetailsV2> {
    match answer {
        Answer::Get(answer) => answer.exec_details_v2.as_mut(),
        Answer::BatchGet(answer) => answer.exec_details_v2.as_mut(),
        Answer::BufferBatchGet(answer) => answer.exec_details_v2.as_mut(),
        Answer::ScanLock(answer) => answer.exec_details_v2.as_mut(),
        Answer::Prewrite(answer) => answer.exec_details_v2.as_mut(),
        Answer::Flush(answer) => answer.exec_details_v2.as_mut(),
        Answer::Commit(answer) => answer.exec_details_v2.as_mut(),
        Answer::BatchRollback(answer) => answer.exec_details_v2.as_mut(),
        Answer::ResolveLock(answer) => answer.exec_details_v2.as_mut(),
        Answer::PessimisticLock(answer) => answer.exec_details_v2.as_mut(),
        Answer::PessimisticRollback(answer) => answer.exec_details_v2.as_mut(),
        Answer::CheckTxnStatus(answer) => answer.exec_details_v2.as_mut(),
        Answer::TxnHeartBeat(answer) => answer.exec_details_v2.as_mut(),
        Answer::CheckSecondaryLocks(answer) => answer.exec_details_v2.as_mut(),
        _ => None,
    }
}

/// Adds to the time that a command took what it spent on the stream: behind the commands that came in
/// its message, and until the message that takes its answer.
pub(super) fn add_times(answer: &mut Answer, times: Times, now: Instant) {
    let Some(details) = details_of(answer) else { return };
    let nanos = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as u64;
    let total_ns = nanos(times.arrived, now);
    if let Some(time) = &mut details.time_detail {
        time.total_rpc_wall_time_ns = total_ns;
    }
    if let Some(time) = &mut details.time_detail_v2 {
        let executed_ns = std::mem::replace(&mut time.total_rpc_wall_time_ns, total_ns);
        time.kv_grpc_process_time_ns = nanos(times.arrived, times.begun);
        time.kv_grpc_wait_time_ns = nanos(times.begun, now).saturating_sub(executed_ns);
    }
}
