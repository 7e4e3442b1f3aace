//! A cluster for the labs: five simulated stores, a scheduler that does as it is told, and clients.
//!
//! Everything runs on one thread in virtual time and repeats exactly for a seed. The stores are the
//! simulator's ([`Node`](crate::sim::node::Node)), so the judges watch here too; what is the labs' own is
//! the scheduler, the clients, and tests that read like the course: a test is an `async` function, and
//! so is each client and each source of trouble.
//!
//! ```text
//!   test, clients, trouble ── tasks (tasks.rs) ── Cluster: put, get, scan, must_add_peer, …
//!                                                    │ requests          │ wishes
//!        one queue of events (world.rs)              ▼                   ▼
//!   s1 s2 s3 s4 s5 ◄── filtered network ──►    server.rs           scheduler.rs
//!                                              never filtered      never filtered
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | [`settings`] | what a cluster is made of |
//! | [`tasks`] | several things at once, in virtual time |
//! | `world` | stores, networks, scheduler, and the queue of events that moves them |
//! | `mail` | what travels between them |
//! | [`server`] | the RPC side of a store: writes, reads by lease or by barrier |
//! | `scheduler` | believes heartbeats, and repeats its one order a region until it is done |
//! | [`client`] | finding a region and its leader, trying again; put, delete, get, scan |
//! | [`members`] | adding, removing, handing over, and waiting for it |
//! | [`engines`] | looks into a store's engines |
//! | [`trouble`] | partitions, lost messages, changes of membership |
//! | [`generic`] | the test that most labs are an instance of |
//!
//! **Where it differs from the course's harness**, on purpose:
//!
//! | there | here |
//! |---|---|
//! | the changer of members acts in the first of three rounds, and nobody waits for it | it acts in each, is told to stop, and is waited for |
//! | filters that lose messages stack, up to six in ten | one in ten is lost, however long the trouble lasts |
//! | a store that "crashes" keeps its engines open | the power fails: what was not synced may be gone |
//! | a key is absent when it was absent once | it must stay absent for a while |
//! | no test asks an isolated leader for a read | [`Cluster::ask`] does, and `test_one_partition_2b` uses it |
//! | a client repeats a request with an old epoch until it gives up | it looks the region up again |
//! | waiting for a transfer spins | it looks every ten milliseconds |
//! | a split is given 200 ms | it is waited for |
//! | a wait for a change of membership may end in the middle of a partition | its time runs when the network is whole |
//!
//! A test that fails prints the line that repeats it. `TESSERA_LAB_SEED` gives all labs another seed,
//! `TESSERA_LAB_TRACE=1` has the last events printed.
//!
//! Left out: real time, real sockets, real disks (`tests/end_to_end/`); clients that share keys, and so
//! linearizability (`tests/src/sim/`).

pub mod client;
pub mod engines;
pub mod generic;
mod mail;
pub mod members;
mod scheduler;
pub mod server;
pub mod settings;
pub mod tasks;
pub mod trouble;
mod world;

pub use tasks::Cluster;
