//! Keeping a transaction's locks alive.
//!
//! A lock lives for a time that the primary's lock states. A client that dies keeps others waiting
//! that long and no longer; a client that lives prolongs it, well before the time is over. A handle
//! that is kept and never finished must not lock keys for ever, so after an hour the beats end.

use std::time::Duration;

use bytes::Bytes;
use proto::{Timestamp, kvrpcpb};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::TransactionClient;

/// How long a lock lives without a heartbeat. A client that dies keeps others waiting this long.
pub(super) const LOCK_TTL: Duration = Duration::from_secs(3);
/// How often the lock's life is prolonged; often enough for one heartbeat to be lost.
const INTERVAL: Duration = Duration::from_millis(1_200);
/// How long a transaction is kept alive. After it, its locks expire, and its commit fails.
const TOTAL_MAX: Duration = Duration::from_secs(60 * 60);

/// A lock's life counts from the start of the transaction, which may have thought for a while.
pub(super) fn lock_ttl_ms(began: Instant) -> u64 {
    (began.elapsed() + LOCK_TTL).as_millis() as u64
}

/// Keeps the primary's lock alive until dropped, or for as long as a transaction may live.
pub(super) async fn beat(
    client: &TransactionClient,
    start: Timestamp,
    began: Instant,
    primary: &Bytes,
) {
    while began.elapsed() < TOTAL_MAX {
        tokio::time::sleep(INTERVAL).await;
        let mut call = client.cluster.call_within("heartbeat", LOCK_TTL);
        let beat = client
            .cluster
            .one(&mut call, &client.codec, primary, |_| kvrpcpb::TxnHeartBeatRequest {
                primary_lock: primary.clone(),
                start_version: start.0,
                advise_lock_ttl: lock_ttl_ms(began),
                ..Default::default()
            })
            .await;
        // Not locked yet, or rolled back by another: the transaction itself will notice.
        match beat {
            Ok((_, answer)) => {
                let (ttl, error) = (answer.lock_ttl, answer.error);
                tracing::debug!(%start, ttl, ?error, "heartbeat");
            }
            Err(error) => tracing::debug!(%start, %error, "heartbeat lost"),
        }
    }
}

/// A heartbeat that goes on by itself, between the calls of a pessimistic transaction.
#[derive(Debug)]
pub(super) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    pub(super) fn start(
        client: &TransactionClient,
        start: Timestamp,
        began: Instant,
        primary: Bytes,
    ) -> Self {
        let client = client.clone();
        Self(tokio::spawn(async move { beat(&client, start, began, &primary).await }))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}
