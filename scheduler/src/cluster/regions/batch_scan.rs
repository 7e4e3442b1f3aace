//! The regions of several ranges at once, and whether they hold every key of them.
//!
//! Clients and tools look for the words of the refusals, so they are PD's, as are these rules: a
//! range may begin where it ends; before the first region of a range without a start, and behind the
//! last one of a range without an end, no hole is seen.
//!
//! Unlike in PD, nothing may follow a range without an end: it could only be named twice.

use std::sync::Arc;

use bytes::Bytes;
use proto::KeyRange;

use super::{RegionRecord, Regions};
use crate::cluster::Refusal;

impl Regions {
    /// The regions that share a key with one of the ranges, which must be in order and apart; a
    /// region that lies in two of them is named once. At most `limit` regions, all when it is 0.
    /// With `contain_all`, a key in no region is a refusal, unless it lies behind the last region
    /// that the limit allows.
    pub fn batch_scan(
        &self,
        ranges: &[KeyRange],
        limit: usize,
        contain_all: bool,
    ) -> Result<Vec<Arc<RegionRecord>>, Refusal> {
        check_ranges(ranges)?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut found: Vec<Arc<RegionRecord>> = Vec::new();
        for range in ranges {
            // What lies before the first region: up to the start of the range, if it has one.
            let start = Some(range.start.clone()).filter(|start| !start.is_empty());
            let mut last = KeyRange { start: Bytes::new(), end: start };
            for record in self.within(range) {
                let next = record.range();
                if found.last().is_none_or(|named| named.id() != record.id()) {
                    if found.len() == limit {
                        return Ok(found);
                    }
                    if contain_all && last.end.as_ref().is_some_and(|end| *end < next.start) {
                        return Err(Refusal::RangesNotCovered(format!(
                            "key range{range} found a hole region between region{last} and \
                             region{next}"
                        )));
                    }
                    found.push(Arc::clone(record));
                }
                last = next;
            }
            if let (Some(covered), Some(end)) = (&last.end, &range.end)
                && contain_all
                && covered < end
                && found.len() < limit
            {
                let missing = KeyRange { start: covered.clone(), end: Some(end.clone()) };
                return Err(Refusal::RangesNotCovered(format!(
                    "key range{range} found a hole region in the last, the last scanned region is \
                     {last}, {missing} is missing"
                )));
            }
        }
        Ok(found)
    }
}

fn check_ranges(ranges: &[KeyRange]) -> Result<(), Refusal> {
    let invalid = |what: &str| Err(Refusal::InvalidRange(format!("invalid key range, {what}")));
    for pair in ranges.windows(2) {
        if pair[0].end.as_ref().is_none_or(|end| pair[1].start < *end) {
            return invalid("ranges overlapped");
        }
    }
    if ranges.iter().any(|range| range.end.as_ref().is_some_and(|end| *end < range.start)) {
        return invalid("start key > end key");
    }
    Ok(())
}
