//! Three forms of a key, and the way between them.
//!
//! ```text
//! the caller's     "order/7"
//! on the wire      "order/7"          V1: as it is      V2: r or x, three bytes of keyspace, the key
//! the scheduler's  "order/7"          V1 raw: as it is  transactions and all of V2: memcomparable
//! ```
//!
//! Requests carry the wire's form; regions begin and end in the scheduler's. A region may also begin
//! at a key that is no encoding (raw data shares an V1 cluster, or a split key kept its timestamp);
//! [`KeyCodec::wire_bound`] then gives the first key whose encoding is not before it, which cuts the
//! keys of the caller at the same place.

use bytes::{BufMut as _, Bytes, BytesMut};
use proto::{KeyRange, memcomparable};

use crate::config::ApiVersion;

/// The first byte of V2 keys says which API owns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Raw,
    Transactional,
}

/// How one API of one keyspace writes its keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyCodec {
    prefix: Bytes,
    /// The first key after the keyspace; absent in V1, where the key space has no end.
    end: Option<Bytes>,
    memcomparable: bool,
}

impl KeyCodec {
    pub(crate) fn new(version: ApiVersion, mode: Mode, keyspace_id: u32) -> Self {
        if version != ApiVersion::V2 {
            return Self {
                prefix: Bytes::new(),
                end: None,
                memcomparable: mode == Mode::Transactional,
            };
        }
        let first = match mode {
            Mode::Raw => b'r',
            Mode::Transactional => b'x',
        };
        let number = u32::from(first) << 24 | (keyspace_id & 0x00ff_ffff);
        Self {
            prefix: Bytes::copy_from_slice(&number.to_be_bytes()),
            // The last keyspace carries over into the mode byte: `s` and `y` belong to nobody.
            end: Some(Bytes::copy_from_slice(&(number + 1).to_be_bytes())),
            memcomparable: true,
        }
    }

    /// The caller's key on the wire.
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        if self.prefix.is_empty() {
            return Bytes::copy_from_slice(key);
        }
        let mut out = BytesMut::with_capacity(self.prefix.len() + key.len());
        out.put_slice(&self.prefix);
        out.put_slice(key);
        out.freeze()
    }

    /// A key from the wire as the caller knows it. A key of another keyspace stays as it is.
    pub(crate) fn decode(&self, key: Bytes) -> Bytes {
        if key.starts_with(&self.prefix) { key.slice(self.prefix.len()..) } else { key }
    }

    /// The caller's range on the wire; without an end it ends with the keyspace.
    pub(crate) fn encode_range(&self, range: &KeyRange) -> KeyRange {
        let end = match &range.end {
            Some(end) => Some(self.encode(end)),
            None => self.end.clone(),
        };
        KeyRange { start: self.encode(&range.start), end }
    }

    /// A key on the wire as the scheduler knows it.
    pub(crate) fn scheduler_key(&self, key: &Bytes) -> Bytes {
        if self.memcomparable { memcomparable::encode(key) } else { key.clone() }
    }

    /// The first key on the wire that is not before this bound of a region.
    pub(crate) fn wire_bound(&self, bound: &Bytes) -> Bytes {
        if self.memcomparable { first_key_not_before(bound) } else { bound.clone() }
    }

    /// A region's range, in keys of the wire.
    pub(crate) fn wire_range(&self, region: &KeyRange) -> KeyRange {
        KeyRange {
            start: self.wire_bound(&region.start),
            end: region.end.as_ref().map(|end| self.wire_bound(end)),
        }
    }
}

/// The smallest key whose memcomparable encoding is `bound` or sorts after it.
fn first_key_not_before(bound: &[u8]) -> Bytes {
    const GROUP: usize = 8;
    const LAST_GROUP: u8 = 0xf7;
    let mut key = BytesMut::with_capacity(bound.len());
    let mut groups = bound.chunks(GROUP + 1).peekable();
    while let Some(chunk) = groups.next() {
        // A bound cut short sorts like one that goes on with zeros.
        let mut group = [0; GROUP + 1];
        group[..chunk.len()].copy_from_slice(chunk);
        let (bytes, marker) = (&group[..GROUP], group[GROUP]);
        // How many bytes of this group the key takes: the fewest whose encoding has these eight
        // bytes and a marker that is large enough.
        let taken = (0..GROUP)
            .find(|&taken| {
                bytes[taken..].iter().all(|&byte| byte == 0) && LAST_GROUP + taken as u8 >= marker
            })
            .unwrap_or(GROUP);
        key.put_slice(&bytes[..taken]);
        if taken == GROUP && marker == 0xff {
            continue;
        }
        // This key's encoding is exactly this group, and more of the bound follows: the next key.
        if taken < GROUP && LAST_GROUP + taken as u8 == marker && groups.peek().is_some() {
            key.put_u8(0);
        }
        break;
    }
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keyspaces_stand_between_their_bounds() {
        let codec = KeyCodec::new(ApiVersion::V2, Mode::Transactional, 1);
        assert_eq!(codec.encode(b"k")[..], *b"x\0\0\x01k");
        let all = codec.encode_range(&KeyRange::all());
        assert_eq!(all.start[..], *b"x\0\0\x01");
        assert_eq!(all.end.as_deref(), Some(&b"x\0\0\x02"[..]));
        assert_eq!(codec.decode(codec.encode(b"k")), "k");
        assert_eq!(
            codec.scheduler_key(&codec.encode(b"k"))[..],
            [b'x', 0, 0, 1, b'k', 0, 0, 0, 0xfc]
        );
    }

    #[test]
    fn the_last_keyspace_ends_where_the_next_letter_begins() {
        let codec = KeyCodec::new(ApiVersion::V2, Mode::Raw, 0x00ff_ffff);
        assert_eq!(codec.encode_range(&KeyRange::all()).end.as_deref(), Some(&b"s\0\0\0"[..]));
    }

    #[test]
    fn raw_keys_of_v1_are_left_alone() {
        let codec = KeyCodec::new(ApiVersion::V1, Mode::Raw, 0);
        let key = codec.encode(b"k");
        assert_eq!((codec.scheduler_key(&key), codec.wire_bound(&key)), ("k".into(), "k".into()));
        assert_eq!(codec.encode_range(&KeyRange::all()), KeyRange::all());
    }

    #[test]
    fn a_bound_with_a_timestamp_behind_it_cuts_right_after_its_key() {
        let mut bound = BytesMut::from(&memcomparable::encode(b"abc")[..]);
        bound.put_u64(u64::MAX);
        assert_eq!(first_key_not_before(&bound)[..], *b"abc\0");
    }

    proptest! {
        #[test]
        fn an_encoding_is_its_own_bound(key in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(&first_key_not_before(&memcomparable::encode(&key))[..], &key[..]);
        }

        #[test]
        fn any_bound_cuts_keys_where_it_cuts_encodings(
            bound in proptest::collection::vec(prop_oneof![Just(0u8), 0xf5u8..=0xff, any::<u8>()], 0..24),
            key in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..24),
        ) {
            let first = first_key_not_before(&bound);
            prop_assert_eq!(memcomparable::encode(&key)[..] >= bound[..], key[..] >= first[..]);
            // Keys close to the bound are the ones that could be cut wrongly.
            for near in [&first[..], &[&first[..], &[0]].concat(), first.strip_suffix(&[0]).unwrap_or(&first)] {
                prop_assert_eq!(memcomparable::encode(near)[..] >= bound[..], near >= &first[..]);
            }
        }
    }
}
