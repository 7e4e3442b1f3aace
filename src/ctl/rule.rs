//! Placement rules: shown, written, removed.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::http::{Api, CallError};
use super::scheduler::Scheduler;
use crate::exit::{Code, Failure, Outcome};
use crate::keys::{self, Bound};
use crate::output::{Format, Report};

/// The command line of `tessera ctl rule`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// All rules, or those of a group, a region or a key
    Show(Which),
    /// Write rules from a file in JSON: one rule or a list of them; others stay
    Save {
        /// The file; - is the standard input
        file: PathBuf,
    },
    /// Remove a rule
    Delete {
        /// Its group
        group: String,
        /// Its id
        id: String,
    },
    /// Groups of rules
    #[command(subcommand)]
    Group(GroupCommand),
}

/// Which rules.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Which {
    /// Those of this group
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Those that a region has to obey
    #[arg(long, value_name = "ID")]
    pub(crate) region: Option<u64>,
    /// Those of a key, in the form that regions are cut in
    #[arg(long, value_parser = keys::parse_bound)]
    pub(crate) key: Option<Bound>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// All groups
    Show,
    /// Say where a group stands among the others, and whether it does away with those before it
    Set {
        /// Its name
        id: String,
        /// Lower ones come first
        #[arg(allow_negative_numbers = true)]
        index: i64,
        /// It does away with the groups before it
        #[arg(long = "override")]
        overrides: bool,
    },
    /// Remove a group with its rules
    Delete {
        /// Its name
        id: String,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(endpoints: &[String], command: RuleCommand, format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    match command {
        RuleCommand::Show(which) => show(&api, which, format).await,
        RuleCommand::Save { file } => {
            let rules = read(&file)?;
            let count = rules.len();
            let operations: Vec<_> = rules
                .into_iter()
                .map(|mut rule| {
                    rule["action"] = json!("add");
                    rule
                })
                .collect();
            let path = "/pd/api/v1/config/rules/batch";
            done(api.post(path, &Value::Array(operations)).await)?;
            eprintln!("{count} rules are written");
            Ok(())
        }
        RuleCommand::Delete { group, id } => {
            let operations = json!([{ "action": "del", "group_id": group, "id": id }]);
            let path = format!("/pd/api/v1/config/rule/{group}/{id}");
            api.get(&path).await.map_err(|error| error.failure(&format!("rule {group}/{id}")))?;
            done(api.post("/pd/api/v1/config/rules/batch", &operations).await)?;
            eprintln!("rule {group}/{id} is removed");
            Ok(())
        }
        RuleCommand::Group(command) => groups(&api, command, format).await,
    }
}

/// What is refused is a mistake in what was written; that rules are switched off is not.
fn done(answer: Result<Value, CallError>) -> Outcome {
    match answer {
        Ok(_) => Ok(()),
        Err(CallError::Refused { status: 400, why }) => Err(Failure::usage(why)),
        Err(CallError::Refused { status: 412, why }) => Err(Failure::new(Code::Precondition, why)),
        Err(error) => Err(error.failure("placement rules")),
    }
}

/// The rules in a file: a list, or one alone.
fn read(file: &PathBuf) -> Outcome<Vec<Value>> {
    let shown = file.display();
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| Failure::usage(format!("read {shown}: {error}")))?;
    let written = serde_json::from_str(&text);
    let written = written.map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let rules = if let Value::Array(rules) = written { rules } else { vec![written] };
    match rules.iter().position(|rule| !rule.is_object()) {
        None => Ok(rules),
        Some(at) => Err(Failure::usage(format!("{shown}: item {at} is not a rule"))),
    }
}

async fn show(api: &Api, which: Which, format: Format) -> Outcome {
    let path = match which {
        Which { group: Some(group), .. } => format!("/pd/api/v1/config/rules/group/{group}"),
        Which { region: Some(region), .. } => format!("/pd/api/v1/config/rules/region/{region}"),
        Which { key: Some(Bound { bytes, .. }), .. } => {
            format!("/pd/api/v1/config/rules/key/{}", keys::hex(&bytes))
        }
        Which { .. } => "/pd/api/v1/config/rules".to_owned(),
    };
    let rules = match api.get(&path).await {
        Err(CallError::Refused { status: 412, why }) => {
            return Err(Failure::new(Code::Precondition, why));
        }
        rules => rules.map_err(|error| error.failure("placement rules"))?,
    };
    let header = ["GROUP", "ID", "ROLE", "COUNT", "START", "END", "LABELS", "APART BY"];
    let mut report = Report::list("rules", &header);
    for rule in rules.as_array().into_iter().flatten() {
        let bound = |name: &str, open: &str| {
            let bytes = keys::unhex(rule[name].as_str().unwrap_or_default()).unwrap_or_default();
            keys::show_bound(&bytes, open)
        };
        let cells = vec![
            text(&rule["group_id"]),
            text(&rule["id"]),
            text(&rule["role"]),
            rule["count"].to_string(),
            bound("start_key", "-inf"),
            bound("end_key", "+inf"),
            constraints(rule),
            apart_by(rule),
        ];
        report.row("rules", cells, rule.clone());
    }
    report.print(format);
    Ok(())
}

fn constraints(rule: &Value) -> String {
    let all = rule["label_constraints"].as_array().into_iter().flatten();
    let shown = all.map(|constraint| {
        let values = constraint["values"].as_array().into_iter().flatten();
        let values: Vec<_> = values.map(text).collect();
        format!("{} {} {}", text(&constraint["key"]), text(&constraint["op"]), values.join(","))
            .trim_end()
            .to_owned()
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn apart_by(rule: &Value) -> String {
    let labels = rule["location_labels"].as_array().into_iter().flatten();
    let labels: Vec<_> = labels.map(text).collect();
    match rule["isolation_level"].as_str() {
        None | Some("") => labels.join(","),
        Some(level) => format!("{} (never the same {level})", labels.join(",")),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn groups(api: &Api, command: GroupCommand, format: Format) -> Outcome {
    match command {
        GroupCommand::Show => {
            let groups = api.get("/pd/api/v1/config/rule_groups").await;
            let groups = groups.map_err(|error| error.failure("groups of placement rules"))?;
            let mut report = Report::list("groups", &["GROUP", "INDEX", "OVERRIDES"]);
            for group in groups.as_array().into_iter().flatten() {
                let cells = vec![
                    text(&group["id"]),
                    group["index"].as_i64().unwrap_or_default().to_string(),
                    if group["override"] == true { "yes".into() } else { "no".into() },
                ];
                report.row("groups", cells, group.clone());
            }
            report.print(format);
            Ok(())
        }
        GroupCommand::Set { id, index, overrides } => {
            let group = json!({ "id": id, "index": index, "override": overrides });
            done(api.post("/pd/api/v1/config/rule_group", &group).await)?;
            eprintln!("group {id} is written");
            Ok(())
        }
        GroupCommand::Delete { id } => {
            done(api.delete(&format!("/pd/api/v1/config/placement-rule/{id}")).await)?;
            eprintln!("group {id} and its rules are removed");
            Ok(())
        }
    }
}
