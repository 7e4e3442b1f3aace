//! etcd, called through the few fields of its API that a put and a get need.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use super::raw::{CONNECTIONS, key_bytes};
use super::run::Target;
use crate::exit::{Failure, Outcome};

pub(crate) struct Etcd {
    connections: Vec<KvClient<Channel>>,
    next: AtomicUsize,
    value: Bytes,
}

impl Etcd {
    /// Connects to the members in turn.
    pub(crate) async fn connect(urls: &[String], value: Bytes) -> Outcome<Self> {
        let mut connections = Vec::new();
        for number in 0..CONNECTIONS.max(urls.len()) {
            let url = urls[number % urls.len()].clone();
            let channel = Endpoint::from_shared(url.clone())
                .map_err(Failure::usage)?
                .tcp_nodelay(true)
                .connect()
                .await
                .map_err(|error| Failure::failed(format!("connect to etcd at {url}: {error}")))?;
            connections.push(KvClient::new(channel));
        }
        Ok(Self { connections, next: AtomicUsize::new(0), value })
    }

    fn connection(&self) -> KvClient<Channel> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections[number % self.connections.len()].clone()
    }
}

impl Target for Etcd {
    async fn put(&self, key: u64) -> Result<(), String> {
        let request =
            PutRequest { key: key_bytes(key), value: self.value.clone(), ..Default::default() };
        self.connection().put(request).await.map(drop).map_err(|status| status.to_string())
    }

    async fn get(&self, key: u64) -> Result<(), String> {
        let request = RangeRequest { key: key_bytes(key), ..Default::default() };
        self.connection().range(request).await.map(drop).map_err(|status| status.to_string())
    }
}
