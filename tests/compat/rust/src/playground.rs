//! A playground as a child process, stopped when dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tikv_client::Config;

/// How long a playground may take to be ready on a slow machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster setting of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    V1,
    V1Ttl,
    V2,
}

impl ApiVersion {
    fn flag(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V1Ttl => "1ttl",
            Self::V2 => "2",
        }
    }

    pub fn has_ttl(self) -> bool {
        self != Self::V1
    }
}

pub struct Playground {
    child: Child,
    api: ApiVersion,
    endpoints: Vec<String>,
    ready_file: PathBuf,
}

impl Playground {
    /// Starts the program and waits until its first write and read have gone through raft.
    pub async fn start(program: &str, api: ApiVersion, processes: bool) -> Result<Self> {
        let nonce = format!("{}-{:?}-{processes}", std::process::id(), api);
        let ready_file = std::env::temp_dir().join(format!("tessera-compat-{nonce}.json"));
        let _ = std::fs::remove_file(&ready_file);
        let mut command = Command::new(program);
        command.args(["playground", "--port", "0", "--api-version", api.flag(), "--ready-file"]);
        command.arg(&ready_file);
        if processes {
            command.arg("--processes");
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut playground = Self { child, api, endpoints: Vec::new(), ready_file };
        let start = Instant::now();
        let text = loop {
            if let Ok(text) = std::fs::read_to_string(&playground.ready_file) {
                break text;
            }
            if let Some(status) = playground.child.try_wait()? {
                bail!("the playground ended before it was ready: {status}");
            }
            if start.elapsed() > READY_TIMEOUT {
                bail!("the playground was not ready within {READY_TIMEOUT:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let ready: serde_json::Value = serde_json::from_str(&text)?;
        playground.endpoints = ready["pd_endpoints"]
            .as_array()
            .context("the ready file names no endpoints")?
            .iter()
            .filter_map(|endpoint| endpoint.as_str().map(str::to_owned))
            .collect();
        Ok(playground)
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints.clone()
    }

    pub fn api(&self) -> ApiVersion {
        self.api
    }

    /// The client's configuration: a keyspace where the API has keyspaces.
    pub fn config(&self) -> Config {
        let config = Config::default().with_timeout(Duration::from_secs(10));
        if self.api == ApiVersion::V2 { config.with_default_keyspace() } else { config }
    }

    /// Asks the program to stop, and expects it to do so cleanly.
    pub fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().context("send SIGTERM")?;
        let start = Instant::now();
        while start.elapsed() < READY_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the playground ended with {status} on SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the playground did not stop within {READY_TIMEOUT:?} of SIGTERM")
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.ready_file);
    }
}
