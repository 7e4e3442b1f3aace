//! The writing requests on raw keys.

use bytes::Bytes;
use proto::kvrpcpb::{
    self, RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchPutRequest, RawBatchPutResponse,
    RawCasRequest, RawCasResponse, RawDeleteRangeRequest, RawDeleteRangeResponse, RawDeleteRequest,
    RawDeleteResponse, RawPutRequest, RawPutResponse,
};
use raftstore::engine::WriteBatch;

use super::value::Value;
use super::{Raw, Stop};
use crate::deadline::{Deadline, ToTheEnd};
use crate::keys;
use crate::storage::{Storage, check_covered};
use crate::txn::latches::Latched;

/// What a compare and swap found.
struct Swapped {
    succeed: bool,
    previous: Option<Bytes>,
}

macro_rules! answer {
    ($result:expr, $response:ident) => {
        match $result {
            Ok(()) => $response::default(),
            Err(stop) => {
                let (region_error, error) = stop.into_text();
                $response { region_error, error }
            }
        }
    };
}

impl<St: Storage> Raw<St> {
    /// `RawPut`.
    pub async fn put(&self, mut request: RawPutRequest) -> RawPutResponse {
        let context = request.context.take().unwrap_or_default();
        let pairs = vec![(request.key, request.value, request.ttl)];
        let result = self.put_pairs(&context, pairs, &request.cf, request.for_cas).await;
        answer!(result, RawPutResponse)
    }

    /// `RawBatchPut`: all pairs or none.
    pub async fn batch_put(&self, mut request: RawBatchPutRequest) -> RawBatchPutResponse {
        let context = request.context.take().unwrap_or_default();
        let result = match ttls(&request) {
            Err(mistake) => Err(mistake.into()),
            Ok(ttls) => {
                let pairs = request.pairs.into_iter().zip(ttls);
                let pairs = pairs.map(|(pair, ttl)| (pair.key, pair.value, ttl)).collect();
                self.put_pairs(&context, pairs, &request.cf, request.for_cas).await
            }
        };
        answer!(result, RawBatchPutResponse)
    }

    async fn put_pairs(
        &self,
        context: &kvrpcpb::Context,
        pairs: Vec<(Bytes, Bytes, u64)>,
        cf: &str,
        for_cas: bool,
    ) -> Result<(), Stop> {
        let deadline = Deadline::of(context);
        self.check_written_keys(context, pairs.iter().map(|(key, _, _)| key))?;
        let layout = self.inner.layout;
        let cf = layout.family(cf)?;
        let now = self.now();
        let mut batch = WriteBatch::new();
        let mut keys = Vec::with_capacity(pairs.len());
        for (key, value, ttl) in pairs {
            self.check_ttl(ttl)?;
            let key = layout.engine_key(&key);
            batch.put(cf, key.clone(), Value::new(value, ttl, now).encode(layout.0));
            keys.push(key);
        }
        self.write(context, keys, batch, for_cas, deadline).await
    }

    /// `RawDelete`; a missing key is fine.
    pub async fn delete(&self, mut request: RawDeleteRequest) -> RawDeleteResponse {
        let context = request.context.take().unwrap_or_default();
        let result =
            self.delete_keys(&context, vec![request.key], &request.cf, request.for_cas).await;
        answer!(result, RawDeleteResponse)
    }

    /// `RawBatchDelete`: all keys or none.
    pub async fn batch_delete(&self, mut request: RawBatchDeleteRequest) -> RawBatchDeleteResponse {
        let context = request.context.take().unwrap_or_default();
        let result = self.delete_keys(&context, request.keys, &request.cf, request.for_cas).await;
        answer!(result, RawBatchDeleteResponse)
    }

    async fn delete_keys(
        &self,
        context: &kvrpcpb::Context,
        keys: Vec<Bytes>,
        cf: &str,
        for_cas: bool,
    ) -> Result<(), Stop> {
        let deadline = Deadline::of(context);
        self.check_written_keys(context, &keys)?;
        let cf = self.inner.layout.family(cf)?;
        let keys: Vec<Bytes> = keys.iter().map(|key| self.inner.layout.engine_key(key)).collect();
        let mut batch = WriteBatch::new();
        keys.iter().for_each(|key| batch.delete(cf, key.clone()));
        self.write(context, keys, batch, for_cas, deadline).await
    }

    /// `RawDeleteRange`: every key of `[start_key, end_key)`, which must lie in the region.
    pub async fn delete_range(&self, mut request: RawDeleteRangeRequest) -> RawDeleteRangeResponse {
        let context = request.context.take().unwrap_or_default();
        answer!(self.try_delete_range(&context, &request).await, RawDeleteRangeResponse)
    }

    async fn try_delete_range(
        &self,
        context: &kvrpcpb::Context,
        request: &RawDeleteRangeRequest,
    ) -> Result<(), Stop> {
        let deadline = Deadline::of(context);
        self.check_range(context, &request.start_key, &request.end_key)?;
        keys::check_sizes([&request.start_key, &request.end_key])?;
        keys::check_order(&request.start_key, &request.end_key)?;
        let cf = self.inner.layout.family(&request.cf)?;
        let range = self.inner.layout.engine_range(&request.start_key, &request.end_key);
        let view = self.view(context, deadline).await?;
        check_covered(context, &view.range, &range)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        batch.delete_range(cf, range);
        self.write(context, Vec::new(), batch, false, deadline).await
    }

    /// `RawCompareAndSwap`: writes (or deletes) if the key's value is what the caller believes.
    pub async fn compare_and_swap(&self, mut request: RawCasRequest) -> RawCasResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_compare_and_swap(&context, request).await {
            Ok(swapped) => RawCasResponse {
                succeed: swapped.succeed,
                previous_not_exist: swapped.previous.is_none(),
                previous_value: swapped.previous.unwrap_or_default(),
                ..Default::default()
            },
            Err(stop) => {
                let (region_error, error) = stop.into_text();
                RawCasResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn try_compare_and_swap(
        &self,
        context: &kvrpcpb::Context,
        request: RawCasRequest,
    ) -> Result<Swapped, Stop> {
        let deadline = Deadline::of(context);
        self.check_written_keys(context, [&request.key])?;
        self.check_ttl(request.ttl)?;
        let layout = self.inner.layout;
        let cf = layout.family(&request.cf)?;
        let key = layout.engine_key(&request.key);
        let latched = deadline.bound(self.inner.latches.acquire([key.as_ref()])).await?;
        let view = self.view(context, deadline).await?;
        let previous = self.value_in(context, &view, &request.key, cf)?.map(|value| value.bytes);
        let expected = (!request.previous_not_exist).then_some(request.previous_value);
        let succeed = previous == expected;
        if succeed {
            let mut batch = WriteBatch::new();
            if request.delete {
                batch.delete(cf, key);
            } else {
                let value = Value::new(request.value, request.ttl, self.now());
                batch.put(cf, key, value.encode(layout.0));
            }
            // What was compared must still be so when it is swapped: in the term of the view.
            let context = kvrpcpb::Context { term: view.term, ..context.clone() };
            self.write_latched(context, batch, latched, deadline).await?;
        }
        Ok(Swapped { succeed, previous })
    }

    async fn write(
        &self,
        context: &kvrpcpb::Context,
        keys: Vec<Bytes>,
        batch: WriteBatch,
        for_cas: bool,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        if batch.is_empty() {
            return Ok(());
        }
        if !for_cas {
            return Ok(deadline.bound_write(self.inner.storage.write(context, batch)).await?);
        }
        let keys = keys.iter().map(Bytes::as_ref);
        let latched = deadline.bound(self.inner.latches.acquire(keys)).await?;
        self.write_latched(context.clone(), batch, latched, deadline).await
    }

    /// Writes, and keeps the latches until that is done.
    async fn write_latched(
        &self,
        context: kvrpcpb::Context,
        batch: WriteBatch,
        latched: Latched,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        let inner = self.inner.clone();
        let to_the_end = ToTheEnd::new(async move {
            let result = inner.storage.write(&context, batch).await;
            drop(latched);
            result
        });
        Ok(deadline.bound_write(to_the_end).await?)
    }

    fn check_ttl(&self, ttl: u64) -> Result<(), Stop> {
        if ttl > 0 && !self.inner.layout.has_ttl() {
            return Err(Stop::Mistake("ttl is not enabled, but get put request with ttl".into()));
        }
        Ok(())
    }
}

/// The time to live of each pair.
fn ttls(request: &RawBatchPutRequest) -> Result<Vec<u64>, String> {
    let pairs = request.pairs.len();
    match request.ttls.as_slice() {
        [] => Ok(vec![request.ttl; pairs]),
        [ttl] => Ok(vec![*ttl; pairs]),
        ttls if ttls.len() == pairs => Ok(ttls.to_vec()),
        _ => Err("The length of ttls does not equal to the length of pairs".into()),
    }
}
