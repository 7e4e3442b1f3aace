//! How far an engine is known to be synced.
//!
//! RocksDB numbers its writes. After each sync the number of the last synced write goes into the
//! file `SYNCED`; at the next opening the recovered database must have got at least that far. If it
//! has not, synced writes are gone (a damaged length that looks like a torn tail, a WAL file cut
//! short or deleted, a restored old copy), and the engine refuses to open.
//!
//! ```text
//!   0          8      12  ...  512        520     524
//!   | number   | crc  |        | number   | crc   |     big-endian; slots are written in turn
//! ```
//!
//! The file itself is not synced after each write: that would double the price of every commit.
//! So it survives a crash of the process exactly, and a loss of power with what the kernel had
//! written back: then it proves less, and never too much, because it is only written after a sync.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;

use super::directory::io_fault;
use crate::error::Fault;

const FILE: &str = "SYNCED";
const SLOT_OFFSETS: [u64; 2] = [0, 512];
const SLOT_BYTES: usize = 12;

/// The file `SYNCED` of one engine.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    highest: Mutex<Highest>,
}

#[derive(Debug)]
struct Highest {
    number: u64,
    next_slot: usize,
}

impl Watermark {
    /// Opens or creates the file in an engine's directory.
    pub(super) fn open(directory: &Path) -> Result<Self, Fault> {
        let attempt = "open an engine's watermark";
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE))
            .map_err(io_fault(attempt))?;
        let slots = SLOT_OFFSETS.map(|offset| {
            let mut slot = [0; SLOT_BYTES];
            // A slot that cannot be read or is torn proves nothing; the other one may.
            file.read_exact_at(&mut slot, offset).ok().and_then(|()| decode(&slot)).unwrap_or(0)
        });
        let next_slot = usize::from(slots[0] >= slots[1]);
        let highest = Highest { number: slots[0].max(slots[1]), next_slot };
        Ok(Self { file, highest: Mutex::new(highest) })
    }

    /// Refuses a database that recovered less than was synced.
    pub(super) fn check(&self, recovered: u64, directory: &Path) -> Result<(), Fault> {
        let synced = self.highest.lock().number;
        if recovered >= synced {
            return Ok(());
        }
        Err(Fault::Corrupt {
            place: directory.display().to_string(),
            detail: format!("synced up to write {synced}, but only {recovered} are left"),
        })
    }

    /// Remembers that everything up to this write is synced. To be called after the sync.
    pub(super) fn raise(&self, number: u64) -> Result<(), Fault> {
        let mut highest = self.highest.lock();
        if number <= highest.number {
            return Ok(());
        }
        self.file
            .write_all_at(&encode(number), SLOT_OFFSETS[highest.next_slot])
            .map_err(io_fault("write an engine's watermark"))?;
        highest.number = number;
        highest.next_slot = 1 - highest.next_slot;
        Ok(())
    }
}

fn encode(number: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let (head, tail) = slot.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    tail.copy_from_slice(&crc32fast::hash(head).to_be_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<u64> {
    let (head, tail) = slot.split_at(8);
    let number = u64::from_be_bytes(head.try_into().expect("the head of a slot has eight bytes"));
    (crc32fast::hash(head).to_be_bytes() == tail).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_remembers_the_highest_number_and_survives_one_torn_slot() {
        let directory = tempfile::tempdir().unwrap();
        let watermark = Watermark::open(directory.path()).unwrap();
        for number in [3, 7, 5, 9] {
            watermark.raise(number).unwrap();
        }
        drop(watermark);
        let watermark = Watermark::open(directory.path()).unwrap();
        assert!(watermark.check(9, directory.path()).is_ok());
        assert!(watermark.check(8, directory.path()).is_err());
        // Nine went to the second slot, as three did before it; tear it.
        watermark.file.write_all_at(&[0xff], 512).unwrap();
        let watermark = Watermark::open(directory.path()).unwrap();
        assert!(watermark.check(7, directory.path()).is_ok());
        assert!(watermark.check(6, directory.path()).is_err());
        // The next number replaces the torn slot, not the good one.
        watermark.raise(8).unwrap();
        watermark.file.write_all_at(&[0xff], 512).unwrap();
        assert!(Watermark::open(directory.path()).unwrap().check(6, directory.path()).is_err());
    }

    #[test]
    fn an_empty_watermark_proves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            Watermark::open(directory.path()).unwrap().check(0, directory.path()).is_ok(),
            "a new engine has recovered nothing"
        );
    }
}
