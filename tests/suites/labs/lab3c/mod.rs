//! Lab 3C: the scheduler. What it believes of the regions whose leaders speak, and where it moves peers.
//!
//! Look: `scheduler/src/cluster/regions/mod.rs` (what is believed), `scheduler/src/balancers/regions.rs` (what is
//! moved), `scheduler/src/placement.rs` (where to).

mod balance_region;
mod heartbeats;
mod many;
