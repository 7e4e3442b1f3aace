//! Transactions over many keys and regions, by Percolator.
//!
//! A transaction has a start timestamp and reads what was committed before it. Its writes become
//! visible at one commit timestamp, all or none:
//!
//! ```text
//! prewrite   each key: lock (naming one key, the *primary*) and the value
//! commit     the primary's lock becomes a commit record: this is the moment
//!            the others follow whenever they may; their locks point to the primary
//! ```
//!
//! Whoever meets a lock asks its primary what became of the transaction: committed (then the lock
//! is turned into its commit record), rolled back (then it is removed), alive (then one waits, or
//! reads round it), or abandoned (then one rolls it back). Nothing else needs to be remembered
//! anywhere, and nobody needs to be elected to clean up.
//!
//! | family | key | says |
//! |---|---|---|
//! | lock | key | a transaction is under way here ([`record::Lock`]) |
//! | write | key, commit timestamp | what a transaction did here ([`record::Write`]) |
//! | default | key, start timestamp | a value too long for its record |
//!
//! Two shortcuts past the second phase: an *async commit* transaction is committed as soon as all
//! keys are locked (its primary names them), a *one phase* transaction has all keys in one region
//! and writes commit records at once. Both compute their commit timestamp in the store; why that is
//! safe is told in [`memory_locks`].
//!
//! *Pessimistic* transactions lock keys before they know their values ([`command::pessimistic_lock`])
//! and may wait for each other ([`lock_wait`], [`deadlock`]). Such a lock need not be written: its leader may
//! keep it in memory ([`reservations`]).
//!
//! In reading order: [`record`], [`reader`], [`read_rule`], [`scanner`], [`writer`], [`command`];
//! then the shell: [`transactions`], [`execution`], [`latches`], [`memory_locks`], [`horizon`],
//! [`reservations`], [`lock_wait`], [`safe_points`].
//!
//! Left out: shared locks; and answers to a pessimistic lock that is on its way through the log (TiKV's
//! *pipelined* locks): one that cannot be kept in memory is answered when it is applied.

pub mod record;
pub mod problem;
pub mod reader;
pub mod read_rule;
pub mod scanner;
pub mod writer;
pub mod command;
pub mod latches;
pub mod memory_locks;
pub mod horizon;
pub mod reservations;
pub mod deadlock;
pub mod lock_wait;
pub mod safe_points;
pub mod transactions;
mod execution;
mod reads;
mod inspect;
mod writes;
mod pessimistic;

pub use transactions::{TimestampFuture, TimestampSource, Transactions};

#[cfg(test)]
mod script;
#[cfg(any(test, feature = "fuzzing"))]
mod dump;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod replay;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod reserved;
#[cfg(test)]
mod famous;
