//! What each store said last: up, silent, lost, leaving, gone.
//!
//! ```text
//!            registers                  taken offline               holds no region any more
//!   (none) ───────────► Up/Serving ───────────────────► Offline/Removing ───────────► Tombstone/Removed
//!                            ◄──────────────────────────────┘ brought up again
//! ```
//!
//! The state is decided by people and kept in the scheduler's log. How long a store has been
//! silent is not a state: it is derived from the steady clock whenever somebody asks. A new
//! leader has heard nobody yet; for it silence begins when it begins to look.
//!
//! A store that comes into a cluster of many regions is *Preparing* until it has its share of them, or has been
//! there for long enough; in a small cluster it serves at once. It is only a word for people: a store that
//! prepares gets peers and leaders like any other.

use std::collections::BTreeMap;

use proto::metapb::{NodeState, StoreState};
use proto::{StoreId, metapb, pdpb};

use super::moment::Moment;
use super::policy::Policy;
use super::refusal::Refusal;
use super::version::Version;

/// Silence after which a store counts as disconnected: it gets no leaders and no peers. Stores
/// speak every ten seconds.
pub const DISCONNECTED_AFTER_MS: u64 = 20_000;

/// A store that registers in a cluster of so many regions begins as Preparing.
pub const PREPARING_FROM_REGIONS: usize = 100;

/// It serves when it has this share, in percent, of the peers that a store has on average …
pub const PREPARED_SHARE_PERCENT: usize = 80;

/// … or when it has run for so many seconds.
pub const PREPARING_MAX_S: i64 = 48 * 60 * 60;

/// One store, as far as the scheduler knows.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreRecord {
    /// Who it is and where it can be reached. Replicated.
    pub meta: metapb::Store,
    /// What its last heartbeat said; `None` until it has been heard.
    pub stats: Option<pdpb::StoreStats>,
    /// Steady time of the last heartbeat; `None` until it has been heard.
    heard_at_ms: Option<u64>,
    /// Steady time at which we first knew of the store.
    known_since_ms: u64,
    /// The same heartbeat on the wall clock, for people.
    heard_at_wall_ms: u64,
}

/// How long a store has been silent, in three classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Heard lately.
    Heard,
    /// Silent for more than [`DISCONNECTED_AFTER_MS`]: perhaps it restarts.
    Disconnected,
    /// Silent for longer than `max-store-down-time`: its peers count as lost.
    Down,
}

impl StoreRecord {
    fn new(meta: metapb::Store, moment: Moment) -> Self {
        Self {
            meta,
            stats: None,
            heard_at_ms: None,
            known_since_ms: moment.steady_ms,
            heard_at_wall_ms: 0,
        }
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        StoreId(self.meta.id)
    }

    /// Whether it takes part fully: neither leaving nor gone.
    pub fn is_up(&self) -> bool {
        self.meta.state() == StoreState::Up
    }

    /// Whether its peers are to be moved away.
    pub fn is_offline(&self) -> bool {
        self.meta.state() == StoreState::Offline
    }

    /// Whether it is new, and has yet to get its share of the regions.
    pub fn is_preparing(&self) -> bool {
        self.is_up() && self.meta.node_state() == NodeState::Preparing
    }

    /// Whether it is gone for good.
    pub fn is_tombstone(&self) -> bool {
        self.meta.state() == StoreState::Tombstone
    }

    /// Whether a heartbeat came since we look.
    pub fn was_heard(&self) -> bool {
        self.heard_at_ms.is_some()
    }

    /// How long the store has said nothing.
    pub fn silence_ms(&self, moment: Moment) -> u64 {
        moment.steady_ms.saturating_sub(self.heard_at_ms.unwrap_or(self.known_since_ms))
    }

    /// The same in classes.
    pub fn liveness(&self, policy: &Policy, moment: Moment) -> Liveness {
        match self.silence_ms(moment) {
            silence if silence > policy.max_store_down_time_ms => Liveness::Down,
            silence if silence > DISCONNECTED_AFTER_MS => Liveness::Disconnected,
            _ => Liveness::Heard,
        }
    }

    /// The state as PD's tools name it.
    pub fn state_name(&self, policy: &Policy, moment: Moment) -> &'static str {
        match (self.meta.state(), self.liveness(policy, moment)) {
            (StoreState::Offline, _) => "Offline",
            (StoreState::Tombstone, _) => "Tombstone",
            (StoreState::Up, Liveness::Heard) => "Up",
            (StoreState::Up, Liveness::Disconnected) => "Disconnected",
            (StoreState::Up, Liveness::Down) => "Down",
        }
    }

    /// The store as it goes over the wire: its description and when it was last heard.
    pub fn to_wire(&self) -> metapb::Store {
        let last_heartbeat = i64::try_from(self.heard_at_wall_ms * 1_000_000).unwrap_or(i64::MAX);
        metapb::Store { last_heartbeat, ..self.meta.clone() }
    }

    /// Milliseconds since 1970 of the last heartbeat; 0 when there was none.
    pub fn heard_at_wall_ms(&self) -> u64 {
        self.heard_at_wall_ms
    }

    /// The value of a label; `None` when the store does not carry it.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.meta
            .labels
            .iter()
            .find(|label| label.key.eq_ignore_ascii_case(key))
            .map(|label| label.value.as_str())
    }

    fn set_state(&mut self, state: StoreState, node_state: NodeState) {
        self.meta.set_state(state);
        self.meta.set_node_state(node_state);
    }
}

/// All stores that ever registered and were not forgotten.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    by_id: BTreeMap<StoreId, StoreRecord>,
}

impl Stores {
    /// The stores that the replicated state holds.
    pub fn load(stores: impl IntoIterator<Item = metapb::Store>, moment: Moment) -> Self {
        let records = stores.into_iter().map(|meta| StoreRecord::new(meta, moment));
        Self { by_id: records.map(|record| (record.id(), record)).collect() }
    }

    /// The store with this id, dead or alive.
    pub fn find(&self, id: StoreId) -> Option<&StoreRecord> {
        self.by_id.get(&id)
    }

    /// The same, where its absence is the answer.
    pub fn get(&self, id: StoreId) -> Result<&StoreRecord, Refusal> {
        self.find(id).ok_or(Refusal::UnknownStore(id))
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &StoreRecord> {
        self.by_id.values()
    }

    /// How many take part fully.
    pub fn up_count(&self) -> usize {
        self.iter().filter(|store| store.is_up()).count()
    }

    /// The lowest version among the stores that are not gone.
    pub fn lowest_version(&self) -> Option<Version> {
        self.iter()
            .filter(|store| !store.is_tombstone())
            .filter_map(|store| Version::parse(&store.meta.version))
            .min()
    }

    /// A store registers itself, or says what has changed about it. Returns what is to be
    /// replicated.
    pub fn put(
        &mut self,
        mut store: metapb::Store,
        policy: &Policy,
        cluster_version: Version,
        moment: Moment,
    ) -> Result<metapb::Store, Refusal> {
        if store.id == 0 {
            return Err(Refusal::InvalidStore("a store's id must not be 0".into()));
        }
        if store.address.is_empty() {
            return Err(Refusal::InvalidStore("a store must have an address".into()));
        }
        let version = Version::parse(&store.version).ok_or_else(|| {
            Refusal::InvalidStore(format!("{:?} is not a version", store.version))
        })?;
        if !version.may_join(cluster_version) {
            return Err(Refusal::IncompatibleVersion {
                cluster: cluster_version.to_string(),
                store: version.to_string(),
            });
        }
        self.check_address(&store)?;
        let id = StoreId(store.id);
        if let Some(known) = self.by_id.get(&id) {
            if known.is_tombstone() {
                return Err(Refusal::StoreTombstone(id));
            }
            // Its state is decided here, not by the store; labels set through the API stay.
            store.set_state(known.meta.state());
            store.set_node_state(known.meta.node_state());
            store.labels = merge_labels(&known.meta.labels, &store.labels);
        } else {
            store.set_state(StoreState::Up);
            store.set_node_state(NodeState::Serving);
            store.labels = merge_labels(&[], &store.labels);
        }
        check_labels(&store, policy)?;
        // When a store was heard is not part of what it is.
        store.last_heartbeat = 0;
        self.by_id
            .entry(id)
            .and_modify(|known| known.meta = store.clone())
            .or_insert_with(|| StoreRecord::new(store.clone(), moment));
        Ok(store)
    }

    /// A store that has just registered begins as Preparing, or has prepared and serves.
    pub fn set_preparing(&mut self, id: StoreId, preparing: bool) -> Option<metapb::Store> {
        let store = self.by_id.get_mut(&id).filter(|store| store.is_up())?;
        let state = if preparing { NodeState::Preparing } else { NodeState::Serving };
        store.meta.set_node_state(state);
        Some(store.meta.clone())
    }

    /// A store says how it is.
    pub fn on_heartbeat(
        &mut self,
        stats: pdpb::StoreStats,
        moment: Moment,
    ) -> Result<&StoreRecord, Refusal> {
        let id = StoreId(stats.store_id);
        let store = self.by_id.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        if store.is_tombstone() {
            return Err(Refusal::StoreTombstone(id));
        }
        store.stats = Some(stats);
        store.heard_at_ms = Some(moment.steady_ms);
        store.heard_at_wall_ms = moment.wall_ms;
        Ok(store)
    }

    /// Begins to drain a store. Doing it twice is doing it once. `destroyed` says that its disk
    /// is lost, so that another store may take its address at once; nobody is asked then whether the others
    /// are enough: `needed` of them.
    pub fn take_offline(
        &mut self,
        id: StoreId,
        destroyed: bool,
        needed: usize,
    ) -> Result<metapb::Store, Refusal> {
        let up_count = self.up_count();
        let store = self.by_id.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        match store.meta.state() {
            StoreState::Tombstone => return Err(Refusal::StoreTombstone(id)),
            StoreState::Offline => {}
            StoreState::Up if up_count <= needed && !destroyed => {
                return Err(Refusal::InvalidStore(format!(
                    "store {} cannot leave: {} stores would remain, fewer than the {needed} replicas \
                     wanted",
                    id.0,
                    up_count - 1,
                )));
            }
            StoreState::Up => store.set_state(StoreState::Offline, NodeState::Removing),
        }
        store.meta.physically_destroyed |= destroyed;
        Ok(store.meta.clone())
    }

    /// Takes back [`Self::take_offline`], as long as the store is not gone.
    pub fn bring_up(&mut self, id: StoreId) -> Result<metapb::Store, Refusal> {
        let store = self.by_id.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        match store.meta.state() {
            StoreState::Tombstone => return Err(Refusal::StoreTombstone(id)),
            StoreState::Offline if store.meta.physically_destroyed => {
                return Err(Refusal::InvalidStore(format!(
                    "store {} is physically destroyed and cannot come back",
                    id.0
                )));
            }
            StoreState::Up | StoreState::Offline => {
                store.set_state(StoreState::Up, NodeState::Serving);
            }
        }
        Ok(store.meta.clone())
    }

    /// Declares an offline store gone for good. The caller knows that it holds no region.
    pub fn bury(&mut self, id: StoreId) -> Result<metapb::Store, Refusal> {
        let store = self.by_id.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        if store.is_up() {
            return Err(Refusal::InvalidStore(format!("store {} is still up", id.0)));
        }
        store.set_state(StoreState::Tombstone, NodeState::Removed);
        Ok(store.meta.clone())
    }

    /// Sets labels; an empty value removes one. Those not named stay, or, with `replace`, go.
    pub fn set_labels(
        &mut self,
        id: StoreId,
        labels: &[metapb::StoreLabel],
        replace: bool,
        policy: &Policy,
    ) -> Result<metapb::Store, Refusal> {
        let store = self.by_id.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        if store.is_tombstone() {
            return Err(Refusal::StoreTombstone(id));
        }
        if let Some(bad) = labels.iter().find(|label| !is_label_key(&label.key)) {
            return Err(Refusal::InvalidStore(format!(
                "{:?} is no key of a label: letters, digits, and . - _ / between them",
                bad.key
            )));
        }
        let known: &[metapb::StoreLabel] = if replace { &[] } else { &store.meta.labels };
        let changed = metapb::Store { labels: merge_labels(known, labels), ..store.meta.clone() };
        check_labels(&changed, policy)?;
        store.meta = changed.clone();
        Ok(changed)
    }

    /// Forgets the stores that are gone; returns which.
    pub fn forget_tombstones(&mut self) -> Vec<StoreId> {
        let gone: Vec<_> =
            self.iter().filter(|store| store.is_tombstone()).map(StoreRecord::id).collect();
        self.by_id.retain(|_, store| !store.is_tombstone());
        gone
    }

    fn check_address(&self, store: &metapb::Store) -> Result<(), Refusal> {
        let clash = self.iter().find(|other| {
            other.meta.id != store.id
                && !other.is_tombstone()
                && !(other.is_offline() && other.meta.physically_destroyed)
                && (other.meta.address == store.address
                    || (!store.peer_address.is_empty()
                        && other.meta.peer_address == store.peer_address))
        });
        clash.map_or(Ok(()), |other| {
            Err(Refusal::DuplicateAddress { address: store.address.clone(), holder: other.id() })
        })
    }
}

/// Whether tools can write it: a letter or digit (or a `$` before it) at either end, and marks between.
fn is_label_key(key: &str) -> bool {
    let inner = key.strip_prefix('$').unwrap_or(key);
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    is_end(inner.chars().next())
        && is_end(inner.chars().last())
        && inner.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

/// The known labels with the new ones over them; one with an empty value goes.
fn merge_labels(
    known: &[metapb::StoreLabel],
    new: &[metapb::StoreLabel],
) -> Vec<metapb::StoreLabel> {
    let mut merged: Vec<metapb::StoreLabel> = Vec::with_capacity(known.len() + new.len());
    for label in known.iter().chain(new) {
        match merged.iter_mut().find(|have| have.key.eq_ignore_ascii_case(&label.key)) {
            Some(have) => have.value.clone_from(&label.value),
            None => merged.push(label.clone()),
        }
    }
    merged.retain(|label| !label.value.is_empty());
    merged
}

fn check_labels(store: &metapb::Store, policy: &Policy) -> Result<(), Refusal> {
    if !policy.strictly_match_label {
        return Ok(());
    }
    let carries =
        |wanted: &String| store.labels.iter().any(|label| label.key.eq_ignore_ascii_case(wanted));
    let refused = |what: String| Err(Refusal::InvalidStore(format!("store {} {what}", store.id)));
    if let Some(missing) = policy.location_labels.iter().find(|wanted| !carries(wanted)) {
        return refused(format!("does not carry the location label {missing}"));
    }
    let is_wanted =
        |key: &str| policy.location_labels.iter().any(|wanted| wanted.eq_ignore_ascii_case(key));
    if let Some(strange) = store.labels.iter().find(|label| !is_wanted(&label.key)) {
        return refused(format!(
            "carries the label {}, which is none of the location labels: they are matched strictly",
            strange.key
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version = Version { major: 8, minor: 5, patch: 0 };

    fn at(steady_ms: u64) -> Moment {
        Moment { steady_ms, wall_ms: 1_000_000 + steady_ms }
    }

    fn store(id: u64, address: &str) -> metapb::Store {
        metapb::Store { id, address: address.into(), version: "8.5.1".into(), ..Default::default() }
    }

    fn label(key: &str, value: &str) -> metapb::StoreLabel {
        metapb::StoreLabel { key: key.into(), value: value.into() }
    }

    fn put(stores: &mut Stores, store: metapb::Store) -> Result<metapb::Store, Refusal> {
        stores.put(store, &Policy::default(), VERSION, at(0))
    }

    fn with(count: u64) -> Stores {
        let mut stores = Stores::default();
        for id in 1..=count {
            put(&mut stores, store(id, &format!("host:{id}"))).unwrap();
        }
        stores
    }

    #[test]
    fn a_second_live_store_with_the_same_address_is_refused() {
        let mut stores = with(4);
        let clash = put(&mut stores, store(9, "host:1"));
        assert_eq!(
            clash,
            Err(Refusal::DuplicateAddress { address: "host:1".into(), holder: StoreId(1) })
        );
        stores.take_offline(StoreId(1), false, 3).unwrap();
        assert!(put(&mut stores, store(9, "host:1")).is_err(), "offline is not gone");
        stores.bury(StoreId(1)).unwrap();
        assert!(put(&mut stores, store(9, "host:1")).is_ok());
        // Changing one's address to another's is the same clash.
        assert!(put(&mut stores, store(2, "host:1")).is_err());
    }

    #[test]
    fn a_destroyed_store_gives_up_its_address_and_cannot_return() {
        let mut stores = with(4);
        stores.take_offline(StoreId(1), true, 3).unwrap();
        assert!(put(&mut stores, store(9, "host:1")).is_ok());
        assert!(stores.bring_up(StoreId(1)).is_err());
        // What is lost is lost, however many are left.
        let mut stores = with(1);
        assert!(stores.take_offline(StoreId(1), false, 3).is_err());
        assert!(stores.take_offline(StoreId(1), true, 3).is_ok());
    }

    #[test]
    fn labels_are_merged_replaced_and_checked() {
        let mut stores = with(1);
        let policy = Policy::default();
        let mut set = |labels: &[metapb::StoreLabel], replace| {
            let set = stores.set_labels(StoreId(1), labels, replace, &policy);
            set.map(|store| store.labels)
        };
        assert!(set(&[label("zone", "a"), label("host", "1")], false).is_ok());
        let merged = set(&[label("zone", "b"), label("host", "")], false);
        assert_eq!(merged, Ok(vec![label("zone", "b")]));
        assert_eq!(set(&[label("rack", "r")], true), Ok(vec![label("rack", "r")]));
        for bad in ["", "-zone", "a b", "$"] {
            assert!(set(&[label(bad, "x")], false).is_err(), "{bad:?}");
        }
        assert!(set(&[label("$mode", "x")], false).is_ok());
    }

    #[test]
    fn a_tombstone_neither_registers_nor_speaks_again() {
        let mut stores = with(4);
        stores.take_offline(StoreId(1), false, 3).unwrap();
        stores.bury(StoreId(1)).unwrap();
        let tombstone = Err(Refusal::StoreTombstone(StoreId(1)));
        assert_eq!(put(&mut stores, store(1, "host:1")), tombstone);
        let stats = pdpb::StoreStats { store_id: 1, ..Default::default() };
        assert_eq!(stores.on_heartbeat(stats, at(1)).cloned().map(|_| store(0, "")), tombstone);
        assert_eq!(stores.forget_tombstones(), [StoreId(1)]);
        assert!(stores.find(StoreId(1)).is_none());
    }

    #[test]
    fn registering_again_keeps_the_state_and_merges_labels() {
        let mut stores = with(4);
        let zone = [label("zone", "a")];
        stores.set_labels(StoreId(1), &zone, false, &Policy::default()).unwrap();
        stores.take_offline(StoreId(1), false, 3).unwrap();
        let mut again = store(1, "elsewhere:1");
        again.labels = vec![label("host", "h1")];
        let written = put(&mut stores, again).unwrap();
        assert_eq!(written.state(), StoreState::Offline);
        assert_eq!(written.labels, [label("zone", "a"), label("host", "h1")]);
        assert_eq!(written.address, "elsewhere:1");
    }

    #[test]
    fn too_few_stores_would_remain() {
        let mut stores = with(3);
        let refused = stores.take_offline(StoreId(1), false, 3).unwrap_err();
        assert!(refused.to_string().contains("2 stores would remain"), "{refused}");
        let gone = stores.take_offline(StoreId(1), false, 2).unwrap();
        assert_eq!(gone.node_state(), NodeState::Removing);
        assert!(stores.take_offline(StoreId(1), false, 2).is_ok(), "twice is once");
        assert_eq!(stores.bring_up(StoreId(1)).unwrap().state(), StoreState::Up);
    }

    #[test]
    fn silence_is_measured_from_the_last_heartbeat() {
        let mut stores = with(1);
        let policy = Policy::default();
        let name =
            |stores: &Stores, ms| stores.find(StoreId(1)).unwrap().state_name(&policy, at(ms));
        assert_eq!(name(&stores, 20_000), "Up");
        let stats = pdpb::StoreStats { store_id: 1, capacity: 7, ..Default::default() };
        let heard = stores.on_heartbeat(stats, at(20_000)).unwrap();
        assert_eq!(heard.to_wire().last_heartbeat, 1_020_000_000_000);
        assert_eq!(name(&stores, 40_000), "Up");
        assert_eq!(name(&stores, 40_001), "Disconnected");
        assert_eq!(name(&stores, 20_000 + 1_800_001), "Down");
    }

    #[test]
    fn versions_must_fit_the_cluster() {
        let mut stores = Stores::default();
        let mut old = store(1, "host:1");
        old.version = "8.4.0".into();
        assert!(matches!(put(&mut stores, old), Err(Refusal::IncompatibleVersion { .. })));
        let mut strange = store(1, "host:1");
        strange.version = "eight".into();
        assert!(matches!(put(&mut stores, strange), Err(Refusal::InvalidStore(_))));
        assert!(put(&mut stores, store(0, "host:1")).is_err());
        assert!(put(&mut stores, store(1, "")).is_err());
    }

    #[test]
    fn a_store_without_wanted_labels_is_refused_when_labels_are_strict() {
        let policy = Policy {
            strictly_match_label: true,
            location_labels: vec!["zone".into()],
            ..Policy::default()
        };
        let mut stores = Stores::default();
        assert!(stores.put(store(1, "host:1"), &policy, VERSION, at(0)).is_err());
        let mut labelled = store(1, "host:1");
        labelled.labels = vec![label("ZONE", "a"), label("disk", "ssd")];
        let refused = stores.put(labelled.clone(), &policy, VERSION, at(0)).unwrap_err();
        assert!(refused.to_string().contains("disk"), "{refused}");
        labelled.labels.pop();
        assert!(stores.put(labelled, &policy, VERSION, at(0)).is_ok());
    }

    #[test]
    fn an_unknown_store_is_named_in_the_refusal() {
        let stores = with(1);
        assert_eq!(
            stores.get(StoreId(7)).unwrap_err().to_string(),
            "invalid store ID 7, not found"
        );
    }
}
