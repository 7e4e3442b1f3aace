//! `tessera scheduler`, `tessera store` and `tessera server`: one node, until told to stop.
//!
//! Flags win over the configuration file, which wins over defaults.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use kv::StoreNode;
use scheduler::SchedulerNode;

use crate::args::{LogFlags, SchedulerFlags, ServerFlags, StoreFlags};
use crate::config_file;
use crate::exit::{Code, Failure, Outcome};
use crate::{logging, process};

/// How much is logged when nobody says.
const DEFAULT_LOG_LEVEL: &str = "info";

/// Runs one scheduler member.
pub(crate) async fn scheduler(flags: SchedulerFlags) -> Outcome {
    let file = config_file::scheduler(flags.config.as_deref())?;
    start_logging(&flags.log, file.log.level.as_deref(), file.log.filename())?;
    prepare_process(flags.with_parent)?;
    let node = start_scheduler(scheduler_config(flags, file)?).await?;
    tracing::info!(name = node.name(), url = node.client_url(), "scheduler member serves");
    process::stop_signal().await?;
    node.stop().await;
    Ok(())
}

/// Runs one store.
pub(crate) async fn store(flags: StoreFlags) -> Outcome {
    let file = config_file::store(flags.config.as_deref())?;
    start_logging(&flags.log, file.log.level.as_deref(), file.log.filename())?;
    prepare_process(flags.with_parent)?;
    let node = start_store(store_config(flags, file)?).await?;
    serve_store(node).await
}

/// Runs both, the member first: the store may need it.
pub(crate) async fn both(flags: ServerFlags) -> Outcome {
    start_logging(&flags.log, None, None)?;
    process::raise_file_limit();
    let member = SchedulerFlags {
        name: Some(flags.name),
        data_dir: Some(flags.data_dir.join("scheduler")),
        client_urls: vec![flags.client_urls.clone()],
        peer_urls: vec![flags.peer_urls],
        advertise_client_urls: flags.advertise_client_urls.clone().into_iter().collect(),
        advertise_peer_urls: flags.advertise_peer_urls.into_iter().collect(),
        initial_cluster: flags.initial_cluster,
        join: flags.join,
        config: None,
        log: flags.log.clone(),
        with_parent: false,
    };
    let scheduler = start_scheduler(scheduler_config(member, Default::default())?).await?;
    let own_url = flags.advertise_client_urls.unwrap_or(flags.client_urls);
    let store = StoreFlags {
        addr: Some(flags.addr),
        advertise_addr: flags.advertise_addr,
        status_addr: flags.status_addr,
        advertise_status_addr: None,
        pd_endpoints: vec![own_url],
        data_dir: Some(flags.data_dir.join("store")),
        config: None,
        labels: flags.labels,
        log: flags.log,
        api_version: flags.api_version,
        with_parent: false,
    };
    let store = start_store(store_config(store, Default::default())?).await?;
    let outcome = serve_store(store).await;
    scheduler.stop().await;
    outcome
}

/// Until a signal, or until the store's disk fails it.
async fn serve_store(node: StoreNode) -> Outcome {
    tracing::info!(id = node.id(), address = node.address(), "store serves");
    let outcome = tokio::select! {
        signal = process::stop_signal() => signal,
        fault = node.wait_fault() => Err(Failure::failed(format!("the store stops: {fault}"))),
    };
    node.stop().await;
    outcome
}

fn prepare_process(with_parent: bool) -> Outcome {
    process::raise_file_limit();
    if with_parent { process::end_with_parent() } else { Ok(()) }
}

fn start_logging(flags: &LogFlags, level: Option<&str>, file: Option<PathBuf>) -> Outcome {
    let level = flags.log_level.as_deref().or(level).unwrap_or(DEFAULT_LOG_LEVEL);
    logging::start(level, flags.log_file.clone().or(file).as_deref())
}

async fn start_scheduler(config: scheduler::Config) -> Outcome<SchedulerNode> {
    SchedulerNode::start(config)
        .await
        .map_err(|error| Failure::new(code_of_scheduler(&error), error))
}

async fn start_store(config: kv::Config) -> Outcome<StoreNode> {
    StoreNode::start(config).await.map_err(|error| Failure::new(code_of_store(&error), error))
}

/// Why a scheduler member did not start, as a code: a person's mistake (a used port, a directory of
/// something else) is 2.
pub(crate) fn code_of_scheduler(error: &scheduler::StartError) -> Code {
    match error {
        scheduler::StartError::Mistake(_)
        | scheduler::StartError::Listen { .. }
        | scheduler::StartError::WrongDirectory { .. }
        | scheduler::StartError::Removed { .. } => Code::Usage,
        scheduler::StartError::Join(_) => Code::Unreachable,
        scheduler::StartError::Thread(_) | scheduler::StartError::Storage(_) => Code::Failed,
    }
}

/// The same for a store.
pub(crate) fn code_of_store(error: &kv::StartError) -> Code {
    match error {
        kv::StartError::Config(_)
        | kv::StartError::Listen { .. }
        | kv::StartError::AnotherCluster { .. }
        | kv::StartError::AnotherApiVersion { .. } => Code::Usage,
        kv::StartError::Scheduler { .. } => Code::Unreachable,
        kv::StartError::Engine(_) => Code::Failed,
    }
}

fn scheduler_config(
    flags: SchedulerFlags,
    file: config_file::SchedulerFile,
) -> Outcome<scheduler::Config> {
    let name = flags.name.or(file.name).unwrap_or_else(|| "pd".into());
    let first = |urls: Vec<String>, file: Option<String>, default: &str| {
        urls.into_iter()
            .next()
            .or_else(|| file.and_then(|urls| list(&urls).into_iter().next()))
            .unwrap_or_else(|| default.into())
    };
    let several = |urls: Vec<String>, file: Option<String>| {
        if urls.is_empty() { file.map(|urls| list(&urls)).unwrap_or_default() } else { urls }
    };
    let data_dir = flags
        .data_dir
        .or(file.data_dir)
        .unwrap_or_else(|| PathBuf::from(format!("default.{name}")));
    let initial_cluster = several(flags.initial_cluster, file.initial_cluster)
        .iter()
        .map(|item| match item.split_once('=') {
            Some((name, url)) => Ok((name.to_owned(), url.to_owned())),
            None => Err(Failure::usage(format!("initial-cluster: \"{item}\" is not name=url"))),
        })
        .collect::<Outcome<Vec<_>>>()?;
    let mut config = scheduler::Config {
        data: scheduler::Data::Path(data_dir),
        client_listen: listen_url(
            "client-urls",
            &first(flags.client_urls, file.client_urls, "http://127.0.0.1:2379"),
        )?,
        peer_listen: listen_url(
            "peer-urls",
            &first(flags.peer_urls, file.peer_urls, "http://127.0.0.1:2380"),
        )?,
        advertise_client_urls: several(flags.advertise_client_urls, file.advertise_client_urls),
        advertise_peer_urls: several(flags.advertise_peer_urls, file.advertise_peer_urls),
        initial_cluster,
        join: several(flags.join, file.join).iter().map(|url| with_scheme(url)).collect(),
        name,
        ..Default::default()
    };
    let (policy, replication) = (&mut config.policy, file.replication);
    policy.max_replicas = replication.max_replicas.unwrap_or(policy.max_replicas);
    policy.location_labels = replication.location_labels.unwrap_or_default();
    policy.isolation_level = replication.isolation_level.unwrap_or_default();
    policy.strictly_match_label = replication.strictly_match_label.unwrap_or_default();
    if let Some(enabled) = replication.enable_placement_rules {
        policy.enable_placement_rules = enabled;
    }
    if let Some(enabled) = file.schedule.enable_joint_consensus {
        config.policy.enable_joint_consensus = enabled;
    }
    if let Some(period) = file.schedule.gc_life_time {
        config.policy.gc_life_time_ms = period.0;
    }
    if let Some(period) = file.schedule.gc_run_interval {
        config.policy.gc_run_interval_ms = period.0;
    }
    Ok(config)
}

fn store_config(flags: StoreFlags, file: config_file::StoreFile) -> Outcome<kv::Config> {
    let mut config = kv::Config::default();
    if let Some(address) = flags.addr.or(file.server.addr) {
        config.listen = resolve("addr", &address)?;
    }
    config.advertise = flags.advertise_addr.or(file.server.advertise_addr);
    config.status_listen = match flags.status_addr.or(file.server.status_addr) {
        Some(address) if !address.is_empty() => Some(resolve("status-addr", &address)?),
        _ => None,
    };
    config.status_advertise = flags.advertise_status_addr.or(file.server.advertise_status_addr);
    let endpoints =
        if flags.pd_endpoints.is_empty() { file.pd.endpoints } else { flags.pd_endpoints };
    if !endpoints.is_empty() {
        config.scheduler_endpoints = endpoints;
    }
    let data_dir = flags.data_dir.or(file.storage.data_dir);
    config.storage = kv::StorageKind::Path(data_dir.unwrap_or_else(|| PathBuf::from("data")));
    config.api_version = match (flags.api_version, file.storage.api_version) {
        (Some(flag), _) => flag.into(),
        (None, Some(1)) if file.storage.enable_ttl == Some(true) => kv::ApiVersion::V1Ttl,
        (None, None) if file.storage.enable_ttl == Some(true) => kv::ApiVersion::V1Ttl,
        (None, Some(1) | None) => kv::ApiVersion::V1,
        (None, Some(2)) => kv::ApiVersion::V2,
        (None, Some(other)) => {
            return Err(Failure::usage(format!("storage.api-version: {other} is not 1 or 2")));
        }
    };
    if let Some(size) = file.server.snap_io_max_bytes_per_sec {
        config.snapshot_bytes_per_second = size.0;
    }
    if let Some(limit) = file.server.concurrent_send_snap_limit {
        config.snapshots_sending_max = limit;
    }
    if let Some(limit) = file.server.concurrent_recv_snap_limit {
        config.snapshots_receiving_max = limit;
    }
    file.coprocessor.apply(&mut config.raft);
    file.raftstore.apply(&mut config.raft);
    config.in_memory_pessimistic_locks = file.pessimistic_txn.keeps_in_memory();
    config.compress_answers = match file.server.grpc_compression_type.as_deref() {
        None | Some("none") => false,
        Some("gzip") => true,
        Some(other) => {
            return Err(Failure::usage(format!(
                "server.grpc-compression-type: \"{other}\" is not none or gzip"
            )));
        }
    };
    config.labels = labels(&flags.labels)?;
    for (key, value) in file.server.labels {
        config.labels.entry(key).or_insert(value);
    }
    Ok(config)
}

fn labels(words: &[String]) -> Outcome<BTreeMap<String, String>> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("labels: \"{word}\" is not key=value"))),
        })
        .collect()
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

fn listen_url(name: &str, url: &str) -> Outcome<scheduler::Listen> {
    if url.starts_with("https://") {
        return Err(Failure::usage(format!("{name}: {url}: TLS is not supported")));
    }
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    resolve(name, address).map(scheduler::Listen::On)
}

/// An address to listen on; names are looked up.
fn resolve(name: &str, address: &str) -> Outcome<SocketAddr> {
    address
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
        .ok_or_else(|| Failure::usage(format!("{name}: \"{address}\" is not host:port")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn what_a_schedulers_file_says_is_what_a_new_cluster_begins_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler.toml");
        let policy = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let file = config_file::scheduler(Some(&path)).unwrap();
            let typed = Cli::try_parse_from(["tessera", "scheduler"]).unwrap();
            let Command::Scheduler(flags) = typed.command else { panic!("{typed:?}") };
            scheduler_config(flags, file).unwrap().policy
        };
        let defaults = scheduler::Config::default().policy;
        assert_eq!(policy(""), defaults);
        assert!(defaults.enable_joint_consensus);
        let said = policy(
            "[schedule]\nenable-joint-consensus = false\ngc-life-time = \"1m\"\n\
             [replication]\nmax-replicas = 5\n",
        );
        let expected = scheduler::cluster::Policy {
            enable_joint_consensus: false,
            gc_life_time_ms: 60_000,
            max_replicas: 5,
            ..defaults
        };
        assert_eq!(said, expected);
        // Neither is this read as a yes or a no.
        std::fs::write(&path, "[schedule]\nenable-joint-consensus = \"no\"\n").unwrap();
        assert!(config_file::scheduler(Some(&path)).is_err());
    }

    #[test]
    fn labels_and_addresses_of_the_wrong_shape_are_refused() {
        assert_eq!(labels(&["zone=a".into()]).unwrap()["zone"], "a");
        assert!(labels(&["zone".into()]).is_err());
        assert_eq!(resolve("addr", "127.0.0.1:20160").unwrap().port(), 20160);
        assert!(resolve("addr", "127.0.0.1").unwrap_err().message.contains("addr"));
        assert!(
            listen_url("client-urls", "https://127.0.0.1:1").unwrap_err().message.contains("TLS")
        );
    }
}
