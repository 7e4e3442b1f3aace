//! Which keys a command may touch, and what a transactional key looks like in the engine.
//!
//! A cluster runs under one [`ApiVersion`]. It decides whether raw and transactional commands are
//! served at all, and with which first byte their keys begin:
//!
//! | cluster | request says V1 | V1TTL | V2 |
//! |---|---|---|---|
//! | V1 | raw and transactions, any key | refused | refused |
//! | V1TTL | raw only | raw only | refused |
//! | V2 | transactions on `m…` and `t…` only | refused | raw on `r…`, transactions on `x…` |
//!
//! Transactional keys are kept memcomparable, followed by an inverted timestamp where there are
//! versions, so that the newest version of a key comes first:
//!
//! ```text
//! lock     enc(key)                     → at most one lock
//! write    enc(key) ‖ !commit_ts        → commit and rollback records
//! default  enc(key) ‖ !start_ts         → values too long for their record
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use proto::{kvrpcpb, memcomparable};

use crate::config::ApiVersion;

/// Longest user key that is written or locked. A longer one is refused with a text, as TiKV does; to a
/// reader it is a key that does not exist.
pub const KEY_BYTES_MAX: usize = 8 * 1024;

/// Bytes that a version takes behind an encoded key.
pub const VERSION_BYTES: usize = 8;

/// First byte of raw keys under V2.
const RAW_PREFIX: u8 = b'r';
/// First byte of transactional keys under V2.
const TXN_PREFIX: u8 = b'x';
/// First bytes of the keys that a V1 client may use in a V2 cluster.
const V1_PREFIXES_IN_V2: [u8; 2] = [b'm', b't'];

/// A transactional key: as the user knows it, and as the engine and the scheduler do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    encoded: Bytes,
    user: Bytes,
}

impl Key {
    /// The key the user names so.
    pub fn new(user: impl Into<Bytes>) -> Self {
        let user = user.into();
        Self { encoded: memcomparable::encode(&user), user }
    }

    /// The key with this memcomparable form; `None` when these bytes are not one.
    pub fn from_encoded(encoded: &[u8]) -> Option<Self> {
        let user = memcomparable::decode(encoded)?;
        Some(Self { encoded: Bytes::copy_from_slice(encoded), user: user.into() })
    }

    /// As the user knows it.
    pub fn user(&self) -> &Bytes {
        &self.user
    }

    /// As regions and the lock family know it.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Its version `ts` in the write or default family.
    pub fn at(&self, ts: u64) -> Bytes {
        versioned(&self.encoded, ts)
    }

    /// The version in `engine_key` when that is a version of this key.
    pub fn version_in(&self, engine_key: &[u8]) -> Option<u64> {
        let version = engine_key.strip_prefix(self.encoded.as_ref())?;
        Some(!u64::from_be_bytes(version.try_into().ok()?))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        proto::key::Readable(&self.user).fmt(f)
    }
}

/// An encoded key with a version behind it; newer versions sort first.
pub fn versioned(encoded: &[u8], ts: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded.len() + VERSION_BYTES);
    out.put_slice(encoded);
    out.put_u64(!ts);
    out.freeze()
}

/// An engine key of the write or default family taken apart into encoded key and version; `None`
/// when it is too short to have one.
pub fn split_version(engine_key: &[u8]) -> Option<(&[u8], u64)> {
    let at = engine_key.len().checked_sub(VERSION_BYTES)?;
    let (encoded, version) = engine_key.split_at(at);
    Some((encoded, !u64::from_be_bytes(version.try_into().ok()?)))
}

/// The smallest engine key behind all versions of an encoded key.
pub fn after_versions(encoded: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded.len() + VERSION_BYTES + 1);
    out.put_slice(encoded);
    out.put_u64(!0);
    out.put_u8(0);
    out.freeze()
}

/// The two families of commands; each has its own keys under V2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain keys and values.
    Raw,
    /// Transactions.
    Txn,
}

impl Mode {
    fn prefix(self) -> u8 {
        match self {
            Self::Raw => RAW_PREFIX,
            Self::Txn => TXN_PREFIX,
        }
    }
}

/// A request that this cluster does not serve, whoever is asked and how often. The answer carries
/// it as text; the caller is configured wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyMistake {
    /// The request speaks another version than the cluster. Clients know the text by its beginning.
    #[error("Error(ApiVersionNotMatched {{ storage_api_version: {:?}, req_api_version: {request} }})", .cluster.to_wire())]
    ApiVersionNotMatched {
        /// The cluster's.
        cluster: ApiVersion,
        /// The request's, in the wire's words.
        request: String,
    },
    /// The key does not begin as keys of this command must. Clients know the text by its beginning.
    #[error("Error(InvalidKeyMode {{ storage_api_version: {:?}, key: {} }})", .cluster.to_wire(), proto::key::Readable(.key))]
    InvalidKeyMode {
        /// The cluster's version.
        cluster: ApiVersion,
        /// The key, or a bound of the range.
        key: Bytes,
    },
    /// A range to be deleted whose bounds are the wrong way round.
    #[error(
        "invalid delete range command, start_key: {}, end_key: {}",
        proto::key::Readable(.start),
        proto::key::Readable(.end)
    )]
    RangeInverted {
        /// Where it should begin.
        start: Bytes,
        /// Where it should end.
        end: Bytes,
    },
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("KeyTooLarge: key of {bytes} bytes, the limit is {KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
    },
}

fn not_matched(cluster: ApiVersion, context: &kvrpcpb::Context) -> KeyMistake {
    KeyMistake::ApiVersionNotMatched {
        cluster,
        request: kvrpcpb::ApiVersion::try_from(context.api_version)
            .map_or_else(|_| context.api_version.to_string(), |version| format!("{version:?}")),
    }
}

/// The first bytes a key may have; `None` is any. Fails when the versions do not go together.
fn allowed_prefixes(
    cluster: ApiVersion,
    context: &kvrpcpb::Context,
    mode: Mode,
) -> Result<Option<Vec<u8>>, KeyMistake> {
    use kvrpcpb::ApiVersion as Wire;
    let request = Wire::try_from(context.api_version).map_err(|_| not_matched(cluster, context))?;
    match (cluster, request, mode) {
        (ApiVersion::V1, Wire::V1, _) => Ok(None),
        (ApiVersion::V1Ttl, Wire::V1 | Wire::V1ttl, Mode::Raw) => Ok(None),
        (ApiVersion::V2, Wire::V1, Mode::Txn) => Ok(Some(V1_PREFIXES_IN_V2.to_vec())),
        (ApiVersion::V2, Wire::V2, mode) => Ok(Some(vec![mode.prefix()])),
        (ApiVersion::V1, Wire::V1ttl | Wire::V2 | Wire::V3, _)
        | (ApiVersion::V1Ttl, Wire::V1 | Wire::V1ttl, Mode::Txn)
        | (ApiVersion::V1Ttl, Wire::V2 | Wire::V3, _)
        | (ApiVersion::V2, Wire::V1, Mode::Raw)
        | (ApiVersion::V2, Wire::V1ttl | Wire::V3, _) => Err(not_matched(cluster, context)),
    }
}

/// Whether this cluster serves a command of this kind on these keys.
pub fn check_keys<'a>(
    cluster: ApiVersion,
    context: &kvrpcpb::Context,
    mode: Mode,
    keys: impl IntoIterator<Item = &'a Bytes>,
) -> Result<(), KeyMistake> {
    let prefixes = allowed_prefixes(cluster, context, mode)?;
    for key in keys {
        if let Some(prefixes) = &prefixes
            && !key.first().is_some_and(|first| prefixes.contains(first))
        {
            return Err(KeyMistake::InvalidKeyMode { cluster, key: key.clone() });
        }
    }
    Ok(())
}

/// [`check_keys`], of keys that may be written or locked.
pub fn check_written_keys<'a>(
    cluster: ApiVersion,
    context: &kvrpcpb::Context,
    mode: Mode,
    keys: impl IntoIterator<Item = &'a Bytes, IntoIter: Clone>,
) -> Result<(), KeyMistake> {
    let keys = keys.into_iter();
    check_keys(cluster, context, mode, keys.clone())?;
    check_sizes(keys)
}

/// Whether the keys are short enough to be written or locked.
pub fn check_sizes<'a>(keys: impl IntoIterator<Item = &'a Bytes>) -> Result<(), KeyMistake> {
    match keys.into_iter().find(|key| key.len() > KEY_BYTES_MAX) {
        None => Ok(()),
        Some(key) => Err(KeyMistake::KeyTooLarge { bytes: key.len() }),
    }
}

/// Whether the bounds of a range to be deleted are in order; an empty upper bound is infinite.
pub fn check_order(lower: &Bytes, upper: &Bytes) -> Result<(), KeyMistake> {
    if upper.is_empty() || lower <= upper {
        return Ok(());
    }
    Err(KeyMistake::RangeInverted { start: lower.clone(), end: upper.clone() })
}

/// Whether this cluster serves a command of this kind on the range `[lower, upper)`. Under V2 both
/// bounds must lie in the command's own part of the key space.
pub fn check_range(
    cluster: ApiVersion,
    context: &kvrpcpb::Context,
    mode: Mode,
    lower: &Bytes,
    upper: &Bytes,
) -> Result<(), KeyMistake> {
    let Some(prefixes) = allowed_prefixes(cluster, context, mode)? else { return Ok(()) };
    let wrong = |key: &Bytes| KeyMistake::InvalidKeyMode { cluster, key: key.clone() };
    let first = *lower.first().filter(|f| prefixes.contains(f)).ok_or_else(|| wrong(lower))?;
    let same_part = upper.first() == Some(&first) || upper.as_ref() == [first + 1];
    if same_part { Ok(()) } else { Err(wrong(upper)) }
}

/// Bytes of a keyspace's prefix: the mode's first byte, and the id.
const KEYSPACE_PREFIX_BYTES: usize = 4;

/// Where a scan from `lower` ends that was given the end `upper`. Without an end, a scan of version 2
/// stays in the keyspace where it begins; TiKV refuses it.
pub fn end_of_scan(context: &kvrpcpb::Context, lower: &Bytes, upper: &Bytes) -> Bytes {
    let is_v2 = context.api_version == kvrpcpb::ApiVersion::V2 as i32;
    match lower.first_chunk::<KEYSPACE_PREFIX_BYTES>() {
        Some(prefix) if is_v2 && upper.is_empty() => {
            let next = u32::from_be_bytes(*prefix).saturating_add(1);
            Bytes::copy_from_slice(&next.to_be_bytes())
        }
        Some(_) | None => upper.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(version: kvrpcpb::ApiVersion) -> kvrpcpb::Context {
        kvrpcpb::Context { api_version: version as i32, ..Default::default() }
    }

    fn check(cluster: ApiVersion, request: kvrpcpb::ApiVersion, mode: Mode, key: &str) -> bool {
        check_keys(cluster, &context(request), mode, [&Bytes::copy_from_slice(key.as_bytes())])
            .is_ok()
    }

    #[test]
    fn versions_and_first_bytes_follow_the_table() {
        use kvrpcpb::ApiVersion as Wire;
        assert!(check(ApiVersion::V1, Wire::V1, Mode::Raw, "anything"));
        assert!(check(ApiVersion::V1, Wire::V1, Mode::Txn, ""));
        assert!(!check(ApiVersion::V1, Wire::V2, Mode::Txn, "x"));
        assert!(check(ApiVersion::V1Ttl, Wire::V1ttl, Mode::Raw, "k"));
        assert!(!check(ApiVersion::V1Ttl, Wire::V1, Mode::Txn, "k"));
        assert!(check(ApiVersion::V2, Wire::V2, Mode::Raw, "r\0\0\0k"));
        assert!(!check(ApiVersion::V2, Wire::V2, Mode::Raw, "x\0\0\0k"));
        assert!(check(ApiVersion::V2, Wire::V2, Mode::Txn, "x\0\0\0k"));
        assert!(check(ApiVersion::V2, Wire::V1, Mode::Txn, "t1"));
        assert!(!check(ApiVersion::V2, Wire::V1, Mode::Txn, "k"));
        assert!(!check(ApiVersion::V2, Wire::V1, Mode::Raw, "k"));
    }

    /// Clients compare the beginnings of these texts.
    #[test]
    fn what_the_cluster_does_not_serve_is_told_in_the_words_that_clients_know() {
        let text = |cluster, request, key: &'static str| {
            let mistake = check_keys(cluster, &context(request), Mode::Txn, [&Bytes::from(key)]);
            mistake.unwrap_err().to_string()
        };
        use kvrpcpb::ApiVersion as Wire;
        assert_eq!(
            text(ApiVersion::V1, Wire::V2, "t_a"),
            "Error(ApiVersionNotMatched { storage_api_version: V1, req_api_version: V2 })"
        );
        assert_eq!(
            text(ApiVersion::V1Ttl, Wire::V1, "x\0a"),
            "Error(ApiVersionNotMatched { storage_api_version: V1ttl, req_api_version: V1 })"
        );
        assert_eq!(
            text(ApiVersion::V2, Wire::V1, "x"),
            "Error(InvalidKeyMode { storage_api_version: V2, key: x })"
        );
    }

    #[test]
    fn a_range_stays_in_its_part_of_the_key_space() {
        let context = context(kvrpcpb::ApiVersion::V2);
        let check = |lower: &'static str, upper: &'static str| {
            check_range(ApiVersion::V2, &context, Mode::Raw, &lower.into(), &upper.into()).is_ok()
        };
        assert!(check("r\0\0\0", "r\0\0\x01"));
        assert!(check("r\0\0\0", "s"));
        assert!(!check("r\0\0\0", ""));
        assert!(!check("r\0\0\0", "x"));
        assert!(!check("", "s"));
    }

    #[test]
    fn a_scan_without_an_end_stays_in_its_keyspace() {
        let v2 = context(kvrpcpb::ApiVersion::V2);
        let end = |context, lower: &'static str, upper: &'static str| {
            end_of_scan(context, &lower.into(), &upper.into())
        };
        assert_eq!(end(&v2, "x\0\0\0k", ""), "x\0\0\x01");
        assert_eq!(end(&v2, "x\0\0\0k", "x\0\0\0l"), "x\0\0\0l");
        assert_eq!(end(&v2, "x", ""), "", "no keyspace, no end: refused as a range");
        assert_eq!(end(&context(kvrpcpb::ApiVersion::V1), "long key", ""), "");
    }

    #[test]
    fn newer_versions_come_first_and_all_before_the_next_key() {
        let key = Key::new("k");
        assert!(key.at(9) < key.at(8));
        assert!(key.at(0) < after_versions(key.encoded()));
        assert!(after_versions(key.encoded()) < Key::new("k\0").at(u64::MAX));
        assert_eq!(key.version_in(&key.at(7)), Some(7));
        assert_eq!(Key::new("k2").version_in(&key.at(7)), None);
        assert_eq!(split_version(&key.at(7)), Some((key.encoded().as_ref(), 7)));
    }
}
