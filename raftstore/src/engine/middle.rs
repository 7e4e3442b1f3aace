//! Finding the middle of a range by asking for sizes.
//!
//! The engine can say, without reading, roughly how many bytes lie before a place. The place with half
//! of them before it is found by bisection over *all* byte strings between two keys: each step halves
//! the part of the key space that is left, whatever keys are really there.

use bytes::Bytes;
use proto::KeyRange;

use super::{ColumnFamily, Cursor as _, Snapshot};
use crate::error::Fault;

/// Steps of a bisection. At the limit the best place so far is taken. Sixteen bytes beyond what the first
/// and the last key have in common are told apart by then.
const STEPS_MAX: usize = 128;
/// Close enough to the half, in this part of all bytes.
const CLOSE_ENOUGH: u64 = 16;
/// Not worth calling a middle when further off, in this part of all bytes.
const TOO_FAR: u64 = 4;

/// The first and the last key of a range, over all data families.
pub(super) fn ends(
    snapshot: &impl Snapshot,
    range: &KeyRange,
) -> Result<Option<(Bytes, Bytes)>, Fault> {
    let mut ends: Option<(Bytes, Bytes)> = None;
    for cf in ColumnFamily::DATA {
        let mut cursor = snapshot.cursor(cf, range);
        if !cursor.seek_to_first()? {
            continue;
        }
        let first = Bytes::copy_from_slice(cursor.key());
        cursor.seek_to_last()?;
        let last = Bytes::copy_from_slice(cursor.key());
        ends = Some(match ends {
            Some((low, high)) => (low.min(first), high.max(last)),
            None => (first, last),
        });
    }
    Ok(ends)
}

/// The place between two keys with about half of the bytes of `first..=last` before it; `None` when no
/// place comes near.
pub(super) fn find(
    first: &Bytes,
    last: &Bytes,
    bytes_in: impl Fn(&KeyRange) -> Result<u64, Fault>,
) -> Result<Option<Bytes>, Fault> {
    let all = bytes_in(&KeyRange { start: first.clone(), end: Some(last.clone()) })?;
    let half = all / 2;
    let (mut low, mut high) = (first.clone(), last.clone());
    let mut best: Option<(u64, Bytes)> = None;
    for _ in 0..STEPS_MAX {
        let Some(middle) = between(&low, &high) else { break };
        let before = bytes_in(&KeyRange { start: first.clone(), end: Some(middle.clone()) })?;
        let off = before.abs_diff(half);
        if best.as_ref().is_none_or(|(least, _)| off < *least) {
            best = Some((off, middle.clone()));
        }
        if off <= all / CLOSE_ENOUGH {
            break;
        }
        if before < half {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(best.filter(|(off, _)| *off < all / TOO_FAR).map(|(_, place)| place))
}

/// A string between two others, about in the middle of the first eight bytes in which they differ; `None`
/// when there is none that is not very long.
fn between(low: &[u8], high: &[u8]) -> Option<Bytes> {
    let common = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    let (low_number, high_number) = (number_at(low, common), number_at(high, common));
    let mut out = low[..common].to_vec();
    let middle = match high_number.checked_sub(low_number)? {
        0 => return None,
        1 => {
            // What lies between begins like the one or like the other.
            let seam = [&high[..common], &high_number.to_be_bytes()].concat();
            if seam.as_slice() < high {
                return Some(seam.into());
            }
            out.extend_from_slice(&low_number.to_be_bytes());
            let rest = number_at(low, common + 8);
            rest + (u64::MAX - rest) / 2
        }
        wide => low_number + wide / 2,
    };
    out.extend_from_slice(&middle.to_be_bytes());
    (low < out.as_slice() && out.as_slice() < high).then(|| out.into())
}

/// Eight bytes from here on as a number, as if zeros followed.
fn number_at(key: &[u8], at: usize) -> u64 {
    let rest = key.get(at..).unwrap_or_default();
    let mut bytes = [0; 8];
    let length = rest.len().min(8);
    bytes[..length].copy_from_slice(&rest[..length]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn middle_of(keys: &[Vec<u8>]) -> Option<Bytes> {
        let (first, last) = (keys[0].clone().into(), keys[keys.len() - 1].clone().into());
        find(&first, &last, |range| {
            Ok(keys.iter().filter(|key| range.contains(key)).count() as u64 * 100)
        })
        .unwrap()
    }

    #[test]
    fn the_middle_is_found_whatever_the_keys_look_like() {
        let families: [fn(u32) -> Vec<u8>; 4] = [
            |n| format!("user{n:012}").into_bytes(),
            |n| n.to_be_bytes().to_vec(),
            |n| [&[7; 40][..], &n.to_be_bytes()[..]].concat(),
            |n| format!("t{:03}_r{n}", n / 10).into_bytes(),
        ];
        for key in families {
            let keys: Vec<Vec<u8>> = (0..200).map(key).collect();
            let middle = middle_of(&keys).unwrap();
            let before = keys.iter().filter(|key| **key < middle).count();
            assert!((75..=125).contains(&before), "{before} before {middle:?}");
        }
    }

    #[test]
    fn one_heavy_key_has_no_middle() {
        let (first, last) = (Bytes::from("a"), Bytes::from("z"));
        let heavy = |range: &KeyRange| Ok(if range.contains(b"a") { 1000 } else { 0 });
        assert_eq!(find(&first, &last, heavy).unwrap(), None);
        assert_eq!(find(&first, &first, heavy).unwrap(), None);
    }

    #[test]
    fn what_lies_between_lies_between() {
        let keys: [&[u8]; 7] =
            [b"", b"\0", b"a", b"a\0\0\0\0\0\0\0\0\0", b"b", b"b\xff", b"\xff\xff"];
        for (at, low) in keys.iter().enumerate() {
            for high in &keys[at + 1..] {
                if let Some(middle) = between(low, high) {
                    assert!(
                        *low < &middle[..] && &middle[..] < *high,
                        "{low:?} {middle:?} {high:?}"
                    );
                }
            }
        }
        assert!(between(b"a", b"b").is_some() && between(b"a", b"a").is_none());
    }
}
