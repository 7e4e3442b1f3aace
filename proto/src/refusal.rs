//! Why a store does not serve a request that another store, or a later try, may serve.
//!
//! A refusal is data: it travels in the answer's `region_error`, and the client branches on it. On
//! the wire exactly one member of `errorpb::Error` is set and `message` is readable.

use bytes::Bytes;

use crate::{errorpb, metapb, region};

/// A region error as one closed set. Each variant says what the receiver does.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Someone else leads. With a leader: go there at once; without: wait a little, ask again.
    NotLeader {
        /// The region asked.
        region_id: u64,
        /// Who leads, if known here.
        leader: Option<metapb::Peer>,
    },
    /// The region has no peer here. Forget the route and ask the scheduler.
    RegionNotFound {
        /// The region asked.
        region_id: u64,
    },
    /// The key lies outside the region. Forget the route and ask the scheduler.
    KeyNotInRegion {
        /// The key asked for.
        key: Bytes,
        /// The region asked.
        region_id: u64,
        /// Where it starts.
        start_key: Bytes,
        /// Where it ends; empty is +infinity.
        end_key: Bytes,
    },
    /// The caller's map is old (or newer than ours). Replace the route by these regions.
    EpochNotMatch {
        /// The region itself first, then siblings from splits.
        current_regions: Vec<metapb::Region>,
    },
    /// A limit was reached and nothing was done. Wait and try again.
    ServerIsBusy {
        /// Which limit, in words.
        reason: String,
        /// How long to wait, in milliseconds; 0 is unknown.
        backoff_ms: u64,
    },
    /// The proposal certainly did not apply at its index, or the request's term is old. Try again.
    StaleCommand,
    /// The address now belongs to another store. Forget the store's address.
    StoreNotMatch {
        /// The store the caller meant.
        requested: u64,
        /// The store that answered.
        actual: u64,
    },
    /// The change is larger than a log entry may be. Do not try again.
    RaftEntryTooLarge {
        /// The region asked.
        region_id: u64,
        /// Size of the refused entry in bytes.
        entry_size: u64,
    },
    /// The leader has not yet heard the newest timestamp. Try again shortly.
    MaxTimestampNotSynced,
    /// A replica cannot get a read index right now. Try again shortly.
    ReadIndexNotReady {
        /// The region asked.
        region_id: u64,
        /// Why, in words.
        reason: String,
    },
    /// The region is about to be merged away. Try again later.
    ProposalInMergingMode {
        /// The region asked.
        region_id: u64,
    },
    /// A stale read asked for data newer than this replica has. Ask the leader.
    DataIsNotReady {
        /// The region asked.
        region_id: u64,
        /// The peer that answered.
        peer_id: u64,
        /// Up to which timestamp it could answer.
        safe_ts: u64,
    },
    /// The peer exists but has no data yet. Ask another.
    RegionNotInitialized {
        /// The region asked.
        region_id: u64,
    },
    /// The disk is full; reads still work. Wait for room.
    DiskFull {
        /// The full stores.
        store_ids: Vec<u64>,
        /// In words.
        reason: String,
    },
    /// The region lives here under another peer id. Forget the route.
    MismatchPeerId {
        /// The peer the caller meant.
        requested: u64,
        /// The peer that is here.
        actual: u64,
    },
    /// Whether a write applied cannot be said. Report it as unknown; never guess.
    UndeterminedResult {
        /// Why, in words.
        message: String,
    },
    /// An internal reason, in words ("TiKV is Closing", "Raft ProposalDropped", …). Try again
    /// elsewhere.
    Other {
        /// In words.
        message: String,
    },
}

impl Refusal {
    /// The deadline that came with the request has passed. Clients know this message by its text.
    pub fn deadline_exceeded() -> Self {
        Self::ServerIsBusy { reason: "deadline is exceeded".into(), backoff_ms: 0 }
    }

    /// The store is stopping.
    pub fn closing() -> Self {
        Self::Other { message: "TiKV is Closing".into() }
    }

    /// The consensus library would not take the proposal just now.
    pub fn proposal_dropped() -> Self {
        Self::Other { message: "Raft ProposalDropped".into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLeader { region_id, leader: Some(leader) } => {
                write!(f, "region {region_id}: not leader; store {} leads", leader.store_id)
            }
            Self::NotLeader { region_id, leader: None } => {
                write!(f, "region {region_id}: not leader; leader unknown")
            }
            Self::RegionNotFound { region_id } => write!(f, "region {region_id} is not found"),
            Self::KeyNotInRegion { key, region_id, .. } => {
                write!(f, "key {} is not in region {region_id}", crate::key::Readable(key))
            }
            Self::EpochNotMatch { current_regions } => {
                f.write_str("epoch not match; current regions:")?;
                current_regions.iter().try_for_each(|r| write!(f, " {}", region::Readable(r)))
            }
            // Clients recognise the missed deadline by this exact text.
            Self::ServerIsBusy { reason, .. } if reason == "deadline is exceeded" => {
                f.write_str("Deadline is exceeded")
            }
            Self::ServerIsBusy { reason, .. } => write!(f, "server is busy: {reason}"),
            Self::StaleCommand => f.write_str("stale command"),
            Self::StoreNotMatch { requested, actual } => {
                write!(f, "store not match: request for store {requested}, this is {actual}")
            }
            Self::RaftEntryTooLarge { region_id, entry_size } => {
                write!(f, "region {region_id}: entry of {entry_size} bytes is too large")
            }
            Self::MaxTimestampNotSynced => f.write_str("max timestamp is not synced"),
            Self::ReadIndexNotReady { region_id, reason } => {
                write!(f, "region {region_id}: read index not ready: {reason}")
            }
            Self::ProposalInMergingMode { region_id } => {
                write!(f, "region {region_id} is in merging mode")
            }
            Self::DataIsNotReady { region_id, safe_ts, .. } => {
                write!(f, "region {region_id}: data is not ready, safe ts {safe_ts}")
            }
            Self::RegionNotInitialized { region_id } => {
                write!(f, "region {region_id} is not initialized")
            }
            Self::DiskFull { reason, .. } => write!(f, "disk full: {reason}"),
            Self::MismatchPeerId { requested, actual } => {
                write!(f, "mismatch peer id: request for {requested}, here is {actual}")
            }
            Self::UndeterminedResult { message } | Self::Other { message } => f.write_str(message),
        }
    }
}

impl From<Refusal> for errorpb::Error {
    fn from(refusal: Refusal) -> Self {
        let mut error = errorpb::Error { message: refusal.to_string(), ..Default::default() };
        match refusal {
            Refusal::NotLeader { region_id, leader } => {
                error.not_leader = Some(errorpb::NotLeader { region_id, leader });
            }
            Refusal::RegionNotFound { region_id } => {
                error.region_not_found = Some(errorpb::RegionNotFound { region_id });
            }
            Refusal::KeyNotInRegion { key, region_id, start_key, end_key } => {
                error.key_not_in_region =
                    Some(errorpb::KeyNotInRegion { key, region_id, start_key, end_key });
            }
            Refusal::EpochNotMatch { current_regions } => {
                error.epoch_not_match = Some(errorpb::EpochNotMatch { current_regions });
            }
            Refusal::ServerIsBusy { reason, backoff_ms } => {
                error.server_is_busy =
                    Some(errorpb::ServerIsBusy { reason, backoff_ms, ..Default::default() });
            }
            Refusal::StaleCommand => error.stale_command = Some(errorpb::StaleCommand {}),
            Refusal::StoreNotMatch { requested, actual } => {
                error.store_not_match = Some(errorpb::StoreNotMatch {
                    request_store_id: requested,
                    actual_store_id: actual,
                });
            }
            Refusal::RaftEntryTooLarge { region_id, entry_size } => {
                error.raft_entry_too_large =
                    Some(errorpb::RaftEntryTooLarge { region_id, entry_size });
            }
            Refusal::MaxTimestampNotSynced => {
                error.max_timestamp_not_synced = Some(errorpb::MaxTimestampNotSynced {});
            }
            Refusal::ReadIndexNotReady { region_id, reason } => {
                error.read_index_not_ready = Some(errorpb::ReadIndexNotReady { reason, region_id });
            }
            Refusal::ProposalInMergingMode { region_id } => {
                error.proposal_in_merging_mode = Some(errorpb::ProposalInMergingMode { region_id });
            }
            Refusal::DataIsNotReady { region_id, peer_id, safe_ts } => {
                error.data_is_not_ready =
                    Some(errorpb::DataIsNotReady { region_id, peer_id, safe_ts });
            }
            Refusal::RegionNotInitialized { region_id } => {
                error.region_not_initialized = Some(errorpb::RegionNotInitialized { region_id });
            }
            Refusal::DiskFull { store_ids, reason } => {
                error.disk_full = Some(errorpb::DiskFull { store_id: store_ids, reason });
            }
            Refusal::MismatchPeerId { requested, actual } => {
                error.mismatch_peer_id = Some(errorpb::MismatchPeerId {
                    request_peer_id: requested,
                    store_peer_id: actual,
                });
            }
            Refusal::UndeterminedResult { message } => {
                error.undetermined_result = Some(errorpb::UndeterminedResult { message });
            }
            Refusal::Other { .. } => {}
        }
        error
    }
}

impl From<errorpb::Error> for Refusal {
    /// Kinds that we never send (recovery, witness, flashback, buckets) come out as `Other`.
    fn from(error: errorpb::Error) -> Self {
        if let Some(e) = error.not_leader {
            Self::NotLeader { region_id: e.region_id, leader: e.leader }
        } else if let Some(e) = error.region_not_found {
            Self::RegionNotFound { region_id: e.region_id }
        } else if let Some(e) = error.key_not_in_region {
            Self::KeyNotInRegion {
                key: e.key,
                region_id: e.region_id,
                start_key: e.start_key,
                end_key: e.end_key,
            }
        } else if let Some(e) = error.epoch_not_match {
            Self::EpochNotMatch { current_regions: e.current_regions }
        } else if let Some(e) = error.server_is_busy {
            Self::ServerIsBusy { reason: e.reason, backoff_ms: e.backoff_ms }
        } else if error.stale_command.is_some() {
            Self::StaleCommand
        } else if let Some(e) = error.store_not_match {
            Self::StoreNotMatch { requested: e.request_store_id, actual: e.actual_store_id }
        } else if let Some(e) = error.raft_entry_too_large {
            Self::RaftEntryTooLarge { region_id: e.region_id, entry_size: e.entry_size }
        } else if error.max_timestamp_not_synced.is_some() {
            Self::MaxTimestampNotSynced
        } else if let Some(e) = error.read_index_not_ready {
            Self::ReadIndexNotReady { region_id: e.region_id, reason: e.reason }
        } else if let Some(e) = error.proposal_in_merging_mode {
            Self::ProposalInMergingMode { region_id: e.region_id }
        } else if let Some(e) = error.data_is_not_ready {
            Self::DataIsNotReady { region_id: e.region_id, peer_id: e.peer_id, safe_ts: e.safe_ts }
        } else if let Some(e) = error.region_not_initialized {
            Self::RegionNotInitialized { region_id: e.region_id }
        } else if let Some(e) = error.disk_full {
            Self::DiskFull { store_ids: e.store_id, reason: e.reason }
        } else if let Some(e) = error.mismatch_peer_id {
            Self::MismatchPeerId { requested: e.request_peer_id, actual: e.store_peer_id }
        } else if let Some(e) = error.undetermined_result {
            Self::UndeterminedResult { message: e.message }
        } else {
            Self::Other { message: error.message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S4.13: each refusal has a form of its own on the wire, and comes back as it was.
    #[test]
    fn every_refusal_survives_the_wire() {
        let all = vec![
            Refusal::NotLeader { region_id: 1, leader: None },
            Refusal::NotLeader {
                region_id: 1,
                leader: Some(metapb::Peer { id: 4, store_id: 2, ..Default::default() }),
            },
            Refusal::RegionNotFound { region_id: 2 },
            Refusal::KeyNotInRegion {
                key: "k".into(),
                region_id: 1,
                start_key: "a".into(),
                end_key: Bytes::new(),
            },
            Refusal::EpochNotMatch { current_regions: vec![metapb::Region::default()] },
            Refusal::ServerIsBusy { reason: "inbox full".into(), backoff_ms: 3 },
            Refusal::deadline_exceeded(),
            Refusal::StaleCommand,
            Refusal::StoreNotMatch { requested: 1, actual: 2 },
            Refusal::RaftEntryTooLarge { region_id: 1, entry_size: 9 },
            Refusal::MaxTimestampNotSynced,
            Refusal::ReadIndexNotReady { region_id: 1, reason: "no leader".into() },
            Refusal::ProposalInMergingMode { region_id: 1 },
            Refusal::DataIsNotReady { region_id: 1, peer_id: 2, safe_ts: 3 },
            Refusal::RegionNotInitialized { region_id: 1 },
            Refusal::DiskFull { store_ids: vec![1], reason: "full".into() },
            Refusal::MismatchPeerId { requested: 1, actual: 2 },
            Refusal::UndeterminedResult { message: "who knows".into() },
            Refusal::closing(),
        ];
        for refusal in all {
            let error = errorpb::Error::from(refusal.clone());
            assert!(!error.message.is_empty());
            assert_eq!(Refusal::from(error), refusal);
        }
    }

    #[test]
    fn a_missed_deadline_reads_as_clients_expect() {
        assert_eq!(
            errorpb::Error::from(Refusal::deadline_exceeded()).message,
            "Deadline is exceeded"
        );
    }
}
