//! The cluster's settings in PD's words: shown in its groups, and read in any of its forms.

use serde_json::{Map, Value, json};

use super::{format, idle_items};
use crate::cluster::Policy;

/// The setting that stops all scheduling.
const HALT: &str = "halt-scheduling";

/// The settings that PD keeps under `replication`.
pub(super) fn replication_of(policy: &Policy) -> Value {
    let mut shown = json!({
        "max-replicas": policy.max_replicas,
        "location-labels": policy.location_labels.join(","),
        "strictly-match-label": policy.strictly_match_label.to_string(),
        "enable-placement-rules": policy.enable_placement_rules.to_string(),
        "isolation-level": policy.isolation_level,
    });
    idle_items::show(policy, "replication", &mut shown);
    shown
}

/// The settings that PD keeps under `schedule`.
pub(super) fn schedule_of(policy: &Policy) -> Value {
    let mut shown = json!({
        "max-store-down-time": format::duration(policy.max_store_down_time_ms / 1_000),
        "low-space-ratio": policy.low_space_percent as f64 / 100.0,
        "high-space-ratio": policy.high_space_percent as f64 / 100.0,
        "leader-schedule-limit": policy.leader_schedule_limit,
        "region-schedule-limit": policy.region_schedule_limit,
        "replica-schedule-limit": policy.replica_schedule_limit,
        "hot-region-schedule-limit": policy.hot_region_schedule_limit,
        "hot-region-cache-hits-threshold": policy.hot_region_cache_hits_threshold,
        "max-movable-hot-peer-size": policy.max_movable_hot_peer_size_mib,
        "leader-schedule-policy": policy.leader_schedule_policy.name(),
        "tolerant-size-ratio": policy.tolerant_size_percent as f64 / 100.0,
        "slow-store-evicting-affected-store-ratio-threshold":
            policy.slow_store_affected_percent as f64 / 100.0,
        "store-limit": policy.store_limit,
        "enable-location-replacement": policy.enable_location_replacement.to_string(),
        "enable-joint-consensus": policy.enable_joint_consensus.to_string(),
        "max-snapshot-count": policy.max_snapshot_count,
        "max-pending-peer-count": policy.max_pending_peer_count,
        "store-adding-max": policy.store_adding_max,
        "leader-balance-tolerance": policy.leader_balance_tolerance,
        "add-as-learner": policy.add_as_learner,
        "balance-leaders": policy.balance_leaders,
        "balance-regions": policy.balance_regions,
        "gc-life-time": format::duration(policy.gc_life_time_ms / 1_000),
        "gc-run-interval": format::duration(policy.gc_run_interval_ms / 1_000),
    });
    idle_items::show(policy, "schedule", &mut shown);
    // As text, and only while it is so.
    if policy.halt_scheduling {
        shown[HALT] = json!("true");
    }
    shown
}

/// Takes over one setting in PD's words, whichever group it came in.
pub(super) fn set(policy: &mut Policy, name: &str, value: &Value) -> Result<(), String> {
    let bad = || format!("{name} cannot be {value}");
    let number = || value.as_u64().ok_or_else(bad);
    let count = || number().and_then(|number| usize::try_from(number).map_err(|_| bad()));
    let small = || number().and_then(|number| u32::try_from(number).map_err(|_| bad()));
    let flag = || match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) => text.parse().map_err(|_| bad()),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(bad()),
    };
    let text = || value.as_str().ok_or_else(bad);
    let percent = |max: f64| {
        let ratio = value.as_f64().filter(|ratio| (0.0..=max).contains(ratio));
        ratio.map(|ratio| (ratio * 100.0).round() as u64).ok_or_else(bad)
    };
    match name {
        "max-replicas" => policy.max_replicas = count()?,
        "location-labels" => {
            // As text or as a list.
            let text = match value {
                Value::Array(labels) => {
                    let labels: Option<Vec<_>> = labels.iter().map(Value::as_str).collect();
                    labels.ok_or_else(bad)?.join(",")
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                    return Err(bad());
                }
                Value::String(text) => text.clone(),
            };
            let labels = text.split(',').map(str::trim).filter(|label| !label.is_empty());
            policy.location_labels = labels.map(str::to_owned).collect();
        }
        "strictly-match-label" => policy.strictly_match_label = flag()?,
        "isolation-level" => policy.isolation_level = text()?.to_owned(),
        "enable-placement-rules" => policy.enable_placement_rules = flag()?,
        "enable-location-replacement" => policy.enable_location_replacement = flag()?,
        "enable-joint-consensus" => policy.enable_joint_consensus = flag()?,
        "max-store-down-time" => {
            policy.max_store_down_time_ms = format::parse_duration_ms(text()?).ok_or_else(bad)?;
        }
        "gc-life-time" => {
            policy.gc_life_time_ms = format::parse_duration_ms(text()?).ok_or_else(bad)?;
        }
        "gc-run-interval" => {
            policy.gc_run_interval_ms = format::parse_duration_ms(text()?).ok_or_else(bad)?;
        }
        "low-space-ratio" => policy.low_space_percent = percent(1.0)?,
        "high-space-ratio" => policy.high_space_percent = percent(1.0)?,
        "leader-schedule-limit" => policy.leader_schedule_limit = count()?,
        "region-schedule-limit" => policy.region_schedule_limit = count()?,
        "replica-schedule-limit" => policy.replica_schedule_limit = count()?,
        "hot-region-schedule-limit" => policy.hot_region_schedule_limit = count()?,
        "hot-region-cache-hits-threshold" => policy.hot_region_cache_hits_threshold = small()?,
        "max-movable-hot-peer-size" => policy.max_movable_hot_peer_size_mib = number()?,
        "leader-schedule-policy" => {
            policy.leader_schedule_policy =
                serde_json::from_value(value.clone()).map_err(|_| bad())?;
        }
        "tolerant-size-ratio" => policy.tolerant_size_percent = percent(f64::MAX)?,
        "slow-store-evicting-affected-store-ratio-threshold" => {
            policy.slow_store_affected_percent = percent(1.0)?;
        }
        "store-limit" => {
            policy.store_limit = serde_json::from_value(value.clone()).map_err(|_| bad())?;
        }
        "max-snapshot-count" => policy.max_snapshot_count = small()?,
        "max-pending-peer-count" => policy.max_pending_peer_count = count()?,
        "store-adding-max" => policy.store_adding_max = count()?,
        "leader-balance-tolerance" => policy.leader_balance_tolerance = count()?,
        "add-as-learner" => policy.add_as_learner = flag()?,
        "balance-leaders" => policy.balance_leaders = flag()?,
        "balance-regions" => policy.balance_regions = flag()?,
        HALT => policy.halt_scheduling = flag()?,
        _ => match idle_items::read(name, value) {
            None => return Err(format!("config item {name} not found")),
            Some(None) => return Err(bad()),
            Some(Some(kept)) => {
                policy.idle_items.insert(name.to_owned(), kept);
            }
        },
    }
    Ok(())
}

/// The groups of settings that can be changed, each with those in it.
fn groups(policy: &Policy) -> [(&'static str, Value); 2] {
    [("schedule", schedule_of(policy)), ("replication", replication_of(policy))]
}

/// Takes over settings in any of PD's forms: `{"max-replicas": 3}`, `{"replication.max-replicas": 3}`,
/// `{"replication": {"max-replicas": 3}}`. With `only` they must be of that group. A name that is not one is
/// refused, and so is one in the wrong group, and one that is changed for a while: that has to end first.
pub(super) fn set_all(
    policy: &mut Policy,
    wanted: &Map<String, Value>,
    only: Option<&str>,
) -> Result<(), String> {
    if wanted.is_empty() {
        return Err("no config item is given".into());
    }
    let groups = groups(policy);
    for (name, value) in wanted {
        let group = groups.iter().find(|(group, _)| *group == name.as_str());
        if let (Some((group, _)), Value::Object(inner), None) = (group, value, only) {
            set_all(policy, inner, Some(group))?;
            continue;
        }
        let (of, item) = match name.split_once('.') {
            Some((group, item)) => (Some(group), item),
            None => (only, name.as_str()),
        };
        if only.is_some_and(|only| of != Some(only)) {
            return Err(format!("config item {name} not found"));
        }
        let is_in = |group: &str| {
            let is_shown =
                groups.iter().any(|(name, items)| *name == group && items.get(item).is_some());
            is_shown || (group, item) == ("schedule", HALT)
        };
        if of.is_some_and(|of| !is_in(of)) {
            return Err(format!("config item {name} not found"));
        }
        if policy.temporary.contains_key(item) {
            return Err(format!("need to clean up TTL first for schedule.{item}"));
        }
        set(policy, item, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::LeaderSchedulePolicy;
    use crate::operator::store_limit::StoreRates;

    #[test]
    fn settings_are_read_as_they_are_shown() {
        let mut policy = Policy::default();
        let mut changed = Policy {
            max_replicas: 5,
            location_labels: vec!["zone".into(), "host".into()],
            strictly_match_label: true,
            isolation_level: "zone".into(),
            max_store_down_time_ms: 3_723_000,
            low_space_percent: 70,
            high_space_percent: 55,
            leader_schedule_policy: LeaderSchedulePolicy::Size,
            tolerant_size_percent: 250,
            store_limit: BTreeMap::from([(4, StoreRates::default())]),
            enable_placement_rules: false,
            enable_location_replacement: false,
            enable_joint_consensus: false,
            halt_scheduling: true,
            ..Policy::default()
        };
        // Idle items too, once they are set.
        for (_, items) in groups(&policy) {
            for (name, value) in items.as_object().unwrap() {
                if idle_items::read(name, value).is_some() {
                    set(&mut changed, name, value).unwrap();
                }
            }
        }
        set(&mut changed, "merge-schedule-limit", &json!(0)).unwrap();
        for group in [replication_of(&changed), schedule_of(&changed)] {
            for (name, value) in group.as_object().unwrap() {
                set(&mut policy, name, value).unwrap();
            }
        }
        assert_eq!(policy, changed);
    }

    #[test]
    fn settings_come_alone_with_their_group_or_in_it() {
        let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        for text in [
            r#"{"max-replicas": 5, "halt-scheduling": true}"#,
            r#"{"replication.max-replicas": 5, "schedule.halt-scheduling": "true"}"#,
            r#"{"replication": {"max-replicas": 5}, "schedule": {"halt-scheduling": true}}"#,
        ] {
            let mut policy = Policy::default();
            assert_eq!(set_all(&mut policy, &read(text), None), Ok(()), "{text}");
            assert!(policy.max_replicas == 5 && policy.halt_scheduling, "{text}");
        }
        for (text, only, named) in [
            (r#"{"schedule.max-replicas": 5}"#, None, "schedule.max-replicas"),
            (r#"{"schedule": {"max-replicas": 5}}"#, None, "max-replicas"),
            (r#"{"max-replicas": 5}"#, Some("schedule"), "max-replicas"),
            (r#"{"nothing.max-replicas": 5}"#, None, "nothing.max-replicas"),
            (r#"{"replication": {"schedule": {}}}"#, None, "schedule"),
            (r#"{"no-such-thing": 5}"#, None, "no-such-thing"),
        ] {
            let error = set_all(&mut Policy::default(), &read(text), only).unwrap_err();
            assert_eq!(error, format!("config item {named} not found"), "{text}");
        }
        assert!(set_all(&mut Policy::default(), &read("{}"), None).is_err());
        let mut policy = Policy::default();
        set_all(&mut policy, &read(r#"{"location-labels": ["zone", "host"]}"#), None).unwrap();
        assert_eq!(policy.location_labels, ["zone", "host"]);
    }

    #[test]
    fn halting_is_text_and_there_only_while_it_is_so() {
        let mut policy = Policy::default();
        assert_eq!(schedule_of(&policy).get(HALT), None);
        for (said, is_halted) in
            [(json!(true), true), (json!("false"), false), (json!("true"), true)]
        {
            set(&mut policy, HALT, &said).unwrap();
            assert_eq!(policy.halt_scheduling, is_halted, "{said}");
        }
        assert_eq!(schedule_of(&policy)[HALT], "true");
    }

    #[test]
    fn what_is_no_setting_or_no_value_is_named() {
        let mut policy = Policy::default();
        let unknown = set(&mut policy, "no-such-thing", &json!(1)).unwrap_err();
        assert!(unknown.contains("no-such-thing not found"));
        for (name, value) in [
            ("max-replicas", json!("three")),
            ("max-store-down-time", json!("soon")),
            ("low-space-ratio", json!(1.5)),
            ("halt-scheduling", json!("perhaps")),
        ] {
            assert!(set(&mut policy, name, &value).unwrap_err().contains(name));
        }
        assert_eq!(policy, Policy::default());
    }
}
