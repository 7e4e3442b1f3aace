//! PD's configuration items that change nothing here.
//!
//! Tools set them together with others, and read them again. They are checked, kept with the other settings and
//! shown, and nothing else: there is no merging of regions, no witness, one formula for the score of a store,
//! and the checkers always repair what they find. A scheduler or a checker that is not to act is paused.

use serde_json::{Value, json};

use super::format;
use crate::cluster::Policy;

/// What an item looks like, and what it is as long as nobody has set it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Number(u64),
    /// Shown as text.
    Flag(bool),
    /// In milliseconds.
    Duration(u64),
    /// The first of these words, or another of them.
    Word(&'static [&'static str]),
}

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Every item, with its group.
const ITEMS: [(&str, &str, Kind); 29] = [
    ("replication", "enable-placement-rules-cache", Kind::Flag(false)),
    ("schedule", "affinity-schedule-limit", Kind::Number(0)),
    ("schedule", "enable-cross-table-merge", Kind::Flag(true)),
    ("schedule", "enable-debug-metrics", Kind::Flag(false)),
    ("schedule", "enable-diagnostic", Kind::Flag(true)),
    ("schedule", "enable-heartbeat-breakdown-metrics", Kind::Flag(true)),
    ("schedule", "enable-heartbeat-concurrent-runner", Kind::Flag(true)),
    ("schedule", "enable-make-up-replica", Kind::Flag(true)),
    ("schedule", "enable-one-way-merge", Kind::Flag(false)),
    ("schedule", "enable-remove-down-replica", Kind::Flag(true)),
    ("schedule", "enable-remove-extra-replica", Kind::Flag(true)),
    ("schedule", "enable-replace-offline-replica", Kind::Flag(true)),
    ("schedule", "enable-tikv-split-region", Kind::Flag(true)),
    ("schedule", "enable-witness", Kind::Flag(false)),
    ("schedule", "hot-regions-reserved-days", Kind::Number(7)),
    ("schedule", "hot-regions-write-interval", Kind::Duration(10 * MINUTE_MS)),
    ("schedule", "max-affinity-merge-region-size", Kind::Number(256)),
    // As many as belong to the size.
    ("schedule", "max-merge-region-keys", Kind::Number(0)),
    ("schedule", "max-merge-region-size", Kind::Number(54)),
    ("schedule", "max-store-preparing-time", Kind::Duration(48 * HOUR_MS)),
    ("schedule", "merge-schedule-limit", Kind::Number(8)),
    ("schedule", "patrol-region-interval", Kind::Duration(10)),
    ("schedule", "patrol-region-worker-count", Kind::Number(1)),
    ("schedule", "region-score-formula-version", Kind::Word(&["v2", "v1"])),
    ("schedule", "scheduler-max-waiting-operator", Kind::Number(5)),
    ("schedule", "split-merge-interval", Kind::Duration(HOUR_MS)),
    ("schedule", "store-limit-version", Kind::Word(&["v1", "v2"])),
    ("schedule", "switch-witness-interval", Kind::Duration(HOUR_MS)),
    ("schedule", "witness-schedule-limit", Kind::Number(4)),
];

impl Kind {
    fn default(self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Flag(flag) => json!(flag.to_string()),
            Self::Duration(ms) => json!(format::duration_ms(ms)),
            Self::Word(words) => json!(words.first()),
        }
    }

    /// The value as it is kept and shown; `None` when it cannot be one.
    fn read(self, value: &Value) -> Option<Value> {
        match self {
            Self::Number(_) => value.as_u64().map(|number| json!(number)),
            Self::Flag(_) => {
                let flag = value.as_bool().or_else(|| value.as_str()?.parse().ok())?;
                Some(json!(flag.to_string()))
            }
            Self::Duration(_) => {
                let ms = format::parse_duration_ms(value.as_str()?)?;
                Some(json!(format::duration_ms(ms)))
            }
            Self::Word(words) => words.iter().find(|word| value == **word).map(|word| json!(word)),
        }
    }
}

fn find(name: &str) -> Option<Kind> {
    ITEMS.iter().find(|(_, item, _)| *item == name).map(|(_, _, kind)| *kind)
}

/// Whether this is an item of PD's configuration that is kept and changes nothing. A group may stand before
/// the name.
pub fn has_no_effect(name: &str) -> bool {
    find(name.rsplit_once('.').map_or(name, |(_, item)| item)).is_some()
}

/// A value of such an item as it is kept; `None` when there is no such item, and `Some(None)` when it cannot
/// have this value.
pub(super) fn read(name: &str, value: &Value) -> Option<Option<Value>> {
    find(name).map(|kind| kind.read(value))
}

/// Adds a group's items to what is shown of it.
pub(super) fn show(policy: &Policy, group: &str, shown: &mut Value) {
    for (_, name, kind) in ITEMS.iter().filter(|(of, ..)| *of == group) {
        let kept = policy.idle_items.get(*name).cloned();
        shown[*name] = kept.unwrap_or_else(|| kind.default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_checked_and_kept_as_they_are_shown() {
        let cases = [
            ("merge-schedule-limit", json!(0), Some(json!(0))),
            ("merge-schedule-limit", json!("0"), None),
            ("merge-schedule-limit", json!(-1), None),
            ("enable-remove-down-replica", json!(false), Some(json!("false"))),
            ("enable-remove-down-replica", json!("true"), Some(json!("true"))),
            ("enable-remove-down-replica", json!(1), None),
            ("patrol-region-interval", json!("100ms"), Some(json!("100ms"))),
            ("split-merge-interval", json!("60m"), Some(json!("1h0m0s"))),
            ("split-merge-interval", json!(60), None),
            ("region-score-formula-version", json!("v1"), Some(json!("v1"))),
            ("store-limit-version", json!("v3"), None),
        ];
        for (name, value, kept) in cases {
            assert_eq!(read(name, &value), Some(kept), "{name} {value}");
        }
        assert_eq!(read("no-such-thing", &json!(1)), None);
        for (_, name, kind) in ITEMS {
            let default = kind.default();
            assert_eq!(read(name, &default), Some(Some(default.clone())), "{name}");
        }
        assert!(has_no_effect("merge-schedule-limit"));
        assert!(has_no_effect("schedule.merge-schedule-limit"));
        assert!(!has_no_effect("leader-schedule-limit"));
    }
}
