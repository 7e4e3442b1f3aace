//! How a mischief is done, and undone.
//!
//! Each lane owns what it breaks: one the processes, one the network; the third only asks. Every step
//! undoes itself before the next begins, so at the end of the lanes nothing is left to heal but what
//! has ended by itself, which is a finding.

#![allow(clippy::wildcard_enum_match_arm, reason = "each kind of mischief has its own act")]

use std::time::{Duration, Instant};

use tests::sim::dice::Dice;

use super::load::Books;
use super::nemesis::{Lane, Mischief, Step};
use super::network::Network;
use super::report::Diary;
use super::scout::Scout;
use crate::cluster::{Node, Processes};

/// Splits stop when there are so many regions: every region costs on two cores, and none is merged.
const REGIONS_MAX: usize = 60;

/// What every lane knows.
pub(super) struct Scene<'a> {
    pub(super) scout: &'a Scout,
    pub(super) books: &'a Books,
    pub(super) diary: &'a Diary,
    pub(super) end: Instant,
}

impl Scene<'_> {
    /// Steps until the time is over.
    fn next(&self, lane: &mut Lane) -> Option<Step> {
        (Instant::now() < self.end).then(|| lane.next())
    }

    async fn leader_store(&self, step: Step) -> usize {
        let key = self.books.key_in_use(step.pick);
        let leader = self.scout.leader_store(&key).await;
        leader.unwrap_or(step.pick as usize % self.scout.stores.len())
    }

    async fn leader_member(&self, step: Step) -> usize {
        let leader = self.scout.leader_member().await;
        leader.unwrap_or(step.pick as usize % self.scout.members.len())
    }

    /// Nodes are numbered with the members first.
    fn number_of_store(&self, store: usize) -> usize {
        self.scout.members.len() + store
    }
}

/// Kills and pauses. Returns what ended by itself.
pub(super) async fn hurt_processes(
    scene: &Scene<'_>,
    mut lane: Lane,
    cluster: &mut Processes,
) -> Vec<String> {
    let mut findings = Vec::new();
    while let Some(step) = scene.next(&mut lane) {
        let victims = victims(scene, step).await;
        let names: Vec<String> = victims
            .iter()
            .map(|victim| cluster.nodes().nth(*victim).unwrap().name.clone())
            .collect();
        let lasts = step.lasts.as_millis();
        let what = format!("{:?} {} for {lasts} ms", step.kind, names.join(" "));
        scene.diary.note(&what);
        scene.diary.count(step.kind);
        let began = Instant::now();
        let is_pause = matches!(
            step.kind,
            Mischief::PauseStoreShortly | Mischief::PauseLeaderStore | Mischief::PauseLeaderMember
        );
        for node in chosen(cluster, &victims) {
            if is_pause { node.pause() } else { node.kill() }
        }
        tokio::time::sleep(step.lasts).await;
        for node in chosen(cluster, &victims) {
            if is_pause { node.resume() } else { node.start() }
        }
        scene.diary.note(format_args!(
            "{} {}",
            if is_pause { "resumed" } else { "started" },
            names.join(" ")
        ));
        tokio::time::sleep(step.calm).await;
        scene.diary.over(began, &what);
        findings.extend(revive(scene.diary, cluster));
    }
    findings
}

fn chosen<'a>(
    cluster: &'a mut Processes,
    victims: &'a [usize],
) -> impl Iterator<Item = &'a mut Node> {
    let nodes = cluster.nodes().enumerate();
    nodes.filter(|(number, _)| victims.contains(number)).map(|(_, node)| node)
}

/// Starts what has ended by itself, and says so: nothing here asks a process to end.
pub(super) fn revive(diary: &Diary, cluster: &mut Processes) -> Vec<String> {
    let mut findings = Vec::new();
    for node in cluster.nodes() {
        if let Some(status) = node.died() {
            let finding = format!("{} ended by itself: {status}", node.name);
            diary.note(&finding);
            findings.push(finding);
            node.start();
        }
    }
    findings
}

/// Whom a step is for, as numbers of nodes.
async fn victims(scene: &Scene<'_>, step: Step) -> Vec<usize> {
    let (members, stores) = (scene.scout.members.len(), scene.scout.stores.len());
    let pick = step.pick as usize;
    match step.kind {
        Mischief::KillStore | Mischief::PauseStoreShortly => {
            vec![scene.number_of_store(pick % stores)]
        }
        Mischief::KillLeaderStore | Mischief::PauseLeaderStore => {
            vec![scene.number_of_store(scene.leader_store(step).await)]
        }
        Mischief::KillTwoStores => {
            let first = pick % stores;
            let second = (first + 1 + (pick >> 8) % (stores - 1)) % stores;
            vec![scene.number_of_store(first), scene.number_of_store(second)]
        }
        Mischief::KillMember => vec![pick % members],
        Mischief::KillLeaderMember | Mischief::PauseLeaderMember => {
            vec![scene.leader_member(step).await]
        }
        Mischief::KillAll => (0..members + stores).collect(),
        other => panic!("{other:?} is nothing that is done to a process"),
    }
}

/// Cuts links. Returns when all of them are whole again.
pub(super) async fn hurt_links(scene: &Scene<'_>, mut lane: Lane, network: &mut Network) {
    let (members, stores) = (scene.scout.members.len(), scene.scout.stores.len());
    let nodes: Vec<usize> = (0..members + stores).collect();
    while let Some(step) = scene.next(&mut lane) {
        let pick = step.pick as usize;
        let mut dice = Dice::new(step.pick);
        scene.diary.count(step.kind);
        let began = Instant::now();
        let mut camp = nodes.clone();
        dice.shuffle(&mut camp);
        let links = match step.kind {
            Mischief::OneWay => {
                camp.truncate(2);
                vec![(camp[0], camp[1])]
            }
            Mischief::MuteLeaderStore => {
                camp = vec![scene.number_of_store(scene.leader_store(step).await)];
                links_out_of(&camp, &nodes)
            }
            Mischief::DeafenLeaderStore => {
                camp = vec![scene.number_of_store(scene.leader_store(step).await)];
                links_into(&camp, &nodes)
            }
            Mischief::DeafenLeaderMember => {
                camp = vec![scene.leader_member(step).await];
                links_into(&camp, &nodes)
            }
            Mischief::IsolateStore => {
                camp = vec![scene.number_of_store(pick % stores)];
                links_round(&camp, &nodes)
            }
            Mischief::IsolateLeaderStore => {
                camp = vec![scene.number_of_store(scene.leader_store(step).await)];
                links_round(&camp, &nodes)
            }
            Mischief::IsolateLeaderMember => {
                camp = vec![scene.leader_member(step).await];
                links_round(&camp, &nodes)
            }
            Mischief::Halves => {
                camp.truncate(nodes.len() / 2);
                links_round(&camp, &nodes)
            }
            Mischief::Swizzle => {
                camp.truncate(1 + pick % (nodes.len() - 1));
                Vec::new()
            }
            other => panic!("{other:?} is nothing that is done to a link"),
        };
        let what =
            format!("{:?} {} for {} ms", step.kind, names(scene, &camp), step.lasts.as_millis());
        scene.diary.note(&what);
        if step.kind == Mischief::Swizzle {
            swizzle(network, &camp, &nodes, step.lasts, &mut dice).await;
        } else {
            network.cut(&links);
            tokio::time::sleep(step.lasts).await;
            network.restore(&links);
        }
        scene.diary.note(format_args!("whole again after {:?}", step.kind));
        tokio::time::sleep(step.calm).await;
        scene.diary.over(began, &what);
    }
}

fn names(scene: &Scene<'_>, camp: &[usize]) -> String {
    let members = scene.scout.members.len();
    let name = |node: &usize| match node.checked_sub(members) {
        Some(store) => format!("store-{}", store + 1),
        None => format!("scheduler-{}", node + 1),
    };
    camp.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// Isolates one after the other, then brings them back in another order.
async fn swizzle(
    network: &mut Network,
    camp: &[usize],
    nodes: &[usize],
    lasts: Duration,
    dice: &mut Dice,
) {
    let pause = lasts / (2 * camp.len() as u32);
    for victim in camp {
        network.cut(&links_round(&[*victim], nodes));
        tokio::time::sleep(pause).await;
    }
    let mut left = camp.to_vec();
    dice.shuffle(&mut left);
    while let Some(victim) = left.pop() {
        let mut links = links_round(&[victim], nodes);
        links.retain(|(from, to)| !left.contains(from) && !left.contains(to));
        network.restore(&links);
        tokio::time::sleep(pause).await;
    }
}

/// Every link out of the camp, as (from, to): the others do not hear it any more.
fn links_out_of(camp: &[usize], nodes: &[usize]) -> Vec<(usize, usize)> {
    let outside = || nodes.iter().filter(|node| !camp.contains(node));
    camp.iter().flat_map(|inside| outside().map(|outside| (*inside, *outside))).collect()
}

/// Every link into the camp: it does not hear the others any more.
fn links_into(camp: &[usize], nodes: &[usize]) -> Vec<(usize, usize)> {
    links_out_of(camp, nodes).into_iter().map(|(inside, outside)| (outside, inside)).collect()
}

/// Both directions of every link between the camp and the others.
fn links_round(camp: &[usize], nodes: &[usize]) -> Vec<(usize, usize)> {
    [links_out_of(camp, nodes), links_into(camp, nodes)].concat()
}

#[test]
fn one_way_cuts_leave_the_other_way_whole() {
    let nodes = [0, 1, 2];
    assert_eq!(links_out_of(&[1], &nodes), [(1, 0), (1, 2)]);
    assert_eq!(links_into(&[1], &nodes), [(0, 1), (2, 1)]);
    assert_eq!(links_round(&[1, 2], &nodes), [(1, 0), (2, 0), (0, 1), (0, 2)]);
}

/// Splits regions and moves the scheduler's leadership, as far as the cluster lets it.
pub(super) async fn rearrange(scene: &Scene<'_>, mut lane: Lane) {
    while let Some(step) = scene.next(&mut lane) {
        let done = match step.kind {
            Mischief::Split => {
                let few = scene.scout.regions().await.is_some_and(|regions| regions < REGIONS_MAX);
                let key = scene.books.key_in_use(step.pick);
                let name = key.name.clone();
                let done = few && scene.scout.split(&[key]).await;
                if done {
                    scene.diary.note(format_args!("split at {name}"));
                }
                done
            }
            Mischief::HandOver => {
                let to = step.pick as usize % scene.scout.members.len();
                let done = scene.scout.hand_over(to).await;
                if done {
                    scene.diary.note(format_args!("scheduler-{} is asked to lead", to + 1));
                }
                done
            }
            other => panic!("{other:?} rearranges nothing"),
        };
        if done {
            scene.diary.count(step.kind);
        }
        tokio::time::sleep(step.calm).await;
    }
}
