//! Judges: each holds one truth, is told facts, and asks nobody.
//!
//! | file | truth |
//! |---|---|
//! | [`one_leader`] | at most one leader a region and term; it holds every committed entry |
//! | [`log_match`] | same index and term, same entry, same entry before it |
//! | [`committed`] | what is committed stays and is the same everywhere |
//! | [`durable_commit`] | what is committed is on a quorum's disks |
//! | [`applied_equal`] | equally far applied, equal data; never back |
//! | [`tiling`] | every key belongs to exactly one region |
//! | [`linearizability`] | one careful clerk could have given the clients' answers |
//!
//! A violation is a sentence; the simulator stops at the first and prints the line that replays it.

pub mod applied_equal;
pub mod committed;
pub mod durable_commit;
pub mod linearizability;
pub mod log_match;
pub mod one_leader;
pub mod tiling;
