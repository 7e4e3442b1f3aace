//! Members over real sockets, in one process.

mod cluster;
mod group;
mod membership;
mod operators;
mod paths;
mod port;
mod rules;
mod schedulers;
mod watch;

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use proto::pdpb::pd_client::PdClient;
use proto::{Timestamp, metapb, pdpb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::{Config, Data, Listen, SchedulerNode};

/// For everything that must happen at last; never reached when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

fn any_port() -> Listen {
    Listen::On("127.0.0.1:0".parse().unwrap())
}

/// A member alone, on any ports.
fn alone(name: &str) -> Config {
    Config {
        name: name.into(),
        client_listen: any_port(),
        peer_listen: any_port(),
        ..Config::default()
    }
}

fn on_disk(path: &Path) -> Data {
    Data::Path(path.to_owned())
}

/// Configurations of members that found a cluster together.
fn founders(names: &[&str]) -> Vec<Config> {
    let sockets: Vec<_> = names.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let initial_cluster: Vec<_> = names
        .iter()
        .zip(&sockets)
        .map(|(name, socket)| {
            ((*name).to_owned(), format!("http://{}", socket.local_addr().unwrap()))
        })
        .collect();
    names
        .iter()
        .zip(sockets)
        .map(|(name, socket)| Config {
            peer_listen: Listen::Bound(socket),
            initial_cluster: initial_cluster.clone(),
            ..alone(name)
        })
        .collect()
}

async fn start(config: Config) -> SchedulerNode {
    SchedulerNode::start(config).await.unwrap()
}

async fn start_all(configs: Vec<Config>) -> Vec<SchedulerNode> {
    futures_util::future::join_all(configs.into_iter().map(start)).await
}

/// Waits until a condition holds, which some member's state decides.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        while !condition().await {
            interval.tick().await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("waited in vain for this: {what}");
    }
}

/// The member that serves, once there is one.
async fn leader(nodes: &[SchedulerNode]) -> &SchedulerNode {
    eventually("a leader", async || nodes.iter().any(SchedulerNode::is_leader)).await;
    // It may just have stopped again; then the caller's requests say so.
    nodes.iter().find(|node| node.is_leader()).unwrap_or(&nodes[0])
}

async fn pd(node: &SchedulerNode) -> PdClient<Channel> {
    let channel = super::links::connect(node.client_url()).await.unwrap();
    PdClient::new(channel)
}

fn header(node: &SchedulerNode) -> Option<pdpb::RequestHeader> {
    Some(pdpb::RequestHeader { cluster_id: node.cluster_id(), ..Default::default() })
}

/// A stream of timestamps.
struct Tso {
    requests: mpsc::Sender<pdpb::TsoRequest>,
    responses: Streaming<pdpb::TsoResponse>,
    header: Option<pdpb::RequestHeader>,
}

impl Tso {
    async fn open(node: &SchedulerNode) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(2_048);
        let responses = pd(node).await.tso(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses, header: header(node) })
    }

    async fn ask(&self, count: u32) {
        let request = pdpb::TsoRequest { header: self.header.clone(), count, ..Default::default() };
        self.requests.send(request).await.ok();
    }

    /// The largest timestamp of the next answer, and how many there are.
    async fn answer(&mut self) -> Result<(Timestamp, u32), Status> {
        let response = self.responses.message().await?;
        let response = response.ok_or_else(|| Status::cancelled("the stream has ended"))?;
        assert_eq!(response.header.unwrap().cluster_id, self.header.clone().unwrap().cluster_id);
        let timestamp = response.timestamp.unwrap();
        let timestamp = Timestamp::new(timestamp.physical as u64, timestamp.logical as u64);
        Ok((timestamp, response.count))
    }
}

/// One timestamp from whoever leads, trying until somebody does.
async fn timestamp(nodes: &[SchedulerNode]) -> Timestamp {
    let ask = async {
        loop {
            let node = leader(nodes).await;
            if let Ok(mut stream) = Tso::open(node).await {
                stream.ask(1).await;
                if let Ok((timestamp, _)) = stream.answer().await {
                    return timestamp;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.expect("somebody leads")
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("127.0.0.1:2016{id}"),
        version: "8.5.5".into(),
        ..Default::default()
    }
}

fn region(id: u64, start: &str, end: &str, version: u64, stores: &[u64]) -> metapb::Region {
    metapb::Region {
        id,
        start_key: start.to_owned().into(),
        end_key: end.to_owned().into(),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: stores.len() as u64, version }),
        peers: stores
            .iter()
            .map(|&store_id| metapb::Peer {
                id: id * 10 + store_id,
                store_id,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// Bootstraps with store 1 and region 2.
async fn bootstrap(node: &SchedulerNode) {
    let request = pdpb::BootstrapRequest {
        header: header(node),
        store: Some(store(1)),
        region: Some(region(2, "", "", 1, &[1])),
    };
    let response = pd(node).await.bootstrap(request).await.unwrap().into_inner();
    assert_eq!(response.header.unwrap().error, None);
}
