//! The scheduler's members.

use bytes::Bytes;
use proto::{KeyRange, keyspacepb, metapb, pdpb};
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::{BoxStream, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::serve::{Here, no_such_method, unary};
use super::{Reaction, State, TsoReaction};

const CLUSTER_ID: u64 = 42;

pub(super) async fn answer(
    here: Here,
    method: &str,
    call: http::Request<Body>,
) -> http::Response<Body> {
    match method {
        "GetMembers" => unary(call, move |_: pdpb::GetMembersRequest| members(here)).await,
        "GetRegion" => {
            unary(call, move |request: pdpb::GetRegionRequest| async move {
                let key = request.region_key;
                led(&here, "GetRegion", request.header).await?;
                let state = here.fake.state.lock();
                let found = known(&state).into_iter().find(|(region, _)| holds(region, &key));
                Ok(described(found))
            })
            .await
        }
        "GetPrevRegion" => {
            unary(call, move |request: pdpb::GetRegionRequest| async move {
                let key = request.region_key;
                led(&here, "GetPrevRegion", request.header).await?;
                let known = known(&here.fake.state.lock());
                let at = known.iter().position(|(region, _)| holds(region, &key));
                let before = at.and_then(|at| at.checked_sub(1));
                Ok(described(before.map(|before| known[before].clone())))
            })
            .await
        }
        "GetStore" => {
            unary(call, move |request: pdpb::GetStoreRequest| async move {
                led(&here, "GetStore", request.header).await?;
                let address = here.fake.state.lock().stores.get(&request.store_id).cloned();
                let store = address.map(|address| metapb::Store {
                    id: request.store_id,
                    address,
                    ..Default::default()
                });
                Ok(pdpb::GetStoreResponse { header: header(), store, ..Default::default() })
            })
            .await
        }
        "GetAllStores" => {
            unary(call, move |request: pdpb::GetAllStoresRequest| async move {
                led(&here, "GetAllStores", request.header).await?;
                let stores = here.fake.state.lock().stores.clone();
                let store = |(id, address)| metapb::Store { id, address, ..Default::default() };
                let flash = metapb::Store {
                    id: 99,
                    labels: vec![metapb::StoreLabel {
                        key: "engine".into(),
                        value: "tiflash".into(),
                    }],
                    ..Default::default()
                };
                let stores = stores.into_iter().map(store).chain([flash]).collect();
                Ok(pdpb::GetAllStoresResponse { header: header(), stores })
            })
            .await
        }
        "GetGCState" => {
            unary(call, move |request: pdpb::GetGcStateRequest| async move {
                led(&here, "GetGCState", request.header).await?;
                let barriers = here.fake.state.lock().barriers.clone();
                let barrier = |(barrier_id, barrier_ts)| pdpb::GcBarrierInfo {
                    barrier_id,
                    barrier_ts,
                    ttl_seconds: i64::MAX,
                };
                let gc_barriers = barriers.into_iter().map(barrier).collect();
                let gc_state = Some(pdpb::GcState { gc_barriers, ..Default::default() });
                Ok(pdpb::GetGcStateResponse { header: header(), gc_state, ..Default::default() })
            })
            .await
        }
        "SetGCBarrier" => {
            unary(call, move |request: pdpb::SetGcBarrierRequest| async move {
                led(&here, "SetGCBarrier", request.header).await?;
                assert_eq!(request.ttl_seconds, i64::MAX);
                here.fake.state.lock().barriers.insert(request.barrier_id, request.barrier_ts);
                Ok(pdpb::SetGcBarrierResponse { header: header(), ..Default::default() })
            })
            .await
        }
        "DeleteGCBarrier" => {
            unary(call, move |request: pdpb::DeleteGcBarrierRequest| async move {
                led(&here, "DeleteGCBarrier", request.header).await?;
                here.fake.state.lock().barriers.remove(&request.barrier_id);
                Ok(pdpb::DeleteGcBarrierResponse { header: header(), ..Default::default() })
            })
            .await
        }
        "UpdateServiceGCSafePoint" => {
            unary(call, move |request: pdpb::UpdateServiceGcSafePointRequest| async move {
                led(&here, "UpdateServiceGCSafePoint", request.header).await?;
                let mut state = here.fake.state.lock();
                let name = String::from_utf8_lossy(&request.service_id).into_owned();
                if request.ttl > 0 {
                    state.barriers.insert(name, request.safe_point);
                } else {
                    state.barriers.remove(&name);
                }
                let min_safe_point = state.barriers.values().copied().min().unwrap_or(0);
                Ok(pdpb::UpdateServiceGcSafePointResponse {
                    header: header(),
                    min_safe_point,
                    ..Default::default()
                })
            })
            .await
        }
        "UpdateGCSafePoint" => {
            unary(call, move |request: pdpb::UpdateGcSafePointRequest| async move {
                led(&here, "UpdateGCSafePoint", request.header).await?;
                Ok(pdpb::UpdateGcSafePointResponse {
                    header: header(),
                    new_safe_point: request.safe_point,
                })
            })
            .await
        }
        "LoadKeyspace" => {
            unary(call, move |request: keyspacepb::LoadKeyspaceRequest| async move {
                led(&here, "LoadKeyspace", request.header).await?;
                let known = request.name == "tenant";
                let error = pdpb::Error {
                    r#type: pdpb::ErrorType::EntryNotFound as i32,
                    message: "no such keyspace".into(),
                };
                Ok(keyspacepb::LoadKeyspaceResponse {
                    header: Some(pdpb::ResponseHeader {
                        cluster_id: CLUSTER_ID,
                        error: (!known).then_some(error),
                    }),
                    keyspace: known.then(|| keyspacepb::KeyspaceMeta {
                        keyspace: Some(keyspacepb::keyspace_meta::Keyspace::Id(7)),
                        ..Default::default()
                    }),
                })
            })
            .await
        }
        "Tso" => {
            Grpc::new(ProstCodec::<pdpb::TsoResponse, pdpb::TsoRequest>::default())
                .streaming(Tso(here), call)
                .await
        }
        _ => no_such_method(),
    }
}

/// Only the leader serves, and only its own cluster.
async fn led(
    here: &Here,
    rpc: &'static str,
    sent: Option<pdpb::RequestHeader>,
) -> Result<(), Status> {
    assert_eq!(sent.unwrap_or_default().cluster_id, CLUSTER_ID, "{rpc} names its cluster");
    match here.fake.record(rpc) {
        Reaction::Hang => std::future::pending().await,
        Reaction::Break => return Err(Status::unavailable("broken")),
        Reaction::Refuse(_) | Reaction::DoThenBreak | Reaction::DoThenHang | Reaction::Do => {}
    }
    if here.fake.state.lock().scheduler_leader == Some(here.number as usize) {
        Ok(())
    } else {
        Err(Status::unavailable("not leader"))
    }
}

async fn members(here: Here) -> Result<pdpb::GetMembersResponse, Status> {
    here.fake.record("GetMembers");
    let state = here.fake.state.lock();
    let member = |number: usize| pdpb::Member {
        name: format!("member {number}"),
        client_urls: vec![format!("http://{}", state.members[number])],
        ..Default::default()
    };
    Ok(pdpb::GetMembersResponse {
        header: header(),
        members: (0..state.members.len()).map(member).collect(),
        leader: state.scheduler_leader.map(member),
        ..Default::default()
    })
}

#[derive(Clone)]
struct Tso(Here);

impl StreamingService<pdpb::TsoRequest> for Tso {
    type Response = pdpb::TsoResponse;
    type ResponseStream = BoxStream<pdpb::TsoResponse>;
    type Future = tonic::codegen::BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<pdpb::TsoRequest>>) -> Self::Future {
        let here = self.0.clone();
        Box::pin(async move {
            here.fake.record("Tso");
            let answers = request.into_inner().then(move |request| {
                let here = here.clone();
                async move { grant(&here, request?).await }
            });
            Ok(Response::new(Box::pin(answers) as Self::ResponseStream))
        })
    }
}

async fn grant(here: &Here, request: pdpb::TsoRequest) -> Result<pdpb::TsoResponse, Status> {
    let scripted = here.fake.state.lock().tso_script.pop_front();
    let mut count = request.count;
    match scripted {
        None => {}
        Some(TsoReaction::End) => return Err(Status::unknown("generate timestamp failed")),
        Some(TsoReaction::Hang) => std::future::pending().await,
        Some(TsoReaction::WrongCount) => count += 1,
    }
    let mut state = here.fake.state.lock();
    *state.calls.entry("TsoRequest").or_default() += 1;
    if state.scheduler_leader != Some(here.number as usize) {
        return Err(Status::unknown("not leader"));
    }
    let last = state.timestamps(u64::from(request.count));
    let timestamp = pdpb::Timestamp {
        physical: last.physical() as i64,
        logical: last.logical() as i64,
        suffix_bits: 0,
    };
    Ok(pdpb::TsoResponse { header: header(), count, timestamp: Some(timestamp) })
}

fn known(state: &State) -> Vec<(metapb::Region, metapb::Peer)> {
    state.reported.clone().unwrap_or_else(|| {
        state.regions.iter().map(|region| (region.meta.clone(), region.leader)).collect()
    })
}

fn holds(region: &metapb::Region, key: &Bytes) -> bool {
    KeyRange::of(region).contains(key)
}

fn described(found: Option<(metapb::Region, metapb::Peer)>) -> pdpb::GetRegionResponse {
    let (region, leader) = found.unzip();
    pdpb::GetRegionResponse { header: header(), region, leader, ..Default::default() }
}

fn header() -> Option<pdpb::ResponseHeader> {
    Some(pdpb::ResponseHeader { cluster_id: CLUSTER_ID, error: None })
}
