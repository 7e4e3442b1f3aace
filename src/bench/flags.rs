//! What the workloads through the client crate are told on the command line.

use clap::{Args, ValueEnum};

use crate::args::KeyspaceFlags;
use crate::output::Format;

/// What every workload through the client is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadFlags {
    /// Scheduler members of a running cluster (default: a fresh playground of processes)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) pd: Vec<String>,
    #[command(flatten)]
    pub(crate) keyspace: KeyspaceFlags,
    /// Callers side by side, each with one operation under way
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) threads: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Bytes of a value
    #[arg(long, visible_alias = "value-size", default_value_t = 256)]
    pub(crate) value_bytes: usize,
    /// Distinct keys
    #[arg(long, default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// What the choice of keys and operations follows from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How the result is printed
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// When a transaction takes its locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Locking {
    /// When it commits
    #[default]
    Optimistic,
    /// As it goes
    Pessimistic,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchTxnFlags {
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    /// When locks are taken
    #[arg(long, value_enum, default_value_t)]
    pub(crate) locking: Locking,
    /// Keys that a transaction reads
    #[arg(long, default_value_t = 2)]
    pub(crate) reads: usize,
    /// Keys that a transaction writes
    #[arg(long, default_value_t = 2)]
    pub(crate) writes: usize,
    /// Never commit asynchronously or in one phase
    #[arg(long)]
    pub(crate) two_phases: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchBankFlags {
    /// `--keys` is the number of accounts
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    /// When locks are taken
    #[arg(long, value_enum, default_value_t)]
    pub(crate) locking: Locking,
    /// Never commit asynchronously or in one phase
    #[arg(long)]
    pub(crate) two_phases: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchYcsbFlags {
    /// Which of them, one after the other (default: all six)
    #[arg(value_enum, ignore_case = true)]
    pub(crate) workloads: Vec<YcsbWorkload>,
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    /// In transactions (default: raw keys)
    #[arg(long)]
    pub(crate) txn: bool,
}

/// A core workload of YCSB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum YcsbWorkload {
    /// Half reads, half updates
    A,
    /// Mostly reads, some updates
    B,
    /// Reads only
    C,
    /// Reads of what was inserted last
    D,
    /// Short scans, some inserts
    E,
    /// Half reads, half reads with a write after
    F,
}

impl YcsbWorkload {
    pub(crate) const ALL: [Self; 6] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::F];

    pub(crate) fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
            Self::C => 'c',
            Self::D => 'd',
            Self::E => 'e',
            Self::F => 'f',
        }
    }

    /// How many of a hundred operations are not the workload's usual read or scan.
    pub(crate) fn rare_percent(self) -> u32 {
        match self {
            Self::A | Self::F => 50,
            Self::B | Self::D | Self::E => 5,
            Self::C => 0,
        }
    }
}
