//! Watching values: global configuration and the meta storage.
//!
//! A watch is a stream of the changes of some keys, from a revision on, that one included; revision 0 is what
//! comes from now on. It lasts as long as this member leads; then the watcher goes to the next leader and
//! asks for what follows the last revision it was told. One that asks for what is forgotten, or that
//! reads so slowly that it comes to that, is told so and the stream ends: it reads everything anew.

use std::ops::{Bound, RangeBounds as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::schedulerpb::KeyValue;
use proto::{meta_storagepb, pdpb};
use tokio_stream::Stream;
use tonic::Status;

use super::Service;
use super::metadata::{meta_wire, range};
use super::settings::path_of;
use crate::member::history::{Forgotten, ValueChange};
use crate::server::node::not_leader;
use crate::server::serving::Serving;

/// Bytes of changes in one answer; more follow in the next one. Changes of one revision stay
/// together: they are one write.
const ANSWER_BYTES: usize = 1 << 20;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Which keys are watched.
#[derive(Clone, Debug)]
enum Keys {
    Below(String),
    Range((Bound<Bytes>, Bound<Bytes>)),
}

impl Keys {
    fn contain(&self, key: &Bytes) -> bool {
        match self {
            Self::Below(prefix) => key.starts_with(prefix.as_bytes()),
            Self::Range(range) => range.contains(key),
        }
    }
}

/// What a watcher is told.
enum Seen {
    /// These have changed; the last revision among them.
    Changes(Vec<ValueChange>, u64),
    /// What it waits for, and from where on all is known.
    Forgotten { wanted: u64, first: u64 },
}

struct Watch {
    service: Service,
    serving: Arc<Serving>,
    keys: Keys,
    /// The first revision whose changes have not been told.
    next: AtomicU64,
}

impl Watch {
    /// What there is to tell, if there is anything. Otherwise the watch goes on behind what it has
    /// looked at, so that changes of other keys do not leave it behind.
    fn look(&self) -> Option<Seen> {
        let state = self.service.node.state.read();
        let next = self.next.load(Ordering::Relaxed);
        let changes = match state.history().since(next) {
            Ok(changes) => changes,
            Err(Forgotten { first }) => return Some(Seen::Forgotten { wanted: next, first }),
        };
        let (mut seen, mut bytes): (Vec<ValueChange>, usize) = (Vec::new(), 0);
        for change in changes.filter(|change| self.keys.contain(&change.key)) {
            let is_another = seen.last().is_some_and(|last| last.revision != change.revision);
            if is_another && bytes >= ANSWER_BYTES {
                break;
            }
            bytes += change.bytes();
            seen.push(change.clone());
        }
        let last = seen.last().map(|change| change.revision);
        let looked_at = last.unwrap_or(state.index());
        self.next.fetch_max(looked_at + 1, Ordering::Relaxed);
        last.map(|last| Seen::Changes(seen, last))
    }
}

/// Where a stream is.
enum Stage {
    Watching(Watch),
    LeftBehind,
    Over,
}

fn left_behind() -> Status {
    // The words of etcd's clients.
    Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
}

fn forgotten(wanted: u64, first: u64) -> String {
    format!(
        "required watch revision: {wanted} is smaller than current compact/min revision {first}."
    )
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

impl Service {
    fn watch<T: Send + 'static>(
        &self,
        keys: Keys,
        start_revision: i64,
        tell: impl Fn(&Self, Seen) -> T + Clone + Send + 'static,
    ) -> Result<Answers<T>, Status> {
        let serving = self.node.serving().ok_or_else(not_leader)?;
        let next = match u64::try_from(start_revision) {
            Ok(start @ 1..) => start,
            Ok(0) | Err(_) => self.node.state.read().index() + 1,
        };
        let next = AtomicU64::new(next);
        let watch = Watch { service: self.clone(), serving, keys, next };
        let stream = futures_util::stream::unfold(Stage::Watching(watch), move |stage| {
            let tell = tell.clone();
            async move {
                let watch = match stage {
                    Stage::Watching(watch) => watch,
                    Stage::LeftBehind => return Some((Err(left_behind()), Stage::Over)),
                    Stage::Over => return None,
                };
                let Some(seen) = watch.serving.next_state(|_| watch.look()).await else {
                    return Some((Err(not_leader()), Stage::Over));
                };
                let goes_on = matches!(seen, Seen::Changes(..));
                let told = tell(&watch.service, seen);
                let stage = if goes_on { Stage::Watching(watch) } else { Stage::LeftBehind };
                Some((Ok(told), stage))
            }
        });
        Ok(Box::pin(stream))
    }

    /// What changes below a path of global configuration. A deleted item carries what it was.
    pub(super) fn watch_global_config(
        &self,
        request: &pdpb::WatchGlobalConfigRequest,
    ) -> Result<Answers<pdpb::WatchGlobalConfigResponse>, Status> {
        let keys = Keys::Below(format!("{}/", path_of(&request.config_path)));
        self.watch(keys, request.revision, |service, seen| {
            let mut header =
                pdpb::ResponseHeader { cluster_id: service.node.cluster_id(), error: None };
            let (changes, revision) = match seen {
                Seen::Changes(changes, revision) => {
                    (changes.into_iter().map(item).collect(), revision)
                }
                Seen::Forgotten { wanted, first } => {
                    header.error = Some(pdpb::Error {
                        r#type: pdpb::ErrorType::DataCompacted.into(),
                        message: forgotten(wanted, first),
                    });
                    (Vec::new(), first)
                }
            };
            let revision = number(revision);
            pdpb::WatchGlobalConfigResponse { changes, revision, header: Some(header) }
        })
    }

    /// What changes in a range of the meta storage.
    pub(super) fn watch_meta_storage(
        &self,
        request: meta_storagepb::WatchRequest,
    ) -> Result<Answers<meta_storagepb::WatchResponse>, Status> {
        let with_before = request.prev_kv;
        let keys = Keys::Range(range(request.key, request.range_end));
        self.watch(keys, request.start_revision, move |service, seen| {
            let cluster_id = service.node.cluster_id();
            let mut header = meta_storagepb::ResponseHeader { cluster_id, ..Default::default() };
            match seen {
                Seen::Changes(changes, revision) => {
                    header.revision = number(revision);
                    let events = changes.into_iter().map(|change| event(change, with_before));
                    meta_storagepb::WatchResponse {
                        header: Some(header),
                        compact_revision: 0,
                        events: events.collect(),
                    }
                }
                Seen::Forgotten { wanted, first } => {
                    header.revision = number(service.node.state.read().index());
                    header.error = Some(meta_storagepb::Error {
                        r#type: meta_storagepb::ErrorType::DataCompacted.into(),
                        message: forgotten(wanted, first),
                    });
                    meta_storagepb::WatchResponse {
                        header: Some(header),
                        compact_revision: number(first),
                        events: Vec::new(),
                    }
                }
            }
        })
    }
}

fn item(change: ValueChange) -> pdpb::GlobalConfigItem {
    let kind = match change.after {
        Some(_) => pdpb::EventType::Put,
        None => pdpb::EventType::Delete,
    };
    pdpb::GlobalConfigItem {
        name: String::from_utf8_lossy(&change.key).into_owned(),
        payload: change.after.or(change.before).unwrap_or_default().value,
        kind: kind.into(),
        ..Default::default()
    }
}

fn event(change: ValueChange, with_before: bool) -> meta_storagepb::Event {
    use meta_storagepb::event::EventType;
    let ValueChange { revision, key, after, before } = change;
    let kind = if after.is_some() { EventType::Put } else { EventType::Delete };
    // Of what was deleted only the key and the revision are told.
    let gone = || KeyValue { key, changed_at: revision, ..KeyValue::default() };
    meta_storagepb::Event {
        r#type: kind.into(),
        kv: Some(meta_wire(after.unwrap_or_else(gone))),
        prev_kv: before.filter(|_| with_before).map(meta_wire),
    }
}
