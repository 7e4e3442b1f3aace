//! Several members: leaders that die, members that join and come back.

use std::collections::BTreeSet;

use proto::{Timestamp, pdpb};

use super::{
    PATIENCE, Tso, alone, bootstrap, eventually, founders, header, leader, on_disk, pd, start,
    start_all, timestamp,
};
use crate::{Config, SchedulerNode, StartError};

async fn ids(nodes: &[SchedulerNode], count: u32) -> std::ops::RangeInclusive<u64> {
    let node = leader(nodes).await;
    let request = pdpb::AllocIdRequest { header: header(node), count };
    let last = pd(node).await.alloc_id(request).await.unwrap().into_inner().id;
    last + 1 - u64::from(count)..=last
}

/// S0.15, S0.19, S0.29: a group of three goes on without any one of its members.
#[tokio::test]
async fn timestamps_grow_and_ids_stay_unique_when_the_leader_dies() {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut configs = founders(&["a", "b", "c"]);
    for (config, directory) in configs.iter_mut().zip(&directories) {
        config.data = on_disk(directory.path());
    }
    let cluster = configs[0].initial_cluster.clone();
    let mut nodes = start_all(configs).await;
    let (mut last, mut seen) = (timestamp(&nodes).await, BTreeSet::new());
    let cluster_id = leader(&nodes).await.cluster_id();
    for _ in 0..3 {
        for id in ids(&nodes, 10).await {
            assert!(seen.insert(id), "id {id} is given again");
        }
        let name = leader(&nodes).await.name().to_owned();
        let at = nodes.iter().position(|node| node.name() == name).unwrap();
        let dead = nodes.remove(at);
        let (peer, name) = (dead.peer_address(), dead.name().to_owned());
        dead.kill().await;
        let next = timestamp(&nodes).await;
        assert!(next > last, "{next} after {last}");
        last = next;
        for id in ids(&nodes, 10).await {
            assert!(seen.insert(id), "id {id} is given again");
        }
        let number = ["a", "b", "c"].iter().position(|known| *known == name).unwrap();
        let back = Config {
            data: on_disk(directories[number].path()),
            peer_listen: crate::Listen::On(peer),
            initial_cluster: cluster.clone(),
            ..alone(&name)
        };
        nodes.push(start(back).await);
    }
    eventually("those who came back know their cluster", async || {
        nodes.iter().all(|node| node.cluster_id() == cluster_id)
    })
    .await;
}

/// S0.20, S0.32, S1.10: what was acknowledged, as a new epoch or a split, is in the log, and loaded before anybody
/// is served.
#[tokio::test]
async fn everything_is_there_when_all_members_were_killed_at_once_and_moved_to_other_ports() {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let names = ["a", "b", "c"];
    let with_data = || {
        let mut configs = founders(&names);
        for (config, directory) in configs.iter_mut().zip(&directories) {
            config.data = on_disk(directory.path());
        }
        configs
    };
    let nodes = start_all(with_data()).await;
    let before = timestamp(&nodes).await;
    let cluster_id = leader(&nodes).await.cluster_id();
    bootstrap(leader(&nodes).await).await;
    let node = leader(&nodes).await;
    let whole = super::region(2, "", "", 1, &[1]);
    let request = pdpb::AskSplitRequest { header: header(node), region: Some(whole) };
    let new = pd(node).await.ask_split(request).await.unwrap().into_inner();
    let left = super::region(new.new_region_id, "", "m", 2, &[1]);
    let right = super::region(2, "m", "", 2, &[1]);
    let request = pdpb::ReportSplitRequest {
        header: header(node),
        left: Some(left.clone()),
        right: Some(right.clone()),
    };
    let reported = pd(node).await.report_split(request).await.unwrap().into_inner();
    assert_eq!(reported.header.unwrap().error, None);
    for node in nodes {
        node.kill().await;
    }
    let nodes = start_all(with_data()).await;
    assert!(timestamp(&nodes).await > before);
    let node = leader(&nodes).await;
    assert_eq!(node.cluster_id(), cluster_id);
    for part in [left, right] {
        let region_key = part.start_key.clone();
        let request =
            pdpb::GetRegionRequest { header: header(node), region_key, ..Default::default() };
        let found = pd(node).await.get_region(request).await.unwrap().into_inner();
        assert_eq!(found.region, Some(part));
    }
    eventually("members are listed where they are now", async || {
        let request = pdpb::GetMembersRequest::default();
        let listed = pd(leader(&nodes).await).await.get_members(request).await.unwrap();
        let urls: BTreeSet<_> =
            listed.into_inner().members.into_iter().flat_map(|m| m.client_urls).collect();
        urls == nodes.iter().map(|node| node.client_url().to_owned()).collect()
    })
    .await;
}

#[tokio::test]
async fn members_join_one_after_the_other_and_carry_the_cluster_on() {
    let mut nodes = vec![start(alone("a")).await];
    assert!(nodes[0].wait_until_served(PATIENCE).await);
    bootstrap(&nodes[0]).await;
    let cluster_id = nodes[0].cluster_id();
    for name in ["b", "c"] {
        let join = vec![nodes[0].client_url().to_owned()];
        nodes.push(start(Config { join, ..alone(name) }).await);
        eventually("the new member votes", async || {
            nodes.iter().all(|node| {
                let members = node.node.members();
                members.len() == nodes.len() && members.iter().all(|member| !member.is_learner)
            })
        })
        .await;
    }
    let before = timestamp(&nodes).await;
    let founder = nodes.remove(0);
    founder.kill().await;
    assert!(timestamp(&nodes).await > before);
    let node = leader(&nodes).await;
    assert_eq!(node.cluster_id(), cluster_id);
    let request = pdpb::GetStoreRequest { header: header(node), store_id: 1 };
    let found = pd(node).await.get_store(request).await.unwrap().into_inner();
    assert_eq!(found.store.unwrap().address, super::store(1).address);
}

#[tokio::test]
async fn a_member_that_joined_comes_back_without_flags() {
    let directory = tempfile::tempdir().unwrap();
    let founder = start(alone("a")).await;
    let join = vec![founder.client_url().to_owned()];
    let joined = start(Config { join, data: on_disk(directory.path()), ..alone("b") }).await;
    let id = joined.member_id();
    let addresses = (joined.client_address(), joined.peer_address());
    eventually("it knows the cluster", async || joined.cluster_id() != 0).await;
    eventually("it votes", async || {
        founder.node.members().iter().filter(|member| !member.is_learner).count() == 2
    })
    .await;
    joined.stop().await;
    let back = start(Config {
        data: on_disk(directory.path()),
        client_listen: crate::Listen::On(addresses.0),
        peer_listen: crate::Listen::On(addresses.1),
        ..alone("b")
    })
    .await;
    assert_eq!(back.member_id(), id);
    assert!(back.wait_until_served(PATIENCE).await);
    assert_eq!(back.cluster_id(), founder.cluster_id());
}

/// S0.16: a group is founded by a list or joined, not both.
#[tokio::test]
async fn what_goes_wrong_when_joining_is_said() {
    let founder = start(alone("a")).await;
    assert!(founder.wait_until_served(PATIENCE).await);
    let join = vec![founder.client_url().to_owned()];
    let taken = SchedulerNode::start(Config { join: join.clone(), ..alone("a") }).await;
    assert!(taken.unwrap_err().to_string().contains("named \"a\" already"));
    let nobody = Config {
        join: vec!["http://127.0.0.1:1".into()],
        join_timeout: std::time::Duration::from_millis(300),
        ..alone("b")
    };
    let error = SchedulerNode::start(nobody).await.unwrap_err();
    assert!(matches!(error, StartError::Join(_)), "{error}");
    let both =
        Config { join, initial_cluster: vec![("b".into(), "http://x:1".into())], ..alone("b") };
    let error = SchedulerNode::start(both).await.unwrap_err();
    assert!(error.to_string().contains("exclude each other"), "{error}");
}

#[tokio::test]
async fn data_of_another_member_or_another_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mine = start(Config { data: on_disk(directory.path()), ..alone("a") }).await;
    assert!(mine.wait_until_served(PATIENCE).await);
    mine.stop().await;
    let renamed = Config { data: on_disk(directory.path()), ..alone("b") };
    let error = SchedulerNode::start(renamed).await.unwrap_err();
    assert!(matches!(error, StartError::WrongDirectory { .. }), "{error}");
    assert!(error.to_string().contains("belongs to member \"a\""), "{error}");

    let mut others = founders(&["a", "b", "c"]);
    let a = others.remove(0);
    let others = start_all(others).await;
    eventually("the other cluster has an id", async || {
        others.iter().all(|node| node.cluster_id() != 0)
    })
    .await;
    let error = SchedulerNode::start(Config { data: on_disk(directory.path()), ..a }).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StartError::WrongDirectory { .. }), "{error}");
    assert!(error.to_string().contains("belongs to cluster"), "{error}");
}

/// The largest of ten timestamps, asked for once.
async fn ten_timestamps(node: &SchedulerNode) -> Result<Timestamp, tonic::Status> {
    let mut stream = Tso::open(node).await?;
    stream.ask(10).await;
    let (last, count) = stream.answer().await?;
    assert_eq!(count, 10);
    Ok(last)
}

/// S1.6: a request that comes right after a change of leaders is answered, and needs no second try: a member is
/// found to lead when its first bound is in the log, and before that it is not.
#[tokio::test]
async fn the_first_request_to_a_new_leader_is_answered() {
    let mut nodes = start_all(founders(&["a", "b", "c", "d", "e"])).await;
    let mut last = timestamp(&nodes).await;
    for _ in 0..2 {
        let name = leader(&nodes).await.name().to_owned();
        let at = nodes.iter().position(|node| node.name() == name).unwrap();
        nodes.remove(at).stop().await;
        last = loop {
            let next = leader(&nodes).await;
            let term = next.node.view().term;
            match ten_timestamps(next).await {
                Ok(ten) => {
                    assert!(ten.0 - 10 >= last.0, "{ten} after {last}");
                    break ten;
                }
                // Only who has lost the lead again may refuse.
                Err(status) => {
                    let leads = next.is_leader() && next.node.view().term == term;
                    assert!(!leads, "it leads, and answers: {status}");
                }
            }
        };
    }
}

/// S0.17: the others hear at once that a leader goes, and one of them follows it.
#[tokio::test]
async fn a_leader_that_stops_hands_over_first() {
    let mut nodes = start_all(founders(&["a", "b", "c"])).await;
    let name = leader(&nodes).await.name().to_owned();
    let at = nodes.iter().position(|node| node.name() == name).unwrap();
    let stopping = nodes.remove(at);
    let term = stopping.node.view().term;
    stopping.stop().await;
    let next = leader(&nodes).await;
    assert_eq!(next.node.view().term, term + 1, "nobody had to wait for a timeout");
}
