//! The cluster's picture, made of heartbeats, and what is to be done about it.
//!
//! A [`Cluster`] lives in the serving leader of the scheduler group, for one leadership. It is
//! loaded from what the group's log holds (stores and region descriptions), filled in by
//! heartbeats, and thrown away when the leadership ends. It changes its memory at once and
//! returns [`Writes`] for whatever must survive; the shell makes those durable through the group
//! *before* it answers or sends an order. If that fails the leadership is lost, and with it this
//! value.
//!
//! ```text
//!   region heartbeat ─► regions: stale? new?  ─► operators: step done? next order
//!                    └► flow: what is hot?    └► none running: checkers: does it need one?
//!   store heartbeat  ─► stores, flow
//!   tick             ─► operators: orders lost, plans late · patrol · schedulers · burials
//! ```
//!
//! Nothing here is told that a step is done: a heartbeat shows it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::{RegionId, StoreId, metapb, pdpb};

mod attention;
mod moment;
#[cfg(test)]
pub(crate) mod notation;
pub mod policy;
mod record;
mod refusal;
pub mod regions;
mod resolved;
mod schedulers;
pub mod stores;
pub mod version;

pub use attention::{Placement, SUSPECTS_MAX};
pub use moment::Moment;
pub use policy::{LeaderSchedulePolicy, Policy, Temporary};
pub use record::RegionRecord;
pub use refusal::Refusal;
pub use regions::{Regions, Stale, StoreCounts, Verdict};
pub use resolved::NO_SAY;
pub use schedulers::ScatterStep;
pub use stores::{Liveness, StoreRecord, Stores};
pub use version::Version;

use crate::checkers::{self, Finding};
use crate::flow::{Counted, Flow};
use crate::ids::{Ids, Taken};
use crate::operator::{Operator, RunningOperators, Step};
use crate::placement::View;
use crate::rules::{Edit, Rule, RuleSet, Rules};
use crate::scatter::{Scattered, Scatterer};
use crate::scheduling::{Bars, Catalog, Coordinator, Roster};

/// Regions a patrol looks at in one tick, in the order of their ids: regions without news are
/// seen this way too.
pub const PATROL_REGIONS: usize = 128;

/// A new leader balances nothing before this share of the regions, in percent, has been heard
/// from its leaders, or [`PREPARED_AFTER_MS`] have passed: until then stores look emptier than
/// they are.
pub const PREPARED_PERCENT: usize = 90;

/// See [`PREPARED_PERCENT`].
pub const PREPARED_AFTER_MS: u64 = 5 * 60 * 1_000;

/// Regions one split may ask ids for; more are refused.
pub const SPLIT_COUNT_MAX: u32 = 4_096;

/// What has to go into the group's log. Removals are applied before what is put.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// Stores to put.
    pub stores: Vec<metapb::Store>,
    /// Stores to forget.
    pub removed_stores: Vec<u64>,
    /// Region descriptions to put.
    pub regions: Vec<metapb::Region>,
    /// Regions to forget.
    pub removed_regions: Vec<u64>,
    /// The cluster's version, if it has risen.
    pub cluster_version: Option<String>,
    /// The schedulers and their arguments as JSON, if they have changed.
    pub roster: Option<String>,
}

impl Writes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of_store(store: metapb::Store) -> Self {
        Self { stores: vec![store], ..Self::default() }
    }
}

/// What became of a region's heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// What it was worth.
    pub verdict: Verdict,
    /// To be made durable before `order` is sent.
    pub writes: Writes,
    /// To be sent to the store of its `target_peer`; the shell fills in the header.
    pub order: Option<pdpb::RegionHeartbeatResponse>,
    /// Whether a plan waits for ids: a bound to save for [`Ids::bound_saved`].
    pub ids_wanted: Option<u64>,
}

/// What a tick asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ticked {
    /// To be made durable.
    pub writes: Writes,
    /// To be sent, each to the store of its `target_peer`; the shell fills in the headers.
    pub orders: Vec<pdpb::RegionHeartbeatResponse>,
    /// Whether a plan waits for ids: a bound to save for [`Ids::bound_saved`].
    pub ids_wanted: Option<u64>,
}

/// An answer to a store that asks for ids to split with.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// One for each new region.
    Ids(Vec<pdpb::SplitId>),
    /// Save this bound for [`Ids::bound_saved`] and ask again.
    NeedBound(u64),
}

/// The picture, the plans under way, and the wishes they follow.
#[derive(Debug)]
pub struct Cluster {
    policy: Policy,
    rules: Arc<Rules>,
    version: Version,
    stores: Stores,
    regions: Regions,
    operators: RunningOperators,
    flow: Flow,
    scatterer: Scatterer,
    coordinator: Coordinator,
    /// What the schedulers hold, as of their last turns.
    bars: Bars,
    resolved: resolved::ResolvedTimestamps,
    /// Regions to be looked at before the patrol comes to them.
    suspects: BTreeSet<RegionId>,
    loaded_at_ms: u64,
    /// Regions that were loaded and whose leaders have not spoken yet.
    unheard: BTreeSet<RegionId>,
    loaded_count: usize,
    /// The region the patrol looked at last.
    patrolled: RegionId,
}

/// Whether this can be a cluster's first store and region. Whether it is the first at all is
/// decided where it is replicated.
pub fn check_bootstrap(store: &metapb::Store, region: &metapb::Region) -> Result<(), Refusal> {
    let invalid = |what: &str| Err(Refusal::InvalidBootstrap(what.into()));
    if store.id == 0 {
        return invalid("the first store's id must not be 0");
    }
    if store.address.is_empty() {
        return invalid("the first store must have an address");
    }
    if Version::parse(&store.version).is_none() {
        return invalid("the first store's version is not a version");
    }
    if region.id == 0 {
        return invalid("the first region's id must not be 0");
    }
    if !region.start_key.is_empty() || !region.end_key.is_empty() {
        return invalid("the first region must hold every key");
    }
    match region.peers.as_slice() {
        [peer] if peer.store_id == store.id && peer.id != 0 => Ok(()),
        [_] => invalid("the first region's peer must be on the first store"),
        _ => invalid("the first region must have exactly one peer"),
    }
}

impl Cluster {
    /// Begins a leadership with what the group's log holds.
    pub fn load(
        policy: Policy,
        cluster_version: &str,
        stores: impl IntoIterator<Item = metapb::Store>,
        regions: impl IntoIterator<Item = metapb::Region>,
        moment: Moment,
    ) -> Self {
        let regions = Regions::load(regions);
        let unheard: BTreeSet<_> = regions.iter().map(|record| record.id()).collect();
        Self {
            rules: Rules::of_policy(&policy),
            policy,
            version: Version::parse(cluster_version).unwrap_or_default(),
            stores: Stores::load(stores, moment),
            loaded_count: unheard.len(),
            unheard,
            regions,
            operators: RunningOperators::default(),
            flow: Flow::default(),
            scatterer: Scatterer::default(),
            coordinator: Coordinator::begin(Catalog::standard(), Roster::default(), moment.wall_ms),
            bars: Bars::default(),
            resolved: resolved::ResolvedTimestamps::default(),
            suspects: BTreeSet::new(),
            loaded_at_ms: moment.steady_ms,
            patrolled: RegionId(0),
        }
    }

    /// The stores.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The regions.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// The plans under way and those that ended.
    pub fn operators(&self) -> &RunningOperators {
        &self.operators
    }

    /// What is read and written, and how fast.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The wishes.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// New wishes, already valid and replicated. Rules that are made of them follow.
    pub fn set_policy(&mut self, policy: Policy) {
        if self.rules.is_derived() {
            self.rules = Rules::of_policy(&policy);
        }
        self.policy = policy;
    }

    /// The placement rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Rules that somebody wrote, already valid and replicated.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
    }

    /// Changes the rules, all of these edits or none. Returns what is to be replicated. A rule that
    /// is put must be for some store, once there is one.
    pub fn edit_rules(
        &mut self,
        edits: impl IntoIterator<Item = Edit>,
    ) -> Result<Vec<u8>, Refusal> {
        if !self.policy.enable_placement_rules {
            return Err(Refusal::RulesDisabled);
        }
        let edits: Vec<Edit> = edits.into_iter().collect();
        let put = edits.iter().filter_map(Edit::put).cloned().collect::<Vec<_>>();
        let rules =
            Rules::written(self.rules.set().edited(edits)).map_err(Refusal::InvalidValue)?;
        let has_stores = self.stores.iter().next().is_some();
        let is_for_none = |rule: &&Rule| !self.stores.iter().any(|store| rule.matches(Some(store)));
        if let Some(rule) = put.iter().filter(|_| has_stores).find(is_for_none) {
            return Err(Refusal::InvalidValue(format!(
                "invalid rule content, rule '{}' from rule group '{}' can not match any store",
                rule.id, rule.group_id
            )));
        }
        let json = rules.set().to_json();
        self.rules = rules;
        Ok(json)
    }

    /// New wishes, already valid. Returns what is to be replicated of the rules, if they follow: as long as
    /// the default rule is the only one, it says what the wishes say.
    pub fn adopt_policy(&mut self, policy: Policy) -> Result<Option<Vec<u8>>, Refusal> {
        let set = self.rules.set();
        let (before, after) = (RuleSet::of_policy(&self.policy), RuleSet::of_policy(&policy));
        let mut json = None;
        if !self.rules.is_derived() && policy.enable_placement_rules && before != after {
            if *set != before {
                return Err(Refusal::InvalidValue(
                    "max-replicas, location-labels and isolation-level cannot be changed: there are \
                     other placement rules than the default one; change the rules instead"
                        .into(),
                ));
            }
            let rules = Rules::written(after).map_err(Refusal::InvalidValue)?;
            json = Some(rules.set().to_json());
            self.rules = rules;
        }
        self.set_policy(policy);
        Ok(json)
    }

    /// The cluster's version: the lowest of its stores', and never lower than it was.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What judges look at.
    pub fn view(&self, moment: Moment) -> View<'_> {
        View {
            regions: &self.regions,
            stores: &self.stores,
            operators: &self.operators,
            flow: &self.flow,
            bars: &self.bars,
            policy: &self.policy,
            rules: &self.rules,
            moment,
        }
    }

    /// How many of the regions that were loaded have been heard from their leaders, and how many there
    /// were.
    pub fn heard(&self) -> (usize, usize) {
        (self.loaded_count - self.unheard.len(), self.loaded_count)
    }

    /// Whether enough of the regions have been heard to judge how full the stores are.
    pub fn is_prepared(&self, moment: Moment) -> bool {
        let (heard, loaded) = self.heard();
        heard * 100 >= loaded * PREPARED_PERCENT
            || moment.steady_ms.saturating_sub(self.loaded_at_ms) >= PREPARED_AFTER_MS
    }

    /// A store registers, or says what has changed about it.
    pub fn put_store(&mut self, store: metapb::Store, moment: Moment) -> Result<Writes, Refusal> {
        let id = StoreId(store.id);
        let is_new = self.stores.find(id).is_none();
        let mut store = self.stores.put(store, &self.policy, self.version, moment)?;
        if is_new && self.regions.len() >= stores::PREPARING_FROM_REGIONS {
            store = self.stores.set_preparing(id, true).unwrap_or(store);
        }
        let cluster_version = self.raise_version();
        Ok(Writes { cluster_version, ..Writes::of_store(store) })
    }

    /// Sets the cluster's version by hand: not below what it is, and not above what every store can do.
    pub fn set_version(&mut self, text: &str) -> Result<Writes, Refusal> {
        let invalid = |what: String| Err(Refusal::InvalidValue(format!("cluster-version {what}")));
        let Some(wanted) = Version::parse(text).filter(|_| !text.is_empty()) else {
            return invalid(format!("{text:?} is not a version"));
        };
        if wanted < self.version {
            return invalid(format!("only rises, and is {} already", self.version));
        }
        if let Some(lowest) = self.stores.lowest_version().filter(|lowest| *lowest < wanted) {
            return invalid(format!("cannot be {wanted}: there is a store of version {lowest}"));
        }
        self.version = wanted;
        Ok(Writes { cluster_version: Some(wanted.to_string()), ..Writes::default() })
    }

    /// How many stores a cluster must keep: as many as some region shall have peers.
    fn stores_needed(&self) -> usize {
        if self.policy.enable_placement_rules {
            self.rules.peers_wanted()
        } else {
            self.policy.max_replicas
        }
    }

    fn raise_version(&mut self) -> Option<String> {
        let lowest = self.stores.lowest_version()?;
        (lowest > self.version).then(|| {
            self.version = lowest;
            lowest.to_string()
        })
    }

    /// A store says how it is. The answer's header is the shell's.
    pub fn on_store_heartbeat(
        &mut self,
        stats: pdpb::StoreStats,
        moment: Moment,
    ) -> Result<pdpb::StoreHeartbeatResponse, Refusal> {
        let id = StoreId(stats.store_id);
        if !self.stores.get(id)?.is_tombstone() {
            self.flow.on_store(&stats, moment);
        }
        let store = self.stores.on_heartbeat(stats, moment)?;
        Ok(pdpb::StoreHeartbeatResponse {
            cluster_version: self.version.to_string(),
            state: store.meta.node_state,
            ..Default::default()
        })
    }

    /// Begins to drain a store.
    pub fn take_store_offline(&mut self, id: StoreId, destroyed: bool) -> Result<Writes, Refusal> {
        let needed = self.stores_needed();
        self.stores.take_offline(id, destroyed, needed).map(Writes::of_store)
    }

    /// Takes that back.
    pub fn bring_store_up(&mut self, id: StoreId) -> Result<Writes, Refusal> {
        self.stores.bring_up(id).map(Writes::of_store)
    }

    /// Sets a store's labels, keeping those not named, or, with `replace`, none of them.
    pub fn set_store_labels(
        &mut self,
        id: StoreId,
        labels: &[metapb::StoreLabel],
        replace: bool,
    ) -> Result<Writes, Refusal> {
        self.stores.set_labels(id, labels, replace, &self.policy).map(Writes::of_store)
    }

    /// Forgets the stores that are gone.
    pub fn forget_tombstones(&mut self) -> Writes {
        let gone = self.stores.forget_tombstones();
        for &store in &gone {
            self.operators.forget_store(store);
            self.flow.forget_store(store);
            self.forget_resolved(store);
        }
        let removed_stores = gone.into_iter().map(|id| id.0).collect();
        Writes { removed_stores, ..Writes::default() }
    }

    /// A region's leader says how it is.
    pub fn on_region_heartbeat(
        &mut self,
        heartbeat: pdpb::RegionHeartbeatRequest,
        ids: &mut Ids,
        moment: Moment,
    ) -> Result<Heard, Refusal> {
        let counted = Counted::of(&heartbeat);
        let record = RegionRecord::from_heartbeat(heartbeat)?;
        let leader_store = StoreId(record.leader.unwrap_or_default().store_id);
        if self.stores.get(leader_store)?.is_tombstone() {
            return Err(Refusal::StoreTombstone(leader_store));
        }
        self.regions.check_leap(&record)?;
        let id = record.id();
        let mut writes = Writes::default();
        let described = record.region.clone();
        let verdict = self.regions.offer(record);
        match &verdict {
            Verdict::Stale(stale) => {
                let stale = Refusal::StaleRegion(format!("{id}: {stale}"));
                tracing::debug!(%stale, "ignored a heartbeat from the past");
                return Ok(Heard { verdict, writes, order: None, ids_wanted: None });
            }
            Verdict::Replaced { removed } => {
                writes.removed_regions = removed.iter().map(|region| region.0).collect();
                writes.regions.push(described);
                for region in removed {
                    self.unheard.remove(region);
                }
                self.flow.forget(removed);
            }
            Verdict::Unchanged | Verdict::Updated => {}
        }
        self.unheard.remove(&id);
        if let Some(record) = self.regions.by_id(id) {
            self.flow.on_region(record, counted, moment);
        }
        let (order, ids_wanted) = self.judge(id, ids, moment);
        Ok(Heard { verdict, writes, order, ids_wanted })
    }

    /// A store says how one of the regions it leads lies in buckets; whether that is kept. Nothing
    /// of it is written down.
    pub fn on_buckets(
        &mut self,
        epoch: Option<metapb::RegionEpoch>,
        buckets: metapb::Buckets,
    ) -> bool {
        self.regions.on_buckets(epoch, buckets)
    }

    /// Goes on with the region's plan, or thinks of one.
    fn judge(
        &mut self,
        id: RegionId,
        ids: &mut Ids,
        moment: Moment,
    ) -> (Option<pdpb::RegionHeartbeatResponse>, Option<u64>) {
        let Some(record) = self.regions.by_id(id).cloned() else { return (None, None) };
        if self.operators.of(id).is_some() {
            let order = self.operators.on_heartbeat(&record, moment);
            if order.is_some() || self.operators.of(id).is_some() {
                return (order, None);
            }
        }
        if self.policy.halt_scheduling {
            return (None, None);
        }
        let is_paused = |checker: &str| self.is_checker_paused(checker, moment);
        match checkers::check(self.view(moment), &record, is_paused, ids) {
            Finding::Healthy | Finding::Blocked(_) => (None, None),
            Finding::NeedsIds(bound) => (None, Some(bound)),
            Finding::Wants(operator) => match self.add_operator(operator, moment) {
                Ok(order) => (order, None),
                Err(declined) => {
                    tracing::debug!(%declined, "a plan has to wait");
                    (None, None)
                }
            },
        }
    }

    /// Time passes: orders that seem lost are repeated, regions without news are looked at,
    /// stores are balanced, and stores that are empty and leaving are buried.
    pub fn tick(&mut self, ids: &mut Ids, moment: Moment) -> Ticked {
        let mut ticked =
            Ticked { orders: self.operators.tick(&self.regions, moment), ..Ticked::default() };
        ticked.writes = self.bury_empty_stores();
        ticked.writes.stores.extend(self.serve_prepared_stores(moment));
        if self.policy.halt_scheduling {
            return ticked;
        }
        self.patrol(ids, moment, &mut ticked);
        if self.is_prepared(moment) {
            self.take_turns(ids, moment, &mut ticked);
        }
        ticked
    }

    fn patrol(&mut self, ids: &mut Ids, moment: Moment, ticked: &mut Ticked) {
        let mut looked_at = self.regions.ids_after(self.patrolled, PATROL_REGIONS);
        // The end of the round: the next tick begins at the first region again.
        self.patrolled = match looked_at.last() {
            Some(&last) if looked_at.len() == PATROL_REGIONS => last,
            _ => RegionId(0),
        };
        let suspects = self.next_suspects();
        looked_at.retain(|id| !suspects.contains(id));
        let looked_at = suspects.into_iter().chain(looked_at);
        for id in looked_at {
            if self.operators.of(id).is_some() {
                continue;
            }
            let (order, ids_wanted) = self.judge(id, ids, moment);
            ticked.orders.extend(order);
            ticked.ids_wanted = ticked.ids_wanted.max(ids_wanted);
        }
    }

    /// Stores that have their share of the regions by now, or have waited for it long enough.
    fn serve_prepared_stores(&mut self, moment: Moment) -> Vec<metapb::Store> {
        if !self.stores.iter().any(StoreRecord::is_preparing) {
            return Vec::new();
        }
        let up = self.stores.up_count().max(1);
        let held = self.stores.iter().map(|store| self.regions.counts(store.id()).regions);
        let peers: usize = held.sum();
        let is_ready = |store: &StoreRecord| {
            let has = self.regions.counts(store.id()).regions;
            let runs_for_s = moment.wall_s().saturating_sub(store.meta.start_timestamp);
            let is_old = store.meta.start_timestamp != 0 && runs_for_s >= stores::PREPARING_MAX_S;
            is_old || has * up * 100 >= peers * stores::PREPARED_SHARE_PERCENT
        };
        let ready = self.stores.iter().filter(|store| store.is_preparing() && is_ready(store));
        let ready: Vec<_> = ready.map(StoreRecord::id).collect();
        ready.into_iter().filter_map(|id| self.stores.set_preparing(id, false)).collect()
    }

    fn bury_empty_stores(&mut self) -> Writes {
        // A peer may be on its way there by a plan from before the store began to leave.
        let awaited: BTreeSet<_> = self.operators.running().flat_map(Operator::adds_to).collect();
        let empty: Vec<_> = self
            .stores
            .iter()
            .filter(|store| store.is_offline() && !awaited.contains(&store.id()))
            .filter(|store| self.regions.counts(store.id()).regions == 0)
            .map(StoreRecord::id)
            .collect();
        let stores: Vec<_> = empty.into_iter().filter_map(|id| self.stores.bury(id).ok()).collect();
        let cluster_version = if stores.is_empty() { None } else { self.raise_version() };
        Writes { stores, cluster_version, ..Writes::default() }
    }

    /// Takes a plan, for an administrator or a balancer. Returns its first order, to be sent at
    /// once: the leader need not wait for its next heartbeat to hear of it.
    pub fn add_operator(
        &mut self,
        operator: Operator,
        moment: Moment,
    ) -> Result<Option<pdpb::RegionHeartbeatResponse>, Refusal> {
        let region = operator.region;
        let record = self.regions.by_id(region).cloned();
        let operator = self.with_freed_stores(operator, moment);
        self.operators
            .add(operator, record.as_deref(), &self.policy, moment)
            .map_err(|why| Refusal::OperatorDeclined { region, reason: why.to_string() })?;
        Ok(record.and_then(|record| self.operators.on_heartbeat(&record, moment)))
    }

    /// Peers may go from a store that leaves or is lost however many have gone already.
    fn with_freed_stores(&self, mut operator: Operator, moment: Moment) -> Operator {
        let is_freed = |store: &StoreId| {
            let Some(record) = self.stores.find(*store) else { return true };
            !record.is_up() || record.liveness(&self.policy, moment) == Liveness::Down
        };
        let left = operator.steps().iter().filter_map(|step| match step {
            Step::RemovePeer(peer) => Some(StoreId(peer.store_id)),
            Step::AddPeer(_)
            | Step::PromoteLearner(_)
            | Step::DemoteVoter(_)
            | Step::TransferLeader { .. }
            | Step::EnterJoint(_)
            | Step::LeaveJoint(_)
            | Step::Split { .. } => None,
        });
        operator.freed_stores = left.filter(is_freed).collect();
        operator
    }

    /// Gives up the region's plan.
    pub fn cancel_operator(&mut self, region: RegionId, moment: Moment) -> Result<(), Refusal> {
        if self.operators.cancel(region, "an administrator gave it up", moment) {
            Ok(())
        } else {
            Err(Refusal::NotFound(format!("{region}: no operator is under way")))
        }
    }

    /// A store asks for ids to split a region with: for each of `count` new regions one for
    /// itself and one for each of its peers, in the order of the region's peers.
    pub fn ask_batch_split(
        &self,
        region: &metapb::Region,
        count: u32,
        ids: &mut Ids,
    ) -> Result<Asked, Refusal> {
        regions::check_description(region)?;
        if count == 0 || count > SPLIT_COUNT_MAX {
            return Err(Refusal::InvalidRegion(format!(
                "r{}: a split into {count} new regions; 1 to {SPLIT_COUNT_MAX} are possible",
                region.id
            )));
        }
        // What is known at its start key, as ids given for a region that has since split again
        // would be ids for the wrong peers.
        let known = self.regions.by_key(&region.start_key).ok_or_else(|| {
            Refusal::StaleRegion(format!("r{}: nothing is known at its start key", region.id))
        })?;
        if regions::is_older(region, &known.region) {
            return Err(Refusal::StaleRegion(format!(
                "r{}: its epoch is older than that of {}",
                region.id,
                known.id()
            )));
        }
        let per_region = 1 + region.peers.len() as u64;
        let block = match ids.take(u64::from(count) * per_region) {
            Taken::Block(block) => block,
            Taken::NeedBound(bound) => return Ok(Asked::NeedBound(bound)),
        };
        let split_id = |first: u64| pdpb::SplitId {
            new_region_id: first,
            new_peer_ids: (first + 1..first + per_region).collect(),
        };
        let firsts = (0..u64::from(count)).map(|number| block.start() + number * per_region);
        Ok(Asked::Ids(firsts.map(split_id).collect()))
    }

    /// A leader says into which regions a region has split, in the order of their keys. Both
    /// are found from now on.
    pub fn report_batch_split(&mut self, halves: Vec<metapb::Region>) -> Result<Writes, Refusal> {
        let parent = halves.first().and_then(|first| self.regions.by_key(&first.start_key));
        let parent = parent.map(|parent| parent.id());
        let parts: Vec<_> = halves.iter().map(|half| RegionId(half.id)).collect();
        let (regions, removed) = self.regions.on_split(halves)?;
        if let Some(parent) = parent.filter(|_| !regions.is_empty()) {
            self.flow.on_split(parent, &parts);
        }
        self.flow.forget(&removed);
        self.unheard.retain(|id| !removed.contains(id));
        let removed_regions = removed.into_iter().map(|id| id.0).collect();
        Ok(Writes { regions, removed_regions, ..Writes::default() })
    }
}

#[cfg(test)]
mod tests;
