//! What the shell is told on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::args::KeyspaceFlags;
use crate::output::Format;

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With -e, or something else than a terminal on stdin, it runs a script and stops at the first \
                        failure.\nStatements: begin; put a 1; commit; get a at '5s ago'; scan prefix user:; help"
)]
pub(crate) struct ShellFlags {
    /// Any scheduler members, as host:port,…; one that lives is enough
    #[arg(
        long,
        visible_alias = "endpoints",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        env = "TESSERA_ENDPOINTS"
    )]
    pub(crate) pd: Vec<String>,
    /// Run this line instead of reading stdin; may be given more than once
    #[arg(short = 'e', long = "execute", visible_short_alias = 'c', value_name = "LINE")]
    pub(crate) execute: Vec<String>,
    /// Begin with raw keys (default: transactional ones)
    #[arg(long)]
    pub(crate) raw: bool,
    /// How data is printed; JSON is one document a line
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Say how long each statement took, in scripts too
    #[arg(long)]
    pub(crate) timing: bool,
    /// Seconds until a statement gives up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    /// Where lines are remembered; an empty name is nowhere (default: ~/.tessera_history)
    #[arg(long, value_name = "FILE", env = "TESSERA_HISTORY")]
    pub(crate) history: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) keyspace: KeyspaceFlags,
}
