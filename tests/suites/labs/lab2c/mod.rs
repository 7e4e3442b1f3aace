//! Lab 2C: cutting the log, and snapshots for those who need what was cut.
//!
//! In raft: a leader whose log no longer reaches back to what a follower needs sends a snapshot; the
//! follower takes commit, term and members from it, unless it is older than what it has. In the store:
//! the log is cut when everybody agreed to a cut, and a snapshot replaces all data of the region.
//!
//! Look: `raftstore/src/operation/compact_log.rs`, `raftstore/src/operation/snapshot.rs`,
//! `raftstore/src/storage/group_log.rs`, `tests/src/labs/raft/` (the harness of the raft half),
//! `tests/src/labs/cluster/` (that of the other half).

mod cluster;
mod raft_core;
