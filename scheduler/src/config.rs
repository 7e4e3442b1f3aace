//! How one member of the scheduler is started.
//!
//! Field by field this is pd-server's configuration where the meaning is the same; the program
//! reads flags and files into it. [`Config::validate`] runs once, at the edge.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::Policy;

/// Where a member keeps its log.
#[derive(Clone, Debug)]
pub enum Data {
    /// In memory: gone when the member stops. For tests and short demonstrations.
    Memory,
    /// In this directory, made if it is not there.
    Path(PathBuf),
}

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// Bind this address; port 0 is any free port.
    On(SocketAddr),
    /// Use a socket that is bound already.
    Bound(TcpListener),
}

/// The configuration of one member.
#[derive(Debug)]
pub struct Config {
    /// pd-server's `name`: unique in the cluster, and never changed once the data exists.
    pub name: String,
    /// pd-server's `data-dir`.
    pub data: Data,
    /// pd-server's `client-urls`: gRPC and HTTP for stores, clients and tools.
    pub client_listen: Listen,
    /// pd-server's `peer-urls`: for the other members only.
    pub peer_listen: Listen,
    /// pd-server's `advertise-client-urls`; empty is `http://` and the address bound.
    pub advertise_client_urls: Vec<String>,
    /// pd-server's `advertise-peer-urls`; empty is `http://` and the address bound.
    pub advertise_peer_urls: Vec<String>,
    /// pd-server's `initial-cluster`: names and peer URLs of all founding members, the same list
    /// for each; empty is this member alone. *cluster*
    pub initial_cluster: Vec<(String, String)>,
    /// pd-server's `join`: client URLs of a running cluster. Excludes `initial_cluster`.
    pub join: Vec<String>,
    /// How long to go on asking to be let in before the start fails.
    pub join_timeout: Duration,
    /// The length of a raft tick. *cluster*
    pub tick: Duration,
    /// Ticks between a leader's heartbeats. *cluster*
    pub heartbeat_ticks: usize,
    /// Ticks of silence after which a member may ask for votes; the upper end of the random
    /// choice is twice this. *cluster*
    pub election_ticks: usize,
    /// Ticks a leader may serve after a heartbeat was sent that a quorum answered. Less than
    /// `election_ticks` by enough for clocks that differ a little. *cluster*
    pub lease_ticks: u32,
    /// What a new cluster should look like (`replication` and `schedule` in pd-server's file).
    /// Once a cluster exists, its replicated settings count.
    pub policy: Policy,
    /// Whether regions are cut at the bounds of keyspaces. Needed where stores speak API V2:
    /// clients of it expect that no region holds keys of two keyspaces. *cluster*
    pub split_keyspaces: bool,
}

impl Default for Config {
    fn default() -> Self {
        let any = |port| Listen::On(SocketAddr::from(([127, 0, 0, 1], port)));
        Self {
            name: "scheduler".into(),
            data: Data::Memory,
            client_listen: any(2379),
            peer_listen: any(2380),
            advertise_client_urls: Vec::new(),
            advertise_peer_urls: Vec::new(),
            initial_cluster: Vec::new(),
            join: Vec::new(),
            join_timeout: Duration::from_secs(30),
            tick: Duration::from_millis(100),
            heartbeat_ticks: 2,
            election_ticks: 10,
            lease_ticks: 8,
            policy: Policy::default(),
            split_keyspaces: false,
        }
    }
}

impl Config {
    /// Says what cannot be meant, if anything.
    pub fn validate(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("name must not be empty".into());
        }
        if !self.join.is_empty() && !self.initial_cluster.is_empty() {
            return Err("join and initial-cluster exclude each other".into());
        }
        if self.tick.is_zero() {
            return Err("tick must not be zero".into());
        }
        if self.heartbeat_ticks == 0 || self.heartbeat_ticks >= self.election_ticks {
            return Err("heartbeat-ticks must lie between 1 and election-ticks - 1".into());
        }
        // One tick is lost to where in its interval a heartbeat arrives, one is left for clocks.
        if self.lease_ticks == 0 || self.lease_ticks as usize + 2 > self.election_ticks {
            return Err("lease-ticks must lie between 1 and election-ticks - 2".into());
        }
        let urls = self
            .advertise_client_urls
            .iter()
            .chain(&self.advertise_peer_urls)
            .chain(self.initial_cluster.iter().map(|(_, url)| url))
            .chain(&self.join);
        for url in urls {
            check_url(url)?;
        }
        self.policy.validate()
    }
}

/// A URL as members and clients exchange them: scheme, host and port, nothing else.
fn check_url(url: &str) -> Result<(), String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("{url:?} is not a URL of the form http://host:port"))?;
    let port = rest.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/'));
    match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port != 0 => Ok(()),
        _ => Err(format!("{url:?} does not end in a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        let cases: [(Config, &str); 6] = [
            (Config { name: String::new(), ..Config::default() }, "name"),
            (Config { join: vec!["127.0.0.1:2379".into()], ..Config::default() }, "http://"),
            (Config { join: vec!["http://a".into()], ..Config::default() }, "port"),
            (Config { lease_ticks: 10, ..Config::default() }, "lease-ticks"),
            (Config { heartbeat_ticks: 10, ..Config::default() }, "heartbeat-ticks"),
            (
                Config {
                    join: vec!["http://a:1".into()],
                    initial_cluster: vec![("a".into(), "http://a:2".into())],
                    ..Config::default()
                },
                "exclude",
            ),
        ];
        for (config, expected) in cases {
            let error = config.validate().unwrap_err();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
    }
}
