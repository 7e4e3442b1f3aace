//! What the threads and tasks of one member share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use proto::eraftpb;
use proto::schedulerpb::{self, Change, RaftBatch};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use super::clock::Clock;
use super::serving::Serving;
use crate::cluster::Policy;
use crate::member::machine::State;
use crate::member::{Membership, Outcome, View};

/// Messages waiting for the member's thread; raft messages beyond it are dropped, and proposals
/// are refused before anything is decided.
const INBOX_MESSAGES_MAX: usize = 16_384;
/// How long a caller waits for a proposal to be applied. Official clients give up after three
/// seconds.
pub(crate) const PROPOSAL_WAIT: Duration = Duration::from_secs(3);

/// What a member that was removed from its cluster is told, and says when it stops for it.
pub(crate) const REMOVED: &str = "this member was removed from its cluster: to come back, it joins again with an empty data directory";

/// Something for the member's thread.
#[derive(Debug)]
pub(crate) enum Said {
    /// Another member speaks. Lost: raft says it again.
    Raft(Vec<eraftpb::Message>),
    /// Somebody wants the state changed, in this term. Answered once.
    Propose { term: u64, change: Box<Change>, done: oneshot::Sender<Outcome> },
    /// Somebody wants the membership changed. Answered once.
    Membership { change: Membership, done: oneshot::Sender<Outcome> },
    /// A member does not answer. Lost: raft finds out by itself, later.
    Unreachable { member: u64 },
    /// Lead no more: this member, or the most fitting one when 0, shall.
    HandOver { to: u64 },
    /// The others have removed this member: it ends.
    Removed,
    /// The process wants to end. A leader that hands over first spares the others a timeout.
    Stop { hand_over: bool },
}

/// Shared by all. The member's thread writes, everybody reads.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) member_id: u64,
    pub(crate) group_id: u64,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) data_dir: String,
    pub(crate) clock: Clock,
    pub(crate) started_at_ms: u64,
    /// What a new cluster begins with.
    pub(crate) first_policy: Policy,
    /// The raft timing, for those who show it.
    pub(crate) lease: Duration,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) state: RwLock<State>,
    view: ArcSwap<View>,
    serving: ArcSwapOption<Serving>,
    /// Moves whenever `view` or `serving` do.
    moved: watch::Sender<u64>,
    inbox: crossbeam_channel::Sender<Said>,
    stopping: AtomicBool,
    fault: Mutex<Option<String>>,
    /// Where members said they are, later than what the log or the flags say.
    heard_urls: Mutex<BTreeMap<u64, schedulerpb::Member>>,
    /// Peer URLs by name, from the flags: addresses may have changed since they were logged.
    flag_urls: BTreeMap<String, String>,
}

/// What a node is made of, before its threads run.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) member_id: u64,
    pub(crate) group_id: u64,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) data_dir: String,
    pub(crate) clock: Clock,
    pub(crate) first_policy: Policy,
    pub(crate) lease: Duration,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) state: State,
    pub(crate) inbox: crossbeam_channel::Sender<Said>,
    pub(crate) flag_urls: BTreeMap<String, String>,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let started_at_ms = parts.clock.moment().wall_ms;
        Self {
            name: parts.name,
            member_id: parts.member_id,
            group_id: parts.group_id,
            peer_urls: parts.peer_urls,
            client_urls: parts.client_urls,
            data_dir: parts.data_dir,
            clock: parts.clock,
            started_at_ms,
            first_policy: parts.first_policy,
            lease: parts.lease,
            runtime: parts.runtime,
            state: RwLock::new(parts.state),
            view: ArcSwap::default(),
            serving: ArcSwapOption::default(),
            moved: watch::Sender::new(0),
            inbox: parts.inbox,
            stopping: AtomicBool::new(false),
            fault: Mutex::new(None),
            heard_urls: Mutex::new(BTreeMap::new()),
            flag_urls: parts.flag_urls,
        }
    }

    /// Who leads, as this member sees it.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub(crate) fn publish_view(&self, view: View) {
        if **self.view.load() != view {
            self.view.store(Arc::new(view));
            self.moved.send_modify(|version| *version += 1);
        }
    }

    /// The leader's affairs, if this member leads and has everything it needs to serve. Whether
    /// its lease holds is asked of it.
    pub(crate) fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    pub(crate) fn publish_serving(&self, serving: Option<Arc<Serving>>) {
        self.serving.store(serving);
        self.moved.send_modify(|version| *version += 1);
    }

    /// Wakes whenever view or serving change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Gives the member's thread something to do. `false`: it has too much, or is gone.
    pub(crate) fn tell(&self, said: Said) -> bool {
        let may_be_lost = matches!(said, Said::Raft(_) | Said::Unreachable { .. });
        if may_be_lost && !self.has_room() {
            return false;
        }
        self.inbox.send(said).is_ok()
    }

    /// Whether a proposal would find room in the inbox. Asked before anything is decided, because
    /// what the leader has decided must reach its log.
    pub(crate) fn has_room(&self) -> bool {
        self.inbox.len() < INBOX_MESSAGES_MAX
    }

    /// Proposes; the order of calls is the order in the log. Nobody needs to wait.
    pub(crate) fn submit(&self, term: u64, change: Change) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.tell(Said::Propose { term, change: Box::new(change), done });
        outcome
    }

    /// Waits until a proposal is applied.
    pub(crate) async fn applied(&self, outcome: oneshot::Receiver<Outcome>) -> Result<u64, Status> {
        let outcome = tokio::time::timeout(PROPOSAL_WAIT, outcome).await;
        match outcome {
            Ok(Ok(Outcome::Applied { index })) => Ok(index),
            Ok(Ok(Outcome::NotLeader | Outcome::Overwritten) | Err(_)) => Err(not_leader()),
            Ok(Ok(Outcome::Dropped)) => Err(Status::unavailable("the log is busy, try again")),
            Ok(Ok(Outcome::Unknown)) | Err(_) => Err(Status::deadline_exceeded(
                "no quorum of scheduler members answered in time; the change may still happen",
            )),
        }
    }

    /// Where another member may be reached, the likeliest address first.
    pub(crate) fn peer_urls(&self, member: u64) -> Vec<String> {
        let mut urls: Vec<String> = Vec::new();
        if let Some(heard) = self.heard_urls.lock().get(&member) {
            urls.extend(heard.peer_urls.iter().cloned());
        }
        if let Some(known) = self.state.read().members().get(&member) {
            urls.extend(self.flag_urls.get(&known.name).cloned());
            urls.extend(known.peer_urls.iter().cloned());
        }
        let mut seen = std::collections::BTreeSet::new();
        urls.retain(|url| seen.insert(url.clone()));
        urls
    }

    /// A member said who and where it is.
    pub(crate) fn heard(&self, member: schedulerpb::Member) {
        self.heard_urls.lock().insert(member.member_id, member);
    }

    /// Members that are elsewhere now than the log says, this one included: the leader's to log.
    pub(crate) fn moved_members(&self) -> Vec<schedulerpb::Member> {
        let state = self.state.read();
        let heard = self.heard_urls.lock();
        let myself = self.myself();
        heard
            .values()
            .chain([&myself])
            .filter(|member| {
                state.members().get(&member.member_id).is_some_and(|known| {
                    known.peer_urls != member.peer_urls || known.client_urls != member.client_urls
                })
            })
            .cloned()
            .collect()
    }

    /// Whether the log says of this member what it says of itself.
    pub(crate) fn is_listed(&self) -> bool {
        let state = self.state.read();
        state.members().get(&self.member_id).is_some_and(|known| {
            known.client_urls == self.client_urls && known.peer_urls == self.peer_urls
        })
    }

    /// This member, as it describes itself to others.
    pub(crate) fn myself(&self) -> schedulerpb::Member {
        schedulerpb::Member {
            member_id: self.member_id,
            name: self.name.clone(),
            peer_urls: self.peer_urls.clone(),
            client_urls: self.client_urls.clone(),
            ..schedulerpb::Member::default()
        }
    }

    /// A batch for another member; the first one of a stream says who speaks.
    pub(crate) fn batch(&self, messages: Vec<eraftpb::Message>, is_first: bool) -> RaftBatch {
        RaftBatch {
            group_id: self.group_id,
            cluster_id: self.cluster_id(),
            from: is_first.then(|| self.myself()),
            messages,
        }
    }

    /// The cluster's id; 0 until the first leader has chosen it.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.state.read().cluster_id()
    }

    /// All members, by id.
    pub(crate) fn members(&self) -> Vec<schedulerpb::Member> {
        self.state.read().members().values().cloned().collect()
    }

    /// The member that leads, if this one knows. A leader that cannot serve yet is none.
    pub(crate) fn leader(&self) -> Option<schedulerpb::Member> {
        let view = self.view();
        if view.leader_id == self.member_id && self.serving().is_none() {
            return None;
        }
        self.state.read().members().get(&view.leader_id).cloned()
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.moved.send_modify(|version| *version += 1);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The member cannot go on, and why.
    pub(crate) fn fail(&self, fault: String) {
        tracing::error!(name = %self.name, fault, "the scheduler member stops");
        *self.fault.lock() = Some(fault);
        self.publish_serving(None);
        self.stop();
    }

    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }
}

/// What every member but the leader says. Official clients look for exactly these words.
pub(crate) fn not_leader() -> Status {
    Status::unavailable("not leader")
}
