//! Versions of transactional keys that nobody will see again.
//!
//! Below the *safe point* nobody reads and nobody begins to write; so of a key's records that lie at or
//! before it only the newest Put matters:
//!
//! ```text
//!            newest                                              oldest
//!   k@90 Put   k@80 Rollback  ┊  k@70 Lock   k@60 Put   k@50 Delete   k@40 Put
//!   stays      stays          ┊  goes        stays      goes          goes
//!                         safe point 75
//! ```
//!
//! If the newest of them is a Delete, it goes too, but never before the older ones have: they would come
//! back. A record whose fence lies at or before the safe point counts as a Delete: the version that hid it
//! may be gone. A value that stands apart goes with its record.
//!
//! A [`Sieve`] judges records in key order. It may be shown only some of a key's records: a record goes
//! because of a newer one that is there, which hides the older one from every reader that is left. What
//! cannot be judged so, a value apart or the last Delete, is left to [`sweep`], which looks at all of a
//! key's records at once.
//!
//! Bytes are TiKV's: `enc(key) ‖ !commit_ts` → kind · varint start_ts · tagged fields. What does not look
//! so (raw pairs may lie in any family) stays.

use bytes::{BufMut, Bytes, BytesMut};
use proto::{KeyRange, memcomparable};

use super::{ColumnFamily, Cursor as _, Snapshot, WriteBatch};
use crate::error::Fault;

/// Where an engine remembers its safe point, in the family of what a store knows of itself: eight bytes,
/// most significant first.
pub(crate) const SAFE_POINT_KEY: [u8; 2] = [0x01, 0x03];

/// The safe point in a record; 0 without one. Eight bytes are always written.
pub(super) fn remembered(record: Option<&[u8]>) -> Result<u64, Fault> {
    let Some(record) = record else { return Ok(0) };
    record.try_into().map(u64::from_be_bytes).map_err(|_| Fault::Corrupt {
        place: "the record of the safe point".to_owned(),
        detail: format!("it has {} bytes instead of 8", record.len()),
    })
}

/// The record of a safe point.
pub(super) fn remember(safe_point: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let record = safe_point.to_be_bytes().to_vec();
    batch.put(ColumnFamily::Meta, &SAFE_POINT_KEY[..], record);
    batch
}

/// Bytes of a timestamp behind an encoded key.
const VERSION_BYTES: usize = 8;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody may see it.
    Keep,
    /// It goes.
    Drop,
    /// It goes, with the value of this start timestamp.
    DropWithValue(u64),
    /// It hides older records and goes when they have gone.
    DropLast,
}

/// Judges the records of the write family, shown in key order.
#[derive(Clone, Debug)]
pub struct Sieve {
    safe_point: u64,
    /// The encoded key of the record before.
    key: Vec<u8>,
    is_key: bool,
    is_hidden: bool,
}

impl Sieve {
    /// A sieve for this safe point; 0 keeps everything.
    pub fn new(safe_point: u64) -> Self {
        Self { safe_point, key: Vec::new(), is_key: false, is_hidden: false }
    }

    /// Judges the next record.
    pub fn look(&mut self, engine_key: &[u8], record: &[u8]) -> Verdict {
        if self.safe_point == 0 {
            return Verdict::Keep;
        }
        let Some((encoded, commit_ts)) = split_version(engine_key) else { return Verdict::Keep };
        if encoded != self.key {
            self.key.clear();
            self.key.extend_from_slice(encoded);
            self.is_key = memcomparable::decode(encoded).is_some();
            self.is_hidden = false;
        }
        if !self.is_key || commit_ts > self.safe_point {
            return Verdict::Keep;
        }
        let Some(record) = Record::parse(record) else { return Verdict::Keep };
        if !record.is_data {
            return Verdict::Drop;
        }
        if std::mem::replace(&mut self.is_hidden, true) {
            return match record.value_apart {
                true => Verdict::DropWithValue(record.start_ts),
                false => Verdict::Drop,
            };
        }
        let is_dead = !record.is_put || record.is_fenced_at(self.safe_point);
        if is_dead { Verdict::DropLast } else { Verdict::Keep }
    }
}

/// What of a record matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// A Put or a Delete: readers see it.
    is_data: bool,
    is_put: bool,
    /// Its value stands in the default family.
    pub(crate) value_apart: bool,
    pub(crate) start_ts: u64,
    fence: Option<u64>,
}

impl Record {
    /// `None` when these bytes are no record.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        let is_put = kind == b'P';
        let is_data = is_put || kind == b'D';
        if !is_data && kind != b'L' && kind != b'R' {
            return None;
        }
        let start_ts = take_varint(&mut rest)?;
        let (mut is_short, mut fence) = (false, None);
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                b'v' => {
                    let (&len, after) = rest.split_first()?;
                    rest = after.get(usize::from(len)..)?;
                    is_short = true;
                }
                b'R' => {}
                b'F' => fence = Some(take_number(&mut rest)?),
                b'l' => {
                    take_number(&mut rest)?;
                    take_varint(&mut rest)?;
                }
                b'S' => {
                    take_varint(&mut rest)?;
                }
                _ => return None,
            }
        }
        Some(Self { is_data, is_put, value_apart: is_put && !is_short, start_ts, fence })
    }

    fn is_fenced_at(&self, ts: u64) -> bool {
        self.fence.is_some_and(|fence| 0 < fence && fence <= ts)
    }
}

fn take_number(input: &mut &[u8]) -> Option<u64> {
    let (head, rest) = input.split_first_chunk::<8>()?;
    *input = rest;
    Some(u64::from_be_bytes(*head))
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// An engine key with a version taken apart; `None` when it is too short.
pub(crate) fn split_version(engine_key: &[u8]) -> Option<(&[u8], u64)> {
    let (encoded, version) = engine_key.split_last_chunk::<VERSION_BYTES>()?;
    Some((encoded, !u64::from_be_bytes(*version)))
}

/// A version of an encoded key.
pub(crate) fn versioned(encoded: &[u8], ts: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(encoded.len() + VERSION_BYTES);
    key.put_slice(encoded);
    key.put_u64(!ts);
    key.freeze()
}

/// All versions of an encoded key.
pub(crate) fn versions_of(encoded: &[u8]) -> KeyRange {
    let mut end = BytesMut::with_capacity(encoded.len() + VERSION_BYTES + 1);
    end.put_slice(encoded);
    end.put_u64(u64::MAX);
    end.put_u8(0);
    KeyRange { start: Bytes::copy_from_slice(encoded), end: Some(end.freeze()) }
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Removes it.
    pub batch: WriteBatch,
    /// Records that go.
    pub garbage: u64,
    /// Records looked at.
    pub looked: u64,
    /// Where to go on; `None` when the whole range was looked at.
    pub next: Option<Bytes>,
}

/// Looks for garbage in a range, all of a key's records at once, and ends between two keys after about
/// so many records.
pub fn sweep(
    view: &impl Snapshot,
    range: &KeyRange,
    safe_point: u64,
    looked_max: u64,
) -> Result<Sweep, Fault> {
    let mut sieve = Sieve::new(safe_point);
    let mut found = Sweep::default();
    let mut cursor = view.cursor(ColumnFamily::Write, range);
    let mut on_key = cursor.seek_to_first()?;
    let mut last = Vec::new();
    while on_key {
        let encoded = split_version(cursor.key()).map_or(cursor.key(), |(encoded, _)| encoded);
        if encoded != last {
            if found.looked >= looked_max {
                found.next = Some(Bytes::copy_from_slice(cursor.key()));
                return Ok(found);
            }
            last = encoded.to_vec();
        }
        found.looked += 1;
        let verdict = sieve.look(cursor.key(), cursor.value());
        if verdict != Verdict::Keep {
            found.garbage += 1;
            found.batch.delete(ColumnFamily::Write, Bytes::copy_from_slice(cursor.key()));
        }
        if let Verdict::DropWithValue(start_ts) = verdict {
            found.batch.delete(ColumnFamily::Default, versioned(&last, start_ts));
        } else if verdict == Verdict::DropLast
            && let Some(record) = Record::parse(cursor.value()).filter(|r| r.value_apart)
        {
            found.batch.delete(ColumnFamily::Default, versioned(&last, record.start_ts));
        }
        on_key = cursor.next()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DataEngine as _;
    use crate::engine::memory::MemoryData;

    fn key(ts: u64) -> Bytes {
        versioned(&memcomparable::encode(b"k"), ts)
    }

    /// The verdicts of these records, newest first.
    fn judged(safe_point: u64, records: &[(u64, &[u8])]) -> Vec<Verdict> {
        let mut sieve = Sieve::new(safe_point);
        records.iter().map(|(ts, record)| sieve.look(&key(*ts), record)).collect()
    }

    #[test]
    fn the_picture_at_the_head() {
        use Verdict::{Drop, Keep};
        let records: [(u64, &[u8]); 6] = [
            (90, b"P\x01v\x01x"),
            (80, b"R\x50"),
            (70, b"L\x02"),
            (60, b"P\x03v\x01x"),
            (50, b"D\x04"),
            (40, b"P\x05v\x01x"),
        ];
        assert_eq!(judged(75, &records), [Keep, Keep, Drop, Keep, Drop, Drop]);
        assert_eq!(judged(0, &records), [Keep; 6]);
        assert_eq!(judged(59, &records)[..5], [Keep, Keep, Keep, Keep, Verdict::DropLast]);
    }

    #[test]
    fn a_value_apart_goes_with_its_record_and_the_dead_go_last() {
        let records: [(u64, &[u8]); 2] = [(60, b"D\x03"), (50, b"P\x07")];
        assert_eq!(judged(60, &records), [Verdict::DropLast, Verdict::DropWithValue(7)]);
        // Rewritten for a rollback at its timestamp when a newer version stood at 55 already.
        let fenced = b"P\x03v\x01xRF\0\0\0\0\0\0\0\x37";
        assert_eq!(judged(60, &[(50, fenced)]), [Verdict::DropLast]);
        assert_eq!(judged(54, &[(50, fenced)]), [Verdict::Keep]);
        let not_fenced = b"P\x03v\x01xRF\0\0\0\0\0\0\0\0";
        assert_eq!(judged(60, &[(50, not_fenced)]), [Verdict::Keep]);
    }

    #[test]
    fn what_is_no_record_stays() {
        let mut sieve = Sieve::new(u64::MAX);
        let strange: [(&[u8], &[u8]); 5] = [
            (b"short", b"R\x01"),
            (b"no encoding....!!", b"R\x01"),
            (&key(5), b""),
            (&key(4), b"X\x01"),
            (&key(3), b"R\x01z"),
        ];
        for (engine_key, value) in strange {
            assert_eq!(sieve.look(engine_key, value), Verdict::Keep, "{engine_key:?}");
        }
    }

    #[test]
    fn a_sweep_ends_between_two_keys() {
        let data = MemoryData::new();
        let mut batch = WriteBatch::new();
        for name in [b"a", b"b"] {
            for ts in 1..=5 {
                let key = versioned(&memcomparable::encode(name), ts);
                batch.put(ColumnFamily::Write, key, &b"D\x00"[..]);
            }
        }
        data.write(batch).unwrap();
        let view = data.snapshot();
        let first = sweep(&view, &KeyRange::all(), 9, 2).unwrap();
        assert_eq!((first.looked, first.garbage), (5, 5));
        let rest = KeyRange { start: first.next.unwrap(), end: None };
        let second = sweep(&view, &rest, 9, 100).unwrap();
        assert_eq!((second.garbage, second.next), (5, None));
    }
}
