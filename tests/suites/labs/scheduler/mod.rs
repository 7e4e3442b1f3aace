//! The course's tests of its scheduler that belong to no lab: those that make sense of ours.
//!
//! Left out: what tests the course's own containers (its key-value paths, its B-tree, its encodings) or
//! switches that ours does not have. Timestamps, ids, members and the wire have tests of their own beside the
//! code, and the official clients.
//!
//! Look: `scheduler/src/cluster/mod.rs`, `scheduler/src/operator/running/mod.rs`,
//! `scheduler/src/checkers/replicas/mod.rs`, `scheduler/src/balancers/leaders.rs`.

mod balance_leader;
mod cluster_info;
mod coordinator;
mod replica_checker;
