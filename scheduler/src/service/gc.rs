//! Safe points and barriers, in the three ways of asking that clients know, and the stores' own way.
//!
//! All keyspaces share the cluster's one garbage collection, whatever keyspace is named. Where they are
//! listed, the shared state stands under the id of no keyspace, and the others say that it is theirs.

use proto::pdpb;
use proto::schedulerpb::garbage_server::Garbage;
use proto::schedulerpb::{Change, CollectRequest, CollectResponse};
use proto::{KeyRange, StoreId};
use tonic::{Request, Response, Status};

use super::{Service, answer};
use crate::cluster::{Liveness, Moment, Refusal};
use crate::collection::{Act, Pace};
use crate::gc::{Advanced, Barrier, GcState};
use crate::server::node::{Node, not_leader};
use crate::server::serving::{Affairs, Serving};

/// The keyspace id that means "all that have no collection of their own".
const UNIFIED: u32 = u32::MAX;

fn barrier_of(barrier: &Barrier, now_s: i64) -> pdpb::GcBarrierInfo {
    pdpb::GcBarrierInfo {
        barrier_id: barrier.id.clone(),
        barrier_ts: barrier.ts,
        ttl_seconds: barrier.ttl_s(now_s),
    }
}

fn global_barrier_of(barrier: &Barrier, now_s: i64) -> pdpb::GlobalGcBarrierInfo {
    pdpb::GlobalGcBarrierInfo {
        barrier_id: barrier.id.clone(),
        barrier_ts: barrier.ts,
        ttl_seconds: barrier.ttl_s(now_s),
    }
}

fn scope(keyspace: u32) -> Option<pdpb::KeyspaceScope> {
    let keyspace = Some(pdpb::keyspace_scope::Keyspace::KeyspaceId(keyspace));
    Some(pdpb::KeyspaceScope { keyspace })
}

fn state_of(gc: &GcState, now_s: i64, exclude_barriers: bool) -> pdpb::GcState {
    let barriers = gc.barriers(now_s).filter(|_| !exclude_barriers);
    pdpb::GcState {
        keyspace_scope: scope(UNIFIED),
        is_keyspace_level_gc: false,
        txn_safe_point: gc.txn_safe_point(),
        gc_safe_point: gc.gc_safe_point(),
        gc_barriers: barriers.map(|barrier| barrier_of(barrier, now_s)).collect(),
    }
}

/// A keyspace without a collection of its own, as listings show it: nothing but whose it is.
fn shared(keyspace: u32) -> pdpb::GcState {
    pdpb::GcState { keyspace_scope: scope(keyspace), ..pdpb::GcState::default() }
}

/// Decides with the garbage collection's state; what is to be remembered of it.
fn change_of<T>(
    affairs: &mut Affairs,
    moment: Moment,
    decide: impl FnOnce(&mut GcState, i64) -> Result<T, Refusal>,
) -> Result<(Change, T), Refusal> {
    affairs.cluster()?;
    let before = affairs.gc.clone();
    let answer = decide(&mut affairs.gc, moment.wall_s())?;
    if affairs.gc == before {
        return Ok((Change::default(), answer));
    }
    let gc = serde_json::to_vec(&affairs.gc)
        .map_err(|error| Refusal::InvalidValue(error.to_string()))?;
    Ok((Change { gc: gc.into(), ..Change::default() }, answer))
}

/// Removes a service's safe point, for the HTTP API.
pub(crate) async fn remove_service_safe_point(
    node: &Node,
    serving: &Serving,
    service: &str,
) -> Result<Result<(), Refusal>, Status> {
    serving
        .change(node, |affairs, moment| {
            change_of(affairs, moment, |gc, now_s| {
                gc.update_service_safe_point(service, 0, 0, now_s).map(|_| ())
            })
        })
        .await
}

/// Moves the safe points when it is time and nothing is in the way.
pub(crate) async fn collect(node: &Node, serving: &Serving) {
    let moment = node.clock.moment();
    let act = {
        let mut affairs = serving.lock();
        let Affairs { cluster, gc, collection, .. } = &mut *affairs;
        let Some(cluster) = cluster else { return };
        let policy = cluster.policy();
        let pace = Pace {
            life_time_ms: policy.gc_life_time_ms,
            run_interval_ms: policy.gc_run_interval_ms,
        };
        let is_alive = |store: &&crate::cluster::StoreRecord| {
            !store.is_tombstone() && store.liveness(policy, moment) == Liveness::Heard
        };
        let alive = cluster.stores().iter().filter(is_alive).map(|store| store.id());
        collection.tick(pace, gc, moment.wall_ms, alive)
    };
    let moved = match act {
        Act::Wait => return,
        Act::Begin(target) => {
            serving
                .change(node, |affairs, moment| {
                    change_of(affairs, moment, |gc, now_s| {
                        let Advanced { old, new, blocker } =
                            gc.advance_txn_safe_point(target, now_s)?;
                        if new > old {
                            tracing::info!(txn_safe_point = new, blocker, "a collection begins");
                        }
                        Ok(())
                    })
                })
                .await
        }
        Act::Finish(target) => {
            serving
                .change(node, |affairs, moment| {
                    change_of(affairs, moment, |gc, _| {
                        gc.advance_gc_safe_point(target)?;
                        tracing::info!(gc_safe_point = target, "older versions may go");
                        Ok(())
                    })
                })
                .await
        }
    };
    match moved {
        Ok(Ok(())) => {}
        // A client was faster, or this member leads no more: looked at again at the next tick.
        Ok(Err(refusal)) => tracing::debug!(%refusal, "a safe point does not move"),
        Err(status) => tracing::debug!(%status, "a safe point does not move"),
    }
}

#[tonic::async_trait]
impl Garbage for Service {
    async fn collect(
        &self,
        request: Request<CollectRequest>,
    ) -> Result<Response<CollectResponse>, Status> {
        let request = request.into_inner();
        let serving = self.node.serving().ok_or_else(not_leader)?;
        let cluster_id = self.node.cluster_id();
        if request.cluster_id != 0 && request.cluster_id != cluster_id {
            return Err(Status::failed_precondition(format!(
                "mismatch cluster id, need {cluster_id} but got {}",
                request.cluster_id
            )));
        }
        serving.await_lease(&self.node).await?;
        let mut affairs = serving.lock();
        let Affairs { gc, collection, .. } = &mut *affairs;
        let clean = request.resolved.into_iter();
        let clean = clean.map(|range| KeyRange::from_wire(range.start_key, range.end_key));
        collection.on_report(StoreId(request.store_id), request.txn_safe_point, clean, gc);
        Ok(Response::new(CollectResponse {
            cluster_id,
            txn_safe_point: gc.txn_safe_point(),
            gc_safe_point: gc.gc_safe_point(),
        }))
    }
}

impl Service {
    /// Decides with the garbage collection's state and makes the result durable.
    async fn change_gc<T>(
        &self,
        serving: &Serving,
        decide: impl FnOnce(&mut GcState, i64) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Status> {
        serving.change(&self.node, |affairs, moment| change_of(affairs, moment, decide)).await
    }

    /// Looks at the garbage collection's state.
    async fn look_at_gc<T>(
        &self,
        serving: &Serving,
        look: impl FnOnce(&GcState, i64) -> T,
    ) -> Result<T, Refusal> {
        let now_s = self.node.clock.moment().wall_s();
        let mut affairs = serving.lock();
        affairs.cluster()?;
        Ok(look(&affairs.gc, now_s))
    }

    pub(super) async fn get_gc_safe_point(
        &self,
        request: pdpb::GetGcSafePointRequest,
    ) -> Result<pdpb::GetGcSafePointResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let safe_point = self.look_at_gc(&serving, |gc, _| gc.gc_safe_point()).await;
        Ok(answer(
            cluster_id,
            safe_point.map(|safe_point| pdpb::GetGcSafePointResponse { header: None, safe_point }),
        ))
    }

    pub(super) async fn update_gc_safe_point(
        &self,
        request: pdpb::UpdateGcSafePointRequest,
    ) -> Result<pdpb::UpdateGcSafePointResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, _| Ok(gc.update_gc_safe_point(request.safe_point)))
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|new_safe_point| pdpb::UpdateGcSafePointResponse {
                header: None,
                new_safe_point,
            }),
        ))
    }

    /// The lowest service safe point, after this one has been set, moved or removed.
    async fn service_safe_point(
        &self,
        serving: &Serving,
        service_id: &[u8],
        ttl_s: i64,
        safe_point: u64,
    ) -> Result<Result<(Barrier, i64), Refusal>, Status> {
        let service_id = String::from_utf8_lossy(service_id).into_owned();
        self.change_gc(serving, |gc, now_s| {
            let lowest = gc.update_service_safe_point(&service_id, ttl_s, safe_point, now_s)?;
            let ttl_s = lowest.ttl_s(now_s);
            Ok((lowest, ttl_s))
        })
        .await
    }

    pub(super) async fn update_service_gc_safe_point(
        &self,
        request: pdpb::UpdateServiceGcSafePointRequest,
    ) -> Result<pdpb::UpdateServiceGcSafePointResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .service_safe_point(&serving, &request.service_id, request.ttl, request.safe_point)
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|(lowest, ttl)| pdpb::UpdateServiceGcSafePointResponse {
                header: None,
                service_id: lowest.id.into(),
                ttl,
                min_safe_point: lowest.ts,
            }),
        ))
    }

    pub(super) async fn get_gc_safe_point_v2(
        &self,
        request: pdpb::GetGcSafePointV2Request,
    ) -> Result<pdpb::GetGcSafePointV2Response, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let safe_point = self.look_at_gc(&serving, |gc, _| gc.gc_safe_point()).await;
        Ok(answer(
            cluster_id,
            safe_point
                .map(|safe_point| pdpb::GetGcSafePointV2Response { header: None, safe_point }),
        ))
    }

    pub(super) async fn update_gc_safe_point_v2(
        &self,
        request: pdpb::UpdateGcSafePointV2Request,
    ) -> Result<pdpb::UpdateGcSafePointV2Response, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, _| Ok(gc.update_gc_safe_point(request.safe_point)))
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|new_safe_point| pdpb::UpdateGcSafePointV2Response {
                header: None,
                new_safe_point,
            }),
        ))
    }

    pub(super) async fn update_service_safe_point_v2(
        &self,
        request: pdpb::UpdateServiceSafePointV2Request,
    ) -> Result<pdpb::UpdateServiceSafePointV2Response, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .service_safe_point(&serving, &request.service_id, request.ttl, request.safe_point)
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|(lowest, ttl)| pdpb::UpdateServiceSafePointV2Response {
                header: None,
                service_id: lowest.id.into(),
                ttl,
                min_safe_point: lowest.ts,
            }),
        ))
    }

    /// Keyspaces with a collection of their own: there are none.
    pub(super) async fn get_all_gc_safe_point_v2(
        &self,
        request: pdpb::GetAllGcSafePointV2Request,
    ) -> Result<pdpb::GetAllGcSafePointV2Response, Status> {
        let (_, cluster_id) = self.enter(request.header.as_ref()).await?;
        let revision = self.etcd_header().revision;
        Ok(answer(
            cluster_id,
            Ok(pdpb::GetAllGcSafePointV2Response { revision, ..Default::default() }),
        ))
    }

    pub(super) async fn get_gc_state(
        &self,
        request: pdpb::GetGcStateRequest,
    ) -> Result<pdpb::GetGcStateResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let found = self
            .look_at_gc(&serving, |gc, now_s| pdpb::GetGcStateResponse {
                header: None,
                gc_state: Some(state_of(gc, now_s, request.exclude_gc_barriers)),
                global_gc_barriers: request.include_global_gc_barriers.then(|| {
                    let barriers = gc.global_barriers(now_s);
                    pdpb::GlobalGcBarriersInfo {
                        barriers: barriers.map(|b| global_barrier_of(b, now_s)).collect(),
                    }
                }),
            })
            .await;
        Ok(answer(cluster_id, found))
    }

    /// The shared state, and one entry for each keyspace that is enabled.
    pub(super) async fn get_all_keyspaces_gc_states(
        &self,
        request: pdpb::GetAllKeyspacesGcStatesRequest,
    ) -> Result<pdpb::GetAllKeyspacesGcStatesResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let now_s = self.node.clock.moment().wall_s();
        let mut affairs = serving.lock();
        let found = affairs.cluster().map(|_| ()).map(|()| {
            let Affairs { gc, keyspaces, .. } = &*affairs;
            let of_all = state_of(gc, now_s, request.exclude_gc_barriers);
            let enabled = keyspaces.enabled().map(shared);
            let barriers =
                gc.global_barriers(now_s).filter(|_| !request.exclude_global_gc_barriers);
            pdpb::GetAllKeyspacesGcStatesResponse {
                header: None,
                gc_states: std::iter::once(of_all).chain(enabled).collect(),
                global_gc_barriers: barriers.map(|b| global_barrier_of(b, now_s)).collect(),
            }
        });
        Ok(answer(cluster_id, found))
    }

    pub(super) async fn advance_txn_safe_point(
        &self,
        request: pdpb::AdvanceTxnSafePointRequest,
    ) -> Result<pdpb::AdvanceTxnSafePointResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, now_s| gc.advance_txn_safe_point(request.target, now_s))
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|Advanced { old, new, blocker }| pdpb::AdvanceTxnSafePointResponse {
                header: None,
                old_txn_safe_point: old,
                new_txn_safe_point: new,
                blocker_description: blocker,
            }),
        ))
    }

    pub(super) async fn advance_gc_safe_point(
        &self,
        request: pdpb::AdvanceGcSafePointRequest,
    ) -> Result<pdpb::AdvanceGcSafePointResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided =
            self.change_gc(&serving, |gc, _| gc.advance_gc_safe_point(request.target)).await?;
        Ok(answer(
            cluster_id,
            decided.map(|old| pdpb::AdvanceGcSafePointResponse {
                header: None,
                old_gc_safe_point: old,
                new_gc_safe_point: request.target,
            }),
        ))
    }

    pub(super) async fn set_gc_barrier(
        &self,
        request: pdpb::SetGcBarrierRequest,
    ) -> Result<pdpb::SetGcBarrierResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, now_s| {
                let (ts, ttl_s) = (request.barrier_ts, request.ttl_seconds);
                let barrier = gc.set_barrier(&request.barrier_id, ts, ttl_s, now_s)?;
                Ok(barrier_of(&barrier, now_s))
            })
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|barrier| pdpb::SetGcBarrierResponse {
                header: None,
                new_barrier_info: Some(barrier),
            }),
        ))
    }

    pub(super) async fn delete_gc_barrier(
        &self,
        request: pdpb::DeleteGcBarrierRequest,
    ) -> Result<pdpb::DeleteGcBarrierResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, now_s| {
                let deleted = gc.delete_barrier(&request.barrier_id)?;
                Ok(deleted.map(|barrier| barrier_of(&barrier, now_s)))
            })
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|deleted_barrier_info| pdpb::DeleteGcBarrierResponse {
                header: None,
                deleted_barrier_info,
            }),
        ))
    }

    pub(super) async fn set_global_gc_barrier(
        &self,
        request: pdpb::SetGlobalGcBarrierRequest,
    ) -> Result<pdpb::SetGlobalGcBarrierResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, now_s| {
                let (ts, ttl_s) = (request.barrier_ts, request.ttl_seconds);
                let barrier = gc.set_global_barrier(&request.barrier_id, ts, ttl_s, now_s)?;
                Ok(global_barrier_of(&barrier, now_s))
            })
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|barrier| pdpb::SetGlobalGcBarrierResponse {
                header: None,
                new_barrier_info: Some(barrier),
            }),
        ))
    }

    pub(super) async fn delete_global_gc_barrier(
        &self,
        request: pdpb::DeleteGlobalGcBarrierRequest,
    ) -> Result<pdpb::DeleteGlobalGcBarrierResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let decided = self
            .change_gc(&serving, |gc, now_s| {
                let deleted = gc.delete_global_barrier(&request.barrier_id)?;
                Ok(deleted.map(|barrier| global_barrier_of(&barrier, now_s)))
            })
            .await?;
        Ok(answer(
            cluster_id,
            decided.map(|deleted_barrier_info| pdpb::DeleteGlobalGcBarrierResponse {
                header: None,
                deleted_barrier_info,
            }),
        ))
    }
}
