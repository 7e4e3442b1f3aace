//! What a caller may choose. The defaults suit a cluster on a laptop or in one data centre.

use std::time::Duration;

use proto::kvrpcpb;

use crate::txn::TransactionOptions;

/// Settings of a [`Client`](crate::Client). All of them are free: they need not agree with other
/// clients, except that `api_version` must be what the cluster speaks.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long one call may take in all, tries and waits included. When it has passed, the call
    /// fails and says what it was waiting for. Default 10 s.
    pub timeout: Duration,
    /// How long a store may take over one try before the next peer is asked. Also sent along, so
    /// that a store does not start on a request nobody waits for any more. Default 2 s.
    pub store_timeout: Duration,
    /// How long the scheduler may take over one try before its members are asked who leads.
    /// Default 2 s.
    pub scheduler_timeout: Duration,
    /// How long [`run`](crate::TransactionClient::run) goes on repeating a transaction that
    /// conflicts with others. Default 30 s.
    pub run_timeout: Duration,
    /// How transactions lock and commit, unless a client is made
    /// [with other options](crate::TransactionClient::with_options).
    pub transaction: TransactionOptions,
    /// How the cluster lays out keys. Default [`ApiVersion::V1`].
    pub api_version: ApiVersion,
    /// Which keyspace to live in; only with [`ApiVersion::V2`]. Default `DEFAULT`.
    pub keyspace: String,
    /// How many requests one call may have under way at a time, one per region. Default 16.
    pub concurrency_max: usize,
    /// Seed of the jitter between tries. Default: another one each time.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(2),
            scheduler_timeout: Duration::from_secs(2),
            run_timeout: Duration::from_secs(30),
            transaction: TransactionOptions::default(),
            api_version: ApiVersion::V1,
            keyspace: "DEFAULT".into(),
            concurrency_max: 16,
            seed: None,
        }
    }
}

/// How a cluster lays out keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiVersion {
    /// Keys as they are; raw and transactional keys must not meet.
    #[default]
    V1,
    /// As `V1`, raw values may expire; no transactions.
    V1Ttl,
    /// Keys carry a mode and a keyspace: raw and transactional data live side by side.
    V2,
}

impl ApiVersion {
    pub(crate) fn on_the_wire(self) -> i32 {
        match self {
            Self::V1 => kvrpcpb::ApiVersion::V1 as i32,
            Self::V1Ttl => kvrpcpb::ApiVersion::V1ttl as i32,
            Self::V2 => kvrpcpb::ApiVersion::V2 as i32,
        }
    }
}
