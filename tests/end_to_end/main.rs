//! The real program as real processes: killed, restarted, misused.
//!
//! Every test has a loopback address of its own, so that ports are free and stay free while a node
//! is down. Nothing sleeps to synchronise: each wait asks for a condition and has a bound.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic here is a failed test")]

mod bad_input;
mod bench;
mod chaos;
mod cluster;
mod ctl;
mod ctl_placement;
mod ctl_region;
mod examples;
mod kill;
mod misuse;
mod pause;
mod playground;
mod scheduler_leader;
mod scheduling;
mod shell;
mod stream;
mod transactions;
