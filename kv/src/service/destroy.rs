//! `UnsafeDestroyRange`: a range of keys that nobody will read or write any more goes, on every store.
//!
//! A client sends it to all stores. Each removes the range from the regions that it leads, through their
//! logs: so replicas stay the same, entries that are still to be applied bring nothing back, and locks go
//! with what they lock. What it follows is removed by whoever leads, who was asked too.
//!
//! Leaders move meanwhile, and a store may be without any. So a store goes on until there is nothing left
//! here (a follower that lags applies what was written before the range went, and then that it went); and
//! what is still there after [`THROUGH_LOG_MAX`] it removes by itself, below the replication.
//! (TiKV does only that.) A region that somebody writes to all the same may then differ between its
//! replicas, which a comparison of them would show: hence the name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::{KeyRange, Refusal, kvrpcpb, memcomparable};
use raftstore::engine::{ColumnFamily, Cursor as _, DataEngine, Snapshot as _, WriteBatch};
use raftstore::read_view::ReadView;
use tokio::task::JoinSet;

use super::Store;
use crate::storage::Storage as _;

/// How long a store tries to have a range removed through logs. Some clients give a call two seconds.
const THROUGH_LOG_MAX: Duration = Duration::from_millis(1_200);

/// Between two looks at what is left.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Regions from which a range is removed at once; more wait.
const REGIONS_AT_ONCE_MAX: usize = 64;

impl<D: DataEngine> Store<D> {
    /// See the head. Never a region error, whatever regions are here.
    pub(super) async fn unsafe_destroy_range(
        self: &Arc<Self>,
        request: kvrpcpb::UnsafeDestroyRangeRequest,
    ) -> kvrpcpb::UnsafeDestroyRangeResponse {
        // An empty key is a bound that is not there.
        let bound = |key: Bytes| match key.is_empty() {
            true => key,
            false => memcomparable::encode(&key),
        };
        let range = KeyRange::from_wire(bound(request.start_key), bound(request.end_key));
        let error = match self.destroy_through_logs(&range).await {
            Ok(true) => String::new(),
            Ok(false) => self.destroy_here(range.clone()).await,
            Err(words) => words,
        };
        self.transactions.reservations().remove_in(&range);
        kvrpcpb::UnsafeDestroyRangeResponse { error, ..Default::default() }
    }

    /// Returns whether nothing of the range is left here.
    async fn destroy_through_logs(self: &Arc<Self>, range: &KeyRange) -> Result<bool, String> {
        let until = Instant::now() + THROUGH_LOG_MAX;
        loop {
            let views = self.router.read_views().all();
            let mut removing = JoinSet::new();
            let mut is_empty = true;
            for view in views {
                let part = view.range.intersection(range);
                if part.is_empty() || self.holds_nothing(&part)? {
                    continue;
                }
                is_empty = false;
                if !view.is_leader {
                    continue;
                }
                while removing.len() >= REGIONS_AT_ONCE_MAX {
                    removing.join_next().await;
                }
                let store = Arc::clone(self);
                removing.spawn(async move { store.destroy_in_region(&view, part).await });
            }
            while let Some(removed) = removing.join_next().await {
                // Refused: the region is another one now, or has another leader. Looked at again.
                if let Ok(Err(refusal)) = removed {
                    tracing::debug!(%refusal, "a range is not removed yet");
                }
            }
            if is_empty {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn destroy_in_region(&self, view: &ReadView, part: KeyRange) -> Result<(), Refusal> {
        let context = kvrpcpb::Context {
            region_id: view.region.id,
            region_epoch: view.region.region_epoch,
            peer: Some(view.peer),
            ..Default::default()
        };
        self.storage.write(&context, all_of(part)).await
    }

    fn holds_nothing(&self, range: &KeyRange) -> Result<bool, String> {
        let snapshot = self.router.data().snapshot();
        for cf in ColumnFamily::DATA {
            let mut cursor = snapshot.cursor(cf, range);
            if cursor.seek_to_first().map_err(|fault| fault.to_string())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Below the replication; the error in words, empty for none.
    async fn destroy_here(&self, range: KeyRange) -> String {
        let data = self.router.data().clone();
        let written = tokio::task::spawn_blocking(move || data.write(all_of(range))).await;
        match written {
            Ok(Ok(())) => String::new(),
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "the store is stopping".into(),
        }
    }
}

fn all_of(range: KeyRange) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for cf in ColumnFamily::DATA {
        batch.delete_range(cf, range.clone());
    }
    batch
}
