//! What takes long and decides nothing: snapshots, sizes and split keys, clearing, syncing.
//!
//! A [`Background`] performs one task at a time; the background worker is a thread around it, the
//! simulator calls it where it likes.
//!
//! Promises:
//! - A snapshot is one view of the engine: its data, region and applied index belong together.
//! - A snapshot is verified whole before anything is changed, and installed by one batch, so a crash
//!   leaves the region as it was before or as it is after.
//!
//! Left out: handing files to the engine instead of writing their pairs. A region's data passes
//! through memory once when it is installed; the split size bounds it.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes};
use proto::{KeyRange, RegionId, metapb};

use super::split_keys;
use crate::engine::snapshot_file::{self, SnapshotReader, SnapshotWriter};
use crate::engine::{ColumnFamily, DataEngine, WriteBatch};
use crate::error::Fault;
use crate::msg::{BackgroundTask, GeneratedSnapshot, SnapshotSource, StoreMsg};
use crate::storage::group_log::Position;
use crate::storage::{RegionState, applied_state, put_applied, put_region, region_state};

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
    /// Snapshots made so far, for their names.
    made: u64,
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
        Ok(Self { data, storage, made: 0 })
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
                if let SnapshotSource::File(path) = source
                    && let Err(error) = std::fs::remove_file(&path)
                {
                    tracing::warn!(%error, path = %path.display(), "a snapshot file stays behind");
                }
                Ok(Some(StoreMsg::SnapshotInstalled { region_id, peer_id, ok }))
            }
            BackgroundTask::ClearRange { range } => {
                let mut batch = WriteBatch::new();
                clear(&mut batch, &range);
                self.data.write(batch)?;
                Ok(None)
            }
            BackgroundTask::FindSplitKeys { region, split_bytes, part_bytes } => {
                let range = KeyRange::of(&region);
                let snapshot = self.data.snapshot();
                let found = split_keys::find(&snapshot, &range, split_bytes, part_bytes)?;
                Ok(Some(StoreMsg::SplitKeysFound {
                    region_id: RegionId(region.id),
                    epoch: proto::region::epoch(&region),
                    keys: found.keys,
                    size_bytes: found.size_bytes,
                    size_keys: found.size_keys,
                }))
            }
            BackgroundTask::SyncData { ticket } => {
                self.data.sync()?;
                Ok(Some(StoreMsg::DataSynced { ticket }))
            }
        }
    }

    /// A snapshot of what the region is now; `None` when there is no serving peer of it.
    fn generate(&mut self, region_id: RegionId) -> Result<Option<GeneratedSnapshot>, Fault> {
        let view = self.data.snapshot();
        let Some(RegionState::Normal(region)) = region_state(&view, region_id)? else {
            return Ok(None);
        };
        let Some(applied) = applied_state(&view, region_id)? else { return Ok(None) };
        let description = describe(&region, applied);
        let mut writer = SnapshotWriter::new(view, KeyRange::of(&region), description);
        self.made += 1;
        let source = match &self.storage {
            SnapshotStorage::Memory => {
                SnapshotSource::Bytes(snapshot_file::write_bytes(&mut writer)?)
            }
            SnapshotStorage::Folder(folder) => {
                let name = format!("made-{}-{region_id}-{}.snap", self.made, applied.index);
                let path = folder.join(name);
                snapshot_file::write_file(&path, &mut writer)?;
                SnapshotSource::File(path)
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
            SnapshotSource::File(path) => snapshot_file::open_file(path, range.clone())
                .and_then(|reader| read_all(reader, region, position)),
            SnapshotSource::Bytes(bytes) => SnapshotReader::new(
                Cursor::new(bytes.clone()),
                range.clone(),
                "a snapshot in memory",
            )
            .and_then(|reader| read_all(reader, region, position)),
        };
        let pairs = match read {
            Ok(pairs) => pairs,
            Err(fault) => {
                tracing::warn!(%fault, region = region.id, "a snapshot cannot be installed");
                return Ok(false);
            }
        };
        let mut batch = WriteBatch::new();
        clear(&mut batch, &range);
        batch.append(pairs);
        put_region(&mut batch, region);
        put_applied(&mut batch, RegionId(region.id), position);
        self.data.write(batch)?;
        self.data.sync()?;
        Ok(true)
    }
}

/// All pairs of a snapshot, if it is the one that was announced, and whole.
fn read_all<R: Read>(
    mut reader: SnapshotReader<R>,
    region: &metapb::Region,
    position: Position,
) -> Result<WriteBatch, Fault> {
    if *reader.description() != describe(region, position) {
        return Err(Fault::Corrupt {
            place: format!("snapshot of {} at {position}", RegionId(region.id)),
            detail: "it is another snapshot".into(),
        });
    }
    let mut pairs = WriteBatch::new();
    while let Some(batch) = reader.next_batch()? {
        pairs.append(batch);
    }
    Ok(pairs)
}

/// Which snapshot this is: region, index and term, eight bytes each.
fn describe(region: &metapb::Region, position: Position) -> Bytes {
    let mut out = Vec::with_capacity(24);
    out.put_u64(region.id);
    out.put_u64(position.index);
    out.put_u64(position.term);
    out.into()
}

fn clear(batch: &mut WriteBatch, range: &KeyRange) {
    for cf in ColumnFamily::DATA {
        batch.delete_range(cf, range.clone());
    }
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
