//! Region bounds that api version 2 needs: a region never holds keys of two modes.
//!
//! Keys of raw commands begin with `r` and a keyspace id, those of transactions with `x` and a
//! keyspace id. Official clients take the end of a keyspace for the end of a region; a raw scan that
//! meets a region reaching beyond it would not end. So regions are cut at the four bounds of the
//! default keyspace, by whoever leads a region that reaches over one; and again, should a merge have
//! undone it.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, RegionId, memcomparable, metapb, region};
use raftstore::engine::DataEngine;
use raftstore::msg::Target;

use crate::service::Store;

/// How often a store looks while a region here is to be cut, by this store or by another …
const LOOK_AGAIN_SOON: Duration = Duration::from_millis(20);
/// … and when all bounds hold.
const LOOK_AGAIN_LATER: Duration = Duration::from_secs(10);

/// Where regions begin once a cluster of api version 2 is complete, as regions know keys.
pub fn keyspace_bounds() -> [Bytes; 4] {
    // Keyspace 0, DEFAULT: its first key, and the first key of the next keyspace.
    [b"r\0\0\0", b"r\0\0\x01", b"x\0\0\0", b"x\0\0\x01"].map(|key| memcomparable::encode(key))
}

/// The bounds that lie inside a region instead of at its edge.
fn violated_by(region: &metapb::Region) -> Vec<Bytes> {
    let range = KeyRange::of(region);
    keyspace_bounds().into_iter().filter(|bound| range.split_at(bound).is_some()).collect()
}

/// Cuts regions led here at the bounds, for as long as the store lives.
pub(crate) async fn keep_keyspace_bounds<D: DataEngine>(store: Weak<Store<D>>) {
    loop {
        let Some(alive) = store.upgrade() else { return };
        let views = alive.router.read_views().all();
        // A store looks for the first time before its regions have leaders, and perhaps before it has
        // regions: what it cannot cut now is a reason to look again soon.
        let mut is_quiet = !views.is_empty();
        for view in views {
            let region = &view.region;
            let keys = violated_by(region);
            is_quiet &= keys.is_empty();
            if keys.is_empty() || !view.is_leader {
                continue;
            }
            let target = Target {
                region_id: RegionId(region.id),
                epoch: region::epoch(region),
                ..Default::default()
            };
            if let Err(refusal) = alive.split_at(target, keys).await {
                tracing::debug!(region = region.id, %refusal, "a keyspace bound is not cut yet");
            }
        }
        drop(alive);
        tokio::time::sleep(if is_quiet { LOOK_AGAIN_LATER } else { LOOK_AGAIN_SOON }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_cut_where_a_bound_lies_inside() {
        let all = metapb::Region::default();
        assert_eq!(violated_by(&all), keyspace_bounds());
        let [first, second, ..] = keyspace_bounds();
        let part = metapb::Region { start_key: first, end_key: second, ..Default::default() };
        assert!(violated_by(&part).is_empty());
    }
}
