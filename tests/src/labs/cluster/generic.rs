//! The test that most labs of the cluster are an instance of.
//!
//! ```text
//!  three times:   clients begin
//!                 300 ms later trouble in the network, 100 ms later changes of membership, if any
//!                 5 s
//!                 everybody is told to stop, and waited for; the network is whole again
//!                 all stores lose their power and start again, if wanted
//!                 what the clients wrote is there, once, in order; then it is deleted
//!                 logs are short, and the region was split, if that was wanted
//! ```
//!
//! A client puts the next of its keys, or reads all of them and wants exactly what it has put. So it sees
//! lost writes, writes that come twice or in the wrong order, and old reads, whatever happened between.

use super::settings::{ELECTION_TIMEOUT, Settings};
use super::tasks::{Cluster, run};
use super::trouble::{Stop, change_members, trouble_network};
use crate::sim::events::{Instant, MILLISECOND, SECOND};
use crate::sim::options::Plant;

const ROUNDS: usize = 3;

/// Clients are at it for so long in each round.
const ROUND_LASTS: Instant = 5 * SECOND;

/// Trouble begins so long after the clients.
const TROUBLE_AFTER: Instant = 300 * MILLISECOND;
const CHANGES_AFTER: Instant = 100 * MILLISECOND;

/// Stores are down for so long.
const DOWN_FOR: Instant = 500 * MILLISECOND;

/// Logs are short so long after the last write.
const CUT_WITHIN: Instant = SECOND;

/// A region that is too large is split within this time.
const SPLIT_WITHIN: Instant = 2 * SECOND;

/// Regions are split at so many bytes, into parts of so many.
const REGION_BYTES: (u64, u64) = (300, 200);

/// All clients together make at most about one request in this time, and a third of that when a few hundred
/// bytes are a region: each region costs.
const REQUEST_EVERY: Instant = 600;

/// What an instance is made of. Everything that is not set does not happen.
#[derive(Clone, Debug, Default)]
pub struct GenericTest {
    /// How many clients there are; each has keys of its own.
    pub clients: u64,
    /// Whether messages between stores are lost.
    pub unreliable: bool,
    /// Whether all stores lose their power at the end of each round.
    pub crash: bool,
    /// Whether the stores fall apart in two groups, other ones every half second.
    pub partitions: bool,
    /// Logs are cut when they have more entries than this.
    pub log_entries_max: Option<u64>,
    /// Whether members come and go.
    pub conf_change: bool,
    /// Whether regions are split when they have a few hundred bytes.
    pub split: bool,
    /// A bug to plant, to see the test find it.
    pub plant: Option<Plant>,
}

impl GenericTest {
    /// Runs the instance under the name of its test. Returns a number that is equal for equal runs.
    pub fn run(self, test: &'static str) -> u64 {
        self.run_rounds(test, ROUNDS)
    }

    /// The same with fewer or more rounds.
    pub fn run_rounds(self, test: &'static str, rounds: usize) -> u64 {
        let settings = Settings {
            log_entries_max: self.log_entries_max,
            region_bytes: self.split.then_some(REGION_BYTES),
            plant: self.plant,
            ..Settings::of(test)
        };
        run(settings, move |cluster| async move {
            cluster.pause(2 * ELECTION_TIMEOUT).await;
            for _ in 0..rounds {
                self.round(&cluster).await;
            }
        })
    }

    async fn round(&self, cluster: &Cluster) {
        let (clients_stop, trouble_stop) = (Stop::default(), Stop::default());
        let think = REQUEST_EVERY * self.clients * if self.split { 3 } else { 1 };
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                cluster.spawn(client(cluster.clone(), number, think, clients_stop.clone()))
            })
            .collect();
        let mut network = None;
        if self.unreliable || self.partitions {
            cluster.pause(TROUBLE_AFTER).await;
            let stop = trouble_stop.clone();
            let trouble = trouble_network(cluster.clone(), self.partitions, self.unreliable, stop);
            network = Some(cluster.spawn(trouble));
        }
        let mut members = None;
        if self.conf_change {
            cluster.pause(CHANGES_AFTER).await;
            let changes = change_members(cluster.clone(), trouble_stop.clone());
            members = Some(cluster.spawn(changes));
        }
        cluster.pause(ROUND_LASTS).await;
        clients_stop.now();
        trouble_stop.now();
        if let Some(network) = network {
            network.join().await;
            cluster.pause(ELECTION_TIMEOUT).await;
        }
        if let Some(members) = members {
            let changes = members.join().await;
            assert!(changes > 0, "members do not change");
        }
        let mut counts = Vec::new();
        for client in clients {
            counts.push(client.join().await);
        }
        if self.crash {
            crash_all(cluster).await;
        }
        for (client, count) in counts.into_iter().enumerate() {
            check_and_delete(cluster, client as u64, count).await;
        }
        if let Some(log_entries_max) = self.log_entries_max {
            cluster.pause(CUT_WITHIN).await;
            check_logs(cluster, log_entries_max);
        }
        if self.split {
            must_be_split(cluster).await;
        }
    }
}

/// Puts, or reads all that it has put, until told to stop. Returns how many keys it has put.
async fn client(cluster: Cluster, number: u64, think: Instant, stop: Stop) -> u64 {
    let mut dice = cluster.dice(&format!("client {number} at {}", cluster.now()));
    let mut count = 0;
    let mut expected = String::new();
    while !stop.is_due() {
        if dice.happens(500) {
            let value = value_of(number, count);
            cluster.must_put(key_of(number, count), value.clone()).await;
            expected.push_str(&value);
            count += 1;
        } else {
            let found = cluster.scan(key_of(number, 0), key_of(number, count)).await.concat();
            let found = String::from_utf8_lossy(&found);
            assert_eq!(found, expected, "client {number} reads what it has put");
        }
        cluster.pause(dice.within(0..2 * think)).await;
    }
    count
}

fn key_of(client: u64, count: u64) -> String {
    format!("{client} {count:08}")
}

fn value_of(client: u64, count: u64) -> String {
    format!("x {client} {count} y")
}

async fn crash_all(cluster: &Cluster) {
    cluster.stores().into_iter().for_each(|store| cluster.power_off(store));
    cluster.pause(DOWN_FOR).await;
    cluster.stores().into_iter().for_each(|store| cluster.start(store));
}

/// All that a client has put is there, once, in order. Then it is no more.
async fn check_and_delete(cluster: &Cluster, client: u64, count: u64) {
    let found = cluster.scan(key_of(client, 0), key_of(client, count)).await.concat();
    let found = String::from_utf8_lossy(&found);
    check_appends(&found, client, count);
    for number in 0..count {
        cluster.must_delete(key_of(client, number)).await;
    }
    let left = cluster.scan(key_of(client, 0), key_of(client, count)).await;
    assert!(left.is_empty(), "client {client}: {left:?} is left");
}

/// Each of a client's values stands in the text once, behind the one before.
fn check_appends(text: &str, client: u64, count: u64) {
    let mut behind = 0;
    for number in 0..count {
        let value = value_of(client, number);
        let at = text.find(&value).unwrap_or_else(|| panic!("{value:?} is missing in {text:?}"));
        assert_eq!(text.rfind(&value), Some(at), "{value:?} is there twice, in {text:?}");
        assert!(at >= behind, "{value:?} is in the wrong order, in {text:?}");
        behind = at + value.len();
    }
    assert_eq!(behind, text.len(), "there is more than client {client} has put: {text:?}");
}

/// On every store that has a region, its log is at most twice as long as it may become.
fn check_logs(cluster: &Cluster, log_entries_max: u64) {
    for region in cluster.regions() {
        for (store, kept) in cluster.logs_kept(region.id) {
            assert!(
                kept.entries() <= 2 * log_entries_max,
                "s{store} keeps {kept:?} of the log of region {}",
                region.id,
            );
        }
    }
}

/// The first region does not go on for ever.
async fn must_be_split(cluster: &Cluster) {
    let deadline = cluster.now() + SPLIT_WITHIN;
    while cluster.must_region_of("").await.end_key.is_empty() {
        assert!(cluster.now() < deadline, "the region is not split");
        cluster.pause(10 * MILLISECOND).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_runs() {
        let run = |test| {
            let generic = GenericTest {
                clients: 3,
                unreliable: true,
                crash: true,
                partitions: true,
                log_entries_max: Some(100),
                conf_change: true,
                split: true,
                plant: None,
            };
            generic.run_rounds(test, 1)
        };
        assert_eq!(run("a"), run("a"));
        assert_ne!(run("a"), run("b"));
    }

    /// A lab that cannot fail teaches nothing. (For a lease that is too long see lab 2B.)
    #[test]
    #[should_panic(expected = "is committed but durable only on")]
    fn a_planted_bug_is_found() {
        let plant = Some(Plant::AcknowledgeBeforeSync);
        GenericTest { clients: 1, plant, ..GenericTest::default() }.run("a_planted_bug_is_found");
    }

    #[test]
    fn what_is_wrong_with_appends_is_found() {
        let found =
            |text: &str, count| std::panic::catch_unwind(|| check_appends(text, 1, count)).is_err();
        assert!(!found("x 1 0 yx 1 1 y", 2));
        assert!(found("x 1 0 y", 2), "one is missing");
        assert!(found("x 1 0 yx 1 1 yx 1 0 y", 2), "one is there twice");
        assert!(found("x 1 1 yx 1 0 y", 2), "in the wrong order");
        assert!(found("x 1 0 yx 1 1 y", 1), "one too many");
    }
}
