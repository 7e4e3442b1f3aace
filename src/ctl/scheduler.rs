//! A connection to the scheduler's leader, found from any one endpoint.

use std::time::Duration;

use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
use tonic::transport::{Channel, Endpoint};

use crate::exit::{Code, Failure, Outcome};

/// How long one member may take to answer before the next is tried.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// The leader's connection and what its members said.
pub(crate) struct Scheduler {
    pub(crate) leader: PdClient<Channel>,
    pub(crate) members: pdpb::GetMembersResponse,
}

impl Scheduler {
    /// Asks the endpoints in turn for the members, then connects to the leader.
    pub(crate) async fn connect(endpoints: &[String]) -> Outcome<Self> {
        let mut reasons = Vec::new();
        for endpoint in endpoints {
            match members_of(endpoint).await {
                Err(reason) => reasons.push(format!("{endpoint}: {reason}")),
                Ok(members) => match leader_of(&members).await {
                    Ok(leader) => return Ok(Self { leader, members }),
                    Err(reason) => reasons.push(format!("{endpoint}: {reason}")),
                },
            }
        }
        Err(Failure::new(Code::Unreachable, format!("no scheduler leader: {}", reasons.join("; "))))
    }

    /// The header that every request carries.
    pub(crate) fn header(&self) -> Option<pdpb::RequestHeader> {
        let cluster_id = self.members.header.as_ref().map_or(0, |header| header.cluster_id);
        Some(pdpb::RequestHeader { cluster_id, ..Default::default() })
    }
}

/// What a member says of all members; `host:port` with or without a scheme.
pub(crate) async fn members_of(endpoint: &str) -> Result<pdpb::GetMembersResponse, String> {
    let mut client = connect(endpoint).await?;
    let response = client
        .get_members(pdpb::GetMembersRequest::default())
        .await
        .map_err(|status| explain(&status))?;
    Ok(response.into_inner())
}

async fn leader_of(members: &pdpb::GetMembersResponse) -> Result<PdClient<Channel>, String> {
    let leader = members.leader.as_ref().ok_or("its members have no leader right now")?;
    let url = leader.client_urls.first().ok_or("the leader names no client URL")?;
    connect(url).await.map_err(|reason| format!("leader {} at {url}: {reason}", leader.name))
}

async fn connect(endpoint: &str) -> Result<PdClient<Channel>, String> {
    let url =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let channel = Endpoint::from_shared(url)
        .map_err(|error| format!("not an address: {error}"))?
        .connect_timeout(MEMBER_TIMEOUT)
        .timeout(MEMBER_TIMEOUT)
        .connect()
        .await
        .map_err(|error| root_cause(&error))?;
    Ok(PdClient::new(channel))
}

/// A failed call in words; a port that speaks something else is said to be so.
pub(crate) fn explain(status: &tonic::Status) -> String {
    if status.code() == tonic::Code::Unimplemented {
        return "this is not a scheduler's port (a store's, perhaps)".into();
    }
    format!("{} ({:?})", status.message(), status.code())
}

/// The innermost reason: "connection refused" rather than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Turns a failed call into the command's failure.
pub(crate) fn failure(what: &str, status: &tonic::Status) -> Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other status is a failure")]
    let code = match status.code() {
        tonic::Code::Unavailable => Code::Unreachable,
        tonic::Code::DeadlineExceeded => Code::Timeout,
        tonic::Code::FailedPrecondition => Code::Precondition,
        _ => Code::Failed,
    };
    Failure::new(code, format!("{what}: {}", explain(status)))
}

/// Turns an error in the answer's header into the command's failure.
pub(crate) fn check(what: &str, header: Option<&pdpb::ResponseHeader>) -> Outcome {
    match header.and_then(|header| header.error.as_ref()) {
        Some(error) if error.r#type() != pdpb::ErrorType::Ok => {
            Err(Failure::failed(format!("{what}: {}", error.message)))
        }
        _ => Ok(()),
    }
}
