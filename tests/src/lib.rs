//! The cluster under observation: simulator, checkers, labs, end-to-end.

pub mod checkers;
pub mod history;
pub mod sim;
pub mod workload;
