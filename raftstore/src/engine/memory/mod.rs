//! Both engines in memory, with a live and a durable image: the disk of proofs.
//!
//! ```text
//!            write                          sync
//!   ───────► live image ─ unsynced writes ────────► durable image
//!                 ▲                                      │
//!                 └──── loss of power: durable + the first k unsynced writes
//! ```
//!
//! A value of [`MemoryData`] or [`MemoryLog`] is a disk, not a process: its clones share one disk,
//! and it outlives the store that writes to it. So a crash of the process needs no call (drop the
//! store, give a clone to the next one: everything written is there), and a loss of power is one
//! call, which keeps as many unsynced writes as the caller's seed decides.
//!
//! Deterministic: no thread, clock, randomness or hashing. Locks are there because the traits allow
//! several threads; in the simulator nobody ever waits for one.
//!
//! Left out: torn writes (a batch is there or not: both promise atomicity, and the sweep over cut
//! WAL files shows that RocksDB keeps the promise) and bits that rot (also shown on real files).

mod data;
mod log;
mod page_map;

pub use data::{MemoryCursor, MemoryData, MemorySnapshot};
pub use log::MemoryLog;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Fault;

/// What a disk has done since it was created; the simulator reads them, nothing decides by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches written.
    pub writes: u64,
    /// Syncs asked for.
    pub syncs: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Batches that were gone after a loss of power.
    pub lost_writes: u64,
}

/// Lets so many writes and syncs pass and makes every later one a fault. Clones burn together, so that
/// the two disks of a store fail at one moment.
#[derive(Clone, Debug)]
pub struct Fuse(Arc<Mutex<u64>>);

impl Fuse {
    /// A fuse that blows after so many operations.
    pub fn new(operations: u64) -> Self {
        Self(Arc::new(Mutex::new(operations)))
    }

    /// Counts one operation; whether it must fail.
    fn is_blown(&self) -> bool {
        let mut left = self.0.lock();
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                false
            }
            None => true,
        }
    }
}

/// What a broken disk answers.
fn broken(attempt: &'static str) -> Fault {
    Fault::Engine { attempt, cause: "the disk is broken".to_owned() }
}
