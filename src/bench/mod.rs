//! `tessera bench`: measure a cluster. Figures go to stdout; nothing is asserted.
//!
//! Closed loop: each caller sends its next call when the last was answered.
//!
//! `raw` makes unary calls to the leader's store over a few shared connections, so that another
//! system measured beside it with the same library, connections and values is compared fairly. The
//! other workloads (`txn`, `bank`, `ycsb`) go through the client crate, as an application would, and
//! count what it had to do again and what failed.

mod bank;
mod child;
mod etcd;
mod heartbeats;
mod idle;
mod load;
mod raw;
mod regions;
mod run;
mod tso;
mod txn;
mod ycsb;
mod zipfian;

use crate::args::{BenchCommand, BenchFlags};
use crate::exit::Outcome;

/// Runs one benchmark.
pub(crate) async fn run(flags: BenchFlags) -> Outcome {
    match flags.command {
        BenchCommand::Raw(flags) => raw::run(flags).await,
        BenchCommand::Tso(flags) => tso::run(flags).await,
        BenchCommand::Heartbeats(flags) => heartbeats::run(&flags),
        BenchCommand::Txn(flags) => txn::run(flags).await,
        BenchCommand::Bank(flags) => bank::run(flags).await,
        BenchCommand::Ycsb(flags) => ycsb::run(flags).await,
        BenchCommand::Idle { seconds, regions } => idle::run(seconds, regions).await,
    }
}
