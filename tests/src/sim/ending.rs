//! The second phase of a run: everything heals, and then the cluster must answer, and agree.

use std::collections::BTreeMap;

use proto::region;
use raftstore::engine::DataEngine as _;
use raftstore::storage::applied_state;

use super::events::{Instant, SECOND};
use super::nemesis::{Act, SYNC_USUAL};
use super::network::Weather;
use super::world::World;
use crate::checkers::tiling;
use crate::history::{Call, Outcome};

/// The healed cluster is left alone for so long before it is asked.
pub(super) const RECOVERY: Instant = 15 * SECOND;
/// Then every register answers a reader within this time.
const LIVENESS_PATIENCE: Instant = 10 * SECOND;
/// Registers asked in the liveness phase: the newest ones.
const LIVENESS_KEYS: usize = 20;

impl World {
    pub(super) fn heal(&mut self) {
        self.is_restless = false;
        self.overseer.calm_down();
        self.network.restore_all();
        self.network.set_weather(Weather::FAIR);
        for store in self.stores() {
            self.act(Act::Disk(store, SYNC_USUAL));
            self.act(Act::Resume(store));
            self.act(Act::Start(store));
        }
    }

    pub(super) fn ask_every_register(&mut self) {
        let keys = self.clients.keys_used();
        let newest = keys.into_iter().rev().take(LIVENESS_KEYS);
        for key in newest {
            if self.judges.violation().is_some() {
                return;
            }
            let calls = self.clients.history.operations().len();
            let wishes = self.clients.begin_call(0, key, Call::Read, false, LIVENESS_PATIENCE);
            self.grant(wishes);
            let end = self.events.now() + LIVENESS_PATIENCE + SECOND;
            while !self.clients.is_idle(0)
                && self.judges.violation().is_none()
                && let Some(event) = self.events.next_before(end)
            {
                self.happen(event);
            }
            let call = &self.clients.history.operations()[calls];
            if !matches!(call.outcome, Outcome::Read(_)) {
                self.judges.fail(format!("the healed cluster does not answer: {call}"));
            }
        }
    }

    /// The regions tile the key space, and every voter of each has applied equally far, and so holds
    /// equal data.
    pub(super) fn compare_replicas(&mut self) {
        let mut regions: Vec<_> =
            self.overseer.regions().map(|(region, _)| region.clone()).collect();
        regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        if let Err(what) = tiling::check(&regions) {
            self.judges.fail(what);
        }
        for region in regions {
            let mut applied = BTreeMap::new();
            for peer in region.peers.iter().filter(|peer| !region::is_learner(peer)) {
                let node = &self.nodes[&peer.store_id];
                self.judges.applied(peer.store_id, &node.data, region.id);
                let position = applied_state(&node.data.snapshot(), region::id(&region));
                applied.insert(peer.store_id, position.expect("memory does not fail"));
            }
            let mut positions = applied.values();
            let first = positions.next();
            if positions.any(|position| Some(position) != first) {
                self.judges.fail(format!(
                    "the healed replicas of {} stay apart: {applied:?}",
                    region::Readable(&region)
                ));
            }
        }
    }
}
