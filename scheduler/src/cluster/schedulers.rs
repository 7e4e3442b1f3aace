//! The schedulers of the cluster: their turns, what administrators do with them, and scattering.
//!
//! Whatever changes the list of schedulers or their arguments is returned as [`Writes`]; the shell
//! makes it durable before it answers. Pauses are part of the list.

use proto::{RegionId, pdpb};
use serde_json::Value;

use super::{Cluster, Moment, Refusal, Scattered, Ticked, Writes};
use crate::ids::Ids;
use crate::placement::View;
use crate::scheduling::{Catalog, Coordinator, Roster, Scheduler};

/// What became of a wish to scatter a region that was not refused.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a request, and it is taken apart at once"
)]
pub enum ScatterStep {
    /// Its plan's first order, to be sent at once; `None` when it is fine where it is.
    Done(Option<pdpb::RegionHeartbeatResponse>),
    /// Save this bound for [`Ids::bound_saved`] and ask again.
    NeedBound(u64),
}

impl Cluster {
    /// Begins with these schedulers rather than those of a new cluster.
    #[must_use]
    pub fn with_roster(self, roster: Roster, moment: Moment) -> Self {
        self.with_schedulers(Catalog::standard(), roster, moment)
    }

    /// The same, from a catalogue of one's own.
    #[must_use]
    pub fn with_schedulers(self, catalog: Catalog, roster: Roster, moment: Moment) -> Self {
        let coordinator = Coordinator::begin(catalog, roster, moment.wall_ms);
        Self { bars: coordinator.bars(), coordinator, ..self }
    }

    /// The schedulers.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Gives every scheduler its turn that is due and may act; takes up what it plans.
    pub(super) fn take_turns(&mut self, ids: &mut Ids, moment: Moment, ticked: &mut Ticked) {
        for number in 0..self.coordinator.seats().len() {
            // Each sees what the one before has begun.
            let view = View {
                regions: &self.regions,
                stores: &self.stores,
                operators: &self.operators,
                flow: &self.flow,
                bars: &self.bars,
                policy: &self.policy,
                rules: &self.rules,
                moment,
            };
            let Some(turn) = self.coordinator.turn(number, view, ids) else { continue };
            ticked.ids_wanted = ticked.ids_wanted.max(turn.ids_wanted);
            let mut has_acted = false;
            for operator in turn.operators {
                match self.add_operator(operator, moment) {
                    Ok(order) => {
                        has_acted = true;
                        ticked.orders.extend(order);
                    }
                    Err(declined) => tracing::debug!(%declined, "a plan has to wait"),
                }
            }
            self.coordinator.looked(number, has_acted, moment);
            self.bars = self.coordinator.bars();
        }
    }

    /// Has a region join the spread of its group. Returns the first order of its plan; `None` when it
    /// is fine where it is.
    pub fn scatter(
        &mut self,
        region: RegionId,
        group: &str,
        skip_store_limits: bool,
        ids: &mut Ids,
        moment: Moment,
    ) -> Result<ScatterStep, Refusal> {
        let record =
            self.regions.by_id(region).cloned().ok_or_else(|| Refusal::no_region(region))?;
        let declined = |reason: String| Refusal::OperatorDeclined { region, reason };
        let view = self.view(moment);
        let scattered = self.scatterer.scatter(view, &record, group, skip_store_limits, ids);
        let (order, places) = match scattered.map_err(declined)? {
            Scattered::Stays(places) => (None, places),
            Scattered::Moves(operator, places) => (self.add_operator(operator, moment)?, places),
            Scattered::NeedsIds(bound) => return Ok(ScatterStep::NeedBound(bound)),
        };
        // What was not taken up has not spread anything.
        self.scatterer.count(group, &places, moment);
        Ok(ScatterStep::Done(order))
    }

    /// Steady time at which the cluster wants to be ticked again: it has more to do then. `None`
    /// leaves it to the usual interval.
    pub fn next_turn_at_ms(&self, moment: Moment) -> Option<u64> {
        let may_act = !self.policy.halt_scheduling && self.is_prepared(moment);
        self.coordinator.next_at_ms().filter(|_| may_act)
    }

    /// Changes the schedulers; what is to be kept of it.
    fn change_schedulers(
        &mut self,
        moment: Moment,
        change: impl FnOnce(&mut Coordinator, View<'_>) -> Result<(), Refusal>,
    ) -> Result<Writes, Refusal> {
        let view = View {
            regions: &self.regions,
            stores: &self.stores,
            operators: &self.operators,
            flow: &self.flow,
            bars: &self.bars,
            policy: &self.policy,
            rules: &self.rules,
            moment,
        };
        change(&mut self.coordinator, view)?;
        self.bars = self.coordinator.bars();
        let roster = serde_json::to_string(&self.coordinator.roster(moment))
            .map_err(|error| Refusal::InvalidValue(error.to_string()))?;
        Ok(Writes { roster: Some(roster), ..Writes::default() })
    }

    /// One more scheduler, by the name that tools know, with its arguments in their words.
    pub fn add_scheduler(
        &mut self,
        name: &str,
        arguments: &Value,
        moment: Moment,
    ) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, view| all.add(name, arguments, view))
    }

    /// One more scheduler, made elsewhere. After a change of leaders it is made anew from the
    /// catalogue, so its type must be in there.
    pub fn take_on_scheduler(
        &mut self,
        scheduler: Box<dyn Scheduler>,
        moment: Moment,
    ) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, view| all.take_on(scheduler, view))
    }

    /// Ends a scheduler, or what it does to one store: `evict-leader-scheduler-4`.
    pub fn remove_scheduler(&mut self, name: &str, moment: Moment) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, _| all.remove(name))
    }

    /// Keeps a scheduler, or `all`, from acting for so many seconds; 0 lets it act again.
    pub fn pause_scheduler(
        &mut self,
        name: &str,
        seconds: u64,
        moment: Moment,
    ) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, _| all.pause(name, seconds, moment))
    }

    /// Gives a scheduler new arguments, in the words of tools.
    pub fn configure_scheduler(
        &mut self,
        name: &str,
        arguments: &Value,
        moment: Moment,
    ) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, view| all.configure(name, arguments, view))
    }

    /// Keeps a checker, or `all`, from acting for so many seconds; 0 lets it act again.
    pub fn pause_checker(
        &mut self,
        name: &str,
        seconds: u64,
        moment: Moment,
    ) -> Result<Writes, Refusal> {
        self.change_schedulers(moment, |all, _| all.pause_checker(name, seconds, moment))
    }

    /// Whether the checker of this name may not act now.
    pub fn is_checker_paused(&self, name: &str, moment: Moment) -> bool {
        self.coordinator.is_checker_paused(name, moment).unwrap_or(false)
    }
}
