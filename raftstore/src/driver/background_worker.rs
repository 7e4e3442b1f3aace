//! The thread round [`Background`].

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::background::Background;
use super::inbox::Inbox;
use super::observer::Observer;
use super::router::Envelope;
use crate::engine::DataEngine;
use crate::msg::BackgroundTask;

/// Performs tasks in the order given, but syncs first, and tells the store. A sync covers what was written
/// before it was asked for, whatever else waits; and the peers of a new region wait for it.
pub(super) struct BackgroundWorker<D> {
    pub(super) background: Background<D>,
    pub(super) tasks: Receiver<BackgroundTask>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) observer: Arc<dyn Observer>,
}

impl<D: DataEngine> BackgroundWorker<D> {
    /// Works until the raft worker hangs up and everything given is done, or until a fault.
    pub(super) fn run(mut self) {
        let mut waiting = VecDeque::new();
        while let Some(task) = self.next(&mut waiting) {
            match self.background.perform(task) {
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

    /// The next task to perform; `None` when all are done and no more will come.
    fn next(&self, waiting: &mut VecDeque<BackgroundTask>) -> Option<BackgroundTask> {
        if waiting.is_empty() {
            waiting.push_back(self.tasks.recv().ok()?);
        }
        waiting.extend(self.tasks.try_iter());
        let is_sync = |task: &BackgroundTask| matches!(task, BackgroundTask::SyncData { .. });
        let first = waiting.iter().position(is_sync).unwrap_or(0);
        waiting.remove(first)
    }
}
