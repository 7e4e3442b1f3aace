//! Key ranges: what a region covers.
//!
//! On the wire an empty `end_key` means "no upper bound"; behind `proto` that is `None`.

use std::fmt;

use bytes::Bytes;

use crate::metapb;

/// A half-open range of keys `[start, end)`; `end` of `None` is +infinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// First key inside; empty is the smallest key there is.
    pub start: Bytes,
    /// First key outside.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// A range from its form on the wire, where an empty end means +infinity.
    pub fn from_wire(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        let end = end.into();
        Self { start: start.into(), end: (!end.is_empty()).then_some(end) }
    }

    /// What the region covers.
    pub fn of(region: &metapb::Region) -> Self {
        Self::from_wire(region.start_key.clone(), region.end_key.clone())
    }

    /// The end in its form on the wire.
    pub fn wire_end(&self) -> Bytes {
        self.end.clone().unwrap_or_default()
    }

    /// Whether the key lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether the whole of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start
            && match (&self.end, &other.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(mine), Some(theirs)) => theirs <= mine,
            }
    }

    /// Whether some key lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The keys that lie in both; empty (see [`Self::is_empty`]) when there are none.
    pub fn intersection(&self, other: &Self) -> Self {
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Self { start: (&self.start).max(&other.start).clone(), end }
    }

    /// Whether no key lies inside.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The two halves at `key`, which becomes the first key of the right one; `None` when the key
    /// is not strictly inside.
    pub fn split_at(&self, key: &Bytes) -> Option<(Self, Self)> {
        (self.contains(key) && *key != self.start).then(|| {
            (
                Self { start: self.start.clone(), end: Some(key.clone()) },
                Self { start: key.clone(), end: self.end.clone() },
            )
        })
    }
}

/// A key as a person reads it: printable bytes as they are, others as `\xNN`.
pub struct Readable<'a>(pub &'a [u8]);

impl fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => write!(f, "{}", byte as char)?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start.is_empty() {
            f.write_str("[-inf,")?;
        } else {
            write!(f, "[{},", Readable(&self.start))?;
        }
        match &self.end {
            None => f.write_str("+inf)"),
            Some(end) => write!(f, "{})", Readable(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(start, end)
    }

    #[test]
    fn an_empty_end_on_the_wire_is_infinity() {
        assert!(range("a", "").contains(b"\xff\xff"));
        assert!(!range("a", "").contains(b""));
        assert_eq!(range("a", "m").to_string(), "[a,m)");
        assert_eq!(range("", "").to_string(), "[-inf,+inf)");
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range("a", "m").overlaps(&range("m", "")));
        assert!(range("a", "n").overlaps(&range("m", "")));
        assert!(range("", "").covers(&range("a", "m")));
        assert!(!range("a", "m").covers(&range("a", "")));
    }

    #[test]
    fn a_split_at_the_edge_is_no_split() {
        let whole = range("a", "m");
        assert_eq!(whole.split_at(&Bytes::from("a")), None);
        assert_eq!(whole.split_at(&Bytes::from("m")), None);
        assert_eq!(whole.split_at(&Bytes::from("c")), Some((range("a", "c"), range("c", "m"))));
    }

    #[test]
    fn keys_print_readably() {
        assert_eq!(Readable(b"a\\b\x00\xff").to_string(), "a\\\\b\\x00\\xff");
    }
}
