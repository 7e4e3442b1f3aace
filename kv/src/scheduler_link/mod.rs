//! Heartbeats out, orders in: how a store keeps in touch with the scheduler.
//!
//! ```text
//! raft worker ─ Report ─► queues ─► heartbeat stream ══► scheduler
//!                             └───► one call each    ──►     │
//! raft worker ◄──────────────────── orders, split ids ◄──────┘
//! ```
//!
//! Everything here may be lost and comes again: the scheduler believes only heartbeats, and a region
//! tells about itself again after a while. What a region last said is kept, so that a new leader of
//! the scheduler hears of all regions at once instead of after a heartbeat interval.
//!
//! A store without a scheduler goes on serving; it is only not told anything.

pub(crate) mod client;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse, StoreStats};
use proto::raft_serverpb::RaftMessage;
use proto::{RegionId, metapb, pdpb, region};
use raftstore::driver::{Observer, Router};
use raftstore::effects::Report;
use raftstore::engine::DataEngine;
use raftstore::error::Fault;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use client::{Backoff, CallError, SchedulerClient};

use crate::handover::{self, HandingOver};
use crate::net::incoming::Ear;
use crate::storage::replicated::Replicated;
use crate::txn::Transactions;
use crate::txn::reservations::{Led, Reservations};

/// Region heartbeats waiting for the stream. At the limit new ones are lost: the region's next one
/// says the same.
const HEARTBEATS_WAITING_MAX: usize = 16 * 1024;

/// Other reports waiting. At the limit new ones are lost; each kind is reported again.
const REPORTS_WAITING_MAX: usize = 1024;

/// Heartbeats handed to HTTP/2 and not yet taken.
const STREAM_DEPTH: usize = 64;

/// Calls to the scheduler under way at once; more wait in the queue.
const CALLS_MAX: usize = 32;

/// What the heartbeat stream is told.
enum Said {
    /// A leader describes its region.
    Heartbeat(Box<RegionHeartbeatRequest>),
    /// A peer here ceased to lead: what it said is no longer its to say.
    LeaderLost(RegionId),
}

/// The store's side of the conversation; what the raft worker reports goes in here.
pub(crate) struct Reporter {
    heartbeats: mpsc::Sender<Said>,
    reports: mpsc::Sender<Report>,
    fault: watch::Sender<Option<Arc<Fault>>>,
    handovers: mpsc::Sender<HandingOver>,
    /// Hears who leads; `None` when nothing is kept in memory.
    reservations: Option<Reservations>,
}

/// What [`Reporter`] puts in, for [`run`] to take out.
pub(crate) struct Reports {
    heartbeats: mpsc::Receiver<Said>,
    reports: mpsc::Receiver<Report>,
}

impl Reporter {
    /// The two ends, and where a fault is announced. What is not for the scheduler goes to `handovers` and
    /// `reservations`.
    pub(crate) fn new(
        handovers: mpsc::Sender<HandingOver>,
        reservations: Option<Reservations>,
    ) -> (Self, Reports, watch::Receiver<Option<Arc<Fault>>>) {
        let (heartbeats, heartbeats_rx) = mpsc::channel(HEARTBEATS_WAITING_MAX);
        let (reports, reports_rx) = mpsc::channel(REPORTS_WAITING_MAX);
        let (fault, fault_rx) = watch::channel(None);
        let ends = Reports { heartbeats: heartbeats_rx, reports: reports_rx };
        (Self { heartbeats, reports, fault, handovers, reservations }, ends, fault_rx)
    }

    fn say(&self, said: Said) {
        if self.heartbeats.try_send(said).is_err() {
            tracing::debug!("a region heartbeat is lost: too many are waiting");
        }
    }

    fn tell_reservations(&self, region: &metapb::Region, term: u64, is_leader: bool) {
        let Some(reservations) = &self.reservations else { return };
        if is_leader {
            let version = region::epoch(region).version;
            reservations.on_leader(Led { region_id: region.id, term, version });
        } else {
            reservations.on_leader_lost(region.id, term);
        }
    }

    fn queue(&self, report: Report) {
        if let Err(error) = self.reports.try_send(report) {
            tracing::debug!(%error, "a report to the scheduler is lost");
        }
    }
}

impl Observer for Reporter {
    fn report(&self, report: Report) {
        match report {
            Report::RegionHeartbeat(heartbeat) => self.say(Said::Heartbeat(heartbeat)),
            Report::LeaderChanged { region, term, is_leader } => {
                self.tell_reservations(&region, term, is_leader);
                // That it leads its first heartbeat says, and timestamps are fetched by those who need them.
                if !is_leader {
                    self.say(Said::LeaderLost(RegionId(region.id)));
                }
            }
            Report::HandingOver { region, term, to } => {
                if self.handovers.try_send(HandingOver { region, term, to }).is_err() {
                    tracing::debug!("a handover is given up: too many are waiting");
                }
            }
            report @ (Report::StoreHeartbeat(_)
            | Report::AskSplit { .. }
            | Report::RegionsSplit(_)
            | Report::ValidatePeer { .. }) => self.queue(report),
        }
    }

    fn fault(&self, fault: Fault) {
        tracing::error!(%fault, "the store stops");
        self.fault.send_replace(Some(Arc::new(fault)));
    }
}

/// Keeps in touch until the cut. `describe` adds to a store heartbeat what the machines do not know:
/// disks and clocks.
pub(crate) async fn run<D: DataEngine>(
    client: Arc<SchedulerClient>,
    router: Router<D>,
    transactions: Transactions<Replicated<D>>,
    reports: Reports,
    describe: impl Fn(&mut StoreStats) + Send + Sync,
    ear: Ear,
) {
    let last = Mutex::new(StoreStats::default());
    let heartbeats = heartbeat_stream(client.clone(), router.clone(), reports.heartbeats);
    let greetings = greet(&client, &router, &last, &describe);
    let doors = (router.clone(), transactions);
    let calls = calls(client.clone(), doors, reports.reports, &last, &describe);
    let all = async {
        tokio::select! {
            ((), ()) = async { tokio::join!(heartbeats, calls) } => {}
            () = greetings => {}
        }
    };
    ear.or(all).await;
}

/// Tells each new leader of the scheduler at once that this store lives, instead of at the next
/// heartbeat: a leader places no replica on a store that it has not heard of.
async fn greet<D: DataEngine>(
    client: &SchedulerClient,
    router: &Router<D>,
    last: &Mutex<StoreStats>,
    describe: &impl Fn(&mut StoreStats),
) {
    let mut generation = client.generation();
    let mut backoff = Backoff::new();
    loop {
        generation.mark_unchanged();
        let mut stats = last.lock().clone();
        stats.region_count = router.read_views().all().len() as u32;
        describe(&mut stats);
        match client.store_heartbeat(stats).await {
            Ok(_) => {
                backoff = Backoff::new();
                // An error would mean that the client is gone, and it is borrowed here.
                let _ = generation.changed().await;
            }
            Err(error) => tracing::debug!(%error, "no scheduler to greet"),
        }
        backoff.wait().await;
    }
}

/// Says what leaders say, and passes on the orders that come back. Ends when nobody reports any more.
async fn heartbeat_stream<D: DataEngine>(
    client: Arc<SchedulerClient>,
    router: Router<D>,
    mut said: mpsc::Receiver<Said>,
) {
    let mut last_words: BTreeMap<RegionId, RegionHeartbeatRequest> = BTreeMap::new();
    let mut backoff = Backoff::new();
    loop {
        let mut generation = client.generation();
        let pd = loop {
            match client.leader().await {
                Ok(pd) => break pd,
                Err(error) => {
                    tracing::debug!(%error, "no scheduler to send heartbeats to");
                    backoff.wait().await;
                }
            }
        };
        generation.mark_unchanged();
        let (out, stream) = mpsc::channel(STREAM_DEPTH);
        let header = client.header();
        let speak = speak(&mut said, &mut last_words, out, header);
        let listen = listen(pd, ReceiverStream::new(stream), &router);
        tokio::select! {
            is_over = speak => if is_over { return },
            heard_some = listen => {
                if heard_some {
                    backoff = Backoff::new();
                }
                client.forget_leader();
            }
            // Another call found the leader gone.
            _ = generation.changed() => {}
        }
        backoff.wait().await;
    }
}

/// Everything said last, then everything said now. `true` when nobody will say more; `false` when
/// the stream is gone.
async fn speak(
    said: &mut mpsc::Receiver<Said>,
    last_words: &mut BTreeMap<RegionId, RegionHeartbeatRequest>,
    out: mpsc::Sender<RegionHeartbeatRequest>,
    header: Option<pdpb::RequestHeader>,
) -> bool {
    for heartbeat in last_words.values() {
        if out.send(heartbeat.clone()).await.is_err() {
            return false;
        }
    }
    while let Some(said) = said.recv().await {
        match said {
            Said::LeaderLost(region) => {
                last_words.remove(&region);
            }
            Said::Heartbeat(mut heartbeat) => {
                heartbeat.header.clone_from(&header);
                let id = RegionId(heartbeat.region.as_ref().map_or(0, |region| region.id));
                last_words.insert(id, (*heartbeat).clone());
                if out.send(*heartbeat).await.is_err() {
                    return false;
                }
            }
        }
    }
    true
}

/// Passes orders on until the stream breaks; says whether it was ever good.
async fn listen<D: DataEngine>(
    mut pd: proto::pdpb::pd_client::PdClient<tonic::transport::Channel>,
    heartbeats: ReceiverStream<RegionHeartbeatRequest>,
    router: &Router<D>,
) -> bool {
    let mut heard_some = false;
    let mut answers = match pd.region_heartbeat(heartbeats).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            tracing::debug!(%status, "the scheduler takes no heartbeats");
            return false;
        }
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                heard_some = true;
                pass_on(answer, router);
            }
            Ok(None) => return heard_some,
            Err(status) => {
                tracing::debug!(%status, "the heartbeat stream broke");
                return heard_some;
            }
        }
    }
}

fn pass_on<D: DataEngine>(answer: RegionHeartbeatResponse, router: &Router<D>) {
    if let Some(error) = answer.header.as_ref().and_then(|header| header.error.as_ref()) {
        tracing::debug!(region = answer.region_id, error = error.message, "heartbeat refused");
        return;
    }
    // Region 0: the scheduler only says that it is there.
    if answer.region_id != 0 {
        router.order(answer);
    }
}

/// Performs the other reports, a bounded number at once. Ends when nobody reports any more.
async fn calls<D: DataEngine>(
    client: Arc<SchedulerClient>,
    (router, transactions): (Router<D>, Transactions<Replicated<D>>),
    mut reports: mpsc::Receiver<Report>,
    last: &Mutex<StoreStats>,
    describe: &impl Fn(&mut StoreStats),
) {
    let mut under_way = JoinSet::new();
    while let Some(mut report) = reports.recv().await {
        while under_way.len() >= CALLS_MAX {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        if let Report::StoreHeartbeat(stats) = &mut report {
            describe(stats);
            last.lock().clone_from(stats);
        }
        let (client, router, transactions) = (client.clone(), router.clone(), transactions.clone());
        under_way.spawn(async move {
            if let Err(error) = perform(&client, &router, &transactions, report).await {
                tracing::debug!(%error, "a report did not reach the scheduler");
            }
        });
    }
}

async fn perform<D: DataEngine>(
    client: &SchedulerClient,
    router: &Router<D>,
    transactions: &Transactions<Replicated<D>>,
    report: Report,
) -> Result<(), CallError> {
    match report {
        Report::StoreHeartbeat(stats) => client.store_heartbeat(*stats).await.map(drop),
        Report::AskSplit { region, ask, count } => {
            let id = RegionId(region.id);
            let ids = client.ask_batch_split(region.clone(), count).await;
            if ids.is_ok() {
                handover::save(transactions, &region).await;
            }
            router.split_ids(id, ask, ids.as_ref().ok().cloned());
            ids.map(drop)
        }
        Report::RegionsSplit(regions) => client.report_batch_split(regions).await,
        Report::ValidatePeer { region, peer } => {
            if let Some(now) = client.region(region.id).await?
                && let Some(tombstone) = told_to_go(&region, &peer, &now)
            {
                router.raft_message(tombstone);
            }
            Ok(())
        }
        // These go another way.
        Report::RegionHeartbeat(_) | Report::LeaderChanged { .. } | Report::HandingOver { .. } => {
            Ok(())
        }
    }
}

/// What a peer is told that the scheduler's newer picture of its region does not hold: to go.
/// `None` when the picture is not newer or the peer is in it.
fn told_to_go(
    known: &metapb::Region,
    peer: &metapb::Peer,
    now: &metapb::Region,
) -> Option<RaftMessage> {
    let (known_epoch, epoch) = (region::epoch(known), region::epoch(now));
    let is_newer = known_epoch.conf_ver < epoch.conf_ver;
    let belongs = region::peer_by_id(now, peer.id.into()).is_some();
    (is_newer && !belongs).then(|| RaftMessage {
        region_id: now.id,
        from_peer: now.peers.first().copied(),
        to_peer: Some(*peer),
        region_epoch: Some(epoch),
        is_tombstone: true,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(conf_ver: u64, peers: &[u64]) -> metapb::Region {
        let peer = |&id| metapb::Peer { id, store_id: id, ..Default::default() };
        metapb::Region {
            id: 1,
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version: 1 }),
            peers: peers.iter().map(peer).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_newer_picture_without_the_peer_tells_it_to_go() {
        let known = region(3, &[1, 2, 3]);
        let peer = known.peers[2];
        assert!(told_to_go(&known, &peer, &region(2, &[1, 2])).is_none());
        assert!(told_to_go(&known, &peer, &region(3, &[1, 2])).is_none());
        assert!(told_to_go(&known, &peer, &region(4, &[1, 2, 3])).is_none());
        let tombstone = told_to_go(&known, &peer, &region(4, &[1, 2])).unwrap();
        assert!(tombstone.is_tombstone);
        assert_eq!(tombstone.to_peer, Some(peer));
    }

    #[tokio::test]
    async fn after_a_break_the_last_words_of_each_leader_are_said_again() {
        let heartbeat = |id, term| RegionHeartbeatRequest {
            region: Some(metapb::Region { id, ..Default::default() }),
            term,
            ..Default::default()
        };
        let (tx, mut said) = mpsc::channel(8);
        for told in [heartbeat(1, 5), heartbeat(2, 5), heartbeat(2, 6), heartbeat(3, 5)] {
            tx.send(Said::Heartbeat(Box::new(told))).await.unwrap();
        }
        tx.send(Said::LeaderLost(RegionId(1))).await.unwrap();
        drop(tx);
        let mut last_words = BTreeMap::new();
        let (out, _stream) = mpsc::channel(64);
        assert!(speak(&mut said, &mut last_words, out, None).await);
        let (out, mut stream) = mpsc::channel(64);
        assert!(speak(&mut said, &mut last_words, out, None).await);
        let mut again = Vec::new();
        while let Some(heartbeat) = stream.recv().await {
            again.push((heartbeat.region.unwrap().id, heartbeat.term));
        }
        assert_eq!(again, [(2, 6), (3, 5)]);
    }
}
