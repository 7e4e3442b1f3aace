//! A store node: builds the parts, starts and stops them in order.
//!
//! ```text
//! start   ports ─► engines ─► who am I? ─► first region ─► raftstore ─► known to the scheduler ─► serve
//! stop    hand over leaders ─► no new requests ─► cut connections ─► raftstore ─► engines
//! ```
//!
//! A directory that holds no store is touched only after a scheduler has answered: a mistyped address leaves
//! nothing behind. One that holds a store is opened first, since it says of which cluster.
//!
//! Everything asynchronous runs on the caller's runtime. [`StoreNode::stop`] returns when ports,
//! threads and files are free again; dropping a node without it frees them too, a moment later.
//!
//! A fault (a disk that fails) ends the node: health says NOT_SERVING, connections are cut, and
//! [`StoreNode::wait_fault`] returns. What becomes of the process is for the program to decide.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::{StoreId, metapb, pdpb};
use raftstore::driver::{Background, Pace, RaftStore, Router, SnapshotStorage};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::rocks::{RocksData, RocksLog};
use raftstore::engine::{DataEngine, LogEngine};
use raftstore::error::Fault;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{CAPACITY_WHEN_UNKNOWN_BYTES, Config, StorageKind};
use crate::deadlock::{self, Detector};
use crate::error::StartError;
use crate::identity::{self, Identity};
use crate::metrics::Metrics;
use crate::net::forward::{Forward, Forwarding};
use crate::net::incoming::{self, Cut, Limits};
use crate::net::outbound::{CONNECTION_WINDOW_BYTES, Outbound, STREAM_WINDOW_BYTES};
use crate::net::resolver::Resolver;
use crate::net::snapshot_stream::{self, Place};
use crate::scheduler_link::client::SchedulerClient;
use crate::scheduler_link::{self, Reporter};
use crate::service::batch::Feedback;
use crate::service::{Service, Store};
use crate::settings::{Addresses, Settings};
use crate::status::{self, Described};
use crate::storage::replicated::Replicated;
use crate::txn::reservations::Reservations;
use crate::{bounds, drain, gc, handover};

/// gRPC streams on one connection at once; a client with more waits.
const STREAMS_PER_CONNECTION_MAX: u32 = 4096;

/// Header bytes of one request.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// A connection that is silent for so long is asked whether the other side lives …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … and closed when no answer comes within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests under way may take to finish once the node stops.
const GRACE: Duration = Duration::from_secs(1);

/// How long the last user of the engines may take to let go of them.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running store.
pub struct StoreNode {
    identity: Identity,
    address: String,
    status_address: Option<String>,
    fault: watch::Receiver<Option<Arc<Fault>>>,
    health: HealthReporter,
    /// Polite: no new requests. Those under way may finish.
    no_more: Cut,
    /// Impolite: connections and background work end now.
    cut: Cut,
    drain_timeout: Duration,
    /// Serving, the scheduler link and the like. They end at the cut.
    tasks: JoinSet<()>,
    /// Closed when the last user of the engines is gone.
    in_use: mpsc::Receiver<()>,
    /// The raft worker and what it holds; generic over engines behind this door.
    replicas: Option<Box<dyn Replicas>>,
}

/// The part of a node that knows its engines.
trait Replicas: Send + Sync {
    /// Asks the scheduler's way for other leaders; returns when there are none here, at best.
    fn drain(&self, timeout: Duration) -> drain::Draining;
    /// Ends the threads; blocks until they have.
    fn stop(self: Box<Self>);
}

struct Running<D: DataEngine, L: LogEngine> {
    store: RaftStore<D, L>,
    router: Router<D>,
}

impl<D: DataEngine, L: LogEngine> Replicas for Running<D, L> {
    fn drain(&self, timeout: Duration) -> drain::Draining {
        drain::hand_over_leaders(self.router.clone(), timeout)
    }

    fn stop(self: Box<Self>) {
        self.store.stop();
    }
}

impl std::fmt::Debug for StoreNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreNode")
            .field("identity", &self.identity)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Sockets that are listened on already.
struct Doors {
    service: TcpListener,
    status: Option<TcpListener>,
}

impl StoreNode {
    /// Starts a store: returns when it serves and the scheduler knows it.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Config)?;
        let service = incoming::bind(config.listen).await?;
        let status = match config.status_listen {
            Some(address) => Some(incoming::bind(address).await?),
            None => None,
        };
        Self::open(config, Doors { service, status }).await
    }

    /// Like [`Self::start`], on sockets that were bound before; they take the place of
    /// `config.listen` and `config.status_listen`.
    pub async fn start_on(
        mut config: Config,
        service: std::net::TcpListener,
        status: Option<std::net::TcpListener>,
    ) -> Result<Self, StartError> {
        let doors = Self::doors(&mut config, service, status)?;
        Self::open(config, doors).await
    }

    /// Like [`Self::start_on`], on engines of the caller's, for tests that crash disks. `snapshots`
    /// is where snapshots are put while they are on their way; `None` keeps them in memory.
    pub async fn start_with<D: DataEngine, L: LogEngine>(
        mut config: Config,
        service: std::net::TcpListener,
        status: Option<std::net::TcpListener>,
        data: D,
        log: L,
        snapshots: Option<&Path>,
    ) -> Result<Self, StartError> {
        let doors = Self::doors(&mut config, service, status)?;
        Self::assemble(config, doors, data, log, snapshots).await
    }

    fn doors(
        config: &mut Config,
        service: std::net::TcpListener,
        status: Option<std::net::TcpListener>,
    ) -> Result<Doors, StartError> {
        let adopt = |listener: std::net::TcpListener, configured: SocketAddr| {
            let address = listener.local_addr().unwrap_or(configured);
            listener
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(listener))
                .map(|adopted| (adopted, address))
                .map_err(|cause| StartError::Listen { address, cause })
        };
        let (service, address) = adopt(service, config.listen)?;
        config.listen = address;
        let status = status.map(|status| adopt(status, config.listen)).transpose()?;
        config.status_listen = status.as_ref().map(|(_, address)| *address);
        config.validate().map_err(StartError::Config)?;
        Ok(Doors { service, status: status.map(|(status, _)| status) })
    }

    /// Opens the configured engines.
    async fn open(config: Config, doors: Doors) -> Result<Self, StartError> {
        match config.storage.clone() {
            StorageKind::Memory => {
                Self::assemble(config, doors, MemoryData::new(), MemoryLog::new(), None).await
            }
            StorageKind::Path(folder) => {
                let options = config.rocks.clone();
                let (data_path, log_path) = (folder.join("data"), folder.join("log"));
                // A file in the folder's place is told of at once, when it is opened.
                let is_new = !data_path.exists() && (folder.is_dir() || !folder.exists());
                if is_new {
                    let deadline = Instant::now() + config.start_timeout;
                    identity::await_scheduler(&config, deadline).await?;
                }
                // Opening replays what a crash left: it may take a while.
                let engines = tokio::task::spawn_blocking(move || {
                    std::fs::create_dir_all(&data_path)
                        .and(std::fs::create_dir_all(&log_path))
                        .map_err(|error| Fault::Engine {
                            attempt: "create the data directory",
                            cause: error.to_string(),
                        })?;
                    let data = RocksData::open(&data_path, &options)?;
                    Ok::<_, Fault>((data, RocksLog::open(&log_path, &options)?))
                });
                let (data, log) = engines.await.map_err(|error| Fault::Engine {
                    attempt: "open the engines",
                    cause: error.to_string(),
                })??;
                let snapshots = folder.join("snap");
                Self::assemble(config, doors, data, log, Some(&snapshots)).await
            }
        }
    }

    async fn assemble<D: DataEngine, L: LogEngine>(
        config: Config,
        doors: Doors,
        data: D,
        log: L,
        snapshots: Option<&Path>,
    ) -> Result<Self, StartError> {
        let deadline = Instant::now() + config.start_timeout;
        let place = snapshot_place(snapshots)?;
        let address = advertised(&config.advertise, &doors.service, config.listen)?;
        let status_address = match &doors.status {
            Some(door) => Some(advertised(&config.status_advertise, door, config.listen)?),
            None => None,
        };

        // Who we are, and that the cluster has a first region.
        let known = identity::read(&data, &config)?;
        let cluster_id = known.map_or(0, |identity| identity.cluster_id);
        let client = Arc::new(SchedulerClient::new(&config.scheduler_endpoints, cluster_id));
        let identity = identity::establish(&client, &data, known, &config, deadline).await?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let described = identity::describe(
            identity,
            &config,
            &address,
            status_address.as_deref().unwrap_or_default(),
            started.as_secs() as i64,
        );
        identity::bootstrap(&client, &data, identity, &described, &config, deadline).await?;
        identity::register(&client, &described, &config, deadline).await?;

        // The replicas, and what carries their messages.
        let metrics = Arc::new(Metrics::new());
        let (cut, no_more) = (Cut::new(), Cut::new());
        let resolver = Arc::new(Resolver::new(client.clone()));
        let pace = Arc::new(Pace::new(config.snapshot_bytes_per_second));
        let outbound = Arc::new(Outbound::new(
            resolver.clone(),
            metrics.clone(),
            config.snapshots_sending_max,
            pace.clone(),
            cut.ear(),
        ));
        let reservations = Reservations::default();
        let (handovers, handovers_asked) = handover::queue();
        let keeps = config.in_memory_pessimistic_locks.then(|| reservations.clone());
        let (reporter, reports, fault) = Reporter::new(handovers, keeps);
        let replicas = start_replicas(
            &config,
            identity,
            data.clone(),
            log.clone(),
            &place,
            pace,
            outbound.clone(),
            Arc::new(reporter),
            started,
        )?;
        let router = replicas.router();
        outbound.report_to(Arc::new(router.clone()));

        // What answers requests.
        let (in_use_tx, in_use) = mpsc::channel(1);
        let storage = Replicated::new(router.clone(), metrics.clone(), config.api_version);
        let leads = {
            let router = router.clone();
            move || deadlock::link::leads_first_region(&router)
        };
        let store = Arc::new(Store {
            cluster_id: identity.cluster_id,
            store_id: identity.store_id,
            api_version: config.api_version,
            transactions: crate::service::transactions(&config, &storage, client.clone())
                .with_reservations(reservations),
            raw: crate::service::raw(&config, &storage),
            storage,
            router: router.clone(),
            metrics: metrics.clone(),
            feedback: Arc::new(Feedback::new(identity.store_id.0)),
            receiving: Semaphore::new(config.snapshots_receiving_max),
            snapshot_place: place,
            detector: Detector::new(Box::new(leads), metrics.deadlocks.clone()),
            no_more: no_more.ear(),
            _in_use: in_use_tx,
        });
        gc::hear_first(
            &client,
            identity.store_id.0,
            &data,
            store.transactions.safe_points(),
            deadline,
        )
        .await
        .map_err(|cause| StartError::Scheduler {
            attempt: "hear of the safe points",
            cause: cause.to_string(),
        })?;
        let health = HealthReporter::new();
        let mut tasks = JoinSet::new();
        let addresses = Addresses {
            addr: bound(&doors.service),
            advertise_addr: address.clone(),
            status_addr: doors.status.as_ref().map(bound).unwrap_or_default(),
            advertise_status_addr: status_address.clone().unwrap_or_default(),
        };
        let forward = Arc::new(Forward::new(address.clone()));
        tasks.spawn(serve(doors.service, store.clone(), forward, &config, &health, &no_more, &cut));
        if let Some(door) = doors.status {
            let about = Described {
                store: described.clone(),
                cluster_id: identity.cluster_id,
                settings: Settings::of(&config, addresses),
            };
            tasks.spawn(status::serve(door, about, &store, cut.ear()));
        }
        let parts = gc::Parts {
            scheduler: client.clone(),
            elsewhere: gc::Elsewhere::new(client.clone(), resolver.clone(), config.api_version),
            interval: config.gc_interval,
        };
        let collecting = gc::run(Arc::downgrade(&store), parts);
        let ear = cut.ear();
        tasks.spawn(async move {
            ear.or(collecting).await;
        });
        let first_region = deadlock::link::FirstRegion {
            router: router.clone(),
            store_id: identity.store_id,
            scheduler: client.clone(),
            resolver,
        };
        let waits = store.transactions.waiting().clone();
        let told = deadlock::link::run(waits, store.detector.clone(), first_region);
        let ear = cut.ear();
        tasks.spawn(async move {
            ear.or(told).await;
        });
        let describe = describe_disk(data, log, &config, &described);
        let transactions = store.transactions.clone();
        let handing_over = handover::run(transactions.clone(), router.clone(), handovers_asked);
        let ear = cut.ear();
        tasks.spawn(async move {
            ear.or(handing_over).await;
        });
        let (ear, on_time) = (cut.ear(), transactions.clone());
        tasks.spawn(async move {
            ear.or(on_time.keep_time()).await;
        });
        let ear = cut.ear();
        let link =
            scheduler_link::run(client, router.clone(), transactions, reports, describe, ear);
        tasks.spawn(link);
        if config.api_version == crate::ApiVersion::V2 {
            let keep = bounds::keep_keyspace_bounds(Arc::downgrade(&store));
            let ear = cut.ear();
            tasks.spawn(async move {
                ear.or(keep).await;
            });
        }
        let mut node = Self {
            identity,
            address,
            status_address,
            fault,
            health,
            no_more,
            cut,
            drain_timeout: config.drain_timeout,
            tasks,
            in_use,
            replicas: Some(Box::new(Running { store: replicas, router })),
        };
        node.watch_for_fault();
        tracing::info!(store = %node.identity.store_id, address = node.address, "serving");
        Ok(node)
    }

    /// Its id in the cluster.
    pub fn id(&self) -> u64 {
        self.identity.store_id.0
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> u64 {
        self.identity.cluster_id
    }

    /// The `host:port` it is reached at.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The `host:port` of its status port, if it has one.
    pub fn status_address(&self) -> Option<&str> {
        self.status_address.as_deref()
    }

    /// Returns when the store cannot go on, with the reason; waits for ever while it can.
    pub async fn wait_fault(&self) -> Arc<Fault> {
        let mut fault = self.fault.clone();
        loop {
            if let Some(fault) = fault.borrow_and_update().clone() {
                return fault;
            }
            if fault.changed().await.is_err() {
                // The store was stopped without a fault.
                return std::future::pending().await;
            }
        }
    }

    /// A fault makes the node deaf at once, whoever looks at [`Self::wait_fault`] or not.
    fn watch_for_fault(&mut self) {
        let mut fault = self.fault.clone();
        let health = self.health.clone();
        let no_more = self.no_more.sender();
        let cut = self.cut.sender();
        let ear = self.cut.ear();
        self.tasks.spawn(async move {
            let faulted = async { fault.wait_for(Option::is_some).await.is_ok() };
            if ear.or(faulted).await == Some(true) {
                set_not_serving(&health).await;
                no_more.send_replace(true);
                cut.send_replace(true);
            }
        });
    }

    /// Hands leaders over, stops serving, and returns when ports, threads and files are free.
    pub async fn stop(mut self) {
        set_not_serving(&self.health).await;
        let has_fault = self.fault.borrow().is_some();
        if let Some(replicas) = &self.replicas
            && !has_fault
        {
            replicas.drain(self.drain_timeout).await;
        }
        self.no_more.now();
        // Requests under way are answered, then streams and connections end by themselves.
        let _ = tokio::time::timeout(GRACE, self.tasks.join_next()).await;
        self.cut.now();
        if let Some(replicas) = self.replicas.take() {
            let stopped = tokio::task::spawn_blocking(move || replicas.stop()).await;
            if let Err(error) = stopped {
                tracing::error!(%error, "the store's threads did not end well");
            }
        }
        while self.tasks.join_next().await.is_some() {}
        // The last handler lets go of the engines a moment after its connection was cut.
        if tokio::time::timeout(RELEASE_TIMEOUT, self.in_use.recv()).await.is_err() {
            tracing::warn!("somebody still holds the engines");
        }
        tracing::info!(store = %self.identity.store_id, "stopped");
    }
}

async fn set_not_serving(health: &HealthReporter) {
    health.set_service_status("", ServingStatus::NotServing).await;
    health.set_service_status("tikvpb.Tikv", ServingStatus::NotServing).await;
}

fn snapshot_place(folder: Option<&Path>) -> Result<Place, StartError> {
    let Some(folder) = folder else { return Ok(Place::Memory) };
    snapshot_stream::prepare_folder(folder).map_err(|error| Fault::Engine {
        attempt: "empty the snapshot folder",
        cause: error.to_string(),
    })?;
    Ok(Place::Folder(folder.to_owned()))
}

/// Where a socket is; empty when the system cannot say.
fn bound(door: &TcpListener) -> String {
    door.local_addr().map(|address| address.to_string()).unwrap_or_default()
}

/// What others are told: the configured address, or the bound one.
fn advertised(
    configured: &Option<String>,
    door: &TcpListener,
    asked: SocketAddr,
) -> Result<String, StartError> {
    match configured {
        Some(address) => Ok(address.clone()),
        None => door
            .local_addr()
            .map(|address| address.to_string())
            .map_err(|cause| StartError::Listen { address: asked, cause }),
    }
}

#[expect(clippy::too_many_arguments, reason = "each part of a node is named once, here")]
fn start_replicas<D: DataEngine, L: LogEngine>(
    config: &Config,
    identity: Identity,
    data: D,
    log: L,
    place: &Place,
    pace: Arc<Pace>,
    outbound: Arc<Outbound<SchedulerClient>>,
    reporter: Arc<Reporter>,
    started: Duration,
) -> Result<RaftStore<D, L>, StartError> {
    let mut raft = config.raft.clone();
    // Election timeouts must differ between stores, and read rounds between lives of one store.
    raft.seed ^= identity.store_id.0;
    raft.incarnation = started.as_micros() as u64;
    raft.asks_before_handover = config.in_memory_pessimistic_locks;
    let snapshots = match place {
        Place::Folder(folder) => SnapshotStorage::Folder(folder.clone()),
        Place::Memory => SnapshotStorage::Memory,
    };
    let background = Background::new(data.clone(), snapshots)?.at_pace(pace);
    let store_id = identity.store_id;
    Ok(RaftStore::start(raft, store_id, data, log, background, outbound, reporter)?)
}

/// Serves gRPC until told that there shall be no more, then until the last stream has ended.
fn serve<D: DataEngine>(
    door: TcpListener,
    store: Arc<Store<D>>,
    forward: Arc<Forward>,
    config: &Config,
    health: &HealthReporter,
    no_more: &Cut,
    cut: &Cut,
) -> impl Future<Output = ()> + Send + use<D> {
    let (no_more, ear) = (no_more.ear(), cut.ear());
    let compress = config.compress_answers;
    let health = health.clone();
    async move {
        let health_service = tonic_health::server::HealthService::from_health_reporter(health);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Of all services described, those that this port serves.
                .with_service_name(proto::tikvpb::tikv_server::SERVICE_NAME)
                .with_service_name(proto::debugpb::debug_server::SERVICE_NAME)
                .with_service_name(proto::deadlock::deadlock_server::SERVICE_NAME)
                .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
                .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME)
        };
        let v1 = reflection().build_v1().expect("our own descriptors decode");
        let v1alpha = reflection().build_v1alpha().expect("our own descriptors decode");
        let service = Service::new(store);
        let debug = service.debug_server();
        let deadlock = service.deadlock_server();
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .tcp_nodelay(true)
            .add_service(Forwarding::new(service.into_server(compress), forward))
            .add_service(debug)
            .add_service(deadlock)
            .add_service(tonic_health::pb::health_server::HealthServer::new(health_service))
            .add_service(v1)
            .add_service(v1alpha);
        let limits = Limits::of_process();
        let connections = incoming::connections(door, ear.clone(), no_more.clone(), limits);
        let serving = server.serve_with_incoming_shutdown(connections, no_more.heard());
        if let Some(Err(error)) = ear.or(serving).await {
            tracing::error!(%error, "serving ended");
        }
    }
}

/// Adds to a store's heartbeat what its machines cannot know.
fn describe_disk<D: DataEngine, L: LogEngine>(
    data: D,
    log: L,
    config: &Config,
    described: &metapb::Store,
) -> impl Fn(&mut pdpb::StoreStats) + Send + Sync + use<D, L> {
    let capacity = config.capacity_bytes.unwrap_or(CAPACITY_WHEN_UNKNOWN_BYTES);
    let start_time = u32::try_from(described.start_timestamp).unwrap_or(0);
    let store_id = StoreId(described.id);
    move |stats| {
        let used = data.used_bytes() + log.used_bytes();
        stats.store_id = store_id.0;
        stats.capacity = capacity;
        stats.used_size = used;
        stats.available = capacity.saturating_sub(used);
        stats.start_time = start_time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_store_writes_nothing_before_a_scheduler_has_answered() {
        // Taken, and not listened on: nobody answers there.
        let nobody = tokio::net::TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = nobody.local_addr().unwrap().to_string();
        let parent = tempfile::tempdir().unwrap();
        let start = async |folder: &Path| {
            let config = Config {
                listen: "127.0.0.1:0".parse().unwrap(),
                scheduler_endpoints: vec![endpoint.clone()],
                storage: StorageKind::Path(folder.to_owned()),
                start_timeout: Duration::from_millis(1),
                ..Config::default()
            };
            StoreNode::start(config).await.unwrap_err()
        };
        let absent = parent.path().join("a/data");
        let error = start(&absent).await;
        assert!(matches!(error, StartError::Scheduler { .. }), "{error}");
        assert!(!parent.path().join("a").exists());
        let empty = parent.path().join("b");
        std::fs::create_dir(&empty).unwrap();
        let error = start(&empty).await;
        assert!(matches!(error, StartError::Scheduler { .. }), "{error}");
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
        // What can never be a directory is told of without asking anybody.
        let file = parent.path().join("c");
        std::fs::write(&file, "precious").unwrap();
        let error = start(&file).await;
        assert!(matches!(error, StartError::Engine(_)), "{error}");
    }
}
