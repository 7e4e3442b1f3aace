//! A network of its own: every node in a namespace, all on one bridge, links cut by nftables.
//!
//! ```text
//!   clients (this process) ── bridge 198.18.N.1 ──┬── veth ── namespace of m1   198.18.N.2
//!                                                 ├── veth ── namespace of m2   198.18.N.3
//!                                                 └── …
//! ```
//!
//! A cut from `a` to `b` is a rule in `b`'s namespace that drops what arrives from `a`: packets are
//! lost in silence, as by a broken switch, and one direction can fail alone. Clients reach every node
//! at all times, which is the hard case: a leader that is cut off still hears questions.
//!
//! Names carry the process's id, so that runs beside each other do not meet, and so that a later run
//! can remove what a killed one has left.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use crate::cluster::Place;

/// What every name begins with; interfaces have at most 15 letters.
const PREFIX: &str = "tsc";

/// The nodes' network. Removed when dropped.
pub(super) struct Network {
    bridge: String,
    /// One namespace a node, and the node's address.
    nodes: Vec<(String, IpAddr)>,
    /// What is cut now, as (from, to).
    cuts: BTreeSet<(usize, usize)>,
}

impl Network {
    /// A network for so many nodes, or why this machine or this user cannot have one.
    pub(super) fn lay(nodes: usize) -> Result<Self, String> {
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            run(&[program, "-V"]).map_err(|_| format!("`{program}` is missing ({package})"))?;
        }
        remove_leftovers();
        let id = std::process::id();
        let net = (id % 256) as u8;
        let host = |number: u8| IpAddr::V4(Ipv4Addr::new(198, 18, net, number));
        let mut network =
            Self { bridge: format!("{PREFIX}{id}"), nodes: Vec::new(), cuts: BTreeSet::new() };
        let bridge = network.bridge.clone();
        run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        run(&["ip", "address", "add", &format!("{}/24", host(1)), "dev", &bridge])?;
        run(&["ip", "link", "set", &bridge, "up"])?;
        for number in 0..nodes {
            let (name, address) = (format!("{bridge}n{number}"), host(number as u8 + 2));
            run(&["ip", "netns", "add", &name])?;
            network.nodes.push((name.clone(), address));
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
            run(&[&["ip", "link", "add", &name][..], &peer].concat())?;
            run(&["ip", "link", "set", &name, "master", &bridge, "up"])?;
            run(&["ip", "-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
            run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
            network.apply(number)?;
        }
        Ok(network)
    }

    /// The clients' own address on the bridge.
    pub(super) fn own_address(&self) -> IpAddr {
        let IpAddr::V4(address) = self.nodes[0].1 else {
            unreachable!("addresses are of version 4")
        };
        let [a, b, c, _] = address.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, 1))
    }

    /// Where each node runs.
    pub(super) fn places(&self) -> Vec<Place> {
        let place = |(name, host): &(String, IpAddr)| Place {
            host: *host,
            through: ["ip", "netns", "exec", name].map(str::to_owned).into(),
        };
        self.nodes.iter().map(place).collect()
    }

    /// Nothing sent by the first arrives at the second any more.
    pub(super) fn cut(&mut self, links: &[(usize, usize)]) {
        self.cuts.extend(links);
        self.apply_all(links);
    }

    /// It does again.
    pub(super) fn restore(&mut self, links: &[(usize, usize)]) {
        self.cuts.retain(|cut| !links.contains(cut));
        self.apply_all(links);
    }

    fn apply_all(&self, links: &[(usize, usize)]) {
        let receivers: BTreeSet<usize> = links.iter().map(|(_, to)| *to).collect();
        for receiver in receivers {
            self.apply(receiver).expect("rules could be set before");
        }
    }

    /// Sets the rules of one receiver, in one step.
    fn apply(&self, receiver: usize) -> Result<(), String> {
        let mut rules = String::from("flush ruleset\ntable inet chaos {\n chain arriving {\n");
        rules.push_str("  type filter hook input priority 0; policy accept;\n");
        for (from, _) in self.cuts.iter().filter(|(_, to)| *to == receiver) {
            rules.push_str(&format!("  ip saddr {} drop\n", self.nodes[*from].1));
        }
        rules.push_str(" }\n}\n");
        let words = ["ip", "netns", "exec", &self.nodes[receiver].0, "nft", "-f", "-"];
        run_with(&words, &rules)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.bridge, &self.nodes.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }
}

/// Removes what runs that were killed have left: their process is gone, their names are not.
fn remove_leftovers() {
    let list = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    };
    let spaces = list(&["ip", "netns", "list"]);
    let links = list(&["ip", "-o", "link", "show", "type", "bridge"]);
    let named = |text: &str| -> Vec<String> {
        let words = text.split([' ', ':', '\n']).filter(|word| word.starts_with(PREFIX));
        words.map(str::to_owned).collect()
    };
    for bridge in named(&links) {
        let id = &bridge[PREFIX.len()..];
        let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !std::path::Path::new("/proc").join(id).exists() {
            let begin = format!("{bridge}n");
            let mut spaces = named(&spaces);
            spaces.retain(|space| space.starts_with(&begin));
            remove(&bridge, &spaces);
        }
    }
}

/// A namespace takes its end of the cable with it, and so the other end.
fn remove(bridge: &str, spaces: &[String]) {
    for space in spaces {
        let _ = run(&["ip", "netns", "delete", space]);
    }
    let _ = run(&["ip", "link", "delete", bridge]);
}

fn run(words: &[&str]) -> Result<(), String> {
    run_with(words, "")
}

fn run_with(words: &[&str], input: &str) -> Result<(), String> {
    let failed = |why: String| format!("`{}`: {why}", words.join(" "));
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // A program that does not read its input may be gone by now.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failed(said.trim().to_owned())) }
}
