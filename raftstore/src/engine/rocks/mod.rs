//! RocksDB behind the engine traits: two databases a store, one for data and one for raft logs.
//!
//! ```text
//!   <store>/data/   KIND  SYNCED  and a RocksDB with families default, lock, write, raft
//!   <store>/log/    KIND  SYNCED  and a RocksDB with one family: states and entries
//! ```
//!
//! - `options`: what is tuned, and why; one block cache serves every engine of a process.
//! - `directory`: whose directory this is (`KIND`), and how many bytes it takes.
//! - `watermark`: how far writes are known to be synced (`SYNCED`), so that a log which lost them
//!   is refused.
//! - `wal_audit`: a raft log whose synced part is damaged is refused.
//! - `pinned`: snapshots and iterators that keep their database open; the only unsafe code.
//! - `collection`: how versions that nobody sees any more go.
//! - `data` and `log`: the two engines.
//!
//! Which recovery for which log
//!
//! Both databases have a write-ahead log (WAL), and the two are recovered differently because they
//! promise different things.
//!
//! | | raft log | data |
//! |---|---|---|
//! | a write returns | after fdatasync | after `write(2)`; the raft log can replay it |
//! | torn last record | dropped: it was never acknowledged | dropped |
//! | damage before the tail | refuses to open | keeps what came before; refuses if that was synced |
//! | WAL files | used again, so that a sync need not make them grow | new each time |
//!
//! RocksDB recovers both in its mode `PointInTime`, which opens a raft log with a flipped bit as if
//! everything after the bit had never been written: silent loss of acknowledged writes. RocksDB's
//! stricter modes switch the reuse of files off, because in such a file old bytes follow new ones
//! and look like damage. So we tell the two apart ourselves before RocksDB opens a raft log
//! (`wal_audit`), and the watermark shows for both engines what the bytes of a WAL cannot: that the
//! last write is damaged and not torn, or that a file was cut short.

mod collection;
mod data;
mod directory;
mod log;
mod options;
mod pinned;
mod wal_audit;
mod watermark;

pub use data::{RocksCursor, RocksData, RocksSnapshot};
pub use log::RocksLog;
pub use options::{BlockCache, Options};

use std::path::Path;

use crate::error::Fault;

/// Makes RocksDB's error a fault of ours: damage names the place, anything else the attempt.
fn fault(attempt: &'static str, path: &Path, error: &rocksdb::Error) -> Fault {
    if error.kind() == rocksdb::ErrorKind::Corruption {
        Fault::Corrupt { place: path.display().to_string(), detail: error.to_string() }
    } else {
        Fault::Engine { attempt, cause: error.to_string() }
    }
}

/// Like [`fault`], for the moment of opening, where a held lock is the likeliest cause and
/// RocksDB's words for it are about a file the user never made.
fn open_fault(attempt: &'static str, path: &Path, error: &rocksdb::Error) -> Fault {
    let words = error.to_string();
    if words.contains("lock hold by current process") || words.contains("While lock file") {
        Fault::Engine {
            attempt,
            cause: format!("{} is in use by another store: {words}", path.display()),
        }
    } else {
        fault(attempt, path, error)
    }
}
