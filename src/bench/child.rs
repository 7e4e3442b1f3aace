//! A playground as a child process, for benchmarks that bring their own cluster.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::exit::{Code, Failure, Outcome};

/// How long a playground may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Playground {
    child: Child,
    folder: tempfile::TempDir,
    /// The contents of its ready file.
    pub(crate) ready: Value,
    /// From the start of the process to its first committed transaction.
    pub(crate) took: Duration,
}

impl Playground {
    /// Starts this program as a playground on free ports.
    pub(crate) async fn start(processes: bool) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let folder = tempfile::tempdir().map_err(Failure::failed)?;
        let file: PathBuf = folder.path().join("ready.json");
        let mut command = Command::new(program);
        command.args(["playground", "--port", "0", "--ready-file"]).arg(&file);
        if processes {
            command.arg("--processes");
        }
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::failed)?;
        loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                let took = start.elapsed();
                let ready = serde_json::from_str(&text).map_err(Failure::failed)?;
                return Ok(Self { child, folder, ready, took });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::failed(format!("the playground ended early: {status}")));
            }
            if start.elapsed() > READY_TIMEOUT {
                return Err(Failure::new(Code::Timeout, "the playground did not become ready"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// `host:port` of the scheduler members.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let all = self.ready["pd_endpoints"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(mut self) -> Outcome {
        if let Ok(pid) = i32::try_from(self.pid()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = tokio::time::timeout(READY_TIMEOUT, self.child.wait()).await;
        drop(self.folder);
        Ok(())
    }
}
