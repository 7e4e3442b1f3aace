//! `tessera playground`: a whole local cluster, ready in a moment.
//!
//! In one process by default: [`tessera::Cluster`] plus a terminal. With `--processes`, every store
//! and scheduler member is a child process of this one, started with the same flags a person would
//! use, so that one of them can be killed; children end with their parent, however it ends.

#![allow(clippy::print_stdout, reason = "the first screen is what this command is for")]

mod children;
mod ready_file;
mod screen;

use std::path::Path;
use std::time::{Duration, Instant};

use tessera::cluster::layout::LayoutError;
use tessera::{ApiVersion, Cluster, SchedulerInfo, StartError, StoreInfo, readiness};

use crate::args::PlaygroundFlags;
use crate::exit::{Code, Failure, Outcome};
use crate::server::{code_of_scheduler, code_of_store};
use crate::{logging, process};
use children::Children;
use screen::Screen;

/// How long each step of the start may take before it is given up.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Where everything is, once it runs.
pub(crate) struct Topology {
    pub(crate) endpoints: Vec<String>,
    pub(crate) stores: Vec<StoreInfo>,
    pub(crate) schedulers: Vec<SchedulerInfo>,
}

enum Running {
    Here(Cluster),
    Children(Children),
}

/// Starts, waits for Ctrl-C or SIGTERM, stops.
pub(crate) async fn run(flags: PlaygroundFlags) -> Outcome {
    if flags.host.is_unspecified() {
        return Err(Failure::usage(format!(
            "--host {}: members, stores and clients are told this address: name one of this machine's",
            flags.host
        )));
    }
    logging::start(&flags.log_level, None)?;
    process::raise_file_limit();
    if let Some(file) = &flags.ready_file {
        // A file of an earlier run must not be taken for this one's.
        let _ = std::fs::remove_file(file);
    }
    let start = Instant::now();
    let api_version = ApiVersion::from(flags.api_version);
    // A signal during the start must not leave children or a temporary folder behind. Whoever reads the
    // first line may send one: it is listened for by then.
    let starting = async {
        let mut screen = Screen::begin(flags.data.as_deref(), start);
        let running = start_all(&flags, api_version).await?;
        let topology = running.topology().await?;
        let complete = readiness::replicas(
            &topology.endpoints,
            topology.stores.len(),
            api_version,
            STEP_TIMEOUT,
        )
        .await
        .map_err(not_ready)?;
        screen.complete(&complete, topology.schedulers.len());
        tokio::time::timeout(STEP_TIMEOUT, readiness::probe(&topology.endpoints, api_version))
            .await
            .map_err(|_| Failure::new(Code::Timeout, "the first write and read took too long"))?
            .map_err(|error| Failure::failed(format!("the first write and read: {error}")))?;
        Ok::<_, Failure>((screen, running, topology))
    };
    let (screen, running, topology) = tokio::select! {
        biased;
        signal = process::stop_signal() => {
            signal?;
            let what = "interrupted before the cluster was ready";
            return Err(Failure::new(Code::Interrupted, what));
        }
        started = starting => started?,
    };
    screen.ready(&topology, api_version);
    if let Some(file) = &flags.ready_file {
        ready_file::write(file, &topology)?;
    }
    let outcome = wait(&running).await;
    screen.stopping();
    running.stop().await;
    if let Some(file) = &flags.ready_file {
        let _ = std::fs::remove_file(file);
    }
    outcome
}

async fn start_all(flags: &PlaygroundFlags, api_version: ApiVersion) -> Outcome<Running> {
    if flags.processes {
        return Ok(Running::Children(Children::start(flags, api_version).await?));
    }
    let builder = Cluster::builder()
        .stores(flags.stores)
        .schedulers(flags.schedulers)
        .host(flags.host)
        .port(flags.port)
        .api_version(api_version);
    let builder = match &flags.data {
        Some(directory) => builder.data(directory),
        None => builder.temporary(),
    };
    builder.start().await.map(Running::Here).map_err(start_failure)
}

/// Ends with the first signal. The end of a child is told, and the rest goes on.
async fn wait(running: &Running) -> Outcome {
    match running {
        Running::Here(_) => process::stop_signal().await,
        Running::Children(children) => {
            tokio::select! {
                signal = process::stop_signal() => signal,
                () = children.tell_of_deaths() => Err(Failure::failed("every child process has ended")),
            }
        }
    }
}

impl Running {
    async fn topology(&self) -> Outcome<Topology> {
        match self {
            Self::Here(cluster) => Ok(Topology {
                endpoints: cluster.pd_endpoints(),
                stores: cluster.stores(),
                schedulers: cluster.schedulers(),
            }),
            Self::Children(children) => children.topology(STEP_TIMEOUT).await,
        }
    }

    async fn stop(self) {
        match self {
            Self::Here(cluster) => cluster.stop().await,
            Self::Children(children) => children.stop().await,
        }
    }
}

fn not_ready(error: readiness::NotReady) -> Failure {
    Failure::new(Code::Timeout, error)
}

/// A person's mistake (a used port, a directory of something else) ends with 2.
fn start_failure(error: StartError) -> Failure {
    let code = match &error {
        StartError::Layout(LayoutError::Different { .. } | LayoutError::Foreign { .. })
        | StartError::Listen { .. } => Code::Usage,
        StartError::Layout(LayoutError::Access { cause, .. }) if is_mistake(cause) => Code::Usage,
        StartError::Scheduler { cause, .. } => code_of_scheduler(cause),
        StartError::Store { cause, .. } => code_of_store(cause),
        StartError::NotReady(_) => Code::Timeout,
        StartError::Layout(LayoutError::Access { .. } | LayoutError::Damaged { .. })
        | StartError::Temporary(_) => Code::Failed,
    };
    let is_taken = matches!(&error, StartError::Listen { cause, .. }
        if cause.kind() == std::io::ErrorKind::AddrInUse);
    let hint =
        if is_taken { " (is another cluster running? --port 0 takes a free port)" } else { "" };
    Failure::new(code, format!("{error}{hint}"))
}

/// The directory is no directory, or not for this person to use.
fn is_mistake(cause: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        cause.kind(),
        ErrorKind::NotADirectory | ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// How a path is told to a person.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
