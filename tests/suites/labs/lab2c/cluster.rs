//! The half that needs a cluster: logs are cut, and whoever lacks what was cut gets a snapshot.

use raftstore::engine::ColumnFamily::Lock;
use tests::labs::cluster::generic::GenericTest;
use tests::labs::cluster::settings::Settings;
use tests::labs::cluster::tasks::run;
use tests::sim::events::{MILLISECOND, SECOND};

/// A row of the table: five clients, and logs of at most a hundred entries.
const SHORT_LOGS: GenericTest = GenericTest {
    clients: 5,
    unreliable: false,
    crash: false,
    partitions: false,
    log_entries_max: Some(100),
    conf_change: false,
    split: false,
    plant: None,
};

/// A store that was away while the logs were cut gets a snapshot, and loses what is not in it.
///
/// Three stores, logs of ten entries, all keys in the lock family. After two puts nothing is cut. Then store
/// 1 is cut off, fifteen keys are put and one of the first two is deleted; store 1 sees nothing of it. When
/// it is back it has the first key, the new ones, and no longer the deleted one. It keeps all that through
/// a loss of power, and no store's log is longer than twice the limit.
///
/// Look: `raftstore/src/operation/snapshot.rs`, `raftstore/src/operation/compact_log.rs`,
/// `raftstore/src/driver/background.rs` (generating and installing), `raftstore/src/storage/group_log.rs`
/// (the log begins anew behind a snapshot).
///
/// Hint: a snapshot replaces the region's data in all families. What it does not mention must go.
#[test]
fn test_one_snapshot_2c() {
    let limit = 10;
    let settings = Settings {
        stores: 3,
        log_entries_max: Some(limit),
        ..Settings::of("test_one_snapshot_2c")
    };
    run(settings, move |cluster| async move {
        cluster.must_put_in(Lock, "k1", "v1").await;
        cluster.must_put_in(Lock, "k2", "v2").await;
        cluster.must_have_in(1, Lock, "k1", "v1").await;
        cluster.must_have_in(1, Lock, "k2", "v2").await;
        // Long enough for several looks at the logs.
        cluster.pause(SECOND).await;
        let kept = cluster.logs_kept(1);
        assert_eq!(kept.len(), 3);
        assert!(kept.values().all(|kept| kept.truncated == (5, 5)), "{kept:?}");

        cluster.partition(&[1], &[2, 3]);
        for number in 100..115 {
            cluster.must_put_in(Lock, format!("k{number}"), format!("v{number}")).await;
        }
        cluster.must_delete_in(Lock, "k2").await;
        cluster.pause(500 * MILLISECOND).await;
        assert_eq!(cluster.on_store(1, Lock, "k100"), None);
        assert_eq!(cluster.on_store(1, Lock, "k2"), Some("v2".into()));
        let behind = cluster.logs_kept(1)[&1].applied;
        let cut = cluster.logs_kept(1)[&2].truncated.0;
        assert!(cut > behind, "store 1 has {behind}, which is still in the log cut at {cut}");
        cluster.clear_filters();

        cluster.must_have_in(1, Lock, "k1", "v1").await;
        cluster.must_have_in(1, Lock, "k100", "v100").await;
        cluster.must_have_in(1, Lock, "k114", "v114").await;
        cluster.must_lack_in(1, Lock, "k2").await;

        cluster.power_off(1);
        cluster.start(1);
        cluster.must_have_in(1, Lock, "k1", "v1").await;
        cluster.must_have_in(1, Lock, "k114", "v114").await;
        cluster.must_lack_in(1, Lock, "k2").await;
        let kept = cluster.logs_kept(1);
        assert_eq!(kept.len(), 3);
        assert!(kept.values().all(|kept| kept.entries() <= 2 * limit), "{kept:?}");
    });
}

/// One client, logs of a hundred entries, and losses of power.
///
/// Look: `raftstore/src/operation/compact_log.rs`, "After": a cut waits until the data is durable.
///
/// Hint: the log is what the data is made of again after a loss of power. Cut first and sync later, and a
/// start finds a hole.
#[test]
fn test_snapshot_recover_2c() {
    GenericTest { clients: 1, crash: true, ..SHORT_LOGS }.run("test_snapshot_recover_2c");
}

/// Twenty clients, logs of a hundred entries, and losses of power.
///
/// Look: `raftstore/src/storage/mod.rs`, the table of what can be found at a start.
///
/// Hint: the term of the last entry that was cut off is still asked for.
#[test]
fn test_snapshot_recover_many_clients_2c() {
    GenericTest { clients: 20, crash: true, ..SHORT_LOGS }
        .run("test_snapshot_recover_many_clients_2c");
}

/// Five clients, logs of a hundred entries, and lost messages: snapshots among them.
///
/// Look: `raftstore/src/operation/snapshot.rs` (a snapshot that is asked for again).
///
/// Hint: a snapshot is on its way for long. What it needs afterwards must still be in the log, or it will
/// have been sent in vain.
#[test]
fn test_snapshot_unreliable_2c() {
    GenericTest { unreliable: true, ..SHORT_LOGS }.run("test_snapshot_unreliable_2c");
}

/// Five clients, logs of a hundred entries, losses of power and of messages.
///
/// Look: `raftstore/src/driver/background.rs` (installing), `raftstore/src/store/lifecycle.rs`.
///
/// Hint: between the data of a snapshot and the log behind it the power may fail.
#[test]
fn test_snapshot_unreliable_recover_2c() {
    GenericTest { unreliable: true, crash: true, ..SHORT_LOGS }
        .run("test_snapshot_unreliable_recover_2c");
}

/// Five clients, logs of a hundred entries, and everything: losses of power and of messages, partitions.
///
/// Look: `raftstore/src/operation/snapshot.rs`, `raftstore/src/operation/compact_log.rs` (why a log may
/// grow to twice its length under a snapshot).
///
/// Hint: a snapshot that comes late, when the follower has long got there by the log, changes nothing.
#[test]
fn test_snapshot_unreliable_recover_concurrent_partition_2c() {
    GenericTest { unreliable: true, crash: true, partitions: true, ..SHORT_LOGS }
        .run("test_snapshot_unreliable_recover_concurrent_partition_2c");
}
