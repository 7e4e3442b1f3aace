//! The scheduler, as a client sees it: members of which one leads and answers.
//!
//! All members known are asked at once who leads, and the first that names a leader is believed;
//! a member that hangs costs nothing. A leader that fails or denies being one is forgotten, and the
//! question is asked again after a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use proto::{StoreId, Timestamp, keyspacepb, metapb, pdpb};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::backoff::Pause;
use crate::call::Call;
use crate::connection::{self, Connections, host_and_port};
use crate::error::{Cause, Error, ErrorKind, Result};

/// The link to the scheduler.
#[derive(Debug)]
pub(crate) struct Scheduler {
    connections: Arc<Connections>,
    /// Every address at which a member was ever named; the caller's own come first.
    endpoints: Mutex<Vec<String>>,
    leader: Mutex<Option<String>>,
    /// One search for the leader at a time; the others wait for its result.
    searching: tokio::sync::Mutex<()>,
    cluster_id: AtomicU64,
    timeout: Duration,
}

/// A question to the scheduler's leader.
trait Question: Clone + Send {
    type Answer: Send;
    fn set_header(&mut self, header: pdpb::RequestHeader);
    fn header(answer: &Self::Answer) -> Option<&pdpb::ResponseHeader>;
    fn ask(
        self,
        channel: Channel,
        patience: Duration,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

macro_rules! question {
    ($client:path, $method:ident: $request:ty => $answer:ty) => {
        impl Question for $request {
            type Answer = $answer;

            fn set_header(&mut self, header: pdpb::RequestHeader) {
                self.header = Some(header);
            }

            fn header(answer: &$answer) -> Option<&pdpb::ResponseHeader> {
                answer.header.as_ref()
            }

            async fn ask(self, channel: Channel, patience: Duration) -> Result<$answer, Status> {
                let mut request = Request::new(self);
                request.set_timeout(patience);
                Ok($client(channel).$method(request).await?.into_inner())
            }
        }
    };
}

use connection::{keyspaces, scheduler};

question!(scheduler, get_store: pdpb::GetStoreRequest => pdpb::GetStoreResponse);
question!(scheduler, get_all_stores: pdpb::GetAllStoresRequest => pdpb::GetAllStoresResponse);
question!(scheduler, get_gc_state: pdpb::GetGcStateRequest => pdpb::GetGcStateResponse);
question!(scheduler, set_gc_barrier: pdpb::SetGcBarrierRequest => pdpb::SetGcBarrierResponse);
question!(scheduler, delete_gc_barrier:
    pdpb::DeleteGcBarrierRequest => pdpb::DeleteGcBarrierResponse);
question!(scheduler, update_service_gc_safe_point:
    pdpb::UpdateServiceGcSafePointRequest => pdpb::UpdateServiceGcSafePointResponse);
question!(scheduler, update_gc_safe_point:
    pdpb::UpdateGcSafePointRequest => pdpb::UpdateGcSafePointResponse);
question!(keyspaces, load_keyspace:
    keyspacepb::LoadKeyspaceRequest => keyspacepb::LoadKeyspaceResponse);

/// The region that holds a key, and the one before it, have one type of request on the wire.
#[derive(Clone)]
struct RegionOf(pdpb::GetRegionRequest);
#[derive(Clone)]
struct RegionBefore(pdpb::GetRegionRequest);

macro_rules! region_question {
    ($question:ty, $method:ident) => {
        impl Question for $question {
            type Answer = pdpb::GetRegionResponse;

            fn set_header(&mut self, header: pdpb::RequestHeader) {
                self.0.header = Some(header);
            }

            fn header(answer: &Self::Answer) -> Option<&pdpb::ResponseHeader> {
                answer.header.as_ref()
            }

            async fn ask(
                self,
                channel: Channel,
                patience: Duration,
            ) -> Result<Self::Answer, Status> {
                let mut request = Request::new(self.0);
                request.set_timeout(patience);
                Ok(scheduler(channel).$method(request).await?.into_inner())
            }
        }
    };
}

region_question!(RegionOf, get_region);
region_question!(RegionBefore, get_prev_region);

/// A region and its leader, as the scheduler last heard.
pub(crate) type Described = Option<(metapb::Region, Option<metapb::Peer>)>;

impl Scheduler {
    pub(crate) fn new(
        connections: Arc<Connections>,
        endpoints: Vec<String>,
        timeout: Duration,
    ) -> Self {
        let endpoints = endpoints.iter().map(|endpoint| host_and_port(endpoint).to_owned());
        Self {
            connections,
            endpoints: Mutex::new(endpoints.collect()),
            leader: Mutex::new(None),
            searching: tokio::sync::Mutex::new(()),
            cluster_id: AtomicU64::new(0),
            timeout,
        }
    }

    /// The cluster's id; zero until a member has answered.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    pub(crate) fn header(&self) -> pdpb::RequestHeader {
        pdpb::RequestHeader { cluster_id: self.cluster_id(), ..Default::default() }
    }

    /// The region that holds a key, in the scheduler's form.
    pub(crate) async fn region(&self, call: &mut Call, key: &[u8]) -> Result<Described> {
        let question = RegionOf(pdpb::GetRegionRequest {
            region_key: bytes::Bytes::copy_from_slice(key),
            ..Default::default()
        });
        self.ask(call, question).await.map(described)
    }

    /// The region right before the one that holds the key.
    pub(crate) async fn region_before(&self, call: &mut Call, key: &[u8]) -> Result<Described> {
        let question = RegionBefore(pdpb::GetRegionRequest {
            region_key: bytes::Bytes::copy_from_slice(key),
            ..Default::default()
        });
        self.ask(call, question).await.map(described)
    }

    /// The store with this id; `None` once it has left for good.
    pub(crate) async fn store(
        &self,
        call: &mut Call,
        id: StoreId,
    ) -> Result<Option<metapb::Store>> {
        let question = pdpb::GetStoreRequest { store_id: id.0, ..Default::default() };
        let store = match self.ask(call, question).await {
            Ok(answer) => answer.store,
            // An unknown id is refused in words.
            Err(error) if *error.kind() == ErrorKind::Rejected => None,
            Err(error) => return Err(error),
        };
        Ok(store.filter(|store| store.state() != metapb::StoreState::Tombstone))
    }

    /// Moves the point below which old versions may be removed; returns where it stands now.
    pub(crate) async fn update_gc_safe_point(
        &self,
        call: &mut Call,
        safe_point: Timestamp,
    ) -> Result<Timestamp> {
        let question =
            pdpb::UpdateGcSafePointRequest { safe_point: safe_point.0, ..Default::default() };
        self.ask(call, question).await.map(|answer| Timestamp(answer.new_safe_point))
    }

    /// Where garbage collection stands.
    pub(crate) async fn gc_state(&self, call: &mut Call) -> Result<pdpb::GcState> {
        let answer = self.ask(call, pdpb::GetGcStateRequest::default()).await?;
        Ok(answer.gc_state.unwrap_or_default())
    }

    pub(crate) async fn set_gc_barrier(
        &self,
        call: &mut Call,
        question: pdpb::SetGcBarrierRequest,
    ) -> Result<()> {
        self.ask(call, question).await.map(drop)
    }

    pub(crate) async fn delete_gc_barrier(
        &self,
        call: &mut Call,
        question: pdpb::DeleteGcBarrierRequest,
    ) -> Result<()> {
        self.ask(call, question).await.map(drop)
    }

    /// Sets a service's safe point; returns the earliest of all services'.
    pub(crate) async fn update_service_safe_point(
        &self,
        call: &mut Call,
        question: pdpb::UpdateServiceGcSafePointRequest,
    ) -> Result<Timestamp> {
        self.ask(call, question).await.map(|answer| Timestamp(answer.min_safe_point))
    }

    /// Every store that holds rows, with its address: those of another engine, and those that have
    /// left, are not among them.
    pub(crate) async fn stores(&self, call: &mut Call) -> Result<Vec<(StoreId, String)>> {
        let question =
            pdpb::GetAllStoresRequest { exclude_tombstone_stores: true, ..Default::default() };
        let is_other_engine = |store: &metapb::Store| {
            let labels = store.labels.iter();
            labels.clone().any(|label| label.key == "engine" && label.value.starts_with("tiflash"))
        };
        let mut stores = self.ask(call, question).await?.stores;
        stores.retain(|store| {
            store.state() != metapb::StoreState::Tombstone && !is_other_engine(store)
        });
        Ok(stores.into_iter().map(|store| (StoreId(store.id), store.address)).collect())
    }

    /// The id of the keyspace with this name.
    pub(crate) async fn keyspace_id(&self, call: &mut Call, name: &str) -> Result<u32> {
        let question = keyspacepb::LoadKeyspaceRequest { name: name.into(), ..Default::default() };
        let keyspace = self.ask(call, question).await?.keyspace.unwrap_or_default();
        // The keyspace DEFAULT has id 0, which an older scheduler does not write out.
        Ok(keyspace.keyspace.map_or(0, |keyspacepb::keyspace_meta::Keyspace::Id(id)| id))
    }

    /// Asks the leader, whoever it is by then, until it answers or the call's time is over.
    async fn ask<Q: Question>(&self, call: &mut Call, question: Q) -> Result<Q::Answer> {
        loop {
            let leader = self.leader(call).await?;
            let patience = call.patience(self.timeout)?;
            let mut question = question.clone();
            question.set_header(self.header());
            let channel = self.connections.to(&leader)?;
            let asked = tokio::time::timeout(patience, question.ask(channel, patience)).await;
            let cause = match asked {
                Ok(Ok(answer)) => {
                    match Q::header(&answer).and_then(|header| header.error.as_ref()) {
                        None => return Ok(answer),
                        Some(error) => match error.r#type() {
                            // "No such region" is an answer: the region is absent from it.
                            pdpb::ErrorType::Ok | pdpb::ErrorType::RegionNotFound => {
                                return Ok(answer);
                            }
                            // The first store will come and make the first region.
                            pdpb::ErrorType::NotBootstrapped => Cause::Words(error.message.clone()),
                            pdpb::ErrorType::Unknown
                            | pdpb::ErrorType::StoreTombstone
                            | pdpb::ErrorType::AlreadyBootstrapped
                            | pdpb::ErrorType::IncompatibleVersion
                            | pdpb::ErrorType::GlobalConfigNotFound
                            | pdpb::ErrorType::DuplicatedEntry
                            | pdpb::ErrorType::EntryNotFound
                            | pdpb::ErrorType::InvalidValue
                            | pdpb::ErrorType::DataCompacted
                            | pdpb::ErrorType::RegionsNotContainAllKeyRange => {
                                let why = format!("the scheduler says: {}", error.message);
                                return Err(call.fail(ErrorKind::Rejected, why));
                            }
                        },
                    }
                }
                Ok(Err(status)) => {
                    self.forget_leader(&leader);
                    if is_final(&status) {
                        let why = format!("the scheduler says: {}", status.message());
                        return Err(call.fail(ErrorKind::Rejected, why));
                    }
                    Cause::Rpc(status)
                }
                Err(_) => {
                    self.forget_leader(&leader);
                    self.connections.close(&leader);
                    Cause::Words(format!("{leader} did not answer within {patience:?}"))
                }
            };
            tracing::debug!(%leader, %cause, "scheduler: asking again");
            call.waits_for("the scheduler", Some(cause));
            call.pause(Pause::Scheduler).await?;
        }
    }

    /// The address of the leader, asked for among the members when it is not known.
    pub(crate) async fn leader(&self, call: &mut Call) -> Result<String> {
        loop {
            if let Some(leader) = self.leader.lock().clone() {
                return Ok(leader);
            }
            call.waits_for("the scheduler's leader", None);
            let searching = call.bounded(self.searching.lock()).await?;
            if let Some(leader) = self.leader.lock().clone() {
                return Ok(leader);
            }
            let patience = call.patience(self.timeout)?;
            let found = self.find_leader(patience).await;
            drop(searching);
            match found {
                Ok(leader) => {
                    tracing::debug!(%leader, "scheduler: found the leader");
                    return Ok(leader);
                }
                Err(cause) => {
                    call.waits_for("the scheduler's leader", Some(cause));
                    call.pause(Pause::Scheduler).await?;
                }
            }
        }
    }

    /// This one does not lead, or does not answer.
    pub(crate) fn forget_leader(&self, leader: &str) {
        let mut known = self.leader.lock();
        if known.as_deref() == Some(leader) {
            *known = None;
        }
    }

    async fn find_leader(&self, patience: Duration) -> Result<String, Cause> {
        let endpoints = self.endpoints.lock().clone();
        let mut asked: FuturesUnordered<_> =
            endpoints.into_iter().map(|endpoint| self.members(endpoint, patience)).collect();
        let mut last = Cause::Words("no endpoints".into());
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => match self.learn(answer) {
                    Ok(leader) => return Ok(leader),
                    Err(cause) => last = cause,
                },
                Err(cause) => last = cause,
            }
        }
        Err(last)
    }

    async fn members(
        &self,
        endpoint: String,
        patience: Duration,
    ) -> Result<pdpb::GetMembersResponse, Cause> {
        let channel =
            self.connections.to(&endpoint).map_err(|error| Cause::Words(error.to_string()))?;
        // Members answer this whatever they believe the cluster's id to be, so none is sent.
        let mut request = Request::new(pdpb::GetMembersRequest::default());
        request.set_timeout(patience);
        match tokio::time::timeout(patience, scheduler(channel).get_members(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Cause::Rpc(status)),
            Err(_) => {
                self.connections.close(&endpoint);
                Err(Cause::Words(format!("{endpoint} did not answer within {patience:?}")))
            }
        }
    }

    /// Takes the members from an answer, and the leader where it names one.
    fn learn(&self, answer: pdpb::GetMembersResponse) -> Result<String, Cause> {
        let cluster_id = answer.header.as_ref().map_or(0, |header| header.cluster_id);
        let known = self.cluster_id();
        if known != 0 && cluster_id != known {
            return Err(Cause::Words(format!(
                "an endpoint belongs to cluster {cluster_id}, not to {known}"
            )));
        }
        let addresses = |member: &pdpb::Member| -> Vec<String> {
            member.client_urls.iter().map(|url| host_and_port(url).to_owned()).collect()
        };
        let leader = answer.leader.as_ref().and_then(|leader| addresses(leader).into_iter().next());
        let mut endpoints = self.endpoints.lock();
        for address in answer.members.iter().flat_map(addresses) {
            if !endpoints.contains(&address) {
                endpoints.push(address);
            }
        }
        drop(endpoints);
        let leader = leader.ok_or_else(|| Cause::Words("an election is under way".into()))?;
        self.cluster_id.store(cluster_id, Ordering::Relaxed);
        *self.leader.lock() = Some(leader.clone());
        Ok(leader)
    }
}

fn described(answer: pdpb::GetRegionResponse) -> Described {
    let leader = answer.leader;
    answer.region.map(|region| (region, leader))
}

/// Whether another try would end the same way.
fn is_final(status: &Status) -> bool {
    use tonic::Code;
    match status.code() {
        Code::Unimplemented
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

/// An empty list of endpoints cannot lead anywhere.
pub(crate) fn checked(endpoints: Vec<String>) -> Result<Vec<String>> {
    if endpoints.is_empty() {
        return Err(Error::mistake("no scheduler endpoints were given"));
    }
    Ok(endpoints)
}
