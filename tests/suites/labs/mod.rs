//! The course's labs, as tests: the Distributed Key-Value course's own cases under their own names
//! (`TestRawGet1` is [`lab1`]'s `test_raw_get_1`), against this store.
//!
//! Where the course and TiKV disagree, TiKV's rule holds, and the test says so.

#![allow(clippy::unwrap_used, reason = "a lab that cannot go on has failed")]

mod lab1;
mod lab2aa;
mod lab2ab;
mod lab2ac;
mod lab2b;
mod lab2c;
mod lab3a;
mod lab3b;
mod lab3c;
mod lab4a;
mod lab4b;
mod lab4c;
mod scheduler;
mod transactions;
