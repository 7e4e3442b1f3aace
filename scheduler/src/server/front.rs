//! What every listener of a member has in common: sockets and HTTP/2 settings.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use futures_util::Stream;
use tonic::transport::Server;

use super::door::{self, Connection, Limits};
use crate::config::Listen;
use crate::error::StartError;

/// Bytes a stream may have in flight: enough that a large answer does not wait for the reader.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes a connection may have in flight over all its streams.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Streams on one connection; more wait in the client.
pub(crate) const STREAMS_MAX: u32 = 4_096;
/// Size of one message, in and out. PD has no limit and answers that list all regions are large;
/// this one is far beyond them, and only keeps a garbage length from reserving the whole memory.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 << 20;
/// Headers of one request; larger ones end the stream.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// A bound socket and the address it really has.
pub(crate) fn bind(
    listen: Listen,
    purpose: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let (listener, wanted) = match listen {
        Listen::Bound(listener) => (Ok(listener), "a bound socket".to_owned()),
        Listen::On(address) => (TcpListener::bind(address), address.to_string()),
    };
    let prepared = listener.and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    prepared.map_err(|source| StartError::Listen { purpose, address: wanted, source })
}

/// The connections of a bound socket. Must be called inside the runtime.
pub(super) fn incoming(
    listener: TcpListener,
) -> std::io::Result<impl Stream<Item = std::io::Result<Connection>>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(door::connections(listener, Limits::of_process()))
}

/// A server with our HTTP/2 settings. Pings of clients are answered however often they come: Go's
/// clients ping every ten seconds, also without streams.
pub(crate) fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}
