//! The first form of the parts, as the articles of 2017 describe it, and how it fits into the second.
//!
//! A [`SimpleScheduler`] has a name, a kind of resource, and thinks of one operator at a time;
//! [`Adapter`] makes a [`Scheduler`] of it. An [`Act`] is an operator of that time: it is shown the
//! region at each heartbeat, and says what to order and whether it is finished. A [`Plan`] of steps is
//! one, and a [`Composite`] is one made of several for one region and one kind of resource.

use proto::{RegionId, pdpb};

use super::desk::Desk;
use super::{Scheduler, Verdict};
use crate::cluster::RegionRecord;
use crate::operator::{Operator, Purpose, Step};
use crate::placement::View;

/// What is moved: where data lies, or who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// Leaders.
    Leader,
    /// Peers.
    Storage,
}

impl ResourceKind {
    /// The purpose whose limit it counts against.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Leader => Purpose::Leader,
            Self::Storage => Purpose::Region,
        }
    }
}

/// A scheduler in its first form.
pub trait SimpleScheduler: std::fmt::Debug + Send {
    /// Unique among the schedulers.
    fn name(&self) -> &str;

    /// What it moves.
    fn resource_kind(&self) -> ResourceKind;

    /// One thing to do, if there is one.
    fn schedule(&mut self, desk: &mut Desk<'_>) -> Option<Operator>;
}

/// The second form of one in its first.
#[derive(Debug)]
pub struct Adapter<S>(pub S);

impl<S: SimpleScheduler> Scheduler for Adapter<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn type_name(&self) -> &'static str {
        "simple"
    }

    fn purpose(&self) -> Purpose {
        self.0.resource_kind().purpose()
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let mut operators = Vec::new();
        while desk.room() > 0 {
            let Some(operator) = self.0.schedule(desk) else { break };
            operators.push(operator);
        }
        operators
    }

    fn verdict(&self, _: View<'_>, _: &RegionRecord) -> Verdict {
        Verdict::Silent
    }
}

/// An operator in its first form.
pub trait Act {
    /// Whose region it is for.
    fn region_id(&self) -> RegionId;

    /// What it moves.
    fn resource_kind(&self) -> ResourceKind;

    /// The region is seen: what to order of it, and whether the act is finished.
    fn perform(&mut self, record: &RegionRecord) -> (Option<pdpb::RegionHeartbeatResponse>, bool);
}

/// One step as an act.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whose.
    pub region: RegionId,
    /// What to do.
    pub step: Step,
}

impl Act for Plan {
    fn region_id(&self) -> RegionId {
        self.region
    }

    fn resource_kind(&self) -> ResourceKind {
        match self.step {
            Step::TransferLeader { .. } => ResourceKind::Leader,
            Step::AddPeer(_)
            | Step::PromoteLearner(_)
            | Step::DemoteVoter(_)
            | Step::RemovePeer(_)
            | Step::EnterJoint(_)
            | Step::LeaveJoint(_)
            | Step::Split { .. } => ResourceKind::Storage,
        }
    }

    fn perform(&mut self, record: &RegionRecord) -> (Option<pdpb::RegionHeartbeatResponse>, bool) {
        let is_done = self.step.is_done(record);
        ((!is_done).then(|| self.step.order(record)), is_done)
    }
}

/// Acts that are performed one after the other.
pub struct Composite {
    acts: Vec<Box<dyn Act>>,
    current: usize,
}

impl Composite {
    /// All of them must be for one region, and move one kind of resource; otherwise it says what is
    /// wrong.
    pub fn new(acts: Vec<Box<dyn Act>>) -> Result<Self, &'static str> {
        let first = acts.first().ok_or("a composite needs an act")?;
        let (region, kind) = (first.region_id(), first.resource_kind());
        if acts.iter().any(|act| act.region_id() != region) {
            return Err("its acts are for different regions");
        }
        if acts.iter().any(|act| act.resource_kind() != kind) {
            return Err("its acts move different kinds of resources");
        }
        Ok(Self { acts, current: 0 })
    }
}

impl Act for Composite {
    fn region_id(&self) -> RegionId {
        self.acts[0].region_id()
    }

    fn resource_kind(&self) -> ResourceKind {
        self.acts[0].resource_kind()
    }

    fn perform(&mut self, record: &RegionRecord) -> (Option<pdpb::RegionHeartbeatResponse>, bool) {
        while let Some(act) = self.acts.get_mut(self.current) {
            let (order, is_finished) = act.perform(record);
            if !is_finished {
                return (order, false);
            }
            self.current += 1;
        }
        (None, true)
    }
}
