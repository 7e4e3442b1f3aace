//! How many peers stores may be given, and relieved of, in a minute.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::http::Api;
use crate::exit::Outcome;
use crate::output::{Format, Report};

/// Shows the limits, or sets one.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreLimitFlags {
    /// The store's id, or `all`; without it the limits are shown
    #[arg(requires = "rate")]
    which: Option<String>,
    /// Peers a minute; 100000000 is no limit
    rate: Option<f64>,
    /// Only of peers that come, or that go
    #[arg(long = "type", value_enum)]
    direction: Option<Direction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    AddPeer,
    RemovePeer,
}

/// Runs the command.
pub(super) async fn run(api: &Api, flags: StoreLimitFlags, format: Format) -> Outcome {
    if let (Some(which), Some(rate)) = (&flags.which, flags.rate) {
        let path = match which.as_str() {
            "all" => "/pd/api/v1/stores/limit".to_owned(),
            id => format!("/pd/api/v1/store/{id}/limit"),
        };
        let mut body = json!({ "rate": rate });
        match flags.direction {
            Some(Direction::AddPeer) => body["type"] = json!("add-peer"),
            Some(Direction::RemovePeer) => body["type"] = json!("remove-peer"),
            None => {}
        }
        let set = api.post(&path, &body).await;
        set.map_err(|error| error.failure(&format!("limit store {which}")))?;
        eprintln!("store {which}: limited");
    }
    let limits = api.get("/pd/api/v1/stores/limit").await;
    let limits = limits.map_err(|error| error.failure("show the limits of stores"))?;
    let mut report = Report::list("limits", &["STORE", "PEERS ADDED/MIN", "PEERS REMOVED/MIN"]);
    let mut stores: Vec<(u64, &Value)> = limits
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(id, rates)| Some((id.parse().ok()?, rates)))
        .collect();
    stores.sort_by_key(|(id, _)| *id);
    for (id, rates) in stores {
        let (add, remove) = (&rates["add-peer"], &rates["remove-peer"]);
        let item = json!({ "store": id, "add_peer": add, "remove_peer": remove });
        report.row("limits", vec![id.to_string(), add.to_string(), remove.to_string()], item);
    }
    report.print(format);
    Ok(())
}
