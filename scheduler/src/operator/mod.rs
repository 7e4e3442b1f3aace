//! Operators: a region, its epoch, a list of steps.
//!
//! A plan is made for a region as it was seen at one moment, and is carried out one step at a
//! time by orders in the answers to its heartbeats. It is kept in memory only: a new leader of
//! the scheduler looks at the regions and thinks of everything again.
//!
//! ```text
//!   Running ──► Success    a heartbeat shows the last step done
//!           ──► Expired    its first order could not go out for a while: nobody leads the region
//!           ──► Timeout    a step took longer than its budget
//!           ──► Cancel     the region changed in a way the plan does not explain, or a step has
//!                          become impossible or unsafe
//!           ──► Replace    a more urgent plan for the same region took its place
//! ```
//!
//! Left out: merge steps, and witnesses.

use std::fmt;

use proto::{RegionId, StoreId, metapb, pdpb};

pub mod builder;
pub mod influence;
#[cfg(test)]
pub(crate) mod obedience;
pub mod running;
pub mod step;
pub mod store_limit;
pub mod votes;

pub use builder::{Builder, Unbuildable};
pub use running::{Declined, Finished, RunningOperators, Standing};
pub use step::Step;
pub use votes::Votes;

use crate::cluster::{Moment, RegionRecord};

/// What an operator is for; each purpose has a limit of its own in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// An administrator's wish: no limit.
    Admin,
    /// A region has too few, too many, or lost peers.
    Replica,
    /// Leaders are spread unevenly.
    Leader,
    /// Peers are spread unevenly.
    Region,
    /// The regions that are read or written most are spread unevenly.
    Hot,
    /// Somebody wants a group of regions apart from each other: no limit.
    Scatter,
    /// A region is to be cut: no limit.
    Split,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 7] = [
        Self::Admin,
        Self::Replica,
        Self::Leader,
        Self::Region,
        Self::Hot,
        Self::Scatter,
        Self::Split,
    ];

    /// The purpose in the words that tools know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Replica => "replica",
            Self::Leader => "leader",
            Self::Region => "region",
            Self::Hot => "hot-region",
            Self::Scatter => "scatter",
            Self::Split => "split",
        }
    }
}

/// Which of two plans for one region goes first. Equal ones do not replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Shuffling.
    Low,
    /// Balance.
    Medium,
    /// Repair, hot regions, and wishes about where regions are led.
    High,
    /// An administrator waits, or leaders flee from a store.
    Urgent,
}

/// How a plan stands, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Under way.
    Running,
    /// Every step was seen done.
    Success,
    /// It did not begin in time.
    Expired,
    /// A step took longer than its budget.
    Timeout,
    /// Given up, and why.
    Cancel(String),
    /// A more urgent plan took its place.
    Replace,
}

impl Status {
    /// The same as clients know it.
    pub fn to_wire(&self) -> pdpb::OperatorStatus {
        match self {
            Self::Running => pdpb::OperatorStatus::Running,
            Self::Success => pdpb::OperatorStatus::Success,
            // Clients know no other word for it.
            Self::Timeout | Self::Expired => pdpb::OperatorStatus::Timeout,
            Self::Cancel(_) => pdpb::OperatorStatus::Cancel,
            Self::Replace => pdpb::OperatorStatus::Replace,
        }
    }

    /// The same as tools know it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Expired => "EXPIRED",
            Self::Running | Self::Success | Self::Timeout | Self::Cancel(_) | Self::Replace => {
                self.to_wire().as_str_name()
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A plan for one region.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    /// What it does, in the words that tools know: "make-up-replica".
    pub description: &'static str,
    /// The region it is for.
    pub region: RegionId,
    /// The region's epoch when the plan was made.
    pub epoch: metapb::RegionEpoch,
    /// What it is for.
    pub purpose: Purpose,
    /// How urgent it is.
    pub priority: Priority,
    /// Whether it neither waits for the limits of stores nor takes from them.
    pub skips_store_limits: bool,
    /// Stores that peers may leave however many have left already: they are leaving or lost.
    pub freed_stores: Vec<StoreId>,
    /// What tells it from the region's other plans; 0 until it is taken.
    pub number: u64,
    /// When it was taken.
    pub taken: Moment,
    steps: Vec<Step>,
    /// Which step is under way; the number of steps when all are done.
    current: usize,
    /// Steady time at which the current step began.
    step_begun_ms: u64,
    /// Steady time at which the current step's order last went out.
    ordered_at_ms: Option<u64>,
}

impl Operator {
    /// A plan for the region as it is seen now.
    pub fn new(
        description: &'static str,
        purpose: Purpose,
        record: &RegionRecord,
        steps: Vec<Step>,
    ) -> Self {
        assert!(!steps.is_empty(), "a plan has a step");
        let priority = match purpose {
            Purpose::Admin | Purpose::Split => Priority::Urgent,
            Purpose::Replica | Purpose::Hot | Purpose::Scatter => Priority::High,
            Purpose::Leader | Purpose::Region => Priority::Medium,
        };
        Self {
            description,
            region: record.id(),
            epoch: record.epoch(),
            purpose,
            priority,
            skips_store_limits: false,
            freed_stores: Vec::new(),
            number: 0,
            taken: Moment::default(),
            steps,
            current: 0,
            step_begun_ms: 0,
            ordered_at_ms: None,
        }
    }

    /// The same, more or less urgent.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// All its steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step under way; `None` when all are done.
    pub fn current_step(&self) -> Option<&Step> {
        self.steps.get(self.current)
    }

    /// Number of the step under way, counted from 0.
    pub fn current_index(&self) -> usize {
        self.current
    }

    /// The steps that are not yet seen done.
    pub fn remaining(&self) -> &[Step] {
        &self.steps[self.current..]
    }

    /// Its steps in one line.
    pub fn brief(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        steps.join(", ")
    }

    /// What it moves, in the words that tools know: "replica,region".
    pub fn kind(&self) -> String {
        let mut words = vec![self.purpose.name()];
        let moves_leader = self.steps.iter().any(|s| matches!(s, Step::TransferLeader { .. }));
        let moves_peers =
            self.steps.iter().any(|s| matches!(s, Step::AddPeer(_) | Step::RemovePeer(_)));
        if moves_leader && self.purpose != Purpose::Leader {
            words.push("leader");
        }
        if moves_peers && self.purpose != Purpose::Region {
            words.push("region");
        }
        let splits = self.steps.iter().any(|s| matches!(s, Step::Split { .. }));
        if splits && self.purpose != Purpose::Split {
            words.push("split");
        }
        words.join(",")
    }

    /// The store that the step adds a peer to, for each step still to come.
    pub fn adds_to(&self) -> impl Iterator<Item = StoreId> {
        self.remaining().iter().filter_map(|step| match step {
            Step::AddPeer(peer) => Some(StoreId(peer.store_id)),
            Step::PromoteLearner(_)
            | Step::DemoteVoter(_)
            | Step::RemovePeer(_)
            | Step::TransferLeader { .. }
            | Step::EnterJoint(_)
            | Step::LeaveJoint(_)
            | Step::Split { .. } => None,
        })
    }

    /// Goes on to the first step that the region does not show done.
    fn advance(&mut self, record: &RegionRecord, moment: Moment) {
        while self.current_step().is_some_and(|step| step.is_done(record)) {
            self.current += 1;
            self.step_begun_ms = moment.steady_ms;
            self.ordered_at_ms = None;
        }
    }

    /// How far the region's conf version may have moved because of this plan.
    fn conf_ver_explained(&self, record: &RegionRecord) -> u64 {
        let (begun, ahead) = self.steps.split_at((self.current + 1).min(self.steps.len()));
        // A store leaves a joint membership by itself if it waits for too long to be told.
        let left = ahead.iter().filter(|step| matches!(step, Step::LeaveJoint(_)));
        begun.iter().chain(left).map(|step| step.conf_ver_changed(record)).sum()
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}):", self.region, self.description, self.kind())?;
        for (number, step) in self.steps.iter().enumerate() {
            let mark = if number < self.current { "done" } else { "to do" };
            write!(f, "{} {step} [{mark}]", if number == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
