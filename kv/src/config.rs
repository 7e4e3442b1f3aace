//! What an operator may say about a store.
//!
//! *cluster* marks what must be equal on every store, *store* what each may choose for itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::kvrpcpb;

/// How keys and values of clients are laid out, and which commands are served. *cluster*
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiVersion {
    /// Raw and transactional keys side by side, raw values as they come.
    #[default]
    V1,
    /// Raw keys only; every value carries when it expires.
    V1Ttl,
    /// Keys begin with a mode byte and a keyspace id; raw values may expire.
    V2,
}

impl ApiVersion {
    /// Its number on the wire.
    pub fn to_wire(self) -> kvrpcpb::ApiVersion {
        match self {
            Self::V1 => kvrpcpb::ApiVersion::V1,
            Self::V1Ttl => kvrpcpb::ApiVersion::V1ttl,
            Self::V2 => kvrpcpb::ApiVersion::V2,
        }
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V1Ttl => "1 with TTL",
            Self::V2 => "2",
        })
    }
}

/// Where a store keeps its bytes. *store*
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// In memory: gone when the store stops.
    Memory,
    /// In RocksDB below this directory: `data` for user data, `log` for raft logs, `snap` for
    /// snapshots on their way.
    Path(PathBuf),
}

/// A store's settings. `Default` suits a laptop cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC is served; port 0 takes a free one. *store*
    pub listen: SocketAddr,
    /// The `host:port` others reach this store at; `None` is the address that was bound. *store*
    pub advertise: Option<String>,
    /// Where `/status`, `/config` and `/metrics` are served over HTTP; `None` serves them nowhere.
    /// *store*
    pub status_listen: Option<SocketAddr>,
    /// The `host:port` others reach the status port at; `None` is the address that was bound.
    /// *store*
    pub status_advertise: Option<String>,
    /// Client URLs of scheduler members; any one that lives is enough. *store*
    pub scheduler_endpoints: Vec<String>,
    /// Where the bytes are kept. *store*
    pub storage: StorageKind,
    /// Layout of keys and values. *cluster*
    pub api_version: ApiVersion,
    /// What the scheduler may know of this store's place: `zone`, `rack`, `host`. *store*
    pub labels: BTreeMap<String, String>,
    /// How the replicas behave. *cluster*, but `raft_workers`: *store*
    pub raft: raftstore::config::Config,
    /// Snapshots are written and sent with so many bytes a second at most, together; 0 is no limit. *store*
    pub snapshot_bytes_per_second: u64,
    /// Snapshots on their way out at once; more wait their turn. *store*
    pub snapshots_sending_max: usize,
    /// Snapshots on their way in at once; more are told that the store is busy, and come again. *store*
    pub snapshots_receiving_max: usize,
    /// How RocksDB is tuned; stores of one process may share its cache by sharing this. *store*
    pub rocks: raftstore::engine::rocks::Options,
    /// Whether answers are compressed for clients that accept gzip. Off as in TiKV: on a local
    /// network compressing costs more than it saves. Requests may always be compressed. *store*
    pub compress_answers: bool,
    /// How long starting waits for the scheduler before it gives up. *store*
    pub start_timeout: Duration,
    /// How long stopping waits for other stores to take over this one's leaders. *store*
    pub drain_timeout: Duration,
    /// How often the store asks up to where old versions may go, and which locks are to be resolved.
    /// *store*
    pub gc_interval: Duration,
    /// Whether leaders keep pessimistic locks in memory ([`crate::txn::reservations`]) instead of writing each into
    /// the log. *store*
    pub in_memory_pessimistic_locks: bool,
    /// Disk space to report; `None` asks nothing and reports [`CAPACITY_WHEN_UNKNOWN_BYTES`].
    /// *store*
    pub capacity_bytes: Option<u64>,
}

/// What a store reports as its capacity when nobody said: the scheduler compares stores by it, and
/// equal numbers make equal stores.
pub const CAPACITY_WHEN_UNKNOWN_BYTES: u64 = 1 << 40;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 20160)),
            advertise: None,
            status_listen: None,
            status_advertise: None,
            scheduler_endpoints: vec!["http://127.0.0.1:2379".into()],
            storage: StorageKind::Memory,
            api_version: ApiVersion::V1,
            labels: BTreeMap::new(),
            raft: raftstore::config::Config::default(),
            snapshot_bytes_per_second: 100 << 20,
            snapshots_sending_max: 32,
            snapshots_receiving_max: 32,
            rocks: raftstore::engine::rocks::Options::default(),
            compress_answers: false,
            start_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            gc_interval: Duration::from_secs(10),
            in_memory_pessimistic_locks: true,
            capacity_bytes: None,
        }
    }
}

impl Config {
    /// Says what is wrong, in a sentence a person can act on.
    pub fn validate(&self) -> Result<(), String> {
        if self.scheduler_endpoints.is_empty() {
            return Err("no scheduler endpoint is given".into());
        }
        for endpoint in &self.scheduler_endpoints {
            if endpoint.trim().is_empty() {
                return Err("a scheduler endpoint is empty".into());
            }
        }
        for advertised in [&self.advertise, &self.status_advertise].into_iter().flatten() {
            if advertised.contains("://") || !advertised.contains(':') {
                return Err(format!("\"{advertised}\" must be host:port without a scheme"));
            }
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            let listen = self.listen;
            return Err(format!("{listen} is no address others can reach: say what to advertise"));
        }
        if self.snapshots_sending_max == 0 || self.snapshots_receiving_max == 0 {
            return Err("without snapshots on their way no replica can be added".into());
        }
        if self.gc_interval.is_zero() {
            return Err("the scheduler cannot be asked for safe points all the time".into());
        }
        self.raft.validate()?;
        for (key, value) in &self.labels {
            let plain = |text: &str| {
                !text.is_empty()
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            };
            if !plain(key) || !plain(value) {
                return Err(format!(
                    "label \"{key}={value}\" may hold letters, digits and - _ . / only"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn an_address_nobody_can_reach_is_a_mistake() {
        let config = Config { listen: ([0, 0, 0, 0], 20160).into(), ..Config::default() };
        assert!(config.validate().unwrap_err().contains("advertise"));
        let config = Config { advertise: Some("db1:20160".into()), ..config };
        config.validate().unwrap();
        let config = Config { advertise: Some("http://db1:20160".into()), ..config };
        assert!(config.validate().unwrap_err().contains("host:port"));
    }
}
