//! One region as its leader last described it.

use std::sync::Arc;

use proto::region::{epoch, is_learner, peer_on};
use proto::{KeyRange, PeerId, RegionId, StoreId, metapb, pdpb};

use super::refusal::Refusal;
use super::regions::check_description;

const MIB: u64 = 1 << 20;

/// What is known of a region: its description, which is replicated, and what only its leader can
/// say, which is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionRecord {
    /// Range, epoch and peers.
    pub region: metapb::Region,
    /// Who leads; `None` until a leader has spoken.
    pub leader: Option<metapb::Peer>,
    /// The leader's term; 0 when nobody said.
    pub term: u64,
    /// Peers the leader has not heard for a while, and for how long.
    pub down_peers: Vec<pdpb::PeerStats>,
    /// Peers that are far behind, or have not been heard yet.
    pub pending_peers: Vec<metapb::Peer>,
    /// How much the region holds, about; 0 when nobody said.
    pub approximate_bytes: u64,
    /// How many keys, about.
    pub approximate_keys: u64,
    /// Bytes written since the heartbeat before.
    pub written_bytes: u64,
    /// Keys written since the heartbeat before.
    pub written_keys: u64,
    /// Bytes read since the heartbeat before.
    pub read_bytes: u64,
    /// Keys read since the heartbeat before.
    pub read_keys: u64,
    /// Processor time it takes, in percent of a core.
    pub cpu_usage: u64,
    /// The newest buckets that its leader has drawn in it; `None` when nobody said.
    pub buckets: Option<Arc<metapb::Buckets>>,
}

impl RegionRecord {
    /// What a heartbeat says; a refusal when it cannot come from a region's leader.
    pub fn from_heartbeat(heartbeat: pdpb::RegionHeartbeatRequest) -> Result<Self, Refusal> {
        let region = heartbeat
            .region
            .ok_or_else(|| Refusal::InvalidRegion("a heartbeat without a region".into()))?;
        check_description(&region)?;
        if region.region_epoch.is_none() {
            // Nobody could tell whether it is news.
            let id = RegionId(region.id);
            return Err(Refusal::InvalidRegion(format!("{id}: a heartbeat without an epoch")));
        }
        let leader = heartbeat.leader.unwrap_or_default();
        // Only a leader speaks for a region, and only of a region that it is part of.
        let is_peer = peer_on(&region, StoreId(leader.store_id)).is_some_and(|p| p.id == leader.id);
        if !is_peer {
            return Err(Refusal::InvalidRegion(format!(
                "{}: p{} on s{}, named as its leader, is not one of its peers",
                RegionId(region.id),
                leader.id,
                leader.store_id
            )));
        }
        Ok(Self {
            region,
            leader: Some(leader),
            term: heartbeat.term,
            down_peers: heartbeat.down_peers,
            pending_peers: heartbeat.pending_peers,
            approximate_bytes: heartbeat.approximate_size,
            approximate_keys: heartbeat.approximate_keys,
            written_bytes: heartbeat.bytes_written,
            written_keys: heartbeat.keys_written,
            read_bytes: heartbeat.bytes_read,
            read_keys: heartbeat.keys_read,
            cpu_usage: heartbeat.cpu_usage,
            buckets: None,
        })
    }

    /// A new report keeps what the known one says better: a size of zero means that the leader
    /// has not measured yet, a term of zero that it did not say. Of buckets no report says anything.
    pub(super) fn keep_what_is_not_said(&mut self, known: &Self) {
        if self.approximate_bytes == 0 {
            self.approximate_bytes = known.approximate_bytes;
            self.approximate_keys = self.approximate_keys.max(known.approximate_keys);
        }
        if self.term == 0 {
            self.term = known.term;
        }
        // Buckets are good for the keys in which they were drawn.
        if self.buckets.is_none() && self.range() == known.range() {
            self.buckets.clone_from(&known.buckets);
        }
        if self.leader.is_none() {
            self.leader = known.leader.filter(|leader| {
                peer_on(&self.region, StoreId(leader.store_id)).is_some_and(|p| p.id == leader.id)
            });
        }
    }

    /// What is likely true of a region that has just come out of this one by a split: it is led
    /// from the same store, and holds an equal share. Its own leader will say better soon.
    pub(super) fn after_split(&self, half: metapb::Region, share: u64) -> Self {
        let same_region = half.id == self.region.id;
        let leader = self.leader_store().and_then(|store| peer_on(&half, store)).copied();
        Self {
            leader,
            term: if same_region { self.term } else { 0 },
            approximate_bytes: self.approximate_bytes / share,
            approximate_keys: self.approximate_keys / share,
            region: half,
            ..Self::default()
        }
    }

    /// The region's id.
    pub fn id(&self) -> RegionId {
        RegionId(self.region.id)
    }

    /// Which keys it holds.
    pub fn range(&self) -> KeyRange {
        KeyRange::of(&self.region)
    }

    /// Its epoch; zero when the description has none.
    pub fn epoch(&self) -> metapb::RegionEpoch {
        epoch(&self.region)
    }

    /// The store it is led from.
    pub fn leader_store(&self) -> Option<StoreId> {
        self.leader.map(|leader| StoreId(leader.store_id))
    }

    /// Its size in whole MiB, as the scores count it: a region that holds anything counts as
    /// one at least.
    pub fn size_mib(&self) -> u64 {
        match self.approximate_bytes {
            0 => 0,
            bytes => (bytes / MIB).max(1),
        }
    }

    /// Its peer on that store.
    pub fn peer_on(&self, store: StoreId) -> Option<&metapb::Peer> {
        peer_on(&self.region, store)
    }

    /// Its peers with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &metapb::Peer> {
        self.region.peers.iter().filter(|peer| !is_learner(peer))
    }

    /// Its peers without one.
    pub fn learners(&self) -> impl Iterator<Item = &metapb::Peer> {
        self.region.peers.iter().filter(|peer| is_learner(peer))
    }

    /// Whether the peer is far behind.
    pub fn is_pending(&self, peer: u64) -> bool {
        self.pending_peers.iter().any(|pending| pending.id == peer)
    }

    /// Whether the leader has not heard the peer for a while.
    pub fn is_down(&self, peer: u64) -> bool {
        self.down_seconds(peer).is_some()
    }

    /// For how long the leader has not heard the peer.
    pub fn down_seconds(&self, peer: u64) -> Option<u64> {
        self.down_peers
            .iter()
            .find(|down| down.peer.is_some_and(|down| down.id == peer))
            .map(|down| down.down_seconds)
    }

    /// Whether the peer is heard and up to date.
    pub fn is_healthy(&self, peer: &metapb::Peer) -> bool {
        !self.is_pending(peer.id) && !self.is_down(peer.id)
    }

    /// Its buckets, for whoever wants them with it.
    pub fn buckets_if(&self, wanted: bool) -> Option<metapb::Buckets> {
        self.buckets.as_deref().filter(|_| wanted).cloned()
    }

    /// The typed id of the leading peer.
    pub fn leader_peer(&self) -> Option<PeerId> {
        self.leader.map(|leader| PeerId(leader.id))
    }
}

impl From<&RegionRecord> for pdpb::Region {
    fn from(record: &RegionRecord) -> Self {
        Self {
            region: Some(record.region.clone()),
            leader: record.leader,
            down_peers: record.down_peers.clone(),
            pending_peers: record.pending_peers.clone(),
            buckets: None,
        }
    }
}

impl From<&RegionRecord> for pdpb::RegionResponse {
    fn from(record: &RegionRecord) -> Self {
        Self {
            region: Some(record.region.clone()),
            leader: record.leader,
            down_peers: record.down_peers.clone(),
            pending_peers: record.pending_peers.clone(),
            buckets: None,
        }
    }
}

impl From<&RegionRecord> for pdpb::GetRegionResponse {
    fn from(record: &RegionRecord) -> Self {
        Self {
            header: None,
            region: Some(record.region.clone()),
            leader: record.leader,
            down_peers: record.down_peers.clone(),
            pending_peers: record.pending_peers.clone(),
            buckets: None,
        }
    }
}
