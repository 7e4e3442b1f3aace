//! The cluster's settings, as PD groups and names them.

use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::Policy;
use crate::gc::Barrier;
use crate::server::node::Node;
use crate::server::serving::change_of;
use crate::service::VERSION;
use crate::service::gc::remove_service_safe_point;
use crate::service::stores::set_policy;

/// The settings that PD keeps under `replication`.
fn replication_of(policy: &Policy) -> Value {
    json!({
        "max-replicas": policy.max_replicas,
        "location-labels": policy.location_labels.join(","),
        "strictly-match-label": policy.strictly_match_label.to_string(),
        "enable-placement-rules": policy.enable_placement_rules.to_string(),
        "isolation-level": policy.isolation_level,
    })
}

/// The settings that PD keeps under `schedule`.
fn schedule_of(policy: &Policy) -> Value {
    json!({
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
        "halt-scheduling": policy.halt_scheduling,
        "gc-life-time": format::duration(policy.gc_life_time_ms / 1_000),
        "gc-run-interval": format::duration(policy.gc_run_interval_ms / 1_000),
    })
}

/// Takes over one setting in PD's words, whichever group it came in.
fn set(policy: &mut Policy, name: &str, value: &Value) -> Result<(), String> {
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
        "halt-scheduling" => policy.halt_scheduling = flag()?,
        _ => return Err(format!("config item {name} not found")),
    }
    Ok(())
}

/// The wishes in force: the cluster's, or those it will begin with.
fn policy(node: &Node) -> Policy {
    crate::server::serving::policy(node, &node.state.read())
}

pub(super) async fn config(State(node): Shared) -> Json<Value> {
    let policy = policy(&node);
    let version = node.state.read().cluster_version().to_owned();
    Json(json!({
        "client-urls": node.client_urls.join(","),
        "peer-urls": node.peer_urls.join(","),
        "advertise-client-urls": node.client_urls.join(","),
        "advertise-peer-urls": node.peer_urls.join(","),
        "name": node.name,
        "data-dir": node.data_dir,
        "lease-ms": u64::try_from(node.lease.as_millis()).unwrap_or(u64::MAX),
        "schedule": schedule_of(&policy),
        "replication": replication_of(&policy),
        "pd-server": { "dashboard-address": "none" },
        "cluster-version": if version.is_empty() { VERSION.to_owned() } else { version },
    }))
}

pub(super) async fn replication(State(node): Shared) -> Json<Value> {
    Json(replication_of(&policy(&node)))
}

pub(super) async fn schedule(State(node): Shared) -> Json<Value> {
    Json(schedule_of(&policy(&node)))
}

pub(super) async fn cluster_version(State(node): Shared) -> Json<String> {
    Json(node.state.read().cluster_version().to_owned())
}

/// What a new cluster of this version begins with.
pub(super) async fn default_config() -> Json<Value> {
    let policy = Policy::default();
    Json(json!({ "schedule": schedule_of(&policy), "replication": replication_of(&policy) }))
}

/// There is nothing to set.
pub(super) async fn pd_server() -> Json<Value> {
    Json(json!({ "dashboard-address": "none" }))
}

/// The groups of settings that can be changed, each with those in it.
fn groups(policy: &Policy) -> [(&'static str, Value); 2] {
    [("schedule", schedule_of(policy)), ("replication", replication_of(policy))]
}

/// Takes over settings in any of PD's forms: `{"max-replicas": 3}`, `{"replication.max-replicas": 3}`,
/// `{"replication": {"max-replicas": 3}}`. With `only` they must be of that group. A name that is not one is
/// refused, and so is one in the wrong group.
fn set_all(
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
            groups.iter().any(|(name, items)| *name == group && items.get(item).is_some())
        };
        if of.is_some_and(|of| !is_in(of)) {
            return Err(format!("config item {name} not found"));
        }
        set(policy, item, value)?;
    }
    Ok(())
}

async fn change(
    node: &Node,
    wanted: &Map<String, Value>,
    only: Option<&str>,
) -> Reply<&'static str> {
    let serving = serving(node)?;
    let decided = set_policy(node, &serving, |policy| set_all(policy, wanted, only));
    decided.await?.map_err(Failure::from)?;
    Ok(Json("The config is updated."))
}

fn read(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!("a JSON object of config items is expected: {error}"))
    })
}

/// Some settings of any group; the cluster's version alone.
pub(super) async fn set_config(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let wanted = read(&body)?;
    match wanted.get("cluster-version") {
        None => change(&node, &wanted, None).await,
        Some(version) if wanted.len() == 1 => set_version(&node, version).await,
        Some(_) => Err(Failure::bad_request("cluster-version is set by itself")),
    }
}

/// Some settings of the group `replication`.
pub(super) async fn set_replication(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    change(&node, &read(&body)?, Some("replication")).await
}

/// Some settings of the group `schedule`.
pub(super) async fn set_schedule(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    change(&node, &read(&body)?, Some("schedule")).await
}

pub(super) async fn set_cluster_version(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let wanted = read(&body)?;
    let version = wanted
        .get("cluster-version")
        .ok_or_else(|| Failure::bad_request("not set cluster-version"))?;
    set_version(&node, version).await
}

async fn set_version(node: &Node, version: &Value) -> Reply<&'static str> {
    let text = version.as_str().unwrap_or_default();
    let decided = serving(node)?
        .change(node, |affairs, _| Ok((change_of(affairs.cluster()?.set_version(text)?), ())))
        .await?;
    decided.map_err(Failure::from)?;
    Ok(Json("The cluster version is updated."))
}

#[derive(Serialize)]
pub(super) struct Cluster {
    id: u64,
    max_peer_count: usize,
}

pub(super) async fn cluster(State(node): Shared) -> Json<Cluster> {
    Json(Cluster { id: node.cluster_id(), max_peer_count: policy(&node).max_replicas })
}

#[derive(Serialize)]
pub(super) struct ClusterStatus {
    raft_bootstrap_time: String,
    is_initialized: bool,
    replication_status: &'static str,
}

pub(super) async fn cluster_status(State(node): Shared) -> Reply<ClusterStatus> {
    let bootstrapped_at_ms = node.state.read().bootstrapped_at_ms();
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let is_initialized = match serving.lock().cluster() {
        Ok(cluster) => cluster.is_prepared(moment),
        Err(_) => false,
    };
    let raft_bootstrap_time = match bootstrapped_at_ms {
        0 => format::NO_TIME.to_owned(),
        ms => format::time(ms),
    };
    Ok(Json(ClusterStatus { raft_bootstrap_time, is_initialized, replication_status: "" }))
}

#[derive(Serialize)]
pub(super) struct ServiceSafePoint {
    service_id: String,
    expired_at: i64,
    safe_point: u64,
}

#[derive(Serialize)]
pub(super) struct SafePoints {
    service_gc_safe_points: Vec<ServiceSafePoint>,
    min_service_gc_safe_point: u64,
    gc_safe_point: u64,
}

pub(super) async fn safe_points(State(node): Shared) -> Reply<SafePoints> {
    let now_s = node.clock.moment().wall_s();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    affairs.cluster()?;
    let services = affairs.gc.service_safe_points(now_s);
    let min_service_gc_safe_point =
        services.iter().map(|barrier| barrier.ts).min().unwrap_or_default();
    let shown = |barrier: Barrier| ServiceSafePoint {
        service_id: barrier.id,
        expired_at: barrier.expires_at_s,
        safe_point: barrier.ts,
    };
    Ok(Json(SafePoints {
        service_gc_safe_points: services.into_iter().map(shown).collect(),
        min_service_gc_safe_point,
        gc_safe_point: affairs.gc.gc_safe_point(),
    }))
}

/// Removes a service's safe point; one that is not there is gone already.
pub(super) async fn remove_safe_point(
    State(node): Shared,
    Path(service): Path<String>,
) -> Reply<&'static str> {
    let serving = serving(&node)?;
    remove_service_safe_point(&node, &serving, &service).await?.map_err(Failure::from)?;
    Ok(Json("Delete service GC safepoint successfully."))
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
        let changed = Policy {
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
