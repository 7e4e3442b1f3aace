//! `tessera ctl`: look at a cluster, and change it.
//!
//! Each command finds the leading scheduler member from any one endpoint, asks it over gRPC, and
//! prints data to stdout. Keys take the forms of [`crate::keys`]. Every command ends within its
//! `--timeout` and says what it waited for.

mod cluster;
mod keyspace;
mod raw;
pub(crate) mod scheduler;
mod txn;

use std::time::Duration;

use crate::args::{CtlCommand, CtlFlags};
use crate::exit::{Code, Failure, Outcome};

/// Runs one command to its end or its deadline.
pub(crate) async fn run(flags: CtlFlags) -> Outcome {
    let deadline = Duration::from_secs(u64::from(flags.timeout));
    let name = name_of(&flags.command);
    match tokio::time::timeout(deadline, dispatch(flags)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new(
            Code::Timeout,
            format!("ctl {name}: no answer within {} s (see --timeout)", deadline.as_secs()),
        )),
    }
}

fn name_of(command: &CtlCommand) -> &'static str {
    match command {
        CtlCommand::Members => "members",
        CtlCommand::Stores => "stores",
        CtlCommand::Regions { .. } => "regions",
        CtlCommand::Region(_) => "region",
        CtlCommand::Tso { .. } => "tso",
        CtlCommand::Status => "status",
        CtlCommand::Raw(_) => "raw",
        CtlCommand::Txn(_) => "txn",
    }
}

async fn dispatch(flags: CtlFlags) -> Outcome {
    let CtlFlags { pd, output, timeout: _, command } = flags;
    match command {
        CtlCommand::Members => cluster::members(&pd, output).await,
        CtlCommand::Stores => cluster::stores(&pd, output).await,
        CtlCommand::Regions { limit } => cluster::regions(&pd, limit, output).await,
        CtlCommand::Region(region) => cluster::region(&pd, region, output).await,
        CtlCommand::Tso { timestamp } => cluster::tso(&pd, timestamp, output).await,
        CtlCommand::Status => cluster::status(&pd, output).await,
        CtlCommand::Raw(command) => raw::run(&pd, command, output).await,
        CtlCommand::Txn(command) => txn::run(&pd, command, output).await,
    }
}
