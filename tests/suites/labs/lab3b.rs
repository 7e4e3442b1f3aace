//! Lab 3B: members that come and go, leadership handed over, and regions that split, in the store.
//!
//! The scheduler orders, in the answer to a region's heartbeat, and repeats itself until it sees the
//! order carried out. The leader proposes, every replica applies at the same index, and the leader
//! reports. So an order may come many times, and to a leader that is none any more.
//!
//! Twelve of the tests are rows of the table of lab 2B, with members that come and go, or regions of a
//! few hundred bytes.
//!
//! **Where this store differs from the course.** An id of a peer is used once: a member that comes back
//! to a store has a new one, as the scheduler of TiKV gives it. An acknowledgement of the first life may
//! still be on its way, and would count for entries that the second does not have.
//!
//! Look: `raftstore/src/operation/conf_change/mod.rs`, `raftstore/src/operation/transfer_leader.rs`,
//! `raftstore/src/operation/split.rs`, `raftstore/src/operation/stale_peer.rs`,
//! `raftstore/src/store/lifecycle.rs` (how a peer comes to be, and goes),
//! `tests/src/labs/cluster/scheduler.rs` (the course's scheduler).

use proto::{Refusal, metapb, region};
use raftstore::engine::ColumnFamily::Default as DefaultFamily;
use tests::labs::cluster::Cluster;
use tests::labs::cluster::generic::GenericTest;
use tests::labs::cluster::members::peer;
use tests::labs::cluster::server::Question;
use tests::labs::cluster::settings::Settings;
use tests::labs::cluster::tasks::run;
use tests::sim::events::{MILLISECOND, SECOND};

/// The region that all tests begin with.
const REGION: u64 = 1;

/// Rows of the table: members come and go …
const CHANGES: GenericTest = GenericTest {
    clients: 5,
    unreliable: false,
    crash: false,
    partitions: false,
    log_entries_max: None,
    conf_change: true,
    split: false,
    plant: None,
};

/// … or regions are split.
const SPLITS: GenericTest = GenericTest { conf_change: false, split: true, ..CHANGES };

/// Leadership goes from one store to the next, through all five, each time within five seconds.
///
/// Look: `raftstore/src/operation/transfer_leader.rs`.
///
/// Hint: nothing is written to the log for it. The leader brings the other up to date, tells it to campaign
/// at once, and takes no writes meanwhile.
#[test]
fn test_transfer_leader_3b() {
    run(Settings::of("test_transfer_leader_3b"), |cluster| async move {
        for store in 1..=5 {
            cluster.must_transfer_leader(REGION, peer(store, store)).await;
        }
        cluster.must_put("k1", "v1").await;
        cluster.must_get("k1", "v1").await;
    });
}

/// Members go and come back; who goes loses the data, who comes gets it.
///
/// Only store 1 is left, and k1 is put: store 2 does not get it. A peer on store 2: it gets k1 and k2, the
/// epoch has counted, store 5 has nothing. One on store 3 and none on store 2: store 3 gets all, store 2
/// has nothing left. Then store 2 once more, twice, each time another peer: it has what the region has.
///
/// The course adds the same peer again, with the same id. Here such a peer never comes to life, and the
/// region goes on without it; then it is added under another id.
///
/// Look: `raftstore/src/operation/conf_change/mod.rs`, "Begin" and "After"; `raftstore/src/store/lifecycle.rs`,
/// "Destroyed" (why the tombstone stays).
///
/// Hint: look at the id of a peer, not only at its store. Late messages of the first must not wake the
/// second.
#[test]
fn test_basic_conf_change_3b() {
    run(Settings::of("test_basic_conf_change_3b"), |cluster| async move {
        cluster.must_transfer_leader(REGION, peer(1, 1)).await;
        for store in 2..=5 {
            cluster.must_remove_peer(REGION, peer(store, store)).await;
        }
        cluster.must_put("k1", "v1").await;
        cluster.must_lack(2, "k1").await;

        let on_2 = peer(2, cluster.new_id());
        cluster.must_add_peer(REGION, on_2).await;
        cluster.must_put("k2", "v2").await;
        cluster.must_get("k2", "v2").await;
        cluster.must_have(2, "k1", "v1").await;
        cluster.must_have(2, "k2", "v2").await;
        let epoch = region::epoch(&cluster.must_region_of("k1").await);
        assert!(epoch.conf_ver > 1);
        cluster.must_lack(5, "k1").await;

        cluster.must_add_peer(REGION, peer(3, cluster.new_id())).await;
        cluster.must_remove_peer(REGION, on_2).await;
        cluster.must_put("k3", "v3").await;
        cluster.must_get("k3", "v3").await;
        for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3")] {
            cluster.must_have(3, key, value).await;
        }
        cluster.must_lack(2, "k1").await;
        cluster.must_lack(2, "k2").await;

        dead_peer_stays_dead(&cluster, on_2).await;

        let on_2 = peer(2, cluster.new_id());
        cluster.must_add_peer(REGION, on_2).await;
        for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3")] {
            cluster.must_have(2, key, value).await;
        }

        cluster.must_remove_peer(REGION, on_2).await;
        cluster.must_add_peer(REGION, peer(2, cluster.new_id())).await;
        let on_3 = *region::peer_on(&cluster.must_region_of("").await, proto::StoreId(3)).unwrap();
        cluster.must_remove_peer(REGION, on_3).await;
        cluster.must_put("k4", "v4").await;
        cluster.must_have(2, "k1", "v1").await;
        cluster.must_have(2, "k4", "v4").await;
        cluster.must_lack(3, "k1").await;
        cluster.must_lack(3, "k4").await;
    });
}

/// A peer that was removed is added again with the same id: it gets nothing, and goes again.
async fn dead_peer_stays_dead(cluster: &Cluster, dead: metapb::Peer) {
    cluster.must_add_peer(REGION, dead).await;
    cluster.must_get("k3", "v3").await;
    cluster.must_lack(dead.store_id, "k3").await;
    cluster.must_remove_peer(REGION, dead).await;
}

/// The leader itself is removed, among five and among two, and the region goes on.
///
/// Store 1 leads and is removed: k0 is put without it. It comes back, leads, and has k0 and k1. All but
/// store 5 and itself are removed; then it is removed once more: store 5 alone takes k2. It comes back:
/// store 1 gets k3, store 3, long removed, does not.
///
/// Peers that come back have new ids (see the head of this file).
///
/// Look: `raftstore/src/operation/conf_change/mod.rs`, "The leader itself is not removed"; what a tombstone
/// answers: `raftstore/src/operation/stale_peer.rs`.
///
/// Hint: of two members, the one that applies its own removal first may leave the other waiting for its
/// vote for ever.
#[test]
fn test_conf_change_remove_leader_3b() {
    run(Settings::of("test_conf_change_remove_leader_3b"), |cluster| async move {
        cluster.must_transfer_leader(REGION, peer(1, 1)).await;
        cluster.must_remove_peer(REGION, peer(1, 1)).await;
        cluster.must_put("k0", "v0").await;
        cluster.must_lack(1, "k0").await;

        let on_1 = peer(1, cluster.new_id());
        cluster.must_add_peer(REGION, on_1).await;
        cluster.must_have(1, "k0", "v0").await;
        cluster.must_transfer_leader(REGION, on_1).await;
        cluster.must_put("k1", "v1").await;
        cluster.must_have(1, "k0", "v0").await;
        cluster.must_have(1, "k1", "v1").await;

        for store in 2..=4 {
            cluster.must_remove_peer(REGION, peer(store, store)).await;
        }
        cluster.must_transfer_leader(REGION, on_1).await;
        cluster.must_remove_peer(REGION, on_1).await;
        cluster.must_put("k2", "v2").await;
        cluster.must_lack(1, "k2").await;

        cluster.must_add_peer(REGION, peer(1, cluster.new_id())).await;
        cluster.must_put("k3", "v3").await;
        cluster.must_lack(3, "k3").await;
        cluster.must_have(1, "k3", "v3").await;
    });
}

/// One client, members come and go, and all stores lose their power after each round.
///
/// Look: `raftstore/src/applier.rs` (the region and the applied index are one batch).
///
/// Hint: after a start, the members are those of the applied region, and raft must agree.
#[test]
fn test_conf_change_recover_3b() {
    GenericTest { clients: 1, crash: true, ..CHANGES }.run("test_conf_change_recover_3b");
}

/// Twenty clients, members come and go, and losses of power.
///
/// Look: `raftstore/src/peer/proposals.rs`, `raftstore/src/store/lifecycle.rs` (everybody who waits for a
/// destroyed peer is answered).
///
/// Hint: a leader that is removed has proposals that wait.
#[test]
fn test_conf_change_recover_many_clients_3b() {
    GenericTest { clients: 20, crash: true, ..CHANGES }
        .run("test_conf_change_recover_many_clients_3b");
}

/// Five clients, members come and go, and messages are lost: also the one that would make a new peer.
///
/// Look: `raftstore/src/store/lifecycle.rs`, "The message must pass".
///
/// Hint: a peer that does not know that it was removed must be told when it asks.
#[test]
fn test_conf_change_unreliable_3b() {
    GenericTest { unreliable: true, ..CHANGES }.run("test_conf_change_unreliable_3b");
}

/// Five clients, members come and go, losses of power and of messages.
///
/// Look: `raftstore/src/operation/conf_change/mod.rs`, "Apply".
///
/// Hint: the same order comes again and again. The second time it finds the peer there, or gone, and must
/// not count.
#[test]
fn test_conf_change_unreliable_recover_3b() {
    GenericTest { unreliable: true, crash: true, ..CHANGES }
        .run("test_conf_change_unreliable_recover_3b");
}

/// Five clients, logs of a hundred entries, members come and go, losses of power and of messages.
///
/// Look: `raftstore/src/operation/snapshot.rs` (a snapshot of an older membership).
///
/// Hint: a snapshot brings the members as of its index. One that was made before a change it does not know
/// is late.
#[test]
fn test_conf_change_snapshot_unreliable_recover_3b() {
    GenericTest { log_entries_max: Some(100), unreliable: true, crash: true, ..CHANGES }
        .run("test_conf_change_snapshot_unreliable_recover_3b");
}

/// The same, and partitions.
///
/// Look: `raftstore/src/operation/conf_change/mod.rs` (which members would agree, and which would answer),
/// `raftstore/src/operation/stale_peer.rs`.
///
/// Hint: a removed peer that was cut off comes back as a candidate. Nobody may follow it, and somebody must
/// tell it.
#[test]
fn test_conf_change_snapshot_unreliable_recover_concurrent_partition_3b() {
    GenericTest {
        log_entries_max: Some(100),
        unreliable: true,
        crash: true,
        partitions: true,
        ..CHANGES
    }
    .run("test_conf_change_snapshot_unreliable_recover_concurrent_partition_3b");
}

/// A region of more than 800 bytes becomes two, cut where the first 500 end.
///
/// k1 and k2 lie in one region. Store 5 is cut off, a hundred keys of eight bytes each are put: k1 and k2
/// lie in two regions that share the old range between them at k162. The left one, asked for k2 with its
/// own epoch, says that the key is not its. Store 5, when it is back, catches up.
///
/// Look: `raftstore/src/operation/split.rs`, `raftstore/src/operation/split_keys.rs` (where to cut).
///
/// Hint: store 5 hears of the new region before it has split the old one. It must wait, not fail.
#[test]
fn test_one_split_3b() {
    let settings = Settings { region_bytes: Some((800, 500)), ..Settings::of("test_one_split_3b") };
    run(settings, |cluster| async move {
        cluster.must_put("k1", "v1").await;
        cluster.must_put("k2", "v2").await;
        let whole = cluster.must_region_of("k1").await;
        assert_eq!(cluster.must_region_of("k2").await.id, whole.id);

        cluster.partition(&[1, 2, 3, 4], &[5]);
        for number in 100..200 {
            cluster.must_put(format!("k{number}"), format!("v{number}")).await;
        }
        let deadline = cluster.now() + 2 * SECOND;
        while cluster.must_region_of("k1").await.id == cluster.must_region_of("k2").await.id {
            assert!(cluster.now() < deadline, "the region is not split");
            cluster.pause(10 * MILLISECOND).await;
        }
        cluster.clear_filters();

        let left = cluster.must_region_of("k1").await;
        let right = cluster.must_region_of("k2").await;
        assert_eq!(left.start_key, whole.start_key);
        assert_eq!((&left.end_key, &right.start_key), (&"k162".into(), &"k162".into()));
        assert_eq!(right.end_key, whole.end_key);

        let question = Question::Get(DefaultFamily, "k2".into());
        let said = cluster.ask_leader(&left, question, SECOND).await;
        assert!(matches!(said, Some(Err(Refusal::KeyNotInRegion { .. }))), "{said:?}");

        cluster.must_have(5, "k100", "v100").await;
        cluster.must_have(5, "k199", "v199").await;
    });
}

/// One client, regions of a few hundred bytes, and losses of power.
///
/// Look: `raftstore/src/store/lifecycle.rs` (a peer that a split made keeps still until the data is synced).
///
/// Hint: were the new region's log durable and the split that made it lost, a start would find a log that
/// belongs to nobody.
#[test]
fn test_split_recover_3b() {
    GenericTest { clients: 1, crash: true, ..SPLITS }.run("test_split_recover_3b");
}

/// Twenty clients, regions of a few hundred bytes, and losses of power.
///
/// Look: `raftstore/src/operation/write.rs`, "Apply" (the epoch is compared again).
///
/// Hint: a put may be proposed before a split and applied after it. Then its key is another region's.
#[test]
fn test_split_recover_many_clients_3b() {
    GenericTest { clients: 20, crash: true, ..SPLITS }.run("test_split_recover_many_clients_3b");
}

/// Five clients, regions of a few hundred bytes, and lost messages.
///
/// Look: `raftstore/src/store/lifecycle.rs` (votes that come too early are kept).
///
/// Hint: the new region should have a leader at once, and its leader report: until then the scheduler has a
/// hole in its map.
#[test]
fn test_split_unreliable_3b() {
    GenericTest { unreliable: true, ..SPLITS }.run("test_split_unreliable_3b");
}

/// Five clients, regions of a few hundred bytes, losses of power and of messages.
///
/// Look: `raftstore/src/operation/split.rs`, "Apply" and "After".
///
/// Hint: count what was written since the last look, in both parts, or the parts will never be split.
#[test]
fn test_split_unreliable_recover_3b() {
    GenericTest { unreliable: true, crash: true, ..SPLITS }.run("test_split_unreliable_recover_3b");
}

/// Splits, members that come and go, logs of a hundred entries, losses of power and of messages.
///
/// Look: `raftstore/src/operation/stale_peer.rs` (a snapshot that a region stands in the way of).
///
/// Hint: a store that missed a split has the whole range. What comes for the right half overlaps it, and
/// must wait until the left half is cut.
#[test]
fn test_split_conf_change_snapshot_unreliable_recover_3b() {
    GenericTest {
        conf_change: true,
        log_entries_max: Some(100),
        unreliable: true,
        crash: true,
        ..SPLITS
    }
    .run("test_split_conf_change_snapshot_unreliable_recover_3b");
}

/// Everything at once: splits, members that come and go, short logs, losses of power and of messages,
/// partitions.
///
/// Look: `tests/src/sim/` does this with a nemesis and a judge of linearizability: `cargo xtask sim`.
///
/// Hint: nothing new. But everything you believed to be rare happens here.
#[test]
fn test_split_conf_change_snapshot_unreliable_recover_concurrent_partition_3b() {
    GenericTest {
        conf_change: true,
        log_entries_max: Some(100),
        unreliable: true,
        crash: true,
        partitions: true,
        ..SPLITS
    }
    .run("test_split_conf_change_snapshot_unreliable_recover_concurrent_partition_3b");
}
