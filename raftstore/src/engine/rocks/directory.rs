//! Whose directory this is.
//!
//! RocksDB opens any RocksDB: a data engine opened as a log would be given empty families and go
//! on. A small text file says what lives here, written and synced before the database is created:
//!
//! ```text
//!   KIND   "tessera data 1\n"  or  "tessera log 1\n"     name, kind, version of the layout
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::Fault;

const KIND_FILE: &str = "KIND";
const KIND_FILE_NEW: &str = "KIND.new";
const LAYOUT_VERSION: u32 = 1;

/// What lives in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Column families of data.
    Data,
    /// Raft logs.
    Log,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Log => "log",
        }
    }

    fn line(self) -> String {
        format!("tessera {} {LAYOUT_VERSION}\n", self.name())
    }
}

/// A directory that is known to be ours, and of the right kind.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Creates the directory if needed and marks it, or checks the mark that is there.
    pub(super) fn claim(path: &Path, kind: Kind) -> Result<Self, Fault> {
        fs::create_dir_all(path).map_err(io_fault("create a directory for an engine"))?;
        match fs::read_to_string(path.join(KIND_FILE)) {
            Ok(line) if line == kind.line() => {}
            Ok(line) => return Err(refuse(path, kind, &line)),
            Err(error) if error.kind() == ErrorKind::NotFound => mark(path, kind)?,
            Err(error) => return Err(io_fault("read what an engine's directory holds")(error)),
        }
        Ok(Self { path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes its files take on the disk. Files that vanish while counting count nothing: RocksDB
    /// deletes old ones at any time.
    pub(super) fn used_bytes(&self) -> u64 {
        fs::read_dir(&self.path).map_or(0, |entries| {
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|m| taken(&m)).sum()
        })
    }
}

/// Blocks that were allocated ahead count: nobody else can have them.
#[cfg(unix)]
fn taken(metadata: &fs::Metadata) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    std::os::unix::fs::MetadataExt::blocks(metadata) * BLOCK_BYTES
}

#[cfg(not(unix))]
fn taken(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

fn refuse(path: &Path, kind: Kind, line: &str) -> Fault {
    let mut words = line.split_whitespace();
    let detail = match (words.next(), words.next(), words.next()) {
        (Some("tessera"), Some(name), Some(version)) if name == kind.name() => format!(
            "{} was written in layout {version}; this program knows layout {LAYOUT_VERSION}",
            path.display()
        ),
        (Some("tessera"), Some(name), Some(_)) => {
            format!("{} holds a {name} engine; a {} engine was wanted", path.display(), kind.name())
        }
        _ => format!("{} has a {KIND_FILE} file that is not ours", path.display()),
    };
    Fault::WrongIdentity { detail }
}

fn mark(path: &Path, kind: Kind) -> Result<(), Fault> {
    let attempt = "mark an engine's directory";
    for entry in fs::read_dir(path).map_err(io_fault(attempt))? {
        let name = entry.map_err(io_fault(attempt))?.file_name();
        // An earlier start may have stopped between writing the mark and giving it its name.
        if name != KIND_FILE_NEW {
            return Err(Fault::WrongIdentity {
                detail: format!(
                    "{} holds something else (there is {:?}, and no {KIND_FILE} file)",
                    path.display(),
                    name
                ),
            });
        }
    }
    let new = path.join(KIND_FILE_NEW);
    let mut file = File::create(&new).map_err(io_fault(attempt))?;
    file.write_all(kind.line().as_bytes()).map_err(io_fault(attempt))?;
    file.sync_all().map_err(io_fault(attempt))?;
    fs::rename(&new, path.join(KIND_FILE)).map_err(io_fault(attempt))?;
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_fault(attempt))
}

/// Makes an error of the file system a fault.
pub(super) fn io_fault(attempt: &'static str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::Engine { attempt, cause: error.to_string() }
}
