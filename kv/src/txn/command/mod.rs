//! The commands, one file each. A command decides from one snapshot, under its keys' latches, and
//! puts what is to be written into one batch; it neither waits nor writes.
//!
//! | command | decides from | writes |
//! |---|---|---|
//! | [`get`], [`scan_lock`] | locks, records | nothing |
//! | [`prewrite`] | lock, newest record | locks and long values (one phase: commit records) |
//! | [`mod@flush`] | lock, newest record | locks of a pipelined transaction, again and again |
//! | [`mod@commit`] | lock, own record | commit records, removes locks |
//! | [`rollback`], [`cleanup`] | lock, own record | rollback records, removes locks |
//! | [`check_status`] | the primary's lock and record | a pushed lock, or a rollback |
//! | [`check_secondaries`] | the other keys' locks and records | a rollback, if one is missing |
//! | [`heartbeat`] | the primary's lock | that lock |
//! | [`resolve_lock`] | locks of transactions whose fate is known | commits or rollbacks |
//! | [`pessimistic_lock`], [`pessimistic_rollback`] | lock, newest record | locks |
//!
//! Each may come twice, late, or after the transaction has ended, and then changes nothing.

pub mod check_secondaries;
pub mod check_status;
pub mod cleanup;
pub mod commit;
pub mod flush;
pub mod get;
pub mod heartbeat;
pub mod pessimistic_lock;
pub mod pessimistic_rollback;
pub mod prewrite;
pub mod resolve_lock;
pub mod rollback;
pub mod scan_lock;
