//! Nodes that talk until nobody has anything to say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ::raft::StateRole;
use ::raft::eraftpb::{Message, MessageType};

use super::node::{Node, fresh, persist};
use crate::sim::dice::Dice;

/// What sits at a place of the network.
pub enum Slot {
    /// A fresh node, which knows the numbers of all slots as its voters.
    Fresh,
    /// This node.
    Given(Box<Node>),
    /// Takes every message and never answers.
    BlackHole,
}

/// A network of nodes with the numbers 1, 2, 3 and so on.
pub struct Network {
    nodes: BTreeMap<u64, Option<Node>>,
    cut: BTreeSet<(u64, u64)>,
    /// Messages lost on a directed link, in thousandths.
    lossy: BTreeMap<(u64, u64), u64>,
    ignored: Vec<MessageType>,
    dice: Dice,
}

impl Network {
    /// So many fresh nodes.
    pub fn of(size: usize) -> Self {
        Self::with((0..size).map(|_| Slot::Fresh).collect())
    }

    /// These slots, in order.
    pub fn with(slots: Vec<Slot>) -> Self {
        let all: Vec<u64> = (1..=slots.len() as u64).collect();
        let nodes = slots
            .into_iter()
            .zip(1..)
            .map(|(slot, id)| match slot {
                Slot::Fresh => (id, Some(fresh(id, &all))),
                Slot::Given(node) => {
                    assert_eq!(node.id, id, "a node sits at its own number");
                    (id, Some(*node))
                }
                Slot::BlackHole => (id, None),
            })
            .collect();
        Self {
            nodes,
            cut: BTreeSet::new(),
            lossy: BTreeMap::new(),
            ignored: Vec::new(),
            dice: Dice::new(1),
        }
    }

    /// The node at this number, which is no black hole.
    pub fn node(&self, id: u64) -> &Node {
        self.nodes[&id].as_ref().expect("a black hole is not looked into")
    }

    /// The same, to change it.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        let slot = self.nodes.get_mut(&id).expect("the network has this number");
        slot.as_mut().expect("a black hole is not looked into")
    }

    /// All nodes that are no black holes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().flatten()
    }

    /// The same, to change them.
    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut().flatten()
    }

    /// Delivers these, whatever is cut, and then everything that comes of them, first come first
    /// served, until nothing is left. What a node refuses is lost. After each message its node
    /// persists.
    pub fn send(&mut self, messages: impl IntoIterator<Item = Message>) {
        let mut queue: VecDeque<Message> = messages.into_iter().collect();
        while let Some(message) = queue.pop_front() {
            let Some(node) = self.nodes.get_mut(&message.to).and_then(Option::as_mut) else {
                continue;
            };
            // A proposal without a leader is dropped: that is what a test looks at afterwards.
            let _ = node.step(message);
            persist(node);
            let spoken = std::mem::take(&mut node.msgs);
            queue.extend(spoken.into_iter().filter(|message| self.passes(message)));
        }
    }

    fn passes(&mut self, message: &Message) -> bool {
        let kind = message.get_msg_type();
        assert_ne!(kind, MessageType::MsgHup, "nobody tells another node to campaign");
        let link = (message.from, message.to);
        let loss = self.lossy.get(&link).copied().unwrap_or(0);
        !self.ignored.contains(&kind) && !self.cut.contains(&link) && !self.dice.happens(loss)
    }

    /// Nothing passes between two nodes.
    pub fn cut(&mut self, one: u64, other: u64) {
        self.cut.extend([(one, other), (other, one)]);
    }

    /// Nothing passes to or from a node.
    pub fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    /// So many of a thousand messages from one node to another are lost.
    pub fn lose(&mut self, from: u64, to: u64, per_mille: u64) {
        self.lossy.insert((from, to), per_mille);
    }

    /// No message of this kind passes.
    pub fn ignore(&mut self, kind: MessageType) {
        self.ignored.push(kind);
    }

    /// Everything passes again.
    pub fn recover(&mut self) {
        self.cut.clear();
        self.lossy.clear();
        self.ignored.clear();
    }

    /// A node ticks until it is a candidate. What it wants to send waits for its next message.
    pub fn tick_until_candidate(&mut self, id: u64) {
        let node = self.node_mut(id);
        for _ in 0..2 * node.election_timeout() {
            if node.state == StateRole::Candidate {
                return;
            }
            node.tick();
        }
        assert_eq!(node.state, StateRole::Candidate, "nobody is heard, so node {id} campaigns");
    }
}
