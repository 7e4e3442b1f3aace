//! Lab 2A, part B: log replication.
//!
//! A leader appends an entry without data in its own term, replicates what is proposed after it, and
//! commits what a majority holds, if it is of its own term. Nodes are those of the `raft` crate; the
//! harness persists after each step, since a leader counts its own log only as far as it is durable.
//!
//! Look: `tests/src/labs/raft/` (the harness), `raftstore/src/group/mod.rs` (how a store drives such
//! a node), `raftstore/src/storage/group_log.rs` (the log below it).

mod network;
mod node;
