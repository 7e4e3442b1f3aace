//! What the scheduler is having regions do: listed, shown, waited for, given up.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Waiting;
use super::http::{Api, CallError};
use super::scheduler::Scheduler;
use super::schedulers::flags::OperatorAdd;
use crate::args::OperatorCommand;
use crate::exit::{Code, Failure, Outcome};
use crate::output::{Format, Report};

/// How long to wait before an operator is looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What the scheduler says when it has no such operator.
const NOT_FOUND: &str = "operator not found";

/// An operator, as the scheduler describes it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Operator {
    number: u64,
    desc: String,
    region_id: u64,
    kind: String,
    status: String,
    reason: Option<String>,
    created_at: String,
    finished_at: Option<String>,
    duration_ms: u64,
    steps: Vec<Step>,
    /// All that was said of it.
    #[serde(skip)]
    pub(crate) document: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Step {
    step: String,
    is_done: bool,
}

impl Operator {
    /// Reads the answer to a request with `object=true`.
    pub(crate) fn read(document: Value) -> Outcome<Self> {
        let operator = serde_json::from_value::<Self>(document.clone());
        let operator = operator.map_err(|error| {
            Failure::failed(format!(
                "the scheduler describes an operator as nobody knows it: {error}"
            ))
        })?;
        Ok(Self { document, ..operator })
    }

    fn done(&self) -> usize {
        self.steps.iter().filter(|step| step.is_done).count()
    }

    fn under_way(&self) -> Option<&str> {
        let step = self.steps.iter().find(|step| !step.is_done);
        step.filter(|_| self.finished_at.is_none()).map(|step| step.step.as_str())
    }

    /// "region 5: admin-move-peer"
    pub(crate) fn title(&self) -> String {
        format!("region {}: {}", self.region_id, self.desc)
    }

    /// How far it came.
    pub(crate) fn progress(&self) -> String {
        let far = format!("{} of {} steps done", self.done(), self.steps.len());
        match self.under_way() {
            Some(step) => format!("{far}, waiting for a heartbeat that shows: {step}"),
            None => far,
        }
    }

    /// What it did, and in which time.
    pub(crate) fn summary(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(|step| step.step.as_str()).collect();
        let seconds = self.duration_ms as f64 / 1_000.0;
        format!("{}: done in {seconds:.1} s: {}", self.title(), steps.join(", "))
    }

    /// One operator, field by field.
    pub(crate) fn report(&self) -> Report {
        let mut fields = vec![
            ("region", self.region_id.to_string()),
            ("operator", self.desc.clone()),
            ("kind", self.kind.clone()),
            ("status", self.status.to_lowercase()),
            ("created", self.created_at.clone()),
        ];
        fields.extend(self.finished_at.iter().map(|at| ("ended", at.clone())));
        fields.extend(self.reason.iter().map(|reason| ("reason", reason.clone())));
        fields.push(("seconds", seconds(self.duration_ms)));
        for (number, step) in self.steps.iter().enumerate() {
            let mark = match step.is_done {
                true => "done",
                false if self.under_way().is_some() && number == self.done() => "now",
                false => "to do",
            };
            fields.push(("step", format!("{} [{mark}]", step.step)));
        }
        Report::fields(fields, self.document.clone())
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
}

/// Runs one of the commands.
pub(crate) async fn run(endpoints: &[String], command: OperatorCommand, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    match command {
        OperatorCommand::List { kind } => {
            let kind = kind.map_or(String::new(), |kind| format!("&kind={kind}"));
            let path = format!("/pd/api/v1/operators?object=true{kind}");
            list(&api, &path, usize::MAX, format).await
        }
        OperatorCommand::Records { limit } => {
            list(&api, "/pd/api/v1/operators/records?object=true", limit, format).await
        }
        OperatorCommand::Add(add) => add_operator(&api, add, format).await,
        OperatorCommand::Show { region } => {
            show(&api, region, None).await?.report().print(format);
            Ok(())
        }
        OperatorCommand::Cancel { region } => {
            // Named by its number, it is found when another has begun in between.
            let under_way = show(&api, region, None).await.ok();
            let cancelled = api.delete(&path_of(region)).await;
            cancelled.map_err(|error| error.failure("cancel an operator"))?;
            let number = under_way.map(|operator| operator.number);
            show(&api, region, number).await?.report().print(format);
            eprintln!("region {region}: the operator is given up; what it has done stays done");
            Ok(())
        }
    }
}

/// Gives an instruction, and shows what the scheduler has made of it.
async fn add_operator(api: &Api, add: OperatorAdd, format: Format) -> Outcome {
    let instruction = add.instruction();
    let what = instruction["name"].as_str().unwrap_or("an order").to_owned();
    if let OperatorAdd::Scatter { region, .. } = add {
        // Regions are scattered by groups: the answer is no single operator.
        let created = api.post("/pd/api/v1/operators", &instruction).await;
        created.map_err(|error| error.failure(&what))?;
        return match show(api, region, None).await {
            Ok(operator) if operator.desc == "scatter-region" => {
                print_accepted(&operator, format);
                Ok(())
            }
            Ok(_) | Err(_) => {
                let fields = vec![("region", region.to_string()), ("accepted", "true".into())];
                let document = json!({ "region_id": region, "accepted": true });
                Report::fields(fields, document).print(format);
                eprintln!("region {region}: it lies as well as it can: there is nothing to do");
                Ok(())
            }
        };
    }
    let operator = instruct(api, &what, &instruction).await?;
    print_accepted(&operator, format);
    Ok(())
}

async fn list(api: &Api, path: &str, limit: usize, format: Format) -> Outcome {
    let listed = api.get(path).await;
    let listed = listed.map_err(|error| error.failure("list the operators"))?;
    let columns = ["REGION", "OPERATOR", "KIND", "STATUS", "SECONDS", "STEPS", "NOW"];
    let mut report = Report::list("operators", &columns);
    for document in listed.as_array().into_iter().flatten().take(limit) {
        let operator = Operator::read(document.clone())?;
        let cells = vec![
            operator.region_id.to_string(),
            operator.desc.clone(),
            operator.kind.clone(),
            operator.status.to_lowercase(),
            seconds(operator.duration_ms),
            format!("{}/{}", operator.done(), operator.steps.len()),
            operator.under_way().unwrap_or("").to_owned(),
        ];
        report.row("operators", cells, operator.document);
    }
    report.print(format);
    Ok(())
}

fn path_of(region: u64) -> String {
    format!("/pd/api/v1/operators/{region}")
}

async fn look(api: &Api, region: u64, number: Option<u64>) -> Result<Value, CallError> {
    let number = number.map_or(String::new(), |number| format!("&number={number}"));
    api.get(&format!("{}?object=true{number}", path_of(region))).await
}

/// The region's operator, or the last one; a failure when there was none lately.
async fn show(api: &Api, region: u64, number: Option<u64>) -> Outcome<Operator> {
    match look(api, region, number).await {
        Ok(document) => Operator::read(document),
        Err(refused) if refused.is(NOT_FOUND) => Err(Failure::failed(format!(
            "region {region}: no operator is under way, and none has ended within 10 minutes"
        ))),
        Err(error) => Err(error.failure("show an operator")),
    }
}

/// Gives the scheduler an instruction; the operator that it has made of it.
pub(crate) async fn instruct(api: &Api, what: &str, instruction: &Value) -> Outcome<Operator> {
    let created = api.post("/pd/api/v1/operators?object=true", instruction).await;
    Operator::read(created.map_err(|error| error.failure(what))?)
}

/// Waits until heartbeats have shown every step done, or it has ended otherwise: then the failure says
/// why and how far it came.
pub(crate) async fn until_done(
    endpoints: &[String],
    api: &mut Api,
    operator: Operator,
    hint: &str,
    waiting: &Waiting,
) -> Outcome<Operator> {
    let mut now = operator;
    loop {
        let region = now.region_id;
        waiting.says(format!(
            "{}: {}{hint}; it goes on by itself (`tessera ctl operator show {region}`)",
            now.title(),
            now.progress(),
        ));
        match look(api, region, Some(now.number)).await {
            Ok(document) => now = Operator::read(document)?,
            Err(refused @ CallError::Refused { .. }) if !refused.is(NOT_FOUND) => {
                return Err(refused.failure("look at an operator"));
            }
            Err(CallError::Refused { .. }) => {
                return Err(Failure::failed(format!(
                    "{}: the scheduler has a new leader, which knows nothing of it; {} when it was last \
                     seen: look at the region and try again",
                    now.title(),
                    now.progress()
                )));
            }
            // It may be choosing another leader.
            Err(CallError::Unreachable(_)) => {
                if let Ok(scheduler) = Scheduler::connect(endpoints).await {
                    *api = Api::of(&scheduler);
                }
            }
        }
        let ended = match now.status.as_str() {
            "RUNNING" => {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                continue;
            }
            "SUCCESS" => return Ok(now),
            "CANCEL" => "given up",
            "REPLACE" => "replaced by a more urgent operator",
            "EXPIRED" => "given up by the scheduler, which could tell nobody in time",
            "TIMEOUT" => "given up by the scheduler, which waited too long for a step",
            _ => "ended",
        };
        let reason = now.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
        let message = format!("{}: {ended}{reason}; {}", now.title(), now.progress());
        return Err(Failure::new(Code::Failed, message));
    }
}

/// Says that an operator goes on by itself, and shows it.
pub(crate) fn print_accepted(operator: &Operator, format: Format) {
    let report = operator.report().with("accepted", json!(true));
    report.print(format);
    eprintln!(
        "{}: accepted; it goes on by itself (`tessera ctl operator show {}`)",
        operator.title(),
        operator.region_id
    );
}
