//! Why a store must stop.
//!
//! A fault is not an answer to a caller: the process stops, loudly, and the log is replayed at the
//! next start. What can be answered is a [`proto::Refusal`].

/// A reason for the process to stop.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk failed, or the engine refuses to work on.
    #[error("{attempt}: {cause}")]
    Engine {
        /// What was attempted, as a verb phrase: "write the log".
        attempt: &'static str,
        /// The engine's own words.
        cause: String,
    },
    /// Bytes on disk are not what was written there.
    #[error("{place} is corrupt: {detail}")]
    Corrupt {
        /// Which record, file or key.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Something that must be on disk is not there.
    #[error("{what} is missing")]
    Missing {
        /// Which record.
        what: String,
    },
    /// This directory belongs to another store or another cluster.
    #[error("{detail}")]
    WrongIdentity {
        /// Whose it is, and whose it should be.
        detail: String,
    },
    /// An assertion failed: the program is wrong, and what it would do next may be too.
    #[error("{place}: {detail}")]
    Bug {
        /// Which thread.
        place: String,
        /// What the assertion said.
        detail: String,
    },
}
