//! What a region and a store report.
//!
//! **Region.** Its leader reports when it begins to lead, when the region changes, when a follower begins
//! or ceases to lack entries, when one goes into quarantine, and every `region_heartbeat_ticks`. The scheduler
//! believes nothing else, and answers with orders. A leader that begins knows nothing of its followers yet;
//! said at once, all of them would lack entries. It reports once it has heard what they have, after
//! [`FIRST_REPORT_OF_MOST_MICROS`] if it has heard most, and after [`FIRST_REPORT_MICROS`] in any case.
//!
//! **Store.** Every `store_heartbeat_ticks`; the shell adds what it knows of the disk and the machine.

use proto::{KeyRange, PeerId, metapb, pdpb, region};
use raft::ProgressState;

use crate::effects::Report;
use crate::engine::{DataEngine, LogEngine};
use crate::peer::{Peer, Round};
use crate::store::Store;

/// Sizes are measured by the engine; a region never reports less than this, in bytes, since a scheduler
/// counts in MiB and takes 0 for unknown.
const REPORTED_BYTES_MIN: u64 = 1 << 20;

/// After an order that could not be carried out the region is reported again in so many ticks.
const REPORT_AGAIN_TICKS: u64 = 10;

/// So long, in microseconds, the first report waits for followers to tell what they have. Those that have
/// not then lack entries for all that is known.
const FIRST_REPORT_MICROS: u64 = 200_000;

/// So long, in microseconds, it waits for the last of them: one may be dead.
const FIRST_REPORT_OF_MOST_MICROS: u64 = 50_000;

impl<L: LogEngine> Peer<L> {
    /// Whether the leader has just begun and has not heard yet what its followers have.
    fn is_getting_to_know(&self, round: &Round<'_>) -> bool {
        let Some(leader) = self.leader() else { return false };
        let leads_for = round.now.since(leader.since);
        if leader.has_reported || leads_for >= FIRST_REPORT_MICROS {
            return false;
        }
        let progress = |peer: &&metapb::Peer| self.group.raft().prs().get(peer.id);
        let unknown = |peer: &&metapb::Peer| progress(peer).is_some_and(|known| known.matched == 0);
        let unheard = self.region.peers.iter().filter(unknown).count();
        let knows_most = 2 * unheard < self.region.peers.len();
        unheard > 0 && !(knows_most && leads_for >= FIRST_REPORT_OF_MOST_MICROS)
    }

    /// Followers that cannot be served from the log.
    fn pending(&self) -> Vec<metapb::Peer> {
        let raft = self.group.raft();
        let gone = self.group.log().truncated().index;
        let lacks = |id: u64| {
            raft.prs().get(id).is_some_and(|progress| {
                progress.state == ProgressState::Snapshot || progress.matched < gone
            })
        };
        let others = self.region.peers.iter().filter(|peer| peer.id != self.meta.id);
        others.filter(|peer| lacks(peer.id)).cloned().collect()
    }

    /// Looks whether the scheduler should hear of something before the next regular report.
    pub(crate) fn tick_heartbeat(&mut self, is_due: bool) {
        let pending = self.pending().iter().map(|peer| PeerId(peer.id)).collect();
        if let Some(leader) = self.leader_mut()
            && (is_due || leader.reported_pending != pending)
        {
            leader.heartbeat_due = true;
            leader.heartbeat_at.take_if(|_| is_due);
        }
    }

    /// Whether the scheduler is to hear soon what became of the followers: the last report named some that
    /// cannot be served from the log, or there was none yet.
    pub(crate) fn has_news_of_followers(&self) -> bool {
        self.leader()
            .is_some_and(|leader| !leader.has_reported || !leader.reported_pending.is_empty())
    }

    /// An order could not be carried out: reports soon, so that it is given again, or not.
    pub(crate) fn report_again(&mut self) {
        let at = self.ticker.ticks() + REPORT_AGAIN_TICKS;
        if let Some(leader) = self.leader_mut() {
            leader.heartbeat_at = Some(at);
        }
    }

    /// Whether an order that was not carried out is to be asked for now.
    pub(crate) fn is_report_due(&self) -> bool {
        let at = self.leader().and_then(|leader| leader.heartbeat_at);
        at.is_some_and(|at| at <= self.ticker.ticks())
    }

    /// The report, if one is due.
    fn heartbeat(&mut self, round: &Round<'_>) -> Option<pdpb::RegionHeartbeatRequest> {
        let pending_peers = self.pending();
        let down_after = round.config.down_after_ms * 1000;
        let leader = self.leader_mut()?;
        if !std::mem::take(&mut leader.heartbeat_due) {
            return None;
        }
        leader.has_reported = true;
        leader.reported_pending = pending_peers.iter().map(|peer| PeerId(peer.id)).collect();
        let leader = self.leader()?;
        let silence = |peer: &metapb::Peer| {
            // Who counts on a store that falls silent wakes.
            if self.is_asleep() {
                return 0;
            }
            let heard = leader.heard.get(&PeerId(peer.id)).copied();
            round.now.since(heard.unwrap_or(leader.since))
        };
        let others = self.region.peers.iter().filter(|peer| peer.id != self.meta.id);
        let is_lost = |peer: &metapb::Peer| leader.quarantined.contains(&PeerId(peer.id));
        let down_peers = others
            .filter(|peer| silence(peer) >= down_after || is_lost(peer))
            .map(|peer| pdpb::PeerStats {
                peer: Some(*peer),
                down_seconds: if is_lost(peer) {
                    region::DOWN_FOR_GOOD_SECONDS
                } else {
                    silence(peer) / 1_000_000
                },
            })
            .collect();
        let (keys_read, bytes_read) = self.publisher.reads().take();
        Some(pdpb::RegionHeartbeatRequest {
            region: Some(self.region.clone()),
            leader: Some(self.meta),
            down_peers,
            pending_peers,
            bytes_written: std::mem::take(&mut self.traffic.bytes_written),
            keys_written: std::mem::take(&mut self.traffic.keys_written),
            bytes_read,
            keys_read,
            approximate_size: self.traffic.size_bytes.max(REPORTED_BYTES_MIN),
            approximate_keys: self.traffic.size_keys,
            approximate_kv_size: self.traffic.size_bytes,
            term: self.group.term(),
            ..Default::default()
        })
    }
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Reports a region if its leader is here and has something to say.
    pub(crate) fn report_region(data: &D, peer: &mut Peer<L>, round: &mut Round<'_>) {
        if !peer.leader().is_some_and(|leader| leader.heartbeat_due)
            || peer.is_getting_to_know(round)
        {
            return;
        }
        // An estimate: when the engine cannot say, what was counted must do.
        if let Ok(size) = data.approximate_size(&KeyRange::of(&peer.region))
            && size.bytes > 0
        {
            peer.traffic.size_bytes = size.bytes;
            peer.traffic.size_keys = size.keys;
        }
        if let Some(heartbeat) = peer.heartbeat(round) {
            round.effects.reports.push(Report::RegionHeartbeat(Box::new(heartbeat)));
        }
    }

    /// What the store says of itself.
    pub(crate) fn store_stats(&mut self) -> pdpb::StoreStats {
        let installing = self.peers.values().filter(|peer| peer.snapshots.is_installing()).count();
        let sending: usize = self.peers.values().map(|peer| peer.snapshots.sending()).sum();
        let (bytes_written, keys_written) = std::mem::take(&mut self.written);
        pdpb::StoreStats {
            store_id: self.id.0,
            region_count: self.peers.values().filter(|peer| peer.is_initialized()).count() as u32,
            sending_snap_count: sending as u32,
            applying_snap_count: installing as u32,
            used_size: self.data.used_bytes() + self.log.used_bytes(),
            bytes_written,
            keys_written,
            ..Default::default()
        }
    }
}

/// Whether an order was given for the region as it is now.
pub(crate) fn is_current(order: &pdpb::RegionHeartbeatResponse, region: &metapb::Region) -> bool {
    order.region_epoch.is_none_or(|epoch| epoch == region::epoch(region))
}
