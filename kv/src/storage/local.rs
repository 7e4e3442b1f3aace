//! Storage over one engine, without replication: for tests of commands.

use proto::{KeyRange, Refusal, kvrpcpb};
use raftstore::engine::{Change, DataEngine, WriteBatch};

use super::{Storage, View, outside};

/// One region on one engine, led for ever. The context is not looked at.
#[derive(Clone, Debug)]
pub struct LocalStorage<D> {
    engine: D,
    range: KeyRange,
}

impl<D: DataEngine> LocalStorage<D> {
    /// Every key, kept in this engine.
    pub fn new(engine: D) -> Self {
        Self::with_range(engine, KeyRange::all())
    }

    /// The keys of a range (in the engine's form), kept in this engine.
    pub fn with_range(engine: D, range: KeyRange) -> Self {
        Self { engine, range }
    }

    /// Where the keys are kept.
    pub fn engine(&self) -> &D {
        &self.engine
    }
}

impl<D: DataEngine> Storage for LocalStorage<D> {
    type Snapshot = D::Snapshot;

    async fn view(&self, _context: &kvrpcpb::Context) -> Result<View<Self::Snapshot>, Refusal> {
        Ok(View { snapshot: self.engine.snapshot(), range: self.range.clone(), term: 1 })
    }

    async fn write(&self, context: &kvrpcpb::Context, batch: WriteBatch) -> Result<(), Refusal> {
        for change in batch.changes() {
            let (key, is_inside) = match change {
                Change::Put { key, .. } | Change::Delete { key, .. } => {
                    (key, self.range.contains(key))
                }
                Change::DeleteRange { range, .. } => (&range.start, self.range.covers(range)),
            };
            if !is_inside {
                return Err(outside(context, &self.range, key.clone()));
            }
        }
        self.engine.write(batch).map_err(|fault| Refusal::Other { message: fault.to_string() })
    }
}
