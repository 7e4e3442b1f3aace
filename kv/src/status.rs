//! What a person or a monitor may ask a store over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/status` | JSON: who this store is, and each region with its range, epoch, peers and leader |
//! | `/config` | JSON: the settings it runs with, as TiKV shows its own |
//! | `/metrics` | numbers, as Prometheus scrapes them |
//!
//! Reads only what peers publish for readers: asking costs the store nothing.

use std::fmt;
use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use proto::{KeyRange, metapb, region};
use raftstore::engine::DataEngine;
use raftstore::read_view::{ReadView, ReadViews};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::net::incoming::{self, Door, Ear, Limits};
use crate::service::Store;
use crate::settings::Settings;

/// What does not change while a store runs.
pub(crate) struct Described {
    pub(crate) store: metapb::Store,
    pub(crate) cluster_id: u64,
    pub(crate) settings: Settings,
}

struct About {
    described: Described,
    /// Weak: a connection that is kept open must not keep the store's engines.
    seen: Weak<Seen>,
}

/// What changes.
struct Seen {
    views: ReadViews,
    metrics: Arc<Metrics>,
}

#[derive(Serialize)]
struct Status {
    store_id: u64,
    cluster_id: u64,
    address: String,
    version: &'static str,
    compatible_with: String,
    start_timestamp: i64,
    regions: Vec<Region>,
}

#[derive(Serialize)]
struct Region {
    id: u64,
    range: String,
    version: u64,
    conf_ver: u64,
    peers: Vec<String>,
    term: u64,
    leader_store_id: Option<u64>,
    is_leader: bool,
}

impl Region {
    fn of(view: &ReadView) -> Self {
        let epoch = region::epoch(&view.region);
        let peer = |peer: &metapb::Peer| {
            let kind = if region::is_learner(peer) { "(learner)" } else { "" };
            format!("p{}@s{}{kind}", peer.id, peer.store_id)
        };
        Self {
            id: view.region.id,
            range: KeyRange::of(&view.region).to_string(),
            version: epoch.version,
            conf_ver: epoch.conf_ver,
            peers: view.region.peers.iter().map(peer).collect(),
            term: view.term,
            leader_store_id: view.leader.as_ref().map(|leader| leader.store_id),
            is_leader: view.is_leader,
        }
    }
}

/// Serves until the cut.
pub(crate) fn serve<D: DataEngine>(
    door: TcpListener,
    described: Described,
    store: &Arc<Store<D>>,
    ear: Ear,
) -> impl Future<Output = ()> + Send + use<D> {
    let metrics = store.metrics.clone();
    let views = store.router.read_views().clone();
    metrics.collect(Arc::new(Published(views.clone())));
    let seen = Arc::new(Seen { views, metrics });
    let about = Arc::new(About { described, seen: Arc::downgrade(&seen) });
    let paths = Router::new()
        .route("/status", get(status))
        .route("/config", get(config))
        .route("/metrics", get(metrics_text))
        .with_state(about);
    let connections = incoming::connections(door, ear.clone(), ear.clone(), Limits::of_process());
    async move {
        let serving = axum::serve(Door(connections), paths).into_future();
        if let Some(Err(error)) = ear.or(serving).await {
            tracing::error!(%error, "the status port ended");
        }
        drop(seen);
    }
}

fn gone() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the store is stopping\n").into_response()
}

async fn status(State(about): State<Arc<About>>) -> Response {
    let Some(seen) = about.seen.upgrade() else { return gone() };
    let store = &about.described.store;
    Json(Status {
        store_id: store.id,
        cluster_id: about.described.cluster_id,
        address: store.address.clone(),
        version: env!("CARGO_PKG_VERSION"),
        compatible_with: store.version.clone(),
        start_timestamp: store.start_timestamp,
        regions: seen.views.all().iter().map(|view| Region::of(view)).collect(),
    })
    .into_response()
}

async fn config(State(about): State<Arc<About>>) -> Response {
    Json(&about.described.settings).into_response()
}

async fn metrics_text(State(about): State<Arc<About>>) -> Response {
    let Some(seen) = about.seen.upgrade() else { return gone() };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], seen.metrics.render()).into_response()
}

/// Reads at each scrape what peers publish.
struct Published(ReadViews);

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Published")
    }
}

impl Collector for Published {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let views = self.0.all();
        let leaders = views.iter().filter(|view| view.is_leader).count();
        let asleep = views.iter().filter(|view| view.is_asleep()).count();
        for (name, help, value) in [
            ("regions", "Peers on this store", views.len()),
            ("leaders", "Peers on this store that lead", leaders),
            ("asleep", "Peers on this store whose region is quiet and sleeps", asleep),
        ] {
            let gauge = ConstGauge::new(value as i64);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
