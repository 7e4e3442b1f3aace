//! The client against a cluster that misbehaves on demand (`fake/`).
//!
//! What the machines of the client decide is tested beside them; here it is whether the shell does it,
//! over real sockets. No test sleeps: it waits for a request to arrive, or for an answer.

mod fake;

mod faults;
mod raw;
mod timestamps;
mod txn;
mod txn_faults;
