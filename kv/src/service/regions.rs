//! Commands about regions rather than keys: cutting one, and what happens below the replication.

use bytes::Bytes;
use proto::{KeyRange, Refusal, kvrpcpb, memcomparable, metapb};
use raftstore::engine::DataEngine;
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

    /// Every lock of old transactions in this store's engine, whatever regions are here and whoever
    /// leads them: a follower's may be behind. Pessimistic locks in memory are not among them: their
    /// transactions are too old to be let in again, so they come to nothing.
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
