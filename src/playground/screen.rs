//! The first screen: at most twelve lines, each with a reason to be there.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Instant;

use tessera::ApiVersion;
use tessera::readiness::Complete;

use super::Topology;

/// What is told while a cluster starts, and since when it starts.
pub(crate) struct Screen {
    start: Instant,
    tick: &'static str,
}

impl Screen {
    /// Says first what happens to the data.
    pub(crate) fn begin(data: Option<&Path>, start: Instant) -> Self {
        let place = match data {
            Some(directory) => format!("data in {} (kept)", super::shown(directory)),
            None => "data in a temporary folder (deleted on exit; keep with --data DIR)".into(),
        };
        let screen =
            Self { start, tick: if std::io::stdout().is_terminal() { "✓" } else { "ok" } };
        screen.line(&format!("tessera playground · {place}"));
        screen
    }

    fn line(&self, text: &str) {
        // Nobody may be reading; that is no reason to stop a cluster.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    fn step(&self, name: &str, what: &str) {
        let took = self.start.elapsed().as_millis();
        self.line(&format!("  {name:<10} {} {what:<40} {took:>5} ms", self.tick));
    }

    pub(crate) fn complete(&mut self, complete: &Complete, schedulers: usize) {
        self.step(
            "scheduler",
            &format!("{schedulers} {}, leader {}", plural(schedulers, "member"), complete.leader),
        );
        self.step(
            "stores",
            &format!(
                "{} up, {} {}, all replicas",
                complete.stores.len(),
                complete.regions,
                plural(complete.regions, "region")
            ),
        );
    }

    pub(crate) fn ready(&self, topology: &Topology, api_version: ApiVersion) {
        let probe = match api_version {
            ApiVersion::V1Ttl => "wrote and read a key through raft",
            ApiVersion::V1 | ApiVersion::V2 => "committed a transaction through raft",
        };
        self.step("probe", probe);
        let endpoint = topology.endpoints.first().cloned().unwrap_or_default();
        let pd =
            if endpoint.ends_with(":2379") { String::new() } else { format!(" --pd {endpoint}") };
        let keyspace = if api_version == ApiVersion::V2 { " --keyspace DEFAULT" } else { "" };
        self.line(&format!("PD endpoint  {endpoint}     (official TiKV clients: use this)"));
        self.line(&format!("HTTP         http://{endpoint}/pd/api/v1/regions"));
        self.line(&format!("Try          tessera ctl{pd} status"));
        self.line(&format!("             tessera ctl{pd} raw put{keyspace} greeting hello"));
        self.line(&format!("             tessera ctl{pd} raw get{keyspace} greeting"));
        self.line("Ctrl-C once: stop cleanly · twice: stop now");
    }

    pub(crate) fn stopping(&self) {
        eprintln!("stopping");
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
