//! The two implementations of each engine, held against each other and against damage.
//!
//! - `mirror_data`, `mirror_log`: random operations on memory and RocksDB at once; every answer is
//!   the same, also after reopening.
//! - `crashes`: random writes and losses of power; what is applied and what is there agree.
//! - `damaged_log`, `damaged_data`: WAL files cut and flipped at many places; nothing synced is lost
//!   in silence.
//! - `concurrent_installs`: snapshots are installed while others write; order and locks stay whole.
//! - `directories`: an engine opens its own directory and no other.
//! - `garbage`: old versions go, and nobody who may read notices.
//! - `layout`: which keys lie where on the disk, byte for byte.
//! - `snapshot_streams`: a region's data as a stream, whole and damaged.

#![allow(clippy::unwrap_used, reason = "a test that cannot prepare its world has failed")]

mod concurrent_installs;
mod crashes;
mod damaged_data;
mod damaged_log;
mod directories;
mod garbage;
mod layout;
mod mirror_data;
mod mirror_log;
mod snapshot_streams;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::KeyRange;
use raftstore::engine::rocks::{BlockCache, Options};
use raftstore::engine::{ColumnFamily, Cursor, Snapshot};

/// Buffers so small that flushes and files happen in a test.
fn small_options() -> Options {
    Options {
        cache: BlockCache::new(1 << 20),
        write_buffer_bytes: 64 << 10,
        open_files_max: 32,
        background_jobs: 2,
    }
}

/// Every pair of a range.
fn pairs<S: Snapshot>(snapshot: &S, cf: ColumnFamily, range: &KeyRange) -> Vec<(Bytes, Bytes)> {
    let mut cursor = snapshot.cursor(cf, range);
    let mut pairs = Vec::new();
    let mut more = cursor.seek_to_first().unwrap();
    while more {
        pairs.push((Bytes::copy_from_slice(cursor.key()), Bytes::copy_from_slice(cursor.value())));
        more = cursor.next().unwrap();
    }
    pairs
}

/// A copy of an engine's closed directory.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The newest WAL file that holds anything.
fn wal_file(directory: &Path) -> PathBuf {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .max()
        .unwrap()
}
