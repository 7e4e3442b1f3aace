//! Storage through raftstore.
