//! Whether regions are placed as they shall be, and a word to look at them soon.
//!
//! The patrol comes to every region in time. Somebody who waits for a range of keys to be placed has its regions
//! looked at before the others, at the next tick. That hastens only the looking: what is then begun has the
//! limits of everything else.

use std::collections::BTreeSet;

use proto::{KeyRange, RegionId};

use super::{Cluster, Moment, PATROL_REGIONS, RegionRecord};
use crate::explain;

/// Regions that wait for a look out of turn; of more, the patrol finds what they need.
pub const SUSPECTS_MAX: usize = 10_240;

/// How far the peers of some regions are from where they shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    /// Every region has as many peers of each role as it shall have, where it shall.
    Complete,
    /// Some have not, and nothing is in the way.
    Underway,
    /// Something that some of them need cannot be done now.
    Waiting,
}

impl Placement {
    /// The word for it that tools know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "REPLICATED",
            Self::Underway => "INPROGRESS",
            Self::Waiting => "PENDING",
        }
    }
}

impl Cluster {
    /// How the regions of the range are placed, by the one that is furthest from it.
    pub fn placement(&self, range: &KeyRange, moment: Moment) -> Placement {
        let found = self.regions.scan(range, 0);
        let worst = found.iter().map(|record| self.placement_of(record, moment)).max();
        worst.unwrap_or(Placement::Complete)
    }

    fn placement_of(&self, record: &RegionRecord, moment: Moment) -> Placement {
        if self.view(moment).why_not_complete(record).is_none() {
            Placement::Complete
        } else if self.operators.of(record.id()).is_none()
            && explain::has_to_wait(self, record, moment)
        {
            Placement::Waiting
        } else {
            Placement::Underway
        }
    }

    /// Has up to `limit` regions of the range looked at soon, those that are not placed as they shall be; all
    /// when it is 0.
    pub fn look_soon(&mut self, range: &KeyRange, limit: usize, moment: Moment) {
        for record in self.regions.scan(range, limit) {
            if self.suspects.len() >= SUSPECTS_MAX {
                return;
            }
            if self.placement_of(&record, moment) != Placement::Complete {
                self.suspects.insert(record.id());
            }
        }
    }

    /// The next regions to be looked at out of turn.
    pub(super) fn next_suspects(&mut self) -> BTreeSet<RegionId> {
        let rest = self.suspects.iter().nth(PATROL_REGIONS).copied();
        let rest = rest.map(|first| self.suspects.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut self.suspects, rest)
    }
}
