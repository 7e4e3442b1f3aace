//! Old versions: how long they are kept, and how they go.
//!
//! Every version older than the *safe point* that a newer one hides may be removed by the stores; who
//! reads below it is refused. A cluster of ours moves the safe point by itself, ten minutes behind; a
//! cluster without such a policy is moved by [`Gc::advance`]. Who still needs older versions sets a
//! *barrier*, or, of older schedulers, a safe point of its own service, which expires by itself when
//! its owner dies.

use std::time::Duration;

use proto::{StoreId, Timestamp, kvrpcpb, pdpb};
use tonic::Request;

use crate::backoff::Pause;
use crate::call::Call;
use crate::connection;
use crate::error::{Cause, ErrorKind, Result};
use crate::span::Span;
use crate::txn::TransactionClient;

/// How long a store may take to destroy a range.
const DESTROY_PATIENCE: Duration = Duration::from_secs(60);

/// Where removal of old versions stands, and what holds it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcState {
    /// Versions before it may be gone.
    pub safe_point: Timestamp,
    /// Reads and transactions before it are refused.
    pub txn_safe_point: Timestamp,
    /// What must not be passed, by name.
    pub barriers: Vec<Barrier>,
}

/// A promise that versions from some moment on are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// Whose it is.
    pub id: String,
    /// From where on everything is kept.
    pub at: Timestamp,
    /// How much longer; `None` is for ever.
    pub ttl: Option<Duration>,
}

/// The removal of old versions. Made by [`Client::gc`](crate::Client::gc).
#[derive(Clone, Debug)]
pub struct Gc {
    transactions: TransactionClient,
}

impl Gc {
    pub(crate) fn new(transactions: TransactionClient) -> Self {
        Self { transactions }
    }

    /// Clears all locks of transactions begun up to `safe_point`, and moves the safe point there.
    /// Returns where it stands now; it never goes back.
    pub async fn advance(&self, safe_point: Timestamp) -> Result<Timestamp> {
        self.transactions.gc(safe_point).await
    }

    /// The safe point, and what stands against moving it. Older schedulers do not know this
    /// question: the call is rejected.
    pub async fn state(&self) -> Result<GcState> {
        let (cluster, mut call) = (&self.transactions.cluster, self.call("gc state"));
        let state = cluster.scheduler.gc_state(&mut call).await?;
        let barriers = state.gc_barriers.into_iter().map(|barrier| Barrier {
            id: barrier.barrier_id,
            at: Timestamp(barrier.barrier_ts),
            ttl: ttl_of(barrier.ttl_seconds),
        });
        Ok(GcState {
            safe_point: Timestamp(state.gc_safe_point),
            txn_safe_point: Timestamp(state.txn_safe_point),
            barriers: barriers.collect(),
        })
    }

    /// Keeps everything from `at` on, until [`Self::delete_barrier`] or until `ttl` has passed
    /// (whole seconds, rounded up; `None` is for ever). Setting it again moves it.
    pub async fn set_barrier(
        &self,
        id: impl Into<String>,
        at: Timestamp,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let (cluster, mut call) = (&self.transactions.cluster, self.call("set gc barrier"));
        let request = pdpb::SetGcBarrierRequest {
            barrier_id: id.into(),
            barrier_ts: at.0,
            ttl_seconds: ttl.map_or(i64::MAX, seconds),
            ..Default::default()
        };
        cluster.scheduler.set_gc_barrier(&mut call, request).await
    }

    /// Ends a barrier; it need not exist.
    pub async fn delete_barrier(&self, id: impl Into<String>) -> Result<()> {
        let (cluster, mut call) = (&self.transactions.cluster, self.call("delete gc barrier"));
        let request = pdpb::DeleteGcBarrierRequest { barrier_id: id.into(), ..Default::default() };
        cluster.scheduler.delete_gc_barrier(&mut call, request).await
    }

    /// Keeps everything from `at` on for a service, as every scheduler knows it, for `ttl`; a `ttl`
    /// of zero ends it. Returns the earliest of all services' points: if it is later than `at`, what
    /// was asked for is gone already, and nothing was set.
    pub async fn keep(
        &self,
        service: impl Into<String>,
        at: Timestamp,
        ttl: Duration,
    ) -> Result<Timestamp> {
        let (cluster, mut call) = (&self.transactions.cluster, self.call("keep versions"));
        let request = pdpb::UpdateServiceGcSafePointRequest {
            service_id: service.into().into_bytes().into(),
            ttl: if ttl.is_zero() { 0 } else { seconds(ttl) },
            safe_point: at.0,
            ..Default::default()
        };
        cluster.scheduler.update_service_safe_point(&mut call, request).await
    }

    /// Removes everything of a range of transactional keys from every store, at once and past
    /// replication: no snapshot sees it afterwards, and it cannot be undone. Nobody may read or
    /// write the range meanwhile. Fails if one of the stores fails; doing it again is harmless.
    pub async fn unsafe_destroy_range(&self, range: impl Into<Span>) -> Result<()> {
        let (cluster, codec) = (&self.transactions.cluster, &self.transactions.codec);
        let mut call = self.call("unsafe destroy range");
        let range = codec.encode_range(&range.into().0);
        for (id, address) in cluster.scheduler.stores(&mut call).await? {
            let request = kvrpcpb::UnsafeDestroyRangeRequest {
                context: Some(kvrpcpb::Context {
                    api_version: cluster.config.api_version.on_the_wire(),
                    ..Default::default()
                }),
                start_key: range.start.clone(),
                end_key: range.wire_end(),
            };
            self.destroy(&mut call, id, &address, request).await?;
        }
        Ok(())
    }

    async fn destroy(
        &self,
        call: &mut Call,
        id: StoreId,
        address: &str,
        request: kvrpcpb::UnsafeDestroyRangeRequest,
    ) -> Result<()> {
        loop {
            call.waits_for(format!("{id} to destroy the range"), None);
            let patience = call.patience(DESTROY_PATIENCE)?;
            let mut sent = Request::new(request.clone());
            sent.set_timeout(patience);
            let mut store = connection::store(self.transactions.cluster.connections.to(address)?);
            let answer = tokio::time::timeout(patience, store.unsafe_destroy_range(sent)).await;
            let cause = match answer {
                Ok(Ok(answer)) => {
                    let error = answer.into_inner().error;
                    if error.is_empty() {
                        return Ok(());
                    }
                    return Err(call.fail(ErrorKind::Rejected, format!("{id} says: {error}")));
                }
                Ok(Err(status)) => Cause::Rpc(status),
                Err(_) => Cause::Words(format!("{id} did not answer within {patience:?}")),
            };
            call.waits_for(format!("{id} to destroy the range"), Some(cause));
            call.pause(Pause::Unreachable).await?;
        }
    }

    fn call(&self, what: &'static str) -> Call {
        self.transactions.call(what)
    }
}

/// The largest number of seconds on the wire stands for ever.
fn ttl_of(seconds: i64) -> Option<Duration> {
    (seconds != i64::MAX).then(|| Duration::from_secs(seconds.max(0).unsigned_abs()))
}

/// Whole seconds, rounded up, and never none: zero would mean the end of it.
fn seconds(ttl: Duration) -> i64 {
    let rounded = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i64::try_from(rounded).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_rounded_down_to_nothing() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1_500)), 2);
        assert_eq!(seconds(Duration::MAX), i64::MAX);
        assert_eq!(ttl_of(i64::MAX), None);
        assert_eq!(ttl_of(3), Some(Duration::from_secs(3)));
    }
}
