//! The affairs of a leader that serves: one value for one leadership.
//!
//! Whoever answers a client does it in this order: lock, decide, propose what must be remembered
//! (still locked, so that the log has the order of the decisions), unlock, wait until it is
//! applied, look at the lease, answer. A leader that lost its leadership in between does not
//! answer; what it decided is in nobody's memory but its own, which goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use proto::schedulerpb::Change;
use proto::{StoreId, Timestamp, pdpb};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::node::{Node, PROPOSAL_WAIT, not_leader};
use super::outbox::{Order, Outbox};
use crate::cluster::{Cluster, Moment, Refusal, Ticked, Writes};
use crate::collection::Collection;
use crate::gc::GcState;
use crate::keyspaces::Keyspaces;
use crate::member::Outcome;
use crate::member::machine::State;
use crate::member::reign::{NotYet, Reign};
use crate::rules::{RuleSet, Rules};
use crate::scheduling::Roster;
use crate::timestamps::Refused;

/// Orders waiting for one store; more are dropped and given again with its next heartbeat.
pub(crate) const ORDERS_MAX: usize = 1_024;
/// How long to wait before timestamps that ran ahead of the clock are asked for again.
const AHEAD_OF_CLOCK_WAIT: Duration = Duration::from_millis(2);

/// What a leader decides with. Everything in here is younger than the leadership.
#[derive(Debug)]
pub(crate) struct Affairs {
    pub(crate) reign: Reign,
    /// `None` until the cluster is bootstrapped.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) gc: GcState,
    pub(crate) collection: Collection,
}

impl Affairs {
    /// The cluster, or the refusal that a cluster without stores gives to everything.
    pub(crate) fn cluster(&mut self) -> Result<&mut Cluster, Refusal> {
        self.cluster.as_mut().ok_or(Refusal::NotBootstrapped)
    }

    /// The cluster, and the ids its plans are made with.
    pub(crate) fn cluster_and_ids(
        &mut self,
    ) -> Result<(&mut Cluster, &mut crate::ids::Ids), Refusal> {
        let cluster = self.cluster.as_mut().ok_or(Refusal::NotBootstrapped)?;
        Ok((cluster, self.reign.ids_mut()))
    }
}

/// The leader's affairs and who waits for them.
#[derive(Debug)]
pub(crate) struct Serving {
    term: u64,
    affairs: Mutex<Affairs>,
    /// Steady microseconds; 0 when the leadership has ended.
    lease_until_us: AtomicU64,
    ended: AtomicBool,
    /// Moves when a bound is saved, the lease is renewed, or the leadership ends.
    moved: watch::Sender<u64>,
    /// Orders that rest on what is on its way into the log.
    outbox: Mutex<Outbox>,
    /// Where each store listens for orders.
    orders: Mutex<BTreeMap<StoreId, OrderStream>>,
}

/// The sending end of a store's heartbeat stream.
pub(crate) type OrderStream = mpsc::Sender<Result<pdpb::RegionHeartbeatResponse, Status>>;

impl Serving {
    /// Begins a leadership with everything the log holds.
    pub(crate) fn begin(node: &Node, state: &State, term: u64, moment: Moment) -> Self {
        let affairs = Affairs {
            reign: Reign::begin(term, state, moment),
            cluster: load_cluster(node, state, moment),
            keyspaces: Keyspaces::load(state.keyspaces().values().cloned()),
            gc: load_gc(state),
            collection: Collection::default(),
        };
        Self {
            term,
            affairs: Mutex::new(affairs),
            lease_until_us: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            moved: watch::Sender::new(0),
            outbox: Mutex::default(),
            orders: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Affairs> {
        self.affairs.lock()
    }

    /// The lease, as the member's thread learns of it.
    pub(crate) fn extend_lease(&self, until_us: u64) {
        if !self.ended.load(Ordering::Acquire) {
            self.lease_until_us.store(until_us, Ordering::Release);
            self.wake();
        }
    }

    /// The leadership is over: nothing is answered any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.lease_until_us.store(0, Ordering::Release);
        self.outbox.lock().clear();
        self.orders.lock().clear();
        self.wake();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wakes whoever waits for a bound or the lease.
    pub(crate) fn wake(&self) {
        self.moved.send_modify(|version| *version += 1);
    }

    /// Whether an answer decided before this call may leave.
    pub(crate) fn holds_lease(&self, node: &Node) -> bool {
        node.clock.steady_us() < self.lease_until_us.load(Ordering::Acquire)
    }

    /// Waits until the lease holds: it may have run out in a pause and be renewed at once. What
    /// was granted before is good then, because nobody else led in between.
    pub(crate) async fn await_lease(&self, node: &Node) -> Result<(), Status> {
        if self.holds_lease(node) {
            return Ok(());
        }
        self.await_until(|| self.holds_lease(node)).await
    }

    /// Waits for something to look at that [`Self::wake`] announces; `None` when the leadership
    /// has ended. Only for streams that last as long as it.
    pub(crate) async fn next_state<T>(&self, look: impl Fn(&Affairs) -> Option<T>) -> Option<T> {
        let mut moved = self.moved.subscribe();
        loop {
            moved.borrow_and_update();
            if self.has_ended() {
                return None;
            }
            let seen = look(&self.lock());
            if seen.is_some() {
                return seen;
            }
            moved.changed().await.ok()?;
        }
    }

    /// Waits for the end of the leadership.
    pub(crate) async fn ended(&self) {
        self.next_state(|_| None::<()>).await;
    }

    /// Waits for a condition that [`Self::wake`] announces, for as long as the leadership lasts
    /// and no longer than a proposal may take.
    pub(crate) async fn await_until(&self, condition: impl Fn() -> bool) -> Result<(), Status> {
        let mut moved = self.moved.subscribe();
        let wait = async {
            loop {
                moved.borrow_and_update();
                if condition() {
                    return Ok(());
                }
                if self.has_ended() || moved.changed().await.is_err() {
                    return Err(not_leader());
                }
            }
        };
        tokio::time::timeout(PROPOSAL_WAIT, wait).await.unwrap_or_else(|_| Err(not_leader()))
    }

    /// Grants `count` timestamps and returns the largest; the lease holds afterwards.
    pub(crate) async fn timestamp(&self, node: &Node, count: u32) -> Result<Timestamp, Status> {
        self.take(node, |affairs, moment| affairs.reign.grant(count, moment)).await
    }

    /// Takes `count` ids and returns the largest; the lease holds afterwards.
    pub(crate) async fn ids(&self, node: &Node, count: u64) -> Result<u64, Status> {
        self.take(node, |affairs, _| affairs.reign.take_ids(count)).await
    }

    /// Decides something that takes ids, as often as it needs a bound first.
    pub(crate) async fn decide_with_ids<T>(
        &self,
        node: &Node,
        decide: impl Fn(&mut Affairs) -> Result<T, NotYet>,
    ) -> Result<T, Status> {
        self.take(node, |affairs, _| decide(affairs)).await
    }

    async fn take<T>(
        &self,
        node: &Node,
        take: impl Fn(&mut Affairs, Moment) -> Result<T, NotYet>,
    ) -> Result<T, Status> {
        let retry = async {
            let mut moved = self.moved.subscribe();
            loop {
                moved.borrow_and_update();
                let moment = node.clock.moment();
                let taken = {
                    let mut affairs = self.lock();
                    let taken = take(&mut affairs, moment);
                    if matches!(taken, Err(NotYet::NeedBound)) {
                        self.propose_bounds(node, &mut affairs, moment);
                    }
                    taken
                };
                match taken {
                    Ok(taken) => return Ok(taken),
                    Err(_) if self.has_ended() => return Err(not_leader()),
                    Err(NotYet::NeedBound) => {
                        moved.changed().await.map_err(|_| not_leader())?;
                    }
                    Err(NotYet::Refused(Refused::AheadOfClock)) => {
                        tokio::time::sleep(AHEAD_OF_CLOCK_WAIT).await;
                    }
                    Err(NotYet::Refused(refused)) => {
                        return Err(Status::unknown(refused.to_string()));
                    }
                }
            }
        };
        let timed_out = || Status::deadline_exceeded("no quorum of scheduler members answered");
        let taken = tokio::time::timeout(PROPOSAL_WAIT, retry)
            .await
            .unwrap_or_else(|_| Err(timed_out()))?;
        self.await_lease(node).await?;
        Ok(taken)
    }

    /// Proposes the bounds that the reign needs, if it needs any.
    pub(crate) fn propose_bounds(&self, node: &Node, affairs: &mut Affairs, moment: Moment) {
        if let Some(change) = affairs.reign.wants(moment, rand::random()) {
            node.submit(self.term, change);
        }
    }

    /// A change has been applied: bounds rise, orders that waited for it leave, and whoever waits is
    /// woken.
    pub(crate) fn on_applied(&self, node: &Node, change: &Change) {
        self.lock().reign.on_applied(change);
        if !change.put_regions.is_empty() {
            let released = self.outbox.lock().release(&node.state.read());
            released.into_iter().for_each(|order| self.push(node, order));
        }
        self.wake();
    }

    /// Decides with the affairs locked, proposes what must be remembered, waits for it, and looks
    /// at the lease. The way of every request that changes something.
    pub(crate) async fn change<T>(
        &self,
        node: &Node,
        decide: impl FnOnce(&mut Affairs, Moment) -> Result<(Change, T), Refusal>,
    ) -> Result<Result<T, Refusal>, Status> {
        let changed = self.change_at(node, decide).await?;
        Ok(changed.map(|(answer, _)| answer))
    }

    /// The same; with the answer comes the index of the entry that made the change, `None` when there was
    /// nothing to change.
    pub(crate) async fn change_at<T>(
        &self,
        node: &Node,
        decide: impl FnOnce(&mut Affairs, Moment) -> Result<(Change, T), Refusal>,
    ) -> Result<Result<(T, Option<u64>), Refusal>, Status> {
        if !node.has_room() {
            return Err(Status::resource_exhausted("too many proposals wait"));
        }
        let (decided, outcome) = {
            let mut affairs = self.lock();
            match decide(&mut affairs, node.clock.moment()) {
                Err(refusal) => (Err(refusal), None),
                Ok((change, answer)) => (Ok(answer), self.propose(node, change)),
            }
        };
        let index = match outcome {
            Some(outcome) => Some(node.applied(outcome).await?),
            None => None,
        };
        self.await_lease(node).await?;
        Ok(decided.map(|answer| (answer, index)))
    }

    /// Proposes a change that was decided with the affairs locked; nothing for an empty one.
    pub(crate) fn propose(
        &self,
        node: &Node,
        change: Change,
    ) -> Option<oneshot::Receiver<Outcome>> {
        (change != Change::default()).then(|| node.submit(self.term, change))
    }

    /// Time passes for the cluster. Returns after how long it wants to hear of that again, if that
    /// is before the next usual time.
    pub(crate) fn tick(&self, node: &Node) -> Option<Duration> {
        if !self.holds_lease(node) || !node.has_room() {
            return None;
        }
        let moment = node.clock.moment();
        let mut affairs = self.lock();
        self.propose_bounds(node, &mut affairs, moment);
        if let Some(news) = affairs.reign.clock_news() {
            tracing::warn!(name = %node.name, wall_ms = moment.wall_ms, "{news}");
        }
        let Ok((cluster, ids)) = affairs.cluster_and_ids() else { return None };
        let Ticked { writes, orders, ids_wanted } = cluster.tick(ids, moment);
        let next_at_ms = cluster.next_turn_at_ms(moment);
        if let Some(bound) = ids_wanted {
            affairs.reign.need_ids(bound);
        }
        // Orders of a tick do not depend on its writes: those bury stores that hold nothing.
        let written = self.propose(node, change_of(writes));
        drop(affairs);
        drop(written);
        for order in orders {
            self.send_order(node, order);
        }
        next_at_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(moment.steady_ms)))
    }

    /// A store listens for orders on this stream from now on.
    pub(crate) fn bind(&self, store: StoreId, stream: &OrderStream) {
        let mut orders = self.orders.lock();
        if !orders.get(&store).is_some_and(|bound| bound.same_channel(stream)) {
            orders.insert(store, stream.clone());
        }
    }

    /// Sends an order to the store it is for, as soon as the log holds what it follows from. Lost: it
    /// is given again.
    pub(crate) fn send_order(&self, node: &Node, order: Order) {
        let order = self.outbox.lock().offer(order, &node.state.read());
        if let Some(order) = order {
            self.push(node, order);
        }
    }

    fn push(&self, node: &Node, mut order: Order) {
        let store = StoreId(order.target_peer.unwrap_or_default().store_id);
        order.header = Some(pdpb::ResponseHeader { cluster_id: node.cluster_id(), error: None });
        let mut orders = self.orders.lock();
        let Some(stream) = orders.get(&store) else { return };
        if let Err(mpsc::error::TrySendError::Closed(_)) = stream.try_send(Ok(order)) {
            orders.remove(&store);
        }
    }
}

/// The cluster as the log holds it; `None` before it is bootstrapped.
pub(crate) fn load_cluster(node: &Node, state: &State, moment: Moment) -> Option<Cluster> {
    (state.bootstrapped_at_ms() != 0).then(|| {
        let mut cluster = Cluster::load(
            policy(node, state),
            state.cluster_version(),
            state.stores().values().cloned(),
            state.regions().cloned(),
            moment,
        )
        .with_roster(roster(state), moment);
        if let Some(rules) = load_rules(state) {
            cluster.set_rules(rules);
        }
        cluster
    })
}

/// The schedulers that were agreed on, or those of a new cluster.
fn roster(state: &State) -> Roster {
    if state.roster().is_empty() {
        return Roster::default();
    }
    serde_json::from_slice(state.roster()).unwrap_or_else(|error| {
        tracing::error!(%error, "the replicated schedulers cannot be read; those of a new cluster run");
        Roster::default()
    })
}

/// The placement rules that somebody wrote; `None` when nobody has.
fn load_rules(state: &State) -> Option<Arc<Rules>> {
    if state.rules().is_empty() {
        return None;
    }
    match RuleSet::from_json(state.rules()).and_then(Rules::written) {
        Ok(rules) => Some(rules),
        // The default rule is what every cluster can live with.
        Err(error) => {
            tracing::error!(%error, "the replicated placement rules cannot be read; the default counts");
            None
        }
    }
}

/// The settings that were agreed on, or those a new cluster begins with.
pub(crate) fn policy(node: &Node, state: &State) -> crate::cluster::Policy {
    if state.settings().is_empty() {
        return node.first_policy.clone();
    }
    serde_json::from_slice(state.settings()).unwrap_or_else(|error| {
        tracing::error!(%error, "the replicated settings cannot be read; the first ones are used");
        node.first_policy.clone()
    })
}

/// Safe points and barriers as the log holds them.
fn load_gc(state: &State) -> GcState {
    if state.gc().is_empty() {
        return GcState::default();
    }
    // What cannot be read is not guessed: nothing is collected below a safe point of 0.
    serde_json::from_slice(state.gc()).unwrap_or_else(|error| {
        tracing::error!(%error, "the replicated safe points cannot be read");
        GcState::default()
    })
}

/// What the cluster wants written, as a change of the state.
pub(crate) fn change_of(writes: Writes) -> Change {
    Change {
        put_stores: writes.stores,
        forget_stores: writes.removed_stores,
        put_regions: writes.regions,
        forget_regions: writes.removed_regions,
        cluster_version: writes.cluster_version.unwrap_or_default(),
        roster: writes.roster.unwrap_or_default().into(),
        ..Change::default()
    }
}
