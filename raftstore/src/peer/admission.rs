//! May this request enter? Who leads, epoch and term are [`ReadView::admit`]'s questions, asked in the
//! same order for reads on any thread; here are those that only the peer can answer: keys and limits.
//!
//! [`ReadView::admit`]: crate::read_view::ReadView::admit

use proto::{KeyRange, Refusal, metapb};

use crate::command::Fold;
use crate::config::Config;
use crate::engine::{Change, ColumnFamily, WriteBatch};

/// Room in an entry for its kind and epoch.
const ENTRY_HEAD_BYTES: usize = 32;

/// Whether a write may be proposed at all: its keys belong to the region, it touches data only, and it
/// fits into an entry.
pub(crate) fn check_write(
    batch: &WriteBatch,
    region: &metapb::Region,
    range: &KeyRange,
    config: &Config,
) -> Result<(), Refusal> {
    let entry_size = Fold::bytes_of(batch) + ENTRY_HEAD_BYTES;
    if entry_size > config.entry_bytes_max {
        let entry_size = entry_size as u64;
        return Err(Refusal::RaftEntryTooLarge { region_id: region.id, entry_size });
    }
    for change in batch.changes() {
        let (cf, outside) = match change {
            Change::Put { cf, key, .. } | Change::Delete { cf, key } => {
                (cf, (!range.contains(key)).then_some(key))
            }
            Change::DeleteRange { cf, range: keys } => {
                (cf, (!keys.is_empty() && !range.covers(keys)).then_some(&keys.start))
            }
        };
        if let Some(key) = outside {
            return Err(Refusal::KeyNotInRegion {
                key: key.clone(),
                region_id: region.id,
                start_key: region.start_key.clone(),
                end_key: region.end_key.clone(),
            });
        }
        if !ColumnFamily::DATA.contains(cf) {
            return Err(Refusal::Other { message: format!("{} is not for users", cf.name()) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(batch: &WriteBatch) -> Result<(), Refusal> {
        let region = metapb::Region {
            id: 2,
            start_key: "b".into(),
            end_key: "m".into(),
            ..Default::default()
        };
        let config = Config { entry_bytes_max: 1000, ..Config::default() };
        check_write(batch, &region, &KeyRange::of(&region), &config)
    }

    fn put(cf: ColumnFamily, key: &'static str, value_bytes: usize) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(cf, key, vec![0; value_bytes]);
        batch
    }

    #[test]
    fn keys_outside_the_region_are_refused() {
        assert_eq!(check(&put(ColumnFamily::Default, "b", 1)), Ok(()));
        for key in ["a", "m"] {
            let refused = check(&put(ColumnFamily::Lock, key, 1));
            assert!(matches!(refused, Err(Refusal::KeyNotInRegion { .. })), "{refused:?}");
        }
        let mut batch = WriteBatch::new();
        batch.delete_range(ColumnFamily::Write, KeyRange::from_wire("c", "n"));
        assert!(matches!(check(&batch), Err(Refusal::KeyNotInRegion { .. })));
    }

    #[test]
    fn what_does_not_fit_into_an_entry_is_refused() {
        let refused = check(&put(ColumnFamily::Default, "b", 1000));
        assert!(matches!(refused, Err(Refusal::RaftEntryTooLarge { region_id: 2, .. })));
    }

    #[test]
    fn the_stores_own_family_is_not_for_users() {
        assert!(matches!(check(&put(ColumnFamily::Meta, "b", 1)), Err(Refusal::Other { .. })));
    }
}
