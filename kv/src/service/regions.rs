//! Commands about regions rather than keys: cutting one, and what happens below the replication.

use bytes::Bytes;
use proto::{KeyRange, Refusal, kvrpcpb, memcomparable, metapb};
use raftstore::engine::{ColumnFamily, DataEngine, WriteBatch};
use tokio::sync::oneshot;

use super::Store;
use crate::config::ApiVersion;
use crate::txn::reader::Reader;

/// How long a split may take: asking the scheduler for ids, proposing, applying. At the end its
/// outcome is unknown to the caller, who looks at the regions again.
const SPLIT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

impl<D: DataEngine> Store<D> {
    /// Cuts a region at user keys; the answer is all parts in key order.
    pub(super) async fn split_region(
        &self,
        request: kvrpcpb::SplitRegionRequest,
    ) -> kvrpcpb::SplitRegionResponse {
        match self.split(request).await {
            Ok(regions) => {
                let mut response = kvrpcpb::SplitRegionResponse::default();
                if let [left, right] = regions.as_slice() {
                    response.left = Some(left.clone());
                    response.right = Some(right.clone());
                }
                response.regions = regions;
                response
            }
            Err(refusal) => kvrpcpb::SplitRegionResponse {
                region_error: Some(refusal.into()),
                ..Default::default()
            },
        }
    }

    async fn split(
        &self,
        request: kvrpcpb::SplitRegionRequest,
    ) -> Result<Vec<metapb::Region>, Refusal> {
        let target = self.storage.target(&request.context.unwrap_or_default())?;
        let mut keys = request.split_keys;
        if keys.is_empty() {
            keys.push(request.split_key);
        }
        let is_plain = request.is_raw_kv && self.api_version != ApiVersion::V2;
        if !is_plain {
            keys = keys.iter().map(|key| memcomparable::encode(key)).collect();
        }
        keys.sort();
        keys.dedup();
        self.split_at(target, keys).await
    }

    /// Cuts a region at keys as regions know them.
    pub(crate) async fn split_at(
        &self,
        target: raftstore::msg::Target,
        keys: Vec<Bytes>,
    ) -> Result<Vec<metapb::Region>, Refusal> {
        let (done, wait) = oneshot::channel();
        self.router.split(target, keys, move |result| {
            // The client has gone; the split goes on.
            let _ = done.send(result);
        });
        let answer = tokio::time::timeout(SPLIT_TIMEOUT, wait).await.map_err(|_| {
            Refusal::UndeterminedResult { message: "the split did not end in time".into() }
        })?;
        answer.unwrap_or_else(|_| Err(Refusal::closing()))
    }

    /// Deletes a range on this store alone, below the replication: for ranges that nobody will read
    /// or write any more. Never a region error, whatever regions are here.
    pub(super) async fn unsafe_destroy_range(
        &self,
        request: kvrpcpb::UnsafeDestroyRangeRequest,
    ) -> kvrpcpb::UnsafeDestroyRangeResponse {
        // An empty key is a bound that is not there.
        let bound = |key: Bytes| match key.is_empty() {
            true => key,
            false => memcomparable::encode(&key),
        };
        let range = KeyRange::from_wire(bound(request.start_key), bound(request.end_key));
        let mut batch = WriteBatch::new();
        for cf in ColumnFamily::DATA {
            batch.delete_range(cf, range.clone());
        }
        let data = self.router.data().clone();
        let written = tokio::task::spawn_blocking(move || data.write(batch)).await;
        let error = match written {
            Ok(Ok(())) => String::new(),
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "the store is stopping".into(),
        };
        kvrpcpb::UnsafeDestroyRangeResponse { error, ..Default::default() }
    }

    /// Every lock of old transactions in this store's engine, whatever regions are here and whoever
    /// leads them: a follower's may be behind.
    pub(super) async fn physical_scan_lock(
        &self,
        request: kvrpcpb::PhysicalScanLockRequest,
    ) -> kvrpcpb::PhysicalScanLockResponse {
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let start = match request.start_key.is_empty() {
            true => Bytes::new(),
            false => memcomparable::encode(&request.start_key),
        };
        let reader = Reader::new(self.router.data().snapshot(), KeyRange::all());
        let range = KeyRange { start, end: None };
        let scan = move || reader.locks(&range, limit, |lock| lock.start_ts <= request.max_ts);
        match tokio::task::spawn_blocking(scan).await {
            Ok(Ok((locks, _))) => kvrpcpb::PhysicalScanLockResponse {
                locks: locks.iter().map(|(key, lock)| lock.info(key)).collect(),
                ..Default::default()
            },
            Ok(Err(fault)) => {
                let error = fault.to_string();
                kvrpcpb::PhysicalScanLockResponse { error, ..Default::default() }
            }
            Err(_) => {
                let error = "the store is stopping".into();
                kvrpcpb::PhysicalScanLockResponse { error, ..Default::default() }
            }
        }
    }
}
