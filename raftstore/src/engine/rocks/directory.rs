//! Whose directory this is.
//!
//! RocksDB opens any RocksDB: a data engine opened as a log would be given empty families and go
//! on. A small text file says what lives here, written and synced before the database is created:
//!
//! ```text
//!   KIND   "tessera data 1\n"                 name, kind, version of the layout
//!          "tessera log 2 0f1e…\n"            … and the mask of the log's values, in hex
//!          "tessera log 1\n"                  an older one, whose values have none
//! ```
//!
//! **The mask.** A WAL file that is used again ends in old bytes, and a reader takes for a record what looks like
//! one. Values are what clients sent; somebody might send what looks like records. So a log lays a number over
//! its values that nobody else knows, chosen when the directory is made ([`Mask`]).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::Fault;

const KIND_FILE: &str = "KIND";
const KIND_FILE_NEW: &str = "KIND.new";

/// Bytes of a mask.
const MASK_BYTES: usize = 16;

/// What is laid over values, again and again; all zero leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask([u8; MASK_BYTES]);

impl Mask {
    fn chosen() -> Self {
        Self(rand::random())
    }

    /// Lays it over these bytes, or takes it off.
    pub(super) fn lay_over(self, bytes: &mut [u8]) {
        let mask = u128::from_ne_bytes(self.0);
        let (chunks, rest) = bytes.as_chunks_mut::<MASK_BYTES>();
        for chunk in chunks {
            *chunk = (u128::from_ne_bytes(*chunk) ^ mask).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.0) {
            *byte ^= mask;
        }
    }

    fn to_hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    fn from_hex(word: &str) -> Option<Self> {
        let is_whole = word.len() == 2 * MASK_BYTES;
        let number = u128::from_str_radix(word, 16).ok().filter(|_| is_whole)?;
        Some(Self(number.to_be_bytes()))
    }
}

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

    /// The version of its layout.
    fn layout(self) -> u32 {
        match self {
            Self::Data => 1,
            Self::Log => 2,
        }
    }

    /// What a new directory is marked with.
    fn line(self) -> String {
        let (name, layout) = (self.name(), self.layout());
        match self {
            Self::Data => format!("tessera {name} {layout}\n"),
            Self::Log => format!("tessera {name} {layout} {}\n", Mask::chosen().to_hex()),
        }
    }

    /// The mask that a mark tells, if it is a mark of this kind.
    fn mask_in(self, line: &str) -> Option<Mask> {
        let words: Vec<&str> = line.strip_suffix('\n')?.split(' ').collect();
        match (self, words.as_slice()) {
            (Self::Data, ["tessera", "data", "1"]) | (Self::Log, ["tessera", "log", "1"]) => {
                Some(Mask::default())
            }
            (Self::Log, ["tessera", "log", "2", mask]) => Mask::from_hex(mask),
            (Self::Data | Self::Log, _) => None,
        }
    }
}

/// A directory that is known to be ours, and of the right kind.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    mask: Mask,
}

impl Directory {
    /// Creates the directory if needed and marks it, or checks the mark that is there.
    pub(super) fn claim(path: &Path, kind: Kind) -> Result<Self, Fault> {
        fs::create_dir_all(path).map_err(io_fault("create a directory for an engine"))?;
        let line = match fs::read_to_string(path.join(KIND_FILE)) {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::NotFound => mark(path, kind)?,
            Err(error) => return Err(io_fault("read what an engine's directory holds")(error)),
        };
        let mask = kind.mask_in(&line).ok_or_else(|| refuse(path, kind, &line))?;
        Ok(Self { path: path.to_owned(), mask })
    }

    /// What is laid over the values of a log.
    pub(super) fn mask(&self) -> Mask {
        self.mask
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
        (Some("tessera"), Some(name), Some(version))
            if name == kind.name() && version != kind.layout().to_string() =>
        {
            format!(
                "{} was written in layout {version}; this program knows layout {}",
                path.display(),
                kind.layout()
            )
        }
        (Some("tessera"), Some(name), Some(_)) if name != kind.name() => {
            format!("{} holds a {name} engine; a {} engine was wanted", path.display(), kind.name())
        }
        _ => format!("{} has a {KIND_FILE} file that is not ours", path.display()),
    };
    Fault::WrongIdentity { detail }
}

/// Marks a new directory; returns the mark.
fn mark(path: &Path, kind: Kind) -> Result<String, Fault> {
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
    let line = kind.line();
    file.write_all(line.as_bytes()).map_err(io_fault(attempt))?;
    file.sync_all().map_err(io_fault(attempt))?;
    fs::rename(&new, path.join(KIND_FILE)).map_err(io_fault(attempt))?;
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_fault(attempt))?;
    Ok(line)
}

/// Makes an error of the file system a fault.
pub(super) fn io_fault(attempt: &'static str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::Engine { attempt, cause: error.to_string() }
}
