#![doc = include_str!("../README.md")]

pub mod config;
pub mod error;
mod backoff;
mod call;
mod cluster;
mod connection;
mod keyspace;
pub mod raw;
mod region_cache;
mod request;
mod route;
mod scan;
mod scheduler;
mod span;
mod timestamps;
pub mod txn;

use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
pub use config::{ApiVersion, Config};
pub use error::{Error, ErrorKind, Result, Waiting};
use keyspace::{KeyCodec, Mode};
pub use proto::{RegionId, Timestamp};
pub use raw::{KvPair, RawClient, Swap, Ttl};
pub use span::Span;
pub use txn::{
    At, LockWait, PessimisticTransaction, Snapshot, Transaction, TransactionClient,
    TransactionOptions, Versions,
};

/// A connection to a cluster. Cheap to clone; everything made from it shares its knowledge of the
/// cluster. Must be made, and used, inside a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    cluster: Arc<Cluster>,
    keyspace_id: u32,
}

impl Client {
    /// Connects through any members of the scheduler (`host:port`, with or without `http://`).
    pub async fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self> {
        Self::connect_with(endpoints, Config::default()).await
    }

    /// Connects with settings of one's own. Returns once a leader of the scheduler has answered.
    pub async fn connect_with<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        config: Config,
    ) -> Result<Self> {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let endpoints = scheduler::checked(endpoints)?;
        let cluster = Arc::new(Cluster::new(config, endpoints));
        let mut call = cluster.call("connect");
        cluster.scheduler.leader(&mut call).await?;
        let keyspace_id = match cluster.config.api_version {
            ApiVersion::V1 | ApiVersion::V1Ttl => 0,
            ApiVersion::V2 => {
                let name = &cluster.config.keyspace;
                cluster.scheduler.keyspace_id(&mut call, name).await?
            }
        };
        Ok(Self { cluster, keyspace_id })
    }

    /// Keys and values without transactions.
    pub fn raw(&self) -> RawClient {
        RawClient::new(self.cluster.clone(), self.codec(Mode::Raw))
    }

    /// Transactions.
    pub fn transactions(&self) -> TransactionClient {
        TransactionClient::new(self.cluster.clone(), self.codec(Mode::Transactional))
    }

    /// The id of the cluster, as the scheduler says it.
    pub fn cluster_id(&self) -> u64 {
        self.cluster.scheduler.cluster_id()
    }

    /// A timestamp later than every one given out before.
    pub async fn timestamp(&self) -> Result<Timestamp> {
        let mut call = self.cluster.call("timestamp");
        self.cluster.timestamp(&mut call).await
    }

    /// Waits until nothing goes on in the background: the second half of commits, roll-backs of
    /// transactions that failed. Not needed for correctness; whoever meets such a lock resolves it.
    pub async fn settled(&self, within: Duration) -> Result<()> {
        let mut call = self.cluster.call_within("settle", within);
        self.cluster.settled(&mut call).await
    }

    fn codec(&self, mode: Mode) -> KeyCodec {
        KeyCodec::new(self.cluster.config.api_version, mode, self.keyspace_id)
    }
}
