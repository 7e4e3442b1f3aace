//! The layout of what a store keeps of itself, in the data engine's family `Meta`.
//!
//! ```text
//! 01 01                 who this store is                    StoreIdent
//! 01 02                 a first region, not yet confirmed    Region
//! 01 03                 the engine's own safe point          see `engine::garbage`
//! 02 ‹region id› 01     the peer here                        RegionLocalState
//! 02 ‹region id› 02     how far it has applied               see AppliedState
//! 02 ‹region id› 03     where a removed peer ended           see Tombstone
//! 02 ‹region id› 04     why the peer is in quarantine        see Quarantine
//! ```
//!
//! Region ids are eight bytes, most significant first, so that regions follow each other in order.
//! User keys stand in the data families as they are. Raft logs are in the log engine.

use bytes::{BufMut, Bytes, BytesMut};
use proto::{KeyRange, RegionId};

use crate::engine::garbage::SAFE_POINT_KEY;

const STORE: u8 = 0x01;
const REGION: u8 = 0x02;
const AFTER_REGIONS: u8 = 0x03;

/// A key of the family `Meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// Who this store is.
    Ident,
    /// A first region that the scheduler has not confirmed.
    PreparedRegion,
    /// By which safe point the engine removes versions; it is the engine that reads and writes it.
    SafePoint,
    /// The peer of this region here: its region, or its tombstone.
    Region(RegionId),
    /// How far it has applied.
    Applied(RegionId),
    /// Where it ended.
    Tombstone(RegionId),
    /// Why it is in quarantine.
    Quarantine(RegionId),
}

impl MetaKey {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(10);
        match self {
            Self::Ident => out.put_slice(&[STORE, 1]),
            Self::PreparedRegion => out.put_slice(&[STORE, 2]),
            Self::SafePoint => out.put_slice(&SAFE_POINT_KEY),
            Self::Region(id) => put_region(&mut out, id, 1),
            Self::Applied(id) => put_region(&mut out, id, 2),
            Self::Tombstone(id) => put_region(&mut out, id, 3),
            Self::Quarantine(id) => put_region(&mut out, id, 4),
        }
        out.freeze()
    }

    /// The key in these bytes; `None` when they are none of ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [STORE, 1] => Some(Self::Ident),
            [STORE, 2] => Some(Self::PreparedRegion),
            _ if bytes == SAFE_POINT_KEY => Some(Self::SafePoint),
            [REGION, id @ .., suffix] => {
                let id = RegionId(u64::from_be_bytes(id.try_into().ok()?));
                match suffix {
                    1 => Some(Self::Region(id)),
                    2 => Some(Self::Applied(id)),
                    3 => Some(Self::Tombstone(id)),
                    4 => Some(Self::Quarantine(id)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Where all keys of regions lie.
    pub fn regions() -> KeyRange {
        KeyRange::from_wire(&[REGION][..], &[AFTER_REGIONS][..])
    }
}

fn put_region(out: &mut BytesMut, id: RegionId, suffix: u8) {
    out.put_u8(REGION);
    out.put_u64(id.0);
    out.put_u8(suffix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_back_as_it_was_written() {
        let id = RegionId(258);
        for key in [
            MetaKey::Ident,
            MetaKey::PreparedRegion,
            MetaKey::SafePoint,
            MetaKey::Region(id),
            MetaKey::Applied(id),
            MetaKey::Tombstone(id),
            MetaKey::Quarantine(id),
        ] {
            assert_eq!(MetaKey::decode(&key.encode()), Some(key));
        }
        assert_eq!(MetaKey::decode(b"user key"), None);
    }

    /// S0.40: the layout, byte for byte. A store that was written with it is read with it for ever.
    #[test]
    fn the_layout_is_what_it_was() {
        let id = RegionId(0x0102_0304_0506_0708);
        let layout: [(MetaKey, &[u8]); 7] = [
            (MetaKey::Ident, &[1, 1]),
            (MetaKey::PreparedRegion, &[1, 2]),
            (MetaKey::SafePoint, &[1, 3]),
            (MetaKey::Region(id), &[2, 1, 2, 3, 4, 5, 6, 7, 8, 1]),
            (MetaKey::Applied(id), &[2, 1, 2, 3, 4, 5, 6, 7, 8, 2]),
            (MetaKey::Tombstone(id), &[2, 1, 2, 3, 4, 5, 6, 7, 8, 3]),
            (MetaKey::Quarantine(id), &[2, 1, 2, 3, 4, 5, 6, 7, 8, 4]),
        ];
        for (key, bytes) in layout {
            assert_eq!(key.encode(), bytes, "{key:?}");
        }
    }

    #[test]
    fn all_keys_of_regions_lie_in_their_range() {
        let range = MetaKey::regions();
        assert!(range.contains(&MetaKey::Region(RegionId(0)).encode()));
        assert!(range.contains(&MetaKey::Tombstone(RegionId(u64::MAX)).encode()));
        assert!(!range.contains(&MetaKey::Ident.encode()));
    }
}
