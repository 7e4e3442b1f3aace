//! The scheduler's members: who they are, who leads, who shall.

use std::time::Duration;

use clap::Subcommand;
use proto::pdpb;
use serde_json::{Value, json};

use super::http::Api;
use super::scheduler::Scheduler;
use super::{Waiting, cluster};
use crate::exit::{Code, Failure, Outcome};
use crate::output::{Format, Report};

/// How long to wait before the members are looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The command line of `tessera ctl member`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// All members, and who leads
    List,
    /// Which members answer
    Health,
    /// Remove a member for good; the leader hands over first
    Delete {
        /// Its name, or its id
        member: String,
    },
    /// Who leads, and who shall
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// Say who should rather lead: a healthy member of a higher priority takes over
    Priority {
        /// Its name
        name: String,
        /// Its priority; without one it is 0
        #[arg(allow_negative_numbers = true)]
        priority: i32,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// The member that leads
    Show,
    /// Have any other member lead
    Resign,
    /// Have this member lead
    Transfer {
        /// Its name
        name: String,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(
    endpoints: &[String],
    command: MemberCommand,
    format: Format,
    waiting: &Waiting,
) -> Outcome {
    match command {
        MemberCommand::List => cluster::members(endpoints, format).await,
        MemberCommand::Health => health(endpoints, format).await,
        MemberCommand::Delete { member } => delete(endpoints, &member).await,
        MemberCommand::Leader(LeaderCommand::Show) => {
            let scheduler = Scheduler::connect(endpoints).await?;
            show(&scheduler.members.leader.unwrap_or_default(), format);
            Ok(())
        }
        MemberCommand::Leader(LeaderCommand::Resign) => {
            let path = "/pd/api/v1/leader/resign".to_owned();
            hand_over(endpoints, path, |before, now| now != before, format, waiting).await
        }
        MemberCommand::Leader(LeaderCommand::Transfer { name }) => {
            let path = format!("/pd/api/v1/leader/transfer/{}", encoded(&name));
            hand_over(endpoints, path, |_, now| now == name, format, waiting).await
        }
        MemberCommand::Priority { name, priority } => {
            let api = Api::of(&Scheduler::connect(endpoints).await?);
            let path = format!("/pd/api/v1/members/name/{}", encoded(&name));
            let set = api.post(&path, &json!({ "leader-priority": priority })).await;
            set.map_err(|error| error.failure(&format!("member {name}")))?;
            eprintln!("member {name}: its priority is {priority}");
            Ok(())
        }
    }
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| match byte {
            byte if is_plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn show(member: &pdpb::Member, format: Format) {
    let fields = vec![
        ("name", member.name.clone()),
        ("id", member.member_id.to_string()),
        ("client", member.client_urls.join(",")),
        ("peer", member.peer_urls.join(",")),
        ("priority", member.leader_priority.to_string()),
    ];
    let document = json!({
        "name": member.name,
        "member_id": member.member_id,
        "client_urls": member.client_urls,
        "peer_urls": member.peer_urls,
        "leader_priority": member.leader_priority,
    });
    Report::fields(fields, document).print(format);
}

async fn health(endpoints: &[String], format: Format) -> Outcome {
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    let said = api.get("/pd/api/v1/health").await;
    let said = said.map_err(|error| error.failure("ask for the members' health"))?;
    let mut report = Report::list("members", &["NAME", "ID", "HEALTH", "CLIENT"]);
    let mut silent = Vec::new();
    for member in said.as_array().into_iter().flatten() {
        let name = member["name"].as_str().unwrap_or_default().to_owned();
        let is_healthy = member["health"] == true;
        let urls = member["client_urls"].as_array().into_iter().flatten();
        let urls: Vec<_> = urls.filter_map(Value::as_str).collect();
        let cells = vec![
            name.clone(),
            member["member_id"].to_string(),
            if is_healthy { "up".into() } else { "down".into() },
            urls.join(","),
        ];
        report.row("members", cells, member.clone());
        if !is_healthy {
            silent.push(name);
        }
    }
    report.print(format);
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("members that do not answer: {}", silent.join(", "))))
    }
}

async fn delete(endpoints: &[String], member: &str) -> Outcome {
    let scheduler = Scheduler::connect(endpoints).await?;
    let known = scheduler.members.members.iter();
    let is_meant =
        |known: &&pdpb::Member| known.name == member || known.member_id.to_string() == member;
    let Some(known) = known.clone().find(is_meant) else {
        let names: Vec<_> = known.map(|member| member.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "there is no member {member}; there are {}",
            names.join(", ")
        )));
    };
    let leader = scheduler.members.leader.as_ref().map_or(0, |leader| leader.member_id);
    if known.member_id == leader {
        return Err(Failure::new(
            Code::Precondition,
            format!(
                "member {} leads: have another lead first (`tessera ctl member leader resign`)",
                known.name
            ),
        ));
    }
    let path = format!("/pd/api/v1/members/id/{}", known.member_id);
    let removed = Api::of(&scheduler).delete(&path).await;
    removed.map_err(|error| error.failure(&format!("remove member {}", known.name)))?;
    eprintln!("member {} is removed", known.name);
    Ok(())
}

/// Asks for another leader, and waits until it serves.
async fn hand_over(
    endpoints: &[String],
    path: String,
    is_done: impl Fn(&str, &str) -> bool,
    format: Format,
    waiting: &Waiting,
) -> Outcome {
    let scheduler = Scheduler::connect(endpoints).await?;
    let before = scheduler.members.leader.clone().unwrap_or_default().name;
    let asked = Api::of(&scheduler).post(&path, &Value::Null).await;
    asked.map_err(|error| error.failure("have another member lead"))?;
    waiting.says(format!("another member has not taken over from {before} yet"));
    loop {
        // In between there is no leader.
        if let Ok(scheduler) = Scheduler::connect(endpoints).await {
            let leader = scheduler.members.leader.unwrap_or_default();
            if is_done(&before, &leader.name) {
                show(&leader, format);
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_paths() {
        assert_eq!(encoded("pd-1.a_b"), "pd-1.a_b");
        assert_eq!(encoded("a b/c"), "a%20b%2Fc");
    }
}
