//! What takes long and decides nothing: snapshots, sizes and split keys, hashes, clearing, syncing.
//!
//! A [`Background`] performs one task at a time; the background worker is a thread around it, the
//! simulator calls it where it likes.
//!
//! Promises:
//! - A snapshot is one view of the engine: its data, region and applied index belong together.
//! - A snapshot is verified whole before anything is changed, and installed by one batch, so a crash
//!   leaves the region as it was before or as it is after.
//!
//! - A disk that is too full for a snapshot is no fault: there is no snapshot, and raft asks again.
//!
//! Left out: handing files to the engine instead of writing their pairs. A region's data passes
//! through memory once when it is installed; the split size bounds it.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use proto::{KeyRange, RegionId, metapb};

use super::pace::Pace;
use crate::engine::snapshot_file::{self, SnapshotFile, SnapshotReader, SnapshotWriter};
use crate::engine::{Change, DataEngine, WriteBatch};
use crate::error::Fault;
use crate::msg::{BackgroundTask, GeneratedSnapshot, SnapshotSource, StoreMsg};
use crate::operation::snapshot::{self, Install};
use crate::operation::split_keys::find_keys;
use crate::plant::{Bug, Planted};
use crate::storage::group_log::Position;

/// Where snapshots lie between being made and being sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStorage {
    /// In memory: for engines in memory.
    Memory,
    /// As files in this folder, whose files are removed at start.
    Folder(PathBuf),
}

/// Performs background tasks on one data engine.
#[derive(Debug)]
pub struct Background<D> {
    data: D,
    storage: SnapshotStorage,
    /// How fast snapshot files may be written; `None` as fast as can be.
    pace: Option<Arc<Pace>>,
    /// Snapshots made so far, for their names.
    made: u64,
    planted: Planted,
}

impl<D: DataEngine> Background<D> {
    /// Ready to work. What an earlier life left in the folder is removed.
    pub fn new(data: D, storage: SnapshotStorage) -> Result<Self, Fault> {
        if let SnapshotStorage::Folder(folder) = &storage {
            remove_files(folder).map_err(|error| Fault::Engine {
                attempt: "empty the snapshot folder",
                cause: error.to_string(),
            })?;
        }
        Ok(Self { data, storage, pace: None, made: 0, planted: Planted::default() })
    }

    /// Keeps to a rate while writing snapshot files, by sleeping.
    pub fn at_pace(self, pace: Arc<Pace>) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// With this bug.
    pub fn planting(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    /// Performs a task; its answer, if it has one, is for the store.
    pub fn perform(&mut self, task: BackgroundTask) -> Result<Option<StoreMsg>, Fault> {
        match task {
            BackgroundTask::GenerateSnapshot { region_id, peer_id, to } => {
                let generated = self.generate(region_id)?.map(Box::new);
                Ok(Some(StoreMsg::SnapshotGenerated { region_id, peer_id, to, generated }))
            }
            BackgroundTask::InstallSnapshot { region, peer_id, index, term, source } => {
                let region_id = RegionId(region.id);
                let ok = self.install(&region, Position { index, term }, &source)?;
                Ok(Some(StoreMsg::SnapshotInstalled { region_id, peer_id, ok }))
            }
            BackgroundTask::ClearRange { range } => {
                self.data.write(snapshot::clear(&range))?;
                Ok(None)
            }
            BackgroundTask::FindSplitKeys { region, search } => {
                let found = find_keys(&self.data, &region, search)?;
                Ok(Some(StoreMsg::SplitKeysFound {
                    region_id: RegionId(region.id),
                    epoch: proto::region::epoch(&region),
                    keys: found.keys,
                    size: found.size,
                }))
            }
            BackgroundTask::ComputeHash { region_id, peer_id, job } => {
                let (index, hash) = (job.index(), job.run()?);
                Ok(Some(StoreMsg::HashComputed { region_id, peer_id, index, hash }))
            }
            BackgroundTask::SyncData { ticket } => {
                if !self.planted.has(Bug::FailedSyncBelieved) {
                    self.data.sync()?;
                }
                Ok(Some(StoreMsg::DataSynced { ticket }))
            }
        }
    }

    /// A snapshot of what the region is now; `None` when there is no serving peer of it.
    fn generate(&mut self, region_id: RegionId) -> Result<Option<GeneratedSnapshot>, Fault> {
        let view = self.data.snapshot();
        let Some((region, applied)) = snapshot::describe(&view, region_id)? else {
            return Ok(None);
        };
        let description = name_of(&region, applied);
        let mut writer = SnapshotWriter::new(view, KeyRange::of(&region), description);
        self.made += 1;
        let source = match &self.storage {
            SnapshotStorage::Memory => {
                SnapshotSource::Bytes(snapshot_file::write_bytes(&mut writer)?)
            }
            SnapshotStorage::Folder(folder) => {
                let name = format!("made-{}-{region_id}-{}.snap", self.made, applied.index);
                let file = SnapshotFile::own(folder.join(name));
                let pace = |bytes: usize| {
                    if let Some(pace) = &self.pace {
                        std::thread::sleep(pace.wait_for(bytes));
                    }
                };
                if let Err(error) = snapshot_file::write_file(file.path(), &mut writer, pace)? {
                    tracing::warn!(%error, region = %region_id, "a snapshot cannot be written");
                    return Ok(None);
                }
                SnapshotSource::File(file)
            }
        };
        let bytes = writer.totals().bytes;
        Ok(Some(GeneratedSnapshot {
            region,
            index: applied.index,
            term: applied.term,
            source,
            bytes,
        }))
    }

    /// Replaces the region's data. Returns whether the snapshot was whole; if not, nothing changed.
    fn install(
        &self,
        region: &metapb::Region,
        position: Position,
        source: &SnapshotSource,
    ) -> Result<bool, Fault> {
        let range = KeyRange::of(region);
        let read = match source {
            SnapshotSource::File(file) => snapshot_file::open_file(file.path(), range.clone())
                .and_then(|reader| read_all(reader, region, position, self.planted)),
            SnapshotSource::Bytes(bytes) => SnapshotReader::new(
                Cursor::new(bytes.clone()),
                range.clone(),
                "a snapshot in memory",
            )
            .and_then(|reader| read_all(reader, region, position, self.planted)),
        };
        let (install, safe_point) = match read {
            Ok(read) => read,
            Err(fault) => {
                tracing::warn!(%fault, region = region.id, "a snapshot cannot be installed");
                return Ok(false);
            }
        };
        let mut batch = install.finish();
        if self.planted.has(Bug::SnapshotKeepsOldKeys) {
            batch = without_clearing(batch);
        }
        // The sender may have removed versions that this store does not know of as garbage yet.
        self.data.raise_safe_point(safe_point)?;
        self.data.write(batch)?;
        if !self.planted.has(Bug::SnapshotNotSynced) {
            self.data.sync()?;
        }
        Ok(true)
    }
}

/// The snapshot ready to be installed, if it is the one that was announced, and whole; and the safe point
/// that it was made by.
fn read_all<R: Read>(
    mut reader: SnapshotReader<R>,
    region: &metapb::Region,
    position: Position,
    planted: Planted,
) -> Result<(Install, u64), Fault> {
    if *reader.description() != name_of(region, position) {
        return Err(Fault::Corrupt {
            place: format!("snapshot of {} at {position}", RegionId(region.id)),
            detail: "it is another snapshot".into(),
        });
    }
    let mut install = Install::new(region, position.index, position.term);
    loop {
        let batch = match reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok((install, reader.totals().safe_point)),
            Err(_) if planted.has(Bug::DamagedSnapshotInstalled) => return Ok((install, 0)),
            Err(fault) => return Err(fault),
        };
        for change in batch.into_changes() {
            if let Change::Put { cf, key, value } = change {
                install.put(cf, key, value);
            }
        }
    }
}

/// Planted: the batch that installs a snapshot over what is there.
fn without_clearing(batch: WriteBatch) -> WriteBatch {
    let mut kept = WriteBatch::new();
    for change in batch.into_changes() {
        if !matches!(change, Change::DeleteRange { .. }) {
            kept.push(change);
        }
    }
    kept
}

/// Which snapshot this is: region, index and term, eight bytes each.
fn name_of(region: &metapb::Region, position: Position) -> Bytes {
    let mut out = Vec::with_capacity(24);
    out.put_u64(region.id);
    out.put_u64(position.index);
    out.put_u64(position.term);
    out.into()
}

fn remove_files(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
