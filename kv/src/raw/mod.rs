//! Plain keys and values, without transactions.
//!
//! A write is one batch through the region's log and needs no latch: the log orders it. Only compare
//! and swap reads before it writes; it takes the key's latch, and so do the writes that say they
//! want to be ordered with it (`for_cas`).
//!
//! In reading order: [`value`], `layout`, `scan`, [`checksum`]; then the requests, `reads` and
//! `writes`.

pub mod value;
mod layout;
mod scan;
pub mod checksum;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proto::kvrpcpb::{self, KeyError, KvPair};
use proto::{Refusal, errorpb};
use raftstore::error::Fault;

use self::layout::Layout;
use crate::config::ApiVersion;
use crate::keys::{self, KeyMistake, Mode};
use crate::storage::Storage;
use crate::txn::latches::Latches;
use crate::txn::problem::refuse;

/// Tells the time in seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The raw commands of a store. Clones share everything.
pub struct Raw<St: Storage> {
    inner: Arc<Inner<St>>,
}

struct Inner<St> {
    storage: St,
    layout: Layout,
    latches: Latches,
    clock: Clock,
}

impl<St: Storage> Clone for Raw<St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<St: Storage> Raw<St> {
    /// The commands over this storage, by the system's clock.
    pub fn new(storage: St, api_version: ApiVersion) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        Self::with_clock(storage, api_version, Arc::new(clock))
    }

    /// The commands over this storage, by this clock.
    pub fn with_clock(storage: St, api_version: ApiVersion, clock: Clock) -> Self {
        let layout = Layout(api_version);
        let inner = Inner { storage, layout, latches: Latches::default(), clock };
        Self { inner: Arc::new(inner) }
    }

    fn now(&self) -> u64 {
        (self.inner.clock)()
    }

    fn check_keys<'a>(
        &self,
        context: &kvrpcpb::Context,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), KeyMistake> {
        keys::check_keys(self.inner.layout.0, context, Mode::Raw, keys)
    }

    /// [`Self::check_keys`] of keys that may be written.
    fn check_written_keys<'a>(
        &self,
        context: &kvrpcpb::Context,
        keys: impl IntoIterator<Item = &'a Bytes, IntoIter: Clone>,
    ) -> Result<(), KeyMistake> {
        keys::check_written_keys(self.inner.layout.0, context, Mode::Raw, keys)
    }

    fn check_range(
        &self,
        context: &kvrpcpb::Context,
        lower: &Bytes,
        upper: &Bytes,
    ) -> Result<(), KeyMistake> {
        keys::check_range(self.inner.layout.0, context, Mode::Raw, lower, upper)
    }
}

/// Why a raw command did not end well.
#[derive(Debug)]
enum Stop {
    /// The request is wrong, in words.
    Mistake(String),
    /// Something about the region, or a limit.
    Refused(Refusal),
}

impl From<String> for Stop {
    fn from(mistake: String) -> Self {
        Self::Mistake(mistake)
    }
}

impl From<KeyMistake> for Stop {
    fn from(mistake: KeyMistake) -> Self {
        Self::Mistake(mistake.to_string())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Refused(refuse(&fault))
    }
}

impl Stop {
    /// Its two places in most answers: region error, text.
    fn into_text(self) -> (Option<errorpb::Error>, String) {
        match self {
            Self::Mistake(text) => (None, text),
            Self::Refused(refusal) => (Some(refusal.into()), String::new()),
        }
    }

    /// Its two places in an answer that has pairs only.
    fn into_pairs(self) -> (Option<errorpb::Error>, Vec<KvPair>) {
        match self {
            Self::Mistake(abort) => {
                let error = KeyError { abort, ..Default::default() };
                (None, vec![KvPair { error: Some(error), ..Default::default() }])
            }
            Self::Refused(refusal) => (Some(refusal.into()), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests;
