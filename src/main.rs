//! `tessera`: playground, server, ctl, shell and bench in one program.
//!
//! This file reads the command line and turns outcomes into exit codes; everything else lives in a
//! module named after the command.

mod args;
mod bench;
mod config_file;
mod ctl;
mod exit;
mod keys;
mod logging;
mod output;
mod playground;
mod process;
mod replica_keys;
mod server;
mod shell;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::exit::{Failure, Outcome};

fn main() -> ExitCode {
    // Usage errors are printed by clap itself, which ends with exit code 2.
    let cli = Cli::parse_from(args::with_program_name(std::env::args_os().collect()));
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Playground(flags) => playground::run(flags).await,
            Command::Scheduler(flags) => server::scheduler(flags).await,
            Command::Store(flags) => server::store(flags).await,
            Command::Server(flags) => server::both(flags).await,
            Command::Ctl(flags) => ctl::run(flags).await,
            Command::Shell(flags) => shell::run(flags).await,
            Command::Bench(flags) => bench::run(flags).await,
        }
    })
}
