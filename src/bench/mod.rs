//! `tessera bench`: measure a cluster. Figures go to stdout; nothing is asserted.
//!
//! Closed loop: each caller sends its next call when the last was answered. Every call is unary and
//! goes to the leader's store over a few shared connections, so that another system measured
//! beside it with the same library, connections and values is compared fairly.

mod child;
mod etcd;
mod heartbeats;
mod idle;
mod raw;
mod regions;
mod run;
mod tso;

use crate::args::{BenchCommand, BenchFlags};
use crate::exit::Outcome;

/// Runs one benchmark.
pub(crate) async fn run(flags: BenchFlags) -> Outcome {
    match flags.command {
        BenchCommand::Raw(flags) => raw::run(flags).await,
        BenchCommand::Tso(flags) => tso::run(flags).await,
        BenchCommand::Heartbeats(flags) => heartbeats::run(&flags),
        BenchCommand::Idle { seconds, regions } => idle::run(seconds, regions).await,
    }
}
