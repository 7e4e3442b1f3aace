//! Raw keys of a range: scans, streams, checksums.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use proto::{KeyRange, kvrpcpb};

use super::{KvPair, RawClient, accepted};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::route::Route;
use crate::scan::{Order, PAGE_LEN_MAX};
use crate::span::Span;

/// What a range adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// The exclusive or of CRC-64s, one for each pair: the same for the same pairs, however they are
    /// spread over regions.
    pub crc64_xor: u64,
    /// How many pairs there are.
    pub pairs: u64,
    /// How long all keys and values are together, in bytes.
    pub bytes: u64,
}

impl RawClient {
    /// The first `limit` pairs of a range, in ascending order.
    pub async fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(self.call("raw scan"), range.into(), limit, Order::Forward, false).await
    }

    /// As [`Self::scan`], without the values.
    pub async fn scan_keys(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<Bytes>> {
        let call = self.call("raw scan");
        let pairs = self.scan_all(call, range.into(), limit, Order::Forward, true).await?;
        Ok(pairs.into_iter().map(|(key, _)| key).collect())
    }

    /// The last `limit` pairs of a range, in descending order.
    pub async fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(self.call("raw scan"), range.into(), limit, Order::Reverse, false).await
    }

    /// As [`Self::scan_reverse`], without the values.
    pub async fn scan_keys_reverse(
        &self,
        range: impl Into<Span>,
        limit: usize,
    ) -> Result<Vec<Bytes>> {
        let call = self.call("raw scan");
        let pairs = self.scan_all(call, range.into(), limit, Order::Reverse, true).await?;
        Ok(pairs.into_iter().map(|(key, _)| key).collect())
    }

    /// The first `each_limit` pairs of every range, range by range.
    pub async fn batch_scan<S: Into<Span>>(
        &self,
        ranges: impl IntoIterator<Item = S>,
        each_limit: usize,
    ) -> Result<Vec<Vec<KvPair>>> {
        let scans = ranges.into_iter().map(|range| self.scan(range, each_limit));
        let side_by_side = self.cluster.config.concurrency_max.max(1);
        stream::iter(scans.collect::<Vec<_>>()).buffered(side_by_side).try_collect().await
    }

    /// All pairs of a range in ascending order, fetched page by page as they are read; each page has
    /// a deadline of its own. Pairs written meanwhile may or may not be seen.
    pub fn stream(&self, range: impl Into<Span>) -> BoxStream<'static, Result<KvPair>> {
        self.pages(range.into(), Order::Forward)
    }

    /// As [`Self::stream`], in descending order.
    pub fn stream_reverse(&self, range: impl Into<Span>) -> BoxStream<'static, Result<KvPair>> {
        self.pages(range.into(), Order::Reverse)
    }

    fn pages(&self, range: Span, order: Order) -> BoxStream<'static, Result<KvPair>> {
        let rest = Some(self.codec.encode_range(&range.0));
        let this = self.clone();
        stream::try_unfold((this, rest), move |(this, rest): (Self, Option<KeyRange>)| async move {
            let Some(rest) = rest else { return Ok::<_, Error>(None) };
            let mut call = this.call("raw scan");
            let page = this.page(&mut call, &rest, PAGE_LEN_MAX, order, false).await?;
            let (pairs, rest) = page;
            Ok(Some((stream::iter(pairs.into_iter().map(Ok)), (this, rest))))
        })
        .try_flatten()
        .boxed()
    }

    /// What a range adds up to, region by region; not at one moment.
    pub async fn checksum(&self, range: impl Into<Span>) -> Result<Checksum> {
        let mut call = self.call("raw checksum");
        let mut sum = Checksum::default();
        let mut rest = Some(self.codec.encode_range(&range.into().0));
        while let Some(range) = rest.take()
            && !range.is_empty()
        {
            let request = |route: &Route| {
                let part = self.part(route, &range);
                let range = kvrpcpb::KeyRange { end_key: part.wire_end(), start_key: part.start };
                kvrpcpb::RawChecksumRequest {
                    algorithm: kvrpcpb::ChecksumAlgorithm::Crc64Xor as i32,
                    ranges: vec![range],
                    ..Default::default()
                }
            };
            let (route, answer) =
                self.cluster.one(&mut call, &self.codec, &range.start, request).await?;
            accepted(&call, &answer.error)?;
            sum.crc64_xor ^= answer.checksum;
            sum.pairs += answer.total_kvs;
            sum.bytes += answer.total_bytes;
            rest = Order::Forward.rest(&range, &self.part(&route, &range), None);
        }
        Ok(sum)
    }

    async fn scan_all(
        &self,
        mut call: Call,
        range: Span,
        limit: usize,
        order: Order,
        keys_only: bool,
    ) -> Result<Vec<KvPair>> {
        let mut pairs = Vec::new();
        let mut rest = Some(self.codec.encode_range(&range.0));
        while let Some(range) = rest.take()
            && pairs.len() < limit
        {
            let wanted = (limit - pairs.len()).min(PAGE_LEN_MAX);
            let (page, next) = self.page(&mut call, &range, wanted, order, keys_only).await?;
            pairs.extend(page);
            rest = next;
        }
        Ok(pairs)
    }

    /// Some pairs from the beginning of a range on the wire, and what of the range is left to read.
    async fn page(
        &self,
        call: &mut Call,
        range: &KeyRange,
        limit: usize,
        order: Order,
        keys_only: bool,
    ) -> Result<(Vec<KvPair>, Option<KeyRange>)> {
        if range.is_empty() {
            return Ok((Vec::new(), None));
        }
        let request = |route: &Route| {
            let part = self.part(route, range);
            let (start_key, end_key) = order.bounds(&part);
            kvrpcpb::RawScanRequest {
                start_key,
                end_key,
                limit: limit as u32,
                key_only: keys_only,
                reverse: order == Order::Reverse,
                ..Default::default()
            }
        };
        let (route, answer) =
            self.cluster.at_edge(call, &self.codec, range, order, request).await?;
        let full = answer.kvs.len() >= limit;
        let last = answer.kvs.last().map(|pair| pair.key.clone());
        let part = self.part(&route, range);
        let rest = order.rest(range, &part, last.filter(|_| full));
        let mut pairs = Vec::with_capacity(answer.kvs.len());
        self.take_pairs(call, answer.kvs, &mut pairs)?;
        Ok((pairs, rest))
    }
}
