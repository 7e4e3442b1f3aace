//! A thread that performs what takes long, and tells the store.
//!
//! There are two: one for everything that a [`Background`](super::Background) does, in the order given, and
//! one that only syncs the data engine. A sync must not wait behind a snapshot that is being written: the
//! peers of a new region keep still until it is done.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::inbox::Inbox;
use super::observer::Observer;
use super::router::Envelope;
use crate::engine::DataEngine;
use crate::error::Fault;
use crate::msg::{BackgroundTask, StoreMsg};

/// Performs tasks in the order given, and tells the store.
pub(super) struct BackgroundWorker<P> {
    /// Performs one task; its answer, if it has one, is for the store.
    pub(super) perform: P,
    pub(super) tasks: Receiver<BackgroundTask>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) observer: Arc<dyn Observer>,
}

impl<P> BackgroundWorker<P>
where
    P: FnMut(BackgroundTask) -> Result<Option<StoreMsg>, Fault>,
{
    /// Works until the raft worker hangs up and everything given is done, or until a fault.
    pub(super) fn run(mut self) {
        while let Ok(task) = self.tasks.recv() {
            match (self.perform)(task) {
                // Waits when the inbox is full: an answer, unlike a message from outside, is never
                // said again. The raft worker never waits for this thread, so it will drain it.
                Ok(Some(answer)) => {
                    if !self.inbox.deliver(Envelope::Message(answer)) {
                        return;
                    }
                }
                Ok(None) => {}
                Err(fault) => {
                    tracing::error!(%fault, "the store stops");
                    // The raft worker may be gone already; then there is nothing left to stop.
                    self.inbox.deliver(Envelope::Stop);
                    self.observer.fault(fault);
                    return;
                }
            }
        }
    }
}

/// Whether a task is for the thread that only syncs.
pub(super) fn is_sync(task: &BackgroundTask) -> bool {
    matches!(task, BackgroundTask::SyncData { .. })
}

/// What the thread that only syncs performs. A sync covers what was written before it was asked for.
pub(super) fn perform_sync(
    data: &impl DataEngine,
    task: &BackgroundTask,
) -> Result<Option<StoreMsg>, Fault> {
    let BackgroundTask::SyncData { ticket } = task else {
        panic!("only syncs are given to the thread that syncs, and not {task:?}");
    };
    data.sync()?;
    Ok(Some(StoreMsg::DataSynced { ticket: *ticket }))
}
