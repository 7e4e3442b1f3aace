//! The state that all members agree on: what the scheduler must not forget.
//!
//! A log entry is one [`Change`]: records to set, all or nothing. Deciding happens before, on the
//! leader; applying only remembers, so it cannot fail and is the same on every member. What keeps
//! late or doubled entries harmless is that bounds only rise, ids and the cluster id are set once,
//! and a region never gives way to one with an older epoch.
//!
//! A snapshot is one big `Change` that makes the whole state out of an empty one.
//!
//! Left out on purpose: everything that heartbeats say again anyway (store statistics, leaders,
//! operators). A new leader starts without them and looks.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use proto::keyspacepb::{KeyspaceMeta, keyspace_meta};
#[cfg(test)]
use proto::schedulerpb::MemberPriority;
use proto::schedulerpb::{Change, KeyValue, Member, StateSnapshot};
use proto::{KeyRange, eraftpb, metapb};

use super::history::{History, ValueChange};

/// Everything the members have agreed on, up to and including the entry at [`State::index`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    index: u64,
    term: u64,
    cluster_id: u64,
    timestamp_bound_ms: u64,
    id_bound: u64,
    bootstrapped_at_ms: u64,
    members: BTreeMap<u64, Member>,
    stores: BTreeMap<u64, metapb::Store>,
    regions: BTreeMap<Bytes, metapb::Region>,
    region_starts: BTreeMap<u64, Bytes>,
    keyspaces: BTreeMap<u32, KeyspaceMeta>,
    gc: Bytes,
    settings: Bytes,
    roster: Bytes,
    rules: Bytes,
    cluster_version: String,
    external_timestamp: u64,
    values: BTreeMap<Bytes, KeyValue>,
    /// How the values came to be what they are, as far back as is kept.
    history: History,
}

impl State {
    /// The state before the first entry of a new group, the same on every founding member.
    pub fn founding(members: impl IntoIterator<Item = Member>, index: u64, term: u64) -> Self {
        Self {
            index,
            term,
            history: History::after(index),
            members: members.into_iter().map(|member| (member.member_id, member)).collect(),
            ..Self::default()
        }
    }

    /// The state that a snapshot describes.
    pub fn restore(snapshot: StateSnapshot) -> Self {
        let mut state = Self::default();
        let change = snapshot.state.unwrap_or_default();
        state.members = change.put_members.iter().map(|m| (m.member_id, m.clone())).collect();
        let values = change.put_values.clone();
        state.apply(snapshot.index, snapshot.term, change);
        // Applying gives values a new history; theirs came with the snapshot.
        state.values = values.into_iter().map(|value| (value.key.clone(), value)).collect();
        state.history = History::after(state.index);
        state
    }

    /// The whole state, to be restored elsewhere or after a restart.
    pub fn snapshot(&self, conf_state: eraftpb::ConfState) -> StateSnapshot {
        StateSnapshot {
            index: self.index,
            term: self.term,
            conf_state: Some(conf_state),
            state: Some(Change {
                cluster_id: self.cluster_id,
                timestamp_bound_ms: self.timestamp_bound_ms,
                id_bound: self.id_bound,
                bootstrapped_at_ms: self.bootstrapped_at_ms,
                put_members: self.members.values().cloned().collect(),
                put_stores: self.stores.values().cloned().collect(),
                forget_stores: Vec::new(),
                forget_regions: Vec::new(),
                put_regions: self.regions.values().cloned().collect(),
                put_keyspaces: self.keyspaces.values().cloned().collect(),
                gc: self.gc.clone(),
                settings: self.settings.clone(),
                roster: self.roster.clone(),
                rules: self.rules.clone(),
                // Members carry theirs.
                put_priorities: Vec::new(),
                cluster_version: self.cluster_version.clone(),
                external_timestamp: self.external_timestamp,
                put_values: self.values.values().cloned().collect(),
                delete_values: Vec::new(),
            }),
        }
    }

    /// Applies the entry at `index`. Entries come in order, each once.
    pub fn apply(&mut self, index: u64, term: u64, change: Change) {
        self.advance(index, term);
        if self.cluster_id == 0 {
            self.cluster_id = change.cluster_id;
        }
        if self.bootstrapped_at_ms == 0 {
            self.bootstrapped_at_ms = change.bootstrapped_at_ms;
        }
        self.timestamp_bound_ms = self.timestamp_bound_ms.max(change.timestamp_bound_ms);
        self.id_bound = self.id_bound.max(change.id_bound);
        self.external_timestamp = self.external_timestamp.max(change.external_timestamp);
        for member in change.put_members {
            // A member that was removed does not come back by a late word of its own.
            if let Some(known) = self.members.get_mut(&member.member_id) {
                let Member { is_learner, leader_priority, .. } = *known;
                *known = Member { is_learner, leader_priority, ..member };
            }
        }
        for priority in change.put_priorities {
            if let Some(member) = self.members.get_mut(&priority.member_id) {
                member.leader_priority = priority.leader_priority;
            }
        }
        for store in change.put_stores {
            self.stores.insert(store.id, store);
        }
        for id in change.forget_stores {
            self.stores.remove(&id);
        }
        for id in change.forget_regions {
            self.forget_region(id);
        }
        for region in change.put_regions {
            self.put_region(region);
        }
        for keyspace in change.put_keyspaces {
            self.keyspaces.insert(keyspace_id(&keyspace), keyspace);
        }
        if !change.gc.is_empty() {
            self.gc = change.gc;
        }
        if !change.settings.is_empty() {
            self.settings = change.settings;
        }
        if !change.roster.is_empty() {
            self.roster = change.roster;
        }
        if !change.rules.is_empty() {
            self.rules = change.rules;
        }
        if !change.cluster_version.is_empty() {
            self.cluster_version = change.cluster_version;
        }
        for value in change.put_values {
            self.put_value(index, value.key, value.value);
        }
        for key in change.delete_values {
            if let Some(before) = self.values.remove(&key) {
                let (revision, before) = (index, Some(before));
                self.history.push(ValueChange { revision, key, after: None, before });
            }
        }
    }

    /// Passes over an entry that changes nothing here: a new leader's first, or one of raft's own.
    pub fn advance(&mut self, index: u64, term: u64) {
        assert!(index >= self.index, "an entry is applied once and in order");
        self.index = index;
        self.term = term;
    }

    /// Sets or adds a member, with or without a vote; the membership entry of the log says so.
    pub fn admit(&mut self, member: Member) {
        self.members.insert(member.member_id, member);
    }

    /// Gives a learner its vote.
    pub fn promote(&mut self, member_id: u64) {
        if let Some(member) = self.members.get_mut(&member_id) {
            member.is_learner = false;
        }
    }

    /// Forgets a member.
    pub fn dismiss(&mut self, member_id: u64) {
        self.members.remove(&member_id);
    }

    fn put_value(&mut self, index: u64, key: Bytes, value: Bytes) {
        let known = self.values.get(&key);
        let value = KeyValue {
            key: key.clone(),
            value,
            created_at: known.map_or(index, |known| known.created_at),
            changed_at: index,
            changes: known.map_or(1, |known| known.changes + 1),
        };
        let before = self.values.insert(key.clone(), value.clone());
        self.history.push(ValueChange { revision: index, key, after: Some(value), before });
    }

    fn put_region(&mut self, region: metapb::Region) {
        let epoch = region.region_epoch.unwrap_or_default();
        let older = |known: &metapb::Region| {
            let known = known.region_epoch.unwrap_or_default();
            epoch.version < known.version || epoch.conf_ver < known.conf_ver
        };
        if self.region(region.id).is_some_and(older) {
            return;
        }
        let overlapped = self.overlapping(&KeyRange::of(&region));
        let stale = overlapped
            .iter()
            .filter(|known| known.id != region.id)
            .any(|known| epoch.version < known.region_epoch.unwrap_or_default().version);
        if stale {
            return;
        }
        let gone: Vec<u64> = overlapped.iter().map(|known| known.id).chain([region.id]).collect();
        for id in gone {
            self.forget_region(id);
        }
        self.region_starts.insert(region.id, region.start_key.clone());
        self.regions.insert(region.start_key.clone(), region);
    }

    fn forget_region(&mut self, id: u64) {
        if let Some(start) = self.region_starts.remove(&id) {
            self.regions.remove(&start);
        }
    }

    fn overlapping(&self, range: &KeyRange) -> Vec<&metapb::Region> {
        let before = self.regions.range(..range.start.clone()).next_back();
        let within = self
            .regions
            .range(range.start.clone()..)
            .take_while(|(start, _)| range.end.as_ref().is_none_or(|end| *start < end));
        before
            .into_iter()
            .chain(within)
            .map(|(_, region)| region)
            .filter(|region| KeyRange::of(region).overlaps(range))
            .collect()
    }

    /// The last entry applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Its term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The cluster's id; 0 until the first leader has chosen it.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// No timestamp at or above this many milliseconds has been handed out.
    pub fn timestamp_bound_ms(&self) -> u64 {
        self.timestamp_bound_ms
    }

    /// No id above this one has been handed out.
    pub fn id_bound(&self) -> u64 {
        self.id_bound
    }

    /// When the cluster got its first store, in milliseconds since 1970; 0 before.
    pub fn bootstrapped_at_ms(&self) -> u64 {
        self.bootstrapped_at_ms
    }

    /// The members, by id.
    pub fn members(&self) -> &BTreeMap<u64, Member> {
        &self.members
    }

    /// The stores, by id, tombstones included.
    pub fn stores(&self) -> &BTreeMap<u64, metapb::Store> {
        &self.stores
    }

    /// The regions, by start key.
    pub fn regions(&self) -> impl Iterator<Item = &metapb::Region> {
        self.regions.values()
    }

    /// A region by its id.
    pub fn region(&self, id: u64) -> Option<&metapb::Region> {
        self.regions.get(self.region_starts.get(&id)?)
    }

    /// The keyspaces, by id.
    pub fn keyspaces(&self) -> &BTreeMap<u32, KeyspaceMeta> {
        &self.keyspaces
    }

    /// Safe points and barriers as JSON; empty before anybody has moved one.
    pub fn gc(&self) -> &Bytes {
        &self.gc
    }

    /// The settings of placement as JSON; empty before anybody has set one.
    pub fn settings(&self) -> &Bytes {
        &self.settings
    }

    /// The schedulers and their arguments as JSON; empty before anybody has changed them.
    pub fn roster(&self) -> &Bytes {
        &self.roster
    }

    /// The placement rules as JSON; empty before anybody has written one.
    pub fn rules(&self) -> &Bytes {
        &self.rules
    }

    /// The lowest version among the stores, as it was agreed; empty before the first store.
    pub fn cluster_version(&self) -> &str {
        &self.cluster_version
    }

    /// The timestamp that clients have set from outside; 0 before.
    pub fn external_timestamp(&self) -> u64 {
        self.external_timestamp
    }

    /// Global configuration and what etcd's clients wrote, by key.
    pub fn values(&self) -> &BTreeMap<Bytes, KeyValue> {
        &self.values
    }

    /// The last changes of values.
    pub fn history(&self) -> &History {
        &self.history
    }
}

/// A keyspace's id; an absent one is the default keyspace's, 0.
pub fn keyspace_id(keyspace: &KeyspaceMeta) -> u32 {
    match keyspace.keyspace {
        Some(keyspace_meta::Keyspace::Id(id)) => id,
        None => 0,
    }
}

/// Reads a snapshot's bytes; the error names what is wrong.
pub fn decode_snapshot(bytes: &Bytes) -> Result<StateSnapshot, String> {
    StateSnapshot::decode(bytes.clone()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> metapb::Region {
        metapb::Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            ..Default::default()
        }
    }

    fn ids(state: &State) -> Vec<u64> {
        state.regions().map(|region| region.id).collect()
    }

    #[test]
    fn a_state_comes_back_from_its_snapshot() {
        let member = Member { member_id: 7, name: "a".into(), ..Default::default() };
        let mut state = State::founding([member], 1, 1);
        state.apply(
            2,
            1,
            Change {
                cluster_id: 99,
                timestamp_bound_ms: 1_000,
                id_bound: 50,
                bootstrapped_at_ms: 5,
                put_stores: vec![metapb::Store { id: 1, ..Default::default() }],
                put_regions: vec![region(2, "", "m", 2), region(3, "m", "", 2)],
                put_keyspaces: vec![KeyspaceMeta { name: "DEFAULT".into(), ..Default::default() }],
                settings: "{}".into(),
                roster: "{}".into(),
                rules: r#"{"rules":[],"groups":[]}"#.into(),
                cluster_version: "8.5.5".into(),
                external_timestamp: 3,
                put_values: vec![KeyValue {
                    key: "k".into(),
                    value: "v".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        );
        state.apply(
            3,
            2,
            Change {
                put_values: vec![KeyValue {
                    key: "k".into(),
                    value: "w".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        );
        let conf_state = eraftpb::ConfState { voters: vec![7], ..Default::default() };
        let bytes = Bytes::from(state.snapshot(conf_state).encode_to_vec());
        assert_eq!(State::restore(decode_snapshot(&bytes).unwrap()), state);
        assert_eq!(state.values()[&Bytes::from("k")].changes, 2);
    }

    #[test]
    fn changes_of_values_are_remembered_in_their_order_and_not_in_a_snapshot() {
        let mut state = State::founding([], 5, 1);
        let value = |value: &'static str| KeyValue {
            key: "k".into(),
            value: value.into(),
            ..Default::default()
        };
        let put = |text| Change { put_values: vec![value(text)], ..Default::default() };
        state.apply(6, 1, put("a"));
        state.apply(7, 1, put("b"));
        let deleted = vec!["k".into(), "absent".into()];
        state.apply(8, 1, Change { delete_values: deleted, ..Default::default() });
        let texts: Vec<_> = state
            .history()
            .since(6)
            .unwrap()
            .map(|change| {
                let text = |value: &Option<KeyValue>| value.clone().map(|value| value.value);
                (change.revision, text(&change.before), text(&change.after))
            })
            .collect();
        let (a, b) = (Some("a".into()), Some("b".into()));
        assert_eq!(texts, [(6, None, a.clone()), (7, a, b.clone()), (8, b, None)]);
        let copy = State::restore(state.snapshot(eraftpb::ConfState::default()));
        assert!(copy.history().since(8).is_err(), "a snapshot does not say how it came to be");
        assert_eq!(copy.history().since(9).unwrap().count(), 0);
    }

    #[test]
    fn bounds_only_rise_and_the_cluster_id_stays() {
        let mut state = State::founding([], 1, 1);
        state.apply(
            2,
            1,
            Change { cluster_id: 5, timestamp_bound_ms: 9, id_bound: 9, ..Default::default() },
        );
        state.apply(
            3,
            1,
            Change { cluster_id: 6, timestamp_bound_ms: 4, id_bound: 4, ..Default::default() },
        );
        assert_eq!((state.cluster_id(), state.timestamp_bound_ms(), state.id_bound()), (5, 9, 9));
    }

    #[test]
    fn a_region_replaces_what_it_overlaps_but_never_a_newer_one() {
        let mut state = State::founding([], 1, 1);
        let mut index = 1;
        let mut put = |state: &mut State, region| {
            index += 1;
            state.apply(index, 1, Change { put_regions: vec![region], ..Default::default() });
        };
        put(&mut state, region(1, "", "", 1));
        put(&mut state, region(2, "", "m", 2));
        assert_eq!(ids(&state), [2], "the parent overlaps its half and is older");
        put(&mut state, region(1, "m", "", 2));
        assert_eq!(ids(&state), [2, 1]);
        put(&mut state, region(1, "", "", 1));
        assert_eq!(ids(&state), [2, 1], "an older epoch of the same region changes nothing");
        put(&mut state, region(9, "a", "z", 1));
        assert_eq!(ids(&state), [2, 1], "nor does an older neighbour");
        put(&mut state, region(2, "", "", 3));
        assert_eq!(ids(&state), [2], "a merge takes the other's place");
        assert!(state.region(1).is_none());
    }

    #[test]
    fn a_priority_stays_when_the_member_says_where_it_is() {
        let member = Member { member_id: 7, ..Default::default() };
        let mut state = State::founding([member.clone()], 1, 1);
        let priority = MemberPriority { member_id: 7, leader_priority: 3 };
        let unknown = MemberPriority { member_id: 8, leader_priority: 3 };
        let change = Change { put_priorities: vec![priority, unknown], ..Default::default() };
        state.apply(2, 1, change);
        let moved = Member { client_urls: vec!["http://x:1".into()], ..member };
        state.apply(3, 1, Change { put_members: vec![moved], ..Default::default() });
        assert_eq!(state.members()[&7].leader_priority, 3);
        assert_eq!(state.members()[&7].client_urls, ["http://x:1"]);
        let copy = State::restore(state.snapshot(eraftpb::ConfState::default()));
        assert_eq!(copy.members(), state.members());
    }

    #[test]
    fn a_removed_member_does_not_come_back_by_its_own_word() {
        let member = Member { member_id: 7, ..Default::default() };
        let mut state = State::founding([member.clone()], 1, 1);
        state.dismiss(7);
        state.apply(2, 1, Change { put_members: vec![member], ..Default::default() });
        assert!(state.members().is_empty());
    }
}
