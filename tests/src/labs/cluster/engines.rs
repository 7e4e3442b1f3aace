//! Looks into a store's engines, past raft: what has arrived there?

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::RegionId;
use raftstore::engine::{ColumnFamily, DataEngine as _, LogEngine as _};
use raftstore::storage::applied_state;

use super::client::POLL_PAUSE;
use super::tasks::Cluster;
use crate::sim::events::{Instant, SECOND};

/// What is to be in an engine comes within this time, and what is not to be there goes.
const PATIENCE: Instant = 6 * SECOND;

/// What is absent must stay so for this long: longer than an election, and than several heartbeats.
pub const ABSENT_FOR: Instant = SECOND;

/// How much of a region's log a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKept {
    /// Everything up to here is applied.
    pub applied: u64,
    /// Everything up to here is gone from the log.
    pub truncated: (u64, u64),
}

impl LogKept {
    /// Entries that are applied and still in the log.
    pub fn entries(&self) -> u64 {
        self.applied.saturating_sub(self.truncated.0)
    }
}

impl Cluster {
    /// What a store has under this key now.
    pub fn on_store(&self, store: u64, cf: ColumnFamily, key: &str) -> Option<Bytes> {
        let world = self.world.borrow();
        world.nodes[&store].data.get(cf, key.as_bytes()).expect("memory does not fail")
    }

    /// A store gets this value under this key of the default family. Panics when it does not.
    pub async fn must_have(&self, store: u64, key: &str, value: &str) {
        self.must_have_in(store, ColumnFamily::Default, key, value).await;
    }

    /// A store gets this value under this key. Panics when it does not.
    pub async fn must_have_in(&self, store: u64, cf: ColumnFamily, key: &str, value: &str) {
        let deadline = self.now() + PATIENCE;
        loop {
            let found = self.on_store(store, cf, key);
            if found.as_deref() == Some(value.as_bytes()) {
                return;
            }
            assert!(self.now() < deadline, "s{store} has {found:?} under {key}, not {value}");
            self.pause(POLL_PAUSE).await;
        }
    }

    /// A store loses this key of the default family, or never gets it: once gone it stays away. Panics when
    /// it does not.
    pub async fn must_lack(&self, store: u64, key: &str) {
        self.must_lack_in(store, ColumnFamily::Default, key).await;
    }

    /// A store loses this key, or never gets it: once gone it stays away. Panics when it does not.
    pub async fn must_lack_in(&self, store: u64, cf: ColumnFamily, key: &str) {
        let deadline = self.now() + PATIENCE;
        while let Some(found) = self.on_store(store, cf, key) {
            assert!(self.now() < deadline, "s{store} still has {found:?} under {key}");
            self.pause(POLL_PAUSE).await;
        }
        let until = self.now() + ABSENT_FOR;
        while self.now() < until {
            let found = self.on_store(store, cf, key);
            assert_eq!(found, None, "s{store} got {key}");
            self.pause(POLL_PAUSE).await;
        }
    }

    /// How much of a region's log each store keeps that has applied anything of it.
    pub fn logs_kept(&self, region_id: u64) -> BTreeMap<u64, LogKept> {
        let world = self.world.borrow();
        let mut kept = BTreeMap::new();
        for (store, node) in &world.nodes {
            let applied = applied_state(&node.data.snapshot(), RegionId(region_id))
                .expect("memory does not fail");
            let log = node.log.state(RegionId(region_id)).expect("memory does not fail");
            if let (Some(applied), Some(log)) = (applied, log) {
                let truncated = (log.truncated_index, log.truncated_term);
                kept.insert(*store, LogKept { applied: applied.index, truncated });
            }
        }
        kept
    }
}
