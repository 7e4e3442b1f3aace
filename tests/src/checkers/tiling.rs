//! The newest regions tile the key space: no key belongs to two of them, and none to no region (I8).

use proto::{KeyRange, metapb, region};

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
}
