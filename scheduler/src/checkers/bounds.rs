//! A region that lies over a bound of placement rules is split there: no rules fit it as a whole.

use super::Finding;
use crate::cluster::RegionRecord;
use crate::ids::Ids;
use crate::instructions::SPLIT_KEYS_MAX;
use crate::operator::{Operator, Purpose, Step};
use crate::placement::View;

use proto::pdpb::CheckPolicy;

/// Cuts the region at the bounds inside it, as many as one split may have.
pub fn check(view: View<'_>, record: &RegionRecord, _: &mut Ids) -> Finding {
    if !view.has_own_rules() {
        return Finding::Healthy;
    }
    let mut keys = view.rules.bounds_within(&record.range());
    if keys.is_empty() {
        return Finding::Healthy;
    }
    if record.leader.is_none() {
        return Finding::Blocked("no leader has spoken for the region yet".into());
    }
    keys.truncate(SPLIT_KEYS_MAX);
    let step = Step::Split { keys, policy: CheckPolicy::Usekey, version: record.epoch().version };
    Finding::Wants(Operator::new("rule-split-region", Purpose::Split, record, vec![step]))
}
