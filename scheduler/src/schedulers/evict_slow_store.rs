//! Leaders leave a store that has become slow, and come back when it has recovered.
//!
//! A store tells how slow it is in its heartbeats, from 1 (not at all) to 100: its disk takes long to
//! answer. Every write waits for its leader's disk, but not for a slow follower's, so a slow store does
//! least harm when it leads nothing. One store at a time is relieved so, and none when too many are
//! slow: then the trouble is not theirs (`slow-store-affected-percent`), and leaders have nowhere
//! better to go. It has recovered when its score has been 1 for the recovery time, without a break.
//!
//! Left out: scores of the network between stores.

use proto::StoreId;
use serde_json::{Value, json};

use super::evict_leader::{evict, verdict_of};
use crate::cluster::RegionRecord;
use crate::operator::{Operator, Purpose};
use crate::placement::{Candidate, SLOW_SCORE, View};
use crate::scheduling::{Bars, Desk, Scheduler, Verdict};

const TYPE: &str = "evict-slow-store";

/// A store is relieved when its score reaches this.
const EVICT_SCORE: u64 = 100;
/// A store that is well has this score.
const WELL_SCORE: u64 = 1;
/// Seconds for which it must be well, unless somebody says otherwise.
const RECOVERY_S: u64 = 600;
/// Leaders that leave in one turn.
const BATCH: usize = 3;

/// The scheduler of this name.
#[derive(Clone, Debug)]
pub struct EvictSlowStore {
    recovery_s: u64,
    /// The store that is relieved.
    slow: Option<StoreId>,
    /// Steady time at which it was slow last.
    slow_at_ms: u64,
}

impl EvictSlowStore {
    /// One with the recovery time that the arguments name.
    pub fn make(arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        let mut made = Self { recovery_s: RECOVERY_S, slow: None, slow_at_ms: 0 };
        made.read(arguments)?;
        Ok(Box::new(made))
    }

    fn read(&mut self, arguments: &Value) -> Result<(), String> {
        if let Some(seconds) = arguments.get("recovery-duration") {
            let text = || seconds.as_str().and_then(|text| text.parse().ok());
            self.recovery_s = seconds
                .as_u64()
                .or_else(text)
                .ok_or("recovery-duration must be a number of seconds")?;
        }
        Ok(())
    }

    /// Whom to relieve, if anybody.
    fn look(&mut self, view: View<'_>) {
        let score = |id: StoreId| {
            let store = view.stores.find(id).filter(|store| store.is_up());
            store.map(|store| store.stats.as_ref().map_or(WELL_SCORE, |stats| stats.slow_score))
        };
        if let Some(slow) = self.slow {
            match score(slow) {
                None => self.slow = None,
                Some(score) if score > WELL_SCORE => self.slow_at_ms = view.moment.steady_ms,
                Some(_) => {
                    let well_ms = view.moment.steady_ms.saturating_sub(self.slow_at_ms);
                    if well_ms >= self.recovery_s * 1_000 {
                        self.slow = None;
                    }
                }
            }
            return;
        }
        let up: Vec<_> = view.stores.iter().filter(|store| store.is_up()).map(|s| s.id()).collect();
        let scored = |from: u64| {
            let slow = up.iter().filter(move |id| score(**id).is_some_and(|score| score >= from));
            slow.copied().collect::<Vec<_>>()
        };
        let affected = scored(SLOW_SCORE).len() as u64;
        let tolerated = (up.len() as u64 * view.policy.slow_store_affected_percent / 100).max(1);
        if affected <= tolerated && up.len() > 1 {
            self.slow = scored(EVICT_SCORE).first().copied();
            self.slow_at_ms = view.moment.steady_ms;
        }
    }
}

impl Scheduler for EvictSlowStore {
    fn name(&self) -> &str {
        "evict-slow-store-scheduler"
    }

    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn purpose(&self) -> Purpose {
        Purpose::Leader
    }

    /// It must look even when it cannot act: a store that has recovered is to be let go of.
    fn is_schedule_allowed(&self, _: View<'_>) -> bool {
        true
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        self.look(desk.view());
        self.slow.map_or_else(Vec::new, |slow| evict(desk, slow, BATCH, TYPE))
    }

    fn bars(&self) -> Bars {
        Bars { no_leaders_in: self.slow.into_iter().collect(), ..Bars::default() }
    }

    fn arguments(&self) -> Value {
        json!({ "recovery-duration": self.recovery_s })
    }

    fn configure(&mut self, arguments: &Value, _: View<'_>) -> Result<(), String> {
        self.read(arguments)
    }

    fn verdict(&self, view: View<'_>, record: &RegionRecord) -> Verdict {
        match record.leader_store().filter(|leads| Some(*leads) == self.slow) {
            Some(leads) => verdict_of(view, record, leads),
            None => Verdict::Silent,
        }
    }

    fn store_verdict(&self, view: View<'_>, store: &Candidate<'_>) -> Verdict {
        let score = store.store.stats.as_ref().map_or(0, |stats| stats.slow_score);
        if self.slow == Some(store.store.id()) {
            let slow_s = view.moment.steady_ms.saturating_sub(self.slow_at_ms) / 1_000;
            return Verdict::says(format!(
                "it is slow and relieved of its leaders: its score is {score}, was above {WELL_SCORE} \
                 {slow_s} s ago, and must stay at it for {} s",
                self.recovery_s
            ));
        }
        match score {
            0 | WELL_SCORE => Verdict::Silent,
            _ => Verdict::says(format!(
                "its slow score is {score}; at {EVICT_SCORE} it is relieved of its leaders"
            )),
        }
    }
}
