//! Real programs on loopback, restarted on the same address, killed on drop.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use proto::pdpb::pd_client::PdClient;
use proto::{kvrpcpb, pdpb};
use tempfile::TempDir;
use tessera::{ApiVersion, readiness};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The bound of every wait here: far beyond what is expected, short of what a person endures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const TESSERA: &str = env!("CARGO_BIN_EXE_tessera");

/// An address of 127.0.0.0/8 that no other test of this run uses.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Ports free on that address.
pub(crate) fn free_ports(host: IpAddr, count: usize) -> Vec<SocketAddr> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((host, 0)).unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// Asks until the answer is there, or panics saying what was waited for.
pub(crate) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}

/// Runs the program to its end, within the bound.
pub(crate) fn run(arguments: &[&str]) -> Output {
    run_with_input(arguments, "")
}

/// The same, with something on stdin.
pub(crate) fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(TESSERA)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Inputs fit into the pipe; a program that does not want to read them may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let id = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE).is_err() {
            signal(id, "-KILL");
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watch.join().unwrap();
    output
}

/// Sends a signal to one of our own children.
pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Calls a path of PD's HTTP API on one member; the status line and the body.
pub(crate) async fn http(
    member: SocketAddr,
    method: &str,
    path: &str,
) -> std::io::Result<(String, String)> {
    http_with(member, method, path, "").await
}

/// The same with a body.
pub(crate) async fn http_with(
    member: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(String, String)> {
    let mut stream = tokio::net::TcpStream::connect(member).await?;
    let request = format!(
        "{method} /pd/api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: \
         {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// One node: how it is started, and the process while it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
    /// The program and its arguments; a command that leads into a network namespace may come first.
    words: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Its data and its log lie in `folder`, under its name.
    fn new(name: String, address: SocketAddr, folder: &Path, mut words: Vec<String>) -> Self {
        let log = folder.join(format!("{name}.log"));
        let folder = folder.join(&name);
        words.extend(["--with-parent".into(), "--data-dir".into(), folder.display().to_string()]);
        Self { name, address, folder, words, log, child: None }
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the tests; the kernel ends a child whose parent has ended.
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// SIGSTOP: the process stands still, and its sockets stay open.
    pub(crate) fn pause(&self) {
        signal(self.child.as_ref().expect("the node runs").id(), "-STOP");
    }

    /// SIGCONT: it goes on, and does not know that time has passed.
    pub(crate) fn resume(&self) {
        signal(self.child.as_ref().expect("the node runs").id(), "-CONT");
    }

    /// How the process ended, if it was started and has ended by itself.
    pub(crate) fn died(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap();
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// SIGKILL: nothing in the process gets to run again.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        signal(child.id(), "-TERM");
        until("the node to stop", || {
            let status = child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node was started");
        until("the node to end by itself", || {
            let status = child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            println!("--- the end of {}'s log", self.name);
            tail.iter().rev().for_each(|line| println!("{line}"));
        }
    }
}

/// How a store is started, but for its folder.
fn store_words(address: SocketAddr, endpoints: &[String], api_version: ApiVersion) -> Vec<String> {
    [
        "store",
        "--addr",
        &address.to_string(),
        "--pd-endpoints",
        &endpoints.join(","),
        "--api-version",
        tessera::cluster::layout::name_of(api_version),
    ]
    .map(str::to_owned)
    .into()
}

/// Where a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its address.
    pub(crate) host: IpAddr,
    /// What leads there: nothing, or `ip netns exec NAME`.
    pub(crate) through: Vec<String>,
}

impl Place {
    pub(crate) fn loopback(host: IpAddr) -> Self {
        Self { host, through: Vec::new() }
    }
}

/// What a cluster of processes is made of.
pub(crate) struct Plan<'a> {
    pub(crate) program: PathBuf,
    /// Where data and logs are kept.
    pub(crate) folder: &'a Path,
    /// Two for each scheduler member, one for each store; only their numbers are used.
    pub(crate) ports: Vec<SocketAddr>,
    pub(crate) schedulers: Vec<Place>,
    pub(crate) stores: Vec<Place>,
    pub(crate) api_version: ApiVersion,
}

fn addresses(places: &[Place], ports: &[SocketAddr]) -> Vec<SocketAddr> {
    places.iter().zip(ports).map(|(place, port)| (place.host, port.port()).into()).collect()
}

/// Scheduler members and stores, each a process.
pub(crate) struct Processes {
    pub(crate) schedulers: Vec<Node>,
    pub(crate) stores: Vec<Node>,
    pub(crate) api_version: ApiVersion,
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl Processes {
    /// Starts all of them and waits until every region has its replicas.
    pub(crate) async fn start(schedulers: usize, stores: usize, api_version: ApiVersion) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let place = Place::loopback(own_address());
        let plan = Plan {
            program: TESSERA.into(),
            folder: temporary.path(),
            ports: free_ports(place.host, 2 * schedulers + stores),
            schedulers: vec![place.clone(); schedulers],
            stores: vec![place; stores],
            api_version,
        };
        let mut processes = Self::prepare(plan);
        processes._temporary = Some(temporary);
        processes.start_all();
        processes.wait_replicas().await;
        processes
    }

    /// Knows how to start all of them, and starts none.
    pub(crate) fn prepare(plan: Plan<'_>) -> Self {
        let Plan { program, folder, ports, schedulers, stores, api_version } = plan;
        let (client_ports, rest) = ports.split_at(schedulers.len());
        let (peer_ports, store_ports) = rest.split_at(schedulers.len());
        let client_addresses = addresses(&schedulers, client_ports);
        let peer_addresses = addresses(&schedulers, peer_ports);
        let store_addresses = addresses(&stores, store_ports);
        let initial: Vec<String> = peer_addresses
            .iter()
            .enumerate()
            .map(|(index, peer)| format!("m{}=http://{peer}", index + 1))
            .collect();
        let endpoints: Vec<String> = client_addresses.iter().map(ToString::to_string).collect();
        let node = |name: String, address: SocketAddr, place: &Place, words: Vec<String>| {
            let program = program.display().to_string();
            let through = place.through.iter().cloned();
            Node::new(name, address, folder, through.chain([program]).chain(words).collect())
        };
        let schedulers = schedulers
            .iter()
            .enumerate()
            .map(|(index, place)| {
                let words = [
                    "scheduler",
                    "--name",
                    &format!("m{}", index + 1),
                    "--client-urls",
                    &format!("http://{}", client_addresses[index]),
                    "--peer-urls",
                    &format!("http://{}", peer_addresses[index]),
                    "--initial-cluster",
                    &initial.join(","),
                ]
                .map(str::to_owned);
                let name = format!("scheduler-{}", index + 1);
                node(name, client_addresses[index], place, words.into())
            })
            .collect();
        let stores = stores
            .iter()
            .enumerate()
            .map(|(index, place)| {
                let address = store_addresses[index];
                let words = store_words(address, &endpoints, api_version);
                node(format!("store-{}", index + 1), address, place, words)
            })
            .collect();
        Self { schedulers, stores, api_version, folder: folder.to_owned(), _temporary: None }
    }

    /// Starts one more store, with an empty disk, on an address of its own.
    pub(crate) fn add_store(&mut self) {
        let host = self.stores[0].address.ip();
        let address = free_ports(host, 1)[0];
        let name = format!("store-{}", self.stores.len() + 1);
        let mut words = vec![TESSERA.to_owned()];
        words.extend(store_words(address, &self.endpoints(), self.api_version));
        let mut node = Node::new(name, address, &self.folder, words);
        node.start();
        self.stores.push(node);
    }

    /// Calls a path of PD's HTTP API on the leading member; the status line and the body.
    pub(crate) async fn http(&self, method: &str, path: &str) -> (String, String) {
        let leader = self.leader_scheduler().await;
        let answer = http(self.schedulers[leader].address, method, path);
        tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap()
    }

    /// The id under which the scheduler knows a store.
    pub(crate) async fn store_id(&self, index: usize) -> u64 {
        let (endpoints, stores) = (self.endpoints(), self.stores.len().min(3));
        let complete = readiness::replicas(&endpoints, stores, self.api_version, PATIENCE);
        let stores = complete.await.unwrap().stores;
        let address = self.stores[index].address.to_string();
        stores.iter().find(|store| store.address == address).unwrap().id
    }

    /// Members first.
    pub(crate) fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.schedulers.iter_mut().chain(&mut self.stores)
    }

    pub(crate) fn start_all(&mut self) {
        self.nodes().for_each(Node::start);
    }

    pub(crate) fn kill_all(&mut self) {
        self.nodes().for_each(Node::kill);
    }

    pub(crate) async fn wait_replicas(&self) {
        let stores = self.stores.len();
        readiness::replicas(&self.endpoints(), stores, self.api_version, PATIENCE).await.unwrap();
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.schedulers.iter().map(|node| node.address.to_string()).collect()
    }

    pub(crate) async fn client(&self) -> client::Client {
        readiness::client(&self.endpoints(), self.api_version).await.unwrap()
    }

    /// Which store leads the region of this key, as an index into `stores`.
    pub(crate) async fn leader_store(&self, key: &[u8]) -> usize {
        self.leader_context(key).await.0
    }

    /// The same, with what a request to that leader has to carry.
    pub(crate) async fn leader_context(&self, key: &[u8]) -> (usize, kvrpcpb::Context) {
        let (scheduler, header) = self.scheduler().await;
        let (address, context): (SocketAddr, _) = until("the region to have a leader", || {
            let request = pdpb::GetRegionRequest {
                header: header.clone(),
                region_key: key.to_vec().into(),
                ..Default::default()
            };
            let header = header.clone();
            let mut scheduler = scheduler.clone();
            async move {
                let answer = scheduler.get_region(request).await.ok()?.into_inner();
                let (region, peer) = (answer.region?, answer.leader?);
                let request = pdpb::GetStoreRequest { header, store_id: peer.store_id };
                let store = scheduler.get_store(request).await.ok()?.into_inner().store?;
                let context = kvrpcpb::Context {
                    region_id: region.id,
                    region_epoch: region.region_epoch,
                    peer: Some(peer),
                    ..Default::default()
                };
                Some((store.address.parse().ok()?, context))
            }
        })
        .await;
        let index = self.stores.iter().position(|node| node.address == address).unwrap();
        (index, context)
    }

    /// Which scheduler member leads, as an index into `schedulers`.
    pub(crate) async fn leader_scheduler(&self) -> usize {
        let name = readiness::leader(&self.endpoints(), PATIENCE).await.unwrap();
        let number: usize = name.trim_start_matches('m').parse().unwrap();
        number - 1
    }

    /// The leading member, and the header of requests to it.
    pub(crate) async fn scheduler(
        &self,
    ) -> (PdClient<tonic::transport::Channel>, Option<pdpb::RequestHeader>) {
        let index = self.leader_scheduler().await;
        let url = format!("http://{}", self.schedulers[index].address);
        until("the leading member to answer", || {
            let url = url.clone();
            async move {
                let mut client = PdClient::connect(url).await.ok()?;
                let members = client.get_members(pdpb::GetMembersRequest::default()).await.ok()?;
                let cluster_id = members.into_inner().header?.cluster_id;
                let header = pdpb::RequestHeader { cluster_id, ..Default::default() };
                Some((client, Some(header)))
            }
        })
        .await
    }
}
