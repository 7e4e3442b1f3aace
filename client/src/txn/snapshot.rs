//! Reading at a timestamp.
//!
//! A snapshot sees what was committed at its timestamp and nothing later. A lock that is older than
//! the timestamp may be a commit in the making that belongs into the snapshot, so a reader that
//! meets one finds out what became of it. If its transaction lives, it is told to commit after this
//! snapshot, and the reader passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use proto::{KeyRange, Timestamp, kvrpcpb};

use super::{TransactionClient, key_error};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::raw::KvPair;
use crate::replica_read::ReplicaRead;
use crate::route::Route;
use crate::scan::{Order, PAGE_LEN_MAX};
use crate::span::Span;

/// What was committed at a timestamp. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    client: TransactionClient,
    at: Timestamp,
    /// Transactions whose locks do not concern this snapshot: they commit after it, if at all.
    passed: Arc<Mutex<BTreeSet<u64>>>,
    replica_read: ReplicaRead,
}

/// Some pairs of a range on the wire, and what of the range is left to read.
pub(super) struct Page {
    pub(super) pairs: Vec<KvPair>,
    pub(super) rest: Option<KeyRange>,
}

impl Snapshot {
    /// A snapshot at a timestamp. At [`Timestamp::MAX`] each read sees the latest committed.
    pub fn at(client: &TransactionClient, at: Timestamp) -> Self {
        let replica_read = client.cluster.config.replica_read;
        Self { client: client.clone(), at, passed: Arc::default(), replica_read }
    }

    /// The same snapshot, read from these replicas.
    pub fn with_replica_read(&self, replica_read: ReplicaRead) -> Self {
        Self { replica_read, ..self.clone() }
    }

    /// The timestamp.
    pub fn timestamp(&self) -> Timestamp {
        self.at
    }

    pub(super) fn client(&self) -> &TransactionClient {
        &self.client
    }

    /// The value of a key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.read_one(self.client.codec.encode(key.as_ref())).await
    }

    /// The values of those keys that have one, in the order of the keys.
    pub async fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        let codec = &self.client.codec;
        let keys = keys.into_iter().map(|key| codec.encode(key.as_ref())).collect();
        let mut pairs = self.read_many(keys).await?;
        pairs.sort();
        Ok(self.decoded(pairs))
    }

    /// The first `limit` pairs of a range, in ascending order.
    pub async fn scan(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(range.into(), limit, Order::Forward, false).await
    }

    /// As [`Self::scan`], without the values.
    pub async fn scan_keys(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<Bytes>> {
        let pairs = self.scan_all(range.into(), limit, Order::Forward, true).await?;
        Ok(pairs.into_iter().map(|(key, _)| key).collect())
    }

    /// The last `limit` pairs of a range, in descending order.
    pub async fn scan_reverse(&self, range: impl Into<Span>, limit: usize) -> Result<Vec<KvPair>> {
        self.scan_all(range.into(), limit, Order::Reverse, false).await
    }

    /// The last `limit` keys of a range, in descending order.
    pub async fn scan_keys_reverse(
        &self,
        range: impl Into<Span>,
        limit: usize,
    ) -> Result<Vec<Bytes>> {
        let pairs = self.scan_all(range.into(), limit, Order::Reverse, true).await?;
        Ok(pairs.into_iter().map(|(key, _)| key).collect())
    }

    /// All pairs of a range in ascending order, fetched page by page as they are read. Each page has
    /// a deadline of its own, and all of them are of this snapshot, wherever regions are split or
    /// move meanwhile.
    pub fn stream(&self, range: impl Into<Span>) -> BoxStream<'static, Result<KvPair>> {
        self.pages(range.into(), Order::Forward, false)
    }

    /// As [`Self::stream`], in descending order.
    pub fn stream_reverse(&self, range: impl Into<Span>) -> BoxStream<'static, Result<KvPair>> {
        self.pages(range.into(), Order::Reverse, false)
    }

    /// As [`Self::stream`], without the values.
    pub fn stream_keys(&self, range: impl Into<Span>) -> BoxStream<'static, Result<Bytes>> {
        self.pages(range.into(), Order::Forward, true).map_ok(|(key, _)| key).boxed()
    }

    fn pages(
        &self,
        range: Span,
        order: Order,
        keys_only: bool,
    ) -> BoxStream<'static, Result<KvPair>> {
        let rest = Some(self.client.codec.encode_range(&range.0));
        let this = self.clone();
        stream::try_unfold((this, rest), move |(this, rest): (Self, Option<KeyRange>)| async move {
            let Some(rest) = rest else { return Ok::<_, Error>(None) };
            let mut call = this.call("scan");
            let page = this.page(&mut call, &rest, PAGE_LEN_MAX, order, keys_only).await?;
            let pairs = this.decoded(page.pairs);
            Ok(Some((stream::iter(pairs.into_iter().map(Ok)), (this, page.rest))))
        })
        .try_flatten()
        .boxed()
    }

    async fn scan_all(
        &self,
        range: Span,
        limit: usize,
        order: Order,
        keys_only: bool,
    ) -> Result<Vec<KvPair>> {
        let mut call = self.call("scan");
        let mut pairs = Vec::new();
        let mut rest = Some(self.client.codec.encode_range(&range.0));
        while let Some(range) = rest.take()
            && pairs.len() < limit
        {
            let wanted = (limit - pairs.len()).min(PAGE_LEN_MAX);
            let page = self.page(&mut call, &range, wanted, order, keys_only).await?;
            pairs.extend(page.pairs);
            rest = page.rest;
        }
        Ok(self.decoded(pairs))
    }

    fn call(&self, what: &'static str) -> Call {
        let mut call = self.client.call(what);
        call.reads_from(self.replica_read);
        call
    }

    /// One key, on the wire.
    pub(super) async fn read_one(&self, key: Bytes) -> Result<Option<Bytes>> {
        let client = &self.client;
        let mut call = self.call("get");
        loop {
            let (_, answer) = client
                .cluster
                .one(&mut call, &client.codec, &key, |_| kvrpcpb::GetRequest {
                    context: self.context(),
                    key: key.clone(),
                    version: self.at.0,
                    ..Default::default()
                })
                .await?;
            match answer.error {
                None => return Ok((!answer.not_found).then_some(answer.value)),
                Some(error) => {
                    let lock = key_error::lock_of(&call, &client.codec, error)?;
                    self.pass(&mut call, vec![lock]).await?;
                }
            }
        }
    }

    /// Many keys, on the wire; those without a value are left out.
    pub(super) async fn read_many(&self, mut keys: Vec<Bytes>) -> Result<Vec<KvPair>> {
        let client = &self.client;
        let mut call = self.call("batch get");
        let mut pairs = Vec::new();
        while !keys.is_empty() {
            let answers = client
                .cluster
                .many(&mut call, client.keys(), keys, |keys: &[Bytes]| kvrpcpb::BatchGetRequest {
                    context: self.context(),
                    keys: keys.to_vec(),
                    version: self.at.0,
                    ..Default::default()
                })
                .await?;
            keys = Vec::new();
            let mut locks = Vec::new();
            for (asked, answer) in answers {
                let in_pairs = answer.pairs.iter().filter_map(|pair| pair.error.clone());
                let errors: Vec<_> = answer.error.clone().into_iter().chain(in_pairs).collect();
                if errors.is_empty() {
                    pairs.extend(answer.pairs.into_iter().map(|pair| (pair.key, pair.value)));
                    continue;
                }
                // A locked key's pair need not say which key it is: ask for all of them again.
                keys.extend(asked);
                for error in errors {
                    locks.push(key_error::lock_of(&call, &client.codec, error)?);
                }
            }
            if !locks.is_empty() {
                self.pass(&mut call, locks).await?;
            }
        }
        Ok(pairs)
    }

    /// Some pairs from the edge of a range on the wire.
    pub(super) async fn page(
        &self,
        call: &mut Call,
        range: &KeyRange,
        limit: usize,
        order: Order,
        keys_only: bool,
    ) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page { pairs: Vec::new(), rest: None });
        }
        let client = &self.client;
        let request = |route: &Route| {
            let (start_key, end_key) = order.bounds(&client.part(&route.region, range));
            kvrpcpb::ScanRequest {
                context: self.context(),
                start_key,
                end_key,
                limit: limit as u32,
                version: self.at.0,
                key_only: keys_only,
                reverse: order == Order::Reverse,
                ..Default::default()
            }
        };
        loop {
            let (route, answer) =
                client.cluster.at_edge(call, &client.codec, range, order, request).await?;
            let full = answer.pairs.len() >= limit;
            let mut locks = Vec::new();
            let mut pairs = Vec::with_capacity(answer.pairs.len());
            if let Some(error) = answer.error {
                locks.push(key_error::lock_of(call, &client.codec, error)?);
            }
            for pair in answer.pairs {
                match pair.error {
                    Some(error) => locks.push(key_error::lock_of(call, &client.codec, error)?),
                    // What follows a locked key is read again together with it.
                    None if locks.is_empty() => pairs.push((pair.key, pair.value)),
                    None => {}
                }
            }
            let is_locked = !locks.is_empty();
            if is_locked {
                self.pass(call, locks).await?;
            }
            let last = pairs.last().map(|(key, _): &KvPair| key.clone());
            if is_locked && last.is_none() {
                continue;
            }
            let part = client.part(&route.region, range);
            let rest = order.rest(range, &part, last.filter(|_| full || is_locked));
            return Ok(Page { pairs, rest });
        }
    }

    /// Deals with locks in the way of this snapshot.
    async fn pass(&self, call: &mut Call, locks: Vec<kvrpcpb::LockInfo>) -> Result<()> {
        let passed = self.client.clear(call, locks, Some(self.at)).await?;
        self.passed.lock().extend(passed);
        Ok(())
    }

    fn context(&self) -> Option<kvrpcpb::Context> {
        let resolved_locks = self.passed.lock().iter().copied().collect();
        Some(kvrpcpb::Context { resolved_locks, ..Default::default() })
    }

    pub(super) fn decoded(&self, pairs: Vec<KvPair>) -> Vec<KvPair> {
        let codec = &self.client.codec;
        pairs.into_iter().map(|(key, value)| (codec.decode(key), value)).collect()
    }
}
