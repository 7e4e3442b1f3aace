//! One file for each thing a store can do, told from start to aftermath.
//!
//! | operation | begun by | in the log as | aftermath |
//! |---|---|---|---|
//! | `write.rs` | a caller | `Command::Write` | a reply |
//! | `read.rs` | a caller without a lease | nothing | a reply |
//! | `split.rs`, `split_keys.rs` | size, a caller, the scheduler | `Command::Split` | new peers, which campaign |
//! | `conf_change.rs` | the scheduler | a raft `ConfChange` with `Command::Member`, or `ConfChangeV2` with `Command::Members` | membership; a removed peer is destroyed |
//! | `transfer_leader.rs` | the scheduler; a leader that is to lose its vote | nothing | another term |
//! | `compact_log.rs` | a leader's tick | `Command::CutLog` | the log is cut once the data is durable |
//! | `snapshot.rs` | raft, when entries are gone | nothing | a follower begins anew |
//! | `check_consistency.rs` | a person, ticks | `Command::ComputeHash`, `Command::VerifyHash` | a replica that is the odd one stops |
//! | `stale_peer.rs` | messages from the past | nothing | tombstones |
//! | `heartbeat.rs` | ticks and changes | nothing | orders |
//!
//! The files add `impl` blocks to `Store`, `Peer` and `Applier`, which call their own methods.

pub mod check_consistency;
pub(crate) mod compact_log;
pub(crate) mod conf_change;
pub(crate) mod heartbeat;
pub(crate) mod read;
pub mod snapshot;
pub mod split;
pub mod split_keys;
pub(crate) mod stale_peer;
pub(crate) mod transfer_leader;
pub(crate) mod write;
