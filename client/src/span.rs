//! Ranges of keys as callers write them: `"a".."m"`, `"a"..="m"`, `..`, `start..`.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use bytes::{BufMut as _, Bytes, BytesMut};
use proto::KeyRange;

/// A range of keys. Made from Rust's ranges over anything that is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span(pub(crate) KeyRange);

impl Span {
    /// The keys that start with these bytes.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        // The first key behind them: the last byte that can grow does, and what follows it goes.
        let end = prefix.iter().rposition(|&byte| byte != 0xff).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        });
        Self(KeyRange { start: Bytes::copy_from_slice(prefix), end })
    }

    /// Whether no key lies inside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(bytes: &impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// The first key after this one.
pub(crate) fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

impl From<KeyRange> for Span {
    fn from(range: KeyRange) -> Self {
        Self(range)
    }
}

impl From<RangeFull> for Span {
    fn from(_: RangeFull) -> Self {
        Self(KeyRange::all())
    }
}

impl<K: AsRef<[u8]>> From<Range<K>> for Span {
    fn from(range: Range<K>) -> Self {
        Self(KeyRange { start: key(&range.start), end: Some(key(&range.end)) })
    }
}

impl<K: AsRef<[u8]>> From<RangeInclusive<K>> for Span {
    fn from(range: RangeInclusive<K>) -> Self {
        let end = Some(after(range.end().as_ref()));
        Self(KeyRange { start: key(range.start()), end })
    }
}

impl<K: AsRef<[u8]>> From<RangeFrom<K>> for Span {
    fn from(range: RangeFrom<K>) -> Self {
        Self(KeyRange { start: key(&range.start), end: None })
    }
}

impl<K: AsRef<[u8]>> From<RangeTo<K>> for Span {
    fn from(range: RangeTo<K>) -> Self {
        Self(KeyRange { start: Bytes::new(), end: Some(key(&range.end)) })
    }
}

impl<K: AsRef<[u8]>> From<RangeToInclusive<K>> for Span {
    fn from(range: RangeToInclusive<K>) -> Self {
        Self(KeyRange { start: Bytes::new(), end: Some(after(range.end.as_ref())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(span: impl Into<Span>) -> String {
        span.into().0.to_string()
    }

    #[test]
    fn ranges_are_written_as_in_rust() {
        assert_eq!(printed("a".."m"), "[a,m)");
        assert_eq!(printed(b"a".to_vec()..=b"m".to_vec()), "[a,m\\x00)");
        assert_eq!(printed("a"..), "[a,+inf)");
        assert_eq!(printed(..String::from("m")), "[-inf,m)");
        assert_eq!(printed(..), "[-inf,+inf)");
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_can_grow() {
        assert_eq!(printed(Span::prefix("ab")), "[ab,ac)");
        assert_eq!(printed(Span::prefix(b"a\xff")), "[a\\xff,b)");
        assert_eq!(printed(Span::prefix(b"\xff")), "[\\xff,+inf)");
        assert_eq!(printed(Span::prefix("")), "[-inf,+inf)");
    }
}
