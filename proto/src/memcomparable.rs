//! Bytes encoded so that the encodings sort like the bytes and none is a prefix of another.
//!
//! Groups of eight bytes, each followed by a marker: `0xff` says that another group follows, and
//! `0xff - n` that the last `n` bytes of this group are padding. Transactional keys are stored, and
//! named to the scheduler, in this form; a timestamp may follow, inverted so that newer sorts first.
//!
//! ```text
//! "abc"      → 61 62 63 00 00 00 00 00 fa
//! "12345678" → 31 32 33 34 35 36 37 38 ff  00 00 00 00 00 00 00 00 f7
//! ```

use bytes::{BufMut, Bytes, BytesMut};

const GROUP: usize = 8;
const MARKER: u8 = 0xff;

/// The number of bytes that `len` bytes take when encoded.
pub fn encoded_len(len: usize) -> usize {
    (len / GROUP + 1) * (GROUP + 1)
}

/// Appends the encoding of `key`.
pub fn encode_into(key: &[u8], out: &mut BytesMut) {
    out.reserve(encoded_len(key.len()));
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        out.put_slice(group);
        out.put_u8(MARKER);
    }
    let rest = groups.remainder();
    out.put_slice(rest);
    out.put_bytes(0, GROUP - rest.len());
    out.put_u8(MARKER - (GROUP - rest.len()) as u8);
}

/// The encoding of `key`.
pub fn encode(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(key.len()));
    encode_into(key, &mut out);
    out.freeze()
}

/// The key at the head of `encoded` and how many bytes it took; `None` when these bytes are not an
/// encoding.
pub fn decode_prefix(encoded: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut key = Vec::with_capacity(encoded.len() / (GROUP + 1) * GROUP);
    for (number, group) in encoded.chunks_exact(GROUP + 1).enumerate() {
        let (bytes, marker) = (&group[..GROUP], group[GROUP]);
        if marker == MARKER {
            key.extend_from_slice(bytes);
            continue;
        }
        let padding = usize::from(MARKER - marker);
        if padding > GROUP || bytes[GROUP - padding..].iter().any(|&byte| byte != 0) {
            return None;
        }
        key.extend_from_slice(&bytes[..GROUP - padding]);
        return Some((key, (number + 1) * (GROUP + 1)));
    }
    None
}

/// The key behind an encoding with nothing after it; `None` when these bytes are not one.
pub fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    decode_prefix(encoded).filter(|(_, used)| *used == encoded.len()).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_known_encodings() {
        assert_eq!(encode(b"")[..], [0, 0, 0, 0, 0, 0, 0, 0, 0xf7]);
        assert_eq!(encode(b"abc")[..], [0x61, 0x62, 0x63, 0, 0, 0, 0, 0, 0xfa]);
        assert_eq!(encode(b"12345678").len(), 18);
    }

    #[test]
    fn what_is_not_an_encoding_is_refused() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[1, 2, 3]), None);
        assert_eq!(decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0x10]), None);
        assert_eq!(decode(&[1, 0, 0, 0, 0, 0, 0, 1, 0xf8]), None);
    }

    proptest! {
        #[test]
        fn encodings_sort_like_keys_and_come_back(
            a in proptest::collection::vec(any::<u8>(), 0..40),
            b in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(a.cmp(&b), encode(&a).cmp(&encode(&b)));
            prop_assert_eq!(decode(&encode(&a)), Some(a.clone()));
            prop_assert_eq!(encode(&a).len(), encoded_len(a.len()));
        }
    }
}
