//! How far may the log be cut, and cutting it.
//!
//! **Notice.** A leader looks every `compact_log_ticks`: once enough entries are on every follower's disk
//! they may go. When the log grows too long or too large under a slow follower, half of it goes all the
//! same; the follower gets a snapshot instead.
//!
//! **Propose.** [`Command::CutLog`] with the last entry that may go.
//!
//! **Apply.** Every replica agrees; nothing but the index is looked at.
//!
//! **After.** The entries are the data engine's write-ahead log, so the cut waits until the data that
//! they wrote is durable (`Store` asks for a sync, one for all regions that wait). Then the log forgets
//! them, on the next write of the group.

use raft::Storage as _;
use raft::eraftpb::Entry;

use crate::command::Command;
use crate::engine::LogEngine;
use crate::peer::{Peer, Round};
use crate::storage::group_log::{Position, bytes_of};

/// What is known of a log's size, and of a cut that waits for the data.
#[derive(Debug, Default)]
pub(crate) struct LogUse {
    /// Bytes of entries committed since the last cut, or since the start.
    bytes: u64,
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
        let Some(index) = self.cut_index(round) else { return };
        let Ok(term) = self.group.log().term(index) else { return };
        // Dropped when too much is uncommitted: the next look is soon.
        let _ = self.group.propose(Command::CutLog { index, term }.encode());
    }

    /// The last entry that may go.
    fn cut_index(&self, round: &Round<'_>) -> Option<u64> {
        let config = round.config;
        let gone = self.group.log().truncated().index;
        let matched = self.group.raft().prs().iter().map(|(_, progress)| progress.matched);
        let everywhere = matched.min().unwrap_or(0).min(self.applied.index);
        let is_too_large = self.applied.index - gone > config.compact_log_entries_max
            || self.log_use.bytes > config.compact_log_bytes_max;
        let upto = if is_too_large {
            everywhere.max(gone + (self.applied.index - gone) / 2)
        } else if everywhere >= gone + config.compact_log_entries_min {
            everywhere
        } else {
            return None;
        };
        // The newest entry stays, so that a follower that is one behind needs no snapshot.
        (upto > gone + 1).then(|| upto - 1)
    }

    /// The data that the entries wrote is durable: the log may forget them.
    pub(crate) fn perform_cut(&mut self) {
        if let Some((upto, _)) = self.log_use.cut.take()
            && upto.index <= self.applied.index
        {
            self.group.log_mut().cut(upto);
            self.log_use.bytes = 0;
        }
    }
}
