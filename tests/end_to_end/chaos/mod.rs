//! Chaos: the real program, broken on purpose for a while, then healed and judged.
//!
//! Scheduler members and stores are processes, killed, stopped and cut off from each other by a
//! schedule that a seed decides (`nemesis.rs`, `acts.rs`), while clients work (`load/`): raw calls,
//! and transactions of all kinds, through the client crate. Where this machine and this user allow
//! it, every node has a network namespace of its own and links are cut there, one way or both
//! (`network.rs`); elsewhere all share a loopback address and nothing is cut. At the end everything
//! is killed at once and started again on a whole network, and then
//!
//! 1. every client is answered again; how long that took is told,
//! 2. every region has its replicas,
//! 3. every acknowledged write is there, and every balance is what the transfers make it,
//! 4. every register's history is linearizable,
//! 5. transactions have kept to snapshot isolation: by their lists, and by their timestamps,
//! 6. every call has come back soon after its deadline (`watch.rs`),
//! 7. no process has ended by itself.
//!
//! A commit may end without anybody knowing how: it is counted as unknown, and what became of it is
//! read from the stores at the end (`judgement.rs`).
//!
//! ```text
//! cargo xtask chaos --minutes 5 --seed 7
//! ```
//!
//! Among the suite's tests it runs for some seconds on loopback. A seed repeats what is done, when,
//! and to whom as far as that is drawn; what processes make of it differs each time. A failure keeps
//! logs, diary and history, and prints where.
//!
//! Left out: power loss and disks that fail (the simulator has them), delay and loss of single
//! packets, clocks that jump, clients that are killed (commits dropped half-way stand for them).

mod acts;
mod judgement;
mod load;
mod nemesis;
mod network;
mod report;
mod scout;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tessera::{ApiVersion, readiness};
use tests::sim::dice::Dice;

use self::acts::{Scene, hurt_links, hurt_processes, rearrange, revive};
use self::judgement::{judge, tell};
use self::load::{Books, Kind, Load};
use self::nemesis::{Lane, Mischief};
use self::network::Network;
use self::report::Diary;
use self::scout::Scout;
use crate::cluster::{Place, Plan, Processes, TESSERA, free_ports, own_address, until};

/// How long faults are injected when nobody says, and how long each may last then: longer than a
/// lease and an election.
const SHORT: Duration = Duration::from_secs(8);
const SHORT_STEP: Duration = Duration::from_millis(1_200);
/// The seed of the short run, so that the suite does the same each time.
const SHORT_SEED: u64 = 1;
const MEMBERS: usize = 3;
/// One more than replicas: regions move.
const STORES: usize = 4;
/// A healed cluster should serve everybody within this; more is told as a finding of the long run.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Transactions may have to wait as long again: for locks that were left when everything was killed,
/// which live for some seconds and for as long as their transaction had taken.
const TRANSACTIONS_RECOVERY_MAX: Duration = Duration::from_secs(20);
/// Replicas may need a snapshot after the last fault.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(120);

/// What was asked for.
struct Order {
    lasts: Duration,
    seed: u64,
    /// Whether links are to be cut, and the program to be protected from being built anew meanwhile.
    is_long: bool,
}

impl Order {
    fn from_environment() -> Self {
        let read = |name: &str| std::env::var(name).ok();
        let minutes: Option<f64> = read("TESSERA_CHAOS_MINUTES")
            .map(|text| text.parse().expect("TESSERA_CHAOS_MINUTES is a number"));
        let seed = read("TESSERA_CHAOS_SEED")
            .map(|text| text.parse().expect("TESSERA_CHAOS_SEED is a number"));
        match minutes {
            Some(minutes) => Self {
                lasts: Duration::from_secs_f64(minutes * 60.0),
                seed: seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
                is_long: true,
            },
            None => Self { lasts: SHORT, seed: seed.unwrap_or(SHORT_SEED), is_long: false },
        }
    }
}

/// Everything of a run that lies on the disk; kept when the run fails.
struct Folder(Option<TempDir>);

impl Folder {
    fn path(&self) -> &Path {
        self.0.as_ref().expect("the folder is there until it is dropped").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let (Some(folder), true) = (self.0.take(), std::thread::panicking()) {
            println!("logs, diary and history: {}", folder.keep().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_holds_whatever_is_done_to_its_processes() {
    let order = Order::from_environment();
    if !order.is_long {
        return run(&order).await;
    }
    let interrupted = tokio::select! {
        () = run(&order) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    if interrupted {
        // The run is dropped by now: processes, namespaces and folder are gone.
        println!("interrupted");
        std::process::exit(130);
    }
}

async fn run(order: &Order) {
    let folder = Folder(Some(tempfile::Builder::new().prefix("tessera-chaos-").tempdir().unwrap()));
    let mut network = if order.is_long { lay_network() } else { None };
    // Declared after the network: processes end before their namespaces go.
    let mut cluster = Processes::prepare(plan(order, network.as_ref(), &folder));
    println!("seed {}; {:.1} minutes of faults", order.seed, order.lasts.as_secs_f64() / 60.0);
    cluster.start_all();
    cluster.wait_replicas().await;

    let scout = Scout {
        members: cluster.schedulers.iter().map(|node| node.address).collect(),
        stores: cluster.stores.iter().map(|node| node.address).collect(),
    };
    let diary = Diary::open(&folder.path().join("diary.txt"));
    if !scout.split(&load::first_cuts()).await {
        diary.note("the first cuts were not seen to be done");
    }
    let load = Load::start(&cluster.endpoints(), order.seed).await;
    let scene = Scene {
        scout: &scout,
        books: &load.books,
        diary: &diary,
        end: Instant::now() + order.lasts,
    };
    let mut findings = break_things(&scene, order, &mut cluster, network.as_mut()).await;

    // The last blow, so that there is something to recover from.
    findings.extend(revive(&diary, &mut cluster));
    cluster.kill_all();
    cluster.start_all();
    let healed = Instant::now();
    diary.note("everything was killed at once and started again; the network is whole");
    let recovery = recover(&load.books, healed).await;
    diary.note(&recovery);
    let endpoints = cluster.endpoints();
    let waiting = readiness::replicas(&endpoints, STORES, ApiVersion::V1, REPLICAS_TIMEOUT);
    match waiting.await {
        Ok(complete) => {
            diary.note(format_args!("{} regions have their replicas", complete.regions))
        }
        Err(missing) => findings.push(missing.to_string()),
    }
    let replicas = healed.elapsed();
    let books = load.books.clone();
    let evidence = load.finish().await;
    diary.note("everything is read once more");
    findings.extend(revive(&diary, &mut cluster));
    findings.extend(panics(&mut cluster));
    let judgement = judge(&evidence);
    findings.extend(judgement.violations);
    if order.is_long {
        findings.extend(recovery.too_long());
        findings.extend(never_committed(&books));
    }

    println!();
    print!("{}", diary.summary(&books));
    let [one_phase, by_async, two_phases] = evidence.ways;
    println!(
        "commits as the clients made them: {one_phase} in one phase, {by_async} async, {two_phases} \
         in two phases"
    );
    println!(
        "after healing: {recovery}, replicas complete in {:.1} s\nchecked:",
        replicas.as_secs_f64()
    );
    judgement.checked.iter().for_each(|line| println!("  {line}"));
    if findings.is_empty() {
        println!("verdict: it held (seed {})", order.seed);
        return;
    }
    std::fs::write(folder.path().join("history.txt"), tell(&evidence)).unwrap();
    panic!("verdict: it did not hold (seed {}):\n{}", order.seed, findings.join("\n"));
}

/// How long clients waited after the last fault.
struct Recovery {
    raw: Duration,
    transactions: Duration,
}

impl Recovery {
    fn too_long(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.raw > RECOVERY_MAX {
            findings.push(format!("raw calls waited {:?} after the last fault", self.raw));
        }
        if self.transactions > TRANSACTIONS_RECOVERY_MAX {
            let waited = self.transactions;
            findings.push(format!("transactions waited {waited:?} after the last fault"));
        }
        findings
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (raw, transactions) = (self.raw.as_secs_f64(), self.transactions.as_secs_f64());
        write!(
            f,
            "every raw client answered in {raw:.1} s, every transactional one has committed in \
             {transactions:.1} s"
        )
    }
}

async fn recover(books: &Books, healed: Instant) -> Recovery {
    until("every raw client to be answered after the last fault", || async {
        books.raw_users_answered_since(healed).then_some(())
    })
    .await;
    let raw = healed.elapsed();
    until("every transactional client to commit after the last fault", || async {
        books.transactions_committed_since(healed).then_some(())
    })
    .await;
    Recovery { raw, transactions: healed.elapsed() }
}

/// Kinds of transactions of which no single one was committed: they were not tested.
fn never_committed(books: &Books) -> Vec<String> {
    let tally = books.tally();
    let committed = |kind: &Kind| tally.0.get(kind).map_or(0, |endings| endings.committed);
    let kinds = [Kind::Snapshot].into_iter().chain(Kind::WRITING);
    let never = kinds.filter(|kind| committed(kind) == 0);
    never.map(|kind| format!("not one transaction was committed: {kind}")).collect()
}

/// A network that can be cut, or one line that says why there is none.
fn lay_network() -> Option<Network> {
    match Network::lay(MEMBERS + STORES) {
        Ok(network) => Some(network),
        Err(why) => {
            println!("no partitions, all on loopback: {why}");
            None
        }
    }
}

fn plan<'a>(order: &Order, network: Option<&Network>, folder: &'a Folder) -> Plan<'a> {
    let (places, host) = match network {
        Some(network) => (network.places(), network.own_address()),
        None => {
            let host: IpAddr = own_address();
            (vec![Place::loopback(host); MEMBERS + STORES], host)
        }
    };
    let mut program = PathBuf::from(TESSERA);
    if order.is_long {
        // What is killed and started again must not change when somebody builds meanwhile.
        let copy = folder.path().join("tessera");
        std::fs::copy(&program, &copy).unwrap();
        program = copy;
    }
    Plan {
        program,
        folder: folder.path(),
        ports: free_ports(host, 2 * MEMBERS + STORES),
        schedulers: places[..MEMBERS].to_vec(),
        stores: places[MEMBERS..].to_vec(),
        api_version: ApiVersion::V1,
    }
}

/// All lanes side by side, until the time is over and each has undone what it did.
async fn break_things(
    scene: &Scene<'_>,
    order: &Order,
    cluster: &mut Processes,
    network: Option<&mut Network>,
) -> Vec<String> {
    let dice = Dice::new(order.seed);
    let (longest, calm) =
        if order.is_long { (Duration::MAX, (200, 4_000)) } else { (SHORT_STEP, (100, 600)) };
    let lane = |name: &str, kinds| Lane::new(dice.stream(name), kinds, calm, longest);
    let processes = lane("processes", Mischief::PROCESSES);
    let links = lane("links", Mischief::LINKS);
    let topology = lane("topology", Mischief::TOPOLOGY);
    let (findings, (), ()) = tokio::join!(
        hurt_processes(scene, processes, cluster),
        async {
            if let Some(network) = network {
                hurt_links(scene, links, network).await;
            }
        },
        rearrange(scene, topology),
    );
    findings
}

/// Lines of logs that no process should write.
fn panics(cluster: &mut Processes) -> Vec<String> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let log = node.log();
        let lines = log.lines().filter(|line| line.contains("panicked"));
        found.extend(lines.map(|line| format!("{}: {line}", node.name)));
    }
    found
}
