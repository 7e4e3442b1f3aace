//! Passing a request on to the leader, so that any member's port answers.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Marks a request that was passed on once, as PD does; it is never passed on again.
pub(super) const PASSED_ON: HeaderName = HeaderName::from_static("pd-redirector");

/// How long the leader may take to answer; then the caller is told that there is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a follower to answer by itself what it can: it is not passed on.
pub(super) const ANSWER_YOURSELF: HeaderName = HeaderName::from_static("pd-allow-follower-handle");

/// The leader's answer to the request; `leader` is its client URL. `None` when it gives none in
/// time.
pub(super) async fn forward(leader: &str, mut request: Request) -> Option<Response> {
    request.headers_mut().insert(PASSED_ON, HeaderValue::from_static("tessera"));
    tokio::time::timeout(ANSWER_TIMEOUT, send(leader, request)).await.ok().flatten()
}

/// What is at this path of a member; `url` is its client URL.
pub(super) async fn get(url: &str, path: &str) -> Option<Response> {
    send(url, Request::get(path).body(Body::empty()).ok()?).await
}

async fn send(url: &str, mut request: Request) -> Option<Response> {
    let url: Uri = url.parse().ok()?;
    let authority = url.authority()?.clone();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().ok()?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).ok()?);
    let stream = TcpStream::connect(authority.as_str()).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends by itself when the answer's body has been read or dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.ok()?;
    Some(response.map(Body::new))
}
