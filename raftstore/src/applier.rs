//! Committed entries become one write batch.
//!
//! ```text
//!  ApplyTask ──► Delegate of the region ──► batch: data, region, applied index ──► engine, one write
//!                      │
//!                      └── Applied: refusals, changes of membership, splits ──► Store::on_applied
//! ```
//!
//! Whether the applier runs on a thread of its own or in the raft worker is the shell's business. All
//! tasks of a round share one write of the engine.
//!
//! Promises:
//! - The applied index is in the same batch as the data it speaks of, so nothing is applied twice or
//!   left out, wherever a crash falls.
//! - Applying is deterministic. A refusal is the same on every replica and is the entry's answer; anything
//!   else that goes wrong is a fault.
//! - The batch is not synced: the log is the log.

use std::collections::BTreeMap;

use proto::{PeerId, Refusal, RegionId, metapb, region};
use raft::eraftpb::{Entry, EntryType};

use crate::command::Command;
use crate::engine::{DataEngine, WriteBatch};
use crate::error::Fault;
use crate::group::conf_change_v2_of;
use crate::msg::{Applied, ApplyTask, Outcome};
use crate::plant::{Bug, Planted};
use crate::storage::group_log::Position;
use crate::storage::{Tombstone, put_applied, put_region, put_tombstone};

/// A batch larger than this, in bytes, is written before the round's tasks are through.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Applies the entries of all regions of a store.
pub struct Applier<D> {
    data: D,
    delegates: BTreeMap<RegionId, Delegate>,
    planted: Planted,
}

/// What applying needs to know of one region.
#[derive(Debug)]
pub(crate) struct Delegate {
    pub(crate) region: metapb::Region,
    peer_id: PeerId,
    applied: Position,
    pub(crate) bytes_written: u64,
    pub(crate) keys_written: u64,
    pub(crate) planted: Planted,
}

impl<D: DataEngine> Applier<D> {
    /// An applier that knows no region; `Store::open` tells it of those that are there.
    pub fn new(data: D) -> Self {
        Self { data, delegates: BTreeMap::new(), planted: Planted::default() }
    }

    /// With this bug.
    pub fn planting(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    /// Performs these tasks in order. When this returns everything is in the engine.
    pub fn apply(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<Applied>, Fault> {
        let mut batch = WriteBatch::new();
        let mut all = Vec::new();
        for task in tasks {
            match task {
                ApplyTask::Start { region, peer_id, applied_index, applied_term } => {
                    let applied = Position { index: applied_index, term: applied_term };
                    self.start(region, peer_id, applied);
                }
                ApplyTask::Entries { region_id, peer_id, entries, skip_children } => {
                    let Some(delegate) = self
                        .delegates
                        .get_mut(&region_id)
                        .filter(|delegate| delegate.peer_id == peer_id)
                    else {
                        continue;
                    };
                    let mut applied = Applied { region_id, peer_id, ..Applied::default() };
                    let mut is_removed = false;
                    for entry in entries {
                        is_removed =
                            delegate.apply_entry(&entry, &skip_children, &mut applied, &mut batch);
                        if is_removed {
                            break;
                        }
                        if batch.bytes() > BATCH_BYTES_MAX {
                            put_applied(&mut batch, region_id, delegate.applied);
                            self.data.write(std::mem::take(&mut batch))?;
                        }
                    }
                    delegate.report(&mut applied);
                    if is_removed {
                        self.delegates.remove(&region_id);
                    } else {
                        if self.planted.has(Bug::AppliedIndexApart) {
                            let mut apart = WriteBatch::new();
                            put_applied(&mut apart, region_id, delegate.applied);
                            self.data.write(apart)?;
                        }
                        put_applied(&mut batch, region_id, delegate.applied);
                    }
                    all.push(applied);
                }
                ApplyTask::Destroy { region_id, peer_id } => {
                    all.extend(self.destroy(region_id, peer_id, &mut batch));
                }
            }
        }
        if !batch.is_empty() {
            self.data.write(batch)?;
        }
        Ok(all)
    }

    fn start(&mut self, region: metapb::Region, peer_id: PeerId, applied: Position) {
        let region_id = region::id(&region);
        let planted = self.planted;
        let delegate =
            Delegate { region, peer_id, applied, bytes_written: 0, keys_written: 0, planted };
        self.delegates.insert(region_id, delegate);
    }

    /// The peer was told to go, by no entry of its own log.
    fn destroy(
        &mut self,
        region_id: RegionId,
        peer_id: PeerId,
        batch: &mut WriteBatch,
    ) -> Option<Applied> {
        let delegate = self.delegates.remove(&region_id)?;
        if delegate.peer_id != peer_id {
            self.delegates.insert(region_id, delegate);
            return None;
        }
        let tombstone = Tombstone { region: delegate.region, peer_id, removed_at: None };
        if !self.planted.has(Bug::TombstoneUnwritten) {
            put_tombstone(batch, &tombstone);
        }
        Some(Applied {
            region_id,
            peer_id,
            applied_index: delegate.applied.index,
            applied_term: delegate.applied.term,
            outcomes: vec![Outcome::Removed { tombstone }],
            ..Applied::default()
        })
    }
}

impl Delegate {
    /// Applies one entry. Returns whether it removed the peer here.
    fn apply_entry(
        &mut self,
        entry: &Entry,
        skip_children: &[RegionId],
        applied: &mut Applied,
        batch: &mut WriteBatch,
    ) -> bool {
        let index = entry.index;
        assert!(
            index == self.applied.index + 1,
            "{}.{} applies {index} after {}",
            region::id(&self.region),
            self.peer_id,
            self.applied,
        );
        self.applied = Position { index, term: entry.term };
        let outcome = match entry.entry_type {
            EntryType::EntryNormal if entry.data.is_empty() => Ok(None),
            EntryType::EntryNormal => self.apply_command(entry, skip_children, batch),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.apply_conf_change(entry, batch)
            }
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(outcome)) => applied.outcomes.push(outcome),
            Err(refusal) => applied.outcomes.push(Outcome::Refused { index, refusal }),
        }
        if region::peer_by_id(&self.region, self.peer_id).is_some() {
            return false;
        }
        let tombstone = Tombstone {
            region: self.region.clone(),
            peer_id: self.peer_id,
            removed_at: Some(self.applied),
        };
        if !self.planted.has(Bug::TombstoneUnwritten) {
            put_tombstone(batch, &tombstone);
        }
        applied.outcomes.push(Outcome::Removed { tombstone });
        true
    }

    fn apply_command(
        &mut self,
        entry: &Entry,
        skip_children: &[RegionId],
        batch: &mut WriteBatch,
    ) -> Result<Option<Outcome>, Refusal> {
        let index = entry.index;
        let command = Command::decode(entry.data.clone())
            .map_err(|error| Refusal::Other { message: error.to_string() })?;
        match command {
            Command::Write { epoch, batch: changes } => {
                self.apply_write(&epoch, changes, batch)?;
                Ok(None)
            }
            Command::CutLog { index: upto, term } if upto < index => {
                Ok(Some(Outcome::LogCut { index: upto, term }))
            }
            Command::CutLog { .. } => {
                Err(Refusal::Other { message: "cuts what is not there yet".into() })
            }
            Command::Split(split) => {
                let regions = self.apply_split(&split, skip_children, batch)?;
                Ok(Some(Outcome::Split { index, regions, skipped: skip_children.to_vec() }))
            }
            Command::Member(_) | Command::Members(_) => {
                Err(Refusal::Other { message: "a member outside a change of membership".into() })
            }
        }
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
    ) -> Result<Option<Outcome>, Refusal> {
        let change = conf_change_v2_of(entry)
            .ok_or_else(|| Refusal::Other { message: "not a change of membership".into() })?;
        let region = self.apply_members(&change)?;
        if !self.planted.has(Bug::MembersUnwritten) {
            put_region(batch, &region);
        }
        self.region = region.clone();
        Ok(Some(Outcome::ConfChanged { index: entry.index, change, region }))
    }

    /// Moves what was counted into the answer.
    fn report(&mut self, applied: &mut Applied) {
        applied.applied_index = self.applied.index;
        applied.applied_term = self.applied.term;
        applied.bytes_written = std::mem::take(&mut self.bytes_written);
        applied.keys_written = std::mem::take(&mut self.keys_written);
    }
}
