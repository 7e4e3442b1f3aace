//! Region bounds that api version 2 needs: a region never holds keys of two modes.
//!
//! Keys of raw commands begin with `r` and a keyspace id, those of transactions with `x` and a
//! keyspace id. Official clients take the end of a keyspace for the end of a region; a raw scan that
//! meets a region reaching beyond it would not end: it goes on at that region's end, where the store
//! refuses it, and takes the refusal, which has no key, for a pair. So regions are cut at the four bounds
//! of the default keyspace, by whoever leads a region that reaches over one; and again, should a merge
//! have undone it. Until then such a region answers nobody ([`check`]): who could learn its ends is told
//! to look again, and finds the parts.

use std::sync::{LazyLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, Refusal, RegionId, memcomparable, region};
use raftstore::engine::DataEngine;
use raftstore::msg::Target;

use crate::config::ApiVersion;
use crate::service::Store;

/// How often a store looks while a region here is to be cut, by this store or by another …
const LOOK_AGAIN_SOON: Duration = Duration::from_millis(20);
/// … and when all bounds hold.
const LOOK_AGAIN_LATER: Duration = Duration::from_secs(10);

/// Keyspace 0, DEFAULT: its first key, and the first key of the next keyspace; raw, then transactional.
static BOUNDS: LazyLock<[Bytes; 4]> = LazyLock::new(|| {
    [b"r\0\0\0", b"r\0\0\x01", b"x\0\0\0", b"x\0\0\x01"].map(|key| memcomparable::encode(key))
});

/// Where regions begin once a cluster of api version 2 is complete, as regions know keys.
pub fn keyspace_bounds() -> [Bytes; 4] {
    BOUNDS.clone()
}

fn is_inside(range: &KeyRange, bound: &[u8]) -> bool {
    range.start.as_ref() < bound && range.contains(bound)
}

/// The bounds that lie inside a region instead of at its edge.
fn violated_by(range: &KeyRange) -> Vec<Bytes> {
    BOUNDS.iter().filter(|bound| is_inside(range, bound)).cloned().collect()
}

/// Refuses a command on a region that is still to be cut: its caller looks for the region again.
pub(crate) fn check(
    api_version: ApiVersion,
    region_id: RegionId,
    range: &KeyRange,
) -> Result<(), Refusal> {
    if api_version == ApiVersion::V2 && BOUNDS.iter().any(|bound| is_inside(range, bound)) {
        return Err(Refusal::RegionNotInitialized { region_id: region_id.0 });
    }
    Ok(())
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
            let keys = violated_by(&view.range);
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
        assert_eq!(violated_by(&KeyRange::all()), keyspace_bounds());
        let [first, second, third, _] = keyspace_bounds();
        assert!(violated_by(&KeyRange::from_wire(first.clone(), second.clone())).is_empty());
        assert_eq!(violated_by(&KeyRange::from_wire(first, Bytes::new())).len(), 3);
        assert_eq!(violated_by(&KeyRange::from_wire("", third)).len(), 2);
    }

    #[test]
    fn a_region_that_is_to_be_cut_answers_nobody_and_its_parts_do() {
        let refused = |api, range: &KeyRange| check(api, RegionId(7), range).err();
        let whole = KeyRange::all();
        let not_yet = Refusal::RegionNotInitialized { region_id: 7 };
        assert_eq!(refused(ApiVersion::V2, &whole), Some(not_yet));
        assert_eq!(refused(ApiVersion::V1, &whole), None);
        assert_eq!(refused(ApiVersion::V1Ttl, &whole), None);
        let [a, b, c, d] = keyspace_bounds();
        let edges = [Bytes::new(), a, b, c, d, Bytes::new()];
        for part in edges.windows(2) {
            let part = KeyRange::from_wire(part[0].clone(), part[1].clone());
            assert_eq!(refused(ApiVersion::V2, &part), None, "{part}");
        }
    }
}
