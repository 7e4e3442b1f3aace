//! The cluster's settings, kept by the scheduler: shown and changed.

use clap::{Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::http::{Api, CallError};
use super::scheduler::Scheduler;
use crate::exit::{Failure, Outcome};
use crate::output::{Format, Report};

/// The command line of `tessera ctl config`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// All settings, or those of one group
    Show {
        /// Which group
        #[arg(value_enum, default_value_t)]
        group: Group,
    },
    /// Change a setting of the cluster, at once and for good
    Set {
        /// Its name, alone or behind its group: `max-replicas`, `schedule.leader-schedule-limit`
        name: String,
        /// Its value
        value: String,
    },
}

/// Which settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Every group.
    #[default]
    All,
    /// How fast regions are moved, and when.
    Schedule,
    /// How many replicas there are, and where.
    Replication,
    /// The version that every store has at least.
    ClusterVersion,
}

/// Runs one of the commands.
pub(crate) async fn run(endpoints: &[String], command: ConfigCommand, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    match command {
        ConfigCommand::Show { group } => show(&api, group, format).await,
        ConfigCommand::Set { name, value } => set(&api, name, value).await,
    }
}

async fn show(api: &Api, group: Group, format: Format) -> Outcome {
    let path = match group {
        Group::All => "/pd/api/v1/config",
        Group::Schedule => "/pd/api/v1/config/schedule",
        Group::Replication => "/pd/api/v1/config/replicate",
        Group::ClusterVersion => "/pd/api/v1/config/cluster-version",
    };
    let shown = api.get(path).await.map_err(|error| error.failure("show the settings"))?;
    let settings = if let Value::Object(settings) = shown {
        settings
    } else {
        Map::from_iter([("cluster-version".to_owned(), shown)])
    };
    let mut rows = Vec::new();
    flatten("", &settings, &mut rows);
    let mut report = Report::list("settings", &["SETTING", "VALUE"]);
    for (name, value) in rows {
        let item = json!({ "name": name, "value": value });
        let cell = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        report.row("settings", vec![name, cell], item);
    }
    report.print(format);
    Ok(())
}

/// Every setting with its group before it.
fn flatten(group: &str, settings: &Map<String, Value>, rows: &mut Vec<(String, Value)>) {
    for (name, value) in settings {
        let name = if group.is_empty() { name.clone() } else { format!("{group}.{name}") };
        if let Value::Object(inner) = value {
            flatten(&name, inner, rows);
        } else {
            rows.push((name, value.clone()));
        }
    }
}

async fn set(api: &Api, name: String, value: String) -> Outcome {
    let (path, body) = if name == "cluster-version" {
        ("/pd/api/v1/config/cluster-version", json!({ "cluster-version": value }))
    } else {
        ("/pd/api/v1/config", Value::Object(Map::from_iter([(name.clone(), meant(&value))])))
    };
    match api.post(path, &body).await {
        Ok(_) => {
            let effect =
                if scheduler::has_no_effect(&name) { ", which changes nothing here" } else { "" };
            eprintln!("{name} is {value} from now on{effect}");
            Ok(())
        }
        // A name that is no setting, or a value that it cannot have.
        Err(CallError::Refused { status: 400, why }) => Err(Failure::usage(why)),
        Err(error) => Err(error.failure(&format!("set {name}"))),
    }
}

/// A number or a flag is meant as one; anything else is text.
fn meant(value: &str) -> Value {
    match serde_json::from_str(value) {
        Ok(meant @ (Value::Bool(_) | Value::Number(_))) => meant,
        Ok(Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_)) | Err(_) => {
            json!(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_meant_as_they_look() {
        assert_eq!(meant("3"), json!(3));
        assert_eq!(meant("0.8"), json!(0.8));
        assert_eq!(meant("true"), json!(true));
        assert_eq!(meant("zone,host"), json!("zone,host"));
        assert_eq!(meant("30m0s"), json!("30m0s"));
        assert_eq!(meant("null"), json!("null"));
        assert_eq!(meant(""), json!(""));
    }
}
