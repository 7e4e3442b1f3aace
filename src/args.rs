//! The command line.
//!
//! `scheduler` and `store` take the flags of pd-server and tikv-server where the meaning is the
//! same, and the program answers to those names when it is called by them, so that scripts made for
//! the originals work.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::flags::{BenchBankFlags, BenchTxnFlags, BenchYcsbFlags};
use crate::ctl::config::ConfigCommand;
use crate::ctl::member::MemberCommand;
use crate::ctl::region::RegionFlags;
use crate::ctl::rule::RuleCommand;
use crate::ctl::schedulers::flags::{HotCommand, OperatorAdd, SchedulerCommand};
use crate::keys::{self, Key};
use crate::output::Format;
use crate::shell::ShellFlags;

/// A self-contained, multi-raft, transactional key-value cluster that speaks TiKV's wire protocol.
#[derive(Debug, Parser)]
#[command(
    name = "tessera",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 cluster unreachable, \
                  4 refused in this state, 5 timed out, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole local cluster, ready in a moment
    Playground(PlaygroundFlags),
    /// Run one member of the scheduler (takes pd-server's flags)
    Scheduler(SchedulerFlags),
    /// Run one store (takes tikv-server's flags)
    Store(StoreFlags),
    /// Run a scheduler member and a store in one process
    Server(ServerFlags),
    /// Look at a cluster, and change it
    Ctl(CtlFlags),
    /// Read and write keys, one statement at a time
    Shell(ShellFlags),
    /// Measure a cluster
    Bench(BenchFlags),
}

/// The arguments as if the subcommand had been typed when the program is called `pd-server` or
/// `tikv-server`.
pub(crate) fn with_program_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|first| Path::new(first).file_stem().map(OsString::from));
    let subcommand = match name.as_deref().and_then(|name| name.to_str()) {
        Some("pd-server") => "scheduler",
        Some("tikv-server") => "store",
        _ => return arguments,
    };
    arguments.insert(1, subcommand.into());
    arguments
}

/// The cluster setting that decides how keys and values are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ApiVersionFlag {
    /// Raw and transactional keys as they are
    #[default]
    #[value(name = "1")]
    V1,
    /// Raw keys only, each with a time to live
    #[value(name = "1ttl")]
    V1Ttl,
    /// Keyspaces; raw values may have a time to live
    #[value(name = "2")]
    V2,
}

impl From<ApiVersionFlag> for kv::ApiVersion {
    fn from(flag: ApiVersionFlag) -> Self {
        match flag {
            ApiVersionFlag::V1 => Self::V1,
            ApiVersionFlag::V1Ttl => Self::V1Ttl,
            ApiVersionFlag::V2 => Self::V2,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PlaygroundFlags {
    /// How many stores
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) stores: u8,
    /// How many scheduler members (an odd number tolerates failures)
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) schedulers: u8,
    /// The address everything listens on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// The first scheduler member's client port; 0 takes a free one. All others are always free ones
    #[arg(long, default_value_t = 2379)]
    pub(crate) port: u16,
    /// Keep data in this directory, and go on from what is there (default: a temporary one)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Layout of keys and values
    #[arg(long, value_enum, default_value_t)]
    pub(crate) api_version: ApiVersionFlag,
    /// Run every store and scheduler member as a process of its own
    #[arg(long)]
    pub(crate) processes: bool,
    /// Write a JSON file with all addresses once the first write and read went through raft
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// How much to log on stderr: error, warn, info, debug, or a filter such as `raftstore=debug`
    #[arg(long, default_value = "warn,raft=error", env = "TESSERA_LOG")]
    pub(crate) log_level: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LogFlags {
    /// How much to log: error, warn, info, debug, or a filter such as `raftstore=debug`
    #[arg(short = 'L', long, env = "TESSERA_LOG")]
    pub(crate) log_level: Option<String>,
    /// Append the log to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SchedulerFlags {
    /// This member's name, unique in the cluster
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where this member keeps its state (default: default.NAME)
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where clients are served, as a URL
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) client_urls: Vec<String>,
    /// Where other members are served, as a URL
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) peer_urls: Vec<String>,
    /// What clients are told to connect to (default: the client URLs)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) advertise_client_urls: Vec<String>,
    /// What other members are told to connect to (default: the peer URLs)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) advertise_peer_urls: Vec<String>,
    /// All first members, as name=peer-url,… (default: this one alone)
    #[arg(long, value_name = "NAME=URL", value_delimiter = ',', conflicts_with = "join")]
    pub(crate) initial_cluster: Vec<String>,
    /// Join a running cluster: client URLs of its members
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// A TOML file with pd-server's keys; flags win over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StoreFlags {
    /// Where clients and other stores are served, as host:port
    #[arg(short = 'A', long, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// What others are told to connect to (default: addr)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise_addr: Option<String>,
    /// Where /status, /config and /metrics are served over HTTP, as host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) status_addr: Option<String>,
    /// What others are told of the status address (default: status-addr)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise_status_addr: Option<String>,
    /// Scheduler members, as host:port,…; one that lives is enough
    #[arg(
        long,
        visible_alias = "pd",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "TESSERA_ENDPOINTS"
    )]
    pub(crate) pd_endpoints: Vec<String>,
    /// Where this store keeps its data
    #[arg(short = 's', long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A TOML file with tikv-server's keys; flags win over it
    #[arg(short = 'C', long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What the scheduler may know of this store's place, as key=value,…
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    /// Layout of keys and values; the same on every store
    #[arg(long, value_enum)]
    pub(crate) api_version: Option<ApiVersionFlag>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ServerFlags {
    /// This node's name, unique in the cluster
    #[arg(long, default_value = "tessera")]
    pub(crate) name: String,
    /// Where this node keeps everything: `scheduler` and `store` below it
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where the scheduler member serves clients, as a URL
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:2379")]
    pub(crate) client_urls: String,
    /// Where the scheduler member serves other members, as a URL
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:2380")]
    pub(crate) peer_urls: String,
    /// What clients are told to connect to (default: the client URL)
    #[arg(long, value_name = "URL")]
    pub(crate) advertise_client_urls: Option<String>,
    /// What other members are told to connect to (default: the peer URL)
    #[arg(long, value_name = "URL")]
    pub(crate) advertise_peer_urls: Option<String>,
    /// All first members, as name=peer-url,… (default: this one alone)
    #[arg(long, value_name = "NAME=URL", value_delimiter = ',', conflicts_with = "join")]
    pub(crate) initial_cluster: Vec<String>,
    /// Join a running cluster: client URLs of its members
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) join: Vec<String>,
    /// Where the store serves clients and other stores, as host:port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:20160")]
    pub(crate) addr: String,
    /// What others are told to connect to (default: addr)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise_addr: Option<String>,
    /// Where the store's /status, /config and /metrics are served over HTTP, as host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) status_addr: Option<String>,
    /// What the scheduler may know of this store's place, as key=value,…
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// Layout of keys and values; the same on every store
    #[arg(long, value_enum)]
    pub(crate) api_version: Option<ApiVersionFlag>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CtlFlags {
    /// Any scheduler members, as host:port,…; one that lives is enough
    #[arg(
        long,
        visible_alias = "endpoints",
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        env = "TESSERA_ENDPOINTS"
    )]
    pub(crate) pd: Vec<String>,
    /// How data is printed
    #[arg(short = 'o', long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Seconds until a command gives up
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// The scheduler's members, and who leads
    Members,
    /// The scheduler's members one by one: health, who leads, who shall; remove one
    #[command(subcommand)]
    Member(MemberCommand),
    /// The stores, their states and sizes
    Stores,
    /// One store by id; drain it, label it, weigh it, limit it
    Store(crate::ctl::store::StoreFlags),
    /// Placement rules: how many replicas of which role, on which stores, for which keys
    #[command(subcommand)]
    Rule(RuleCommand),
    /// The cluster's settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The regions, in key order
    Regions {
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// One region, by id or by a key in it; split it, move its leader and its peers
    Region(RegionFlags),
    /// What the scheduler is having regions do
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// What evens out the cluster: list, add, remove, pause, resume, configure
    #[command(subcommand)]
    Scheduler(SchedulerCommand),
    /// What is read and written most
    #[command(subcommand)]
    Hot(HotCommand),
    /// Why a region does (not) move, and a store does (not) fill or empty
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// A fresh timestamp, or what a given one means
    Tso {
        /// A timestamp to take apart instead of fetching one
        timestamp: Option<u64>,
    },
    /// Is the cluster healthy? In words
    Status,
    /// Raw keys
    #[command(subcommand)]
    Raw(RawCommand),
    /// Transactional keys
    #[command(subcommand)]
    Txn(TxnCommand),
    /// Every version, lock and record of a transactional key
    Mvcc {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// The operators under way
    List {
        /// Only those of this kind: admin, replica, leader, region, hot-region, scatter or split
        #[arg(long)]
        kind: Option<String>,
    },
    /// The operators that have ended, the latest first
    Records {
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Have the scheduler do something with a region; it goes on by itself
    #[command(subcommand)]
    Add(OperatorAdd),
    /// A region's operator step by step, or its last one
    #[command(visible_alias = "check")]
    Show {
        /// The region's id
        region: u64,
    },
    /// Give up a region's operator; what is done stays done
    #[command(visible_alias = "remove")]
    Cancel {
        /// The region's id
        region: u64,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// What the checker and the balancers say of a region, and of each store for it
    Region {
        /// The region's id
        id: u64,
    },
    /// What stands against new peers on a store, and what is said of its regions
    Store {
        /// The store's id
        id: u64,
        /// Of at most this many regions
        #[arg(long, default_value_t = 16)]
        limit: u32,
    },
}

/// Which API version the cluster runs, and which keyspace is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyspaceFlags {
    /// Use this keyspace (clusters of API version 2; their default keyspace is DEFAULT)
    #[arg(long)]
    pub(crate) keyspace: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RawCommand {
    /// The value of a key; exit code 1 when there is none
    Get {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
    /// Set a key
    Put {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[arg(value_parser = keys::parse_argument)]
        value: Key,
        /// Seconds after which the value is gone (clusters with TTL)
        #[arg(long)]
        ttl: Option<u64>,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
    /// Remove a key
    Delete {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
    /// Keys and values of a range
    Scan(ScanFlags),
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TxnCommand {
    /// The newest committed value of a key; exit code 1 when there is none
    Get {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
    /// Set a key in a transaction of its own
    Put {
        #[arg(value_parser = keys::parse_argument)]
        key: Key,
        #[arg(value_parser = keys::parse_argument)]
        value: Key,
        #[command(flatten)]
        keyspace: KeyspaceFlags,
    },
    /// Keys and values of a range, at one timestamp
    Scan(ScanFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ScanFlags {
    /// First key (default: the first there is)
    #[arg(value_parser = keys::parse_argument, default_value = "")]
    pub(crate) start: Key,
    /// First key beyond the range (default: none)
    #[arg(value_parser = keys::parse_argument, default_value = "")]
    pub(crate) end: Key,
    /// At most this many
    #[arg(long, default_value_t = 25)]
    pub(crate) limit: u32,
    /// From the end backwards
    #[arg(long)]
    pub(crate) reverse: bool,
    #[command(flatten)]
    pub(crate) keyspace: KeyspaceFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchFlags {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Raw put and get through unary calls, as a table of throughput and latency
    Raw(BenchRawFlags),
    /// Timestamps: many callers in one process, gathered into batches by the client
    Tso(BenchTsoFlags),
    /// Heartbeats of regions through the scheduler's machine alone, on one thread
    Heartbeats(BenchHeartbeatsFlags),
    /// Transactions that read some keys and write some
    Txn(BenchTxnFlags),
    /// Money moves between accounts; fails when some is lost or made
    Bank(BenchBankFlags),
    /// The core workloads of YCSB
    Ycsb(BenchYcsbFlags),
    /// Processor time and memory of an idle playground
    Idle {
        /// Seconds to watch
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Regions to cut the keys into first
        #[arg(
            long,
            value_name = "N",
            default_value_t = 1,
            value_parser = clap::value_parser!(u32).range(1..=100_000)
        )]
        regions: u32,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchTsoFlags {
    /// Scheduler members of a running cluster (default: a fresh playground of processes)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) pd: Vec<String>,
    /// Clients, each with a stream of its own
    #[arg(long, default_value_t = 2)]
    pub(crate) clients: usize,
    /// Callers that share a client, each with one call in flight
    #[arg(long, default_value_t = 2048)]
    pub(crate) callers: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// How the result is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchHeartbeatsFlags {
    /// Regions that are known
    #[arg(long, default_value_t = 100_000)]
    pub(crate) regions: u32,
    /// Stores that hold them
    #[arg(long, default_value_t = 100)]
    pub(crate) stores: u32,
    /// Seconds for each kind of heartbeat
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u64,
    /// How the result is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchRawFlags {
    /// Scheduler members of a running cluster (default: a fresh playground of processes)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) pd: Vec<String>,
    /// Measure an etcd cluster beside it, taking turns: client endpoints as http://host:port,…
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) etcd: Vec<String>,
    /// Calls in flight, one row each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 256])]
    pub(crate) clients: Vec<usize>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub(crate) value_bytes: usize,
    /// Distinct keys
    #[arg(long, default_value_t = 100_000)]
    pub(crate) keys: u64,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// Turns; medians are printed
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// How the result is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_originals_names_choose_the_subcommand() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            with_program_name(arguments(&["/opt/pd-server", "--name", "a"])),
            arguments(&["/opt/pd-server", "scheduler", "--name", "a"])
        );
        assert_eq!(
            with_program_name(arguments(&["tessera", "ctl"])),
            arguments(&["tessera", "ctl"])
        );
    }
}
