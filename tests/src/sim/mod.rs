//! The whole cluster on one thread, in virtual time, from one seed.
pub mod dice;
pub mod events;
pub mod nemesis;
pub mod network;
