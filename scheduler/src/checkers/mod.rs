//! Checkers look at one region and say what it needs.
//!
//! They are asked in this order, and the first that wants something has its way:
//!
//! | checker | leads the region |
//! |---|---|
//! | [`joint`] | out of a joint membership that nobody has left |
//! | [`bounds`] | apart, where it lies over a bound of placement rules |
//! | [`rules`] | to the peers that the placement rules want, if they count |
//! | [`replicas`] | to `max-replicas` voters on good stores, if they do not |

pub mod bounds;
pub mod joint;
pub mod replicas;
pub mod rules;

use serde::Serialize;

use crate::cluster::RegionRecord;
use crate::ids::Ids;
use crate::operator::Operator;
use crate::placement::View;

/// What a checker found.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The region needs nothing.
    Healthy,
    /// The region needs something that cannot be done now, and why.
    Blocked(String),
    /// The region needs this.
    Wants(Operator),
    /// A plan needs ids and none are reserved: this bound has to be saved first.
    NeedsIds(u64),
}

impl Finding {
    /// In words, completing "the checker says: …".
    pub fn says(&self) -> String {
        match self {
            Self::Healthy => "it needs nothing".into(),
            Self::Blocked(why) => format!("it has to wait: {why}"),
            Self::NeedsIds(_) => "it has to wait for ids".into(),
            Self::Wants(operator) => format!("it needs {}", operator.description),
        }
    }
}

/// What one checker says of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The checker, as tools name it.
    pub checker: &'static str,
    /// In words.
    pub says: String,
}

type Checker = fn(View<'_>, &RegionRecord, &mut Ids) -> Finding;

/// The checkers that count, in their order.
fn all(view: View<'_>) -> [(&'static str, Checker); 3] {
    let of_peers: (&'static str, Checker) = if view.policy.enable_placement_rules {
        ("rule", rules::check)
    } else {
        ("replica", replicas::check)
    };
    [("joint-state", joint::check), ("split", bounds::check), of_peers]
}

/// What the region needs, if anything. Checkers that pause are passed over.
pub fn check(
    view: View<'_>,
    record: &RegionRecord,
    is_paused: impl Fn(&str) -> bool,
    ids: &mut Ids,
) -> Finding {
    for (_, checker) in all(view).into_iter().filter(|(name, _)| !is_paused(name)) {
        let found = checker(view, record, ids);
        if found != Finding::Healthy {
            return found;
        }
    }
    Finding::Healthy
}

/// What each of them says, up to the first that wants something.
pub fn verdicts(
    view: View<'_>,
    record: &RegionRecord,
    is_paused: impl Fn(&str) -> bool,
    ids: &mut Ids,
) -> Vec<Verdict> {
    let mut said = Vec::new();
    for (checker, check) in all(view) {
        if is_paused(checker) {
            said.push(Verdict { checker, says: "it pauses".into() });
            continue;
        }
        let finding = check(view, record, ids);
        said.push(Verdict { checker, says: finding.says() });
        if finding != Finding::Healthy {
            break;
        }
    }
    said
}
