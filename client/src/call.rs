//! One call of the user's: its deadline, its tries, and the words for when it fails.
//!
//! Every wait of this crate goes through [`Call::pause`] or is bounded by [`Call::remaining`], so
//! that no call outlives its deadline and every timeout says what was waited for.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::RegionId;
use tokio::time::Instant;

use crate::backoff::{Backoff, Pause};
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::replica_read::ReplicaRead;

/// The longest timeout. "For ever" counts as this: clocks cannot be added to without end.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The state of a call across its tries.
#[derive(Debug)]
pub(crate) struct Call {
    /// What the user asked for, as in "raw put".
    what: &'static str,
    started: Instant,
    deadline: Instant,
    backoff: Backoff,
    attempts: u32,
    /// Whether a write of this call may have happened although no answer says so.
    outcome_open: bool,
    /// Whether a try of a write, of this call or a part of it, was not answered. Only there once there are
    /// parts, or there was such a try.
    was_in_doubt: Option<Arc<AtomicBool>>,
    /// Whether the request under way is a repetition of one that was refused or not answered.
    sent_again: bool,
    /// Whether to report such a write rather than send it again.
    strict: bool,
    /// Whom reads of this call are asked of.
    replica_read: ReplicaRead,
    waits_for: Cow<'static, str>,
    region: Option<RegionId>,
    last: Option<Cause>,
}

impl Call {
    pub(crate) fn new(what: &'static str, timeout: Duration, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            what,
            started: now,
            deadline: now + timeout.min(TIMEOUT_MAX),
            backoff: Backoff::new(seed),
            attempts: 0,
            outcome_open: false,
            was_in_doubt: None,
            sent_again: false,
            strict: false,
            replica_read: ReplicaRead::Leader,
            waits_for: Cow::Borrowed("an answer"),
            region: None,
            last: None,
        }
    }

    /// The same call for a part of it that goes on alone.
    pub(crate) fn fork(&mut self) -> Self {
        Self {
            what: self.what,
            backoff: self.backoff.fork(),
            waits_for: self.waits_for.clone(),
            last: self.last.clone(),
            was_in_doubt: Some(self.was_in_doubt.get_or_insert_default().clone()),
            ..*self
        }
    }

    /// Writes whose outcome is open are reported, not sent again.
    pub(crate) fn strictly(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// From now on reads go to these.
    pub(crate) fn reads_from(&mut self, replica_read: ReplicaRead) {
        self.replica_read = replica_read;
    }

    pub(crate) fn replica_read(&self) -> ReplicaRead {
        self.replica_read
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// When the call gives up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left of the deadline.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// How long one try may take: not longer than this, nor than what is left.
    pub(crate) fn patience(&self, most: Duration) -> Result<Duration> {
        let remaining = self.remaining();
        if remaining.is_zero() { Err(self.timed_out()) } else { Ok(most.min(remaining)) }
    }

    /// A request leaves for this region.
    pub(crate) fn sends_to(&mut self, region: RegionId) {
        self.attempts += 1;
        self.region = Some(region);
    }

    /// What the user asked for.
    pub(crate) fn what(&self) -> &'static str {
        self.what
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the call is waiting for from now on, and what it saw last.
    pub(crate) fn waits_for(&mut self, what: impl Into<Cow<'static, str>>, last: Option<Cause>) {
        self.waits_for = what.into();
        self.last = last.or(self.last.take());
    }

    pub(crate) fn leaves_outcome_open(&mut self) {
        self.outcome_open = true;
        self.was_in_doubt.get_or_insert_default().store(true, Ordering::Relaxed);
    }

    /// The store has forgotten: what became of a try that it did not answer nobody can say.
    pub(crate) fn is_forgotten(&self, why: impl AsRef<str>) -> Error {
        let in_doubt = self.was_in_doubt.as_ref();
        let was_in_doubt = in_doubt.is_some_and(|doubt| doubt.load(Ordering::Relaxed));
        let kind = if was_in_doubt { ErrorKind::Undetermined } else { ErrorKind::Rejected };
        self.fail(kind, why)
    }

    /// An answer came, and with it certainty about every earlier try of the same request.
    pub(crate) fn settles_outcome(&mut self) {
        self.outcome_open = false;
        self.sent_again = false;
    }

    /// No answer came; the next request is the same one once more.
    pub(crate) fn sends_again(&mut self) {
        self.sent_again = true;
    }

    pub(crate) fn is_sent_again(&self) -> bool {
        self.sent_again
    }

    /// Waits as long as the reason calls for; fails when the deadline comes first.
    pub(crate) async fn pause(&mut self, pause: Pause) -> Result<()> {
        match self.backoff.next(pause, self.remaining()) {
            None => Err(self.timed_out()),
            Some(Duration::ZERO) => Ok(()),
            Some(wait) => {
                tokio::time::sleep(wait).await;
                if self.remaining().is_zero() { Err(self.timed_out()) } else { Ok(()) }
            }
        }
    }

    /// Runs something that does not end by itself, until the deadline.
    pub(crate) async fn bounded<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout_at(self.deadline, future).await.map_err(|_| self.timed_out())
    }

    pub(crate) fn timed_out(&self) -> Error {
        self.fail(ErrorKind::Timeout, format!("waiting for {}", self.waits_for))
    }

    /// An error of this call; undetermined when one of its writes may have happened.
    pub(crate) fn fail(&self, kind: ErrorKind, why: impl AsRef<str>) -> Error {
        let error = Error::new(kind, format!("{}: {}", self.what, why.as_ref()))
            .with_cause(self.last.clone())
            .at_region(self.region)
            .after(self.attempts, self.elapsed());
        if self.outcome_open { error.into_undetermined() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_ends_at_its_deadline_and_says_what_it_waited_for() {
        let mut call = Call::new("raw get", Duration::from_millis(20), 1);
        call.waits_for("a leader of r2", None);
        let error = loop {
            if let Err(error) = call.pause(Pause::Region).await {
                break error;
            }
        };
        assert_eq!(*error.kind(), ErrorKind::Timeout);
        assert!(error.waited() >= Duration::from_millis(20));
        assert!(error.to_string().starts_with("raw get: waiting for a leader of r2"));
    }

    #[tokio::test]
    async fn for_ever_is_a_timeout_too() {
        let call = Call::new("raw get", Duration::MAX, 1);
        assert!(call.remaining() > Duration::from_secs(1));
        assert_eq!(call.patience(Duration::MAX).unwrap().as_secs(), call.remaining().as_secs());
    }

    #[tokio::test]
    async fn what_was_in_doubt_and_is_forgotten_is_undetermined() {
        let mut call = Call::new("commit", Duration::from_secs(1), 1);
        assert!(!call.is_forgotten("too old").is_undetermined());
        let mut part = call.fork();
        part.leaves_outcome_open();
        part.settles_outcome();
        assert!(!call.timed_out().is_undetermined());
        assert!(call.is_forgotten("too old").is_undetermined());
    }

    #[tokio::test]
    async fn an_open_outcome_stays_open() {
        let mut call = Call::new("raw put", Duration::from_secs(1), 1);
        call.leaves_outcome_open();
        assert!(call.fork().timed_out().is_undetermined());
    }
}
