//! The raw API: keys and values as they are, one operation at a time.
//!
//! Every operation on one key is linearizable. Operations on several keys are as many single ones,
//! sent side by side: on failure some may have been done. A put or delete whose outcome is open (the
//! connection broke, the leader changed) is sent again, which is right as long as nobody else writes
//! the same key meanwhile: a late first copy could overwrite what came after the second. A client
//! made with [`RawClient::strict`] reports such writes as undetermined instead.

mod range;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, kvrpcpb};

use crate::call::Call;
use crate::cluster::Cluster;
use crate::error::{ErrorKind, Result};
use crate::keyspace::KeyCodec;
use crate::replica_read::ReplicaRead;
use crate::request::Shape;
use crate::route::Route;
use crate::span::Span;
pub use range::Checksum;

/// A key and its value.
pub type KvPair = (Bytes, Bytes);

/// How large a batch of puts may get: well below what a store takes as one log entry.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// How many keys go into one batch.
const BATCH_LEN_MAX: usize = 4096;
/// How long a value still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// There is no value.
    Missing,
    /// It does not expire.
    Forever,
    /// It expires after this time, in whole seconds.
    Remaining(Duration),
}

/// What a compare-and-swap found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whether the value was as expected, and so the new one was written.
    pub swapped: bool,
    /// The value before; `None` if there was none.
    pub previous: Option<Bytes>,
}

/// A pair on the wire, and how many seconds it lives; zero is for ever.
struct Expiring {
    key: Bytes,
    value: Bytes,
    ttl: u64,
}

/// Keys and values without transactions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RawClient {
    cluster: Arc<Cluster>,
    codec: KeyCodec,
    timeout: Duration,
    strict: bool,
    replica_read: ReplicaRead,
}

impl RawClient {
    pub(crate) fn new(cluster: Arc<Cluster>, codec: KeyCodec) -> Self {
        let (timeout, replica_read) = (cluster.config.timeout, cluster.config.replica_read);
        Self { cluster, codec, timeout, strict: false, replica_read }
    }

    /// The same client with another deadline for each call.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, which never sends a write twice when the first may have been carried out:
    /// such a call fails as undetermined.
    pub fn strict(&self) -> Self {
        Self { strict: true, ..self.clone() }
    }

    /// The same client, whose reads are answered by these replicas.
    pub fn with_replica_read(&self, replica_read: ReplicaRead) -> Self {
        Self { replica_read, ..self.clone() }
    }

    /// The value of a key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let mut call = self.call("raw get");
        let key = self.codec.encode(key.as_ref());
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::RawGetRequest {
                key: key.clone(),
                ..Default::default()
            })
            .await?;
        accepted(&call, &answer.error)?;
        Ok((!answer.not_found).then_some(answer.value))
    }

    /// The values of those keys that have one, in the order of the keys.
    pub async fn batch_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<KvPair>> {
        let mut call = self.call("raw batch get");
        let keys = keys.into_iter().map(|key| self.codec.encode(key.as_ref())).collect();
        let answers = self
            .cluster
            .many(&mut call, self.keys(), keys, |keys: &[Bytes]| kvrpcpb::RawBatchGetRequest {
                keys: keys.to_vec(),
                ..Default::default()
            })
            .await?;
        let mut pairs = Vec::new();
        for (_, answer) in answers {
            self.take_pairs(&call, answer.pairs, &mut pairs)?;
        }
        pairs.sort();
        Ok(pairs)
    }

    /// Writes a value.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        self.put_for(key.as_ref(), value.into(), 0).await
    }

    /// Writes a value that expires. Whole seconds count, rounded up; the cluster must allow it.
    pub async fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<()> {
        self.put_for(key.as_ref(), value.into(), seconds(ttl)).await
    }

    async fn put_for(&self, key: &[u8], value: Bytes, ttl: u64) -> Result<()> {
        let mut call = self.call("raw put");
        let key = self.codec.encode(key);
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::RawPutRequest {
                key: key.clone(),
                value: value.clone(),
                ttl,
                // One order for a key's puts and its compare-and-swaps.
                for_cas: true,
                ..Default::default()
            })
            .await?;
        accepted(&call, &answer.error)
    }

    /// How long the value of a key still lives.
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl> {
        let mut call = self.call("raw ttl");
        let key = self.codec.encode(key.as_ref());
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::RawGetKeyTtlRequest {
                key: key.clone(),
                ..Default::default()
            })
            .await?;
        accepted(&call, &answer.error)?;
        Ok(match (answer.not_found, answer.ttl) {
            (true, _) => Ttl::Missing,
            (false, 0) => Ttl::Forever,
            (false, seconds) => Ttl::Remaining(Duration::from_secs(seconds)),
        })
    }

    /// Writes many values. Each is written or not by itself.
    pub async fn batch_put<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.batch_put_for(self.expiring(pairs, 0)).await
    }

    /// Writes many values that expire together.
    pub async fn batch_put_with_ttl<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
        ttl: Duration,
    ) -> Result<()> {
        self.batch_put_for(self.expiring(pairs, seconds(ttl))).await
    }

    /// Writes many values, each of which expires in its own time; `None` is never.
    pub async fn batch_put_with_ttls<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V, Option<Duration>)>,
    ) -> Result<()> {
        let encode = |(key, value, ttl): (K, V, Option<Duration>)| Expiring {
            key: self.codec.encode(key.as_ref()),
            value: value.into(),
            ttl: ttl.map_or(0, seconds),
        };
        self.batch_put_for(pairs.into_iter().map(encode).collect()).await
    }

    async fn batch_put_for(&self, pairs: Vec<Expiring>) -> Result<()> {
        let mut call = self.call("raw batch put");
        let shape = Shape {
            codec: &self.codec,
            key: |pair: &Expiring| &pair.key,
            size: |pair: &Expiring| pair.key.len() + pair.value.len(),
            batch_bytes_max: BATCH_BYTES_MAX,
            batch_len_max: BATCH_LEN_MAX,
        };
        let answers = self
            .cluster
            .many(&mut call, shape, pairs, |pairs: &[Expiring]| {
                let expires = pairs.iter().any(|pair| pair.ttl > 0);
                kvrpcpb::RawBatchPutRequest {
                    pairs: pairs
                        .iter()
                        .map(|pair| kvrpcpb::KvPair {
                            key: pair.key.clone(),
                            value: pair.value.clone(),
                            ..Default::default()
                        })
                        .collect(),
                    ttls: if expires {
                        pairs.iter().map(|pair| pair.ttl).collect()
                    } else {
                        vec![]
                    },
                    for_cas: true,
                    ..Default::default()
                }
            })
            .await?;
        answers.iter().try_for_each(|(_, answer)| accepted(&call, &answer.error))
    }

    /// Removes a key; it need not exist.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let mut call = self.call("raw delete");
        let key = self.codec.encode(key.as_ref());
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::RawDeleteRequest {
                key: key.clone(),
                for_cas: true,
                ..Default::default()
            })
            .await?;
        accepted(&call, &answer.error)
    }

    /// Removes many keys.
    pub async fn batch_delete<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<()> {
        let mut call = self.call("raw batch delete");
        let keys = keys.into_iter().map(|key| self.codec.encode(key.as_ref())).collect();
        let answers = self
            .cluster
            .many(&mut call, self.keys(), keys, |keys: &[Bytes]| kvrpcpb::RawBatchDeleteRequest {
                keys: keys.to_vec(),
                for_cas: true,
                ..Default::default()
            })
            .await?;
        answers.iter().try_for_each(|(_, answer)| accepted(&call, &answer.error))
    }

    /// Removes every key of a range, region by region.
    pub async fn delete_range(&self, range: impl Into<Span>) -> Result<()> {
        let mut call = self.call("raw delete range");
        let range = self.codec.encode_range(&range.into().0);
        let mut start = range.start.clone();
        loop {
            let rest = KeyRange { start: start.clone(), end: range.end.clone() };
            if rest.is_empty() {
                return Ok(());
            }
            let (route, answer) = self
                .cluster
                .one(&mut call, &self.codec, &start, |route| {
                    let part = self.part(route, &rest);
                    kvrpcpb::RawDeleteRangeRequest {
                        end_key: part.wire_end(),
                        start_key: part.start,
                        ..Default::default()
                    }
                })
                .await?;
            accepted(&call, &answer.error)?;
            match self.part(&route, &rest).end {
                Some(end) => start = end,
                None => return Ok(()),
            }
        }
    }

    /// Writes `new` if the value is `expected` (`None`: if there is none), in one step.
    ///
    /// Never sent twice: if no answer comes, the outcome is undetermined.
    pub async fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl Into<Bytes>>,
        new: impl Into<Bytes>,
    ) -> Result<Swap> {
        let new = kvrpcpb::RawCasRequest { value: new.into(), ..Default::default() };
        self.swap(key.as_ref(), expected.map(Into::into), new).await
    }

    /// As [`Self::compare_and_swap`]; the new value expires.
    pub async fn compare_and_swap_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl Into<Bytes>>,
        new: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Swap> {
        let new =
            kvrpcpb::RawCasRequest { value: new.into(), ttl: seconds(ttl), ..Default::default() };
        self.swap(key.as_ref(), expected.map(Into::into), new).await
    }

    /// Removes the key if its value is `expected`, in one step.
    pub async fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: impl Into<Bytes>,
    ) -> Result<Swap> {
        let delete = kvrpcpb::RawCasRequest { delete: true, ..Default::default() };
        self.swap(key.as_ref(), Some(expected.into()), delete).await
    }

    async fn swap(
        &self,
        key: &[u8],
        expected: Option<Bytes>,
        new: kvrpcpb::RawCasRequest,
    ) -> Result<Swap> {
        let mut call = self.call("raw compare and swap");
        let key = self.codec.encode(key);
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::RawCasRequest {
                key: key.clone(),
                previous_not_exist: expected.is_none(),
                previous_value: expected.clone().unwrap_or_default(),
                ..new.clone()
            })
            .await?;
        accepted(&call, &answer.error)?;
        Ok(Swap {
            swapped: answer.succeed,
            previous: (!answer.previous_not_exist).then_some(answer.previous_value),
        })
    }

    fn call(&self, what: &'static str) -> Call {
        let mut call = self.cluster.call_within(what, self.timeout).strictly(self.strict);
        // Raw keys have no past: a stale read would be any read.
        let is_stale = self.replica_read == ReplicaRead::Stale;
        call.reads_from(if is_stale { ReplicaRead::Mixed } else { self.replica_read });
        call
    }

    fn keys(&self) -> Shape<'_, Bytes> {
        Shape {
            codec: &self.codec,
            key: |key: &Bytes| key,
            size: |key: &Bytes| key.len(),
            batch_bytes_max: BATCH_BYTES_MAX,
            batch_len_max: BATCH_LEN_MAX,
        }
    }

    fn expiring<K: AsRef<[u8]>, V: Into<Bytes>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
        ttl: u64,
    ) -> Vec<Expiring> {
        let encode = |(key, value): (K, V)| Expiring {
            key: self.codec.encode(key.as_ref()),
            value: value.into(),
            ttl,
        };
        pairs.into_iter().map(encode).collect()
    }

    /// What of the range lies in the route's region.
    fn part(&self, route: &Route, range: &KeyRange) -> KeyRange {
        self.codec.wire_range(&KeyRange::of(&route.region)).intersection(range)
    }

    fn take_pairs(
        &self,
        call: &Call,
        from: Vec<kvrpcpb::KvPair>,
        into: &mut Vec<KvPair>,
    ) -> Result<()> {
        for pair in from {
            if let Some(error) = pair.error {
                return Err(call.fail(ErrorKind::Rejected, format!("the store says: {error:?}")));
            }
            into.push((self.codec.decode(pair.key), pair.value));
        }
        Ok(())
    }
}

fn accepted(call: &Call, error: &str) -> Result<()> {
    if error.is_empty() {
        return Ok(());
    }
    Err(call.fail(ErrorKind::Rejected, format!("the store says: {error}")))
}

/// Whole seconds, rounded up: a value must not expire early, and zero would mean never.
fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_never_rounds_down_to_never() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1500)), 2);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
    }
}
