//! Placement rules: how many peers of which role, on stores with which labels, for which keys.
//!
//! ```text
//!   rules, in order of                      at every bound of a rule                  a region
//!   (group index, group, index, id)         the list for what lies behind it          its list, or none
//!   ─────────────────────────────── cut ──► [-inf,m): pd/default            ── of ──► of one segment: the list
//!   pd/default  3 voters  [-inf,+inf)       [m,+inf): pd/default, x/extra             over a bound: none, it is
//!   x/extra     1 learner [m,+inf)                                                    split there first
//! ```
//!
//! A rule that *overrides* does away with the rules of its group that come before it, and a group that
//! overrides with the groups before it. Every key must keep a rule that gives it a voter or a leader, and no
//! key two leaders; a change that would break this is refused as a whole. So is one that puts a rule which no
//! store could ever serve, once there are stores: nobody means that, a label is misspelt. A rule whose last store
//! goes stays.
//!
//! As long as nobody has written a rule there is one, `pd/default`, made of the policy's `max-replicas`,
//! `location-labels` and `isolation-level`. Once rules are written they count, and those three wishes change
//! the default rule only as long as it is the only one.
//!
//! Which peer fulfils which rule is found in [`fit`]; what is done about it in `crate::checkers::rules`.
//!
//! Left out: witnesses, and rules that differ by the kind of key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proto::KeyRange;
use serde::{Deserialize, Serialize};

use crate::cluster::Policy;

pub mod edit;
pub mod fit;
pub mod rule;

pub use edit::Edit;
pub use fit::{Fit, RuleFit};
pub use rule::{Constraint, Role, Rule};

/// The group of the default rule.
pub const DEFAULT_GROUP: &str = "pd";
/// The id of the default rule.
pub const DEFAULT_ID: &str = "default";
/// Rules there may be; a change that makes more is refused.
pub const RULES_MAX: usize = 4_096;

/// A group of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// Lower ones come first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: i64,
    /// Whether it does away with the groups before it.
    #[serde(default, rename = "override", skip_serializing_if = "is_false")]
    pub overrides: bool,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// What people have written: replicated, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    rules: BTreeMap<(String, String), Rule>,
    /// Groups that are more than a name.
    groups: BTreeMap<String, Group>,
}

/// The form in which a [`RuleSet`] is kept.
#[derive(Serialize, Deserialize)]
struct Written {
    rules: Vec<Rule>,
    groups: Vec<Group>,
}

impl RuleSet {
    /// The set of the one rule that these wishes amount to.
    pub fn of_policy(policy: &Policy) -> Self {
        let rule = default_rule(policy);
        Self { rules: BTreeMap::from([(key_of(&rule), rule)]), groups: BTreeMap::new() }
    }

    /// Reads what [`Self::to_json`] wrote.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        Ok(Self {
            rules: written.rules.into_iter().map(|rule| (key_of(&rule), rule)).collect(),
            groups: written.groups.into_iter().map(|group| (group.id.clone(), group)).collect(),
        })
    }

    /// The set as it is replicated.
    pub fn to_json(&self) -> Vec<u8> {
        let written = Written {
            rules: self.rules.values().cloned().collect(),
            groups: self.groups.values().cloned().collect(),
        };
        serde_json::to_vec(&written).expect("texts, numbers and flags can be written")
    }

    /// All rules in the order in which they count.
    pub fn rules(&self) -> Vec<&Rule> {
        let mut rules: Vec<_> = self.rules.values().collect();
        rules.sort_by_key(|rule| {
            (self.group_index(&rule.group_id), &rule.group_id, rule.index, &rule.id)
        });
        rules
    }

    /// The rules of one group, in their order.
    pub fn rules_of(&self, group: &str) -> Vec<&Rule> {
        self.rules().into_iter().filter(|rule| rule.group_id == group).collect()
    }

    /// One rule.
    pub fn rule(&self, group: &str, id: &str) -> Option<&Rule> {
        self.rules.get(&(group.to_owned(), id.to_owned()))
    }

    /// All groups that have a rule or were written, in the order in which they count.
    pub fn groups(&self) -> Vec<Group> {
        let named = self.rules.keys().map(|(group, _)| group).chain(self.groups.keys());
        let names: BTreeSet<&String> = named.collect();
        let mut groups: Vec<_> = names.into_iter().map(|name| self.group(name)).collect();
        groups.sort_by(|a, b| (a.index, &a.id).cmp(&(b.index, &b.id)));
        groups
    }

    /// One group; one that nobody has written is nothing but its name.
    pub fn group(&self, id: &str) -> Group {
        let plain = || Group { id: id.to_owned(), ..Group::default() };
        self.groups.get(id).cloned().unwrap_or_else(plain)
    }

    /// Whether there is such a group.
    pub fn has_group(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.rules.keys().any(|(group, _)| group == id)
    }

    fn group_index(&self, id: &str) -> i64 {
        self.groups.get(id).map_or(0, |group| group.index)
    }

    /// The rules for a key, with what is overridden left out. `rules` are all, in their order.
    fn applied(&self, rules: &[&Rule], key: &[u8]) -> Vec<Rule> {
        let mut groups: Vec<Vec<&Rule>> = Vec::new();
        for rule in rules.iter().filter(|rule| rule.range().contains(key)) {
            match groups.last_mut().filter(|group| group[0].group_id == rule.group_id) {
                Some(group) if rule.overrides => *group = vec![rule],
                Some(group) => group.push(rule),
                None => {
                    if self.group(&rule.group_id).overrides {
                        groups.clear();
                    }
                    groups.push(vec![rule]);
                }
            }
        }
        groups.into_iter().flatten().cloned().collect()
    }
}

fn key_of(rule: &Rule) -> (String, String) {
    (rule.group_id.clone(), rule.id.clone())
}

/// The rule that these wishes amount to.
fn default_rule(policy: &Policy) -> Rule {
    Rule {
        group_id: DEFAULT_GROUP.into(),
        id: DEFAULT_ID.into(),
        index: 0,
        overrides: false,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        role: Role::Voter,
        is_witness: false,
        count: policy.max_replicas,
        label_constraints: Vec::new(),
        location_labels: policy.location_labels.clone(),
        isolation_level: policy.isolation_level.clone(),
        version: 0,
        create_timestamp: 0,
    }
}

/// The keys from one bound to the next, and their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    start: Bytes,
    rules: Vec<Rule>,
}

/// Rules in force: valid, and cut at their bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    set: RuleSet,
    /// Whether they are made of the policy, because nobody has written any.
    is_derived: bool,
    /// By their starts; the first begins at the first key.
    segments: Vec<Segment>,
}

impl Rules {
    /// What these wishes amount to.
    pub fn of_policy(policy: &Policy) -> Arc<Self> {
        let set = RuleSet::of_policy(policy);
        let start = Bytes::new();
        let segments = vec![Segment { start, rules: vec![default_rule(policy)] }];
        Arc::new(Self { set, is_derived: true, segments })
    }

    /// Rules that somebody wrote, or what is wrong with them.
    pub fn written(set: RuleSet) -> Result<Arc<Self>, String> {
        if set.rules.len() > RULES_MAX {
            return Err(format!("{} rules, and there may be {RULES_MAX}", set.rules.len()));
        }
        set.rules.values().try_for_each(Rule::validate)?;
        let segments = cut(&set)?;
        Ok(Arc::new(Self { set, is_derived: false, segments }))
    }

    /// All that was written.
    pub fn set(&self) -> &RuleSet {
        &self.set
    }

    /// Whether they are made of the policy.
    pub fn is_derived(&self) -> bool {
        self.is_derived
    }

    /// The rules of a range, in their order; `None` when it lies over a bound.
    pub fn of(&self, range: &KeyRange) -> Option<&[Rule]> {
        let at = self.segment_at(&range.start);
        let is_within = match (self.segments.get(at + 1), &range.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(next), Some(end)) => *end <= next.start,
        };
        is_within.then(|| self.segments[at].rules.as_slice())
    }

    /// The rules of a key.
    pub fn of_key(&self, key: &[u8]) -> &[Rule] {
        &self.segments[self.segment_at(key)].rules
    }

    /// The bounds inside a range: it has to be split there.
    pub fn bounds_within(&self, range: &KeyRange) -> Vec<Bytes> {
        let after = self.segment_at(&range.start) + 1;
        self.segments[after..]
            .iter()
            .map(|segment| segment.start.clone())
            .take_while(|start| range.end.as_ref().is_none_or(|end| start < end))
            .collect()
    }

    /// The most peers that rules ask for, for any key.
    pub fn peers_wanted(&self) -> usize {
        let sums = self
            .segments
            .iter()
            .map(|segment| -> usize { segment.rules.iter().map(|rule| rule.count).sum() });
        sums.max().unwrap_or(0)
    }

    fn segment_at(&self, key: &[u8]) -> usize {
        // The first segment begins at the first key, so there is always one at or before.
        self.segments.partition_point(|segment| segment.start <= *key).saturating_sub(1)
    }
}

/// Cuts the keys at every bound; says which range is left without what it needs.
fn cut(set: &RuleSet) -> Result<Vec<Segment>, String> {
    let rules = set.rules();
    let bounds = rules.iter().flat_map(|rule| [&rule.start_key, &rule.end_key]);
    let mut starts: BTreeSet<Bytes> = bounds.cloned().collect();
    // The first key; an empty end is no bound.
    starts.insert(Bytes::new());
    let mut segments: Vec<Segment> = Vec::new();
    for start in starts {
        let applied = set.applied(&rules, &start);
        check_applied(&applied).map_err(|why| match start.is_empty() {
            true => format!("from the first key on {why}"),
            false => format!("from key {} on {why}", proto::key::Readable(&start)),
        })?;
        // A bound behind which nothing is different is none.
        if segments.last().is_none_or(|before| before.rules != applied) {
            segments.push(Segment { start, rules: applied });
        }
    }
    Ok(segments)
}

/// Whether these rules together describe a region that can work.
fn check_applied(rules: &[Rule]) -> Result<(), String> {
    let count = |roles: &[Role]| -> usize {
        rules.iter().filter(|rule| roles.contains(&rule.role)).map(|rule| rule.count).sum()
    };
    if rules.is_empty() {
        return Err("there is no rule".into());
    }
    if count(&[Role::Leader]) > 1 {
        return Err(format!("{} leaders are wanted", count(&[Role::Leader])));
    }
    if count(&[Role::Leader, Role::Voter]) == 0 {
        return Err("no rule asks for a voter or a leader".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
