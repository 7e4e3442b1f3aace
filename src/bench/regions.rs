//! Cuts a fresh cluster into many regions, and waits until they have come to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{kvrpcpb, metapb, pdpb};
use tonic::transport::{Channel, Endpoint};

use crate::ctl::scheduler::{Scheduler, failure};
use crate::exit::{Code, Failure, Outcome};

/// Keys of one split.
const KEYS_PER_SPLIT: usize = 1000;

/// Regions asked of the scheduler at once.
const REGIONS_PER_PAGE: i32 = 2000;

/// How long the first region may take to have its replicas, and a store to do one split.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the regions may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(900);

/// Pause between two looks at all regions …
const LOOK_PAUSE: Duration = Duration::from_secs(4);
/// … of which so many in a row must find the same: longer than it takes to fall asleep.
const SAME_LOOKS: usize = 4;

/// Pause before a busy region is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What it took.
pub(crate) struct Cut {
    pub(crate) split: Duration,
    pub(crate) rest: Duration,
}

/// Cuts the one region of a cluster into so many.
pub(crate) async fn cut(endpoints: &[String], regions: usize) -> Outcome<Cut> {
    let mut scheduler = Scheduler::connect(endpoints).await?;
    let start = Instant::now();
    let (mut region, mut leader) = first_region(&mut scheduler).await?;
    let mut store = connect(&mut scheduler, leader.store_id).await?;
    let keys: Vec<Bytes> =
        (1..regions).map(|number| format!("region/{number:09}").into()).collect();
    for (at, keys) in keys.chunks(KEYS_PER_SPLIT).enumerate() {
        let deadline = Instant::now() + STEP_TIMEOUT;
        region = loop {
            match split(&mut store, &region, leader, keys).await? {
                Ok(right) => break right,
                // Thousands of regions at once may cost a busy machine its leaders for a while.
                Err(why) => {
                    pause(RETRY_PAUSE, deadline, &format!("a split: {why}")).await?;
                    let known = last_region(&mut scheduler, region.id).await?;
                    (region, leader) = known.unwrap_or((region, leader));
                    store = connect(&mut scheduler, leader.store_id).await?;
                }
            }
        };
        eprintln!("{} regions", at * KEYS_PER_SPLIT + keys.len() + 1);
    }
    let split = start.elapsed();
    wait_for_rest(&mut scheduler, regions).await?;
    Ok(Cut { split, rest: start.elapsed() - split })
}

/// The first region and its leader, once it has three voters.
async fn first_region(scheduler: &mut Scheduler) -> Outcome<(metapb::Region, metapb::Peer)> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let request = pdpb::GetRegionRequest { header: scheduler.header(), ..Default::default() };
        let response = scheduler.leader.get_region(request).await;
        let response =
            response.map_err(|status| failure("find the first region", &status))?.into_inner();
        if let (Some(region), Some(leader)) = (response.region, response.leader)
            && region.peers.iter().filter(|peer| !proto::region::is_learner(peer)).count() >= 3
        {
            return Ok((region, leader));
        }
        pause(RETRY_PAUSE, deadline, "the first region's replicas").await?;
    }
}

async fn connect(scheduler: &mut Scheduler, store_id: u64) -> Outcome<TikvClient<Channel>> {
    let request = pdpb::GetStoreRequest { header: scheduler.header(), store_id };
    let response = scheduler.leader.get_store(request).await;
    let store = response.map_err(|status| failure("find a store", &status))?.into_inner().store;
    let url = format!("http://{}", store.unwrap_or_default().address);
    let channel = Endpoint::from_shared(url.clone())
        .map_err(Failure::failed)?
        .connect()
        .await
        .map_err(|error| Failure::failed(format!("connect to {url}: {error}")))?;
    Ok(TikvClient::new(channel))
}

/// A region as the scheduler knows it, with its leader if it has one.
async fn last_region(
    scheduler: &mut Scheduler,
    region_id: u64,
) -> Outcome<Option<(metapb::Region, metapb::Peer)>> {
    let header = scheduler.header();
    let request = pdpb::GetRegionByIdRequest { header, region_id, ..Default::default() };
    let response = scheduler.leader.get_region_by_id(request).await;
    let response =
        response.map_err(|status| failure("find the last region", &status))?.into_inner();
    Ok(response.region.zip(response.leader))
}

/// One split; what remains to the right of it, which keeps the region's id, or why not now.
async fn split(
    store: &mut TikvClient<Channel>,
    region: &metapb::Region,
    leader: metapb::Peer,
    keys: &[Bytes],
) -> Outcome<Result<metapb::Region, String>> {
    let context = kvrpcpb::Context {
        region_id: region.id,
        region_epoch: region.region_epoch,
        peer: Some(leader),
        ..Default::default()
    };
    let request = kvrpcpb::SplitRegionRequest {
        context: Some(context),
        split_keys: keys.to_vec(),
        is_raw_kv: true,
        ..Default::default()
    };
    let response = store.split_region(request).await;
    let response = response.map_err(|status| failure("split a region", &status))?.into_inner();
    let error = response.region_error.map_or_else(|| "no regions".into(), |error| error.message);
    Ok(response.regions.into_iter().next_back().ok_or(error))
}

/// Waits until the scheduler knows that many regions and their leaders stay where they are.
async fn wait_for_rest(scheduler: &mut Scheduler, regions: usize) -> Outcome {
    let deadline = Instant::now() + REST_TIMEOUT;
    let mut before = BTreeMap::new();
    let mut same_looks = 0;
    while same_looks < SAME_LOOKS {
        pause(LOOK_PAUSE, deadline, "the regions to come to rest").await?;
        let leaders = leaders(scheduler).await?;
        let known: usize = leaders.values().sum();
        let is_same = leaders == before && known == regions;
        same_looks = if is_same { same_looks + 1 } else { 0 };
        if !is_same {
            eprintln!("{known} regions with leaders, by store: {:?}", leaders.values());
        }
        before = leaders;
    }
    Ok(())
}

/// Regions led by each store, as the scheduler knows it.
async fn leaders(scheduler: &mut Scheduler) -> Outcome<BTreeMap<u64, usize>> {
    let mut leaders = BTreeMap::new();
    let mut start_key = Bytes::new();
    loop {
        let request = pdpb::ScanRegionsRequest {
            header: scheduler.header(),
            start_key: start_key.clone(),
            limit: REGIONS_PER_PAGE,
            ..Default::default()
        };
        let response = scheduler.leader.scan_regions(request).await;
        let response = response.map_err(|status| failure("list regions", &status))?.into_inner();
        for region in &response.regions {
            let leader = region.leader.as_ref().map_or(0, |leader| leader.store_id);
            *leaders.entry(leader).or_default() += usize::from(leader != 0);
        }
        let last = response.regions.last().and_then(|region| region.region.as_ref());
        match last {
            Some(last) if !last.end_key.is_empty() => start_key = last.end_key.clone(),
            _ => return Ok(leaders),
        }
    }
}

/// Waits, unless it is too late.
async fn pause(pause: Duration, deadline: Instant, what: &str) -> Outcome {
    if Instant::now() >= deadline {
        return Err(Failure::new(Code::Timeout, format!("waited in vain for {what}")));
    }
    tokio::time::sleep(pause).await;
    Ok(())
}
