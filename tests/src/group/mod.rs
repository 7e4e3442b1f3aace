//! The scheduler group on one thread, in virtual time, from one seed.
//!
//! The members are the scheduler's own machines: its raft group, what a leader owes before it serves, the
//! timestamps, the ids, and the picture made of heartbeats. The network, the dice and the events are those
//! of [`crate::sim`]; the shell round a member is [`host`], which does what the scheduler's own does, in the
//! same order, and can be made to do it wrong.
//!
//! ```text
//!   clients ── a timestamp? ids? ──► whichever member they think leads ──► granted, then the lease is looked at
//!   regions ── heartbeats, late, lost, twice, in any order ──► the same ──► believed, written, agreed on
//!   nemesis ── kill · power off · stand still · cut · slow disk · set the clock · hand over ──► members
//! ```
//!
//! | truth | told by |
//! |---|---|
//! | a timestamp is later than all that were answered before it was asked for, and nobody's twice (I11) | every answer to a client |
//! | no id is given twice | every answer to a client |
//! | regions in a picture do not overlap, and are found by each of their keys; no key's region grows older (I8) | every heartbeat that is believed |
//! | members that have applied as far agree on everything | the end, after all has healed |
//! | the group serves again, and its picture becomes what is | the end |
//!
//! | file | what it is |
//! |---|---|
//! | [`options`] | what a run is made of; bugs to plant |
//! | [`world`] | members, clients, regions, nemesis: one queue of events moves them all |
//! | [`host`] | one member: the shell round its machines, its disk, its clocks |
//! | [`tiles`] | the regions as they are, and what is said of them |
//! | [`judge`] | the truths |
//!
//! Left out: joining and leaving, which the group's own tests have; two machines in one process.

pub mod host;
pub mod judge;
pub mod options;
pub mod tiles;
pub mod world;
