//! A cluster made of child processes.
//!
//! Ports are chosen by binding them all at once and letting go right before the children start, or
//! taken from the data directory when it holds a cluster already.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tessera::cluster::layout::{self, Layout};
use tessera::{ApiVersion, SchedulerInfo, StartError, StoreInfo, readiness};
use tokio::process::{Child, Command};

use super::{Topology, start_failure};
use crate::args::PlaygroundFlags;
use crate::exit::{Code, Failure, Outcome};

/// How long children may take to stop on SIGTERM before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

struct Part {
    /// For people: `store 2`, `scheduler m1`.
    name: String,
    /// Service address of a store, client address of a member.
    address: SocketAddr,
    pid: u32,
    child: Child,
}

/// The children of a playground, in the order they were started: members first.
pub(crate) struct Children {
    schedulers: usize,
    parts: Mutex<Vec<Part>>,
    endpoints: Vec<String>,
    api_version: ApiVersion,
    _temporary: Option<tempfile::TempDir>,
}

impl Children {
    /// Starts all of them. On failure those started are killed: a dropped child is.
    pub(crate) async fn start(flags: &PlaygroundFlags, api_version: ApiVersion) -> Outcome<Self> {
        let temporary = match &flags.data {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("tessera-")
                    .tempdir()
                    .map_err(|error| start_failure(StartError::Temporary(error)))?,
            ),
        };
        let directory: PathBuf = match (&flags.data, &temporary) {
            (Some(directory), _) => directory.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => return Err(Failure::failed("there is no folder for the data")),
        };
        let fail = |error: layout::LayoutError| start_failure(StartError::Layout(error));
        let known =
            Layout::load(&directory, flags.stores, flags.schedulers, api_version).map_err(fail)?;
        let layout = match known {
            Some(layout) => layout,
            None => {
                let layout = choose_ports(flags, api_version)?;
                layout.save(&directory).map_err(fail)?;
                layout
            }
        };
        let program = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("find this program: {error}")))?;
        let starter = Starter { flags, layout: &layout, directory: &directory, program: &program };
        let mut parts = Vec::new();
        for index in 0..layout.schedulers.len() {
            parts.push(starter.scheduler(index)?);
        }
        for index in 0..layout.stores.len() {
            parts.push(starter.store(index, api_version)?);
        }
        Ok(Self {
            schedulers: layout.schedulers.len(),
            parts: Mutex::new(parts),
            endpoints: starter.endpoints(),
            api_version,
            _temporary: temporary,
        })
    }

    /// Where everything is; waits until every store has joined and so has an id.
    pub(crate) async fn topology(&self, timeout: Duration) -> Outcome<Topology> {
        let stores = self.parts().len() - self.schedulers;
        let waiting = readiness::replicas(&self.endpoints, stores, self.api_version, timeout);
        let complete = tokio::select! {
            complete = waiting => complete.map_err(|error| Failure::new(Code::Timeout, error))?,
            () = self.first_death() => {
                return Err(Failure::failed("a child process ended during the start; its log is above"));
            }
        };
        let parts = self.parts();
        let schedulers = parts[..self.schedulers]
            .iter()
            .map(|part| SchedulerInfo {
                name: part.name.trim_start_matches("scheduler ").to_owned(),
                client_url: format!("http://{}", part.address),
                pid: part.pid,
            })
            .collect();
        let mut stores = Vec::new();
        for part in &parts[self.schedulers..] {
            let address = part.address.to_string();
            let id = complete.stores.iter().find(|store| store.address == address);
            let id = id.map_or(0, |store| store.id);
            stores.push(StoreInfo { id, address, pid: part.pid });
        }
        Ok(Topology { endpoints: self.endpoints.clone(), stores, schedulers })
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().expect("nobody panics while holding the list of children")
    }

    /// Returns when some child has ended.
    async fn first_death(&self) {
        let all = self.parts().len();
        while self.reap().is_empty() && self.parts().len() == all {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Says when a child has ended, and returns when none is left.
    pub(crate) async fn tell_of_deaths(&self) {
        while !self.parts().is_empty() {
            for (name, pid, status) in self.reap() {
                eprintln!("{name} (process {pid}) ended: {status}; the others go on");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn reap(&self) -> Vec<(String, u32, ExitStatus)> {
        let mut ended = Vec::new();
        self.parts().retain_mut(|part| match part.child.try_wait() {
            Ok(Some(status)) => {
                ended.push((part.name.clone(), part.pid, status));
                false
            }
            Ok(None) | Err(_) => true,
        });
        ended
    }

    /// Asks stores, then members, to stop; kills those that do not in time.
    pub(crate) async fn stop(self) {
        let mut parts = self.parts.into_inner().expect("nobody panics while holding the list");
        parts.reverse();
        for part in &parts {
            if let Ok(pid) = i32::try_from(part.pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        for part in &mut parts {
            if tokio::time::timeout(STOP_TIMEOUT, part.child.wait()).await.is_err() {
                eprintln!("{} (process {}) did not stop in time: killed", part.name, part.pid);
                let _ = part.child.kill().await;
            }
        }
    }
}

/// Binds a free port for everything, then lets go of all of them.
fn choose_ports(flags: &PlaygroundFlags, api_version: ApiVersion) -> Outcome<Layout> {
    let mut held = Vec::new();
    let mut choose = |port: u16| {
        let address = SocketAddr::new(flags.host, port);
        let listener = TcpListener::bind(address)
            .map_err(|cause| start_failure(StartError::Listen { address, cause }))?;
        let port = listener.local_addr().map_err(Failure::failed)?.port();
        held.push(listener);
        Ok::<u16, Failure>(port)
    };
    let mut schedulers = Vec::new();
    for member in 0..flags.schedulers {
        schedulers.push((choose(if member == 0 { flags.port } else { 0 })?, choose(0)?));
    }
    let mut stores = Vec::new();
    for _ in 0..flags.stores {
        stores.push((choose(0)?, choose(0)?));
    }
    Ok(Layout { api_version: layout::name_of(api_version).into(), schedulers, stores })
}

struct Starter<'a> {
    flags: &'a PlaygroundFlags,
    layout: &'a Layout,
    directory: &'a Path,
    program: &'a Path,
}

impl Starter<'_> {
    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.flags.host, port)
    }

    fn url(&self, port: u16) -> String {
        format!("http://{}", self.address(port))
    }

    fn endpoints(&self) -> Vec<String> {
        self.layout.schedulers.iter().map(|(client, _)| self.address(*client).to_string()).collect()
    }

    fn scheduler(&self, index: usize) -> Outcome<Part> {
        let initial: Vec<String> = self
            .layout
            .schedulers
            .iter()
            .enumerate()
            .map(|(index, (_, peer))| format!("m{}={}", index + 1, self.url(*peer)))
            .collect();
        let (client, peer) = self.layout.schedulers[index];
        let mut command = self.command("scheduler");
        command
            .args(["--name", &format!("m{}", index + 1)])
            .args(["--client-urls", &self.url(client)])
            .args(["--peer-urls", &self.url(peer)])
            .args(["--initial-cluster", &initial.join(",")])
            .arg("--data-dir")
            .arg(layout::scheduler_folder(self.directory, index + 1));
        self.spawn(command, format!("scheduler m{}", index + 1), client)
    }

    fn store(&self, index: usize, api_version: ApiVersion) -> Outcome<Part> {
        let (service, status) = self.layout.stores[index];
        let mut command = self.command("store");
        command
            .args(["--addr", &self.address(service).to_string()])
            .args(["--status-addr", &self.address(status).to_string()])
            .args(["--pd-endpoints", &self.endpoints().join(",")])
            .args(["--api-version", layout::name_of(api_version)])
            .arg("--data-dir")
            .arg(layout::store_folder(self.directory, index + 1));
        self.spawn(command, format!("store {}", index + 1), service)
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.program);
        command
            .args([subcommand, "--with-parent", "--log-level", &self.flags.log_level])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            // Ctrl-C is for the parent, which stops its children in order.
            .process_group(0);
        command
    }

    fn spawn(&self, mut command: Command, name: String, port: u16) -> Outcome<Part> {
        let child =
            command.spawn().map_err(|error| Failure::failed(format!("start {name}: {error}")))?;
        let pid = child.id().unwrap_or_default();
        Ok(Part { name, address: self.address(port), pid, child })
    }
}
