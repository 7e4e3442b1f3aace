//! Changes of the rules that people make: all of one request, or nothing.

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use super::{Group, RuleSet, key_of};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A rule is as this one from now on.
    Put(Rule),
    /// The rule goes; it may be absent.
    Delete {
        /// Its group.
        group: String,
        /// Its id.
        id: String,
    },
    /// The rules of the group whose ids begin so go.
    DeletePrefix {
        /// Their group.
        group: String,
        /// How their ids begin.
        prefix: String,
    },
    /// A group is as this one from now on.
    PutGroup(Group),
    /// The group is nothing but its name again; its rules stay.
    PlainGroup(String),
    /// The group goes, with its rules.
    DeleteGroup(String),
    /// All rules go.
    Clear,
}

impl Edit {
    /// The rule that it puts, if it puts one.
    pub fn put(&self) -> Option<&Rule> {
        match self {
            Self::Put(rule) => Some(rule),
            Self::Delete { .. }
            | Self::DeletePrefix { .. }
            | Self::PutGroup(_)
            | Self::PlainGroup(_)
            | Self::DeleteGroup(_)
            | Self::Clear => None,
        }
    }
}

/// A group and its rules, in the form in which PD's tools write them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The group's name.
    #[serde(rename = "group_id")]
    pub id: String,
    /// Its index.
    #[serde(default, rename = "group_index")]
    pub index: i64,
    /// Whether it overrides.
    #[serde(default, rename = "group_override")]
    pub overrides: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Bundle {
    /// A group of the set.
    pub fn of(set: &RuleSet, id: &str) -> Self {
        let Group { id, index, overrides } = set.group(id);
        let rules = set.rules_of(&id).into_iter().cloned().collect();
        Self { id, index, overrides, rules }
    }

    /// The changes that make the group exactly this. Rules that name no group are of it; one of another group
    /// is a mistake.
    pub fn edits(self) -> Result<Vec<Edit>, String> {
        let Self { id, index, overrides, rules } = self;
        if id.is_empty() {
            return Err("group_id must not be empty".into());
        }
        let mut edits = vec![Edit::DeleteGroup(id.clone())];
        for rule in rules {
            if !rule.group_id.is_empty() && rule.group_id != id {
                return Err(format!("rule {} is not of group {id}", rule.name()));
            }
            edits.push(Edit::Put(Rule { group_id: id.clone(), ..rule }));
        }
        if index != 0 || overrides {
            edits.push(Edit::PutGroup(Group { id, index, overrides }));
        }
        Ok(edits)
    }
}

impl RuleSet {
    /// The set after these changes, in their order.
    #[must_use]
    pub fn edited(&self, edits: impl IntoIterator<Item = Edit>) -> Self {
        let mut set = self.clone();
        for edit in edits {
            set.edit(edit);
        }
        set
    }

    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Put(rule) => {
                self.rules.insert(key_of(&rule), rule);
            }
            Edit::Delete { group, id } => {
                self.rules.remove(&(group, id));
            }
            Edit::DeletePrefix { group, prefix } => {
                self.rules.retain(|(of, id), _| *of != group || !id.starts_with(&prefix));
            }
            Edit::PutGroup(group) => {
                self.groups.insert(group.id.clone(), group);
            }
            Edit::PlainGroup(id) => {
                self.groups.remove(&id);
            }
            Edit::DeleteGroup(id) => {
                self.rules.retain(|(group, _), _| *group != id);
                self.groups.remove(&id);
            }
            Edit::Clear => self.rules.clear(),
        }
    }
}
