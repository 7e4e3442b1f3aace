//! The reading requests on raw keys.

use bytes::Bytes;
use proto::kvrpcpb::{
    self, KvPair, RawBatchGetRequest, RawBatchGetResponse, RawBatchScanRequest,
    RawBatchScanResponse, RawChecksumRequest, RawChecksumResponse, RawGetKeyTtlRequest,
    RawGetKeyTtlResponse, RawGetRequest, RawGetResponse, RawScanRequest, RawScanResponse,
};
use proto::{KeyRange, Refusal};
use raftstore::engine::{ColumnFamily, Snapshot};

use super::checksum::Checksum;
use super::scan::{RawScanner, Step};
use super::value::Value;
use super::{Raw, Stop};
use crate::deadline::Deadline;
use crate::storage::{Storage, View, outside};

/// Pairs that a scan looks at before it looks at the clock and lets others run.
const PAIRS_PER_SLICE: usize = 256;

/// One range to walk, as the user gave it: from `start` towards `end`, whichever way that is.
struct Walk<'a> {
    start: &'a Bytes,
    end: &'a Bytes,
    reverse: bool,
}

impl<St: Storage> Raw<St> {
    /// `RawGet`.
    pub async fn get(&self, mut request: RawGetRequest) -> RawGetResponse {
        let context = request.context.take().unwrap_or_default();
        match self.value_of(&context, &request.key, &request.cf).await {
            Ok(Some(value)) => RawGetResponse { value: value.bytes, ..Default::default() },
            Ok(None) => RawGetResponse { not_found: true, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_text();
                RawGetResponse { region_error, error, ..Default::default() }
            }
        }
    }

    /// `RawGetKeyTTL`: seconds left, 0 for ever.
    pub async fn get_key_ttl(&self, mut request: RawGetKeyTtlRequest) -> RawGetKeyTtlResponse {
        let context = request.context.take().unwrap_or_default();
        let now = self.now();
        let answer = if self.inner.layout.has_ttl() {
            self.value_of(&context, &request.key, &request.cf).await
        } else {
            Err(Stop::Mistake("ttl is not enabled, so no key has one".into()))
        };
        match answer {
            Ok(Some(value)) => RawGetKeyTtlResponse {
                ttl: value.expires_at.map_or(0, |expiry| expiry.saturating_sub(now)),
                ..Default::default()
            },
            Ok(None) => RawGetKeyTtlResponse { not_found: true, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_text();
                RawGetKeyTtlResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn value_of(
        &self,
        context: &kvrpcpb::Context,
        key: &Bytes,
        cf: &str,
    ) -> Result<Option<Value>, Stop> {
        let deadline = Deadline::of(context);
        self.check_keys(context, [key])?;
        let cf = self.inner.layout.family(cf)?;
        let view = self.view(context, deadline).await?;
        self.value_in(context, &view, key, cf)
    }

    pub(super) async fn view(
        &self,
        context: &kvrpcpb::Context,
        deadline: Deadline,
    ) -> Result<View<St::Snapshot>, Stop> {
        Ok(deadline.bound(self.inner.storage.view(context)).await??)
    }

    pub(super) fn value_in(
        &self,
        context: &kvrpcpb::Context,
        view: &View<St::Snapshot>,
        key: &Bytes,
        cf: ColumnFamily,
    ) -> Result<Option<Value>, Stop> {
        let engine_key = self.inner.layout.engine_key(key);
        if !view.range.contains(&engine_key) {
            return Err(outside(context, &view.range, engine_key).into());
        }
        match view.snapshot.get(cf, &engine_key)? {
            None => Ok(None),
            Some(stored) => Ok(self.inner.layout.value(stored, self.now())?),
        }
    }

    /// `RawBatchGet`: pairs of the keys that exist, in the request's order.
    pub async fn batch_get(&self, mut request: RawBatchGetRequest) -> RawBatchGetResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_batch_get(&context, request).await {
            Ok(pairs) => RawBatchGetResponse { pairs, ..Default::default() },
            Err(stop) => {
                let (region_error, pairs) = stop.into_pairs();
                RawBatchGetResponse { region_error, pairs }
            }
        }
    }

    async fn try_batch_get(
        &self,
        context: &kvrpcpb::Context,
        request: RawBatchGetRequest,
    ) -> Result<Vec<KvPair>, Stop> {
        let deadline = Deadline::of(context);
        self.check_keys(context, &request.keys)?;
        let cf = self.inner.layout.family(&request.cf)?;
        let view = self.view(context, deadline).await?;
        let mut pairs = Vec::new();
        for (number, key) in request.keys.into_iter().enumerate() {
            if let Some(value) = self.value_in(context, &view, &key, cf)? {
                pairs.push(KvPair { key, value: value.bytes, ..Default::default() });
            }
            rest(number, deadline).await?;
        }
        Ok(pairs)
    }

    /// `RawScan`: pairs of a range in order; in reverse `start_key` is the exclusive upper bound.
    pub async fn scan(&self, mut request: RawScanRequest) -> RawScanResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_scan(&context, &request).await {
            Ok(kvs) => RawScanResponse { kvs, ..Default::default() },
            Err(stop) => {
                let (region_error, kvs) = stop.into_pairs();
                RawScanResponse { region_error, kvs }
            }
        }
    }

    async fn try_scan(
        &self,
        context: &kvrpcpb::Context,
        request: &RawScanRequest,
    ) -> Result<Vec<KvPair>, Stop> {
        let deadline = Deadline::of(context);
        let walk =
            Walk { start: &request.start_key, end: &request.end_key, reverse: request.reverse };
        self.check_walk(context, &walk)?;
        let cf = self.inner.layout.family(&request.cf)?;
        let view = self.view(context, deadline).await?;
        let limit = request.limit as usize;
        let mut pairs = Vec::new();
        self.walk(context, &view, cf, &walk, deadline, |key, value| {
            if pairs.len() < limit {
                let value = if request.key_only { Bytes::new() } else { value };
                pairs.push(KvPair { key, value, ..Default::default() });
            }
            pairs.len() < limit
        })
        .await?;
        Ok(pairs)
    }

    /// `RawBatchScan`: several ranges, each up to the limit, one behind the other.
    pub async fn batch_scan(&self, mut request: RawBatchScanRequest) -> RawBatchScanResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_batch_scan(&context, &request).await {
            Ok(kvs) => RawBatchScanResponse { kvs, ..Default::default() },
            Err(stop) => {
                let (region_error, kvs) = stop.into_pairs();
                RawBatchScanResponse { region_error, kvs }
            }
        }
    }

    async fn try_batch_scan(
        &self,
        context: &kvrpcpb::Context,
        request: &RawBatchScanRequest,
    ) -> Result<Vec<KvPair>, Stop> {
        let deadline = Deadline::of(context);
        let cf = self.inner.layout.family(&request.cf)?;
        let nowhere = Bytes::new();
        let mut walks = Vec::with_capacity(request.ranges.len());
        for (number, range) in request.ranges.iter().enumerate() {
            // A missing end is where the next range begins.
            let next = request.ranges.get(number + 1).map_or(&nowhere, |next| &next.start_key);
            let end = if range.end_key.is_empty() { next } else { &range.end_key };
            let walk = Walk { start: &range.start_key, end, reverse: request.reverse };
            let is_ordered = if walk.reverse {
                walk.start.is_empty() || walk.start > end
            } else {
                walk.start < end
            };
            if !end.is_empty() && !is_ordered {
                return Err(Stop::Mistake("Invalid KeyRanges".into()));
            }
            self.check_walk(context, &walk)?;
            walks.push(walk);
        }
        let view = self.view(context, deadline).await?;
        let limit = request.each_limit as usize;
        let mut pairs = Vec::new();
        for walk in walks {
            let full = pairs.len() + limit;
            self.walk(context, &view, cf, &walk, deadline, |key, value| {
                if pairs.len() < full {
                    let value = if request.key_only { Bytes::new() } else { value };
                    pairs.push(KvPair { key, value, ..Default::default() });
                }
                pairs.len() < full
            })
            .await?;
        }
        Ok(pairs)
    }

    /// `RawChecksum`: a sum over all pairs of some ranges.
    pub async fn checksum(&self, mut request: RawChecksumRequest) -> RawChecksumResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_checksum(&context, &request).await {
            Ok(sum) => RawChecksumResponse {
                checksum: sum.checksum,
                total_kvs: sum.pairs,
                total_bytes: sum.bytes,
                ..Default::default()
            },
            Err(stop) => {
                let (region_error, error) = stop.into_text();
                RawChecksumResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn try_checksum(
        &self,
        context: &kvrpcpb::Context,
        request: &RawChecksumRequest,
    ) -> Result<Checksum, Stop> {
        let deadline = Deadline::of(context);
        let view = self.view(context, deadline).await?;
        let mut sum = Checksum::default();
        for range in &request.ranges {
            let walk = Walk { start: &range.start_key, end: &range.end_key, reverse: false };
            self.check_walk(context, &walk)?;
            self.walk(context, &view, ColumnFamily::Default, &walk, deadline, |key, value| {
                sum.add(&key, &value);
                true
            })
            .await?;
        }
        Ok(sum)
    }

    fn check_walk(&self, context: &kvrpcpb::Context, walk: &Walk<'_>) -> Result<(), Stop> {
        let (lower, upper) = walk.bounds();
        Ok(self.check_range(context, lower, upper)?)
    }

    /// Hands pairs to `take` until it says no.
    async fn walk(
        &self,
        context: &kvrpcpb::Context,
        view: &View<St::Snapshot>,
        cf: ColumnFamily,
        walk: &Walk<'_>,
        deadline: Deadline,
        mut take: impl FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), Stop> {
        let (lower, upper) = walk.bounds();
        let layout = self.inner.layout;
        let range = layout.engine_range(lower, upper);
        check_begins_inside(context, &view.range, &range, walk.reverse)?;
        let range = range.intersection(&view.range);
        let now = self.now();
        let mut scanner = RawScanner::new(&view.snapshot, cf, &range, layout, now, walk.reverse)?;
        for number in 0.. {
            match scanner.step()? {
                Step::End => break,
                Step::Nothing => {}
                Step::Pair(key, value) => {
                    if !take(key, value) {
                        break;
                    }
                }
            }
            rest(number, deadline).await?;
        }
        Ok(())
    }
}

impl<'a> Walk<'a> {
    fn bounds(&self) -> (&'a Bytes, &'a Bytes) {
        if self.reverse { (self.end, self.start) } else { (self.start, self.end) }
    }
}

/// A walk must begin in the region, or pairs would be missing from its head. It may end elsewhere:
/// the caller goes on with the next region.
fn check_begins_inside(
    context: &kvrpcpb::Context,
    region: &KeyRange,
    range: &KeyRange,
    reverse: bool,
) -> Result<(), Refusal> {
    if !reverse {
        let is_inside = range.start.is_empty() || region.contains(&range.start);
        return if is_inside { Ok(()) } else { Err(outside(context, region, range.start.clone())) };
    }
    match (&range.end, &region.end) {
        (Some(from), Some(end)) if from > end => Err(outside(context, region, from.clone())),
        (Some(from), _) if *from < region.start => Err(outside(context, region, from.clone())),
        (Some(_) | None, _) => Ok(()),
    }
}

/// Now and then: has the deadline passed, and does anybody else want to run?
async fn rest(number: usize, deadline: Deadline) -> Result<(), Stop> {
    if (number + 1).is_multiple_of(PAIRS_PER_SLICE) {
        deadline.check()?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
