//! The turns of a round: peers read their mail and are flushed, several at a time where it pays.
//!
//! ```text
//!  step ─► door ─┬─► mail of one peer ──────────────┐
//!                └─► the store's own: first the     │
//!                    mail is read, then it is done  │
//!                                                   ▼
//!  flush ─────────────► r1 r2 r3 │ r5 r8 │ r9 …   touched peers by region id, cut into shares
//!                       lane 1     lane 2  lane 3    each: read the mail, flush
//!                          └────────┴───────┘
//!                               joined by region id: one `Effects`, one log write
//! ```
//!
//! A share is a run of neighbours, so joining shares in the order of their cutting puts everything that
//! peers ask for into the order of region ids, as if one peer after the other had had its turn. That is
//! what happens when the round is too small to be cut, so the number of lanes changes nothing.
//!
//! Left out: lanes that keep their peers from round to round. It would spare caches, and make the lanes
//! as uneven as the regions' load.

use std::sync::Arc;

use super::Store;
use crate::config::Config;
use crate::effects::Effects;
use crate::engine::{DataEngine, LogEngine};
use crate::lanes::{Lanes, Share};
use crate::msg::Now;
use crate::peer::mail::PeerMsg;
use crate::peer::sleep::Cause;
use crate::peer::{Peer, Round};
use proto::RegionId;

/// What flushing a peer takes, in microseconds, as an estimate: to fold, propose and take a ready apart.
const FLUSH_MICROS: u64 = 5;

/// What reading one message takes, in microseconds, as an estimate.
const MESSAGE_MICROS: u64 = 1;

/// Some of a round's peers, on a lane.
pub struct PeerShare<D: DataEngine, L: LogEngine> {
    data: D,
    config: Arc<Config>,
    /// When they are flushed; `None`: they only read their mail.
    flush_at: Option<Now>,
    /// By region id.
    peers: Vec<Box<Peer<L>>>,
    effects: Effects,
    /// Those that may be ready for more.
    again: Vec<RegionId>,
}

impl<D: DataEngine, L: LogEngine> std::fmt::Debug for PeerShare<D, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let regions = self.peers.iter().map(|peer| peer.region_id());
        f.debug_list().entries(regions).finish()
    }
}

impl<D: DataEngine, L: LogEngine> Share for PeerShare<D, L> {
    fn work(&mut self) {
        for peer in &mut self.peers {
            if take_turn(peer, self.flush_at, &self.data, &self.config, &mut self.effects) {
                self.again.push(peer.region_id());
            }
        }
    }
}

/// A peer reads its mail and, if it is time, is flushed. Returns whether it may be ready for more.
fn take_turn<D: DataEngine, L: LogEngine>(
    peer: &mut Peer<L>,
    flush_at: Option<Now>,
    data: &D,
    config: &Config,
    effects: &mut Effects,
) -> bool {
    let mut round = Round { config, now: flush_at.unwrap_or_default(), effects };
    peer.read_mail(&mut round);
    if flush_at.is_none() {
        return false;
    }
    let has_more = peer.flush(&mut round);
    Store::<D, L>::report_region(data, peer, &mut round);
    has_more
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Has the turns of peers taken in these lanes.
    pub fn with_lanes(self, lanes: Box<dyn Lanes<PeerShare<D, L>>>) -> Self {
        Self { lanes, ..self }
    }

    /// Puts a message into a peer's mail, if the peer is there. It has its turn at the next flush. A peer of
    /// which something is wanted does not sleep; what members say to a sleeper does not come this way.
    pub(super) fn mail(&mut self, region_id: RegionId, now: Now, message: PeerMsg) {
        if !matches!(message, PeerMsg::Persisted { .. } | PeerMsg::Raft(_)) {
            self.wake(region_id, Cause::Wanted, now);
        }
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.mail.push((now, message));
            self.unread += 1;
            self.touched.insert(region_id);
        }
    }

    /// Has all mail read, before something is done that may depend on it.
    pub(super) fn read_mail(&mut self, effects: &mut Effects) {
        if self.unread > 0 {
            self.take_turns(None, effects);
        }
    }

    /// Has one peer's mail read.
    pub(crate) fn read_mail_of(&mut self, region_id: RegionId, effects: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(&region_id) {
            self.unread -= peer.mail.len();
            take_turn(peer, None, &self.data, &self.config, effects);
        }
    }

    /// Every touched peer reads its mail and, if it is time, is flushed.
    pub(super) fn take_turns(&mut self, flush_at: Option<Now>, effects: &mut Effects) {
        let mut due = std::mem::take(&mut self.touched);
        let flushes = if flush_at.is_some() { due.len() } else { 0 };
        let micros = flushes as u64 * FLUSH_MICROS + self.unread as u64 * MESSAGE_MICROS;
        self.unread = 0;
        let width = self.lanes.width(micros).min(due.len());
        if width > 1 {
            let shares = self.cut(&due, micros.div_ceil(width as u64), flush_at);
            for share in self.lanes.run(shares) {
                effects.append(share.effects);
                self.touched.extend(share.again);
                let back = share.peers.into_iter().map(|peer| (peer.region_id(), peer));
                self.peers.extend(back);
            }
        } else {
            for region_id in &due {
                let Some(peer) = self.peers.get_mut(region_id) else { continue };
                if take_turn(peer, flush_at, &self.data, &self.config, effects) {
                    self.touched.insert(*region_id);
                }
            }
        }
        if flush_at.is_none() {
            self.touched.append(&mut due);
        }
    }

    /// Cuts these peers, taken out of their map, into shares of about so much work.
    fn cut(
        &mut self,
        due: &std::collections::BTreeSet<RegionId>,
        share_micros: u64,
        flush_at: Option<Now>,
    ) -> Vec<PeerShare<D, L>> {
        let mut shares = Vec::new();
        let mut peers = Vec::new();
        let mut micros = 0;
        let share = |peers| PeerShare {
            data: self.data.clone(),
            config: Arc::clone(&self.config),
            flush_at,
            peers,
            effects: Effects::default(),
            again: Vec::new(),
        };
        for region_id in due {
            let Some(peer) = self.peers.remove(region_id) else { continue };
            micros += if flush_at.is_some() { FLUSH_MICROS } else { 0 };
            micros += peer.mail.len() as u64 * MESSAGE_MICROS;
            peers.push(peer);
            if micros >= share_micros {
                shares.push(share(std::mem::take(&mut peers)));
                micros = 0;
            }
        }
        if !peers.is_empty() {
            shares.push(share(peers));
        }
        shares
    }
}
