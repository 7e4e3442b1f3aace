//! Judges: each holds one truth, is told facts, and asks nobody.
//!
//! | file | truth |
//! |---|---|
//! | [`one_leader`] | at most one leader a region and term; it holds every committed entry |
//! | [`log_match`] | same index and term, same entry, same entry before it |
//! | [`committed`] | what is committed stays and is the same everywhere |
//! | [`durable_commit`] | what is committed is on a quorum's disks |
//! | [`applied_equal`] | equally far applied, equal data; never back |
//! | [`epochs`] | epochs grow; one epoch, one description |
//! | [`tiling`] | every key belongs to exactly one region |
//! | [`leases`] | one lease a region at a time |
//! | [`bounded`] | queues stay short |
//! | [`at_rest`] | whoever asked was answered, and nothing is left over |
//! | [`linearizability`] | one careful clerk could have given the clients' answers |
//! | [`timestamps`] | timestamps grow |
//! | [`txn_records`] | a transaction has one fate, on all its keys |
//! | [`snapshot_isolation`] | every transaction saw its snapshot, and nobody wrote behind its back: by timestamps |
//! | [`list_append`] | the same, and which anomaly it is: by lists alone |
//!
//! A violation is a sentence; the simulator stops at the first and prints the line that replays it.

pub mod applied_equal;
pub mod at_rest;
pub mod bounded;
pub mod committed;
pub mod durable_commit;
pub mod epochs;
pub mod leases;
pub mod linearizability;
pub mod list_append;
pub mod log_match;
pub mod one_leader;
pub mod snapshot_isolation;
pub mod tiling;
pub mod timestamps;
pub mod txn_records;
