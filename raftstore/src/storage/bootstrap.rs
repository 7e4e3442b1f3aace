//! How a store comes to be, and the first region of a cluster.
//!
//! The shell asks the scheduler, this module writes down; a crash between any two steps is picked
//! up at the next start:
//!
//! ```text
//!  1  ident?            none: ask the scheduler for a store id
//!  2  write_ident       lost before: an id is wasted
//!  3  is the cluster bootstrapped?   yes: go on to 7
//!  4  ask for ids; prepare_first_region      lost before: ids are wasted
//!  5  Bootstrap(store, region)               lost: prepared_region is found, and asked again
//!  6  accepted:            confirm_first_region
//!     already bootstrapped by another:  discard_first_region
//!     already bootstrapped with this very region (our answer was lost):  confirm_first_region
//!  7  serve
//! ```

use bytes::Bytes;
use prost::Message as _;
use proto::{KeyRange, PeerId, RegionId, StoreId, metapb, raft_serverpb, region::FIRST_EPOCH};

use super::keys::MetaKey;
use super::{FIRST_POSITION, put_applied, put_region};
use crate::engine::{ColumnFamily, DataEngine, WriteBatch};
use crate::error::Fault;

/// Who this store is, if it has been told.
pub fn ident(data: &impl DataEngine) -> Result<Option<raft_serverpb::StoreIdent>, Fault> {
    read(data, MetaKey::Ident)
}

/// Writes down who this store is; durable when this returns. A store never changes its identity.
pub fn write_ident(data: &impl DataEngine, ident: &raft_serverpb::StoreIdent) -> Result<(), Fault> {
    match self::ident(data)? {
        Some(known) if known == *ident => return Ok(()),
        Some(known) => {
            return Err(Fault::WrongIdentity {
                detail: format!(
                    "this directory belongs to store {} of cluster {}, not to store {} of {}",
                    known.store_id, known.cluster_id, ident.store_id, ident.cluster_id
                ),
            });
        }
        None => {}
    }
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Meta, MetaKey::Ident.encode(), ident.encode_to_vec());
    data.write(batch)?;
    data.sync()
}

/// The first region as this store has prepared it, if the scheduler has not confirmed it yet.
pub fn prepared_region(data: &impl DataEngine) -> Result<Option<metapb::Region>, Fault> {
    read(data, MetaKey::PreparedRegion)
}

/// Prepares a first region of all keys with one peer, here; durable when this returns.
pub fn prepare_first_region(
    data: &impl DataEngine,
    store_id: StoreId,
    region_id: RegionId,
    peer_id: PeerId,
) -> Result<metapb::Region, Fault> {
    let region = metapb::Region {
        id: region_id.0,
        region_epoch: Some(FIRST_EPOCH),
        peers: vec![metapb::Peer { id: peer_id.0, store_id: store_id.0, ..Default::default() }],
        ..Default::default()
    };
    prepare(data, region)
}

/// Prepares a first region as described, with a peer here among others: for clusters whose stores
/// are all told the same. Durable when this returns.
pub fn prepare(data: &impl DataEngine, region: metapb::Region) -> Result<metapb::Region, Fault> {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Meta, MetaKey::PreparedRegion.encode(), region.encode_to_vec());
    put_region(&mut batch, &region);
    put_applied(&mut batch, RegionId(region.id), FIRST_POSITION);
    data.write(batch)?;
    data.sync()?;
    Ok(region)
}

/// The scheduler took our first region: from now on it is one like others.
pub fn confirm_first_region(data: &impl DataEngine) -> Result<(), Fault> {
    let mut batch = WriteBatch::new();
    batch.delete(ColumnFamily::Meta, MetaKey::PreparedRegion.encode());
    data.write(batch)?;
    data.sync()
}

/// Another store was first: what was prepared here never was.
pub fn discard_first_region(data: &impl DataEngine) -> Result<(), Fault> {
    let Some(region) = prepared_region(data)? else { return Ok(()) };
    let region_id = RegionId(region.id);
    let mut batch = WriteBatch::new();
    for key in [MetaKey::PreparedRegion, MetaKey::Region(region_id), MetaKey::Applied(region_id)] {
        batch.delete(ColumnFamily::Meta, key.encode());
    }
    data.write(batch)?;
    data.sync()
}

/// Whether the engine holds nothing at all: no identity, and no data.
pub fn is_empty(data: &impl DataEngine) -> Result<bool, Fault> {
    use crate::engine::{Cursor as _, Snapshot as _};
    let snapshot = data.snapshot();
    for cf in ColumnFamily::ALL {
        if snapshot.cursor(cf, &KeyRange::all()).seek_to_first()? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read<M: prost::Message + Default>(
    data: &impl DataEngine,
    key: MetaKey,
) -> Result<Option<M>, Fault> {
    let bytes: Option<Bytes> = data.get(ColumnFamily::Meta, &key.encode())?;
    bytes
        .map(|bytes| {
            M::decode(bytes).map_err(|error| Fault::Corrupt {
                place: format!("{key:?}"),
                detail: error.to_string(),
            })
        })
        .transpose()
}
