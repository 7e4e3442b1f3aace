//! The command lines of `tessera ctl scheduler`, `ctl hot` and `ctl operator add`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::keys::{self, Bound};

/// What to do with schedulers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SchedulerCommand {
    /// The schedulers, what they were told, and which of them pause
    List,
    /// One more: `evict-leader-scheduler 4`, `shuffle-leader-scheduler`
    Add(AddFlags),
    /// End one; with a store's id behind the name only what it does to that store
    Remove {
        /// Its name: `evict-leader-scheduler`, or `evict-leader-scheduler-4`
        name: String,
    },
    /// Keep one, or all, from acting for a while
    Pause {
        /// Its name, or `all`
        name: String,
        /// For so many seconds
        seconds: u64,
    },
    /// Let one, or all, act again
    Resume {
        /// Its name, or `all`
        name: String,
    },
    /// What one was told, or tell it something else
    Config {
        /// Its name
        name: String,
        /// What to change, as key=value: `batch=5`, `store_id=4`, `recovery-duration=60`
        #[arg(value_name = "KEY=VALUE", value_parser = parse_pair)]
        changes: Vec<(String, Value)>,
    },
}

/// A scheduler and what it is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct AddFlags {
    /// Its name, with or without `-scheduler`
    pub(crate) name: String,
    /// The store it is for (evict-leader, grant-leader)
    pub(crate) store: Option<u64>,
    /// More that it is told, as key=value
    #[arg(long = "with", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) with: Vec<(String, Value)>,
}

/// What is hot.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum HotCommand {
    /// The regions that are read most, by store
    Read,
    /// The regions that are written most, by store
    Write,
    /// What is read from and written to each store
    Store,
}

/// What a region shall do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum OperatorAdd {
    /// Have another store lead a region
    TransferLeader {
        /// The region's id
        region: u64,
        /// The store that shall lead
        store: u64,
    },
    /// Add a peer of a region on a store that has none
    AddPeer {
        /// The region's id
        region: u64,
        /// The store
        store: u64,
    },
    /// Add a peer without a vote
    AddLearner {
        /// The region's id
        region: u64,
        /// The store
        store: u64,
    },
    /// Remove the peer of a region from a store
    RemovePeer {
        /// The region's id
        region: u64,
        /// The store
        store: u64,
    },
    /// Move the peer of a region from one store to another
    TransferPeer {
        /// The region's id
        region: u64,
        /// Where the peer is
        from: u64,
        /// Where it shall be
        to: u64,
    },
    /// Cut a region: at keys in the form that regions are cut in, or else in the middle of its data
    Split {
        /// The region's id
        region: u64,
        /// The first key of a new region; may be given several times
        #[arg(long = "key", value_parser = keys::parse_bound)]
        keys: Vec<Bound>,
    },
    /// Spread a region over the stores, apart from the others of its group
    Scatter {
        /// The region's id
        region: u64,
        /// What it has in common with others
        #[arg(long, default_value = "")]
        group: String,
    },
}

impl OperatorAdd {
    /// The same in PD's words.
    pub(crate) fn instruction(&self) -> Value {
        match self {
            Self::TransferLeader { region, store } => {
                json!({"name": "transfer-leader", "region_id": region, "to_store_id": store})
            }
            Self::AddPeer { region, store } => {
                json!({"name": "add-peer", "region_id": region, "store_id": store})
            }
            Self::AddLearner { region, store } => {
                json!({"name": "add-learner", "region_id": region, "store_id": store})
            }
            Self::RemovePeer { region, store } => {
                json!({"name": "remove-peer", "region_id": region, "store_id": store})
            }
            Self::TransferPeer { region, from, to } => json!({
                "name": "transfer-peer",
                "region_id": region,
                "from_store_id": from,
                "to_store_id": to,
            }),
            Self::Split { region, keys } => {
                let policy = if keys.is_empty() { "SCAN" } else { "USEKEY" };
                let keys: Vec<_> = keys.iter().map(|key| keys::hex(&key.bytes)).collect();
                json!({"name": "split-region", "region_id": region, "policy": policy, "keys": keys})
            }
            Self::Scatter { region, group } => {
                json!({"name": "scatter-region", "region_id": region, "group": group})
            }
        }
    }
}

/// `key=value`; a value that is a number, or anything else in JSON, is meant as that.
fn parse_pair(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("it has the form key=value")?;
    if key.is_empty() {
        return Err("the key is missing".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((key.to_owned(), value))
}

/// Pairs as an object.
pub(super) fn object(pairs: Vec<(String, Value)>) -> Map<String, Value> {
    pairs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_numbers_where_they_look_like_it() {
        assert_eq!(parse_pair("batch=5"), Ok(("batch".into(), json!(5))));
        assert_eq!(
            parse_pair("roles=leader,learner"),
            Ok(("roles".into(), json!("leader,learner")))
        );
        assert!(parse_pair("batch").is_err() && parse_pair("=5").is_err());
    }

    #[test]
    fn instructions_have_pds_words() {
        let split = OperatorAdd::Split { region: 5, keys: Vec::new() }.instruction();
        assert_eq!(split["policy"], "SCAN");
        let moved = OperatorAdd::TransferPeer { region: 5, from: 1, to: 4 }.instruction();
        assert_eq!((&moved["from_store_id"], &moved["to_store_id"]), (&json!(1), &json!(4)));
    }
}
