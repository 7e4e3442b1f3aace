//! Names, ids, states, and the region bounds they need.
//!
//! A keyspace is a slice of the keys of API V2: mode byte (`r` raw, `x` transactional), then its
//! id in three bytes. The one named DEFAULT has id 0 and is there from the beginning. A keyspace
//! is never forgotten, so its id is never given to another.
//!
//! ```text
//!   ENABLED ◄──► DISABLED ──► ARCHIVED ──► TOMBSTONE
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::keyspacepb::{KeyspaceMeta, KeyspaceState, keyspace_meta};
use proto::memcomparable;

use crate::cluster::Refusal;

/// The keyspace that is always there.
pub const DEFAULT_NAME: &str = "DEFAULT";

/// Its id.
pub const DEFAULT_ID: u32 = 0;

/// Ids are three bytes long on disk; when they are used up, no more keyspaces can be created.
pub const ID_MAX: u32 = (1 << 24) - 1;

/// Characters a name may have.
pub const NAME_LEN_MAX: usize = 20;

/// Bytes that the settings of one keyspace may have; more are refused.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// Keyspaces one listing returns at most; the next one begins after the last.
pub const LIST_MAX: usize = 10_000;

/// All keyspaces. Changes return the description to replicate, and take effect with
/// [`Keyspaces::put`] where the replicated state is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyspaces {
    by_id: BTreeMap<u32, KeyspaceMeta>,
    by_name: BTreeMap<String, u32>,
}

/// The description of DEFAULT, for when a cluster is bootstrapped.
pub fn default_keyspace(now_s: i64) -> KeyspaceMeta {
    describe(DEFAULT_ID, DEFAULT_NAME, BTreeMap::new(), now_s)
}

/// The id that a description names.
pub fn id_of(meta: &KeyspaceMeta) -> u32 {
    let Some(keyspace_meta::Keyspace::Id(id)) = meta.keyspace else { return DEFAULT_ID };
    id
}

/// Where regions have to end so that no region holds keys of this keyspace and of another: the
/// bounds of its raw and of its transactional keys, in the form in which regions name them.
pub fn bounds(id: u32) -> [Bytes; 4] {
    let bound = |mode: u8, id: u32| {
        // Past the last id, the bound is the next mode byte.
        let [overflow, a, b, c] = id.to_be_bytes();
        memcomparable::encode(&[mode + overflow, a, b, c])
    };
    [bound(b'r', id), bound(b'r', id + 1), bound(b'x', id), bound(b'x', id + 1)]
}

impl Keyspaces {
    /// The keyspaces that the replicated state holds.
    pub fn load(metas: impl IntoIterator<Item = KeyspaceMeta>) -> Self {
        let mut keyspaces = Self::default();
        for meta in metas {
            keyspaces.put(meta);
        }
        keyspaces
    }

    /// Takes in a replicated description.
    pub fn put(&mut self, meta: KeyspaceMeta) {
        let id = id_of(&meta);
        self.by_name.insert(meta.name.clone(), id);
        self.by_id.insert(id, meta);
    }

    /// The keyspace with this id.
    pub fn by_id(&self, id: u32) -> Result<&KeyspaceMeta, Refusal> {
        self.by_id
            .get(&id)
            .ok_or_else(|| Refusal::NotFound(format!("keyspace {id} does not exist")))
    }

    /// The keyspace of this name.
    pub fn by_name(&self, name: &str) -> Result<&KeyspaceMeta, Refusal> {
        self.by_name
            .get(name)
            .and_then(|id| self.by_id.get(id))
            .ok_or_else(|| Refusal::NotFound(format!("keyspace {name} does not exist")))
    }

    /// Up to `limit` keyspaces (0 is as many as possible) with ids from `start` on, by id.
    pub fn list(&self, start: u32, limit: u32) -> Vec<KeyspaceMeta> {
        let limit = match limit {
            0 => LIST_MAX,
            some => usize::try_from(some).map_or(LIST_MAX, |some| some.min(LIST_MAX)),
        };
        self.by_id.range(start..).take(limit).map(|(_, meta)| meta.clone()).collect()
    }

    /// The ids of those that are enabled, in order.
    pub fn enabled(&self) -> impl Iterator<Item = u32> {
        let is_enabled = |meta: &KeyspaceMeta| meta.state() == KeyspaceState::Enabled;
        self.by_id.iter().filter(move |(_, meta)| is_enabled(meta)).map(|(&id, _)| id)
    }

    /// Describes a new keyspace.
    pub fn create(
        &self,
        name: &str,
        config: BTreeMap<String, String>,
        now_s: i64,
    ) -> Result<KeyspaceMeta, Refusal> {
        let is_valid = (1..=NAME_LEN_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !is_valid {
            return Err(Refusal::InvalidValue(format!(
                "illegal keyspace name {name:?}: 1 to {NAME_LEN_MAX} letters, digits, - or _"
            )));
        }
        if self.by_name.contains_key(name) {
            return Err(Refusal::Duplicate(format!("keyspace {name} already exists")));
        }
        let id = self.by_id.last_key_value().map_or(DEFAULT_ID + 1, |(&last, _)| last + 1);
        if id > ID_MAX {
            return Err(Refusal::Forbidden("all keyspace ids are used up".into()));
        }
        Ok(describe(id, name, config, now_s))
    }

    /// Describes a keyspace with other settings: those that are named get a value or go, the others stay.
    /// With `expected` they must be so before, or not be there; otherwise nothing changes.
    pub fn set_config(
        &self,
        name: &str,
        edits: BTreeMap<String, Option<String>>,
        expected: &BTreeMap<String, Option<String>>,
    ) -> Result<KeyspaceMeta, Refusal> {
        let mut meta = self.by_name(name)?.clone();
        if !matches!(meta.state(), KeyspaceState::Enabled | KeyspaceState::Disabled) {
            return Err(Refusal::Forbidden(format!(
                "the settings of keyspace {name} cannot change: it is {}",
                meta.state().as_str_name()
            )));
        }
        let unlike = expected.iter().find(|(key, value)| meta.config.get(*key) != value.as_ref());
        if let Some((key, _)) = unlike {
            return Err(Refusal::Duplicate(format!(
                "the settings of keyspace {name} are not as expected: {key}"
            )));
        }
        for (key, value) in edits {
            match value {
                Some(value) => meta.config.insert(key, value),
                None => meta.config.remove(&key),
            };
        }
        let settings = meta.config.iter();
        let bytes: usize = settings.map(|(key, value)| key.len() + value.len()).sum();
        if bytes > CONFIG_BYTES_MAX {
            return Err(Refusal::InvalidValue(format!(
                "the settings of keyspace {name} would have {bytes} bytes, the limit is \
                 {CONFIG_BYTES_MAX}"
            )));
        }
        Ok(meta)
    }

    /// Describes a keyspace with another state.
    pub fn set_state(
        &self,
        id: u32,
        state: KeyspaceState,
        now_s: i64,
    ) -> Result<KeyspaceMeta, Refusal> {
        let meta = self.by_id(id)?;
        if id == DEFAULT_ID {
            return Err(Refusal::Forbidden("the default keyspace is always enabled".into()));
        }
        let present = meta.state();
        let is_allowed = match state {
            KeyspaceState::Enabled | KeyspaceState::Archived => {
                present == state || present == KeyspaceState::Disabled
            }
            KeyspaceState::Disabled => {
                matches!(present, KeyspaceState::Enabled | KeyspaceState::Disabled)
            }
            KeyspaceState::Tombstone => {
                matches!(present, KeyspaceState::Archived | KeyspaceState::Tombstone)
            }
        };
        if !is_allowed {
            return Err(Refusal::Forbidden(format!(
                "keyspace {} cannot go from {} to {}",
                meta.name,
                present.as_str_name(),
                state.as_str_name()
            )));
        }
        let state_changed_at = if present == state { meta.state_changed_at } else { now_s };
        Ok(KeyspaceMeta { state: state.into(), state_changed_at, ..meta.clone() })
    }
}

fn describe(id: u32, name: &str, config: BTreeMap<String, String>, now_s: i64) -> KeyspaceMeta {
    KeyspaceMeta {
        keyspace: Some(keyspace_meta::Keyspace::Id(id)),
        name: name.into(),
        state: KeyspaceState::Enabled.into(),
        created_at: now_s,
        state_changed_at: now_s,
        config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_default() -> Keyspaces {
        Keyspaces::load([default_keyspace(1)])
    }

    #[test]
    fn the_default_keyspace_is_found_by_id_and_name() {
        let keyspaces = with_default();
        assert_eq!(keyspaces.by_id(0), keyspaces.by_name("DEFAULT"));
        assert_eq!(keyspaces.by_id(0).unwrap().state(), KeyspaceState::Enabled);
        assert!(matches!(keyspaces.by_name("other"), Err(Refusal::NotFound(_))));
        assert!(keyspaces.set_state(0, KeyspaceState::Disabled, 2).is_err());
    }

    #[test]
    fn ids_are_given_in_order_and_names_once() {
        let mut keyspaces = with_default();
        let first = keyspaces.create("first", BTreeMap::new(), 5).unwrap();
        assert_eq!(id_of(&first), 1);
        keyspaces.put(first);
        assert!(matches!(
            keyspaces.create("first", BTreeMap::new(), 5),
            Err(Refusal::Duplicate(_))
        ));
        assert_eq!(id_of(&keyspaces.create("second", BTreeMap::new(), 5).unwrap()), 2);
        for bad in ["", "a b", "ä", "a-name-of-21-letters-"] {
            assert!(keyspaces.create(bad, BTreeMap::new(), 5).is_err(), "{bad:?}");
        }
        assert_eq!(keyspaces.list(0, 0).len(), 2);
        assert_eq!(keyspaces.list(0, 1)[0].name, "DEFAULT");
        assert_eq!(keyspaces.list(1, 9)[0].name, "first");
    }

    #[test]
    fn states_follow_their_diagram() {
        use KeyspaceState::{Archived, Disabled, Enabled, Tombstone};
        let mut keyspaces = with_default();
        keyspaces.put(keyspaces.create("a", BTreeMap::new(), 5).unwrap());
        let mut step = |state, is_allowed| {
            let changed = keyspaces.set_state(1, state, 9);
            assert_eq!(changed.is_ok(), is_allowed, "to {state:?}");
            if let Ok(meta) = changed {
                keyspaces.put(meta);
            }
        };
        step(Archived, false);
        step(Disabled, true);
        step(Enabled, true);
        step(Tombstone, false);
        step(Disabled, true);
        step(Archived, true);
        step(Enabled, false);
        step(Tombstone, true);
        step(Tombstone, true);
        step(Disabled, false);
    }

    #[test]
    fn the_bounds_of_a_keyspace_enclose_its_keys_and_no_others() {
        let [raw, raw_end, txn, txn_end] = bounds(DEFAULT_ID);
        assert_eq!(raw, memcomparable::encode(b"r\0\0\0"));
        assert_eq!(raw_end, memcomparable::encode(b"r\0\0\x01"));
        assert_eq!(txn, memcomparable::encode(b"x\0\0\0"));
        assert_eq!(txn_end, memcomparable::encode(b"x\0\0\x01"));
        let key = memcomparable::encode(b"x\0\0\0anything");
        assert!(txn <= key && key < txn_end);
        assert_eq!(bounds(ID_MAX)[1], memcomparable::encode(b"s\0\0\0"));
        assert!(bounds(ID_MAX)[3] > bounds(ID_MAX)[2]);
    }
}
