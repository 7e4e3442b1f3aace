//! Everything there is about a key, or about one transaction's key: for a person who looks for what went
//! wrong. Nothing is decided by it.

use proto::kvrpcpb::{
    KeyError, MvccGetByKeyRequest, MvccGetByKeyResponse, MvccGetByStartTsRequest,
    MvccGetByStartTsResponse, MvccInfo, MvccLock, MvccValue, MvccWrite,
};
use proto::{KeyRange, errorpb, kvrpcpb};
use raftstore::engine::{ColumnFamily, Cursor as _, Snapshot};
use raftstore::error::Fault;

use super::execution::Execution;
use super::problem::Stop;
use super::reader::{Reader, decoded};
use super::reads::{leader_only, rest};
use super::record::Write;
use super::transactions::{Transactions, check_in_region};
use crate::keys::{self, Key};
use crate::storage::Storage;

/// Versions of a key shown to a person; older ones are left out.
const VERSIONS_SHOWN_MAX: usize = 1024;

impl<St: Storage> Transactions<St> {
    /// `MvccGetByKey`: everything there is about a key.
    pub async fn mvcc_get_by_key(&self, mut request: MvccGetByKeyRequest) -> MvccGetByKeyResponse {
        let context = request.context.take().unwrap_or_default();
        let key = Key::new(request.key);
        let answer = async {
            let look = self.reservations().look(context.region_id, &only(&key), |_| true);
            let view = self.view(&context, &mut Execution::begin(&context)).await?;
            check_in_region(&context, &view.range, std::slice::from_ref(&key))?;
            Ok(mvcc_info(&mut self.reader(&context, look, view), &key)?)
        };
        match answer.await {
            Ok(info) => MvccGetByKeyResponse { info: Some(info), ..Default::default() },
            Err(stop) => {
                let (region_error, error) = in_words(stop);
                MvccGetByKeyResponse { region_error, error, info: None }
            }
        }
    }

    /// `MvccGetByStartTs`: the first key of the region that a transaction has locked or written, and
    /// everything about that key; an empty key and an empty story when there is none. Reads the whole region at worst.
    pub async fn mvcc_get_by_start_ts(
        &self,
        mut request: MvccGetByStartTsRequest,
    ) -> MvccGetByStartTsResponse {
        let context = request.context.take().unwrap_or_default();
        match self.find_by_start_ts(&context, request.start_ts).await {
            Ok(Some((key, info))) => MvccGetByStartTsResponse {
                key: key.user().clone(),
                info: Some(info),
                ..Default::default()
            },
            Ok(None) => {
                MvccGetByStartTsResponse { info: Some(MvccInfo::default()), ..Default::default() }
            }
            Err(stop) => {
                let (region_error, error) = in_words(stop);
                MvccGetByStartTsResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn find_by_start_ts(
        &self,
        context: &kvrpcpb::Context,
        start_ts: u64,
    ) -> Result<Option<(Key, MvccInfo)>, Stop> {
        let mut execution = Execution::begin(context);
        let all = KeyRange::all();
        let look = self.reservations().look(context.region_id, &all, |_| true);
        let view = self.view(&leader_only(context), &mut execution).await?;
        let mut reader = self.reader(context, look, view.clone());
        let (locks, _) = reader.locks(&all, 1, |lock| lock.start_ts == start_ts)?;
        let mut found = locks.into_iter().next().map(|(key, _)| key);
        if found.is_none() {
            let mut writes = view.snapshot.cursor(ColumnFamily::Write, &view.range);
            let mut on_key = writes.seek_to_first()?;
            for number in 0.. {
                if !on_key {
                    break;
                }
                if Write::decode(writes.value(), proto::key::Readable(writes.key()))?.start_ts
                    == start_ts
                {
                    let (encoded, _) =
                        keys::split_version(writes.key()).unwrap_or((writes.key(), 0));
                    found = Some(decoded(encoded)?);
                    break;
                }
                rest(number, execution.deadline).await?;
                on_key = writes.next()?;
            }
        }
        let Some(key) = found else { return Ok(None) };
        let info = mvcc_info(&mut reader, &key)?;
        Ok(Some((key, info)))
    }
}

/// Where the key's lock is, in the engine's form.
fn only(key: &Key) -> KeyRange {
    KeyRange { start: key.encoded().clone(), end: Some(keys::after_versions(key.encoded())) }
}

/// The two places of an answer whose key errors are words only.
fn in_words(stop: Stop) -> (Option<errorpb::Error>, String) {
    let (region_error, error) = stop.into_answer();
    (region_error, error.map_or_else(String::new, |error: KeyError| error.abort))
}

fn mvcc_info<S: Snapshot>(reader: &mut Reader<S>, key: &Key) -> Result<MvccInfo, Fault> {
    let lock = reader.lock(key)?.map(|lock| MvccLock {
        r#type: lock.kind.to_wire() as i32,
        start_ts: lock.start_ts,
        primary: lock.primary,
        short_value: lock.short_value.unwrap_or_default(),
        ttl: lock.ttl,
        for_update_ts: lock.for_update_ts,
        txn_size: lock.txn_size,
        use_async_commit: lock.async_commit,
        secondaries: lock.secondaries,
        rollback_ts: lock.rollback_ts,
        ..Default::default()
    });
    let writes = reader
        .writes(key, VERSIONS_SHOWN_MAX)?
        .into_iter()
        .map(|(commit_ts, write)| MvccWrite {
            r#type: write.kind.to_wire() as i32,
            start_ts: write.start_ts,
            commit_ts,
            short_value: write.short_value.unwrap_or_default(),
            has_overlapped_rollback: write.overlapped_rollback,
            has_gc_fence: write.gc_fence.is_some(),
            gc_fence: write.gc_fence.unwrap_or(0),
            ..Default::default()
        })
        .collect();
    let values = reader
        .long_values(key, VERSIONS_SHOWN_MAX)?
        .into_iter()
        .map(|(start_ts, value)| MvccValue { start_ts, value })
        .collect();
    Ok(MvccInfo { lock, writes, values })
}
