//! One placement rule, in the form in which PD's tools write it.

use bytes::Bytes;
use proto::{KeyRange, metapb};
use serde::{Deserialize, Serialize};

use crate::cluster::StoreRecord;

/// Peers one rule may ask for; a region cannot use more.
pub const COUNT_MAX: usize = 9;

/// Bytes of a rule's or a group's name.
pub const NAME_BYTES_MAX: usize = 256;

/// What the peers of a rule are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has a vote; whether it leads does not matter.
    Voter,
    /// It has a vote, and leads.
    Leader,
    /// It has a vote, and does not lead.
    Follower,
    /// It has the data and no vote.
    Learner,
}

impl Role {
    /// The role as rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// The store carries the label with one of the values.
    #[serde(rename = "in")]
    In,
    /// The store does not carry the label, or with another value.
    #[serde(rename = "notIn")]
    NotIn,
    /// The store carries the label.
    #[serde(rename = "exists")]
    Exists,
    /// The store does not carry the label.
    #[serde(rename = "notExists")]
    NotExists,
}

/// What a rule asks of the labels of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub op: Comparison,
    /// With what; nothing for `exists` and `notExists`.
    #[serde(default)]
    pub values: Vec<String>,
}

impl Constraint {
    fn holds(&self, store: &StoreRecord) -> bool {
        let value = store.label(&self.key);
        let is_among = || self.values.iter().any(|wanted| value == Some(wanted));
        match self.op {
            Comparison::In => is_among(),
            Comparison::NotIn => !is_among(),
            Comparison::Exists => value.is_some(),
            Comparison::NotExists => value.is_none(),
        }
    }

    /// Whether it asks for stores that carry the label.
    fn asks_for(&self, key: &str) -> bool {
        let wants = matches!(self.op, Comparison::In | Comparison::Exists);
        wants && self.key.eq_ignore_ascii_case(key)
    }
}

/// A store with such a label takes only peers of rules that ask for the label.
fn is_exclusive(label: &metapb::StoreLabel) -> bool {
    label.key.starts_with('$')
        || label.key.eq_ignore_ascii_case("engine")
        || label.key.eq_ignore_ascii_case("exclusive")
}

/// So many peers of a role, on stores with such labels, for the regions of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Rules of a group are overridden together.
    pub group_id: String,
    /// Unique in the group.
    pub id: String,
    /// Lower ones come first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: i64,
    /// Whether it does away with the rules of its group that come before it.
    #[serde(default, rename = "override", skip_serializing_if = "is_false")]
    pub overrides: bool,
    /// The first key it is for, as regions are cut.
    #[serde(default, with = "hex")]
    pub start_key: Bytes,
    /// The first key it is not for; empty: there is none.
    #[serde(default, with = "hex")]
    pub end_key: Bytes,
    /// What the peers are.
    pub role: Role,
    /// PD's light voters, which there are not here.
    #[serde(default)]
    pub is_witness: bool,
    /// How many peers.
    pub count: usize,
    /// What stores must carry to take one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub label_constraints: Vec<Constraint>,
    /// Labels by which the peers are kept apart, the coarsest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub location_labels: Vec<String>,
    /// Which of them no two peers may share; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub isolation_level: String,
    /// PD counts a rule's changes; kept as it was written.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub version: u64,
    /// When PD's tools made it; kept as it was written.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub create_timestamp: u64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Go writes an empty list as null.
fn or_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    /// The keys it is for.
    pub fn range(&self) -> KeyRange {
        KeyRange::from_wire(self.start_key.clone(), self.end_key.clone())
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group_id, self.id)
    }

    /// Whether the store may take one of its peers. One that nobody knows may: it may be about to register.
    pub fn matches(&self, store: Option<&StoreRecord>) -> bool {
        let Some(store) = store else { return true };
        let is_asked_for = |label: &metapb::StoreLabel| {
            self.label_constraints.iter().any(|constraint| constraint.asks_for(&label.key))
        };
        self.label_constraints.iter().all(|constraint| constraint.holds(store))
            && store.meta.labels.iter().all(|label| !is_exclusive(label) || is_asked_for(label))
    }

    /// The labels that no two of its peers may share, the coarsest first; nothing without an isolation level.
    pub fn isolated_by(&self) -> &[String] {
        let labels = &self.location_labels;
        let last = labels.iter().position(|label| *label == self.isolation_level);
        last.map_or(&[], |last| &labels[..=last])
    }

    /// Says what is wrong with it by itself, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("rule {}: {what}", self.name()));
        for name in [&self.group_id, &self.id] {
            if name.is_empty() {
                return wrong("group_id and id must not be empty");
            }
            if name.len() > NAME_BYTES_MAX {
                return wrong(&format!("a name has at most {NAME_BYTES_MAX} bytes"));
            }
        }
        if self.range().is_empty() {
            return wrong("end_key must lie behind start_key");
        }
        if self.count == 0 || self.count > COUNT_MAX {
            return wrong(&format!("count must lie between 1 and {COUNT_MAX}"));
        }
        if self.role == Role::Leader && self.count > 1 {
            return wrong(&format!("a region has one leader, not {}", self.count));
        }
        if self.is_witness {
            return wrong("there are no witnesses here");
        }
        for constraint in &self.label_constraints {
            let needs_values = matches!(constraint.op, Comparison::In | Comparison::NotIn);
            if constraint.key.is_empty() {
                return wrong("a label constraint must name its key");
            }
            if needs_values && constraint.values.is_empty() {
                return wrong(&format!("the constraint on {} names no values", constraint.key));
            }
        }
        if !self.isolation_level.is_empty() && !self.location_labels.contains(&self.isolation_level)
        {
            return wrong(&format!(
                "isolation_level {} is not one of its location_labels",
                self.isolation_level
            ));
        }
        Ok(())
    }
}

/// Keys as pairs of hexadecimal digits.
mod hex {
    use std::fmt::Write as _;

    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(key.len() * 2);
        for byte in key {
            write!(text, "{byte:02x}").ok();
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("key {text:?} is not in pairs of hexadecimal digits"))
        })
    }

    fn parse(text: &str) -> Option<Bytes> {
        let digit = |at: usize| char::from(text.as_bytes()[at]).to_digit(16);
        if !text.len().is_multiple_of(2) {
            return None;
        }
        let bytes = (0..text.len())
            .step_by(2)
            .map(|at| u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok());
        bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use proto::StoreId;

    use super::*;
    use crate::cluster::{Moment, Stores};

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    fn with(constraints: &str) -> Rule {
        rule(&format!(
            r#"{{"group_id": "g", "id": "r", "role": "voter", "count": 1,
                "label_constraints": {constraints}}}"#
        ))
    }

    #[test]
    fn a_rule_is_written_as_pd_writes_it() {
        let text = r#"{"group_id":"g","id":"r","index":2,"override":true,"start_key":"61ff","end_key":"","role":"follower","is_witness":false,"count":2,"label_constraints":[{"key":"zone","op":"notIn","values":["a"]}],"location_labels":["zone","host"],"isolation_level":"zone"}"#;
        let read = rule(text);
        assert_eq!(read.start_key, b"a\xff".as_slice());
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.isolated_by(), ["zone"]);
    }

    #[test]
    fn every_comparison_means_what_its_name_says() {
        let label =
            |key: &str, value: &str| metapb::StoreLabel { key: key.into(), value: value.into() };
        let meta = |id, labels| metapb::Store { id, labels, ..Default::default() };
        let stores = Stores::load(
            [
                meta(1, vec![label("zone", "a")]),
                meta(2, vec![label("Zone", "b")]),
                meta(3, vec![]),
                meta(4, vec![label("engine", "tiflash")]),
                meta(5, vec![label("$mode", "1"), label("zone", "a")]),
            ],
            Moment::default(),
        );
        let matched = |constraints: &str| -> Vec<u64> {
            let rule = with(constraints);
            (1..=5).filter(|&id| rule.matches(stores.find(StoreId(id)))).collect()
        };
        assert_eq!(matched("[]"), [1, 2, 3], "special stores take only what asks for them");
        assert_eq!(matched(r#"[{"key": "zone", "op": "in", "values": ["a", "c"]}]"#), [1]);
        assert_eq!(matched(r#"[{"key": "zone", "op": "notIn", "values": ["a"]}]"#), [2, 3]);
        assert_eq!(matched(r#"[{"key": "zone", "op": "exists"}]"#), [1, 2]);
        assert_eq!(matched(r#"[{"key": "zone", "op": "notExists"}]"#), [3]);
        assert_eq!(matched(r#"[{"key": "engine", "op": "in", "values": ["tiflash"]}]"#), [4]);
        assert_eq!(matched(r#"[{"key": "$mode", "op": "exists"}]"#), [5]);
        assert!(with("[]").matches(None), "nobody knows the store yet");
    }

    #[test]
    fn what_no_rule_can_mean_is_said() {
        let good = with("null");
        assert_eq!(good.validate(), Ok(()));
        let cases = [
            (Rule { id: String::new(), ..good.clone() }, "empty"),
            (Rule { count: 0, ..good.clone() }, "count"),
            (Rule { count: 2, role: Role::Leader, ..good.clone() }, "one leader"),
            (Rule { is_witness: true, ..good.clone() }, "witness"),
            (Rule { start_key: "b".into(), end_key: "a".into(), ..good.clone() }, "end_key"),
            (Rule { isolation_level: "zone".into(), ..good.clone() }, "isolation_level"),
            (with(r#"[{"key": "zone", "op": "in"}]"#), "no values"),
        ];
        for (rule, expected) in cases {
            let error = rule.validate().unwrap_err();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        let unknown = r#"{"group_id": "g", "id": "r", "role": "voter", "count": 1, "label": []}"#;
        assert!(serde_json::from_str::<Rule>(unknown).unwrap_err().to_string().contains("label"));
        for bad in ["6", "6x", "ä"] {
            let text = format!(
                r#"{{"group_id": "g", "id": "r", "role": "voter", "count": 1, "start_key": "{bad}"}}"#
            );
            assert!(serde_json::from_str::<Rule>(&text).is_err(), "{bad}");
        }
    }
}
