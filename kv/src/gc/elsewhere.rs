//! Other keys of a transaction, on whatever store leads their region now.
//!
//! The scheduler is asked where each key is: locks that old transactions left are few, and no route is
//! worth remembering. A region error means to look again, a bounded number of times.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::kvrpcpb::{
    self, CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse, Context,
};
use proto::tikvpb::tikv_client::TikvClient;
use proto::{KeyRange, StoreId, errorpb, memcomparable, metapb};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::resolve::{Ask, of_secondaries};
use crate::config::ApiVersion;
use crate::net::outbound;
use crate::net::resolver::Resolver;
use crate::scheduler_link::client::SchedulerClient;

/// How often one question is asked before its locks are left for the next round.
const TRIES_MAX: u32 = 10;
/// Between two tries, at first; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// How long one answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// The way to other stores' commands.
pub(crate) struct Elsewhere {
    scheduler: Arc<SchedulerClient>,
    resolver: Arc<Resolver<SchedulerClient>>,
    api_version: ApiVersion,
    /// By address; one that breaks is dropped.
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Who leads the region of a key.
struct Place {
    range: KeyRange,
    context: Context,
    store: StoreId,
}

impl Elsewhere {
    pub(crate) fn new(
        scheduler: Arc<SchedulerClient>,
        resolver: Arc<Resolver<SchedulerClient>>,
        api_version: ApiVersion,
    ) -> Self {
        Self { scheduler, resolver, api_version, channels: Mutex::default() }
    }

    async fn place_of(&self, key: &Bytes) -> Result<Place, String> {
        let found = self.scheduler.region_at(memcomparable::encode(key)).await;
        let (region, leader) = found
            .map_err(|error| error.to_string())?
            .ok_or("the scheduler knows no region for a key")?;
        let leader = leader.ok_or("a region has no leader")?;
        let context = Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            api_version: self.api_version_for(key) as i32,
            ..Default::default()
        };
        Ok(Place { range: range_of(&region), context, store: StoreId(leader.store_id) })
    }

    /// Under version 2 some keys are served to clients of version 1 only.
    fn api_version_for(&self, key: &Bytes) -> kvrpcpb::ApiVersion {
        match self.api_version {
            ApiVersion::V2 if key.first() == Some(&b'x') => kvrpcpb::ApiVersion::V2,
            ApiVersion::V1 | ApiVersion::V1Ttl | ApiVersion::V2 => kvrpcpb::ApiVersion::V1,
        }
    }

    async fn client(&self, store: StoreId) -> Result<(String, TikvClient<Channel>), String> {
        let address = self.resolver.address(store).await.map_err(|error| error.to_string())?;
        let known = self.channels.lock().get(&address).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => {
                let channel = outbound::channel_to(&address).await?;
                self.channels.lock().insert(address.clone(), channel.clone());
                channel
            }
        };
        Ok((address, TikvClient::new(channel)))
    }

    /// Asks whoever leads the region of `key`, until there is an answer without a region error.
    async fn ask<T, A>(
        &self,
        key: &Bytes,
        region_error: fn(&mut T) -> Option<errorpb::Error>,
        question: impl Fn(TikvClient<Channel>, &Place) -> A + Sync,
    ) -> Result<(Place, T), String>
    where
        T: Send,
        A: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let mut pause = PAUSE_MIN;
        let mut cause = String::new();
        for _ in 0..TRIES_MAX {
            match self.try_once(key, &question).await {
                Ok((place, mut answer)) => match region_error(&mut answer) {
                    None => return Ok((place, answer)),
                    Some(error) => cause = error.message,
                },
                Err(words) => cause = words,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(cause)
    }

    async fn try_once<T, A>(
        &self,
        key: &Bytes,
        question: &(impl Fn(TikvClient<Channel>, &Place) -> A + Sync),
    ) -> Result<(Place, T), String>
    where
        T: Send,
        A: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let place = self.place_of(key).await?;
        let (address, client) = self.client(place.store).await?;
        let answering = question(client, &place);
        match tokio::time::timeout(ANSWER_TIME_MAX, answering).await {
            Ok(Ok(answer)) => Ok((place, answer.into_inner())),
            Ok(Err(status)) => {
                self.channels.lock().remove(&address);
                self.resolver.doubt(place.store);
                Err(status.message().to_owned())
            }
            Err(_) => Err("no answer came in time".into()),
        }
    }
}

fn range_of(region: &metapb::Region) -> KeyRange {
    KeyRange::from_wire(region.start_key.clone(), region.end_key.clone())
}

impl Ask for Elsewhere {
    async fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> Result<CheckTxnStatusResponse, String> {
        let key = request.primary_key.clone();
        let question = |mut client: TikvClient<Channel>, place: &Place| {
            let context = Some(place.context.clone());
            let request = CheckTxnStatusRequest { context, ..request.clone() };
            async move { client.kv_check_txn_status(request).await }
        };
        let region_error = |answer: &mut CheckTxnStatusResponse| answer.region_error.take();
        self.ask(&key, region_error, question).await.map(|(_, answer)| answer)
    }

    async fn check_secondary_locks(
        &self,
        mut keys: Vec<Bytes>,
        start_ts: u64,
    ) -> Result<Vec<CheckSecondaryLocksResponse>, String> {
        let is_in = |place: &Place, key: &Bytes| place.range.contains(&memcomparable::encode(key));
        keys.sort();
        let mut answers = Vec::new();
        while let Some(first) = keys.first().cloned() {
            let question = |mut client: TikvClient<Channel>, place: &Place| {
                let here = keys.iter().filter(|key| is_in(place, key)).cloned().collect();
                let request = of_secondaries(place.context.clone(), here, start_ts);
                async move { client.kv_check_secondary_locks(request).await }
            };
            let region_error =
                |answer: &mut CheckSecondaryLocksResponse| answer.region_error.take();
            let (place, answer) = self.ask(&first, region_error, question).await?;
            answers.push(answer);
            keys.retain(|key| !is_in(&place, key));
        }
        Ok(answers)
    }
}
