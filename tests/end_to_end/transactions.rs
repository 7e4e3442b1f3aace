//! What the whole cluster does for transactions: old versions go, ranges are destroyed, and deadlocks are
//! found wherever they are.

use proto::kvrpcpb::{
    GetRequest, Mutation, MvccGetByKeyRequest, MvccInfo, Op, PessimisticLockRequest,
    PessimisticLockResponse, PhysicalScanLockRequest, PrewriteRequest, UnsafeDestroyRangeRequest,
    prewrite_request::PessimisticAction,
};
use proto::tikvpb::tikv_client::TikvClient;
use proto::{Timestamp, memcomparable, pdpb};
use tessera::ApiVersion;
use tonic::transport::Channel;

use crate::cluster::{Processes, http_with, until};

/// A new timestamp.
async fn timestamp(cluster: &Processes) -> u64 {
    let (mut scheduler, header) = cluster.scheduler().await;
    let request = pdpb::TsoRequest { header, count: 1, ..Default::default() };
    let mut answers = scheduler.tso(tokio_stream::once(request)).await.unwrap().into_inner();
    let timestamp = answers.message().await.unwrap().unwrap().timestamp.unwrap();
    Timestamp::new(timestamp.physical as u64, timestamp.logical as u64).0
}

/// The store that leads a transactional key's region, and what a request there has to carry.
async fn leader(
    cluster: &Processes,
    key: &str,
) -> (usize, TikvClient<Channel>, Option<proto::kvrpcpb::Context>) {
    let (index, context) = cluster.leader_context(&memcomparable::encode(key.as_bytes())).await;
    let url = format!("http://{}", cluster.stores[index].address);
    let store = until("the leading store to answer", || {
        let url = url.clone();
        async move { TikvClient::connect(url).await.ok() }
    });
    (index, store.await, Some(context))
}

/// Writes a value, in one phase or leaving the lock.
async fn write(
    cluster: &Processes,
    key: &'static str,
    value: &'static str,
    one_phase: bool,
) -> u64 {
    let start_version = timestamp(cluster).await;
    let mutation =
        Mutation { op: Op::Put as i32, key: key.into(), value: value.into(), ..Default::default() };
    until("the write to be taken", || {
        let mutations = vec![mutation.clone()];
        async move {
            let (_, mut store, context) = leader(cluster, key).await;
            let request = PrewriteRequest {
                context,
                mutations,
                primary_lock: key.into(),
                start_version,
                lock_ttl: 1 << 40,
                try_one_pc: one_phase,
                ..Default::default()
            };
            let answer = store.kv_prewrite(request).await.ok()?.into_inner();
            assert!(answer.errors.is_empty(), "{answer:?}");
            answer.region_error.is_none().then_some(())
        }
    })
    .await;
    start_version
}

async fn versions(cluster: &Processes, key: &'static str) -> Option<MvccInfo> {
    let (_, mut store, context) = leader(cluster, key).await;
    let request = MvccGetByKeyRequest { context, key: key.into() };
    store.mvcc_get_by_key(request).await.ok()?.into_inner().info
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_go_by_themselves_and_old_readers_are_refused() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let settings = r#"{"gc-life-time": "1s", "gc-run-interval": "1s"}"#;
    let member = cluster.schedulers[0].address;
    let (status, _) = http_with(member, "POST", "/config", settings).await.unwrap();
    assert!(status.contains("200"), "{status}");
    let long: &'static str = "v".repeat(1000).leak();
    let first = write(&cluster, "k", "first", true).await;
    for value in ["second", long, "fourth", "last"] {
        write(&cluster, "k", value, true).await;
    }
    // Its client is gone; nobody meets it, and its time is not over.
    write(&cluster, "abandoned", "never", false).await;

    let left = until("old versions to go", || async {
        versions(&cluster, "k").await.filter(|info| info.writes.len() == 1)
    });
    let left = left.await;
    assert_eq!(left.writes[0].short_value, "last");
    assert!(left.values.is_empty(), "{left:?}");
    until("the abandoned lock to go", || async {
        versions(&cluster, "abandoned").await.filter(|info| info.lock.is_none())
    })
    .await;

    let get = async |version| {
        let (_, mut store, context) = leader(&cluster, "k").await;
        let request = GetRequest { context, key: "k".into(), version, ..Default::default() };
        store.kv_get(request).await.unwrap().into_inner()
    };
    let refused = get(first).await.error.unwrap().abort;
    assert!(refused.contains("GC life time is shorter than transaction duration"), "{refused}");
    assert_eq!(get(timestamp(&cluster).await).await.value, "last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_range_leaves_neither_versions_nor_locks_on_any_store() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    for key in ["a", "b", "c"] {
        write(&cluster, key, "v", true).await;
    }
    write(&cluster, "b2", "never", false).await;
    write(&cluster, "d", "never", false).await;
    let mut stores = Vec::new();
    for node in &cluster.stores {
        stores.push(TikvClient::connect(format!("http://{}", node.address)).await.unwrap());
    }
    for store in &mut stores {
        let (start_key, end_key) = ("b".into(), "c".into());
        let request = UnsafeDestroyRangeRequest { start_key, end_key, ..Default::default() };
        let answer = store.unsafe_destroy_range(request).await.unwrap().into_inner();
        assert!(answer.region_error.is_none() && answer.error.is_empty(), "{answer:?}");
    }
    // Also those that do not lead, as soon as they have applied what was written before.
    for store in &stores {
        until("a store to have nothing of the range", || async {
            let request = PhysicalScanLockRequest { max_ts: u64::MAX, ..Default::default() };
            let answer = store.clone().physical_scan_lock(request).await.unwrap().into_inner();
            let locked: Vec<_> = answer.locks.iter().map(|lock| lock.key.clone()).collect();
            (locked == ["d"]).then_some(())
        })
        .await;
    }
    let now = timestamp(&cluster).await;
    for (key, is_there) in [("a", true), ("b", false), ("b2", false), ("c", true)] {
        let (_, mut store, context) = leader(&cluster, key).await;
        let request = GetRequest { context, key: key.into(), version: now, ..Default::default() };
        let answer = store.kv_get(request).await.unwrap().into_inner();
        assert_eq!(!answer.not_found, is_there, "{key}: {answer:?}");
    }
}

async fn lock(
    cluster: &Processes,
    txn: u64,
    primary: &'static str,
    key: &'static str,
    is_first_lock: bool,
) -> PessimisticLockResponse {
    let (_, mut store, context) = leader(cluster, key).await;
    let mutation =
        Mutation { op: Op::PessimisticLock as i32, key: key.into(), ..Default::default() };
    let request = PessimisticLockRequest {
        context,
        mutations: vec![mutation],
        primary_lock: primary.into(),
        start_version: txn,
        for_update_ts: txn,
        lock_ttl: 20_000,
        is_first_lock,
        ..Default::default()
    };
    store.kv_pessimistic_lock(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_through_two_stores_is_found_at_once() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let member = cluster.schedulers[0].address;
    // Two regions, led by two stores.
    let (first, _, context) = leader(&cluster, "z").await;
    let region_id = context.unwrap().region_id;
    let bound = memcomparable::encode(b"m");
    let hex: String = bound.iter().map(|byte| format!("{byte:02X}")).collect();
    let split = format!(
        r#"{{"name": "split-region", "region_id": {region_id}, "policy": "USEKEY", "keys": ["{hex}"]}}"#
    );
    let (status, body) = http_with(member, "POST", "/operators", &split).await.unwrap();
    assert!(status.contains("200"), "{status} {body}");
    let target = cluster.store_id((first + 1) % 3).await;
    until("two stores to lead", || async {
        let (left, _, context_a) = leader(&cluster, "a").await;
        let (right, _, context_z) = leader(&cluster, "z").await;
        let (a, z) = (context_a.unwrap().region_id, context_z.unwrap().region_id);
        if a == z {
            return None;
        }
        if left == right {
            let order = format!(
                r#"{{"name": "transfer-leader", "region_id": {z}, "to_store_id": {target}}}"#
            );
            // Refused while one is under way.
            let _ = http_with(member, "POST", "/operators", &order).await;
            return None;
        }
        Some(())
    })
    .await;
    // Leaders may still move once, so more than one try may be needed; a deadlock must be found in one.
    let found = until("a deadlock", || async {
        let (one, two) = (timestamp(&cluster).await, timestamp(&cluster).await);
        // Keys of their own for each try.
        let (a, z): (&'static str, &'static str) =
            (format!("a{one}").leak(), format!("z{one}").leak());
        let held = [lock(&cluster, one, a, a, true).await, lock(&cluster, two, z, z, true).await];
        if held.iter().any(|held| held.region_error.is_some() || !held.errors.is_empty()) {
            return None;
        }
        let (wants_z, wants_a) =
            tokio::join!(lock(&cluster, one, a, z, false), lock(&cluster, two, z, a, false));
        let errors = wants_z.errors.into_iter().chain(wants_a.errors);
        let deadlock = errors.filter_map(|error| error.deadlock).next();
        deadlock.map(|deadlock| (deadlock, one, two))
    });
    let (deadlock, one, two) = found.await;
    let chain: Vec<_> =
        deadlock.wait_chain.iter().map(|wait| (wait.txn, wait.wait_for_txn)).collect();
    assert!(chain == [(one, two), (two, one)] || chain == [(two, one), (one, two)], "{chain:?}");
}

/// Orders something of the scheduler, until it takes the order: it refuses while another is under way.
async fn order(cluster: &Processes, order: String) {
    let member = cluster.schedulers[0].address;
    until("an order to be taken", || {
        let order = order.clone();
        async move {
            let (status, _) = http_with(member, "POST", "/operators", &order).await.ok()?;
            status.contains("200").then_some(())
        }
    })
    .await;
}

/// Locks that are kept in the leader's memory alone until its leadership or its region ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pessimistic_locks_outlive_their_leader_and_a_split() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let (owner, other) = (timestamp(&cluster).await, timestamp(&cluster).await);
    let taken = |key: &'static str, txn: u64| {
        let cluster = &cluster;
        until("a lock to be asked for where the leader is", move || async move {
            let answer = lock(cluster, txn, "a", key, key == "a").await;
            answer.region_error.is_none().then_some(answer)
        })
    };
    for key in ["a", "z"] {
        let answer = taken(key, owner).await;
        assert!(answer.errors.is_empty(), "{answer:?}");
    }
    let still_held = async |after: &str| {
        for key in ["a", "z"] {
            let answer = taken(key, other).await;
            let locked = answer.errors.first().and_then(|error| error.locked.as_ref());
            let holder = locked.map(|lock| (lock.lock_version, lock.lock_type));
            assert_eq!(holder, Some((owner, Op::PessimisticLock as i32)), "{key} after {after}");
        }
    };
    still_held("nothing").await;

    let (first, _, context) = leader(&cluster, "a").await;
    let region_id = context.unwrap().region_id;
    let target = cluster.store_id((first + 1) % 3).await;
    let words = format!(
        r#"{{"name": "transfer-leader", "region_id": {region_id}, "to_store_id": {target}}}"#
    );
    order(&cluster, words).await;
    until("another store to lead", || async {
        let (index, ..) = leader(&cluster, "a").await;
        (index != first).then_some(())
    })
    .await;
    still_held("a transfer").await;

    let bound = memcomparable::encode(b"m");
    let hex: String = bound.iter().map(|byte| format!("{byte:02X}")).collect();
    let words = format!(
        r#"{{"name": "split-region", "region_id": {region_id}, "policy": "USEKEY", "keys": ["{hex}"]}}"#
    );
    order(&cluster, words).await;
    until("two regions", || async {
        let (_, _, left) = leader(&cluster, "a").await;
        let (_, _, right) = leader(&cluster, "z").await;
        (left.unwrap().region_id != right.unwrap().region_id).then_some(())
    })
    .await;
    still_held("a split").await;

    // Their owner goes on as if nothing had been.
    for key in ["a", "z"] {
        until("the locks to become writes", || async {
            let (_, mut store, context) = leader(&cluster, key).await;
            let mutation = Mutation {
                op: Op::Put as i32,
                key: key.into(),
                value: "v".into(),
                ..Default::default()
            };
            let request = PrewriteRequest {
                context,
                mutations: vec![mutation],
                primary_lock: "a".into(),
                start_version: owner,
                for_update_ts: owner,
                lock_ttl: 20_000,
                pessimistic_actions: vec![PessimisticAction::DoPessimisticCheck as i32],
                ..Default::default()
            };
            let answer = store.kv_prewrite(request).await.ok()?.into_inner();
            assert!(answer.errors.is_empty(), "{answer:?}");
            answer.region_error.is_none().then_some(())
        })
        .await;
    }
}
