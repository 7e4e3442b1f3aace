//! Stores by how full they are, and what the balancers make of them.
//!
//! The course sets a store's numbers and asks a scheduler what it would do. Here the same is declared, told
//! to a machine that has just begun, and the machine ticks until it has a plan. Each question begins anew, as
//! under a leader that has just heard everybody, so that no plan of an earlier question is in the way.
//!
//! A store's regions are made up: [`SIZE_MIB`] each, one peer, led there. The named regions of a test count
//! among them. Where three replicas are wanted a made-up region is never moved, as it has one; where one is
//! wanted it is as good as any other, so tests look at the stores of a plan.

use std::collections::{BTreeMap, BTreeSet};

use proto::{RegionId, StoreId, metapb, pdpb};
use scheduler::cluster::Policy;
use scheduler::cluster::stores::DISCONNECTED_AFTER_MS;
use scheduler::operator::{Operator, Purpose, Step};

use super::{Machine, peer, region, report, stats, store};

/// What a region of a scene holds.
pub const SIZE_MIB: u64 = 10;
/// Ids of made-up regions begin here.
const MADE_UP_FROM: u64 = 10_000;
/// For how long a balancer may think: twice its longest interval, and no store falls silent meanwhile.
const THINK_MS: u64 = 10_000;

/// What is declared of a store.
#[derive(Clone, Debug, Default)]
struct Declared {
    regions: u64,
    leaders: u64,
    leader_mib: Option<u64>,
    silent_ms: u64,
    is_offline: bool,
    is_busy: bool,
}

/// A named region.
#[derive(Clone, Debug)]
struct Named {
    stores: Vec<u64>,
    pending: BTreeSet<u64>,
}

/// Declared stores and regions.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The wishes under which the balancers work.
    pub policy: Policy,
    stores: BTreeMap<u64, Declared>,
    named: BTreeMap<u64, Named>,
}

impl Default for Scene {
    fn default() -> Self {
        // The course's numbers: leaders 4 at a time, regions 64, snapshots 3, pending peers 16. New peers get
        // their vote at once there.
        let policy = Policy {
            max_replicas: 3,
            leader_schedule_limit: 4,
            region_schedule_limit: 64,
            replica_schedule_limit: 64,
            max_snapshot_count: 3,
            max_pending_peer_count: 16,
            add_as_learner: false,
            ..Policy::default()
        };
        Self { policy, stores: BTreeMap::new(), named: BTreeMap::new() }
    }
}

impl Scene {
    /// A scene in which regions should have so many replicas.
    pub fn with_replicas(max_replicas: usize) -> Self {
        let mut scene = Self::default();
        scene.policy.max_replicas = max_replicas;
        scene
    }

    /// A store that is well and holds so many regions.
    pub fn region_store(&mut self, id: u64, regions: u64) {
        self.stores.insert(id, Declared { regions, ..Declared::default() });
    }

    /// A store that is well and leads so many regions, all that it holds.
    pub fn leader_store(&mut self, id: u64, leaders: u64) {
        self.stores.insert(id, Declared { leaders, ..Declared::default() });
    }

    /// The same, and what those regions hold together.
    pub fn leader_store_of_size(&mut self, id: u64, leaders: u64, mib: u64) {
        let declared = Declared { leaders, leader_mib: Some(mib), ..Declared::default() };
        self.stores.insert(id, declared);
    }

    /// A region led from the first store, followed on the others.
    pub fn leader_region(&mut self, id: u64, stores: &[u64]) {
        self.named.insert(id, Named { stores: stores.to_vec(), pending: BTreeSet::new() });
    }

    /// The region's peer on that store is catching up.
    pub fn pending(&mut self, region: u64, store: u64) {
        self.named.get_mut(&region).expect("the region is declared").pending.insert(store);
    }

    fn declared(&mut self, store: u64) -> &mut Declared {
        self.stores.get_mut(&store).expect("the store is declared")
    }

    /// The store was last heard longer ago than any store may be silent.
    pub fn down(&mut self, store: u64) {
        self.declared(store).silent_ms = self.policy.max_store_down_time_ms + 1;
    }

    /// The store was last heard half a minute ago.
    pub fn disconnected(&mut self, store: u64) {
        self.declared(store).silent_ms = DISCONNECTED_AFTER_MS + 10_000;
    }

    /// The store is being drained.
    pub fn offline(&mut self, store: u64) {
        self.declared(store).is_offline = true;
    }

    /// The store says that it has too much to do.
    pub fn busy(&mut self, store: u64) {
        self.declared(store).is_busy = true;
    }

    /// What the balancer of peers would do, if anything; nobody else plans.
    pub fn balance_region(&self) -> Option<Operator> {
        let limits =
            Policy { leader_schedule_limit: 0, replica_schedule_limit: 0, ..self.policy.clone() };
        self.plan(limits, Purpose::Region)
    }

    /// What the balancer of leaders would do, if anything; nobody else plans.
    pub fn balance_leader(&self) -> Option<Operator> {
        let limits =
            Policy { region_schedule_limit: 0, replica_schedule_limit: 0, ..self.policy.clone() };
        self.plan(limits, Purpose::Leader)
    }

    fn plan(&self, policy: Policy, purpose: Purpose) -> Option<Operator> {
        let mut machine = self.machine(policy);
        machine.tick_until(THINK_MS, |cluster| {
            cluster.operators().running().find(|operator| operator.purpose == purpose).cloned()
        })
    }

    /// The machine that has been told all this, a moment ago.
    pub fn machine(&self, policy: Policy) -> Machine {
        let mut machine = Machine::new(policy);
        // What is silent now spoke then.
        let now = machine.moment;
        for (&id, declared) in &self.stores {
            machine.moment.steady_ms = now.steady_ms - declared.silent_ms;
            machine.moment.wall_ms = now.wall_ms - declared.silent_ms;
            let registered = machine.cluster.put_store(store(id), machine.moment);
            registered.expect("a new store is welcome");
            machine.store_says(pdpb::StoreStats { is_busy: declared.is_busy, ..stats(id) });
        }
        machine.moment = now;
        let leaving = self.stores.iter().filter(|(_, declared)| declared.is_offline);
        for (&id, _) in leaving {
            let taken = machine.cluster.take_store_offline(StoreId(id), false);
            taken.expect("enough stores remain");
        }
        for report in self.reports() {
            machine.hear(&report).expect("the report is sound");
        }
        machine
    }

    /// What the leaders of all regions say, the named ones first.
    fn reports(&self) -> Vec<pdpb::RegionHeartbeatRequest> {
        let mut reports: Vec<_> = self.named.keys().map(|&id| self.report_of(id)).collect();
        let mut next = MADE_UP_FROM;
        for (&store, declared) in &self.stores {
            let has = |named: &&Named| named.stores.contains(&store);
            let here = self.named.values().filter(has).count() as u64;
            let led = self.named.values().filter(|named| named.stores[0] == store).count() as u64;
            let missing = if declared.leaders > 0 {
                declared.leaders.saturating_sub(led)
            } else {
                declared.regions.saturating_sub(here)
            };
            let known_mib = led * SIZE_MIB;
            for number in 0..missing {
                let mib = match declared.leader_mib {
                    // All the rest in one.
                    Some(mib) if number == 0 => mib - known_mib - (missing - 1),
                    Some(_) => 1,
                    None => SIZE_MIB,
                };
                reports.push(report(keyed(next, &[store]), mib));
                next += 1;
            }
        }
        reports
    }

    /// What the leader of a named region says.
    pub fn report_of(&self, id: u64) -> pdpb::RegionHeartbeatRequest {
        let named = &self.named[&id];
        let pending_peers = named.pending.iter().map(|&store| peer(id, store)).collect();
        pdpb::RegionHeartbeatRequest { pending_peers, ..report(keyed(id, &named.stores), SIZE_MIB) }
    }
}

/// A region whose keys follow from its id.
pub fn keyed(id: u64, stores: &[u64]) -> metapb::Region {
    region(id, format!("{id:>20}").as_bytes(), format!("{:>20}", id + 1).as_bytes(), 1, stores)
}

/// The plan moves a peer from one store to another: adds it there, hands the lead over if it was here, removes
/// it here. Says whether the lead was handed over.
pub fn assert_moves_peer(operator: &Operator, from: u64, to: u64) -> bool {
    let steps = operator.steps();
    let adds = matches!(&steps[0], Step::AddPeer(peer) if peer.store_id == to);
    let removes = matches!(steps.last(), Some(Step::RemovePeer(peer)) if peer.store_id == from);
    assert!(adds && removes && matches!(steps.len(), 2 | 3), "s{from} to s{to}: {operator}");
    let hands_over = steps.len() == 3;
    if hands_over {
        let is_from = |step: &Step| matches!(step, Step::TransferLeader { from: store, .. } if store.0 == from);
        assert!(is_from(&steps[1]), "{operator}");
    }
    hands_over
}

/// The plan hands the lead of its region over, and does nothing else.
pub fn assert_hands_over(operator: Option<Operator>, from: u64, to: u64) {
    let operator = operator.expect("there is a plan");
    let step = Step::TransferLeader { from: StoreId(from), to: StoreId(to) };
    assert_eq!(operator.steps(), [step], "{operator}");
}

/// The region that a plan is for.
pub fn planned_region(operator: &Operator) -> RegionId {
    operator.region
}
