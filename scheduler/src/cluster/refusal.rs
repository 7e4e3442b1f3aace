//! Why the scheduler does not do what it was asked: data, which travels in the answer's header.

use std::fmt;

use proto::{RegionId, StoreId, pdpb};

/// A scheduler's refusal. [`Refusal::kind`] is what clients branch on, the text is for people;
/// where clients of PD know a text, it is the same here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has bootstrapped this cluster. A store bootstraps it; a client waits.
    NotBootstrapped,
    /// Somebody was first. The store goes on and registers itself.
    AlreadyBootstrapped,
    /// The first region or store is not one: what is wrong with it.
    InvalidBootstrap(String),
    /// No such store was ever registered.
    UnknownStore(StoreId),
    /// The store is gone for good; it must not come back under this id.
    StoreTombstone(StoreId),
    /// Another live store is registered under this address.
    DuplicateAddress {
        /// The address both claim.
        address: String,
        /// Who has it.
        holder: StoreId,
    },
    /// The store's version does not fit this cluster's.
    IncompatibleVersion {
        /// The cluster's version.
        cluster: String,
        /// The store's.
        store: String,
    },
    /// The store's description cannot be accepted, or the change to its state is not allowed:
    /// why, in words.
    InvalidStore(String),
    /// There is no such region, or none is named: in words.
    RegionNotFound(String),
    /// What was said about a region is older than what is known. Ask again after the next
    /// heartbeat.
    StaleRegion(String),
    /// What was said about a region cannot be: why, in words.
    InvalidRegion(String),
    /// The ranges asked for are not in order, or overlap: in words.
    InvalidRange(String),
    /// Some key of the ranges asked for lies in no known region: between which it lies.
    RangesNotCovered(String),
    /// An operator cannot be added: why, in words.
    OperatorDeclined {
        /// For which region.
        region: RegionId,
        /// In words.
        reason: String,
    },
    /// Placement rules are switched off (`enable-placement-rules`).
    RulesDisabled,
    /// A name or id that is taken.
    Duplicate(String),
    /// A name or id that does not exist.
    NotFound(String),
    /// A value that the rules forbid: why, in words.
    InvalidValue(String),
    /// A change that the rules of garbage collection or of keyspaces forbid: why, in words.
    Forbidden(String),
}

impl Refusal {
    /// No region has this id.
    pub(crate) fn no_region(id: RegionId) -> Self {
        Self::RegionNotFound(format!("region {} not found", id.0))
    }

    /// What clients branch on.
    pub fn kind(&self) -> pdpb::ErrorType {
        match self {
            Self::NotBootstrapped => pdpb::ErrorType::NotBootstrapped,
            Self::AlreadyBootstrapped => pdpb::ErrorType::AlreadyBootstrapped,
            Self::StoreTombstone(_) => pdpb::ErrorType::StoreTombstone,
            Self::IncompatibleVersion { .. } => pdpb::ErrorType::IncompatibleVersion,
            Self::RegionNotFound(_) => pdpb::ErrorType::RegionNotFound,
            Self::RangesNotCovered(_) => pdpb::ErrorType::RegionsNotContainAllKeyRange,
            Self::Duplicate(_) => pdpb::ErrorType::DuplicatedEntry,
            Self::NotFound(_) => pdpb::ErrorType::EntryNotFound,
            Self::InvalidValue(_) => pdpb::ErrorType::InvalidValue,
            Self::InvalidBootstrap(_)
            | Self::UnknownStore(_)
            | Self::DuplicateAddress { .. }
            | Self::InvalidStore(_)
            | Self::StaleRegion(_)
            | Self::InvalidRegion(_)
            | Self::InvalidRange(_)
            | Self::OperatorDeclined { .. }
            | Self::RulesDisabled
            | Self::Forbidden(_) => pdpb::ErrorType::Unknown,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBootstrapped => f.write_str("cluster is not bootstrapped"),
            Self::AlreadyBootstrapped => f.write_str("cluster is already bootstrapped"),
            Self::UnknownStore(id) => write!(f, "invalid store ID {}, not found", id.0),
            Self::StoreTombstone(_) => f.write_str("store is tombstone"),
            Self::DuplicateAddress { address, holder } => {
                write!(f, "duplicated store address: {address} is registered by store {}", holder.0)
            }
            Self::IncompatibleVersion { cluster, store } => {
                write!(f, "version should be compatible with version {cluster}, got {store}")
            }
            Self::RulesDisabled => f.write_str("placement rules feature is disabled"),
            Self::OperatorDeclined { region, reason } => write!(f, "{region}: {reason}"),
            Self::InvalidBootstrap(words)
            | Self::InvalidStore(words)
            | Self::RegionNotFound(words)
            | Self::RangesNotCovered(words)
            | Self::StaleRegion(words)
            | Self::InvalidRegion(words)
            | Self::InvalidRange(words)
            | Self::Duplicate(words)
            | Self::NotFound(words)
            | Self::InvalidValue(words)
            | Self::Forbidden(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for pdpb::Error {
    fn from(refusal: Refusal) -> Self {
        Self { r#type: refusal.kind().into(), message: refusal.to_string() }
    }
}
