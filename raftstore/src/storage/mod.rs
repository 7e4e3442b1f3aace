//! What a store remembers of its peers, and how raft sees it.
//!
//! | record | in | written by | together with |
//! |---|---|---|---|
//! | [`RegionState`] | data engine | applier | the applied index that made it so |
//! | [`AppliedState`] | data engine | applier | the data it speaks of |
//! | [`Tombstone`] | data engine | applier | the tombstone region state |
//! | [`Quarantine`] | data engine | applier | nothing: the peer is silent from then on |
//! | term, vote, entries | log engine | raft worker | each other |
//!
//! **Crash order of the two engines.** The data engine is not synced, so after a loss of power it
//! may be behind; the log replays. Whatever would make replaying impossible waits for a sync of the
//! data engine first: cutting a log, clearing a destroyed peer's log, beginning a log behind an
//! installed snapshot. So at start only these can be found, and each is repaired by
//! [`group_log::GroupLog::open`]:
//!
//! | found | happened | repair |
//! |---|---|---|
//! | applied behind the log | data lost its newest writes | raft hands the entries out again |
//! | applied ahead of the log, or not in it | crash between snapshot and log | log begins anew at applied |
//! | no log, applied at the first index | crash after bootstrap or split | log begins at the first index |
//! | log cut beyond applied | cannot happen | fault |

pub mod bootstrap;
pub mod group_log;
pub mod keys;
pub mod region_hash;

use bytes::Bytes;
use prost::Message as _;
use proto::region::{is_incoming, is_joint, is_learner, is_outgoing};
use proto::{PeerId, RegionId, metapb, raft_serverpb};
use raft::eraftpb::ConfState;

use crate::engine::{ColumnFamily, Cursor as _, DataEngine, Snapshot, WriteBatch};
use crate::error::Fault;
use group_log::Position;
use keys::MetaKey;
use region_hash::RegionHash;

/// Every log of a region begins after this index and term, so that a peer without data, whose log
/// ends at 0, can only be served by a snapshot.
pub const FIRST_POSITION: Position = Position { index: 5, term: 5 };

/// What is known of the peer of a region on this store.
#[derive(Clone, Debug, PartialEq)]
pub enum RegionState {
    /// It serves.
    Normal(metapb::Region),
    /// It was removed.
    Tombstone(Tombstone),
}

/// What remains of a removed peer: enough to send late messages home.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// The region as it was when the peer was removed.
    pub region: metapb::Region,
    /// The peer; no peer with this or a lower id may come to life here again.
    pub peer_id: PeerId,
    /// The entry that removed it, if one did: a candidate that still counts on the removed peer
    /// learns from it that this entry is committed.
    pub removed_at: Option<Position>,
}

/// Why a peer takes part in nothing any more, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Which peer; a later one of the region does not inherit it.
    pub peer_id: PeerId,
    /// At this index its data were others …
    pub index: u64,
    /// … namely these …
    pub own: RegionHash,
    /// … than those of a majority.
    pub agreed: RegionHash,
}

const QUARANTINE_VERSION: u8 = 1;

impl Quarantine {
    /// Its bytes: a version, the peer, the index and the two hashes.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(57);
        out.push(QUARANTINE_VERSION);
        out.extend_from_slice(&self.peer_id.0.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(&self.own.encode());
        out.extend_from_slice(&self.agreed.encode());
        out.into()
    }

    /// The record in these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (peer_id, rest) = rest.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        // Two hashes of one length.
        let (own, agreed) = rest.split_at(rest.len() / 2);
        (*version == QUARANTINE_VERSION).then_some(())?;
        Some(Self {
            peer_id: PeerId(u64::from_be_bytes(*peer_id)),
            index: u64::from_be_bytes(*index),
            own: RegionHash::decode(own)?,
            agreed: RegionHash::decode(agreed)?,
        })
    }
}

/// How far a peer has applied. Its bytes: a version, the index and the term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedState(pub Position);

const APPLIED_VERSION: u8 = 1;

impl AppliedState {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        encode_position(self.0)
    }

    /// The state in these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode_position(bytes).map(Self)
    }
}

fn encode_position(position: Position) -> Bytes {
    let mut out = Vec::with_capacity(17);
    out.push(APPLIED_VERSION);
    out.extend_from_slice(&position.index.to_be_bytes());
    out.extend_from_slice(&position.term.to_be_bytes());
    out.into()
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let (version, numbers) = bytes.split_first()?;
    let (index, term) = numbers.split_at_checked(8)?;
    (*version == APPLIED_VERSION).then_some(())?;
    Some(Position {
        index: u64::from_be_bytes(index.try_into().ok()?),
        term: u64::from_be_bytes(term.try_into().ok()?),
    })
}

/// Adds to the batch that a peer serves this region.
pub fn put_region(batch: &mut WriteBatch, region: &metapb::Region) {
    let state = raft_serverpb::RegionLocalState {
        state: raft_serverpb::PeerState::Normal.into(),
        region: Some(region.clone()),
        ..Default::default()
    };
    let key = MetaKey::Region(RegionId(region.id)).encode();
    batch.put(ColumnFamily::Meta, key, state.encode_to_vec());
}

/// Adds to the batch how far a peer has applied.
pub fn put_applied(batch: &mut WriteBatch, region_id: RegionId, applied: Position) {
    let key = MetaKey::Applied(region_id).encode();
    batch.put(ColumnFamily::Meta, key, AppliedState(applied).encode());
}

/// Adds to the batch that the peer is in quarantine.
pub fn put_quarantine(batch: &mut WriteBatch, region_id: RegionId, odd: Quarantine) {
    batch.put(ColumnFamily::Meta, MetaKey::Quarantine(region_id).encode(), odd.encode());
}

/// Adds to the batch that the peer is gone. Its data is cleared later.
pub fn put_tombstone(batch: &mut WriteBatch, tombstone: &Tombstone) {
    let region_id = RegionId(tombstone.region.id);
    let state = raft_serverpb::RegionLocalState {
        state: raft_serverpb::PeerState::Tombstone.into(),
        region: Some(tombstone.region.clone()),
        removed_records: vec![metapb::Peer { id: tombstone.peer_id.0, ..Default::default() }],
        ..Default::default()
    };
    let key = MetaKey::Region(region_id).encode();
    batch.put(ColumnFamily::Meta, key, state.encode_to_vec());
    batch.delete(ColumnFamily::Meta, MetaKey::Applied(region_id).encode());
    batch.delete(ColumnFamily::Meta, MetaKey::Quarantine(region_id).encode());
    let key = MetaKey::Tombstone(region_id).encode();
    match tombstone.removed_at {
        Some(position) => batch.put(ColumnFamily::Meta, key, encode_position(position)),
        None => batch.delete(ColumnFamily::Meta, key),
    }
}

/// What one view of the engine says of a region; `None` when nothing.
pub fn region_state(
    snapshot: &impl Snapshot,
    region_id: RegionId,
) -> Result<Option<RegionState>, Fault> {
    let Some(bytes) = snapshot.get(ColumnFamily::Meta, &MetaKey::Region(region_id).encode())?
    else {
        return Ok(None);
    };
    let corrupt = |detail: &str| Fault::Corrupt {
        place: format!("state of {region_id}"),
        detail: detail.into(),
    };
    let state = raft_serverpb::RegionLocalState::decode(bytes)
        .map_err(|error| corrupt(&error.to_string()))?;
    let kind = state.state();
    let region = state.region.ok_or_else(|| corrupt("no region in it"))?;
    match kind {
        raft_serverpb::PeerState::Normal => Ok(Some(RegionState::Normal(region))),
        raft_serverpb::PeerState::Tombstone => {
            let peer_id = state.removed_records.first().map_or(0, |peer| peer.id);
            let removed_at = snapshot
                .get(ColumnFamily::Meta, &MetaKey::Tombstone(region_id).encode())?
                .map(|bytes| decode_position(&bytes).ok_or_else(|| corrupt("unreadable tombstone")))
                .transpose()?;
            let tombstone = Tombstone { region, peer_id: PeerId(peer_id), removed_at };
            Ok(Some(RegionState::Tombstone(tombstone)))
        }
        raft_serverpb::PeerState::Applying
        | raft_serverpb::PeerState::Merging
        | raft_serverpb::PeerState::Unavailable => Err(corrupt("a state that we never write")),
    }
}

/// How far one view of the engine has applied a region; `None` when nothing is known.
pub fn applied_state(
    snapshot: &impl Snapshot,
    region_id: RegionId,
) -> Result<Option<Position>, Fault> {
    snapshot
        .get(ColumnFamily::Meta, &MetaKey::Applied(region_id).encode())?
        .map(|bytes| {
            AppliedState::decode(&bytes).map(|state| state.0).ok_or_else(|| Fault::Corrupt {
                place: format!("applied state of {region_id}"),
                detail: "unreadable".into(),
            })
        })
        .transpose()
}

/// Whether one view of the engine says that this peer is in quarantine.
pub fn quarantine_of(
    snapshot: &impl Snapshot,
    region_id: RegionId,
    peer_id: PeerId,
) -> Result<Option<Quarantine>, Fault> {
    let found = snapshot
        .get(ColumnFamily::Meta, &MetaKey::Quarantine(region_id).encode())?
        .map(|bytes| {
            Quarantine::decode(&bytes).ok_or_else(|| Fault::Corrupt {
                place: format!("quarantine of {region_id}"),
                detail: "unreadable".into(),
            })
        })
        .transpose()?;
    Ok(found.filter(|odd| odd.peer_id == peer_id))
}

/// Every region that the store knows something of, in order.
pub fn region_states(data: &impl DataEngine) -> Result<Vec<(RegionId, RegionState)>, Fault> {
    let snapshot = data.snapshot();
    let mut cursor = snapshot.cursor(ColumnFamily::Meta, &MetaKey::regions());
    let mut states = Vec::new();
    let mut on_key = cursor.seek_to_first()?;
    while on_key {
        if let Some(MetaKey::Region(id)) = MetaKey::decode(cursor.key()) {
            let state = region_state(&snapshot, id)?.ok_or_else(|| Fault::Missing {
                what: format!("state of {id}, listed a moment ago"),
            })?;
            states.push((id, state));
        }
        on_key = cursor.next()?;
    }
    Ok(states)
}

/// Who votes and who learns in this region. In a joint membership the roles of its peers say who votes in
/// which half; nobody leaves the region before the old half is left, so they say all.
pub fn conf_state_of(region: &metapb::Region) -> ConfState {
    let ids = |has_role: fn(&metapb::Peer) -> bool| {
        let peers = region.peers.iter().filter(|peer| has_role(peer));
        let mut ids: Vec<u64> = peers.map(|peer| peer.id).collect();
        ids.sort_unstable();
        ids
    };
    let mut members = ConfState::from((ids(is_incoming), ids(is_learner)));
    if is_joint(region) {
        members.voters_outgoing = ids(is_outgoing);
        members.learners_next = ids(|peer| peer.role() == metapb::PeerRole::DemotingVoter);
    }
    members
}

#[cfg(test)]
mod tests;
