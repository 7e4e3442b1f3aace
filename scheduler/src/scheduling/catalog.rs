//! How schedulers are made, by their types.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Scheduler;

/// Makes a scheduler from its arguments; an error names what cannot be meant.
pub type Make = fn(&Value) -> Result<Box<dyn Scheduler>, String>;

/// The types that can be made.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    makers: BTreeMap<String, Make>,
}

impl Catalog {
    /// Every type that this crate has.
    pub fn standard() -> Self {
        let mut catalog = Self::default();
        for &(type_name, make) in crate::schedulers::ALL {
            catalog.register(type_name, make);
        }
        catalog
    }

    /// One more type; one of the same name is replaced.
    pub fn register(&mut self, type_name: &str, make: Make) {
        self.makers.insert(type_name.to_owned(), make);
    }

    /// Makes one.
    pub fn make(&self, type_name: &str, arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        let make = self.makers.get(type_name).ok_or_else(|| {
            let known: Vec<_> = self.makers.keys().map(|name| name_of(name)).collect();
            format!("there is no scheduler {}; there are {}", name_of(type_name), known.join(", "))
        })?;
        make(arguments)
    }
}

/// Tools name schedulers so.
const SUFFIX: &str = "-scheduler";

/// A scheduler's name, from its type. Only one type has another.
pub(super) fn name_of(type_name: &str) -> String {
    match type_name {
        "hot-region" => "balance-hot-region-scheduler".into(),
        other => format!("{other}{SUFFIX}"),
    }
}

/// The type of the scheduler that tools call so.
pub(super) fn type_of(name: &str) -> &str {
    match name.strip_suffix(SUFFIX).unwrap_or(name) {
        "balance-hot-region" => "hot-region",
        other => other,
    }
}
