//! Placement rules, as PD's tools read and write them.
//!
//! | path under `/config` | |
//! |---|---|
//! | `/rules` | all rules; POST: these and no others |
//! | `/rules/batch` | POST: several changes, all or none |
//! | `/rules/group/{group}`, `/rules/region/{id}`, `/rules/region/{id}/detail`, `/rules/key/{hex}` | the rules of a group, a region, a key; how a region's peers serve them |
//! | `/rule`, `/rule/{group}/{id}` | one rule |
//! | `/rule_groups`, `/rule_group`, `/rule_group/{id}` | groups by themselves |
//! | `/placement-rule`, `/placement-rule/{group}` | groups with their rules |

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use proto::RegionId;
use proto::schedulerpb::Change;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::regions::Peer;
use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::{Cluster, Refusal};
use crate::rules::edit::Bundle;
use crate::rules::{Edit, Group, Rule, RuleSet};
use crate::server::node::Node;

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))
}

/// Looks at the cluster, while rules count.
fn look<T>(node: &Node, look: impl FnOnce(&Cluster) -> Result<T, Failure>) -> Result<T, Failure> {
    let serving = serving(node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    if !cluster.policy().enable_placement_rules {
        return Err(Refusal::RulesDisabled.into());
    }
    look(cluster)
}

fn of_set<T>(node: &Node, see: impl FnOnce(&RuleSet) -> Result<T, Failure>) -> Reply<T> {
    look(node, |cluster| see(cluster.rules().set())).map(Json)
}

fn owned(rules: Vec<&Rule>) -> Vec<Rule> {
    rules.into_iter().cloned().collect()
}

/// Changes the rules, all of it or nothing, and waits until it is durable.
async fn edit(node: &Node, edits: Vec<Edit>) -> Result<(), Failure> {
    let decided = serving(node)?
        .change(node, |affairs, _| {
            let rules = affairs.cluster()?.edit_rules(edits)?;
            Ok((Change { rules: rules.into(), ..Change::default() }, ()))
        })
        .await?;
    decided.map_err(Failure::from)
}

pub(super) async fn all(State(node): Shared) -> Reply<Vec<Rule>> {
    of_set(&node, |set| Ok(owned(set.rules())))
}

pub(super) async fn set_all(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let rules: Vec<Rule> = read(&body)?;
    let edits = [Edit::Clear].into_iter().chain(rules.into_iter().map(Edit::Put));
    edit(&node, edits.collect()).await?;
    Ok(Json("Update rules successfully."))
}

/// One change of a batch: a rule with an `action` beside it.
fn operation(mut written: Map<String, Value>) -> Result<Edit, Failure> {
    let mut text = |name: &str| match written.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (action, is_prefix) = (text("action"), written.remove("delete_by_id_prefix"));
    match action.as_str() {
        "add" => {
            let rule = serde_json::from_value(Value::Object(written));
            rule.map(Edit::Put).map_err(|error| Failure::bad_request(error.to_string()))
        }
        "del" => {
            let mut text = |name: &str| match written.remove(name) {
                Some(Value::String(text)) => text,
                _ => String::new(),
            };
            let (group, id) = (text("group_id"), text("id"));
            Ok(if is_prefix == Some(Value::Bool(true)) {
                Edit::DeletePrefix { group, prefix: id }
            } else {
                Edit::Delete { group, id }
            })
        }
        other => Err(Failure::bad_request(format!("action {other:?} is neither add nor del"))),
    }
}

pub(super) async fn batch(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let operations: Vec<Map<String, Value>> = read(&body)?;
    let edits: Result<Vec<_>, _> = operations.into_iter().map(operation).collect();
    edit(&node, edits?).await?;
    Ok(Json("Batch operations successfully."))
}

pub(super) async fn of_group(State(node): Shared, Path(group): Path<String>) -> Reply<Vec<Rule>> {
    of_set(&node, |set| Ok(owned(set.rules_of(&group))))
}

pub(super) async fn of_region(State(node): Shared, Path(id): Path<u64>) -> Reply<Vec<Rule>> {
    let found = look(&node, |cluster| {
        let record = cluster.regions().by_id(RegionId(id)).ok_or_else(|| no_region(id))?;
        // Over a bound no rules fit it as a whole: those of its first key, until it is split.
        let rules = cluster.rules().of(&record.range());
        Ok(rules.unwrap_or_else(|| cluster.rules().of_key(&record.region.start_key)).to_vec())
    })?;
    Ok(Json(found))
}

fn no_region(id: u64) -> Failure {
    Failure::not_found(format!("region {id} not found"))
}

#[derive(Serialize)]
pub(super) struct Fit {
    #[serde(rename = "rule-fits")]
    rule_fits: Vec<RuleFit>,
    #[serde(rename = "orphan-peers")]
    orphan_peers: Vec<Peer>,
}

#[derive(Serialize)]
struct RuleFit {
    rule: Rule,
    peers: Vec<Peer>,
    #[serde(rename = "peers-different-role")]
    wrong_roles: Vec<Peer>,
}

/// Which of the region's peers serve which rule.
pub(super) async fn fit(State(node): Shared, Path(id): Path<u64>) -> Reply<Fit> {
    let moment = node.clock.moment();
    let found = look(&node, |cluster| {
        let record = cluster.regions().by_id(RegionId(id)).ok_or_else(|| no_region(id))?;
        let view = cluster.view(moment);
        let Some(rules) = view.rules_of(record) else {
            return Ok(Fit { rule_fits: Vec::new(), orphan_peers: Vec::new() });
        };
        let fit = view.fit(record, rules);
        let rule_fits = fit.rules.iter().map(|fit| RuleFit {
            rule: fit.rule.clone(),
            peers: fit.peers.iter().map(|placed| Peer::from(&placed.peer)).collect(),
            wrong_roles: fit
                .peers
                .iter()
                .filter(|placed| !placed.has_role(fit.rule.role))
                .map(|placed| Peer::from(&placed.peer))
                .collect(),
        });
        Ok(Fit {
            rule_fits: rule_fits.collect(),
            orphan_peers: fit.orphans.iter().map(|placed| Peer::from(&placed.peer)).collect(),
        })
    })?;
    Ok(Json(found))
}

pub(super) async fn of_key(State(node): Shared, Path(key): Path<String>) -> Reply<Vec<Rule>> {
    let key = format::parse_hex(&key).ok_or_else(|| {
        Failure::bad_request(format!("key {key:?} is not in pairs of hexadecimal digits"))
    })?;
    look(&node, |cluster| Ok(cluster.rules().of_key(&key).to_vec())).map(Json)
}

pub(super) async fn rule(
    State(node): Shared,
    Path((group, id)): Path<(String, String)>,
) -> Reply<Rule> {
    of_set(&node, |set| {
        let found = set.rule(&group, &id).cloned();
        found.ok_or_else(|| Failure::not_found(format!("rule {group}/{id} not found")))
    })
}

pub(super) async fn put(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    edit(&node, vec![Edit::Put(read(&body)?)]).await?;
    Ok(Json("Update rule successfully."))
}

pub(super) async fn delete(
    State(node): Shared,
    Path((group, id)): Path<(String, String)>,
) -> Reply<&'static str> {
    edit(&node, vec![Edit::Delete { group, id }]).await?;
    Ok(Json("Delete rule successfully."))
}

pub(super) async fn groups(State(node): Shared) -> Reply<Vec<Group>> {
    of_set(&node, |set| Ok(set.groups()))
}

fn no_group(id: &str) -> Failure {
    Failure::not_found(format!("rule group {id} not found"))
}

pub(super) async fn group(State(node): Shared, Path(id): Path<String>) -> Reply<Group> {
    of_set(&node, |set| if set.has_group(&id) { Ok(set.group(&id)) } else { Err(no_group(&id)) })
}

pub(super) async fn put_group(State(node): Shared, body: Bytes) -> Reply<&'static str> {
    let group: Group = read(&body)?;
    if group.id.is_empty() {
        return Err(Failure::bad_request("a group's id must not be empty"));
    }
    edit(&node, vec![Edit::PutGroup(group)]).await?;
    Ok(Json("Update rule group successfully."))
}

pub(super) async fn delete_group(
    State(node): Shared,
    Path(id): Path<String>,
) -> Reply<&'static str> {
    edit(&node, vec![Edit::PlainGroup(id)]).await?;
    Ok(Json("Delete rule group successfully."))
}

pub(super) async fn bundles(State(node): Shared) -> Reply<Vec<Bundle>> {
    of_set(&node, |set| Ok(set.groups().iter().map(|group| Bundle::of(set, &group.id)).collect()))
}

#[derive(Deserialize)]
pub(super) struct Partial {
    partial: Option<String>,
}

/// Groups with their rules; those that are not named go, unless `?partial=true`.
pub(super) async fn set_bundles(
    State(node): Shared,
    Query(query): Query<Partial>,
    body: Bytes,
) -> Reply<&'static str> {
    let bundles: Vec<Bundle> = read(&body)?;
    let mut edits = Vec::new();
    if query.partial.as_deref() != Some("true") {
        let known = look(&node, |cluster| Ok(cluster.rules().set().groups()))?;
        edits.extend(known.into_iter().map(|group| Edit::DeleteGroup(group.id)));
    }
    for bundle in bundles {
        edits.extend(bundle.edits().map_err(Failure::bad_request)?);
    }
    edit(&node, edits).await?;
    Ok(Json("Update rules and groups successfully."))
}

pub(super) async fn bundle(State(node): Shared, Path(id): Path<String>) -> Reply<Bundle> {
    of_set(
        &node,
        |set| {
            if set.has_group(&id) { Ok(Bundle::of(set, &id)) } else { Err(no_group(&id)) }
        },
    )
}

/// A group with its rules; the body's name must be the path's, if it has one.
pub(super) async fn set_bundle(
    State(node): Shared,
    Path(id): Path<String>,
    body: Bytes,
) -> Reply<&'static str> {
    let mut written: Map<String, Value> = read(&body)?;
    let name = written.entry("group_id").or_insert_with(|| json!(id.clone()));
    if name.as_str().is_none_or(str::is_empty) {
        *name = json!(id.clone());
    }
    let bundle: Bundle = serde_json::from_value(Value::Object(written))
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    if bundle.id != id {
        return Err(Failure::bad_request(format!(
            "group id {} does not match URI {id}",
            bundle.id
        )));
    }
    edit(&node, bundle.edits().map_err(Failure::bad_request)?).await?;
    Ok(Json("Update group and rules successfully."))
}

pub(super) async fn delete_bundle(
    State(node): Shared,
    Path(id): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply<&'static str> {
    if query.contains_key("regexp") {
        return Err(Failure::bad_request("groups are deleted by their names, not by patterns"));
    }
    edit(&node, vec![Edit::DeleteGroup(id)]).await?;
    Ok(Json("Delete group and rules successfully."))
}
