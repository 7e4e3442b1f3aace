//! Which schedulers there are, with their arguments: what is kept in the group's log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// By what it is found.
    pub name: String,
    /// By what it is made.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it was told.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// Until when it pauses, in milliseconds since 1970; 0 when it does not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused_until_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// All of them, and the checkers that pause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Roster {
    /// The schedulers, in the order in which they take their turns.
    pub schedulers: Vec<Entry>,
    /// Until when checkers pause, by name, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paused_checkers: BTreeMap<String, u64>,
}

impl Default for Roster {
    /// Those that a new cluster begins with.
    fn default() -> Self {
        let entry = |type_name: &str| Entry {
            name: super::catalog::name_of(type_name),
            type_name: type_name.into(),
            arguments: Value::Null,
            paused_until_ms: 0,
        };
        let types = crate::schedulers::DEFAULT_TYPES;
        Self {
            schedulers: types.iter().map(|name| entry(name)).collect(),
            paused_checkers: BTreeMap::new(),
        }
    }
}
