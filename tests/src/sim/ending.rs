//! The second phase of a run: everything heals, and then the cluster must answer, and agree.

use std::collections::BTreeMap;

use proto::region;
use raftstore::engine::DataEngine as _;
use raftstore::storage::{RegionState, applied_state, region_states};

use super::events::{Instant, MILLISECOND, SECOND};
use super::life::SYNC_USUAL;
use super::nemesis::Act;
use super::network::Weather;
use super::world::World;
use crate::checkers::{at_rest, tiling};
use crate::history::{Call, Outcome};

/// The healed cluster is left alone for so long before it is asked.
pub(super) const RECOVERY: Instant = 15 * SECOND;
/// Then every register answers within this time.
const LIVENESS_PATIENCE: Instant = 10 * SECOND;
/// Registers asked in the liveness phase, at most: the newest ones.
const LIVENESS_KEYS: usize = 60;
/// Of those so many are written to before they are read.
const WRITTEN_KEYS: usize = 5;
/// After the last answer nobody asks for anything for so long; then nothing may be under way.
pub(super) const REST: Instant = 6 * SECOND;

impl World {
    pub(super) fn heal(&mut self) {
        self.is_restless = false;
        self.overseer.calm_down();
        if let Some(txn) = &self.txn {
            txn.calm_down();
        }
        self.network.restore_all();
        self.network.set_weather(Weather::FAIR);
        for store in self.stores() {
            self.act(Act::Mend(store));
            self.act(Act::SlowLog(store, SYNC_USUAL));
            self.act(Act::SlowData(store, 1));
            self.act(Act::Unstall(store));
            self.act(Act::Resume(store));
            self.act(Act::Start(store));
        }
    }

    /// Every register answers: the newest to a writer, all to a reader, who must see what was acknowledged.
    pub(super) fn ask_every_register(&mut self) {
        let keys = self.clients.keys_used();
        let newest: Vec<u64> = keys.into_iter().rev().take(LIVENESS_KEYS).collect();
        for key in newest.iter().take(WRITTEN_KEYS) {
            let value = self.clients.fresh_value();
            self.ask(*key, Call::Write(value));
        }
        for key in newest {
            self.ask(key, Call::Read);
        }
    }

    fn ask(&mut self, key: u64, call: Call) {
        if self.judges.violation().is_some() {
            return;
        }
        let calls = self.clients.history.operations().len();
        let wishes = self.clients.begin_call(0, key, call, false, LIVENESS_PATIENCE);
        self.grant(wishes);
        let end = self.events.now() + LIVENESS_PATIENCE + SECOND;
        while !self.clients.is_idle(0)
            && self.judges.violation().is_none()
            && let Some(event) = self.events.next_before(end)
        {
            self.happen(event);
        }
        let call = &self.clients.history.operations()[calls];
        if !matches!(call.outcome, Outcome::Read(_) | Outcome::Done) {
            self.judges.fail(format!("the healed cluster does not answer: {call}"));
        }
    }

    /// Nobody has asked for anything for a while: nothing is under way any more.
    pub(super) fn look_for_leftovers(&mut self) {
        for (store, node) in &self.nodes {
            if let Err(what) = at_rest::check(*store, &node.under_way()) {
                self.judges.fail(what);
            }
        }
    }

    /// Lets the world go on until every voter of each region has applied equally far, or for long enough: a
    /// leader may cut its log or have the replicas compared at any moment.
    pub(super) fn await_equal_replicas(&mut self) {
        let end = self.events.now() + LIVENESS_PATIENCE;
        while self.is_somebody_behind() && self.events.now() < end {
            self.go_on_until(self.events.now() + MILLISECOND);
        }
    }

    fn is_somebody_behind(&self) -> bool {
        self.overseer.regions().any(|(region, _)| {
            let voters = region.peers.iter().filter(|peer| !region::is_learner(peer));
            let mut positions = voters.map(|peer| {
                let snapshot = self.nodes[&peer.store_id].data.snapshot();
                applied_state(&snapshot, region::id(region)).expect("memory does not fail")
            });
            let first = positions.next();
            positions.any(|position| Some(position) != first)
        })
    }

    /// The regions tile the key space, and every voter of each has applied equally far, and so holds
    /// equal data.
    pub(super) fn compare_replicas(&mut self) {
        let mut regions: Vec<_> =
            self.overseer.regions().map(|(region, _)| region.clone()).collect();
        regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        let mut on_disk = Vec::new();
        for node in self.nodes.values() {
            let states = region_states(&node.data).expect("memory does not fail");
            on_disk.extend(states.into_iter().filter_map(|(_, state)| match state {
                RegionState::Normal(region) => Some(region),
                RegionState::Tombstone(_) => None,
            }));
        }
        for picture in [&regions, &tiling::newest(on_disk)] {
            if let Err(what) = tiling::check(picture) {
                self.judges.fail(what);
            }
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
