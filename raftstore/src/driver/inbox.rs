//! The raft worker's inbox, and how it is closed without forgetting anybody.
//!
//! A channel keeps what was sent until its last end is dropped, and routers live long. So a message
//! could come in just before the worker's end goes, and whoever waits for it would wait for ever.
//! Here closing is two steps, and sending is too:
//!
//! ```text
//!   worker   close: say so ──── throw away what is there
//!   sender   put it in ──────── closed? throw away what is there
//! ```
//!
//! Whichever comes second sees what the other did; and thrown-away messages answer for themselves
//! ([`Promise`](super::promise::Promise)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};

use super::router::Envelope;

/// Messages waiting for the raft worker. When full, callers are refused as busy and everything else
/// is dropped and said again by its sender.
pub(super) const INBOX_MESSAGES_MAX: usize = 40_960;

/// How often somebody who waits for room looks whether the inbox was closed.
const CLOSED_LOOK: Duration = Duration::from_millis(100);

/// The shared part. Senders hold it as it is; the worker holds an [`InboxEnd`].
pub(super) struct Inbox {
    tx: Sender<Envelope>,
    rx: Receiver<Envelope>,
    is_closed: AtomicBool,
}

/// Why a message was not taken; it comes back.
pub(super) enum NotTaken {
    /// There is no room.
    Full(Envelope),
    /// Nobody will look any more.
    Closed(Envelope),
}

impl Inbox {
    /// An open inbox, and the worker's end of it.
    pub(super) fn open() -> (Arc<Self>, InboxEnd) {
        let (tx, rx) = bounded(INBOX_MESSAGES_MAX);
        let inbox = Arc::new(Self { tx, rx, is_closed: AtomicBool::new(false) });
        (Arc::clone(&inbox), InboxEnd(inbox))
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.tx.len()
    }

    /// Puts a message in, if there is room.
    #[expect(clippy::result_large_err, reason = "a message comes back as it was, without a detour")]
    pub(super) fn offer(&self, envelope: Envelope) -> Result<(), NotTaken> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(NotTaken::Closed(envelope));
        }
        self.tx.try_send(envelope).map_err(|error| match error {
            TrySendError::Full(envelope) => NotTaken::Full(envelope),
            TrySendError::Disconnected(envelope) => NotTaken::Closed(envelope),
        })?;
        self.empty_if_closed();
        Ok(())
    }

    /// Puts a message in, waiting for room as long as the worker works. Returns whether it did.
    pub(super) fn deliver(&self, mut envelope: Envelope) -> bool {
        while !self.is_closed.load(Ordering::SeqCst) {
            match self.tx.send_timeout(envelope, CLOSED_LOOK) {
                Ok(()) => {
                    self.empty_if_closed();
                    return true;
                }
                Err(SendTimeoutError::Timeout(back)) => envelope = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
        false
    }

    fn empty_if_closed(&self) {
        if self.is_closed.load(Ordering::SeqCst) {
            while self.rx.try_recv().is_ok() {}
        }
    }
}

/// The worker's end. Dropping it closes the inbox.
pub(super) struct InboxEnd(Arc<Inbox>);

impl InboxEnd {
    /// The next message, waiting for it until then.
    pub(super) fn next_until(&self, deadline: Instant) -> Option<Envelope> {
        self.0.rx.recv_deadline(deadline).ok()
    }

    /// The next message, if there is one.
    pub(super) fn try_next(&self) -> Option<Envelope> {
        self.0.rx.try_recv().ok()
    }
}

impl Drop for InboxEnd {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::SeqCst);
        self.0.empty_if_closed();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::driver::promise::Promise;
    use crate::msg::Target;

    #[test]
    fn whoever_sends_while_the_inbox_closes_is_answered() {
        for _ in 0..200 {
            let (inbox, end) = Inbox::open();
            let (tx, rx) = channel();
            let sender = std::thread::spawn(move || {
                for _ in 0..50 {
                    let tx = tx.clone();
                    let done = Promise::new(move |answer| tx.send(answer).unwrap());
                    drop(inbox.offer(Envelope::ReadBarrier { target: Target::default(), done }));
                }
                // The inbox lives on, as routers do.
                inbox
            });
            while end.try_next().is_none() {
                std::hint::spin_loop();
            }
            drop(end);
            let inbox = sender.join().unwrap();
            assert_eq!(rx.try_iter().count(), 50);
            assert_eq!(inbox.len(), 0);
        }
    }
}
