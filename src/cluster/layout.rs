//! What a data directory holds, so that a later start goes on from it.
//!
//! ```text
//! DIR/playground.json        how many of what, on which ports, under which API version
//! DIR/scheduler-1/ …         one folder a scheduler member
//! DIR/store-1/ …             one folder a store
//! ```
//!
//! Ports are kept because members and stores know each other by address.

use std::path::{Path, PathBuf};

use kv::ApiVersion;
use serde::{Deserialize, Serialize};

const FILE: &str = "playground.json";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be read or written.
    #[error("{attempt} {path}: {cause}")]
    Access {
        /// As a verb phrase.
        attempt: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        cause: std::io::Error,
    },
    /// The file is not what was written there.
    #[error("{path} is damaged: {cause}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The directory holds another kind of cluster than the one asked for.
    #[error("{directory} holds a cluster with {found}; asked for {asked}")]
    Different {
        /// Which directory.
        directory: PathBuf,
        /// What it holds.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// The directory is in use for something else.
    #[error("{directory} is not empty and holds no {FILE}: not a directory of a playground")]
    Foreign {
        /// Which directory.
        directory: PathBuf,
    },
}

/// The contents of `playground.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// As on the command line: `1`, `1ttl` or `2`.
    pub api_version: String,
    /// Client and peer port of each scheduler member.
    pub schedulers: Vec<(u16, u16)>,
    /// Service and status port of each store.
    pub stores: Vec<(u16, u16)>,
}

/// The API version as on the command line.
pub fn name_of(api_version: ApiVersion) -> &'static str {
    match api_version {
        ApiVersion::V1 => "1",
        ApiVersion::V1Ttl => "1ttl",
        ApiVersion::V2 => "2",
    }
}

/// The folder of a scheduler member, counted from 1.
pub fn scheduler_folder(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("scheduler-{number}"))
}

/// The folder of a store, counted from 1.
pub fn store_folder(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("store-{number}"))
}

impl Layout {
    /// What the directory holds; `None` when it is new, an error when it holds anything else.
    pub fn load(
        directory: &Path,
        stores: u8,
        schedulers: u8,
        api_version: ApiVersion,
    ) -> Result<Option<Self>, LayoutError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let used = std::fs::read_dir(directory).is_ok_and(|mut all| all.next().is_some());
                if used {
                    return Err(LayoutError::Foreign { directory: directory.to_owned() });
                }
                return Ok(None);
            }
            Err(cause) => return Err(LayoutError::Access { attempt: "read", path, cause }),
        };
        let layout: Self = serde_json::from_str(&text)
            .map_err(|cause| LayoutError::Damaged { path, cause: cause.to_string() })?;
        let describe = |stores: usize, schedulers: usize, api: &str| {
            format!("{stores} stores, {schedulers} scheduler members and API version {api}")
        };
        let found = describe(layout.stores.len(), layout.schedulers.len(), &layout.api_version);
        let asked = describe(stores.into(), schedulers.into(), name_of(api_version));
        if found != asked {
            let directory = directory.to_owned();
            return Err(LayoutError::Different { directory, found, asked });
        }
        Ok(Some(layout))
    }

    /// Writes the file so that it is there whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<(), LayoutError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self).expect("ports and names are plain JSON");
        std::fs::create_dir_all(directory)
            .and_then(|()| write_whole(&path, text.as_bytes()))
            .map_err(|cause| LayoutError::Access { attempt: "write", path, cause })
    }
}

/// Writes a file under another name and renames it, so that readers see all of it or nothing.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    std::fs::write(&beside, bytes)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_comes_back_and_a_different_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let load = |stores| Layout::load(folder.path(), stores, 1, ApiVersion::V2);
        assert_eq!(load(2).unwrap(), None);
        let layout = Layout {
            api_version: "2".into(),
            schedulers: vec![(1, 2)],
            stores: vec![(3, 4), (5, 6)],
        };
        layout.save(folder.path()).unwrap();
        assert_eq!(load(2).unwrap(), Some(layout));
        let refused = load(3).unwrap_err().to_string();
        assert!(refused.contains("2 stores") && refused.contains("3 stores"), "{refused}");
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "precious").unwrap();
        let refused = Layout::load(folder.path(), 3, 1, ApiVersion::V1).unwrap_err();
        assert!(refused.to_string().contains("not a directory of a playground"));
    }
}
