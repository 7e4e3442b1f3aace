//! Regions of which something is to be said: `tessera ctl region --check KIND`.

use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::flags::CheckKind;
use crate::ctl::http::Api;
use crate::ctl::scheduler::Scheduler;
use crate::exit::Outcome;
use crate::keys;
use crate::output::{Format, Report};

/// Lists the regions of a kind, or counts all by their sizes.
pub(super) async fn run(endpoints: &[String], kind: CheckKind, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    let name = kind.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let found = api.get(&format!("/pd/api/v1/regions/check/{name}")).await;
    let found = found.map_err(|error| error.failure(&format!("check regions for {name}")))?;
    let report = match kind {
        CheckKind::HistSize => histogram(&found, "MIB"),
        CheckKind::HistKeys => histogram(&found, "KEYS"),
        CheckKind::MissPeer
        | CheckKind::ExtraPeer
        | CheckKind::DownPeer
        | CheckKind::PendingPeer
        | CheckKind::OfflinePeer
        | CheckKind::LearnerPeer
        | CheckKind::EmptyRegion => regions(&found),
    };
    report.print(format);
    Ok(())
}

fn histogram(found: &Value, unit: &'static str) -> Report {
    let mut report = Report::list("classes", &[unit, "REGIONS"]);
    for class in found.as_array().into_iter().flatten() {
        let cells =
            vec![format!("{} to {}", class["start"], class["end"]), class["count"].to_string()];
        report.row("classes", cells, class.clone());
    }
    report
}

fn regions(found: &Value) -> Report {
    let header = ["ID", "START", "END", "LEADER", "PEERS", "MIB", "KEYS"];
    let mut report = Report::list("regions", &header);
    for region in found["regions"].as_array().into_iter().flatten() {
        let bound = |name: &str, open: &str| {
            let bytes = keys::unhex(region[name].as_str().unwrap_or_default()).unwrap_or_default();
            keys::show_bound(&bytes, open)
        };
        let cells = vec![
            region["id"].to_string(),
            bound("start_key", "-inf"),
            bound("end_key", "+inf"),
            match region["leader"]["store_id"].as_u64() {
                None | Some(0) => "none".into(),
                Some(store) => format!("s{store}"),
            },
            peers(region),
            region["approximate_size"].to_string(),
            region["approximate_keys"].to_string(),
        ];
        report.row("regions", cells, region.clone());
    }
    let count = found["count"].clone();
    report.with("count", if count.is_null() { json!(0) } else { count })
}

/// The peers by their stores, each with what is to be said of it.
fn peers(region: &Value) -> String {
    let among = |list: &str, id: &Value| {
        let peers = region[list].as_array().into_iter().flatten();
        peers.map(|peer| peer.get("peer").unwrap_or(peer)).any(|peer| peer["id"] == *id)
    };
    let peers = region["peers"].as_array().into_iter().flatten().map(|peer| {
        let mut text = format!("s{}", peer["store_id"]);
        if peer["is_learner"] == true {
            text.push_str("(learner)");
        }
        if among("down_peers", &peer["id"]) {
            text.push_str("(down)");
        }
        if among("pending_peers", &peer["id"]) {
            text.push_str("(pending)");
        }
        text
    });
    peers.collect::<Vec<_>>().join(" ")
}
