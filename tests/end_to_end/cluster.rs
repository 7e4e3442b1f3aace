//! Real programs on loopback, restarted on the same address, killed on drop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
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
    let child = Command::new(TESSERA)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
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

/// One node: how it is started, and the process while it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(TESSERA)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
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

/// Scheduler members and stores, each a process.
pub(crate) struct Processes {
    pub(crate) schedulers: Vec<Node>,
    pub(crate) stores: Vec<Node>,
    pub(crate) api_version: ApiVersion,
    _folder: TempDir,
}

impl Processes {
    /// Starts all of them and waits until every region has its replicas.
    pub(crate) async fn start(schedulers: usize, stores: usize, api_version: ApiVersion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = own_address();
        let ports = free_ports(host, 2 * schedulers + stores);
        let (client_ports, rest) = ports.split_at(schedulers);
        let (peer_ports, store_ports) = rest.split_at(schedulers);
        let initial: Vec<String> = peer_ports
            .iter()
            .enumerate()
            .map(|(index, peer)| format!("m{}=http://{peer}", index + 1))
            .collect();
        let endpoints: Vec<String> = client_ports.iter().map(ToString::to_string).collect();
        let node = |name: String, address: SocketAddr, words: Vec<String>| Node {
            folder: folder.path().join(&name),
            log: folder.path().join(format!("{name}.log")),
            arguments: words
                .into_iter()
                .chain(["--data-dir".into(), folder.path().join(&name).display().to_string()])
                .collect(),
            name,
            address,
            child: None,
        };
        let schedulers = (0..schedulers)
            .map(|index| {
                let words = [
                    "scheduler",
                    "--name",
                    &format!("m{}", index + 1),
                    "--client-urls",
                    &format!("http://{}", client_ports[index]),
                    "--peer-urls",
                    &format!("http://{}", peer_ports[index]),
                    "--initial-cluster",
                    &initial.join(","),
                ]
                .map(str::to_owned);
                node(format!("scheduler-{}", index + 1), client_ports[index], words.into())
            })
            .collect();
        let stores = (0..stores)
            .map(|index| {
                let words = store_words(store_ports[index], &endpoints, api_version);
                node(format!("store-{}", index + 1), store_ports[index], words)
            })
            .collect();
        let mut processes = Self { schedulers, stores, api_version, _folder: folder };
        processes.start_all();
        processes.wait_replicas().await;
        processes
    }

    /// Starts one more store, with an empty disk, on an address of its own.
    pub(crate) fn add_store(&mut self) {
        let host = self.stores[0].address.ip();
        let address = free_ports(host, 1)[0];
        let name = format!("store-{}", self.stores.len() + 1);
        let folder = self._folder.path().join(&name);
        let mut arguments = store_words(address, &self.endpoints(), self.api_version);
        arguments.extend(["--data-dir".into(), folder.display().to_string()]);
        let log = self._folder.path().join(format!("{name}.log"));
        let mut node = Node { name, address, folder, arguments, log, child: None };
        node.start();
        self.stores.push(node);
    }

    /// Calls a path of PD's HTTP API on the leading member; the status line and the body.
    pub(crate) async fn http(&self, method: &str, path: &str) -> (String, String) {
        let leader = self.leader_scheduler().await;
        let mut stream =
            tokio::net::TcpStream::connect(self.schedulers[leader].address).await.unwrap();
        let request = format!(
            "{method} /pd/api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// The id under which the scheduler knows a store.
    pub(crate) async fn store_id(&self, index: usize) -> u64 {
        let (endpoints, stores) = (self.endpoints(), self.stores.len().min(3));
        let complete = readiness::replicas(&endpoints, stores, self.api_version, PATIENCE);
        let stores = complete.await.unwrap().stores;
        let address = self.stores[index].address.to_string();
        stores.iter().find(|store| store.address == address).unwrap().id
    }

    pub(crate) fn start_all(&mut self) {
        self.schedulers.iter_mut().chain(&mut self.stores).for_each(Node::start);
    }

    pub(crate) fn kill_all(&mut self) {
        self.schedulers.iter_mut().chain(&mut self.stores).for_each(Node::kill);
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
        let (scheduler, header) = self.scheduler().await;
        let address: SocketAddr = until("the region to have a leader", || {
            let request = pdpb::GetRegionRequest {
                header: header.clone(),
                region_key: key.to_vec().into(),
                ..Default::default()
            };
            let header = header.clone();
            let mut scheduler = scheduler.clone();
            async move {
                let leader = scheduler.get_region(request).await.ok()?.into_inner().leader?;
                let request = pdpb::GetStoreRequest { header, store_id: leader.store_id };
                let store = scheduler.get_store(request).await.ok()?.into_inner().store?;
                store.address.parse().ok()
            }
        })
        .await;
        self.stores.iter().position(|node| node.address == address).unwrap()
    }

    /// Which scheduler member leads, as an index into `schedulers`.
    pub(crate) async fn leader_scheduler(&self) -> usize {
        let name = readiness::leader(&self.endpoints(), PATIENCE).await.unwrap();
        let number: usize = name.trim_start_matches('m').parse().unwrap();
        number - 1
    }

    async fn scheduler(
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
