//! A walk over raw pairs, either way, that skips what has expired.

use bytes::Bytes;
use proto::KeyRange;
use raftstore::engine::{ColumnFamily, Cursor, Snapshot};
use raftstore::error::Fault;

use super::layout::Layout;

/// A walk under way.
pub(super) struct RawScanner<C> {
    cursor: C,
    layout: Layout,
    now: u64,
    reverse: bool,
    on_key: bool,
}

/// What one step found.
pub(super) enum Step {
    /// A pair, as the user knows it.
    Pair(Bytes, Bytes),
    /// A pair that has expired.
    Nothing,
    /// No pair is left.
    End,
}

impl<C: Cursor> RawScanner<C> {
    /// A walk over a range given in the engine's form.
    pub(super) fn new<S: Snapshot<Cursor = C>>(
        snapshot: &S,
        cf: ColumnFamily,
        range: &KeyRange,
        layout: Layout,
        now: u64,
        reverse: bool,
    ) -> Result<Self, Fault> {
        let mut cursor = snapshot.cursor(cf, range);
        let on_key = if reverse { cursor.seek_to_last()? } else { cursor.seek_to_first()? };
        Ok(Self { cursor, layout, now, reverse, on_key })
    }

    /// Looks at the next pair.
    pub(super) fn step(&mut self) -> Result<Step, Fault> {
        if !self.on_key {
            return Ok(Step::End);
        }
        let key = self.layout.user_key(self.cursor.key())?;
        let stored = Bytes::copy_from_slice(self.cursor.value());
        let value = self.layout.value(stored, self.now)?;
        self.on_key = if self.reverse { self.cursor.prev()? } else { self.cursor.next()? };
        Ok(value.map_or(Step::Nothing, |value| Step::Pair(key, value.bytes)))
    }
}
