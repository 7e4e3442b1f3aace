//! `tessera ctl`: look at a cluster, and change it.
//!
//! Each command finds the leading scheduler member from any one endpoint, asks it over gRPC, and
//! prints data to stdout. Keys take the forms of [`crate::keys`]. Every command ends within its
//! `--timeout` and says what it waited for.
//!
//! What changes a region goes through the scheduler as an operator (`region/`, `operator.rs`): over PD's
//! HTTP API, since its gRPC service has no call for it.

mod cluster;
pub(crate) mod config;
mod explain;
mod http;
pub(crate) mod keyspace;
pub(crate) mod member;
pub(crate) mod mvcc;
mod operator;
mod raw;
pub(crate) mod region;
pub(crate) mod rule;
pub(crate) mod scheduler;
pub(crate) mod schedulers;
mod store_limit;
pub(crate) mod store;
mod txn;

use std::sync::Mutex;
use std::time::Duration;

use crate::args::{CtlCommand, CtlFlags};
use crate::exit::{Code, Failure, Outcome};

/// Runs one command to its end or its deadline.
pub(crate) async fn run(flags: CtlFlags) -> Outcome {
    let deadline = Duration::from_secs(u64::from(flags.timeout));
    let name = name_of(&flags.command);
    let waiting = Waiting::default();
    match tokio::time::timeout(deadline, dispatch(flags, &waiting)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new(
            Code::Timeout,
            format!("ctl {name}: {}", waiting.in_vain(deadline.as_secs())),
        )),
    }
}

/// What a command is waiting for: said when its time is over.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Option<String>>);

impl Waiting {
    /// From now on it waits for this.
    pub(crate) fn says(&self, words: String) {
        if let Ok(mut said) = self.0.lock() {
            *said = Some(words);
        }
    }

    fn in_vain(&self, seconds: u64) -> String {
        match self.0.lock().ok().and_then(|said| said.clone()) {
            None => format!("no answer within {seconds} s (see --timeout)"),
            Some(words) => format!("not done within {seconds} s (see --timeout): {words}"),
        }
    }
}

fn name_of(command: &CtlCommand) -> &'static str {
    match command {
        CtlCommand::Members => "members",
        CtlCommand::Member(_) => "member",
        CtlCommand::Stores => "stores",
        CtlCommand::Store(flags) => flags.name(),
        CtlCommand::Rule(_) => "rule",
        CtlCommand::Config(_) => "config",
        CtlCommand::Regions { .. } => "regions",
        CtlCommand::Region(flags) => flags.name(),
        CtlCommand::Operator(_) => "operator",
        CtlCommand::Scheduler(_) => "scheduler",
        CtlCommand::Hot(_) => "hot",
        CtlCommand::Explain(_) => "explain",
        CtlCommand::Tso { .. } => "tso",
        CtlCommand::Status => "status",
        CtlCommand::Raw(_) => "raw",
        CtlCommand::Txn(_) => "txn",
        CtlCommand::Mvcc { .. } => "mvcc",
    }
}

async fn dispatch(flags: CtlFlags, waiting: &Waiting) -> Outcome {
    let CtlFlags { pd, output, timeout: _, command } = flags;
    match command {
        CtlCommand::Members => cluster::members(&pd, output).await,
        CtlCommand::Member(command) => member::run(&pd, command, output, waiting).await,
        CtlCommand::Stores => cluster::stores(&pd, output).await,
        CtlCommand::Store(flags) => store::run(&pd, flags, output).await,
        CtlCommand::Rule(command) => rule::run(&pd, command, output).await,
        CtlCommand::Config(command) => config::run(&pd, command, output).await,
        CtlCommand::Regions { limit } => cluster::regions(&pd, limit, output).await,
        CtlCommand::Region(flags) => region::run(&pd, flags, output, waiting).await,
        CtlCommand::Operator(command) => operator::run(&pd, command, output).await,
        CtlCommand::Scheduler(command) => schedulers::run(&pd, command, output).await,
        CtlCommand::Hot(command) => schedulers::hot::run(&pd, command, output).await,
        CtlCommand::Explain(command) => explain::run(&pd, command, output).await,
        CtlCommand::Tso { timestamp } => cluster::tso(&pd, timestamp, output).await,
        CtlCommand::Status => cluster::status(&pd, output).await,
        CtlCommand::Raw(command) => raw::run(&pd, command, output).await,
        CtlCommand::Txn(command) => txn::run(&pd, command, output).await,
        CtlCommand::Mvcc { key, keyspace } => mvcc::run(&pd, key, &keyspace, output).await,
    }
}
