//! Reading a range page by page: where a page begins, where it ends, what is left.
//!
//! A range lies over many regions. A page is asked of the one at the range's edge, cut to what that
//! region holds; a page that is not full says that the region has no more. Both directions are the
//! same walk from the other end.

use bytes::Bytes;
use proto::KeyRange;

use crate::span::after;

/// How many pairs are fetched at a time; stores refuse more than 10240.
pub(crate) const PAGE_LEN_MAX: usize = 1024;
/// Stands for the end of all keys in a reverse scan, which must name where it starts. Keys that begin
/// with this many `0xff` are not seen by an unbounded reverse scan.
const BEYOND_ALL_KEYS: &[u8] = &[0xff; 256];

/// From which end a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Reverse,
}

impl Order {
    /// A range as a scan request names it: a reverse scan starts at the upper bound.
    pub(crate) fn bounds(self, range: &KeyRange) -> (Bytes, Bytes) {
        match self {
            Self::Forward => (range.start.clone(), range.wire_end()),
            Self::Reverse => {
                let upper = range.end.clone();
                (upper.unwrap_or(Bytes::from_static(BEYOND_ALL_KEYS)), range.start.clone())
            }
        }
    }

    /// What is left of a range after `part` of it (what lies in one region) was read, to its end or
    /// up to and including the key `last`.
    pub(crate) fn rest(
        self,
        range: &KeyRange,
        part: &KeyRange,
        last: Option<Bytes>,
    ) -> Option<KeyRange> {
        let rest = match self {
            Self::Forward => {
                let start = last.map(|last| after(&last)).or_else(|| part.end.clone())?;
                KeyRange { start, end: range.end.clone() }
            }
            Self::Reverse => {
                let end = last.unwrap_or_else(|| part.start.clone());
                KeyRange { start: range.start.clone(), end: Some(end) }
            }
        };
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(start, end)
    }

    #[test]
    fn a_page_that_is_full_goes_on_after_its_last_key() {
        let rest = Order::Forward.rest(&range("a", "z"), &range("a", "m"), Some("c".into()));
        assert_eq!(rest.unwrap().to_string(), "[c\\x00,z)");
        let rest = Order::Reverse.rest(&range("a", "z"), &range("m", "z"), Some("p".into()));
        assert_eq!(rest.unwrap().to_string(), "[a,p)");
    }

    #[test]
    fn a_page_that_is_not_full_goes_on_in_the_next_region() {
        let forward = |part| Order::Forward.rest(&range("a", "z"), &part, None);
        assert_eq!(forward(range("a", "m")), Some(range("m", "z")));
        assert_eq!(forward(range("m", "z")), None);
        assert_eq!(Order::Forward.rest(&range("a", ""), &range("m", ""), None), None);
        let reverse = |part| Order::Reverse.rest(&range("a", "z"), &part, None);
        assert_eq!(reverse(range("m", "z")), Some(range("a", "m")));
        assert_eq!(reverse(range("a", "m")), None);
        assert_eq!(Order::Reverse.rest(&range("", "z"), &range("", "m"), None), None);
    }
}
