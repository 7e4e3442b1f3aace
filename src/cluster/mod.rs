//! [`Cluster`]: stores and scheduler members in this process, on real sockets.
//!
//! Starting binds every socket first, so that each part can be told the addresses of all others,
//! then starts the members, then the stores, then waits until every region has its replicas.

pub mod layout;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kv::{ApiVersion, StoreNode};
use scheduler::SchedulerNode;

use crate::readiness;
use layout::{Layout, LayoutError};

/// How long a start may take before it fails and says what it waited for.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a cluster did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory's layout does not fit, or cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A port is taken, or the address is not this machine's.
    #[error("listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's words.
        cause: std::io::Error,
    },
    /// A scheduler member did not start.
    #[error("start scheduler member {name}: {cause}")]
    Scheduler {
        /// Which one.
        name: String,
        /// Why.
        cause: scheduler::StartError,
    },
    /// A store did not start.
    #[error("start store {number}: {cause}")]
    Store {
        /// Counted from 1.
        number: usize,
        /// Why.
        cause: kv::StartError,
    },
    /// A temporary folder could not be made.
    #[error("make a temporary folder: {0}")]
    Temporary(std::io::Error),
    /// Everything runs, but the cluster was not complete in time.
    #[error(transparent)]
    NotReady(#[from] readiness::NotReady),
}

/// One store of a running cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its id in the cluster.
    pub id: u64,
    /// `host:port` of its gRPC service.
    pub address: String,
    /// The process it runs in.
    pub pid: u32,
}

/// One scheduler member of a running cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerInfo {
    /// Its name in the cluster.
    pub name: String,
    /// `http://host:port` for clients.
    pub client_url: String,
    /// The process it runs in.
    pub pid: u32,
}

/// Where a cluster keeps its data.
#[derive(Clone, Debug)]
enum Place {
    Memory,
    Temporary,
    Directory(PathBuf),
}

/// What to start. Every setting has a default that suits a test.
#[derive(Clone, Debug)]
pub struct Builder {
    stores: u8,
    schedulers: u8,
    place: Place,
    host: IpAddr,
    port: u16,
    api_version: ApiVersion,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            stores: 3,
            schedulers: 1,
            place: Place::Memory,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            api_version: ApiVersion::V1,
        }
    }
}

impl Builder {
    /// How many stores; 3 by default. With fewer than 3, regions have as many replicas as stores.
    pub fn stores(mut self, stores: u8) -> Self {
        self.stores = stores;
        self
    }

    /// How many scheduler members; 1 by default.
    pub fn schedulers(mut self, schedulers: u8) -> Self {
        self.schedulers = schedulers;
        self
    }

    /// Keeps everything in memory; the default.
    pub fn in_memory(mut self) -> Self {
        self.place = Place::Memory;
        self
    }

    /// Keeps everything in RocksDB in a temporary folder that is removed at the end.
    pub fn temporary(mut self) -> Self {
        self.place = Place::Temporary;
        self
    }

    /// Keeps everything in RocksDB below this directory, and goes on from what is there.
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.place = Place::Directory(directory.into());
        self
    }

    /// The address to listen on; 127.0.0.1 by default.
    pub fn host(mut self, host: IpAddr) -> Self {
        self.host = host;
        self
    }

    /// The first scheduler member's client port; 0, the default, takes a free one. All other ports
    /// are always free ones.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Layout of keys and values; [`ApiVersion::V1`] by default.
    pub fn api_version(mut self, api_version: ApiVersion) -> Self {
        self.api_version = api_version;
        self
    }

    /// Starts the cluster and waits until every region has its replicas.
    pub async fn start(self) -> Result<Cluster, StartError> {
        let temporary = match self.place {
            Place::Temporary => Some(
                tempfile::Builder::new()
                    .prefix("tessera-")
                    .tempdir()
                    .map_err(StartError::Temporary)?,
            ),
            Place::Memory | Place::Directory(_) => None,
        };
        let directory = match &self.place {
            Place::Memory => None,
            Place::Temporary => temporary.as_ref().map(|folder| folder.path().to_owned()),
            Place::Directory(directory) => Some(directory.clone()),
        };
        let known = match &directory {
            Some(directory) => {
                Layout::load(directory, self.stores, self.schedulers, self.api_version)?
            }
            None => None,
        };
        let sockets = Sockets::bind(&self, known.as_ref())?;
        if let (Some(directory), None) = (&directory, &known) {
            sockets.layout(self.api_version).save(directory)?;
        }
        let mut cluster = Cluster {
            schedulers: Vec::new(),
            stores: Vec::new(),
            endpoints: sockets.endpoints(),
            api_version: self.api_version,
            temporary,
        };
        cluster.start_schedulers(sockets.schedulers, directory.as_deref()).await?;
        cluster.start_stores(sockets.stores, directory.as_deref()).await?;
        let stores = usize::from(self.stores);
        readiness::replicas(&cluster.endpoints, stores, self.api_version, START_TIMEOUT).await?;
        Ok(cluster)
    }
}

/// Every socket of a cluster, bound before anything starts.
struct Sockets {
    /// Client and peer socket of each member.
    schedulers: Vec<(TcpListener, TcpListener)>,
    /// Service and status socket of each store.
    stores: Vec<(TcpListener, TcpListener)>,
}

impl Sockets {
    fn bind(builder: &Builder, known: Option<&Layout>) -> Result<Self, StartError> {
        let listen = |port: u16| {
            let address = SocketAddr::new(builder.host, port);
            let listener = TcpListener::bind(address)
                .map_err(|cause| StartError::Listen { address, cause })?;
            Ok::<_, StartError>(listener)
        };
        let mut sockets = Self { schedulers: Vec::new(), stores: Vec::new() };
        for member in 0..usize::from(builder.schedulers) {
            let (client, peer) = match known {
                Some(layout) => layout.schedulers[member],
                None if member == 0 => (builder.port, 0),
                None => (0, 0),
            };
            sockets.schedulers.push((listen(client)?, listen(peer)?));
        }
        for store in 0..usize::from(builder.stores) {
            let (service, status) = known.map_or((0, 0), |layout| layout.stores[store]);
            sockets.stores.push((listen(service)?, listen(status)?));
        }
        Ok(sockets)
    }

    fn layout(&self, api_version: ApiVersion) -> Layout {
        let ports = |pairs: &[(TcpListener, TcpListener)]| {
            pairs.iter().map(|(a, b)| (address_of(a).port(), address_of(b).port())).collect()
        };
        Layout {
            api_version: layout::name_of(api_version).into(),
            schedulers: ports(&self.schedulers),
            stores: ports(&self.stores),
        }
    }

    fn endpoints(&self) -> Vec<String> {
        self.schedulers.iter().map(|(client, _)| address_of(client).to_string()).collect()
    }
}

fn address_of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a bound socket has an address")
}

/// A cluster in this process. Dropping it stops it.
pub struct Cluster {
    // Stores stop before the scheduler they report to; fields drop in this order too.
    stores: Vec<StoreNode>,
    schedulers: Vec<SchedulerNode>,
    endpoints: Vec<String>,
    api_version: ApiVersion,
    temporary: Option<tempfile::TempDir>,
}

impl Cluster {
    /// What to start, with defaults that suit a test.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start_schedulers(
        &mut self,
        sockets: Vec<(TcpListener, TcpListener)>,
        directory: Option<&Path>,
    ) -> Result<(), StartError> {
        let name = |number: usize| format!("m{number}");
        let initial_cluster: Vec<(String, String)> = sockets
            .iter()
            .enumerate()
            .map(|(index, (_, peer))| (name(index + 1), format!("http://{}", address_of(peer))))
            .collect();
        for (index, (client, peer)) in sockets.into_iter().enumerate() {
            let name = name(index + 1);
            let config = scheduler::Config {
                name: name.clone(),
                data: match directory {
                    None => scheduler::Data::Memory,
                    Some(directory) => {
                        scheduler::Data::Path(layout::scheduler_folder(directory, index + 1))
                    }
                },
                client_listen: scheduler::Listen::Bound(client),
                peer_listen: scheduler::Listen::Bound(peer),
                initial_cluster: initial_cluster.clone(),
                ..Default::default()
            };
            let node = SchedulerNode::start(config)
                .await
                .map_err(|cause| StartError::Scheduler { name, cause })?;
            self.schedulers.push(node);
        }
        Ok(())
    }

    async fn start_stores(
        &mut self,
        sockets: Vec<(TcpListener, TcpListener)>,
        directory: Option<&Path>,
    ) -> Result<(), StartError> {
        let mut starting = Vec::new();
        for (index, (service, status)) in sockets.into_iter().enumerate() {
            let config = kv::Config {
                scheduler_endpoints: self.endpoints.clone(),
                storage: match directory {
                    None => kv::StorageKind::Memory,
                    Some(directory) => {
                        kv::StorageKind::Path(layout::store_folder(directory, index + 1))
                    }
                },
                api_version: self.api_version,
                // All stores stop together: nobody is left to take over.
                drain_timeout: Duration::ZERO,
                ..Default::default()
            };
            starting.push(StoreNode::start_on(config, service, Some(status)));
        }
        // Together: the first to bootstrap the cluster wins, the others join it.
        let started = futures_util::future::join_all(starting).await;
        let mut failure = None;
        for (index, outcome) in started.into_iter().enumerate() {
            match outcome {
                Ok(node) => self.stores.push(node),
                Err(cause) => {
                    failure.get_or_insert(StartError::Store { number: index + 1, cause });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// `host:port` of every scheduler member: what official clients call PD endpoints.
    pub fn pd_endpoints(&self) -> Vec<String> {
        self.endpoints.clone()
    }

    /// The cluster's layout of keys and values.
    pub fn api_version(&self) -> ApiVersion {
        self.api_version
    }

    /// A client of our own, connected to this cluster.
    pub async fn client(&self) -> Result<client::Client, client::Error> {
        readiness::client(&self.endpoints, self.api_version).await
    }

    /// The stores, in the order they were started.
    pub fn stores(&self) -> Vec<StoreInfo> {
        let info = |store: &StoreNode| StoreInfo {
            id: store.id(),
            address: store.address().to_owned(),
            pid: std::process::id(),
        };
        self.stores.iter().map(info).collect()
    }

    /// The scheduler members, in the order they were started.
    pub fn schedulers(&self) -> Vec<SchedulerInfo> {
        let info = |member: &SchedulerNode| SchedulerInfo {
            name: member.name().to_owned(),
            client_url: member.client_url().to_owned(),
            pid: std::process::id(),
        };
        self.schedulers.iter().map(info).collect()
    }

    /// Stops everything, stores first, and waits until ports and files are released.
    pub async fn stop(mut self) {
        futures_util::future::join_all(self.stores.drain(..).map(StoreNode::stop)).await;
        futures_util::future::join_all(self.schedulers.drain(..).map(SchedulerNode::stop)).await;
        drop(self.temporary.take());
    }
}
