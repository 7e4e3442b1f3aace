//! Lab 2B: a key-value store over one raft group.
//!
//! A store saves what raft is ready with (entries, term, vote) before any promise leaves, proposes what
//! clients ask for, applies what is committed, and answers when it is applied. Data and applied index are
//! one batch. Every proposal is answered: also one whose place in the log another leader's entry took.
//!
//! Ten of the tests are rows of one table. Clients put keys of their own, and read all of them again;
//! each read must be exactly what was put so far. Then what was put must be there, once, in order; three
//! rounds on one cluster. The rows differ in what goes wrong meanwhile.
//!
//! Look: `tests/src/labs/cluster/generic.rs` (the table's test), `tests/src/labs/cluster/mod.rs` (the
//! harness), `raftstore/src/store/mod.rs` (the machine), `raftstore/src/operation/write.rs`,
//! `raftstore/src/operation/read.rs`, `raftstore/src/applier.rs`.

use raftstore::engine::ColumnFamily::Default as DefaultFamily;
use tests::labs::cluster::Cluster;
use tests::labs::cluster::generic::GenericTest;
use tests::labs::cluster::server::{Answer, Question};
use tests::labs::cluster::settings::Settings;
use tests::labs::cluster::tasks::run;
use tests::labs::cluster::trouble::Stop;
use tests::sim::events::{MILLISECOND, SECOND};
use tests::sim::options::Plant;

/// One client, and nothing goes wrong: every put is there, every read sees all puts before it.
///
/// Look: `raftstore/src/operation/write.rs` from "Enter" to "Answer"; `raftstore/src/peer/proposals.rs`.
///
/// Hint: answer a proposal when its entry is applied, not when it is committed.
#[test]
fn test_basic_2b() {
    GenericTest { clients: 1, ..Default::default() }.run("test_basic_2b");
}

/// Five clients at once, each with keys of its own.
///
/// Look: `raftstore/src/operation/write.rs`, "Fold": what waits together becomes one entry, with an answer
/// for each.
///
/// Hint: an answer belongs to an index *and* a term; two clients must not get each other's.
#[test]
fn test_concurrent_2b() {
    GenericTest { clients: 5, ..Default::default() }.run("test_concurrent_2b");
}

/// Five clients, and one message in ten between stores is lost.
///
/// Look: `raftstore/src/group/mod.rs` (what raft sends again by itself), `raftstore/src/operation/read.rs`
/// (a read index that is asked for again).
///
/// Hint: whatever is sent once may be lost. What would wait for ever without an answer is sent again.
#[test]
fn test_unreliable_2b() {
    GenericTest { clients: 5, unreliable: true, ..Default::default() }.run("test_unreliable_2b");
}

/// In a partition the larger side goes on, the smaller one neither takes writes nor answers old reads.
///
/// The leader and two others are cut off from the other two: k1=v1 is put and read, and the two never get
/// it. Then the leader is left with one other: the majority answers v1 and takes "changed". The old leader is
/// asked directly all the time, and from then on does not say "v1" any more; neither of the two gets the
/// change. When the partition ends, the old leader gets k2=v2 and the change.
///
/// The course asks the old leader nothing: its read comes before the second put, where a wrong answer from
/// memory looks right.
///
/// Look: `raftstore/src/read_view.rs` (when a leader may answer alone), `raftstore/src/peer/lease.rs`,
/// `raftstore/src/operation/read.rs`.
///
/// Hint: "I was the leader a moment ago" is no reason to answer a read. A lease that followers wait for is,
/// and so is a round of heartbeats that a majority answered.
#[test]
fn test_one_partition_2b() {
    one_partition(Settings::of("test_one_partition_2b"));
}

fn one_partition(settings: Settings) {
    run(settings, |cluster| async move {
        let region = cluster.must_region_of("").await;
        let leader = cluster.leader_of(region.id).await.store_id;
        let others: Vec<u64> =
            cluster.stores().into_iter().filter(|store| *store != leader).collect();
        let (near, moves, far) = (others[0], others[1], [others[2], others[3]]);

        cluster.partition(&[leader, near, moves], &far);
        cluster.must_put("k1", "v1").await;
        cluster.must_get("k1", "v1").await;
        for store in far {
            cluster.must_lack(store, "k1").await;
        }
        cluster.clear_filters();

        cluster.partition(&[leader, near], &[moves, far[0], far[1]]);
        let (changed, stop) = (Stop::default(), Stop::default());
        let asking = ask_the_old_leader(cluster.clone(), leader, changed.clone(), stop.clone());
        let asking = cluster.spawn(asking);
        cluster.must_get("k1", "v1").await;
        cluster.must_put("k1", "changed").await;
        changed.now();
        cluster.pause(SECOND).await;
        stop.now();
        asking.join().await;
        for store in [leader, near] {
            assert_eq!(cluster.on_store(store, DefaultFamily, "k1"), Some("v1".into()));
        }
        cluster.clear_filters();

        cluster.must_put("k2", "v2").await;
        cluster.must_have(leader, "k2", "v2").await;
        cluster.must_have(leader, "k1", "changed").await;
    });
}

/// The old leader may say "v1" until it has been changed: who asks later must not hear it.
async fn ask_the_old_leader(cluster: Cluster, leader: u64, changed: Stop, stop: Stop) {
    let region = cluster.must_region_of("k1").await;
    while !stop.is_due() {
        let is_changed = changed.is_due();
        let question = Question::Get(DefaultFamily, "k1".into());
        let said = cluster.ask(leader, &region, question, 20 * MILLISECOND).await;
        let has_answered = matches!(said, Some(Ok(Answer::Value(_))));
        assert!(!(is_changed && has_answered), "an isolated leader says {said:?}");
        cluster.pause(5 * MILLISECOND).await;
    }
}

/// Beyond the course: were the lease longer than followers wait, the old leader would be heard.
#[test]
fn a_lease_that_is_too_long_is_found() {
    let is_found = |attempt: u64| {
        let settings = Settings {
            seed: attempt,
            plant: Some(Plant::LongLease),
            ..Settings::of("a_lease_that_is_too_long_is_found")
        };
        std::panic::catch_unwind(|| one_partition(settings)).is_err()
    };
    assert!((0..100).any(is_found));
}

/// One client, and the stores fall apart in two groups, other ones every half second.
///
/// Look: `raftstore/src/operation/read.rs`, `tests/src/labs/cluster/client.rs` (what a client does when
/// nobody answers).
///
/// Hint: a new leader may have entries of the old one that it cannot tell committed or not. Its own first
/// entry settles them; until that is applied it must not answer reads.
#[test]
fn test_many_partitions_one_client_2b() {
    GenericTest { clients: 1, partitions: true, ..Default::default() }
        .run("test_many_partitions_one_client_2b");
}

/// Five clients and partitions.
///
/// Look: `raftstore/src/peer/proposals.rs` (who waits for which index and term, and what they hear when
/// another leader's entry comes there).
///
/// Hint: a leader that loses its place must answer everybody who waits: StaleCommand when the entry is
/// certainly gone, NotLeader when it was never proposed.
#[test]
fn test_many_partitions_many_clients_2b() {
    GenericTest { clients: 5, partitions: true, ..Default::default() }
        .run("test_many_partitions_many_clients_2b");
}

/// One client; after each round all stores lose their power at once, and with it what they had not synced.
///
/// Look: `raftstore/src/effects.rs` (the order in which a round's effects are performed),
/// `raftstore/src/storage/mod.rs` (what can be found at a start, and what is done about it).
///
/// Hint: the log is synced before anything is promised, the data is not: a start applies again what the
/// data has lost.
#[test]
fn test_persist_one_client_2b() {
    GenericTest { clients: 1, crash: true, ..Default::default() }.run("test_persist_one_client_2b");
}

/// Five clients and losses of power.
///
/// Look: `raftstore/src/applier.rs` (data and applied index in one batch).
///
/// Hint: were the applied index written apart from the data, one of the two could be lost alone.
#[test]
fn test_persist_concurrent_2b() {
    GenericTest { clients: 5, crash: true, ..Default::default() }.run("test_persist_concurrent_2b");
}

/// Five clients, losses of power and of messages.
///
/// Look: `raftstore/src/effects.rs`: messages that promise something leave after the sync.
///
/// Hint: a vote that is forgotten may be given twice.
#[test]
fn test_persist_concurrent_unreliable_2b() {
    GenericTest { clients: 5, unreliable: true, crash: true, ..Default::default() }
        .run("test_persist_concurrent_unreliable_2b");
}

/// Five clients, losses of power and partitions.
///
/// Look: `raftstore/src/storage/group_log.rs` (a log that is found behind, or longer than what is
/// committed).
///
/// Hint: a log that is written over must lose its old tail in the same write.
#[test]
fn test_persist_partition_2b() {
    GenericTest { clients: 5, crash: true, partitions: true, ..Default::default() }
        .run("test_persist_partition_2b");
}

/// Five clients, losses of power and of messages, and partitions.
///
/// Look: all of the above; `cargo xtask sim` does this to a hundred clusters.
///
/// Hint: run it under other seeds: `TESSERA_LAB_SEED=1 cargo xtask lab 2b`.
#[test]
fn test_persist_partition_unreliable_2b() {
    GenericTest {
        clients: 5,
        unreliable: true,
        crash: true,
        partitions: true,
        ..Default::default()
    }
    .run("test_persist_partition_unreliable_2b");
}
