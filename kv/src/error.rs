//! Why a store does not start.

use raftstore::error::Fault;

/// A reason for not starting. Nothing is left behind: ports and files are released again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is a mistake; the sentence says which.
    #[error("{0}")]
    Config(String),
    /// A port cannot be had.
    #[error("listen on {address}: {cause}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The data directory cannot be used: damaged, locked by another process, or another store's.
    #[error("open the store: {0}")]
    Engine(#[from] Fault),
    /// No scheduler answered in time, or it refused this store.
    #[error("{attempt}: {cause}")]
    Scheduler {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// The last reason heard.
        cause: String,
    },
    /// The data directory belongs to another cluster.
    #[error(
        "the data belongs to cluster {ours}, but the scheduler at {endpoints} serves cluster \
         {theirs}: use that cluster's scheduler, or another data directory"
    )]
    AnotherCluster {
        /// The cluster written in the data directory.
        ours: u64,
        /// The cluster the scheduler serves.
        theirs: u64,
        /// Which scheduler was asked.
        endpoints: String,
    },
    /// The data directory was written under another `api-version`.
    #[error(
        "the data was written with api-version {ours}, the configuration says {configured}: data \
         cannot be read under another version"
    )]
    AnotherApiVersion {
        /// The version written in the data directory.
        ours: String,
        /// The version configured.
        configured: String,
    },
}
