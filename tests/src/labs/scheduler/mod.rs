//! The scheduler's own machine, told what the course's tests tell theirs, without a socket or a thread.
//!
//! The course's cluster object takes heartbeats and keeps numbers of stores that a test may set as it
//! likes. Ours believes heartbeats and nothing else. So a test *declares* what stores and regions there
//! are, and the harness says it to the machine in heartbeats: a store that is to hold twelve regions
//! gets as many that nobody can move.
//!
//! Ids begin at one here. The course's fixtures begin at zero, which its code takes and a cluster does
//! not have.
//!
//! | file | what it is |
//! |---|---|
//! | this one | the machine, its clock and its ids; regions in a few words |
//! | [`beliefs`] | three stores and three regions, and what must be believed of them |
//! | [`scene`] | stores by how full they are, and what the balancers make of them |

pub mod beliefs;
pub mod scene;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb, pdpb};
use scheduler::cluster::{Cluster, Heard, Moment, Policy, Refusal};
use scheduler::ids::Ids;
use scheduler::operator::Operator;

/// The version that every store here has.
const VERSION: &str = "8.5.0";
/// Where the ids begin that the machine gives out: above all that tests make up.
const IDS_FROM: u64 = 1_000_000;
/// How many of them are reserved.
const IDS: u64 = 1_000_000;
/// What a store says about its disk, in bytes: 1,000 MiB, all free.
const CAPACITY: u64 = 1_000 << 20;

/// The machine and what its shell would give it.
pub struct Machine {
    /// What is tested.
    pub cluster: Cluster,
    /// Reserved ahead, more than any test needs.
    pub ids: Ids,
    /// Now.
    pub moment: Moment,
}

impl Machine {
    /// A scheduler that knows nothing yet but the wishes.
    pub fn new(policy: Policy) -> Self {
        Self::loaded(policy, Vec::new(), Vec::new())
    }

    /// A scheduler that begins with what the group's log holds.
    pub fn loaded(
        policy: Policy,
        stores: Vec<metapb::Store>,
        regions: Vec<metapb::Region>,
    ) -> Self {
        let mut ids = Ids::begin(IDS_FROM);
        ids.bound_saved(IDS_FROM + IDS);
        // Late enough that a store may have been silent for an hour.
        let moment = Moment { steady_ms: 3_600_000, wall_ms: 1_700_000_000_000 };
        let cluster = Cluster::load(policy, "", stores, regions, moment);
        Self { cluster, ids, moment }
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        self.moment.steady_ms += ms;
        self.moment.wall_ms += ms;
    }

    /// A store registers, and says that all is well.
    pub fn add_store(&mut self, id: u64) {
        self.cluster.put_store(store(id), self.moment).expect("a new store is welcome");
        self.store_says(stats(id));
    }

    /// A store says how it is.
    pub fn store_says(&mut self, stats: pdpb::StoreStats) {
        self.cluster.on_store_heartbeat(stats, self.moment).expect("a known store is heard");
    }

    /// A region's leader says how the region is.
    pub fn hear(&mut self, report: &pdpb::RegionHeartbeatRequest) -> Result<Heard, Refusal> {
        self.cluster.on_region_heartbeat(report.clone(), &mut self.ids, self.moment)
    }

    /// The same, where it must be listened to; the order in answer, if there is one.
    pub fn order_for(
        &mut self,
        report: &pdpb::RegionHeartbeatRequest,
    ) -> Option<pdpb::RegionHeartbeatResponse> {
        self.hear(report).expect("the report is sound").order
    }

    /// The region that holds the key.
    pub fn region_of(&self, key: &[u8]) -> Option<u64> {
        self.cluster.regions().by_key(key).map(|record| record.id().0)
    }

    /// The plan under way for a region.
    pub fn plan(&self, region: u64) -> Option<&Operator> {
        self.cluster.operators().of(RegionId(region))
    }

    /// Lets the scheduler tick, ten times a second, until it has this to show or so long has passed.
    pub fn tick_until<T>(&mut self, ms: u64, show: impl Fn(&Cluster) -> Option<T>) -> Option<T> {
        for _ in 0..ms / 100 {
            self.cluster.tick(&mut self.ids, self.moment);
            if let Some(shown) = show(&self.cluster) {
                return Some(shown);
            }
            self.pass(100);
        }
        None
    }
}

/// A store as it registers.
pub fn store(id: u64) -> metapb::Store {
    let address = format!("store-{id}:20160");
    metapb::Store { id, address, version: VERSION.into(), ..Default::default() }
}

/// A store that is well.
pub fn stats(id: u64) -> pdpb::StoreStats {
    pdpb::StoreStats { store_id: id, capacity: CAPACITY, available: CAPACITY, ..Default::default() }
}

/// The `n`-th peer of a region: on that store, under an id that only it has.
pub fn peer(region: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer { id: region * 100 + store_id, store_id, ..Default::default() }
}

/// A region with voters on these stores.
pub fn region(id: u64, start: &[u8], end: &[u8], version: u64, stores: &[u64]) -> metapb::Region {
    metapb::Region {
        id,
        start_key: Bytes::copy_from_slice(start),
        end_key: Bytes::copy_from_slice(end),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: version, version }),
        peers: stores.iter().map(|&store| peer(id, store)).collect(),
        ..Default::default()
    }
}

/// What its leader, the first peer, says of it.
pub fn report(region: metapb::Region, mib: u64) -> pdpb::RegionHeartbeatRequest {
    pdpb::RegionHeartbeatRequest {
        leader: region.peers.first().copied(),
        region: Some(region),
        approximate_size: mib << 20,
        ..Default::default()
    }
}

/// The region that a report is about.
pub fn region_in(report: &pdpb::RegionHeartbeatRequest) -> &metapb::Region {
    report.region.as_ref().expect("a report is about a region")
}

/// The same, to be changed.
pub fn region_in_mut(report: &mut pdpb::RegionHeartbeatRequest) -> &mut metapb::Region {
    report.region.as_mut().expect("a report is about a region")
}

/// The stores of a region's peers.
pub fn stores_of(region: &metapb::Region) -> Vec<StoreId> {
    region.peers.iter().map(|peer| StoreId(peer.store_id)).collect()
}
