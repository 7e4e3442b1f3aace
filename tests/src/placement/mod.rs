//! Scheduling alone, on the scheduler's own code: stores and regions that are nothing but their heartbeats.
//!
//! The simulator in [`crate::sim`] has a handful of stores with everything in them and asks whether they
//! keep their promises. Here are up to thousands of stores and regions with nothing in them, and the
//! questions are other ones: does the cluster come to rest, how soon, after how many moves, and does it
//! stay there?
//!
//! ```text
//!   fake store ── every 10 s ──► Cluster::on_store_heartbeat
//!   fake region ─ every 60 s, and when something changed ──► Cluster::on_region_heartbeat ─┐
//!   tick ──────── every 100 ms ──► Cluster::tick ──────────────────────────────────────────┤
//!        ▲                                                                                 ▼
//!        └── peers come, catch up, go; leads are handed over ◄── some milliseconds ◄── an order
//! ```
//!
//! A region obeys as a real one does: an order for an epoch that has passed is not followed, nor one that
//! its quorum cannot agree on; a new peer catches up in the time that its data takes. Time is virtual, one
//! seed decides every delay, and the same seed is the same run.
//!
//! | file | what it is |
//! |---|---|
//! | [`region`] | one region: what its leader says, and how it follows an order |
//! | [`world`] | the scheduler, the stores, the regions, and time |
//! | [`tally`] | what was moved, beside the least that had to be |
//! | [`cases`] | the situations, and how each must end |
//!
//! Left out: the scheduler group (one leader serves throughout, but for the case that changes it), the
//! network, and the load that moving data puts on stores.

pub mod cases;
pub mod region;
pub mod tally;
pub mod world;
