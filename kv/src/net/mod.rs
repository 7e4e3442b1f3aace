//! Bytes between stores, and the door for everybody.
//!
//! Nothing here is needed for correctness: raft counts on losing messages. What is promised is that
//! a slow or dead neighbour costs a bounded amount of memory and nobody's time.

pub(crate) mod forward;
pub(crate) mod incoming;
pub(crate) mod outbound;
pub(crate) mod resolver;
pub(crate) mod snapshot_stream;
