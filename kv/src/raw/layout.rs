//! Where raw pairs are kept, by api version.
//!
//! | version | key | family |
//! |---|---|---|
//! | V1, V1TTL | as it is | default, or the one that the request names |
//! | V2 | memcomparable, as transactional keys are | default |
//!
//! Left out: TiKV keeps versions of raw keys under V2, for change feeds. One version is enough to
//! serve clients; the last writer in the region's log wins.

use bytes::Bytes;
use proto::{KeyRange, memcomparable};
use raftstore::engine::ColumnFamily;
use raftstore::error::Fault;

use super::value::Value;
use crate::config::ApiVersion;

/// The layout of one api version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout(pub(super) ApiVersion);

impl Layout {
    /// A user key in the engine.
    pub(super) fn engine_key(self, key: &Bytes) -> Bytes {
        match self.0 {
            ApiVersion::V1 | ApiVersion::V1Ttl => key.clone(),
            ApiVersion::V2 => memcomparable::encode(key),
        }
    }

    /// A range of user keys in the engine; an empty upper bound is +infinity.
    pub(super) fn engine_range(self, lower: &Bytes, upper: &Bytes) -> KeyRange {
        KeyRange {
            start: if lower.is_empty() { Bytes::new() } else { self.engine_key(lower) },
            end: (!upper.is_empty()).then(|| self.engine_key(upper)),
        }
    }

    /// An engine key as the user knows it.
    pub(super) fn user_key(self, key: &[u8]) -> Result<Bytes, Fault> {
        match self.0 {
            ApiVersion::V1 | ApiVersion::V1Ttl => Ok(Bytes::copy_from_slice(key)),
            ApiVersion::V2 => {
                memcomparable::decode(key).map(Bytes::from).ok_or_else(|| Fault::Corrupt {
                    place: format!("raw key {}", proto::key::Readable(key)),
                    detail: "it is not memcomparable".into(),
                })
            }
        }
    }

    /// A stored value, unless it is gone.
    pub(super) fn value(self, stored: Bytes, now: u64) -> Result<Option<Value>, Fault> {
        Value::decode(stored, self.0, now)
    }

    /// Whether values may expire.
    pub(super) fn has_ttl(self) -> bool {
        self.0 != ApiVersion::V1
    }

    /// The family that a request names.
    pub(super) fn family(self, name: &str) -> Result<ColumnFamily, String> {
        match (self.0, name) {
            (ApiVersion::V2, "") => Ok(ColumnFamily::Default),
            (ApiVersion::V2, _) => Err("cf is deprecated in API V2: leave it empty".to_string()),
            (ApiVersion::V1 | ApiVersion::V1Ttl, "" | "default") => Ok(ColumnFamily::Default),
            (ApiVersion::V1 | ApiVersion::V1Ttl, "lock") => Ok(ColumnFamily::Lock),
            (ApiVersion::V1 | ApiVersion::V1Ttl, "write") => Ok(ColumnFamily::Write),
            (ApiVersion::V1 | ApiVersion::V1Ttl, other) => {
                Err(format!("InvalidCf: there is no column family \"{other}\""))
            }
        }
    }
}
