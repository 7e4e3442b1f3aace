//! Below which timestamps the stores say that nothing is undecided any more.
//!
//! A store tells the lowest *resolved timestamp* of the regions that it leads: no transaction will commit below
//! it there. The lowest of all is the cluster's, and only rises. Stores that lead nothing, or are gone, hold
//! nothing back.
//!
//! Left out: writing it down. A new leader says 0, which promises nothing, until all stores have told it.

use std::collections::BTreeMap;

use proto::StoreId;

use super::{Cluster, Refusal};

/// What stands for a store that has no say.
pub const NO_SAY: u64 = u64::MAX;

/// What the stores have told.
#[derive(Clone, Debug, Default)]
pub(super) struct ResolvedTimestamps {
    by_store: BTreeMap<StoreId, u64>,
    lowest: u64,
}

impl Cluster {
    /// A store tells its resolved timestamp.
    pub fn report_resolved(&mut self, store: StoreId, timestamp: u64) -> Result<(), Refusal> {
        if self.stores.get(store)?.is_tombstone() {
            return Err(Refusal::StoreTombstone(store));
        }
        self.resolved.by_store.insert(store, timestamp);
        let said = self.stores.iter().map(|store| self.resolved_of(store.id()));
        if let Some(lowest) = said.min().filter(|lowest| *lowest != NO_SAY) {
            self.resolved.lowest = self.resolved.lowest.max(lowest);
        }
        Ok(())
    }

    /// Nothing commits below this timestamp any more; 0 promises nothing.
    pub fn resolved(&self) -> u64 {
        self.resolved.lowest
    }

    /// The same of what one store leads; [`NO_SAY`] for a store that leads nothing.
    pub fn resolved_of(&self, store: StoreId) -> u64 {
        let has_say = self
            .stores
            .find(store)
            .is_some_and(|record| !record.is_tombstone() && self.regions.counts(store).leaders > 0);
        if !has_say {
            return NO_SAY;
        }
        self.resolved.by_store.get(&store).copied().unwrap_or(0)
    }

    pub(super) fn forget_resolved(&mut self, store: StoreId) {
        self.resolved.by_store.remove(&store);
    }
}
