//! A thin harness round the `raft` crate: nodes that are stepped by hand, and a network that loses
//! what it is told to.
//!
//! The course asks its students for a raft core and tests that. Ours is the `raft` crate, so these
//! labs hold the crate, as this store relies on it, to the course's expectations. Where it differs a
//! test says so. The differences that come up most:
//!
//! - A leader counts its own log only as far as it is *persisted*, so every step is followed by
//!   [`node::persist`]. The network does that by itself.
//! - A candidate that a majority refuses becomes a follower at once.
//! - A follower that is probed gets one append at a time, one that needs a snapshot gets nothing else.
//! - A raw node hands out what its own log write committed with the answer to `advance`, not before.
//!
//! | file | what it is |
//! |---|---|
//! | [`messages`] | messages and entries in a few words |
//! | [`node`] | a node, its disk, and how its log reads |
//! | [`network`] | nodes that talk until nobody has anything to say |

pub mod messages;
pub mod network;
pub mod node;
