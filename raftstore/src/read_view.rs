//! What an RPC task may see of a region without asking its peer: who leads, at which epoch and term,
//! and until when the leader may answer alone.
//!
//! The peer publishes, RPC tasks read; this is one of the three things that threads share. Readers
//! take no lock: each part of the map of regions and each region's view are replaced whole, and the lease
//! is one atomic number inside the view.
//!
//! **How to read.** Look at the region *first* ([`ReadViews::before_snapshot`]), then take the engine's
//! snapshot, then [`ReadViews::check`] with a `now` read after it:
//!
//! ```text
//!  look: a lease ──── snapshot ──── now ──── check: same view, epoch matches, now < lease
//!     │                  │                     │
//!     └── led then, and everything was applied └── leads still: nobody else wrote in between
//! ```
//!
//! Without the first look a reader that is kept waiting after its snapshot could be served from before
//! the leader caught up: the snapshot of a follower, judged by the lease of the leader it became.
//!
//! **When a lease counts.** It begins when a heartbeat was *sent* that a quorum answered
//! (`peer/lease.rs`), never before an entry of the leader's own term is applied. It is taken back
//! before leadership may move (the call to campaign leaves after the view is changed) and before a
//! split may take effect elsewhere. A view that was replaced is dead: its lease is 0 for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use proto::{KeyRange, Refusal, RegionId, StoreId, metapb, region};

use crate::msg::{Now, Target};

/// A region as its peer last published it.
#[derive(Debug)]
pub struct ReadView {
    /// The region, with its range, epoch and peers.
    pub region: metapb::Region,
    /// What it covers.
    pub range: KeyRange,
    /// The peer here.
    pub peer: metapb::Peer,
    /// Its term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<metapb::Peer>,
    /// Whether the peer here leads.
    pub is_leader: bool,
    /// Whether the peer has data; one that waits for its first snapshot has none.
    pub is_initialized: bool,
    /// Until when the leader may answer alone, in microseconds; 0: not now.
    lease_until: AtomicU64,
    /// Whether the peer is asleep.
    is_asleep: AtomicBool,
    /// What was read, for the scheduler.
    reads: Arc<ReadCounts>,
}

/// How much was read of a region since the last report.
#[derive(Debug, Default)]
pub struct ReadCounts {
    keys: AtomicU64,
    bytes: AtomicU64,
    /// Something was read under a lease since the peer last looked.
    is_fresh: AtomicBool,
}

impl ReadCounts {
    /// Whether something was read under a lease since the last call.
    pub(crate) fn take_is_fresh(&self) -> bool {
        self.is_fresh.load(Ordering::Relaxed) && self.is_fresh.swap(false, Ordering::Relaxed)
    }

    fn note_read(&self) {
        if !self.is_fresh.load(Ordering::Relaxed) {
            self.is_fresh.store(true, Ordering::Relaxed);
        }
    }

    /// Keys and bytes since the last call.
    pub fn take(&self) -> (u64, u64) {
        (self.keys.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

/// A region as it was seen before a snapshot of the engine was taken.
#[derive(Clone, Debug)]
pub struct Before {
    view: Option<Arc<ReadView>>,
    /// Whether this view had ever been granted a lease: the leader had applied all there was.
    had_lease: bool,
}

impl Before {
    /// The peer's term then. A write that builds on what was read carries this term, not a later one:
    /// in between another leader may have written.
    pub fn term(&self) -> Option<u64> {
        self.view.as_ref().map(|view| view.term)
    }
}

/// How a read that may be served here is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPath {
    /// From the snapshot taken before the check.
    Lease,
    /// From a snapshot taken after a read barrier.
    Barrier,
}

impl ReadView {
    /// Whether a request may enter, in TiKV's order of checks: store, peer, leadership, data,
    /// term, epoch. Both older and newer versions of the epoch are refused: a newer one means that
    /// this replica has not applied what the caller saw.
    pub fn admit(&self, target: &Target, store_id: StoreId) -> Result<(), Refusal> {
        let region_id = self.region.id;
        if let Some(requested) = target.store_id.filter(|requested| *requested != store_id) {
            return Err(Refusal::StoreNotMatch { requested: requested.0, actual: store_id.0 });
        }
        if let Some(requested) = target.peer_id.filter(|requested| requested.0 != self.peer.id) {
            return Err(Refusal::MismatchPeerId { requested: requested.0, actual: self.peer.id });
        }
        if !self.is_leader && !target.replica_read {
            return Err(Refusal::NotLeader { region_id, leader: self.leader });
        }
        if !self.is_initialized {
            return Err(Refusal::RegionNotInitialized { region_id });
        }
        // A caller's term may be one behind: it heard of the leader before we did.
        if target.term.is_some_and(|term| self.term > term + 1) {
            return Err(Refusal::StaleCommand);
        }
        if target.epoch.version != region::epoch(&self.region).version {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        Ok(())
    }

    /// Whether the leader may answer alone at this moment.
    pub fn holds_lease(&self, now: Now) -> bool {
        now.0 < self.lease_until.load(Ordering::Acquire)
    }

    /// Whether the peer is asleep: its region is quiet.
    pub fn is_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::Relaxed)
    }

    /// Until when the leader may answer alone, if it ever might under this view.
    pub fn lease_until(&self) -> Option<Now> {
        let until = self.lease_until.load(Ordering::Acquire);
        (until > 0).then_some(Now(until))
    }

    /// Counts what was read, for the scheduler.
    pub fn count_read(&self, keys: u64, bytes: u64) {
        self.reads.keys.fetch_add(keys, Ordering::Relaxed);
        self.reads.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a peer says when it publishes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Published {
    pub(crate) region: metapb::Region,
    pub(crate) peer: metapb::Peer,
    pub(crate) term: u64,
    pub(crate) leader: Option<metapb::Peer>,
    pub(crate) is_leader: bool,
    pub(crate) is_initialized: bool,
}

/// The publishing end of one region: its peer's.
#[derive(Debug)]
pub(crate) struct Publisher {
    slot: Arc<ArcSwap<ReadView>>,
    current: Arc<ReadView>,
    last: Published,
    reads: Arc<ReadCounts>,
}

impl Publisher {
    pub(crate) fn new(first: Published) -> Self {
        let reads = Arc::new(ReadCounts::default());
        let current = Arc::new(view_of(&first, &reads));
        let slot = Arc::new(ArcSwap::new(current.clone()));
        Self { slot, current, last: first, reads }
    }

    /// The view as it stands.
    pub(crate) fn view(&self) -> &ReadView {
        &self.current
    }

    pub(crate) fn reads(&self) -> &ReadCounts {
        &self.reads
    }

    /// Replaces the view when something changed. The old one's lease ends first.
    pub(crate) fn publish(&mut self, next: Published) {
        if self.last == next {
            return;
        }
        self.set_lease(None);
        let is_asleep = self.current.is_asleep();
        self.current = Arc::new(view_of(&next, &self.reads));
        self.set_asleep(is_asleep);
        self.last = next;
        self.slot.store(self.current.clone());
    }

    /// Says whether the peer is asleep.
    pub(crate) fn set_asleep(&self, is_asleep: bool) {
        self.current.is_asleep.store(is_asleep, Ordering::Relaxed);
    }

    /// Sets or takes back the lease of the current view.
    pub(crate) fn set_lease(&self, until: Option<Now>) {
        self.current.lease_until.store(until.map_or(0, |until| until.0), Ordering::Release);
    }
}

fn view_of(published: &Published, reads: &Arc<ReadCounts>) -> ReadView {
    let Published { region, peer, term, leader, is_leader, is_initialized } = published.clone();
    ReadView {
        range: KeyRange::of(&region),
        region,
        peer,
        term,
        leader,
        is_leader,
        is_initialized,
        lease_until: AtomicU64::new(0),
        is_asleep: AtomicBool::new(false),
        reads: reads.clone(),
    }
}

/// Parts of the map of regions. A part is copied for each region that comes or goes: with one part, the
/// thousand regions of a split among ten thousand would take ten million steps.
const PARTS: usize = 128;

/// A part of the map: where each region's newest view is.
type Slots = BTreeMap<RegionId, Arc<ArcSwap<ReadView>>>;

/// The views of all regions of a store. Clones share them.
#[derive(Clone, Debug)]
pub struct ReadViews {
    store_id: StoreId,
    parts: Arc<[ArcSwap<Slots>]>,
}

impl ReadViews {
    /// No regions yet.
    pub fn new(store_id: StoreId) -> Self {
        Self { store_id, parts: (0..PARTS).map(|_| ArcSwap::default()).collect() }
    }

    fn part_of(&self, region_id: RegionId) -> &ArcSwap<Slots> {
        &self.parts[(region_id.0 % PARTS as u64) as usize]
    }

    /// Whose these are.
    pub fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// The newest view of this region.
    pub fn by_id(&self, region_id: RegionId) -> Option<Arc<ReadView>> {
        self.part_of(region_id).load().get(&region_id).map(|slot| slot.load_full())
    }

    /// Every region's view, by id.
    pub fn all(&self) -> Vec<Arc<ReadView>> {
        let mut all = Vec::new();
        for part in self.parts.iter() {
            all.extend(part.load().values().map(|slot| slot.load_full()));
        }
        all.sort_unstable_by_key(|view| view.region.id);
        all
    }

    /// The first look of a reader, before it takes its snapshot.
    pub fn before_snapshot(&self, region_id: RegionId) -> Before {
        let view = self.by_id(region_id);
        let had_lease =
            view.as_ref().is_some_and(|view| view.lease_until.load(Ordering::Acquire) > 0);
        Before { view, had_lease }
    }

    /// Whether a read may be served here, and how; with the view to serve it by. The engine's snapshot
    /// was taken after the first look, and `now` was read after that.
    pub fn check(
        &self,
        before: &Before,
        target: &Target,
        now: Now,
    ) -> Result<(ReadPath, Arc<ReadView>), Refusal> {
        if let Some(requested) = target.store_id.filter(|requested| *requested != self.store_id) {
            return Err(Refusal::StoreNotMatch { requested: requested.0, actual: self.store_id.0 });
        }
        let Some(view) = self.by_id(target.region_id) else {
            return Err(Refusal::RegionNotFound { region_id: target.region_id.0 });
        };
        view.admit(target, self.store_id)?;
        let is_same = before.view.as_ref().is_some_and(|before| Arc::ptr_eq(before, &view));
        let by_lease = is_same
            && before.had_lease
            && view.is_leader
            && !target.replica_read
            && view.holds_lease(now);
        if by_lease {
            view.reads.note_read();
        }
        Ok((if by_lease { ReadPath::Lease } else { ReadPath::Barrier }, view))
    }

    pub(crate) fn insert(&self, region_id: RegionId, publisher: &Publisher) {
        let part = self.part_of(region_id);
        let mut slots = BTreeMap::clone(&part.load());
        slots.insert(region_id, publisher.slot.clone());
        part.store(Arc::new(slots));
    }

    pub(crate) fn remove(&self, region_id: RegionId, publisher: &Publisher) {
        publisher.set_lease(None);
        let part = self.part_of(region_id);
        let mut slots = BTreeMap::clone(&part.load());
        slots.remove(&region_id);
        part.store(Arc::new(slots));
    }
}

#[cfg(test)]
mod tests {
    use proto::PeerId;

    use super::*;

    fn published(version: u64, is_leader: bool) -> Published {
        let epoch = metapb::RegionEpoch { conf_ver: 1, version };
        let peer = metapb::Peer { id: 4, store_id: 1, ..Default::default() };
        Published {
            region: metapb::Region {
                id: 2,
                region_epoch: Some(epoch),
                peers: vec![peer],
                ..Default::default()
            },
            leader: is_leader.then_some(peer),
            peer,
            term: 6,
            is_leader,
            is_initialized: true,
        }
    }

    fn target(version: u64) -> Target {
        Target {
            region_id: RegionId(2),
            epoch: metapb::RegionEpoch { conf_ver: 9, version },
            ..Target::default()
        }
    }

    #[test]
    fn a_lease_ends_when_its_time_is_up() {
        let publisher = Publisher::new(published(1, true));
        let views = ReadViews::new(StoreId(1));
        views.insert(RegionId(2), &publisher);
        let look = || views.before_snapshot(RegionId(2));
        let check = |before: &Before, now| views.check(before, &target(1), Now(now)).unwrap().0;
        let too_early = look();
        assert_eq!(check(&too_early, 5), ReadPath::Barrier);
        publisher.set_lease(Some(Now(10)));
        assert_eq!(check(&look(), 9), ReadPath::Lease);
        assert_eq!(check(&look(), 10), ReadPath::Barrier);
        // Its snapshot may be from before the leader had applied everything.
        assert_eq!(check(&too_early, 9), ReadPath::Barrier);
    }

    #[test]
    fn a_replaced_view_grants_nothing_to_those_who_still_hold_it() {
        let mut publisher = Publisher::new(published(1, true));
        let views = ReadViews::new(StoreId(1));
        views.insert(RegionId(2), &publisher);
        publisher.set_lease(Some(Now(10)));
        let held = views.by_id(RegionId(2)).unwrap();
        publisher.publish(published(2, true));
        assert!(!held.holds_lease(Now(1)));
        let before = views.before_snapshot(RegionId(2));
        let refused = views.check(&before, &target(1), Now(1));
        assert!(matches!(refused, Err(Refusal::EpochNotMatch { .. })));
    }

    #[test]
    fn regions_come_and_go() {
        let views = ReadViews::new(StoreId(1));
        let ids: Vec<u64> = (1..400).rev().collect();
        let of = |id| {
            let mut published = published(1, true);
            published.region.id = id;
            Publisher::new(published)
        };
        let publishers: Vec<_> = ids.iter().map(|id| (RegionId(*id), of(*id))).collect();
        publishers.iter().for_each(|(id, publisher)| views.insert(*id, publisher));
        let seen = || views.all().iter().map(|view| view.region.id).collect::<Vec<_>>();
        assert_eq!(seen(), (1..400).collect::<Vec<_>>());
        let (gone, left) = publishers.split_at(150);
        gone.iter().for_each(|(id, publisher)| views.remove(*id, publisher));
        assert_eq!(seen(), (1..250).collect::<Vec<_>>());
        assert!(left.iter().all(|(id, _)| views.by_id(*id).is_some()));
        assert!(gone.iter().all(|(id, _)| views.by_id(*id).is_none()));
    }

    #[test]
    fn refusals_come_in_tikvs_order() {
        let view = view_of(&published(1, false), &Arc::default());
        let mut target = Target {
            store_id: Some(StoreId(9)),
            peer_id: Some(PeerId(9)),
            term: Some(1),
            ..target(3)
        };
        let mut refusals = Vec::new();
        for fix in [
            |target: &mut Target| target.store_id = None,
            |target: &mut Target| target.peer_id = None,
            |target: &mut Target| target.replica_read = true,
            |target: &mut Target| target.term = None,
            |target: &mut Target| target.epoch.version = 1,
        ] {
            refusals.push(view.admit(&target, StoreId(1)).unwrap_err());
            fix(&mut target);
        }
        assert!(matches!(
            refusals[..],
            [
                Refusal::StoreNotMatch { requested: 9, actual: 1 },
                Refusal::MismatchPeerId { requested: 9, actual: 4 },
                Refusal::NotLeader { leader: None, .. },
                Refusal::StaleCommand,
                Refusal::EpochNotMatch { .. },
            ]
        ));
        assert_eq!(view.admit(&target, StoreId(1)), Ok(()));
    }
}
