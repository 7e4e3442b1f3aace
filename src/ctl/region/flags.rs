//! The command line of `tessera ctl region`.

use clap::{Args, Subcommand, ValueEnum};

use crate::keys::{self, Bound};

/// One region, and what it shall do.
#[derive(Clone, Debug, Args)]
#[command(
    subcommand_negates_reqs = true,
    override_usage = "tessera ctl region [OPTIONS] <ID | --key <KEY> | --check <KIND>>\n       \
                      tessera ctl region [OPTIONS] <COMMAND>",
    after_help = "A region is cut at bounds: `account:5` means these bytes, `enc(account:5)` their encoding, as \
                  `ctl regions` shows it. Transactional keys, and all keys of API version 2, stand in regions \
                  encoded: say --txn or --raw, and a key is meant as `ctl txn` and `ctl raw` mean it."
)]
pub(crate) struct RegionFlags {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) meaning: KeyMeaning,
    #[command(subcommand)]
    pub(crate) command: Option<RegionCommand>,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The region's id
    #[arg(value_parser = parse_id)]
    pub(crate) id: Option<u64>,
    /// A key in it, in the form that regions are cut in
    #[arg(long, value_parser = keys::parse_bound)]
    pub(crate) key: Option<Bound>,
    /// Instead of one region, all that something is to be said of
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) check: Option<CheckKind>,
}

/// What may be said of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckKind {
    /// Fewer peers than there should be
    MissPeer,
    /// More peers than there should be
    ExtraPeer,
    /// A peer that its leader has not heard for a while
    DownPeer,
    /// A peer that is catching up
    PendingPeer,
    /// A peer on a store that is leaving
    OfflinePeer,
    /// A peer without a vote
    LearnerPeer,
    /// Next to nothing in it
    EmptyRegion,
    /// How many regions there are of which size
    HistSize,
    /// How many regions there are with how many keys
    HistKeys,
}

/// How keys are meant; without a flag as regions are cut.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct KeyMeaning {
    /// Keys are transactional keys, as `ctl txn` takes them
    #[arg(long, group = "meaning")]
    pub(crate) txn: bool,
    /// Keys are raw keys, as `ctl raw` takes them
    #[arg(long, group = "meaning")]
    pub(crate) raw: bool,
    /// Keys are of this keyspace (clusters of API version 2; their default keyspace is DEFAULT)
    #[arg(long, requires = "meaning")]
    pub(crate) keyspace: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Cut a region: at keys, or else in the middle of its data
    Split {
        /// The region's id
        id: u64,
        /// The first key of a new region; may be given several times
        #[arg(long = "key", value_parser = keys::parse_bound)]
        keys: Vec<Bound>,
        #[command(flatten)]
        meaning: KeyMeaning,
        /// How the middle is found when no key is given
        #[arg(long, value_enum, default_value_t, conflicts_with = "keys")]
        policy: Policy,
        #[command(flatten)]
        patience: Patience,
    },
    /// Have another store lead a region
    TransferLeader {
        /// The region's id
        id: u64,
        /// The store that shall lead; it must have a voter of the region
        store: u64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Add a peer of a region on a store that has none
    AddPeer {
        /// The region's id
        id: u64,
        /// The store
        store: u64,
        /// A learner: it gets the data and no vote
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        patience: Patience,
    },
    /// Remove a region's peer from a store; a leader hands over first
    RemovePeer {
        /// The region's id
        id: u64,
        /// The store
        store: u64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Move a region's peer from one store to another
    MovePeer {
        /// The region's id
        id: u64,
        /// The store that has it
        from: u64,
        /// The store that shall have it
        to: u64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Have a region's replicas compared; one that differs from a majority goes
    ConsistencyCheck {
        /// The region's id
        id: u64,
    },
}

/// Whether to wait until it is done.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Patience {
    /// Return when the scheduler has accepted it, instead of when it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// How a store finds the middle of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// By reading all of it
    #[default]
    Scan,
    /// By an estimate, where there is one
    Approximate,
}

impl KeyMeaning {
    /// Whether any of these was said.
    pub(super) fn is_given(&self) -> bool {
        self.txn || self.raw || self.keyspace.is_some()
    }
}

impl RegionFlags {
    /// The command's name, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match &self.command {
            None => "region",
            Some(RegionCommand::Split { .. }) => "region split",
            Some(RegionCommand::TransferLeader { .. }) => "region transfer-leader",
            Some(RegionCommand::AddPeer { .. }) => "region add-peer",
            Some(RegionCommand::RemovePeer { .. }) => "region remove-peer",
            Some(RegionCommand::MovePeer { .. }) => "region move-peer",
            Some(RegionCommand::ConsistencyCheck { .. }) => "region consistency-check",
        }
    }
}

fn parse_id(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        "neither a region's id nor a command (see `tessera ctl region --help`)".to_owned()
    })
}
