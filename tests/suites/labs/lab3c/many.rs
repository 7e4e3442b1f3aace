//! Many leaders speak at once, over real sockets.
//!
//! Look: `scheduler/src/service/heartbeats.rs`, `scheduler/src/server/serving.rs`.

use std::time::Duration;

use futures_util::FutureExt as _;
use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
use scheduler::{Config, Listen, SchedulerNode};
use tests::labs::scheduler::{region, report, stats, store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Bound of every wait; never reached when all is well.
const PATIENCE: Duration = Duration::from_secs(60);
/// Regions that speak at once.
const REGIONS: u64 = 2_000;
/// Streams on which they do.
const STREAMS: u64 = 16;

struct Scheduler {
    node: SchedulerNode,
    client: PdClient<Channel>,
}

impl Scheduler {
    async fn start() -> Self {
        let any = || Listen::On("127.0.0.1:0".parse().unwrap());
        let config = Config { client_listen: any(), peer_listen: any(), ..Config::default() };
        let node = SchedulerNode::start(config).await.unwrap();
        assert!(node.wait_until_served(PATIENCE).await);
        let client = PdClient::connect(node.client_url().to_owned()).await.unwrap();
        Self { node, client }
    }

    fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader { cluster_id: self.node.cluster_id(), ..Default::default() })
    }

    async fn beats(&self) -> (mpsc::Sender<pdpb::RegionHeartbeatRequest>, Orders) {
        let (beats, stream) = mpsc::channel(64);
        let mut client = self.client.clone();
        let orders = client.region_heartbeat(ReceiverStream::new(stream)).await.unwrap();
        (beats, Orders(orders.into_inner()))
    }

    fn said(&self, report: pdpb::RegionHeartbeatRequest) -> pdpb::RegionHeartbeatRequest {
        pdpb::RegionHeartbeatRequest { header: self.header(), ..report }
    }
}

struct Orders(Streaming<pdpb::RegionHeartbeatResponse>);

impl Orders {
    /// The next answer on the stream.
    async fn answer(&mut self) -> pdpb::RegionHeartbeatResponse {
        let answer = tokio::time::timeout(PATIENCE, self.0.message()).await;
        answer.expect("an answer comes").unwrap().expect("the stream goes on")
    }

    /// The same; an error in it is a failure of the test.
    async fn next(&mut self) -> pdpb::RegionHeartbeatResponse {
        let answer = self.answer().await;
        assert_eq!(answer.header.as_ref().and_then(|header| header.error.as_ref()), None);
        answer
    }
}

/// Three stores speak, each on a stream of its own, and the first gets an answer. Then the leaders of two
/// thousand regions speak at the same time, and every one of them is heard: the regions tile the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_concurrent_handle_region_3c() {
    let mut scheduler = Scheduler::start().await;
    let bootstrap = pdpb::BootstrapRequest {
        header: scheduler.header(),
        store: Some(store(1)),
        region: Some(region(1, b"", b"", 1, &[1])),
    };
    scheduler.client.bootstrap(bootstrap).await.unwrap();
    let mut streams = Vec::new();
    for id in 1..=3 {
        let header = scheduler.header();
        let put = pdpb::PutStoreRequest { header: header.clone(), store: Some(store(id)) };
        scheduler.client.put_store(put).await.unwrap();
        let beat =
            pdpb::StoreHeartbeatRequest { header, stats: Some(stats(id)), ..Default::default() };
        scheduler.client.store_heartbeat(beat).await.unwrap();
        let (beats, mut orders) = scheduler.beats().await;
        // Without a range it would hold every key; without an epoch it is refused, and the stream goes on.
        let mut first = report(region(10 + id, b"", b"", 1, &[id]), 10);
        first.region.as_mut().unwrap().region_epoch = None;
        beats.send(scheduler.said(first)).await.unwrap();
        let error = orders.answer().await.header.and_then(|header| header.error);
        let message = error.map(|error| error.message).unwrap_or_default();
        assert!(message.contains("without an epoch"), "{message:?}");
        streams.push((beats, orders));
    }
    // A region of one replica is told to make more, when it is asked for what it is.
    let again = scheduler.said(report(region(11, b"", b"", 2, &[1]), 10));
    streams[0].0.send(again).await.unwrap();
    assert_eq!(streams[0].1.next().await.region_id, 11);

    let key = |number: u64| match number {
        0 | REGIONS => Vec::new(),
        number => format!("{number:>5}").into_bytes(),
    };
    let mut lines = Vec::new();
    for _ in 0..STREAMS {
        lines.push(scheduler.beats().await);
    }
    let tasks: Vec<_> = (0..REGIONS)
        .map(|number| {
            let beats = lines[(number % STREAMS) as usize].0.clone();
            let tile = region(100 + number, &key(number), &key(number + 1), 2, &[1]);
            let said = scheduler.said(report(tile, 10));
            tokio::spawn(async move { beats.send(said).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let header = scheduler.header();
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let known = async {
        loop {
            let scan = pdpb::ScanRegionsRequest { header: header.clone(), ..Default::default() };
            let scanned = scheduler.client.scan_regions(scan).await.unwrap().into_inner();
            seen.store(scanned.regions.len(), std::sync::atomic::Ordering::Relaxed);
            if scanned.regions.len() as u64 == REGIONS {
                return scanned;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await;
    let known = known.unwrap_or_else(|_| panic!("{seen:?} of {REGIONS} regions are known"));
    let tiles: Vec<_> = known.regions.into_iter().filter_map(|region| region.region).collect();
    assert!(tiles.windows(2).all(|pair| pair[0].end_key == pair[1].start_key));
    assert!(tiles[0].start_key.is_empty() && tiles[tiles.len() - 1].end_key.is_empty());
    // Nobody was told of a mistake: what has been said on the streams is there by now.
    for (_beats, mut orders) in lines {
        while let Some(Ok(Some(answer))) = orders.0.message().now_or_never() {
            assert_eq!(answer.header.and_then(|header| header.error), None);
        }
    }
    scheduler.node.stop().await;
}
