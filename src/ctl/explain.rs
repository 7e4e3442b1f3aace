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
        ("numbers", numbers(explained)),
    ];
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
    format!(
        "leads {}, holds {} peers of {} MiB, {disk}, silent for {} s, {} catching up, {} being added, {} \
         snapshots",
        number("leaders"),
        number("peers"),
        number("size_mib"),
        number("silent_ms") / 1_000,
        number("catching_up"),
        number("adding"),
        number("snapshots"),
    )
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
