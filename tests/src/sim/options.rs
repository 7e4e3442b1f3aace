//! What a run is made of. Everything that is not given is drawn from the seed.

use std::collections::BTreeSet;

use super::dice::Dice;
use super::events::{Instant, MILLISECOND, SECOND};
use super::nemesis::{MISCHIEFS, Mischief};
use super::network::Weather;
use super::txn::workload::Workload;

/// A bug planted on purpose, to show that the simulator would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Messages that promise something leave before the disk has it.
    AcknowledgeBeforeSync,
    /// A restarted store does not know for whom it voted, and in which term.
    ForgetVote,
    /// A leader trusts its lease for longer than followers wait for it.
    LongLease,
    /// A reader takes its snapshot, and asks whether it may only long afterwards, without having
    /// asked before.
    SnapshotBeforeLeadership,
    /// Log writes are not synced, and everything goes on as if they were.
    LazySync,
    /// A new source of timestamps begins at its clock, and not at the bound that was saved.
    BoundForgotten,
    /// A client takes its commit timestamp before it has locked its keys.
    CommitTimestampEarly,
    /// A client commits its other keys before the primary.
    SecondariesFirst,
    /// A commit that nobody answered is said to have failed.
    UnknownSaidToAbort,
    /// A transaction that met a conflict is written again as it is, without reading anew.
    BlindRetry,
    /// An async commit is taken for complete without a look at its other keys.
    SecondariesNotAsked,
    /// One in the transactions of the stores.
    #[cfg(feature = "plant")]
    InTransactions(kv::plant::Bug),
    /// One in the machines of the stores.
    #[cfg(feature = "plant")]
    InMachines(raftstore::plant::Bug),
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from here.
    pub seed: u64,
    /// Length of the phase in which everything is allowed to go wrong.
    pub safety: Instant,
    /// Stores in the cluster.
    pub stores: u64,
    /// Clients, each with at most one call under way.
    pub clients: u64,
    /// Keys in use at a time.
    pub keys: u64,
    /// Usual pause of a client between two calls.
    pub think: Instant,
    /// The network while things go wrong.
    pub weather: Weather,
    /// Whether messages are encoded and decoded on their way, as on a real wire.
    pub through_codec: bool,
    /// Whether regions split, move and change their leaders on purpose.
    pub topology: bool,
    /// Reads that go to any replica, in thousandths.
    pub replica_reads: u64,
    /// How far clocks run apart, in parts per million either way.
    pub clock_drift: u64,
    /// Lanes of each store; no run depends on their number.
    pub lanes: usize,
    /// Snapshots damaged on their way, in thousandths.
    pub damage: u64,
    /// Which mischief, or what the seed says.
    pub mischief: Option<Vec<Mischief>>,
    /// Usual time between two mischiefs, or what the seed says.
    pub mischief_every: Option<Instant>,
    /// Of the mischiefs only those with these numbers; each is as it would be among all.
    pub only: Option<BTreeSet<u32>>,
    /// The bug to plant, if any.
    pub plant: Option<Plant>,
    /// The clients that run transactions, if any.
    pub transactions: Option<Transacting>,
}

/// Who runs transactions in a run.
#[derive(Clone, Debug)]
pub struct Transacting {
    /// Clients, each with one transaction at a time.
    pub clients: u64,
    /// Usual pause of a client between two transactions.
    pub think: Instant,
    /// What they are asked to do.
    pub workloads: Vec<Workload>,
    /// How long old versions are kept; for ever without.
    pub life: Option<Instant>,
    /// Whether leaders keep pessimistic locks in memory.
    pub in_memory: bool,
}

impl Transacting {
    /// What a seed says: some workloads out of all.
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed).stream("transacting");
        let mut workloads = Workload::ALL.to_vec();
        dice.shuffle(&mut workloads);
        workloads.truncate(dice.within(1..5) as usize);
        Self {
            clients: dice.within(3..9),
            think: dice.within(10 * MILLISECOND..120 * MILLISECOND),
            workloads,
            life: dice.happens(600).then(|| dice.within(SECOND..6 * SECOND)),
            in_memory: dice.happens(750),
        }
    }
}

/// Followers refuse to depose a leader for nine tenths of an election timeout; clocks that run apart
/// by more than that margin are not covered by the promise of a lease.
const CLOCK_DRIFT_MAX: u64 = 40_000;

impl Options {
    /// A run of this seed, with sixty seconds of trouble.
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed).stream("options");
        // One run in three has everything at once; the others a taste of their own, for a run in which
        // everything goes wrong all the time makes little progress.
        let everything = dice.happens(333);
        Self {
            seed,
            safety: 60 * SECOND,
            stores: if dice.happens(500) { 3 } else { dice.within(4..6) },
            clients: dice.within(6..13),
            keys: dice.within(2..16),
            think: dice.within(MILLISECOND..28 * MILLISECOND),
            weather: Weather::draw(&mut dice),
            through_codec: dice.happens(100),
            topology: dice.happens(600) || everything,
            replica_reads: if dice.happens(400) || everything { dice.within(0..500) } else { 0 },
            clock_drift: dice.within(0..CLOCK_DRIFT_MAX),
            lanes: dice.within(1..5) as usize,
            damage: if dice.happens(500) { dice.within(0..200) } else { 0 },
            mischief: everything.then(|| MISCHIEFS.to_vec()),
            mischief_every: None,
            only: None,
            plant: None,
            transactions: Dice::new(seed)
                .stream("has transactions")
                .happens(500)
                .then(|| Transacting::of_seed(seed)),
        }
    }

    /// The same run with transactions in any case.
    pub fn with_transactions(mut self) -> Self {
        self.transactions = Some(Transacting::of_seed(self.seed));
        self
    }

    /// The same run with a bug in it.
    pub fn with_plant(mut self, plant: Plant) -> Self {
        self.plant = Some(plant);
        self
    }

    /// Only these mischiefs, about so often.
    pub fn with_mischief(mut self, mischief: &[Mischief], every: Instant) -> Self {
        self.mischief = Some(mischief.to_vec());
        self.mischief_every = Some(every);
        self
    }
}
