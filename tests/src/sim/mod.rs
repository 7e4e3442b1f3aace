//! The whole cluster on one thread, in virtual time, from one seed.
//!
//! | file | what it is |
//! |---|---|
//! | [`world`] | stores, overseer, clients, network, nemesis: one queue of events moves them all |
//! | [`options`] | what a run is made of, drawn from its seed; bugs to plant |
//! | [`events`] | virtual time |
//! | [`dice`] | seeded randomness |
//! | [`network`] | delay, loss, repetition, cuts |
//! | [`nemesis`] | who hurts whom, when |
//! | [`node`] | one store: the shell round its machines, with a disk that outlives the process |
//! | [`clients`] | who asks what, and what they make of the answers |
//! | [`overseer`] | a stand-in for the scheduler |
//! | [`judges`] | the checkers, and what they are told |
//! | [`trace`] | a digest that must repeat, and the last lines for a person |
//!
//! The stores are the real machines of `raftstore` over its engines in memory; only the shell is
//! another. Nothing here reads a clock or starts a thread.

pub mod clients;
pub mod dice;
pub mod events;
pub mod judges;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod options;
pub mod overseer;
mod server;
pub mod trace;
pub mod world;
