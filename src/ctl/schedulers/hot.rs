//! What is read and written most: regions by store, and stores.

use serde_json::{Value, json};

use super::super::http::Api;
use super::super::scheduler::Scheduler;
use super::flags::HotCommand;
use crate::exit::Outcome;
use crate::output::{Format, Report};

/// Runs one of the commands.
pub(crate) async fn run(endpoints: &[String], command: HotCommand, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    match command {
        HotCommand::Read => regions(&api, "read", format).await,
        HotCommand::Write => regions(&api, "write", format).await,
        HotCommand::Store => stores(&api, format).await,
    }
}

fn rate(value: &Value) -> String {
    format!("{:.0}", value.as_f64().unwrap_or_default())
}

async fn regions(api: &Api, traffic: &str, format: Format) -> Outcome {
    let found = api.get(&format!("/pd/api/v1/hotspot/regions/{traffic}")).await;
    let found = found.map_err(|error| error.failure("list the hot regions"))?;
    let columns = ["STORE", "REGION", "LEADS", "REPORTS", "BYTES/S", "KEYS/S", "QUERIES/S"];
    let mut report = Report::list("hot_regions", &columns);
    for (store, of_store) in found["as_peer"].as_object().into_iter().flatten() {
        for hot in of_store["statistics"].as_array().into_iter().flatten() {
            let cells = vec![
                store.clone(),
                hot["region_id"].to_string(),
                if hot["is_leader"] == true { "yes" } else { "" }.to_owned(),
                hot["hot_degree"].to_string(),
                rate(&hot["flow_bytes"]),
                rate(&hot["flow_keys"]),
                rate(&hot["flow_query"]),
            ];
            report.row("hot_regions", cells, hot.clone());
        }
    }
    report.print(format);
    Ok(())
}

async fn stores(api: &Api, format: Format) -> Outcome {
    let found = api.get("/pd/api/v1/hotspot/stores").await;
    let found = found.map_err(|error| error.failure("list the stores' loads"))?;
    let columns = ["STORE", "BYTES READ/S", "BYTES WRITTEN/S", "KEYS READ/S", "KEYS WRITTEN/S"];
    let mut report = Report::list("stores", &columns);
    for store in found["bytes-read-rate"].as_object().into_iter().flatten().map(|(id, _)| id) {
        let of = |name: &str| found[name][store].clone();
        let cells = vec![
            store.clone(),
            rate(&of("bytes-read-rate")),
            rate(&of("bytes-write-rate")),
            rate(&of("keys-read-rate")),
            rate(&of("keys-write-rate")),
        ];
        let item = json!({
            "store": store,
            "bytes_read_rate": of("bytes-read-rate"),
            "bytes_write_rate": of("bytes-write-rate"),
            "keys_read_rate": of("keys-read-rate"),
            "keys_write_rate": of("keys-write-rate"),
        });
        report.row("stores", cells, item);
    }
    report.print(format);
    Ok(())
}
