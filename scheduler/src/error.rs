//! Why a scheduler member does not start.

use raftstore::error::Fault;

/// Why [`crate::SchedulerNode::start`] failed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be meant like this. For a human; exit code 2.
    #[error("{0}")]
    Mistake(String),
    /// A socket could not be had.
    #[error("listen for {purpose} on {address}: {source}")]
    Listen {
        /// Who should have been served: "clients" or "members".
        purpose: &'static str,
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The data directory is of another member or another cluster. Starting on it would harm both.
    #[error("the data directory {directory} belongs to {owner}, not to {expected}")]
    WrongDirectory {
        /// Which directory.
        directory: String,
        /// Whose it is.
        owner: String,
        /// Whose it should be.
        expected: String,
    },
    /// The member was removed from its cluster while it was away. Its data are of no more use.
    #[error(
        "member {name:?} was removed from its cluster, says {by:?}: to come back, it joins again with an \
         empty data directory"
    )]
    Removed {
        /// This member.
        name: String,
        /// The member that says so.
        by: String,
    },
    /// No member of the running cluster let this one in.
    #[error("join the cluster: {0}")]
    Join(String),
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The disk, or what is on it.
    #[error("open the member's log: {0}")]
    Storage(#[from] Fault),
}
