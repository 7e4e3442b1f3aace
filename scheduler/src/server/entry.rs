//! Asking other members, before this one runs: to be let in, and whether its data is theirs.

use std::time::Duration;

use proto::pdpb::pd_client::PdClient;
use proto::pdpb::{GetMembersRequest, GetMembersResponse};
use proto::schedulerpb::{DescribeRequest, DescribeResponse, JoinRequest, JoinResponse, Member};
use tonic::{Code, Status};

use super::links;

/// How long one member may take to answer before the next one is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long to wait for members that may not have started themselves.
const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait before everybody is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Asks until some leader lets this member in, or says why not.
pub(super) async fn ask_to_join(
    client_urls: &[String],
    member: &Member,
    timeout: Duration,
) -> Result<JoinResponse, String> {
    let mut problem = String::from("nobody was asked");
    let ask = async {
        loop {
            for url in client_urls {
                match join_through(url, member).await {
                    Ok(response) if response.error.is_empty() => return Ok(response),
                    Ok(response) => return Err(response.error),
                    Err(status) => problem = format!("{url}: {}", status.message()),
                }
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    };
    match tokio::time::timeout(timeout, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no leader answered within {timeout:?}; {problem}")),
    }
}

async fn join_through(client_url: &str, member: &Member) -> Result<JoinResponse, Status> {
    let members = members_at(client_url).await?;
    let mut last = Status::unavailable("the cluster has no leader");
    for url in members.leader.iter().flat_map(|leader| &leader.peer_urls) {
        let attempt = async {
            let channel = links::connect(url).await.map_err(unreachable)?;
            let request = JoinRequest { member: Some(member.clone()) };
            links::client(channel).join(request).await
        };
        match within(ANSWER_TIMEOUT, attempt).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => last = status,
        }
    }
    Err(last)
}

async fn members_at(client_url: &str) -> Result<GetMembersResponse, Status> {
    let attempt = async {
        let channel = links::connect(client_url).await.map_err(unreachable)?;
        let response = PdClient::new(channel).get_members(GetMembersRequest::default()).await?;
        Ok(response.into_inner())
    };
    within(ANSWER_TIMEOUT, attempt).await
}

/// What the member at this peer URL says of its cluster; `None` when nobody answers there.
pub(super) async fn describe(peer_url: &str) -> Option<DescribeResponse> {
    let attempt = async {
        let channel = links::connect(peer_url).await.map_err(unreachable)?;
        links::client(channel).describe(DescribeRequest {}).await
    };
    Some(within(DESCRIBE_TIMEOUT, attempt).await.ok()?.into_inner())
}

async fn within<T>(
    timeout: Duration,
    attempt: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(timeout, attempt)
        .await
        .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no answer in time")))
}

fn unreachable(error: tonic::transport::Error) -> Status {
    Status::unavailable(format!("cannot connect: {error}"))
}
