//! Connections: one per address, opened when first used, mended by the transport when they break.
//!
//! HTTP/2's default windows (64 KiB) would make a stream wait for the network's round trip every
//! 64 KiB; ours let a large answer through in one go.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::keyspacepb::keyspace_client::KeyspaceClient;
use proto::pdpb::pd_client::PdClient;
use proto::tikvpb::tikv_client::TikvClient;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// The largest message taken or given. A larger answer fails the call, as too large; page sizes and
/// batch sizes keep answers far below.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How much one answer may send before it waits for the reader.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// How much all answers on a connection may send before they wait for the reader.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// How long a connection may take to open; an address that does not answer is given up sooner than
/// the store's own timeout, because nothing was sent yet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an idle connection is checked, and how long the answer may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The open connections, by address.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Connections {
    /// The connection to this address (`host:port`, with or without `http://`).
    pub(crate) fn to(&self, address: &str) -> Result<Channel> {
        let address = host_and_port(address);
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::mistake(format!("address {address:?}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Drops the connection: its other end did not answer, and a new one may find it restarted.
    pub(crate) fn close(&self, address: &str) {
        self.channels.lock().remove(host_and_port(address));
    }
}

/// An address without its scheme: the scheduler names its members with one, its stores without.
pub(crate) fn host_and_port(address: &str) -> &str {
    let address = address.strip_prefix("http://").unwrap_or(address);
    address.trim_end_matches('/')
}

/// The store at the other end.
pub(crate) fn store(channel: Channel) -> TikvClient<Channel> {
    TikvClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The scheduler's member at the other end.
pub(crate) fn scheduler(channel: Channel) -> PdClient<Channel> {
    PdClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The scheduler's member at the other end, asked about keyspaces.
pub(crate) fn keyspaces(channel: Channel) -> KeyspaceClient<Channel> {
    KeyspaceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_and_without_a_scheme() {
        assert_eq!(host_and_port("http://127.0.0.1:2379/"), "127.0.0.1:2379");
        assert_eq!(host_and_port("pd1:2379"), "pd1:2379");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_a_mistake() {
        assert!(Connections::default().to("not an address").is_err());
    }
}
