//! gRPC that a client sends to one member and means for another.
//!
//! A client that cannot reach the leader may ask any member to pass its calls on: it names the leader's client
//! URL in the metadata [`FORWARDED_HOST`]. The call is relayed as it is, whether it is one question or a
//! stream of timestamps: headers, messages and trailers in both directions, on one connection to each host.
//! Only members are relayed to; a call for this member itself is served here.
//!
//! HTTP needs no such wish: see `crate::http`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Uri, Version};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::Status;

use super::node::Node;

/// Names the member that a call is for, by its client URL.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("pd-forwarded-host");
/// Calls that are relayed at once; more are refused, and the client tries another member.
const RELAYED_MAX: usize = 5_000;
/// How long the other member may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections to other members, and how much goes over them.
#[derive(Debug, Default)]
pub(super) struct Relay {
    connections: tokio::sync::Mutex<BTreeMap<String, SendRequest<Body>>>,
    relayed: Arc<AtomicUsize>,
}

impl Relay {
    /// A connection to the host: the one there is, or a new one.
    async fn connection(&self, authority: &str) -> Option<SendRequest<Body>> {
        let mut connections = self.connections.lock().await;
        connections.retain(|_, sender| !sender.is_closed());
        if let Some(sender) = connections.get(authority) {
            return Some(sender.clone());
        }
        let connecting = async {
            let stream = TcpStream::connect(authority).await.ok()?;
            stream.set_nodelay(true).ok()?;
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()
        };
        let (sender, connection) =
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.ok().flatten()?;
        // Ends by itself when the other side closes it, or nobody holds a sender any more.
        tokio::spawn(connection);
        connections.insert(authority.to_owned(), sender.clone());
        Some(sender)
    }

    async fn relay(&self, authority: &str, mut request: Request) -> Result<Response, Status> {
        let place = Place::take(&self.relayed)
            .ok_or_else(|| Status::resource_exhausted("too many calls are being passed on"))?;
        let unreachable = || Status::unavailable(format!("{authority} cannot be reached"));
        let mut sender = self.connection(authority).await.ok_or_else(unreachable)?;
        request.headers_mut().remove(FORWARDED_HOST);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{authority}{path}");
        *request.uri_mut() =
            uri.parse().map_err(|_| Status::invalid_argument(format!("{uri} is no address")))?;
        *request.version_mut() = Version::HTTP_2;
        let response = sender.send_request(request).await.map_err(|_| unreachable())?;
        Ok(response.map(|body| Body::new(Relayed { body, _place: place })))
    }
}

/// Passes the call on if it is for another member.
pub(super) async fn pass_on(
    State((node, relay)): State<(Arc<Node>, Arc<Relay>)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(host) = request.headers().get(FORWARDED_HOST) else { return next.run(request).await };
    let host = String::from_utf8_lossy(host.as_bytes()).trim_end_matches('/').to_owned();
    let is_at = |urls: &[String]| urls.iter().any(|url| url.trim_end_matches('/') == host);
    if host.is_empty() || is_at(&node.client_urls) {
        return next.run(request).await;
    }
    let is_member = node.members().iter().any(|member| is_at(&member.client_urls));
    let authority = host.parse::<Uri>().ok().and_then(|uri| Some(uri.authority()?.to_string()));
    let relayed = match authority.filter(|_| is_member) {
        Some(authority) => relay.relay(&authority, request).await,
        None => Err(Status::invalid_argument(format!("{host} is not the client URL of a member"))),
    };
    relayed.unwrap_or_else(Status::into_http)
}

/// A place among the calls that are relayed, until it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(relayed: &Arc<AtomicUsize>) -> Option<Self> {
        if relayed.fetch_add(1, Ordering::AcqRel) >= RELAYED_MAX {
            relayed.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(Arc::clone(relayed)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer on its way back; it has its place until it has been read or dropped.
#[derive(Debug)]
struct Relayed {
    body: Incoming,
    _place: Place,
}

impl HttpBody for Relayed {
    type Data = hyper::body::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
