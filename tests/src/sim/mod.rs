//! The whole cluster on one thread, in virtual time, from one seed.
//!
//! | file | what it is |
//! |---|---|
//! | [`world`] | stores, overseer, clients, network, nemesis: one queue of events moves them all |
//! | `mail` | what travels between stores, overseer and clients |
//! | `ending` | all heals; then the cluster must answer and agree |
//! | [`summary`] | how a run went |
//! | [`options`] | what a run is made of, drawn from its seed; bugs to plant |
//! | [`events`] | virtual time |
//! | [`dice`] | seeded randomness |
//! | [`network`] | delay, loss, repetition, cuts |
//! | [`nemesis`] | who hurts whom, when |
//! | [`node`] | one store: the shell round its machines |
//! | [`life`] | how a store begins, dies and is hurt: process, two disks, clock |
//! | `watch` | what a store lets the judges see |
//! | [`clients`] | who asks what, and what they make of the answers |
//! | [`region_map`] | … and what they believe of the cluster |
//! | [`txn`] | clients that run transactions, and the stores' side of it |
//! | [`overseer`] | a stand-in for the scheduler |
//! | [`judges`] | the checkers, and what they are told |
//! | [`probes`] | rare things that should happen in some run |
//! | `sightings`, `listener` | … seen on the wire, and heard from the machines |
//! | `knobs` | the settings of the stores |
//! | `notation` | events in words and as numbers |
//! | [`trace`] | a digest that must repeat, and the last lines for a person |
//!
//! The stores are the real machines of `raftstore` over its engines in memory; only the shell is
//! another. Nothing here reads a clock or starts a thread.

pub mod clients;
pub mod dice;
mod ending;
pub mod events;
pub mod judges;
mod knobs;
pub mod life;
mod listener;
mod mail;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod notation;
pub mod options;
pub mod overseer;
pub mod probes;
pub mod region_map;
mod server;
mod sightings;
pub mod summary;
pub mod trace;
pub mod txn;
mod watch;
pub mod world;
