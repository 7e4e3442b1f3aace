//! The newest regions tile the key space: no key belongs to two of them, and none to no region (I8). And
//! at no moment do two regions of one store hold the same key.

use std::collections::BTreeMap;

use proto::{KeyRange, metapb, region};

/// Of all descriptions the newest of each region, sorted by where they start.
pub fn newest(all: impl IntoIterator<Item = metapb::Region>) -> Vec<metapb::Region> {
    let mut by_id: BTreeMap<u64, metapb::Region> = BTreeMap::new();
    for new in all {
        let is_newer = by_id.get(&new.id).is_none_or(|known| {
            region::compare_epochs(&region::epoch(known), &region::epoch(&new)).is_lt()
        });
        if is_newer {
            by_id.insert(new.id, new);
        }
    }
    let mut regions: Vec<metapb::Region> = by_id.into_values().collect();
    regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    regions
}

/// Checks the regions that one store serves.
pub fn check_store(store: u64, regions: &[metapb::Region]) -> Result<(), String> {
    for (at, one) in regions.iter().enumerate() {
        let range = KeyRange::of(one);
        if let Some(other) = regions[..at].iter().find(|r| KeyRange::of(r).overlaps(&range)) {
            return Err(format!(
                "s{store} serves some keys twice: {}, {}",
                region::Readable(other),
                region::Readable(one)
            ));
        }
    }
    Ok(())
}

/// Checks regions that are sorted by where they start.
pub fn check(regions: &[metapb::Region]) -> Result<(), String> {
    let mut next = Some(bytes::Bytes::new());
    for region in regions {
        let range = KeyRange::of(region);
        if next.as_ref() != Some(&range.start) {
            return Err(format!(
                "{} does not begin where its left neighbour ends",
                region::Readable(region)
            ));
        }
        next = range.end;
    }
    match next {
        None => Ok(()),
        Some(key) => Err(format!("no region from {key:?} on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str) -> metapb::Region {
        let (start_key, end_key) = (start.into(), end.into());
        metapb::Region { id, start_key, end_key, ..Default::default() }
    }

    #[test]
    fn gaps_and_overlaps_are_found() {
        assert!(check(&[region(1, "", "m"), region(2, "m", "")]).is_ok());
        assert!(check(&[region(1, "", "m"), region(2, "n", "")]).is_err());
        assert!(check(&[region(1, "", "m"), region(2, "k", "")]).is_err());
        assert!(check(&[region(1, "", "m")]).is_err());
        assert!(check(&[]).is_err());
    }

    #[test]
    fn a_store_that_serves_a_key_twice_is_found() {
        assert!(check_store(1, &[region(2, "m", ""), region(1, "", "m")]).is_ok());
        assert!(check_store(1, &[region(2, "k", ""), region(1, "", "m")]).is_err());
    }

    #[test]
    fn of_two_descriptions_the_newer_counts() {
        let at = |version, end| metapb::Region {
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            ..region(1, "", end)
        };
        let newest = newest([at(2, "m"), at(1, ""), region(3, "m", "")]);
        assert_eq!(newest.len(), 2);
        assert!(check(&newest).is_ok());
    }
}
