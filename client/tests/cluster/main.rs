//! The client against a cluster that misbehaves on demand (`fake/`).
//!
//! What the machines of the client decide is tested beside them; here it is whether the shell does it,
//! over real sockets. No test sleeps: it waits for a request to arrive, or for an answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic, in its tools too")]
#![allow(clippy::result_large_err, reason = "the fake gives errors as the wire has them")]

mod fake;

mod faults;
mod pessimistic;
mod raw;
mod short_cuts;
mod timestamps;
mod txn;
mod txn_faults;
