//! Raw put and get, unary, 256 bytes by default; another system beside it in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{kvrpcpb, pdpb};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use super::child::Playground;
use super::etcd::Etcd;
use super::run::{Call, Figures, Target, measure, median};
use crate::args::BenchRawFlags;
use crate::ctl::scheduler::{Scheduler, failure};
use crate::exit::{Failure, Outcome};
use crate::output::Report;

/// Connections that all callers share, for every system measured.
pub(crate) const CONNECTIONS: usize = 4;

/// The key of a number; the same for every system measured.
pub(crate) fn key_bytes(key: u64) -> Bytes {
    format!("bench/{key:012}").into()
}

/// Measures and prints a table.
pub(crate) async fn run(flags: BenchRawFlags) -> Outcome {
    let playground = if flags.pd.is_empty() { Some(Playground::start(true).await?) } else { None };
    let endpoints = playground.as_ref().map_or_else(|| flags.pd.clone(), Playground::endpoints);
    let value = Bytes::from(vec![b'v'; flags.value_bytes]);
    let ours = Arc::new(Raw::connect(&endpoints, value.clone()).await?);
    let etcd = if flags.etcd.is_empty() {
        None
    } else {
        Some(Arc::new(Etcd::connect(&flags.etcd, value).await?))
    };
    let mut report = Report::list(
        "rows",
        &["CALL", "IN FLIGHT", "SYSTEM", "CALLS/S", "P50 µs", "P99 µs", "FAILED", "RATIO"],
    );
    for call in [Call::Put, Call::Get] {
        for &clients in &flags.clients {
            let (mut our_rounds, mut etcd_rounds) = (Vec::new(), Vec::new());
            for round in 0..flags.rounds {
                eprintln!("{} with {clients} in flight, round {}", call.name(), round + 1);
                our_rounds
                    .push(measure(ours.clone(), call, clients, flags.keys, flags.seconds).await?);
                if let Some(etcd) = &etcd {
                    etcd_rounds.push(
                        measure(etcd.clone(), call, clients, flags.keys, flags.seconds).await?,
                    );
                }
            }
            // Pairs ran right after each other, so their ratio is worth more than either figure.
            let mut ratios: Vec<f64> = our_rounds
                .iter()
                .zip(&etcd_rounds)
                .map(|(ours, etcd)| ours.calls_per_second / etcd.calls_per_second)
                .collect();
            ratios.sort_by(f64::total_cmp);
            let ratio = ratios.get(ratios.len() / 2).copied();
            add(&mut report, call, clients, "tessera", median(our_rounds), ratio);
            if !etcd_rounds.is_empty() {
                add(&mut report, call, clients, "etcd", median(etcd_rounds), None);
            }
        }
    }
    report.print(flags.output);
    match playground {
        Some(playground) => playground.stop().await,
        None => Ok(()),
    }
}

fn add(
    report: &mut Report,
    call: Call,
    clients: usize,
    system: &str,
    figures: Figures,
    ratio: Option<f64>,
) {
    report.row(
        "rows",
        vec![
            call.name().into(),
            clients.to_string(),
            system.into(),
            format!("{:.0}", figures.calls_per_second),
            figures.p50_micros.to_string(),
            figures.p99_micros.to_string(),
            figures.failures.to_string(),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ],
        json!({
            "call": call.name(),
            "in_flight": clients,
            "system": system,
            "calls_per_second": figures.calls_per_second,
            "p50_micros": figures.p50_micros,
            "p99_micros": figures.p99_micros,
            "failures": figures.failures,
            "ratio": ratio,
        }),
    );
}

/// The region of the benchmark's keys, called directly at its leader.
struct Raw {
    connections: Vec<TikvClient<Channel>>,
    next: AtomicUsize,
    context: kvrpcpb::Context,
    value: Bytes,
}

impl Raw {
    async fn connect(endpoints: &[String], value: Bytes) -> Outcome<Self> {
        let mut scheduler = Scheduler::connect(endpoints).await?;
        let header = scheduler.header();
        let request = pdpb::GetRegionRequest {
            header: header.clone(),
            region_key: key_bytes(0),
            ..Default::default()
        };
        let response = scheduler
            .leader
            .get_region(request)
            .await
            .map_err(|status| failure("find the region", &status))?
            .into_inner();
        let region = response.region.ok_or_else(|| Failure::failed("there is no region"))?;
        let leader = response.leader.ok_or_else(|| Failure::failed("the region has no leader"))?;
        let request = pdpb::GetStoreRequest { header, store_id: leader.store_id };
        let store = scheduler
            .leader
            .get_store(request)
            .await
            .map_err(|status| failure("find the leader's store", &status))?
            .into_inner()
            .store
            .unwrap_or_default();
        let url = format!("http://{}", store.address);
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let channel = Endpoint::from_shared(url.clone())
                .map_err(Failure::failed)?
                .tcp_nodelay(true)
                .connect()
                .await
                .map_err(|error| Failure::failed(format!("connect to {url}: {error}")))?;
            connections.push(TikvClient::new(channel));
        }
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..Default::default()
        };
        Ok(Self { connections, next: AtomicUsize::new(0), context, value })
    }

    fn connection(&self) -> TikvClient<Channel> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections[number % self.connections.len()].clone()
    }
}

impl Target for Raw {
    async fn put(&self, key: u64) -> Result<(), String> {
        let request = kvrpcpb::RawPutRequest {
            context: Some(self.context.clone()),
            key: key_bytes(key),
            value: self.value.clone(),
            ..Default::default()
        };
        let response = self
            .connection()
            .raw_put(request)
            .await
            .map_err(|status| status.to_string())?
            .into_inner();
        match response.region_error {
            Some(error) => Err(error.message),
            None if response.error.is_empty() => Ok(()),
            None => Err(response.error),
        }
    }

    async fn get(&self, key: u64) -> Result<(), String> {
        let request = kvrpcpb::RawGetRequest {
            context: Some(self.context.clone()),
            key: key_bytes(key),
            ..Default::default()
        };
        let response = self
            .connection()
            .raw_get(request)
            .await
            .map_err(|status| status.to_string())?
            .into_inner();
        match response.region_error {
            Some(error) => Err(error.message),
            None if response.error.is_empty() => Ok(()),
            None => Err(response.error),
        }
    }
}
