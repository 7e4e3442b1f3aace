//! One store: shown, drained and taken back, labelled, weighed.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::http::{Api, CallError};
use super::scheduler::Scheduler;
use super::store_limit::{self, StoreLimitFlags};
use crate::exit::{Code, Failure, Outcome};
use crate::output::{Format, Report};

/// The command line of `tessera ctl store`.
#[derive(Clone, Debug, Args)]
#[command(
    subcommand_negates_reqs = true,
    override_usage = "tessera ctl store [OPTIONS] <ID>\n       tessera ctl store [OPTIONS] <COMMAND>"
)]
pub(crate) struct StoreFlags {
    /// The store's id
    #[arg(required = true, value_parser = parse_id)]
    pub(crate) id: Option<u64>,
    #[command(subcommand)]
    pub(crate) command: Option<StoreCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// All stores, those that are gone too
    List {
        /// Only those in this state: up, disconnected, down, offline or tombstone
        #[arg(long)]
        state: Option<String>,
    },
    /// Drain a store: its peers move away, then it is gone for good
    Delete {
        /// The store's id
        id: u64,
        /// Its disk is lost: it cannot come back, and another store may take its address
        #[arg(long)]
        force: bool,
    },
    /// Take a drain back, as long as the store is not gone
    CancelDelete {
        /// The store's id
        id: u64,
    },
    /// Say where a store is, as key=value; key= takes a label away
    Label {
        /// The store's id
        id: u64,
        /// The labels
        #[arg(required = true, value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// The store carries no others
        #[arg(long)]
        replace: bool,
    },
    /// Say how much of everything a store shall have, beside the others; without a weight it is 1
    Weight {
        /// The store's id
        id: u64,
        /// Of the leaders
        leader: f64,
        /// Of the peers
        region: f64,
    },
    /// How many peers stores may be given, and relieved of, in a minute: show, or set
    Limit(StoreLimitFlags),
    /// Forget the stores that are gone
    RemoveTombstone,
}

fn parse_id(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        "neither a store's id nor a command (see `tessera ctl store --help`)".to_owned()
    })
}

impl StoreFlags {
    /// The command's name, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match &self.command {
            None => "store",
            Some(StoreCommand::List { .. }) => "store list",
            Some(StoreCommand::Delete { .. }) => "store delete",
            Some(StoreCommand::CancelDelete { .. }) => "store cancel-delete",
            Some(StoreCommand::Label { .. }) => "store label",
            Some(StoreCommand::Weight { .. }) => "store weight",
            Some(StoreCommand::Limit(_)) => "store limit",
            Some(StoreCommand::RemoveTombstone) => "store remove-tombstone",
        }
    }
}

/// Shows a store, or changes something about it.
pub(crate) async fn run(endpoints: &[String], flags: StoreFlags, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    let StoreFlags { id, command } = flags;
    let Some(command) = command else { return show(&api, id.unwrap_or_default(), format).await };
    match command {
        StoreCommand::List { state } => list(&api, state.as_deref(), format).await,
        StoreCommand::Delete { id, force } => {
            let force = if force { "?force" } else { "" };
            let deleted = api.delete(&format!("/pd/api/v1/store/{id}{force}")).await;
            done(id, deleted, "it is leaving: its peers move to other stores")?;
            show(&api, id, format).await
        }
        StoreCommand::CancelDelete { id } => {
            let path = format!("/pd/api/v1/store/{id}/state?state=Up");
            done(id, api.post(&path, &Value::Null).await, "it stays")?;
            show(&api, id, format).await
        }
        StoreCommand::Label { id, labels, replace } => {
            let labels = labels.iter().map(|label| split(label)).collect::<Outcome<Map<_, _>>>()?;
            let replace = if replace { "?force" } else { "" };
            let path = format!("/pd/api/v1/store/{id}/label{replace}");
            done(id, api.post(&path, &Value::Object(labels)).await, "its labels are changed")?;
            show(&api, id, format).await
        }
        StoreCommand::Weight { id, leader, region } => {
            let path = format!("/pd/api/v1/store/{id}/weight");
            let weights = json!({ "leader": leader, "region": region });
            done(id, api.post(&path, &weights).await, "its weights are changed")?;
            show(&api, id, format).await
        }
        StoreCommand::Limit(flags) => store_limit::run(&api, flags, format).await,
        StoreCommand::RemoveTombstone => {
            let before = api.get("/pd/api/v1/stores?state=2").await.map_err(failed)?;
            api.delete("/pd/api/v1/stores/remove-tombstone").await.map_err(failed)?;
            let count = before["count"].as_u64().unwrap_or_default();
            eprintln!("{count} stores that are gone are forgotten");
            Ok(())
        }
    }
}

fn failed(error: CallError) -> Failure {
    error.failure("stores")
}

/// Says what was done, or why it was refused in the store's state.
fn done(id: u64, answer: Result<Value, CallError>, words: &str) -> Outcome {
    match answer {
        Ok(_) => {
            eprintln!("store {id}: {words}");
            Ok(())
        }
        Err(CallError::Refused { status: 400 | 410, why }) => {
            Err(Failure::new(Code::Precondition, format!("store {id}: {why}")))
        }
        Err(error) => Err(error.failure(&format!("store {id}"))),
    }
}

fn split(label: &str) -> Outcome<(String, Value)> {
    match label.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), json!(value))),
        _ => Err(Failure::usage(format!("{label:?} is not of the form key=value"))),
    }
}

async fn list(api: &Api, state: Option<&str>, format: Format) -> Outcome {
    let path = match state {
        None => "/pd/api/v1/stores?state=0&state=1&state=2".to_owned(),
        Some(state) => format!("/pd/api/v1/stores/check?state={state}"),
    };
    let listed = match api.get(&path).await {
        Err(CallError::Refused { status: 400, why }) => return Err(Failure::usage(why)),
        listed => listed.map_err(failed)?,
    };
    let header = [
        "ID",
        "ADDRESS",
        "STATE",
        "LEADERS",
        "PEERS",
        "SIZE MIB",
        "AVAILABLE",
        "WEIGHTS",
        "LABELS",
    ];
    let mut report = Report::list("stores", &header);
    for item in listed["stores"].as_array().into_iter().flatten() {
        let (store, status) = (&item["store"], &item["status"]);
        let cells = vec![
            store["id"].to_string(),
            text(&store["address"]),
            text(&store["state_name"]),
            status["leader_count"].to_string(),
            status["region_count"].to_string(),
            status["region_size"].to_string(),
            text(&status["available"]),
            weights(status),
            labels(store),
        ];
        report.row("stores", cells, item.clone());
    }
    report.print(format);
    Ok(())
}

/// A store; one that is leaving with how far it is and what keeps its peers.
async fn show(api: &Api, id: u64, format: Format) -> Outcome {
    let what = format!("store {id}");
    let shown = api.get(&format!("/pd/api/v1/store/{id}")).await;
    let shown = shown.map_err(|error| error.failure(&what))?;
    let explained = api.get(&format!("/pd/api/v1/explain/store/{id}?limit=0")).await;
    let explained = explained.map_err(|error| error.failure(&what))?;
    let (store, status) = (&shown["store"], &shown["status"]);
    let mut fields = vec![
        ("store", id.to_string()),
        ("address", text(&store["address"])),
        ("state", text(&store["state_name"])),
        ("node state", node_state(store).to_owned()),
        ("labels", labels(store)),
        ("version", text(&store["version"])),
        ("leaders", amounts(status, "leader")),
        ("peers", amounts(status, "region")),
        ("weights", weights(status)),
        ("disk", format!("{} of {} free", text(&status["available"]), text(&status["capacity"]))),
        ("last heard", text(&status["last_heartbeat_ts"])),
    ];
    let drain = &explained["drain"];
    if !drain.is_null() {
        let words =
            format!("{} peers left, {} of them under way", drain["peers"], drain["under_way"]);
        fields.push(("drain", words));
    }
    for blocker in drain["waiting"].as_array().into_iter().flatten() {
        let (count, region) = (&blocker["regions"], &blocker["region"]);
        let words = format!("{count} regions (such as {region}): {}", text(&blocker["says"]));
        fields.push(("waiting", words));
    }
    let mut document = shown.clone();
    document["drain"] = drain.clone();
    Report::fields(fields, document).print(format);
    Ok(())
}

fn node_state(store: &Value) -> &'static str {
    match store["node_state"].as_u64().unwrap_or_default() {
        0 => "preparing",
        1 => "serving",
        2 => "removing",
        _ => "removed",
    }
}

fn amounts(status: &Value, of: &str) -> String {
    format!("{}, {} MiB", status[format!("{of}_count")], status[format!("{of}_size")])
}

fn weights(status: &Value) -> String {
    format!("leader {}, region {}", status["leader_weight"], status["region_weight"])
}

fn labels(store: &Value) -> String {
    let labels = store["labels"].as_array().into_iter().flatten();
    let labels: Vec<_> =
        labels.map(|label| format!("{}={}", text(&label["key"]), text(&label["value"]))).collect();
    labels.join(",")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
