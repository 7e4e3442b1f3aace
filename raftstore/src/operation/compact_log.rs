//! How far may the log be cut, and cutting it.
//!
//! **Notice.** A leader looks every `compact_log_ticks`. What a follower needs begins behind what it has on
//! its disk, or behind the snapshot that is on its way to it.
//!
//! | when | what goes |
//! |---|---|
//! | `compact_log_entries_min` entries are needed by nobody | those |
//! | fewer, at the last of `compact_log_looks_max` looks | those: a quiet region need not keep them for ever |
//! | the log is too long or too large, under a slow follower | half of it; the follower gets a snapshot instead |
//! | … and a follower is being sent a snapshot | at most up to that, or it would be sent one after another; beyond twice the limit half of the log all the same |
//!
//! **Propose.** [`Command::CutLog`] with the last entry that may go.
//!
//! **Apply.** Every replica agrees; nothing but the index is looked at.
//!
//! **After.** The entries are the data engine's write-ahead log, so the cut waits until the data that
//! they wrote is durable (`Store` asks for a sync, one for all regions that wait). Then the log forgets
//! them, on the next write of the group.

use raft::eraftpb::Entry;
use raft::{ProgressState, Storage as _};

use crate::command::Command;
use crate::config::Config;
use crate::engine::LogEngine;
use crate::peer::{Peer, Round};
use crate::storage::group_log::{Position, bytes_of};

/// So many entries that nobody needs are no reason for a cut, however long they lie there: one is kept on
/// purpose, and each cut is an entry.
const LEFT_MAX: u64 = 2;

/// What is known of a log's size, and of a cut that waits for the data.
#[derive(Debug, Default)]
pub(crate) struct LogUse {
    /// Bytes of entries committed since the last cut, or since the start.
    bytes: u64,
    /// Looks in a row that found something to cut, but not enough.
    vain_looks: u64,
    /// A cut everybody agreed to, and the sync it waits for.
    pub(crate) cut: Option<(Position, u64)>,
}

impl LogUse {
    pub(crate) fn on_committed(&mut self, entries: &[Entry]) {
        self.bytes += entries.iter().map(|entry| bytes_of(entry) as u64).sum::<u64>();
    }
}

impl<L: LogEngine> Peer<L> {
    /// Proposes a cut if one is worth it.
    pub(crate) fn tick_compact_log(&mut self, round: &Round<'_>) {
        if self.leader().is_none() || self.group.transferee().is_some() {
            return;
        }
        let gone = self.group.log().truncated().index;
        let looked_at = Look {
            gone,
            applied: self.applied.index,
            bytes: self.log_use.bytes,
            vain_looks: self.log_use.vain_looks,
            needs: self.group.raft().prs().iter().map(|(_, progress)| need_of(progress)).collect(),
        };
        let Some(index) = cut_index(&looked_at, round.config) else {
            self.log_use.vain_looks += 1;
            return;
        };
        self.log_use.vain_looks = 0;
        let Ok(term) = self.group.log().term(index) else { return };
        // Dropped when too much is uncommitted: the next look is soon.
        let _ = self.group.propose(Command::CutLog { index, term }.encode());
    }

    /// The data that the entries wrote is durable: the log may forget them.
    pub(crate) fn perform_cut(&mut self) {
        if let Some((upto, _)) = self.log_use.cut.take()
            && upto.index <= self.applied.index
        {
            let log = self.group.log_mut();
            let (gone, last) = (log.truncated().index, log.last().index);
            log.cut(upto);
            // What stays is taken for as large as what went.
            let (stays, all) = (last.saturating_sub(upto.index), last.saturating_sub(gone).max(1));
            let bytes = u128::from(self.log_use.bytes) * u128::from(stays) / u128::from(all);
            self.log_use.bytes = bytes as u64;
        }
    }
}

/// What a look at a log finds.
#[derive(Clone, Debug, Default)]
struct Look {
    /// The last entry that is cut off.
    gone: u64,
    /// The last entry that is applied here.
    applied: u64,
    /// Bytes of the entries between.
    bytes: u64,
    /// Looks before this one that found too little.
    vain_looks: u64,
    /// What each peer has, the leader among them.
    needs: Vec<Need>,
}

/// What a peer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Everything behind this entry.
    Entries(u64),
    /// A snapshot up to this entry is on its way: everything behind that.
    Snapshot(u64),
}

fn need_of(progress: &raft::Progress) -> Need {
    if progress.state == ProgressState::Snapshot && progress.pending_snapshot > progress.matched {
        Need::Snapshot(progress.pending_snapshot)
    } else {
        Need::Entries(progress.matched)
    }
}

/// The last entry that may go.
fn cut_index(look: &Look, config: &Config) -> Option<u64> {
    let Look { gone, applied, bytes, .. } = *look;
    let behind = |need: &Need| match *need {
        Need::Entries(index) | Need::Snapshot(index) => index,
    };
    let everywhere = look.needs.iter().map(behind).min().unwrap_or(0).min(applied);
    let is_beyond = |times: u64| {
        applied.saturating_sub(gone) > config.compact_log_entries_max.saturating_mul(times)
            || bytes > config.compact_log_bytes_max.saturating_mul(times)
    };
    let spare = everywhere.saturating_sub(gone);
    let upto = if is_beyond(1) {
        let half = everywhere.max(gone + applied.saturating_sub(gone) / 2);
        let snapshots = look.needs.iter().filter(|need| matches!(need, Need::Snapshot(_)));
        let on_their_way = snapshots.map(behind).min().unwrap_or(u64::MAX);
        if is_beyond(2) { half } else { half.min(on_their_way) }
    } else if spare >= config.compact_log_entries_min
        || (spare > LEFT_MAX && look.vain_looks + 1 >= config.compact_log_looks_max)
    {
        everywhere
    } else {
        return None;
    };
    // The newest entry stays, so that a follower that is one behind needs no snapshot.
    (upto > gone + 1).then(|| upto - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(gone: u64, applied: u64, needs: &[Need]) -> Look {
        Look { gone, applied, needs: needs.to_vec(), ..Look::default() }
    }

    fn config() -> Config {
        Config { compact_log_entries_min: 50, compact_log_entries_max: 1000, ..Config::default() }
    }

    use Need::{Entries, Snapshot};

    #[test]
    fn what_every_peer_has_may_go_once_it_is_enough() {
        let cut = |needs: &[Need]| cut_index(&look(100, 400, needs), &config());
        assert_eq!(cut(&[Entries(400), Entries(390), Entries(151)]), Some(150));
        assert_eq!(cut(&[Entries(400), Entries(390), Entries(150)]), Some(149));
        assert_eq!(cut(&[Entries(400), Entries(390), Entries(149)]), None);
        assert_eq!(cut(&[Entries(400), Entries(390), Entries(0)]), None);
        // Nothing goes that is not applied here.
        assert_eq!(cut(&[Entries(500), Entries(500), Entries(500)]), Some(399));
    }

    #[test]
    fn a_quiet_region_keeps_little_in_the_end() {
        let config = config();
        let mut seen = look(100, 110, &[Entries(110), Entries(110)]);
        for vain_looks in 0..config.compact_log_looks_max - 1 {
            seen.vain_looks = vain_looks;
            assert_eq!(cut_index(&seen, &config), None);
        }
        seen.vain_looks = config.compact_log_looks_max - 1;
        assert_eq!(cut_index(&seen, &config), Some(109));
        // The entry that stays and the one that says so are no reason to begin again.
        let after = Look { gone: 109, applied: 111, needs: vec![Entries(111); 2], ..seen };
        assert_eq!(cut_index(&after, &config), None);
    }

    #[test]
    fn a_log_that_is_too_long_goes_by_halves() {
        let cut = |gone, applied, needs: &[Need]| cut_index(&look(gone, applied, needs), &config());
        assert_eq!(cut(0, 1000, &[Entries(1000), Entries(10)]), None);
        assert_eq!(cut(0, 1001, &[Entries(1001), Entries(10)]), Some(499));
        assert_eq!(cut(0, 1001, &[Entries(1001), Entries(800)]), Some(799));
        let large = Look { bytes: (192 << 20) + 1, ..look(0, 100, &[Entries(100), Entries(3)]) };
        assert_eq!(cut_index(&large, &config()), Some(49));
    }

    #[test]
    fn a_snapshot_on_its_way_is_not_overtaken_before_it_must() {
        let cut = |gone, applied, needs: &[Need]| cut_index(&look(gone, applied, needs), &config());
        // Nobody needs what it covers.
        assert_eq!(cut(0, 300, &[Entries(300), Snapshot(200)]), Some(199));
        assert_eq!(cut(0, 1500, &[Entries(1500), Snapshot(200)]), Some(199));
        assert_eq!(cut(199, 1500, &[Entries(1500), Snapshot(200)]), None);
        assert_eq!(cut(0, 2001, &[Entries(2001), Snapshot(200)]), Some(999));
    }
}
