//! Calls of PD's HTTP API, which is served on the scheduler's port.

use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::scheduler::Scheduler;
use crate::exit::{Code, Failure};

/// How long a member may take to answer; then it counts as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// Bytes of an answer; a larger one is not read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The scheduler's HTTP API, on any of its members: those that do not lead pass requests on.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// The leader's first.
    urls: Vec<String>,
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Nobody answered, or nobody leads. It may have been done all the same.
    Unreachable(String),
    /// The scheduler did not do it, and says why.
    Refused {
        /// The HTTP status.
        status: u16,
        /// In words.
        why: String,
    },
}

impl CallError {
    /// Whether it was refused with these words.
    pub(crate) fn is(&self, words: &str) -> bool {
        matches!(self, Self::Refused { why, .. } if why == words)
    }

    /// Turns it into the command's failure.
    pub(crate) fn failure(self, what: &str) -> Failure {
        match self {
            Self::Unreachable(why) => Failure::new(Code::Unreachable, format!("{what}: {why}")),
            Self::Refused { status, why } => {
                let code = match status {
                    // As in PD: refused in this state.
                    500 => Code::Precondition,
                    504 => Code::Timeout,
                    _ => Code::Failed,
                };
                Failure::new(code, format!("{what}: {why}"))
            }
        }
    }
}

impl Api {
    /// The API of a scheduler that was found.
    pub(crate) fn of(scheduler: &Scheduler) -> Self {
        let leader = scheduler.members.leader.iter();
        let members = leader.chain(&scheduler.members.members);
        let mut urls: Vec<String> = Vec::new();
        for url in members.filter_map(|member| member.client_urls.first()) {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        Self { urls }
    }

    /// Reads; every member is tried.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CallError> {
        let mut last = CallError::Unreachable("it names no member with a client URL".into());
        for url in &self.urls {
            match exchange(url, Method::GET, path, String::new()).await {
                Err(unreachable @ CallError::Unreachable(_)) => last = unreachable,
                answered => return answered,
            }
        }
        Err(last)
    }

    /// Changes something; asked once.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.once(Method::POST, path, body.to_string()).await
    }

    /// Removes something; asked once.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.once(Method::DELETE, path, String::new()).await
    }

    async fn once(&self, method: Method, path: &str, body: String) -> Result<Value, CallError> {
        match self.urls.first() {
            Some(url) => exchange(url, method, path, body).await,
            None => Err(CallError::Unreachable("the leader names no client URL".into())),
        }
    }
}

async fn exchange(url: &str, method: Method, path: &str, body: String) -> Result<Value, CallError> {
    let unreachable = |why: String| CallError::Unreachable(format!("{url}: {why}"));
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, send(url, method, path, body)).await;
    let (status, bytes) = match answer {
        Ok(answer) => answer.map_err(unreachable)?,
        Err(_) => return Err(unreachable(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()))),
    };
    let value = serde_json::from_slice::<Value>(&bytes);
    if status == 200 {
        return value
            .map_err(|_| unreachable("the answer is no JSON: is this a scheduler?".into()));
    }
    let why = match value {
        Ok(Value::String(why)) => why,
        _ => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    if status == 503 {
        return Err(unreachable(why));
    }
    Err(CallError::Refused { status, why })
}

/// The status and the body of the answer.
async fn send(
    url: &str,
    method: Method,
    path: &str,
    body: String,
) -> Result<(u16, Vec<u8>), String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let authority = uri.authority().ok_or("a URL without a host")?.as_str();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends by itself when the answer has been read or dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    Ok((status, read(response.into_body()).await?))
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer has more than {ANSWER_BYTES_MAX} bytes"));
        }
    }
    Ok(bytes)
}
