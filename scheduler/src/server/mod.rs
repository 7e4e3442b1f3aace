//! The shell of a member: sockets, threads and clocks; nothing is decided here.
//!
//! | thread | does | talks to it |
//! |---|---|---|
//! | `<name>/raft` | the member's rounds, with the one fsync ([`driver`]) | the inbox |
//! | `<name>/rpc` | all sockets and tasks, on a runtime of its own | tokio |
//!
//! A runtime of its own, so that stopping the member ends every task and closes every socket: when
//! [`SchedulerNode::stop`] returns, or the node is dropped, nothing is left behind.

mod clock;
mod door;
mod driver;
mod entry;
pub(crate) mod front;
mod links;
pub(crate) mod node;
mod outbox;
mod peers;
mod relay;
mod self_test;
pub(crate) mod serving;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use proto::schedulerpb::{Identity, peer_server::PeerServer};
use raftstore::engine::LogEngine;
use raftstore::engine::memory::MemoryLog;
use raftstore::engine::rocks::{Options as RocksOptions, RocksLog};
use raftstore::group::GroupSettings;
use tokio::sync::oneshot;

use self::clock::Clock;
use self::driver::Driver;
use self::links::Links;
use self::node::{Node, Parts, Said};
use self::peers::PeerService;
use crate::config::{Config, Data};
use crate::error::StartError;
use crate::member::join::{self, Beginning, Flags};
use crate::member::machine::State;
use crate::member::{Member, Options, records};
use crate::{http, service};

/// How often the cluster is looked at: orders repeated, regions patrolled, stores balanced. While a
/// scheduler finds something to do it is looked at more often, but no more than
/// [`BUSY_INTERVAL`] allows.
const PATROL_INTERVAL: Duration = Duration::from_millis(100);
/// See [`PATROL_INTERVAL`].
const BUSY_INTERVAL: Duration = Duration::from_millis(10);
/// How often the bounds of keyspaces are looked at.
const KEYSPACES_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a memtable of the member's log: it holds little.
const LOG_WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Bytes of cached blocks of the member's log.
const LOG_CACHE_BYTES: usize = 2 << 20;
/// Files the member's log keeps open.
const LOG_OPEN_FILES_MAX: i32 = 64;

/// A running member of the scheduler.
#[derive(Debug)]
pub struct SchedulerNode {
    node: Arc<Node>,
    client_address: SocketAddr,
    peer_address: SocketAddr,
    raft_thread: Option<JoinHandle<()>>,
    raft_ended: Option<oneshot::Receiver<()>>,
    rpc_thread: Option<JoinHandle<()>>,
    rpc_stop: Option<oneshot::Sender<()>>,
    rpc_ended: Option<oneshot::Receiver<()>>,
}

/// What the rpc thread hands over once the member runs.
struct Running {
    node: Arc<Node>,
    raft_thread: JoinHandle<()>,
    raft_ended: oneshot::Receiver<()>,
}

impl SchedulerNode {
    /// Starts a member: when this returns its sockets are open. Whether it or another member
    /// serves already is another question; see [`Self::wait_until_served`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Mistake)?;
        let name = config.name.clone();
        let Config { client_listen, peer_listen, .. } = config;
        let (clients, client_address) = front::bind(client_listen, "clients")?;
        let (peers, peer_address) = front::bind(peer_listen, "members")?;
        let config = Resolved {
            client_urls: urls(config.advertise_client_urls, client_address, "client")?,
            peer_urls: urls(config.advertise_peer_urls, peer_address, "peer")?,
            name: config.name,
            data: config.data,
            initial_cluster: config.initial_cluster,
            join: config.join,
            join_timeout: config.join_timeout,
            tick: config.tick,
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            lease_ticks: config.lease_ticks,
            policy: config.policy,
            split_keyspaces: config.split_keyspaces,
        };
        let (started_tx, started) = oneshot::channel();
        let (rpc_stop, stopped) = oneshot::channel();
        let (rpc_ended_tx, rpc_ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let rpc_thread =
            std::thread::Builder::new().name(format!("{name}/rpc")).spawn(move || {
                runtime.block_on(async move {
                    match begin(config, clients, peers).await {
                        Ok(running) => match started_tx.send(Ok(running)) {
                            Ok(()) => {
                                stopped.await.ok();
                            }
                            // Whoever started the member has given up: so does the member.
                            Err(Ok(unwanted)) => {
                                unwanted.node.tell(Said::Stop { hand_over: false });
                                unwanted.raft_thread.join().ok();
                            }
                            Err(Err(_)) => {}
                        },
                        Err(error) => {
                            started_tx.send(Err(error)).ok();
                        }
                    }
                });
                // Ends every task and closes every socket.
                drop(runtime);
                rpc_ended_tx.send(()).ok();
            })?;
        let Ok(started) = started.await else {
            return Err(StartError::Mistake("the member's thread ended before it began".into()));
        };
        let Running { node, raft_thread, raft_ended } = started?;
        Ok(Self {
            node,
            client_address,
            peer_address,
            raft_thread: Some(raft_thread),
            raft_ended: Some(raft_ended),
            rpc_thread: Some(rpc_thread),
            rpc_stop: Some(rpc_stop),
            rpc_ended: Some(rpc_ended),
        })
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The member's id in its group.
    pub fn member_id(&self) -> u64 {
        self.node.member_id
    }

    /// The cluster's id; 0 until the first leader has chosen it.
    pub fn cluster_id(&self) -> u64 {
        self.node.cluster_id()
    }

    /// Where clients reach it, with scheme and the real port.
    pub fn client_url(&self) -> &str {
        self.node.client_urls.first().map_or("", String::as_str)
    }

    /// Where the other members reach it, with scheme and the real port.
    pub fn peer_url(&self) -> &str {
        self.node.peer_urls.first().map_or("", String::as_str)
    }

    /// The socket for clients.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// The socket for members.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Whether this member leads and serves right now.
    pub fn is_leader(&self) -> bool {
        self.node.serving().is_some_and(|serving| serving.holds_lease(&self.node))
    }

    /// The name of the member that leads, as far as this one knows.
    pub fn leader_name(&self) -> Option<String> {
        self.node.leader().map(|leader| leader.name)
    }

    /// Waits until this member serves, or knows another one that leads. `false`: not in this time.
    pub async fn wait_until_served(&self, timeout: Duration) -> bool {
        let mut moved = self.node.watch();
        let (found_tx, found) = oneshot::channel();
        let node = Arc::clone(&self.node);
        // On the node's own runtime, so that any executor may wait here.
        self.node.runtime.spawn(async move {
            let wait = async {
                loop {
                    moved.borrow_and_update();
                    if node.leader().is_some() {
                        return true;
                    }
                    if node.is_stopping() || moved.changed().await.is_err() {
                        return false;
                    }
                }
            };
            let is_served = tokio::time::timeout(timeout, wait).await.unwrap_or(false);
            found_tx.send(is_served).ok();
        });
        found.await.unwrap_or(false)
    }

    /// Asks another member to lead: this one by its name, or whichever fits best.
    pub fn hand_over(&self, to: Option<&str>) {
        let members = self.node.members();
        let to = to.and_then(|name| members.iter().find(|member| member.name == name));
        self.node.tell(Said::HandOver { to: to.map_or(0, |member| member.member_id) });
    }

    /// Why the member stopped by itself, if it did: a fault of its disk.
    pub fn fault(&self) -> Option<String> {
        self.node.fault()
    }

    /// Stops: a leader hands over first, then every thread, task and socket ends.
    pub async fn stop(self) {
        self.end(true).await;
    }

    /// Stops as if the process had died: nobody is told.
    pub async fn kill(self) {
        self.end(false).await;
    }

    async fn end(mut self, hand_over: bool) {
        self.node.stop();
        self.node.tell(Said::Stop { hand_over });
        if let Some(ended) = self.raft_ended.take() {
            ended.await.ok();
        }
        drop(self.rpc_stop.take());
        if let Some(ended) = self.rpc_ended.take() {
            ended.await.ok();
        }
        // Dropping joins the threads, which have nothing left to do.
    }
}

impl Drop for SchedulerNode {
    fn drop(&mut self) {
        self.node.stop();
        self.node.tell(Said::Stop { hand_over: false });
        if let Some(thread) = self.raft_thread.take() {
            thread.join().ok();
        }
        drop(self.rpc_stop.take());
        if let Some(thread) = self.rpc_thread.take() {
            thread.join().ok();
        }
    }
}

/// The configuration with sockets bound and URLs known.
struct Resolved {
    name: String,
    data: Data,
    client_urls: Vec<String>,
    peer_urls: Vec<String>,
    initial_cluster: Vec<(String, String)>,
    join: Vec<String>,
    join_timeout: Duration,
    tick: Duration,
    heartbeat_ticks: usize,
    election_ticks: usize,
    lease_ticks: u32,
    policy: crate::cluster::Policy,
    split_keyspaces: bool,
}

/// The URLs given, or one made of the bound address.
fn urls(
    advertised: Vec<String>,
    address: SocketAddr,
    what: &str,
) -> Result<Vec<String>, StartError> {
    if !advertised.is_empty() {
        return Ok(advertised);
    }
    if address.ip().is_unspecified() {
        return Err(StartError::Mistake(format!(
            "a member that listens on every address ({address}) needs advertise-{what}-urls: \
             others must know which one to use"
        )));
    }
    Ok(vec![format!("http://{address}")])
}

async fn begin(
    config: Resolved,
    clients: TcpListener,
    peers: TcpListener,
) -> Result<Running, StartError> {
    match config.data.clone() {
        Data::Memory => run(config, MemoryLog::new(), String::new(), clients, peers).await,
        Data::Path(path) => {
            let log = open_log(&path)?;
            run(config, log, path.display().to_string(), clients, peers).await
        }
    }
}

fn open_log(path: &Path) -> Result<RocksLog, StartError> {
    let options = RocksOptions {
        cache: raftstore::engine::rocks::BlockCache::new(LOG_CACHE_BYTES),
        write_buffer_bytes: LOG_WRITE_BUFFER_BYTES,
        open_files_max: LOG_OPEN_FILES_MAX,
        ..RocksOptions::default()
    };
    Ok(RocksLog::open(&path.join("log"), &options)?)
}

async fn run<L: LogEngine>(
    config: Resolved,
    log: L,
    directory: String,
    clients: TcpListener,
    peers: TcpListener,
) -> Result<Running, StartError> {
    let identity = become_member(&config, &log, &directory).await?;
    let seed = rand::random();
    let options = Options {
        group: GroupSettings {
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            seed,
            ..Options::default().group
        },
        lease_us: u64::try_from(config.tick.as_micros()).unwrap_or(u64::MAX)
            * u64::from(config.lease_ticks),
        lease_ticks: u64::from(config.lease_ticks),
        ..Options::default()
    };
    let lease = Duration::from_micros(options.lease_us);
    let (member, state) = Member::open(log.clone(), identity.member_id, options)?;
    let (inbox_tx, inbox) = crossbeam_channel::unbounded();
    let node = Arc::new(Node::new(Parts {
        name: config.name.clone(),
        member_id: identity.member_id,
        group_id: identity.group_id,
        peer_urls: config.peer_urls,
        client_urls: config.client_urls,
        data_dir: directory,
        clock: Clock::start(),
        first_policy: config.policy,
        lease,
        runtime: tokio::runtime::Handle::current(),
        state,
        inbox: inbox_tx,
        flag_urls: config.initial_cluster.iter().cloned().collect::<BTreeMap<_, _>>(),
    }));
    serve(&node, clients, peers)?;
    tokio::spawn(patrol(Arc::clone(&node), config.split_keyspaces));
    tokio::spawn(self_test::run(Arc::clone(&node)));
    let driver = Driver {
        node: Arc::clone(&node),
        member,
        log,
        links: Arc::new(Links::default()),
        inbox,
        tick_us: u64::try_from(config.tick.as_micros()).unwrap_or(u64::MAX),
    };
    let (ended, raft_ended) = oneshot::channel();
    let raft_thread =
        std::thread::Builder::new().name(format!("{}/raft", config.name)).spawn(move || {
            driver.run();
            ended.send(()).ok();
        })?;
    Ok(Running { node, raft_thread, raft_ended })
}

/// Founds, joins or comes back, and returns who this member is.
async fn become_member(
    config: &Resolved,
    log: &impl LogEngine,
    directory: &str,
) -> Result<Identity, StartError> {
    let flags = Flags {
        name: &config.name,
        peer_urls: &config.peer_urls,
        client_urls: &config.client_urls,
        initial_cluster: &config.initial_cluster,
        join: &config.join,
    };
    let on_disk = records::read_identity(log)?;
    if let Some(identity) = on_disk.as_ref().filter(|identity| identity.name != config.name) {
        return Err(StartError::WrongDirectory {
            directory: directory.to_owned(),
            owner: format!("member {:?}", identity.name),
            expected: format!("member {:?}", config.name),
        });
    }
    match join::begin(flags, on_disk, rand::random()).map_err(StartError::Mistake)? {
        Beginning::Found { identity, members } => {
            let state = State::founding(members, records::FOUNDING_INDEX, records::FOUNDING_TERM);
            records::write_founding(log, &identity, &state)?;
            Ok(identity)
        }
        Beginning::Join { identity } => {
            records::write_identity(log, &identity)?;
            let member = proto::schedulerpb::Member {
                member_id: identity.member_id,
                name: config.name.clone(),
                peer_urls: config.peer_urls.clone(),
                client_urls: config.client_urls.clone(),
                is_learner: true,
                leader_priority: 0,
            };
            let response = entry::ask_to_join(&config.join, &member, config.join_timeout)
                .await
                .map_err(StartError::Join)?;
            let identity = Identity { group_id: response.group_id, joining: false, ..identity };
            records::write_identity(log, &identity)?;
            Ok(identity)
        }
        Beginning::ComeBack { identity } => {
            let (state, _) = records::read_state(log)?;
            refuse_other_cluster(config, &identity, &state, directory).await?;
            Ok(identity)
        }
    }
}

/// Members that answer, of those that the flags name and those that the data knows, must be of the cluster
/// that the data is of, and must know this member: unless one that knows as much as the data, or more, has
/// seen it go.
async fn refuse_other_cluster(
    config: &Resolved,
    identity: &Identity,
    state: &State,
    directory: &str,
) -> Result<(), StartError> {
    let flags = config.initial_cluster.iter().cloned();
    let known = state
        .members()
        .values()
        .flat_map(|member| member.peer_urls.iter().map(|url| (member.name.clone(), url.clone())));
    let others: BTreeMap<String, String> = flags
        .chain(known)
        .filter(|(name, _)| *name != config.name)
        .map(|(name, url)| (url, name))
        .collect();
    let answers =
        others.iter().map(|(url, name)| async move { (name, entry::describe(url).await) });
    for (name, answer) in futures_util::future::join_all(answers).await {
        let Some(answer) = answer else { continue };
        let is_other_cluster = answer.cluster_id != 0
            && state.cluster_id() != 0
            && answer.cluster_id != state.cluster_id();
        let is_named = config.initial_cluster.iter().any(|(named, _)| named == name);
        if is_named && (answer.group_id != identity.group_id || is_other_cluster) {
            return Err(StartError::WrongDirectory {
                directory: directory.to_owned(),
                owner: format!("cluster {}", state.cluster_id()),
                expected: format!("cluster {}, of which {name:?} is a member", answer.cluster_id),
            });
        }
        let is_same = answer.group_id == identity.group_id && !is_other_cluster;
        if is_same && join::is_removed(identity.member_id, state, answer.index, &answer.members) {
            return Err(StartError::Removed { name: config.name.clone(), by: name.clone() });
        }
    }
    Ok(())
}

/// Opens the listeners and starts the tasks of the runtime.
fn serve(node: &Arc<Node>, clients: TcpListener, peers: TcpListener) -> Result<(), std::io::Error> {
    let peer_service = PeerServer::new(PeerService { node: Arc::clone(node) })
        .max_decoding_message_size(front::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(front::MESSAGE_BYTES_MAX);
    let peer_front =
        front::server().add_service(peer_service).serve_with_incoming(front::incoming(peers)?);
    // What is neither is told so in the caller's language.
    let routes =
        service::routes(node).into_axum_router().merge(http::router(node)).fallback(http::unknown);
    let relay = (Arc::clone(node), Arc::new(relay::Relay::default()));
    let routes = routes.layer(axum::middleware::from_fn_with_state(relay, relay::pass_on));
    let client_front = front::server()
        .accept_http1(true)
        .add_routes(routes.into())
        .serve_with_incoming(front::incoming(clients)?);
    for (purpose, front) in [
        ("members", futures_util::future::Either::Left(peer_front)),
        ("clients", futures_util::future::Either::Right(client_front)),
    ] {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            if let Err(error) = front.await {
                node.fail(format!("listen for {purpose}: {error}"));
            }
        });
    }
    Ok(())
}

/// Looks after the cluster whenever this member leads.
async fn patrol(node: Arc<Node>, split_keyspaces: bool) {
    let mut wait = PATROL_INTERVAL;
    let mut since_keyspaces = KEYSPACES_INTERVAL;
    let mut moved = node.watch();
    loop {
        tokio::time::sleep(wait).await;
        since_keyspaces += wait;
        wait = PATROL_INTERVAL;
        moved.borrow_and_update();
        let Some(serving) = node.serving() else {
            // Nothing to look after until this member leads.
            if moved.changed().await.is_err() {
                return;
            }
            continue;
        };
        if let Some(wanted) = serving.tick(&node) {
            wait = wanted.clamp(BUSY_INTERVAL, PATROL_INTERVAL);
        }
        service::gc::collect(&node, &serving).await;
        http::temporary::lapse(&node, &serving).await;
        if split_keyspaces && since_keyspaces >= KEYSPACES_INTERVAL {
            since_keyspaces = Duration::ZERO;
            service::keyspaces::plan_bounds(&node, &serving);
        }
    }
}

#[cfg(test)]
mod tests;
