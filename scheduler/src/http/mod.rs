//! PD's HTTP API, on the same port as gRPC.
//!
//! Answers are indented JSON with PD's field names; an error is a JSON string with a status of 4xx
//! or 5xx. A member that does not lead passes the request on to the one that does (`forward.rs`), and
//! says 503 when there is none. HEAD is not allowed anywhere: clients ask `HEAD /pd/api/v1/regions` to find out
//! whether this is a PD.
//!
//! | file | paths under `/pd/api/v1` |
//! |---|---|
//! | `members.rs` | `/members`, `/leader`, `/health`, `/ping`, `/version`, `/status` |
//! | `stores.rs` | `/stores`, `/store/{id}`, `/labels` |
//! | `regions.rs` | `/regions`, `/region/id/{id}`, `/region/key/{key}` |
//! | `limits.rs` | `/stores/limit`, `/store/{id}/limit` |
//! | `attention.rs` | `/regions/replicated`, `/regions/accelerate-schedule[/batch]` |
//! | `spread.rs` | `/regions/split`, `/regions/scatter` |
//! | `hotspot.rs` | `/hotspot/regions/read`, `/hotspot/regions/write`, `/hotspot/regions/history`, `/hotspot/stores` |
//! | `schedulers.rs` | `/schedulers`, `/scheduler-config`, `/checker/{name}` |
//! | `region_lists.rs` | `/regions/check/{kind}`, `/regions/{writeflow,readflow,confver,version,size,keys}`, `/stats/region` |
//! | `operators.rs` | `/operators`, `/operators/{region id}`, `/operators/records` |
//! | `explain.rs` | `/explain/region/{id}`, `/explain/store/{id}`: ours, PD has none |
//! | `rules.rs` | `/config/rules…`, `/config/rule…`, `/config/rule_group…`, `/config/placement-rule…` |
//! | `settings.rs` | `/config`, `/config/replicate`, `/config/schedule`, `/cluster`, `/cluster/status`, `/gc/safepoint` |
//! | `items.rs`, `idle_items.rs`, `temporary.rs` | the settings by PD's names; those that change nothing; those that lapse |
//! | `resolved.rs` | `/min-resolved-ts` |
//! | `keyspaces.rs` | `/pd/api/v2/keyspaces` |
//! | `keys.rs` | keys in paths and queries, which are any bytes |

mod attention;
mod explain;
mod format;
mod forward;
mod hotspot;
pub(crate) mod idle_items;
mod items;
mod keys;
mod keyspaces;
mod limits;
mod members;
mod operators;
mod region_lists;
mod regions;
mod resolved;
mod schedulers;
mod rules;
mod settings;
mod spread;
mod stores;
pub(crate) mod temporary;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use serde::Serialize;
use tonic::{Code, Status};

use crate::cluster::Refusal;
use crate::server::node::Node;
use crate::server::serving::Serving;

/// Bytes of a request's body; larger ones are refused.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What every handler is given.
type Shared = State<Arc<Node>>;

/// An error: a status and a text for people.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl Failure {
    fn bad_request(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    fn not_found(why: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, why.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::UnknownStore(_) | Refusal::RegionNotFound(_) | Refusal::NotFound(_) => {
                StatusCode::NOT_FOUND
            }
            Refusal::StoreTombstone(_) => StatusCode::GONE,
            Refusal::NotBootstrapped => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::RulesDisabled => StatusCode::PRECONDITION_FAILED,
            Refusal::AlreadyBootstrapped
            | Refusal::InvalidBootstrap(_)
            | Refusal::DuplicateAddress { .. }
            | Refusal::IncompatibleVersion { .. }
            | Refusal::InvalidStore(_)
            | Refusal::StaleRegion(_)
            | Refusal::InvalidRegion(_)
            | Refusal::InvalidRange(_)
            | Refusal::RangesNotCovered(_)
            | Refusal::OperatorDeclined { .. }
            | Refusal::Duplicate(_)
            | Refusal::InvalidValue(_)
            | Refusal::Forbidden(_) => StatusCode::BAD_REQUEST,
        };
        Self(status, refusal.to_string())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = if status.code() == Code::DeadlineExceeded {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self(code, status.message().to_owned())
    }
}

/// Indented JSON.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec_pretty(&self.0) {
            Ok(mut text) => {
                text.push(b'\n');
                ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], text).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

type Reply<T> = Result<Json<T>, Failure>;

/// The leader's affairs; the gate has let the request through, but leadership may end any time.
fn serving(node: &Node) -> Result<Arc<Serving>, Failure> {
    node.serving().ok_or_else(no_leader)
}

fn no_leader() -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, "no leader".into())
}

/// All paths.
pub(crate) fn router(node: &Arc<Node>) -> Router {
    let everywhere = Router::new()
        .route("/members", get(members::members))
        .route("/health", get(members::health))
        .route("/ping", get(async || StatusCode::OK))
        .route("/version", get(members::version))
        .route("/status", get(members::status));
    let on_leader = Router::new()
        .route("/leader", get(members::leader))
        .route("/leader/resign", post(members::resign))
        .route("/leader/transfer/{name}", post(members::transfer))
        .route("/members/name/{name}", delete(members::dismiss_by_name).post(members::set_priority))
        .route("/members/id/{id}", delete(members::dismiss_by_id))
        .route("/stores", get(stores::stores))
        .route("/stores/check", get(stores::check))
        .route("/stores/remove-tombstone", delete(stores::forget_tombstones))
        .route("/stores/limit", get(limits::all).post(limits::set_all))
        .route("/store/{id}/limit", post(limits::set))
        .route("/labels", get(stores::labels))
        .route("/labels/stores", get(stores::with_label))
        .route("/store/{id}", get(stores::store).delete(stores::take_offline))
        .route("/store/{id}/state", post(stores::set_state))
        .route("/store/{id}/label", post(stores::set_labels).delete(stores::remove_label))
        .route("/store/{id}/weight", post(stores::set_weight))
        .route("/regions", get(regions::regions))
        .route("/regions/count", get(regions::count))
        .route("/regions/key", get(regions::scan))
        .route("/regions/store/{id}", get(regions::on_store))
        .route("/regions/sibling/{id}", get(regions::siblings))
        .route("/regions/split", post(spread::split))
        .route("/regions/scatter", post(spread::scatter))
        .route("/regions/replicated", get(attention::replicated))
        .route("/regions/accelerate-schedule", post(attention::accelerate))
        .route("/regions/accelerate-schedule/batch", post(attention::accelerate_all))
        .route("/regions/check/{kind}", get(region_lists::check))
        .route("/regions/{list}", get(region_lists::top))
        .route("/stats/region", get(region_lists::statistics))
        .route("/region/id/{id}", get(regions::by_id))
        .route("/region/key/{key}", get(regions::by_key))
        .route("/operators", get(operators::list).post(operators::create))
        .route("/operators/records", get(operators::records))
        .route("/operators/{id}", get(operators::show).delete(operators::cancel))
        .route("/schedulers", get(schedulers::list).post(schedulers::add))
        .route("/schedulers/{name}", post(schedulers::pause).delete(schedulers::remove))
        .route("/scheduler-config", get(schedulers::configs))
        .route("/scheduler-config/{name}", get(schedulers::config))
        .route("/scheduler-config/{name}/list", get(schedulers::config))
        .route("/scheduler-config/{name}/config", post(schedulers::configure))
        .route("/scheduler-config/{name}/roles", get(schedulers::roles).post(schedulers::set_roles))
        .route("/scheduler-config/{name}/delete/{store}", delete(schedulers::let_go))
        .route("/checker/{name}", get(schedulers::checker).post(schedulers::pause_checker))
        .route("/hotspot/regions/history", get(hotspot::history))
        .route("/hotspot/regions/{traffic}", get(hotspot::regions))
        .route("/hotspot/stores", get(hotspot::stores))
        .route("/explain/region/{id}", get(explain::region))
        .route("/explain/store/{id}", get(explain::store))
        .route("/cluster", get(settings::cluster))
        .route("/cluster/status", get(settings::cluster_status))
        .route("/config", get(settings::config).post(settings::set_config))
        .route("/config/default", get(settings::default_config))
        .route("/config/replicate", get(settings::replication).post(settings::set_replication))
        .route("/config/schedule", get(settings::schedule).post(settings::set_schedule))
        .route("/config/pd-server", get(settings::pd_server))
        .route(
            "/config/cluster-version",
            get(settings::cluster_version).post(settings::set_cluster_version),
        )
        .merge(rule_paths())
        .route("/gc/safepoint", get(settings::safe_points))
        .route("/gc/safepoint/{service}", delete(settings::remove_safe_point))
        .route("/min-resolved-ts", get(resolved::lowest_of_all))
        .route("/min-resolved-ts/{ids}", get(resolved::of));
    let keyspaces = Router::new()
        .route("/keyspaces", get(keyspaces::list).post(keyspaces::create))
        .route("/keyspaces/{name}", get(keyspaces::by_name))
        .route("/keyspaces/{name}/config", patch(keyspaces::set_config))
        .route("/keyspaces/{name}/state", put(keyspaces::set_state))
        .route("/keyspaces/id/{id}", get(keyspaces::by_id));
    let led = Router::new()
        .nest("/pd/api/v1", on_leader)
        .nest("/pd/api/v2", keyspaces)
        .layer(from_fn_with_state(Arc::clone(node), to_leader));
    Router::new()
        .route("/", page())
        .nest("/pd/api/v1", everywhere)
        .merge(led)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(no_head))
        .with_state(Arc::clone(node))
}

/// The paths of placement rules.
fn rule_paths() -> Router<Arc<Node>> {
    Router::new()
        .route("/config/rules", get(rules::all).post(rules::set_all))
        .route("/config/rules/batch", post(rules::batch))
        .route("/config/rules/group/{group}", get(rules::of_group))
        .route("/config/rules/region/{id}", get(rules::of_region))
        .route("/config/rules/region/{id}/detail", get(rules::fit))
        .route("/config/rules/key/{key}", get(rules::of_key))
        .route("/config/rule", post(rules::put))
        .route("/config/rule/{group}/{id}", get(rules::rule).delete(rules::delete))
        .route("/config/rule_groups", get(rules::groups))
        .route("/config/rule_group", post(rules::put_group))
        .route("/config/rule_group/{id}", get(rules::group).delete(rules::delete_group))
        .route("/config/placement-rule", get(rules::bundles).post(rules::set_bundles))
        .route(
            "/config/placement-rule/{group}",
            get(rules::bundle).post(rules::set_bundle).delete(rules::delete_bundle),
        )
}

/// A page for whoever points a browser here.
fn page() -> MethodRouter<Arc<Node>> {
    get(async |State(node): Shared| {
        let leader = node.leader().map_or("nobody".into(), |leader| leader.name);
        let lines = [
            format!("Scheduler member {} of cluster {}.", node.name, node.cluster_id()),
            format!("Leader: {leader}."),
            "API: /pd/api/v1/members, /pd/api/v1/stores, /pd/api/v1/regions, …".into(),
        ];
        let mut text = lines.join("\n");
        text.push('\n');
        text
    })
}

/// Nothing is served under this path: told as gRPC or as HTTP, as the caller speaks.
pub(crate) async fn unknown(request: Request) -> Response {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        let what = format!("unknown service or method {}", request.uri().path());
        return Status::unimplemented(what).into_http::<Body>();
    }
    Failure::not_found("there is nothing under this path").into_response()
}

/// Axum answers HEAD where it answers GET; PD does not.
async fn no_head(request: Request, next: Next) -> Response {
    if request.method() == Method::HEAD {
        let allow = [(header::ALLOW, HeaderValue::from_static("GET"))];
        return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
    }
    next.run(request).await
}

/// Lets a request through to a leader whose lease holds, and passes it on otherwise.
async fn to_leader(State(node): Shared, request: Request, next: Next) -> Response {
    if let Some(serving) = node.serving() {
        return match serving.await_lease(&node).await {
            Ok(()) => next.run(request).await,
            Err(_) => no_leader().into_response(),
        };
    }
    if request.headers().contains_key(forward::PASSED_ON) {
        return no_leader().into_response();
    }
    // What only a leader knows it does not say.
    if request.method() == Method::GET && request.headers().contains_key(forward::ANSWER_YOURSELF) {
        return next.run(request).await;
    }
    let leader = node.leader().filter(|leader| leader.member_id != node.member_id);
    let url = leader.and_then(|leader| leader.client_urls.into_iter().next());
    match url {
        Some(url) => match forward::forward(&url, request).await {
            Some(response) => response,
            None => no_leader().into_response(),
        },
        None => no_leader().into_response(),
    }
}
