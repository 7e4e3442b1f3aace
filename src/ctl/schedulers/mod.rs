//! The schedulers: listed, added, removed, paused, configured.

pub(crate) mod flags;
pub(crate) mod hot;

use serde_json::{Value, json};

use super::http::Api;
use super::scheduler::Scheduler;
use crate::exit::{Failure, Outcome};
use crate::output::{Format, Report};
use flags::{AddFlags, SchedulerCommand, object};

const SCHEDULERS: &str = "/pd/api/v1/schedulers";
const CONFIGS: &str = "/pd/api/v1/scheduler-config";

/// What tools call schedulers; people leave it out.
const SUFFIX: &str = "-scheduler";

/// Runs one of the commands.
pub(crate) async fn run(
    endpoints: &[String],
    command: SchedulerCommand,
    format: Format,
) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    match command {
        SchedulerCommand::List => list(&api, format).await,
        SchedulerCommand::Add(flags) => {
            let name = full_name(&flags.name);
            let body = added(&name, flags);
            let created = api.post(SCHEDULERS, &body).await;
            created.map_err(|error| error.failure(&format!("add {name}")))?;
            eprintln!("{name}: added");
            list(&api, format).await
        }
        SchedulerCommand::Remove { name } => {
            let removed = api.delete(&format!("{SCHEDULERS}/{name}")).await;
            removed.map_err(|error| error.failure(&format!("remove {name}")))?;
            eprintln!("{name}: removed");
            list(&api, format).await
        }
        SchedulerCommand::Pause { name, seconds } => {
            pause(&api, &name, seconds).await?;
            eprintln!("{name}: pauses for {seconds} s");
            list(&api, format).await
        }
        SchedulerCommand::Resume { name } => {
            pause(&api, &name, 0).await?;
            eprintln!("{name}: may act again");
            list(&api, format).await
        }
        SchedulerCommand::Config { name, changes } => {
            let name = full_name(&name);
            if !changes.is_empty() {
                let path = format!("{CONFIGS}/{name}/config");
                let changed = api.post(&path, &Value::Object(object(changes))).await;
                changed.map_err(|error| error.failure(&format!("configure {name}")))?;
            }
            config(&api, &name, format).await
        }
    }
}

/// `evict-leader` is called `evict-leader-scheduler`; `all` is all.
fn full_name(name: &str) -> String {
    match name {
        "all" => name.to_owned(),
        name if name.ends_with(SUFFIX) => name.to_owned(),
        name => format!("{name}{SUFFIX}"),
    }
}

fn added(name: &str, flags: AddFlags) -> Value {
    let mut body = object(flags.with);
    body.insert("name".into(), json!(name));
    if let Some(store) = flags.store {
        body.insert("store_id".into(), json!(store));
    }
    Value::Object(body)
}

async fn pause(api: &Api, name: &str, seconds: u64) -> Outcome {
    let name = full_name(name);
    let paused = api.post(&format!("{SCHEDULERS}/{name}"), &json!({ "delay": seconds })).await;
    paused.map(|_| ()).map_err(|error| {
        // Refused as if in this state, but there is none to have one.
        let is_unknown = error.is("scheduler not found");
        let failure = error.failure(&format!("pause {name}"));
        if is_unknown { Failure::failed(failure.message) } else { failure }
    })
}

async fn list(api: &Api, format: Format) -> Outcome {
    let what = "list the schedulers";
    let names = api.get(SCHEDULERS).await.map_err(|error| error.failure(what))?;
    let paused = api.get(&format!("{SCHEDULERS}?status=paused&timestamp=true")).await;
    let paused = paused.map_err(|error| error.failure(what))?;
    let configs = api.get(CONFIGS).await.map_err(|error| error.failure(what))?;
    let mut report = Report::list("schedulers", &["SCHEDULER", "STATE", "TOLD"]);
    for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let pauses = paused.as_array().into_iter().flatten().find(|entry| entry["name"] == name);
        let until = pauses.and_then(|entry| entry["resume_at"].as_str());
        let state = until.map_or("runs".to_owned(), |until| format!("pauses until {until}"));
        let told = &configs[name];
        let is_silent = told.as_object().is_none_or(serde_json::Map::is_empty);
        let shown = if is_silent { String::new() } else { told.to_string() };
        let item = json!({ "name": name, "paused_until": until, "config": told });
        report.row("schedulers", vec![name.to_owned(), state, shown], item);
    }
    report.print(format);
    Ok(())
}

async fn config(api: &Api, name: &str, format: Format) -> Outcome {
    let found = api.get(&format!("{CONFIGS}/{name}/list")).await;
    let found = found.map_err(|error| error.failure(&format!("show {name}")))?;
    let mut fields = vec![("scheduler", name.to_owned())];
    for (key, value) in found.as_object().into_iter().flatten() {
        fields.push(("told", format!("{key}={value}")));
    }
    Report::fields(fields, json!({ "name": name, "config": found })).print(format);
    Ok(())
}
