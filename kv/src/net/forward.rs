//! gRPC that a client sends to one store and means for another.
//!
//! A client that cannot reach a store, while other stores can, sends its calls to one of those: it names the
//! store it means in the metadata [`FORWARDED_HOST`], by its `host:port`. The call goes on as it is, one question
//! or a stream of batches: headers, messages and trailers in both directions, over one connection to each store.
//! The name does not go on with it, so no call goes in circles.
//!
//! A store that cannot be reached is told of with CANCELLED, as by TiKV.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::transport::Channel;

use super::outbound::endpoint_of;

/// Names the store that a call is for, by its address.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("tikv-forwarded-host");

/// Stores that calls are forwarded to at once. At the limit the connection that was not used for the longest
/// time is forgotten: what is under way on it goes on.
const CHANNELS_MAX: usize = 64;

/// A connection that nobody used for so long is forgotten when the next call is forwarded.
const IDLE_MAX: Duration = Duration::from_secs(60);

struct Kept {
    channel: Channel,
    used: Instant,
}

/// Connections to the stores that calls are forwarded to.
pub(crate) struct Forward {
    /// The address under which others know this store: a call for it is served here.
    own: String,
    channels: Mutex<BTreeMap<String, Kept>>,
}

impl Forward {
    pub(crate) fn new(own: String) -> Self {
        Self { own, channels: Mutex::default() }
    }

    /// The connection to a store: the one there is, or one that is made with its first call, and made again
    /// when it breaks.
    fn channel(&self, address: &str, now: Instant) -> Result<Channel, String> {
        let mut channels = self.channels.lock();
        channels.retain(|_, kept| now.duration_since(kept.used) < IDLE_MAX);
        if let Some(kept) = channels.get_mut(address) {
            kept.used = now;
            return Ok(kept.channel.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            let oldest = channels.iter().min_by_key(|(_, kept)| kept.used);
            let oldest = oldest.map(|(address, _)| address.clone()).unwrap_or_default();
            channels.remove(&oldest);
        }
        let channel = endpoint_of(address)?.connect_lazy();
        channels.insert(address.to_owned(), Kept { channel: channel.clone(), used: now });
        Ok(channel)
    }

    async fn forward(
        &self,
        address: &HeaderValue,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let cancelled = |why: &dyn std::fmt::Display| {
            Status::cancelled(format!("{address:?} cannot be reached: {why}"))
        };
        let host = address.to_str().map_err(|error| cancelled(&error))?;
        let mut channel = self.channel(host, Instant::now()).map_err(|error| cancelled(&error))?;
        let ready = std::future::poll_fn(|cx| channel.poll_ready(cx)).await;
        ready.map_err(|error| cancelled(&error))?;
        channel.call(request).await.map_err(|error| cancelled(&error))
    }
}

/// A service some of whose calls are meant for other stores.
#[derive(Clone)]
pub(crate) struct Forwarding<S> {
    served: S,
    forward: Arc<Forward>,
}

impl<S> Forwarding<S> {
    pub(crate) fn new(served: S, forward: Arc<Forward>) -> Self {
        Self { served, forward }
    }
}

impl<S: NamedService> NamedService for Forwarding<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = BoxFuture<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Forwarding<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.served.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering {
        let Some(address) = request.headers_mut().remove(FORWARDED_HOST) else {
            return self.served.call(request);
        };
        if address.is_empty() || address.as_bytes() == self.forward.own.as_bytes() {
            return self.served.call(request);
        }
        let forward = self.forward.clone();
        Box::pin(async move {
            Ok(forward.forward(&address, request).await.unwrap_or_else(Status::into_http))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Code;
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::health_server::HealthServer;
    use tonic_health::server::{HealthReporter, HealthService};

    use super::super::outbound::channel_to;
    use super::*;

    /// A store that only says whether it serves, and passes on what is for others.
    async fn store(is_serving: bool) -> (SocketAddr, HealthReporter) {
        let health = HealthReporter::new();
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
        let service = HealthServer::new(HealthService::from_health_reporter(health.clone()));
        let forwarding = Forwarding::new(service, Arc::new(Forward::new(String::new())));
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = door.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(forwarding);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(door)));
        (address, health)
    }

    fn meant_for(address: Option<SocketAddr>) -> tonic::Request<HealthCheckRequest> {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if let Some(address) = address {
            let address = address.to_string().parse().unwrap();
            request.metadata_mut().insert("tikv-forwarded-host", address);
        }
        request
    }

    #[tokio::test]
    async fn a_call_for_another_store_is_answered_by_that_one() {
        let (near, _near_health) = store(false).await;
        let (far, far_health) = store(true).await;
        let mut client = HealthClient::new(channel_to(&near.to_string()).await.unwrap());
        let mut said =
            async |meant| client.check(meant_for(meant)).await.unwrap().into_inner().status();
        use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
        assert_eq!(said(None).await, NotServing);
        assert_eq!(said(Some(far)).await, Serving);
        // Its own store passes it on no further.
        assert_eq!(said(Some(near)).await, NotServing);
        // Streams too, message by message.
        let mut watching = client.watch(meant_for(Some(far))).await.unwrap().into_inner();
        assert_eq!(watching.message().await.unwrap().unwrap().status(), Serving);
        far_health.set_service_status("", ServingStatus::NotServing).await;
        assert_eq!(watching.message().await.unwrap().unwrap().status(), NotServing);
    }

    #[tokio::test]
    async fn a_store_that_nobody_reaches_is_cancelled() {
        let (near, _health) = store(true).await;
        // Taken, and not listened on: nobody answers there.
        let nobody = tokio::net::TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut client = HealthClient::new(channel_to(&near.to_string()).await.unwrap());
        let far = nobody.local_addr().unwrap();
        let refused = client.check(meant_for(Some(far))).await.unwrap_err();
        assert_eq!(refused.code(), Code::Cancelled, "{refused}");
        let mut request = meant_for(None);
        request.metadata_mut().insert("tikv-forwarded-host", "no address".parse().unwrap());
        assert_eq!(client.check(request).await.unwrap_err().code(), Code::Cancelled);
        // Once somebody is there, the same connection serves.
        let door = nobody.listen(16).unwrap();
        let health = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(health));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(door)));
        client.check(meant_for(Some(far))).await.unwrap();
    }

    #[tokio::test]
    async fn connections_are_bounded_and_idle_ones_go() {
        let forward = Forward::new(String::new());
        let begun = Instant::now();
        for number in 0..=CHANNELS_MAX as u64 {
            let now = begun + Duration::from_millis(number);
            forward.channel(&format!("127.0.0.1:{}", 1 + number), now).unwrap();
        }
        let kept: Vec<String> = forward.channels.lock().keys().cloned().collect();
        assert_eq!(kept.len(), CHANNELS_MAX);
        assert!(!kept.contains(&"127.0.0.1:1".to_owned()), "the oldest has gone");
        forward.channel("127.0.0.1:9", begun + IDLE_MAX + Duration::from_millis(9)).unwrap();
        assert!(forward.channels.lock().len() < CHANNELS_MAX);
        forward.channel("127.0.0.1:9", begun + 3 * IDLE_MAX).unwrap();
        assert_eq!(forward.channels.lock().len(), 1);
    }
}
