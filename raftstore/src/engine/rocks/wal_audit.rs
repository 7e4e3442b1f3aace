//! Is what ends a WAL file a torn tail, or damage?
//!
//! WAL files of the raft log are used again: a sync into a file that does not grow costs the file system no
//! journal entry. The price is that old bytes follow new ones, so RocksDB takes the first record that does
//! not hold for the end and opens the log without a word (`PointInTime`). Before it gets the chance, we look
//! ourselves.
//!
//! ```text
//!   ├ A ┤├ B ┤├ C ┤ xxxxx ├ older ┤├ old     C was the last: this is the tail
//!   ├ A ┤├ B ┤ xxxxx ├ D ┤├ older ┤├ old     D was written after a synced C: C is damaged
//! ```
//!
//! **The proof.** The log engine syncs every write before it makes the next (`log.rs`, one lock round a write).
//! So where a later write has begun, all earlier ones were on the disk. A write is one record, or a first, middle
//! ones and a last. Behind a bad place a whole record that *begins* a write and carries this file's number
//! proves damage; a middle or a last one does not, since pages of one write reach the disk in any order.
//!
//! What remains is the last write itself: damaged, it looks like a torn one. The watermark knows (`watermark`).
//!
//! **Files that are needed no more** prove nothing. A file is used again by giving it another name. Power may fail
//! when its first bytes are those of the new file and its name on the disk is still the old one; or a bit in it
//! flips. RocksDB passes such a file over, so when one looks damaged we ask RocksDB whether it needs it: by opening
//! the database to read only, which changes nothing.
//!
//! **What clients send** cannot pass for a record: values are written under a mask that they do not know
//! (`directory`).
//!
//! **Format** (RocksDB, `db/log_format.h`): blocks of 32 KiB; a record never crosses from one into the next, and
//! what is too short for a header is left zero.
//!
//! ```text
//!   0        4       6      7         11
//!   | crc32c | bytes | type | file    | payload      little-endian; types 5-8, 11, 131
//!   | crc32c | bytes | type | payload                types 1-4, 9, 10, 130: a file that is not used again
//! ```
//!
//! The checksum covers everything behind the length and is masked: turned right by 15 bits, plus a constant. The
//! file is the lower half of the number in its name; that is how old bytes are told apart.

use std::fs;
use std::path::Path;

use rocksdb::{DB, Options, properties};

use super::directory::io_fault;
use super::open_fault;
use crate::error::Fault;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const FILE_NUMBER_BYTES: usize = 4;
const CRC_MASK: u32 = 0xa282_ead8;

/// A record whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    bytes: usize,
    begins_a_write: bool,
}

/// Refuses a log of which a synced write is damaged. To be called before RocksDB opens it.
pub(super) fn audit(directory: &Path, options: &Options) -> Result<(), Fault> {
    let attempt = "read a write-ahead log";
    for entry in fs::read_dir(directory).map_err(io_fault(attempt))? {
        let path = entry.map_err(io_fault(attempt))?.path();
        let Some(number) = number_of(&path) else { continue };
        let bytes = fs::read(&path).map_err(io_fault(attempt))?;
        if let Some((bad, later)) = damage(&bytes, number)
            && number >= first_needed(directory, options)?
        {
            return Err(Fault::Corrupt {
                place: path.display().to_string(),
                detail: format!(
                    "damaged at byte {bad}: a write that was synced later is whole at byte {later}"
                ),
            });
        }
    }
    Ok(())
}

/// The number of the oldest file that RocksDB needs.
fn first_needed(directory: &Path, options: &Options) -> Result<u64, Fault> {
    let attempt = "ask which write-ahead logs are needed";
    let fault = |error| open_fault(attempt, directory, &error);
    let db = DB::open_for_read_only(options, directory, false).map_err(fault)?;
    // Unknown, all are.
    let first = db.property_int_value(properties::MIN_LOG_NUMBER_TO_KEEP).map_err(fault)?;
    Ok(first.unwrap_or(0))
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}

/// Where a file is damaged, and where the proof of it is.
fn damage(file: &[u8], number: u64) -> Option<(usize, usize)> {
    // All records of a file are of one form. What looks like the other one is not worth a checksum: this is
    // asked of every byte of a tail.
    let is_older_form = record(rest_of_block(file, 0), None).is_some();
    let number = (!is_older_form).then_some(number as u32);
    let bad = tail(file, number)?;
    let later = (bad + 1..file.len()).find(|at| {
        let rest = rest_of_block(file, *at);
        record(rest, number).is_some_and(|whole| whole.begins_a_write)
    })?;
    Some((bad, later))
}

/// Where the first record that does not hold would be; none when all do to the end.
fn tail(file: &[u8], number: Option<u32>) -> Option<usize> {
    let mut at = 0;
    while at < file.len() {
        let rest = rest_of_block(file, at);
        if let Some(whole) = record(rest, number) {
            at += whole.bytes;
        } else if rest.len() < HEADER_BYTES + FILE_NUMBER_BYTES
            && rest.iter().all(|byte| *byte == 0)
        {
            at += rest.len();
        } else {
            return Some(at);
        }
    }
    None
}

fn rest_of_block(file: &[u8], at: usize) -> &[u8] {
    let end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
    &file[at..end.min(file.len())]
}

/// The record at the beginning of these bytes, if there is a whole one of this file; without a number it is
/// of the form that has none.
fn record(bytes: &[u8], number: Option<u32>) -> Option<Whole> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let begins_a_write = matches!(kind, 1 | 2 | 5 | 6);
    let header_bytes = match (kind, number) {
        (1..=4 | 9 | 10 | 130, None) => HEADER_BYTES,
        (5..=8 | 11 | 131, Some(number))
            if rest.first_chunk::<FILE_NUMBER_BYTES>() == Some(&number.to_le_bytes()) =>
        {
            HEADER_BYTES + FILE_NUMBER_BYTES
        }
        _ => return None,
    };
    let length = header_bytes + usize::from(u16::from_le_bytes([l0, l1]));
    let covered = bytes.get(HEADER_BYTES - 1..length)?;
    let crc = crc32c::crc32c(covered).rotate_right(15).wrapping_add(CRC_MASK);
    (crc == u32::from_le_bytes([c0, c1, c2, c3])).then_some(Whole { bytes: length, begins_a_write })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u32 = 21;
    const FULL: u8 = 5;
    const FIRST: u8 = 6;
    const LAST: u8 = 8;

    fn sealed(kind: u8, number: u32, payload: &[u8]) -> Vec<u8> {
        let mut covered = vec![kind];
        covered.extend(number.to_le_bytes());
        covered.extend(payload);
        let crc = crc32c::crc32c(&covered).rotate_right(15).wrapping_add(CRC_MASK);
        let mut record = crc.to_le_bytes().to_vec();
        record.extend((payload.len() as u16).to_le_bytes());
        record.extend(covered);
        record
    }

    fn file(records: &[Vec<u8>]) -> Vec<u8> {
        records.concat()
    }

    #[test]
    fn a_tail_of_old_records_is_no_damage() {
        let mut bytes = file(&[sealed(FULL, NUMBER, b"a"), sealed(FULL, NUMBER, b"b")]);
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None);
        bytes.extend(file(&[sealed(FULL, 20, b"older"), sealed(FULL, 20, b"older still")]));
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None);
        // The new bytes ended in the middle of an old record.
        bytes.drain(24..29);
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None);
        bytes.extend([0; 100]);
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None);
    }

    #[test]
    fn bug_s3_a_damaged_record_before_a_later_write_is_told_from_a_tail() {
        let records = [
            sealed(FULL, NUMBER, b"a"),
            sealed(FULL, NUMBER, b"damaged"),
            sealed(FULL, NUMBER, b"c"),
            sealed(FULL, 20, b"older"),
        ];
        let second = records[0].len();
        let third = second + records[1].len();
        for byte in 0..third {
            let mut bytes = file(&records);
            bytes[byte] ^= 1;
            let found = if byte < second { (0, second) } else { (second, third) };
            assert_eq!(damage(&bytes, u64::from(NUMBER)), Some(found), "byte {byte}");
        }
        // Damaged, the last write is as good as torn.
        let mut bytes = file(&records);
        bytes[third] ^= 1;
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None);
    }

    #[test]
    fn pages_of_a_torn_write_may_come_in_any_order() {
        let begin = sealed(FIRST, NUMBER, &[7; BLOCK_BYTES - HEADER_BYTES - FILE_NUMBER_BYTES]);
        assert_eq!(begin.len(), BLOCK_BYTES);
        let mut bytes = file(&[begin, sealed(LAST, NUMBER, b"the end")]);
        bytes[100] ^= 1;
        assert_eq!(damage(&bytes, u64::from(NUMBER)), None, "it may never have been synced");
        let later = bytes.len();
        bytes.extend(sealed(FULL, NUMBER, b"next"));
        assert_eq!(damage(&bytes, u64::from(NUMBER)), Some((0, later)), "it was");
    }
}
