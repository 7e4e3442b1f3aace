//! A client for the cluster's own API version, found by asking.
//!
//! Stores refuse requests of another API version in words and do nothing, so a read of one key
//! tells which version a cluster runs. A keyspace can only be meant under version 2.

use client::{ApiVersion, Client, Config, Error, ErrorKind};

use crate::args::KeyspaceFlags;
use crate::exit::{Code, Failure, Outcome};

/// Read to learn the version; it does not matter whether it exists.
const ANY_KEY: &str = "tessera";

/// Connects under the version the cluster runs.
pub(crate) async fn connect(endpoints: &[String], flags: &KeyspaceFlags) -> Outcome<Client> {
    find(endpoints, flags).await.map(|(client, _)| client)
}

/// The same, and which version it is.
pub(crate) async fn find(
    endpoints: &[String],
    flags: &KeyspaceFlags,
) -> Outcome<(Client, ApiVersion)> {
    if let Some(keyspace) = &flags.keyspace {
        let config =
            Config { api_version: ApiVersion::V2, keyspace: keyspace.clone(), ..Config::default() };
        return open(endpoints, config).await.map(|client| (client, ApiVersion::V2));
    }
    let mut refusal = None;
    for api_version in [ApiVersion::V1, ApiVersion::V2, ApiVersion::V1Ttl] {
        let client = open(endpoints, Config { api_version, ..Config::default() }).await?;
        match client.raw().get(ANY_KEY).await {
            Ok(_) => return Ok((client, api_version)),
            Err(error) if *error.kind() == ErrorKind::Rejected => {
                refusal.get_or_insert(error);
            }
            Err(error) => return Err(failure(&error)),
        }
    }
    let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
    Err(Failure::failed(format!("the stores accept no API version: {refusal}")))
}

async fn open(endpoints: &[String], config: Config) -> Outcome<Client> {
    Client::connect_with(endpoints.iter().cloned(), config).await.map_err(|error| {
        if *error.kind() == ErrorKind::Timeout {
            Failure::new(Code::Unreachable, error)
        } else {
            failure(&error)
        }
    })
}

/// What a failed call tells the shell.
pub(crate) fn failure(error: &Error) -> Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "kinds of failure may be added")]
    let code = match error.kind() {
        ErrorKind::Mistake => Code::Usage,
        ErrorKind::Timeout => Code::Timeout,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}
