//! What a raw value looks like in the engine, which depends on the cluster's api version:
//!
//! ```text
//! V1      value
//! V1TTL   value ‖ expiry, 8 bytes (0: never)
//! V2      value ‖ [expiry, 8 bytes] ‖ flags      bit 0: has an expiry   bit 1: deleted
//! ```
//!
//! An expiry is a number of seconds since 1970. From that second on the value is not there for
//! anybody; its bytes go later.

use bytes::{BufMut, Bytes, BytesMut};
use raftstore::error::Fault;

use crate::config::ApiVersion;

const HAS_EXPIRY: u8 = 1;
const IS_DELETED: u8 = 2;

/// A value, and until when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As the user gave it.
    pub bytes: Bytes,
    /// From this second on it is gone; `None` is never.
    pub expires_at: Option<u64>,
}

impl Value {
    /// A value that lives for `ttl` seconds from now on; 0 is for ever.
    pub fn new(bytes: Bytes, ttl: u64, now: u64) -> Self {
        Self { bytes, expires_at: (ttl > 0).then(|| now.saturating_add(ttl)) }
    }

    /// Its bytes in the engine. Without copying under V1.
    pub fn encode(self, version: ApiVersion) -> Bytes {
        if version == ApiVersion::V1 {
            return self.bytes;
        }
        let mut out = BytesMut::with_capacity(self.bytes.len() + 9);
        out.put_slice(&self.bytes);
        match (version, self.expires_at) {
            (ApiVersion::V1 | ApiVersion::V1Ttl, expiry) => out.put_u64(expiry.unwrap_or(0)),
            (ApiVersion::V2, None) => out.put_u8(0),
            (ApiVersion::V2, Some(expiry)) => {
                out.put_u64(expiry);
                out.put_u8(HAS_EXPIRY);
            }
        }
        out.freeze()
    }

    /// The value behind these bytes; `None` when it is gone at `now`.
    pub fn decode(stored: Bytes, version: ApiVersion, now: u64) -> Result<Option<Self>, Fault> {
        let corrupt = || Fault::Corrupt {
            place: "a raw value".into(),
            detail: format!("{} bytes are too short for api version {version}", stored.len()),
        };
        let value = match version {
            ApiVersion::V1 => Self { bytes: stored, expires_at: None },
            ApiVersion::V1Ttl => {
                let (bytes, expiry) = split_expiry(&stored).ok_or_else(corrupt)?;
                Self { bytes, expires_at: (expiry > 0).then_some(expiry) }
            }
            ApiVersion::V2 => {
                let (flags, rest) = stored.split_last().ok_or_else(corrupt)?;
                let rest = stored.slice_ref(rest);
                if flags & IS_DELETED != 0 {
                    return Ok(None);
                }
                if flags & HAS_EXPIRY != 0 {
                    let (bytes, expiry) = split_expiry(&rest).ok_or_else(corrupt)?;
                    Self { bytes, expires_at: Some(expiry) }
                } else {
                    Self { bytes: rest, expires_at: None }
                }
            }
        };
        Ok((!value.is_gone(now)).then_some(value))
    }

    fn is_gone(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}

fn split_expiry(stored: &Bytes) -> Option<(Bytes, u64)> {
    let at = stored.len().checked_sub(8)?;
    let expiry = u64::from_be_bytes(stored[at..].try_into().ok()?);
    Some((stored.slice(..at), expiry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_until_they_expire() {
        for version in [ApiVersion::V1Ttl, ApiVersion::V2] {
            let value = Value::new("v".into(), 10, 100);
            let stored = value.clone().encode(version);
            let at = |now| Value::decode(stored.clone(), version, now).unwrap();
            assert_eq!(at(109), Some(value));
            assert_eq!(at(110), None);
        }
        for version in [ApiVersion::V1, ApiVersion::V1Ttl, ApiVersion::V2] {
            let value = Value::new("v".into(), 0, 100);
            let stored = value.clone().encode(version);
            assert_eq!(Value::decode(stored, version, u64::MAX).unwrap(), Some(value));
        }
    }

    #[test]
    fn the_known_bytes() {
        let ttl = Value { bytes: "v".into(), expires_at: Some(1) };
        assert_eq!(ttl.clone().encode(ApiVersion::V1Ttl)[..], *b"v\0\0\0\0\0\0\0\x01");
        assert_eq!(ttl.encode(ApiVersion::V2)[..], *b"v\0\0\0\0\0\0\0\x01\x01");
        let plain = Value { bytes: "v".into(), expires_at: None };
        assert_eq!(plain.clone().encode(ApiVersion::V1)[..], *b"v");
        assert_eq!(plain.encode(ApiVersion::V2)[..], *b"v\0");
        assert_eq!(Value::decode(Bytes::from_static(b"v\x02"), ApiVersion::V2, 0).unwrap(), None);
        Value::decode(Bytes::new(), ApiVersion::V2, 0).unwrap_err();
    }
}
