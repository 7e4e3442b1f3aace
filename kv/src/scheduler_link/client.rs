//! The store's own small client of the scheduler: finds the leader, follows it, asks.
//!
//! A call is one attempt at the leader known now, within a deadline. When it fails, the leader is
//! forgotten and the next call looks for it again among all members ever heard of. Whether to try
//! again is the caller's business; [`SchedulerClient::until`] is for those who must have an answer.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::pdpb::pd_client::PdClient;
use proto::schedulerpb::garbage_client::GarbageClient;
use proto::schedulerpb::{CollectRequest, CollectResponse, ResolvedRange};
use proto::{Timestamp, metapb, pdpb};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// How long one call may take, from the sending to the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An idle connection asks this often whether the other side lives …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … and gives it up after this long without an answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits between attempts begin here …
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// … double each time, and stay here.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The longest answer taken from a scheduler.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why the scheduler did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody who leads was found, or it did not answer. Try again.
    #[error("{0}")]
    Unreachable(String),
    /// The leader answered, and the answer is no.
    #[error("{message}")]
    Refused {
        /// Its kind of no.
        kind: pdpb::ErrorType,
        /// Its words.
        message: String,
    },
    /// The endpoints serve another cluster than the one we belong to. Trying again is vain.
    #[error("the scheduler serves cluster {theirs}, this store belongs to cluster {ours}")]
    AnotherCluster {
        /// Ours.
        ours: u64,
        /// Theirs.
        theirs: u64,
    },
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Unreachable(format!("{}: {}", status.code().description(), status.message()))
    }
}

/// Waits that grow.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(BACKOFF_MIN)
    }

    /// Waits, and will wait longer the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}

#[derive(Clone)]
struct Leader {
    url: String,
    channel: Channel,
}

impl Leader {
    fn client(&self) -> PdClient<Channel> {
        PdClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// A connection to whoever leads the scheduler.
pub(crate) struct SchedulerClient {
    /// Where members were ever seen; the configured endpoints stay.
    known: Mutex<BTreeSet<String>>,
    /// Zero until the first answer.
    cluster_id: AtomicU64,
    leader: Mutex<Option<Leader>>,
    /// One search at a time; the others wait for its result.
    search: tokio::sync::Mutex<()>,
    /// Counts changes of leader, for those who hold a stream to it.
    generation: watch::Sender<u64>,
}

impl SchedulerClient {
    /// A client that will look for the leader at these URLs. `cluster_id` 0 takes any cluster.
    pub(crate) fn new(endpoints: &[String], cluster_id: u64) -> Self {
        Self {
            known: Mutex::new(endpoints.iter().map(|endpoint| with_scheme(endpoint)).collect()),
            cluster_id: AtomicU64::new(cluster_id),
            leader: Mutex::new(None),
            search: tokio::sync::Mutex::new(()),
            generation: watch::Sender::new(0),
        }
    }

    /// The cluster the scheduler serves; 0 before the first answer.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    /// Changes whenever another leader was found or the known one was given up.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The header of every request.
    pub(crate) fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader { cluster_id: self.cluster_id(), ..Default::default() })
    }

    /// The leader's service, searched for if unknown.
    pub(crate) async fn leader(&self) -> Result<PdClient<Channel>, CallError> {
        self.led().await.map(|leader| leader.client())
    }

    async fn led(&self) -> Result<Leader, CallError> {
        if let Some(leader) = self.leader.lock().as_ref() {
            return Ok(leader.clone());
        }
        let _searching = self.search.lock().await;
        // Another caller may have found it meanwhile.
        if let Some(leader) = self.leader.lock().as_ref() {
            return Ok(leader.clone());
        }
        let leader = self.find_leader().await?;
        tracing::debug!(url = %leader.url, "found the scheduler's leader");
        *self.leader.lock() = Some(leader.clone());
        self.generation.send_modify(|generation| *generation += 1);
        Ok(leader)
    }

    /// The known leader did not do: look again at the next call.
    pub(crate) fn forget_leader(&self) {
        if self.leader.lock().take().is_some() {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    async fn find_leader(&self) -> Result<Leader, CallError> {
        let known = self.known.lock().clone();
        let mut last = CallError::Unreachable("no scheduler endpoint is known".into());
        for url in &known {
            match self.ask_member(url).await {
                Ok(leader) => return Ok(leader),
                Err(error @ CallError::AnotherCluster { .. }) => return Err(error),
                Err(CallError::Unreachable(cause) | CallError::Refused { message: cause, .. }) => {
                    last = CallError::Unreachable(format!("{url}: {cause}"));
                }
            }
        }
        Err(last)
    }

    /// Asks one member who leads, and connects to that one.
    async fn ask_member(&self, url: &str) -> Result<Leader, CallError> {
        let channel = connect(url).await?;
        let mut client = PdClient::new(channel.clone());
        let members = within(client.get_members(pdpb::GetMembersRequest::default())).await?;
        let cluster_id = members.header.as_ref().map_or(0, |header| header.cluster_id);
        self.check_cluster(cluster_id)?;
        self.known.lock().extend(
            members.members.iter().flat_map(|member| &member.client_urls).map(|u| with_scheme(u)),
        );
        let leader = members
            .leader
            .ok_or_else(|| CallError::Unreachable("the scheduler has no leader now".into()))?;
        let mut last = CallError::Unreachable("the leader advertises no client URL".into());
        for leader_url in leader.client_urls.iter().map(|u| with_scheme(u)) {
            if leader_url == url {
                return Ok(Leader { url: leader_url, channel });
            }
            match connect(&leader_url).await {
                Ok(channel) => return Ok(Leader { url: leader_url, channel }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn check_cluster(&self, theirs: u64) -> Result<(), CallError> {
        if theirs == 0 {
            return Err(CallError::Unreachable(
                "the scheduler does not know its cluster yet".into(),
            ));
        }
        let unset =
            self.cluster_id.compare_exchange(0, theirs, Ordering::Relaxed, Ordering::Relaxed);
        match unset {
            Err(ours) if ours != theirs => Err(CallError::AnotherCluster { ours, theirs }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// One attempt at the leader.
    pub(crate) async fn call<T, F>(
        &self,
        call: impl FnOnce(PdClient<Channel>, Option<pdpb::RequestHeader>) -> F,
    ) -> Result<T, CallError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = self.leader().await?;
        let answer = match within(call(client, self.header())).await {
            Ok(answer) => answer,
            Err(error) => {
                self.forget_leader();
                return Err(error);
            }
        };
        match answer.error() {
            Some(error) if error.r#type() != pdpb::ErrorType::Ok => {
                Err(CallError::Refused { kind: error.r#type(), message: error.message.clone() })
            }
            Some(_) | None => Ok(answer),
        }
    }

    /// Attempts until there is an answer, a refusal, or `deadline` passes.
    pub(crate) async fn until<T, F>(
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut backoff = Backoff::new();
        loop {
            match attempt().await {
                Err(CallError::Unreachable(cause)) => {
                    if Instant::now() >= deadline {
                        return Err(CallError::Unreachable(cause));
                    }
                    backoff.wait().await;
                }
                done => return done,
            }
        }
    }

    /// A fresh timestamp.
    pub(crate) async fn timestamp(&self) -> Result<Timestamp, CallError> {
        let mut client = self.leader().await?;
        let request =
            pdpb::TsoRequest { header: self.header(), count: 1, dc_location: String::new() };
        let answer = tokio::time::timeout(CALL_TIMEOUT, async {
            let mut answers = client.tso(tokio_stream::once(request)).await?.into_inner();
            answers.message().await
        });
        let timestamp = match answer.await {
            Ok(Ok(answer)) => answer.and_then(|answer| answer.timestamp),
            Ok(Err(status)) => {
                self.forget_leader();
                return Err(status.into());
            }
            Err(_) => None,
        };
        match timestamp {
            Some(timestamp) => {
                let part = |number: i64| u64::try_from(number).unwrap_or(0);
                Ok(Timestamp::new(part(timestamp.physical), part(timestamp.logical)))
            }
            None => {
                self.forget_leader();
                Err(CallError::Unreachable("no timestamp came".into()))
            }
        }
    }

    /// `count` new ids, never given to anyone else.
    pub(crate) async fn allocate_ids(&self, count: u32) -> Result<Vec<u64>, CallError> {
        let answer: pdpb::AllocIdResponse = self
            .call(|mut client, header| async move {
                client.alloc_id(pdpb::AllocIdRequest { header, count }).await
            })
            .await?;
        // The answer names the last id of the block.
        Ok((answer.id + 1 - u64::from(count.max(1))..=answer.id).collect())
    }

    /// Whether the cluster has its first region.
    pub(crate) async fn is_bootstrapped(&self) -> Result<bool, CallError> {
        let answer: pdpb::IsBootstrappedResponse = self
            .call(|mut client, header| async move {
                client.is_bootstrapped(pdpb::IsBootstrappedRequest { header }).await
            })
            .await?;
        Ok(answer.bootstrapped)
    }

    /// Offers the first store and region of the cluster. `false`: another store was faster.
    pub(crate) async fn bootstrap(
        &self,
        store: metapb::Store,
        region: metapb::Region,
    ) -> Result<bool, CallError> {
        let result: Result<pdpb::BootstrapResponse, _> = self
            .call(|mut client, header| async move {
                let (store, region) = (Some(store), Some(region));
                client.bootstrap(pdpb::BootstrapRequest { header, store, region }).await
            })
            .await;
        match result {
            Ok(_) => Ok(true),
            Err(CallError::Refused { kind: pdpb::ErrorType::AlreadyBootstrapped, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes this store known, or says what changed about it.
    pub(crate) async fn put_store(&self, store: metapb::Store) -> Result<(), CallError> {
        let _: pdpb::PutStoreResponse = self
            .call(|mut client, header| async move {
                client.put_store(pdpb::PutStoreRequest { header, store: Some(store) }).await
            })
            .await?;
        Ok(())
    }

    /// What the scheduler knows of a store.
    pub(crate) async fn store(&self, store_id: u64) -> Result<metapb::Store, CallError> {
        let answer: pdpb::GetStoreResponse = self
            .call(|mut client, header| async move {
                client.get_store(pdpb::GetStoreRequest { header, store_id }).await
            })
            .await?;
        answer.store.ok_or_else(|| CallError::Refused {
            kind: pdpb::ErrorType::Unknown,
            message: format!("invalid store ID {store_id}, not found"),
        })
    }

    /// Says how this store does.
    pub(crate) async fn store_heartbeat(
        &self,
        stats: pdpb::StoreStats,
    ) -> Result<pdpb::StoreHeartbeatResponse, CallError> {
        self.call(|mut client, header| async move {
            client
                .store_heartbeat(pdpb::StoreHeartbeatRequest {
                    header,
                    stats: Some(stats),
                    ..Default::default()
                })
                .await
        })
        .await
    }

    /// Ids for the regions that a split will make.
    pub(crate) async fn ask_batch_split(
        &self,
        region: metapb::Region,
        split_count: u32,
    ) -> Result<Vec<pdpb::SplitId>, CallError> {
        let answer: pdpb::AskBatchSplitResponse = self
            .call(|mut client, header| async move {
                client
                    .ask_batch_split(pdpb::AskBatchSplitRequest {
                        header,
                        region: Some(region),
                        split_count,
                        ..Default::default()
                    })
                    .await
            })
            .await?;
        Ok(answer.ids)
    }

    /// Tells of a split that happened, so that lookups are quicker than the next heartbeats.
    pub(crate) async fn report_batch_split(
        &self,
        regions: Vec<metapb::Region>,
    ) -> Result<(), CallError> {
        let _: pdpb::ReportBatchSplitResponse = self
            .call(|mut client, header| async move {
                client.report_batch_split(pdpb::ReportBatchSplitRequest { header, regions }).await
            })
            .await?;
        Ok(())
    }

    /// A region as the scheduler knows it; `None` when it knows none of that id.
    pub(crate) async fn region(&self, region_id: u64) -> Result<Option<metapb::Region>, CallError> {
        let answer: pdpb::GetRegionResponse = self
            .call(|mut client, header| async move {
                let request =
                    pdpb::GetRegionByIdRequest { header, region_id, ..Default::default() };
                client.get_region_by_id(request).await
            })
            .await?;
        Ok(answer.region)
    }

    /// Tells how far this store is with garbage collection, and hears how far it may go. A scheduler that
    /// does not ask stores only tells up to where versions may be removed.
    pub(crate) async fn collect(
        &self,
        store_id: u64,
        txn_safe_point: u64,
        resolved: Vec<ResolvedRange>,
    ) -> Result<CollectResponse, CallError> {
        let leader = self.led().await?;
        let cluster_id = self.cluster_id();
        let request = CollectRequest { cluster_id, store_id, txn_safe_point, resolved };
        let mut client = GarbageClient::new(leader.channel.clone());
        let asked = tokio::time::timeout(CALL_TIMEOUT, client.collect(request)).await;
        match asked {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                let answer: pdpb::GetGcSafePointResponse = self
                    .call(|mut client, header| async move {
                        client.get_gc_safe_point(pdpb::GetGcSafePointRequest { header }).await
                    })
                    .await?;
                let gc_safe_point = answer.safe_point;
                Ok(CollectResponse { cluster_id, txn_safe_point: 0, gc_safe_point })
            }
            Ok(Err(status)) => {
                self.forget_leader();
                Err(status.into())
            }
            Err(_) => {
                self.forget_leader();
                Err(CallError::Unreachable("no safe points came in time".into()))
            }
        }
    }

    /// The region that holds a key (as regions know keys), and who leads it, as far as the scheduler
    /// knows; `None` when it knows no such region.
    pub(crate) async fn region_at(
        &self,
        region_key: Bytes,
    ) -> Result<Option<(metapb::Region, Option<metapb::Peer>)>, CallError> {
        let answer: pdpb::GetRegionResponse = self
            .call(|mut client, header| async move {
                client
                    .get_region(pdpb::GetRegionRequest { header, region_key, ..Default::default() })
                    .await
            })
            .await?;
        let leader = answer.leader.filter(|peer| peer.id != 0);
        Ok(answer.region.map(|region| (region, leader)))
    }
}

/// An endpoint as a URL.
fn with_scheme(endpoint: &str) -> String {
    let endpoint = endpoint.trim().trim_end_matches('/');
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}

async fn connect(url: &str) -> Result<Channel, CallError> {
    let unreachable = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        CallError::Unreachable(format!("{error}{}", cause.unwrap_or_default()))
    };
    Endpoint::from_shared(url.to_owned())
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(unreachable)
}

async fn within<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no answer came in time")));
    Ok(answer?.into_inner())
}

/// An answer of the scheduler: its header may carry a refusal.
pub(crate) trait Answer {
    fn error(&self) -> Option<&pdpb::Error>;
}

macro_rules! answers {
    ($($response:ident),* $(,)?) => {
        $(impl Answer for pdpb::$response {
            fn error(&self) -> Option<&pdpb::Error> {
                self.header.as_ref()?.error.as_ref()
            }
        })*
    };
}

answers!(
    AllocIdResponse,
    AskBatchSplitResponse,
    BootstrapResponse,
    GetGcSafePointResponse,
    GetRegionResponse,
    GetStoreResponse,
    IsBootstrappedResponse,
    PutStoreResponse,
    ReportBatchSplitResponse,
    StoreHeartbeatResponse,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_urls() {
        assert_eq!(with_scheme("127.0.0.1:2379"), "http://127.0.0.1:2379");
        assert_eq!(with_scheme(" http://pd:2379/ "), "http://pd:2379");
    }

    #[test]
    fn a_store_of_one_cluster_does_not_take_another() {
        let client = SchedulerClient::new(&["http://pd:2379".into()], 0);
        client.check_cluster(7).unwrap();
        client.check_cluster(7).unwrap();
        let error = client.check_cluster(8).unwrap_err();
        assert!(matches!(error, CallError::AnotherCluster { ours: 7, theirs: 8 }));
    }

    #[tokio::test]
    async fn a_scheduler_that_is_not_there_is_unreachable_not_forever() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = SchedulerClient::new(&[url], 0);
        let deadline = Instant::now() + Duration::from_millis(100);
        let result = SchedulerClient::until(deadline, || client.is_bootstrapped()).await;
        assert!(matches!(result, Err(CallError::Unreachable(_))));
    }
}
