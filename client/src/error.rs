//! The one error of this crate: what kind, where, after how many tries, and what to do about it.
//!
//! A caller asks two questions. [`Error::is_retryable`]: may the same be done again, from the start?
//! [`Error::is_undetermined`]: may it have happened although it failed? Never both: what may have
//! happened is not repeated blindly.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use proto::key::Readable;
use proto::{Refusal, RegionId, Timestamp};

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    cause: Option<Cause>,
    region: Option<RegionId>,
    attempts: u32,
    waited: Duration,
}

/// The kinds of failure, by what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself makes no sense: an empty list of endpoints, a finished transaction, a key
    /// outside the limits. Fix the program.
    Mistake,
    /// The deadline passed and nothing was changed by this call. Try again later.
    Timeout,
    /// A write may or may not have happened. Read, and decide.
    Undetermined,
    /// Another transaction changed the key after this one began. Run the transaction again.
    WriteConflict {
        /// The key both wrote.
        key: Bytes,
        /// When this transaction began.
        start: Timestamp,
        /// When the other one began.
        conflict_start: Timestamp,
        /// When the other one committed; zero if it was rolled back.
        conflict_commit: Timestamp,
    },
    /// `insert` found a value. Nothing was changed.
    KeyExists {
        /// The key that exists.
        key: Bytes,
    },
    /// Another transaction's lock did not go away in time. Run the transaction again.
    Locked {
        /// The locked key.
        key: Bytes,
        /// When the other transaction began.
        holder: Timestamp,
    },
    /// This transaction and others wait for each other in a circle, and this one gives way. Roll it
    /// back and run it again.
    Deadlock {
        /// The key this transaction wanted.
        key: Bytes,
        /// When the transaction that holds it began.
        holder: Timestamp,
        /// Who waits for whom, from that holder back to this transaction; empty if the store does
        /// not say.
        chain: Vec<Waiting>,
    },
    /// Somebody rolled this transaction back, because it took longer than its locks live. Run it
    /// again.
    RolledBack,
    /// The change is larger than a store takes in one piece. Make it smaller.
    TooLarge,
    /// A server said no in a way that another try will not change: wrong api version, no such
    /// keyspace, ttl not enabled. The message is the server's.
    Rejected,
    /// The closure given to `run` gave up; see [`Error::stop`].
    Stopped,
}

/// One link of a deadlock: a transaction that waits for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When the transaction that waits began.
    pub waiter: Timestamp,
    /// When the transaction that it waits for began.
    pub holder: Timestamp,
    /// The key it waits for.
    pub key: Bytes,
}

/// What was seen last before giving up.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// A transport failure, or an answer of gRPC itself.
    Rpc(tonic::Status),
    /// A store refused.
    Refusal(Refusal),
    /// The scheduler, or a key's state, in words.
    Words(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rpc(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Refusal(refusal) => write!(f, "{refusal}"),
            Self::Words(words) => f.write_str(words),
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            cause: None,
            region: None,
            attempts: 0,
            waited: Duration::ZERO,
        }))
    }

    pub(crate) fn mistake(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mistake, message)
    }

    pub(crate) fn rejected(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Rejected, message)
    }

    /// The caller's own reason to leave a transaction: given back by the closure of
    /// [`run`](crate::TransactionClient::run), it rolls the transaction back and ends the repeating.
    pub fn stop(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Stopped, reason)
    }

    pub(crate) fn with_cause(mut self, cause: Option<Cause>) -> Self {
        self.0.cause = cause;
        self
    }

    pub(crate) fn at_region(mut self, region: Option<RegionId>) -> Self {
        self.0.region = self.0.region.or(region);
        self
    }

    pub(crate) fn after(mut self, attempts: u32, waited: Duration) -> Self {
        self.0.attempts = attempts;
        self.0.waited = waited;
        self
    }

    /// The same failure of a write that may have happened.
    pub(crate) fn into_undetermined(mut self) -> Self {
        self.0.kind = ErrorKind::Undetermined;
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether doing the same again, from the start, is safe and may succeed. A whole transaction
    /// must be repeated, not its last call.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Timeout
            | ErrorKind::WriteConflict { .. }
            | ErrorKind::Locked { .. }
            | ErrorKind::Deadlock { .. }
            | ErrorKind::RolledBack => true,
            ErrorKind::Mistake
            | ErrorKind::Undetermined
            | ErrorKind::KeyExists { .. }
            | ErrorKind::TooLarge
            | ErrorKind::Rejected
            | ErrorKind::Stopped => false,
        }
    }

    /// Whether the write may have happened all the same.
    pub fn is_undetermined(&self) -> bool {
        self.0.kind == ErrorKind::Undetermined
    }

    /// The key in question, where there is one.
    pub fn key(&self) -> Option<&Bytes> {
        match &self.0.kind {
            ErrorKind::WriteConflict { key, .. }
            | ErrorKind::KeyExists { key }
            | ErrorKind::Locked { key, .. }
            | ErrorKind::Deadlock { key, .. } => Some(key),
            ErrorKind::Mistake
            | ErrorKind::Timeout
            | ErrorKind::Undetermined
            | ErrorKind::RolledBack
            | ErrorKind::TooLarge
            | ErrorKind::Rejected
            | ErrorKind::Stopped => None,
        }
    }

    /// The region asked last, where one was.
    pub fn region(&self) -> Option<RegionId> {
        self.0.region
    }

    /// How many requests were sent on behalf of this call.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// How long the call had taken when it gave up.
    pub fn waited(&self) -> Duration {
        self.0.waited
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, cause, region, attempts, waited } = &*self.0;
        if *kind == ErrorKind::Undetermined {
            f.write_str("may or may not have happened: ")?;
        }
        f.write_str(message)?;
        if let Some(key) = self.key() {
            write!(f, " (key {})", Readable(key))?;
        }
        if *attempts > 0 {
            let tries = if *attempts == 1 { "try" } else { "tries" };
            write!(f, "; gave up after {:.1} s and {attempts} {tries}", waited.as_secs_f64())?;
        }
        if let Some(region) = region {
            write!(f, ", last at {region}")?;
        }
        if let Some(cause) = cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Some(Cause::Rpc(status)) => Some(status),
            Some(Cause::Refusal(_) | Cause::Words(_)) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_happened_is_never_called_retryable() {
        let error = Error::new(ErrorKind::Timeout, "waiting").into_undetermined();
        assert!(error.is_undetermined() && !error.is_retryable());
        assert!(Error::new(ErrorKind::Timeout, "waiting").is_retryable());
    }

    #[test]
    fn an_error_says_what_it_waited_for_and_how_long() {
        let error = Error::new(ErrorKind::Timeout, "raw put: waiting for a leader of r2")
            .at_region(Some(RegionId(2)))
            .with_cause(Some(Cause::Refusal(Refusal::StaleCommand)))
            .after(3, Duration::from_millis(1500));
        assert_eq!(
            error.to_string(),
            "raw put: waiting for a leader of r2; gave up after 1.5 s and 3 tries, last at r2: \
             stale command"
        );
    }
}
