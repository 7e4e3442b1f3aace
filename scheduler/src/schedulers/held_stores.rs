//! The stores that a scheduler holds: its arguments, as tools write and read them.
//!
//! A tool names one store (`store_id`) and may change how many plans a turn makes (`batch`). What is
//! kept and shown has PD's form, with the range of all keys for each store. Ranges are read over: a
//! store is held with all its regions.

use std::collections::{BTreeMap, BTreeSet};

use proto::StoreId;
use serde_json::{Value, json};

use crate::placement::View;
use crate::scheduling::LetGo;

/// Plans for one store in one turn, unless somebody says otherwise.
const BATCH: usize = 3;
/// More plans than this for one store in one turn are refused, as in PD.
const BATCH_MAX: usize = 10;

/// Which stores, and how many plans for each in one turn.
#[derive(Clone, Debug)]
pub(crate) struct HeldStores {
    stores: BTreeSet<StoreId>,
    batch: usize,
}

impl HeldStores {
    /// What the arguments say; at least one store.
    pub(crate) fn read(arguments: &Value) -> Result<Self, String> {
        let mut held = Self { stores: BTreeSet::new(), batch: BATCH };
        held.change(arguments)?;
        if held.stores.is_empty() {
            return Err("missing store id".into());
        }
        Ok(held)
    }

    /// New arguments: one store more, or another number of plans. An error changes nothing.
    pub(crate) fn configure(&mut self, arguments: &Value, view: View<'_>) -> Result<(), String> {
        let mut changed = self.clone();
        changed.change(arguments)?;
        changed.check(&self.stores, view)?;
        *self = changed;
        Ok(())
    }

    /// All of them may be held.
    pub(crate) fn prepare(&self, view: View<'_>) -> Result<(), String> {
        self.check(&BTreeSet::new(), view)
    }

    /// After an error some of it may have been changed.
    fn change(&mut self, arguments: &Value) -> Result<(), String> {
        if let Some(id) = arguments.get("store_id") {
            self.stores.insert(store(id).ok_or("invalid store id")?);
        }
        if let Some(Value::Object(ranges)) = arguments.get("store-id-ranges") {
            for id in ranges.keys() {
                self.stores.insert(id.parse().map(StoreId).map_err(|_| "invalid store id")?);
            }
        }
        if let Some(batch) = arguments.get("batch") {
            let number = batch.as_u64().and_then(|number| usize::try_from(number).ok());
            self.batch = number
                .filter(|number| (1..=BATCH_MAX).contains(number))
                .ok_or_else(|| format!("batch must lie between 1 and {BATCH_MAX}"))?;
        }
        Ok(())
    }

    /// Those that are not among these others may be held: they exist and nobody else holds them.
    fn check(&self, others: &BTreeSet<StoreId>, view: View<'_>) -> Result<(), String> {
        for &id in self.stores.difference(others) {
            let store = view.stores.find(id).filter(|store| !store.is_tombstone());
            store.ok_or_else(|| format!("there is no store {}", id.0))?;
            if view.bars.hold(id) {
                return Err(format!("store {} is held by another scheduler", id.0));
            }
        }
        Ok(())
    }

    pub(crate) fn let_go(&mut self, store: StoreId) -> LetGo {
        if !self.stores.remove(&store) {
            return LetGo::NotHeld;
        }
        if self.stores.is_empty() { LetGo::WasLast } else { LetGo::HoldsOthers }
    }

    pub(crate) fn stores(&self) -> &BTreeSet<StoreId> {
        &self.stores
    }

    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    pub(crate) fn to_json(&self) -> Value {
        let everything = json!([{ "start-key": "", "end-key": "" }]);
        let ranges: BTreeMap<String, Value> =
            self.stores.iter().map(|store| (store.0.to_string(), everything.clone())).collect();
        json!({ "store-id-ranges": ranges, "batch": self.batch })
    }
}

/// A store's id; some tools write `5.0`, and some a text.
pub(crate) fn store(value: &Value) -> Option<StoreId> {
    let fraction = || value.as_f64().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    let text = || value.as_str().and_then(|text| text.parse().ok());
    value.as_u64().or_else(|| fraction().map(|number| number as u64)).or_else(text).map(StoreId)
}
