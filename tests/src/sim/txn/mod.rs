//! Transactions in the simulated cluster.
//!
//! | file | what it is |
//! |---|---|
//! | `server` | the transactional side of a store: `kv::txn` on a clock of its own |
//! | `desk` | what it asks of the raft worker and of the scheduler |
//! | `oracle` | the source of timestamps, whose leaders change |
//! | `session` | a client's hands: it asks, waits and gives up in virtual time |
//! | `requests` | from keys to regions, stores and answers |
//! | `transaction`, `commit` | what a transaction reads, reserves and buffers; how it ends |
//! | `resolver` | what becomes of a lock in the way |
//! | [`workload`] | what transactions are asked to do, and what they promise |
//! | `clients` | all clients, and what the judges know of them |
//! | `world` | events of theirs; the end, when everything is read and judged |
//!
//! **What is real.** On the stores: `kv::txn` whole, with its latches, locks shown in memory, waits for locks,
//! deadlock detection, deadlines and the timestamps it asks for before async commits; raftstore below it. In the
//! scheduler: `scheduler::timestamps`. The records on the disks are the real ones.
//!
//! **What is not.** `kv::storage::replicated` has a twin here (`server`, `desk`): the same steps in the same
//! order, without its patience with elections and full inboxes. The RPC services, the batched stream and the
//! client crate are left to the tests with real processes: the clients here speak the protocol by themselves,
//! and are as careless as it allows. `kv::gc` has a twin too (`world`): it tells the stores of safe points, has the
//! locks before them resolved and the garbage removed, in the same order; the removing is real. So has
//! `kv::handover` (`handover`).
//!
//! **What goes wrong** beside all that the world does anyway: clients crash anywhere, between the phases of
//! their commits above all, and leave their locks behind; their clocks run at half or twice the speed, so that
//! locks of living transactions run out; the scheduler's clocks stand seconds apart, and it changes its leader.

mod clients;
mod commit;
mod desk;
mod handover;
mod oracle;
mod requests;
mod resolver;
mod server;
mod session;
mod transaction;
pub mod workload;
mod world;

pub(super) use clients::TxnClients;
pub(super) use desk::Done;
pub(super) use server::{TxnCall, TxnLook, TxnServer};
pub(super) use world::TxnEvent;
