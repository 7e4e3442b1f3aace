//! The slice of etcd that clients read through a scheduler's port, and the meta storage.
//!
//! client-go wants a member list, and reads a safe point under a well-known key when the scheduler
//! is older than it; it also looks for registered services, of which there are none. Plain writes
//! work and go through the log; the meta storage can be watched (`watch.rs`). Leases and transactions
//! are left out.
//!
//! What is kept here is in every member's memory and in its log, so a request may write no more than
//! [`WRITE_BYTES_MAX`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::pin::Pin;

use bytes::Bytes;
use proto::etcdserverpb::{self, cluster_server::Cluster, kv_server::Kv};
use proto::meta_storagepb::{self, meta_storage_server::MetaStorage};
use proto::mvccpb;
use proto::schedulerpb::{Change, KeyValue};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Service;
use crate::server::node::not_leader;

/// Where older clients look for the transaction safe point, as decimal text.
const SAVED_SAFE_POINT: &[u8] = b"/tidb/store/gcworker/saved_safe_point";

/// Bytes of keys and values that one request may write. A larger one is refused, as etcd refuses it.
pub(crate) const WRITE_BYTES_MAX: usize = 3 << 19;

/// Refuses a request that writes too much.
pub(super) fn check_size(change: &Change) -> Result<(), Status> {
    let put = change.put_values.iter().map(|value| value.key.len() + value.value.len());
    let deleted = change.delete_values.iter().map(Bytes::len);
    let bytes: usize = put.chain(deleted).sum();
    if bytes > WRITE_BYTES_MAX {
        // The words that clients of etcd know, and why.
        return Err(Status::invalid_argument(format!(
            "etcdserver: request is too large: {bytes} bytes, the limit is {WRITE_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// The keys from `key` to `end`: one key for an empty end, all that follow for a single 0.
pub(super) fn range(key: Bytes, end: Bytes) -> (Bound<Bytes>, Bound<Bytes>) {
    let end = match &end[..] {
        [] => Bound::Included(key.clone()),
        [0] => Bound::Unbounded,
        _ => Bound::Excluded(end),
    };
    (Bound::Included(key), end)
}

/// Whether the range holds any key at all; a map would panic on one that does not.
fn is_empty(range: &(Bound<Bytes>, Bound<Bytes>)) -> bool {
    matches!(range, (Bound::Included(start), Bound::Excluded(end)) if start >= end)
}

fn wire(value: KeyValue) -> mvccpb::KeyValue {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    mvccpb::KeyValue {
        key: value.key,
        create_revision: number(value.created_at),
        mod_revision: number(value.changed_at),
        version: number(value.changes),
        value: value.value,
        lease: 0,
    }
}

pub(super) fn meta_wire(value: KeyValue) -> meta_storagepb::KeyValue {
    let value = wire(value);
    meta_storagepb::KeyValue {
        key: value.key,
        create_revision: value.create_revision,
        mod_revision: value.mod_revision,
        version: value.version,
        value: value.value,
        lease: value.lease,
    }
}

impl Service {
    /// Everything in a range, by key, and the revision of which that is true. What the scheduler
    /// knows itself is shown under its key.
    fn values(&self, key: Bytes, end: Bytes) -> (Vec<KeyValue>, u64) {
        let range = range(key, end);
        let (mut found, revision): (BTreeMap<Bytes, KeyValue>, u64) = {
            let state = self.node.state.read();
            if is_empty(&range) {
                return (Vec::new(), state.index());
            }
            let found = state.values().range(range.clone());
            (found.map(|(key, value)| (key.clone(), value.clone())).collect(), state.index())
        };
        let saved = Bytes::from_static(SAVED_SAFE_POINT);
        if let Some(serving) = self.node.serving()
            && std::ops::RangeBounds::contains(&range, &saved)
            && !found.contains_key(&saved)
        {
            let safe_point = serving.lock().gc.txn_safe_point();
            if safe_point != 0 {
                let value = Bytes::from(safe_point.to_string());
                let shown = KeyValue { key: saved.clone(), value, ..KeyValue::default() };
                found.insert(saved, shown);
            }
        }
        (found.into_values().collect(), revision)
    }

    /// Writes and deletes through the log; the revision of the write, or the present one when there
    /// was nothing to write.
    async fn write_values(&self, change: Change) -> Result<u64, Status> {
        check_size(&change)?;
        let serving = self.node.serving().ok_or_else(not_leader)?;
        let ((), index) = serving
            .change_at(&self.node, |_, _| Ok((change, ())))
            .await?
            .map_err(|refusal| Status::unknown(refusal.to_string()))?;
        Ok(index.unwrap_or_else(|| self.node.state.read().index()))
    }

    async fn leads(&self) -> Result<(), Status> {
        self.node.serving().ok_or_else(not_leader)?.await_lease(&self.node).await
    }

    fn meta_header(&self, revision: u64) -> meta_storagepb::ResponseHeader {
        let header = self.etcd_header_at(revision);
        meta_storagepb::ResponseHeader {
            cluster_id: header.cluster_id,
            error: None,
            revision: header.revision,
        }
    }
}

fn limited<T>(mut found: Vec<T>, limit: i64) -> (Vec<T>, i64, bool) {
    let count = found.len();
    if let Ok(limit @ 1..) = usize::try_from(limit) {
        found.truncate(limit);
    }
    let more = found.len() < count;
    (found, i64::try_from(count).unwrap_or(i64::MAX), more)
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(
        &self,
        request: Request<etcdserverpb::RangeRequest>,
    ) -> Result<Response<etcdserverpb::RangeResponse>, Status> {
        let request = request.into_inner();
        self.leads().await?;
        let (found, revision) = self.values(request.key, request.range_end);
        let (mut found, count, more) = limited(found, request.limit);
        if request.count_only {
            found.clear();
        }
        let kvs = found.into_iter().map(wire).map(|mut kv| {
            if request.keys_only {
                kv.value = Bytes::new();
            }
            kv
        });
        Ok(Response::new(etcdserverpb::RangeResponse {
            kvs: kvs.collect(),
            header: Some(self.etcd_header_at(revision)),
            more,
            count,
        }))
    }

    async fn put(
        &self,
        request: Request<etcdserverpb::PutRequest>,
    ) -> Result<Response<etcdserverpb::PutResponse>, Status> {
        let request = request.into_inner();
        if request.lease != 0 {
            return Err(Status::unimplemented("leases are not supported"));
        }
        self.leads().await?;
        let (before, _) = self.values(request.key.clone(), Bytes::new());
        let value = KeyValue { key: request.key, value: request.value, ..KeyValue::default() };
        let change = Change { put_values: vec![value], ..Change::default() };
        let revision = self.write_values(change).await?;
        Ok(Response::new(etcdserverpb::PutResponse {
            header: Some(self.etcd_header_at(revision)),
            prev_kv: before.into_iter().next().filter(|_| request.prev_kv).map(wire),
        }))
    }

    async fn delete_range(
        &self,
        request: Request<etcdserverpb::DeleteRangeRequest>,
    ) -> Result<Response<etcdserverpb::DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        self.leads().await?;
        let (before, _) = self.values(request.key, request.range_end);
        let delete_values = before.iter().map(|value| value.key.clone()).collect();
        let revision = self.write_values(Change { delete_values, ..Change::default() }).await?;
        Ok(Response::new(etcdserverpb::DeleteRangeResponse {
            header: Some(self.etcd_header_at(revision)),
            deleted: i64::try_from(before.len()).unwrap_or(i64::MAX),
            prev_kvs: if request.prev_kv {
                before.into_iter().map(wire).collect()
            } else {
                Vec::new()
            },
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(
        &self,
        _: Request<etcdserverpb::MemberListRequest>,
    ) -> Result<Response<etcdserverpb::MemberListResponse>, Status> {
        Ok(Response::new(Service::member_list(self)))
    }
}

#[tonic::async_trait]
impl MetaStorage for Service {
    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<meta_storagepb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<meta_storagepb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.watch_meta_storage(request.into_inner()).map(Response::new)
    }

    async fn get(
        &self,
        request: Request<meta_storagepb::GetRequest>,
    ) -> Result<Response<meta_storagepb::GetResponse>, Status> {
        let request = request.into_inner();
        self.leads().await?;
        let (found, revision) = self.values(request.key, request.range_end);
        let (found, count, more) = limited(found, request.limit);
        Ok(Response::new(meta_storagepb::GetResponse {
            header: Some(self.meta_header(revision)),
            kvs: found.into_iter().map(meta_wire).collect(),
            more,
            count,
        }))
    }

    async fn put(
        &self,
        request: Request<meta_storagepb::PutRequest>,
    ) -> Result<Response<meta_storagepb::PutResponse>, Status> {
        let request = request.into_inner();
        if request.lease != 0 {
            return Err(Status::unimplemented("leases are not supported"));
        }
        self.leads().await?;
        let (before, _) = self.values(request.key.clone(), Bytes::new());
        let value = KeyValue { key: request.key, value: request.value, ..KeyValue::default() };
        let change = Change { put_values: vec![value], ..Change::default() };
        let revision = self.write_values(change).await?;
        Ok(Response::new(meta_storagepb::PutResponse {
            header: Some(self.meta_header(revision)),
            prev_kv: before.into_iter().next().filter(|_| request.prev_kv).map(meta_wire),
        }))
    }

    async fn delete(
        &self,
        request: Request<meta_storagepb::DeleteRequest>,
    ) -> Result<Response<meta_storagepb::DeleteResponse>, Status> {
        let request = request.into_inner();
        self.leads().await?;
        let (before, _) = self.values(request.key, request.range_end);
        let delete_values = before.iter().map(|value| value.key.clone()).collect();
        let revision = self.write_values(Change { delete_values, ..Change::default() }).await?;
        Ok(Response::new(meta_storagepb::DeleteResponse {
            header: Some(self.meta_header(revision)),
            deleted: i64::try_from(before.len()).unwrap_or(i64::MAX),
            prev_kvs: if request.prev_kv {
                before.into_iter().map(meta_wire).collect()
            } else {
                Vec::new()
            },
        }))
    }
}
