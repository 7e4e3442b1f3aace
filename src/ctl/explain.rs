//! Why a region does (not) move, and why a store does (not) fill or empty.

use serde_json::Value;

use super::http::Api;
use super::scheduler::Scheduler;
use crate::args::ExplainCommand;
use crate::exit::Outcome;
use crate::output::{Format, Report};

/// Explains one thing.
pub(crate) async fn run(endpoints: &[String], command: ExplainCommand, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    let (what, path) = match command {
        ExplainCommand::Region { id } => {
            (format!("region {id}"), format!("/pd/api/v1/explain/region/{id}"))
        }
        ExplainCommand::Store { id, limit } => {
            (format!("store {id}"), format!("/pd/api/v1/explain/store/{id}?limit={limit}"))
        }
    };
    let explained = api.get(&path).await;
    let explained = explained.map_err(|error| error.failure(&format!("explain {what}")))?;
    let fields = match command {
        ExplainCommand::Region { .. } => of_region(&explained),
        ExplainCommand::Store { .. } => of_store(&explained),
    };
    Report::fields(fields, explained).print(format);
    Ok(())
}

fn of_region(explained: &Value) -> Vec<(&'static str, String)> {
    let mut fields = vec![("region", text(&explained["region"]))];
    let under_way = &explained["under_way"];
    fields
        .push(("under way", if under_way.is_null() { "nothing".into() } else { text(under_way) }));
    fields.extend(list(&explained["ended"]).map(|ended| ("ended", text(ended))));
    fields.push(("replicas", text(&explained["replicas"])));
    for verdict in list(&explained["checkers"]) {
        let words = format!("{}: {}", text(&verdict["checker"]), text(&verdict["says"]));
        fields.push(("checker", words));
    }
    for rule in list(&explained["rules"]) {
        let stores: Vec<_> = list(&rule["stores"]).map(|store| format!("s{store}")).collect();
        let has = if stores.is_empty() { "none".into() } else { stores.join(" ") };
        let words = format!(
            "{}: wants {} of role {}, has {has}",
            text(&rule["rule"]),
            text(&rule["wanted"]),
            text(&rule["role"]),
        );
        fields.push(("rule", words));
    }
    fields.push(("leader balance", text(&explained["balance_leader"])));
    fields.push(("peer balance", text(&explained["balance_region"])));
    let others = list(&explained["schedulers"]).filter(|verdict| {
        let name = verdict["scheduler"].as_str().unwrap_or_default();
        !matches!(name, "balance-leader-scheduler" | "balance-region-scheduler")
    });
    fields.extend(others.map(scheduler));
    for store in list(&explained["stores"]) {
        let words = format!(
            "{}: a new peer: {}; its lead: {}; {}",
            text(&store["store"]),
            verdict(&store["no_peer_because"]),
            verdict(&store["no_leader_because"]),
            numbers(store)
        );
        fields.push(("store", words));
    }
    fields
}

fn of_store(explained: &Value) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("store", text(&explained["store"])),
        ("state", text(&explained["state"])),
        ("new peers", verdict(&explained["no_peer_because"])),
        ("new leaders", verdict(&explained["no_leader_because"])),
        ("numbers", numbers(explained)),
    ];
    fields.extend(list(&explained["schedulers"]).map(scheduler));
    let drain = &explained["drain"];
    if !drain.is_null() {
        let words =
            format!("{} peers left, {} of them under way", drain["peers"], drain["under_way"]);
        fields.push(("drain", words));
    }
    fields.extend(list(&drain["waiting"]).map(|blocker| {
        let (regions, region) = (&blocker["regions"], &blocker["region"]);
        ("waiting", format!("{regions} regions (such as {region}): {}", text(&blocker["says"])))
    }));
    fields.extend(list(&explained["regions"]).map(|region| {
        ("region", format!("{}: {}", text(&region["region"]), text(&region["says"])))
    }));
    fields
}

/// What one scheduler says.
fn scheduler(verdict: &Value) -> (&'static str, String) {
    ("scheduler", format!("{}: {}", text(&verdict["scheduler"]), text(&verdict["says"])))
}

/// What completes "the store …", or that nothing stands against it.
fn verdict(because: &Value) -> String {
    match because.as_str() {
        Some(because) => format!("no, it {because}"),
        None => "possible".into(),
    }
}

fn numbers(store: &Value) -> String {
    let number = |name: &str| store[name].as_u64().unwrap_or_default();
    let disk = match number("capacity_mib") {
        0 => "it does not say how large its disk is".into(),
        capacity => format!("{} of {capacity} MiB are free", number("available_mib")),
    };
    let limit = |name: &str| store[name].as_u64().map_or("any".into(), |peers| peers.to_string());
    format!(
        "leads {}, holds {} peers of {} MiB, {disk}, silent for {} s, {} catching up, {} being added, {} \
         snapshots, {} more may come at once and {} go",
        number("leaders"),
        number("peers"),
        number("size_mib"),
        number("silent_ms") / 1_000,
        number("catching_up"),
        number("adding"),
        number("snapshots"),
        limit("may_add"),
        limit("may_remove"),
    )
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
