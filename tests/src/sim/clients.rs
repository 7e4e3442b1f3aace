//! The clients of a run: who asks what of whom, and what they make of the answers.
//!
//! A client has one call under way. It tries again on every refusal that says "nothing happened",
//! until its patience ends; what it then cannot tell from a loss is *unknown* in the history, and
//! the client goes on under a new name, as a crashed one would.

use proto::{Refusal, metapb};

use super::dice::Dice;
use super::events::{Instant, MILLISECOND};
use super::region_map::RegionMap;
use crate::history::{Call, History, OperationId, Outcome};
use crate::workload::{Registers, key_bytes};

/// A client waits so long for a call, retries included.
const PATIENCE: std::ops::Range<Instant> = 400 * MILLISECOND..3_000 * MILLISECOND;
/// Pause before a refused call is tried again.
const RETRY_PAUSE: std::ops::Range<Instant> = 2 * MILLISECOND..60 * MILLISECOND;

/// One try of one call, as it travels to a store.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which client.
    pub slot: usize,
    /// Which try of that client; answers to earlier ones are ignored.
    pub attempt: u64,
    /// On which register.
    pub key: u64,
    /// What is asked.
    pub call: Call,
    /// The region as the client knows it.
    pub region: metapb::Region,
    /// Whether any replica may answer.
    pub replica_read: bool,
}

/// What a store answers.
#[derive(Clone, Debug)]
pub struct Response {
    /// Which client.
    pub slot: usize,
    /// Which try it answers.
    pub attempt: u64,
    /// How it ended, or why nothing happened.
    pub result: Result<Outcome, Refusal>,
}

/// What a client wants of the world next.
#[derive(Debug)]
pub enum Wish {
    /// Wake this client after a while.
    Think(usize, Instant),
    /// Wake the client for a call's deadline.
    Deadline(usize, u64, Instant),
    /// Try again after a while.
    Retry(usize, u64, Instant),
    /// Carry a request to a store.
    Send(u64, Request),
}

#[derive(Debug)]
struct Current {
    operation: OperationId,
    key: u64,
    call: Call,
    replica_read: bool,
    /// A try is on its way and has not been answered.
    in_flight: bool,
}

#[derive(Debug, Default)]
struct Client {
    /// The name in the history.
    name: u64,
    /// Counts calls and tries together, so that no two ever share a number.
    attempt: u64,
    /// The number that `attempt` had when the call began.
    call_number: u64,
    current: Option<Current>,
}

/// All clients of a run, and the map that they share.
#[derive(Debug)]
pub struct Clients {
    dice: Dice,
    clients: Vec<Client>,
    names: u64,
    registers: Registers,
    /// What happened, for the judge.
    pub history: History,
    map: RegionMap,
    stores: Vec<u64>,
    think: Instant,
    replica_reads: u64,
    done: u64,
}

impl Clients {
    /// So many clients, which know the first region.
    pub fn new(
        dice: Dice,
        count: u64,
        registers: Registers,
        stores: Vec<u64>,
        think: Instant,
        replica_reads: u64,
    ) -> Self {
        let clients = (0..count).map(|name| Client { name, ..Client::default() }).collect();
        Self {
            dice,
            clients,
            names: count,
            registers,
            history: History::default(),
            map: RegionMap::default(),
            stores,
            think,
            replica_reads,
            done: 0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// How many calls ended well.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// A value that nobody has written yet.
    pub fn fresh_value(&mut self) -> u64 {
        self.registers.fresh_value()
    }

    /// Every key that was ever asked for.
    pub fn keys_used(&self) -> Vec<u64> {
        self.registers.keys_used().collect()
    }

    /// What they believe of the cluster.
    pub fn map(&mut self) -> &mut RegionMap {
        &mut self.map
    }

    /// The client begins a call.
    pub fn begin(&mut self, slot: usize) -> Vec<Wish> {
        if self.clients[slot].current.is_some() {
            return Vec::new();
        }
        let (key, call) = self.registers.next_call();
        let replica_read = call == Call::Read && self.dice.happens(self.replica_reads);
        let patience = self.dice.within(PATIENCE);
        self.begin_call(slot, key, call, replica_read, patience)
    }

    /// The client begins this call.
    pub fn begin_call(
        &mut self,
        slot: usize,
        key: u64,
        call: Call,
        replica_read: bool,
        patience: Instant,
    ) -> Vec<Wish> {
        let client = &mut self.clients[slot];
        let operation = self.history.call(client.name, key, call);
        client.attempt += 1;
        client.call_number = client.attempt;
        client.current = Some(Current { operation, key, call, replica_read, in_flight: false });
        let number = client.call_number;
        let mut wishes = vec![Wish::Deadline(slot, number, patience)];
        wishes.extend(self.send(slot));
        wishes
    }

    /// Whether the client has no call under way.
    pub fn is_idle(&self, slot: usize) -> bool {
        self.clients[slot].current.is_none()
    }

    /// The client tries again, unless that call ended.
    pub fn retry(&mut self, slot: usize, attempt: u64) -> Vec<Wish> {
        if self.clients[slot].attempt != attempt || self.is_idle(slot) {
            return Vec::new();
        }
        self.send(slot)
    }

    fn send(&mut self, slot: usize) -> Vec<Wish> {
        let Some(current) = &self.clients[slot].current else { return Vec::new() };
        let bytes = key_bytes(current.key);
        let Some(region) = self.map.region_of(&bytes).cloned() else {
            let attempt = self.clients[slot].attempt;
            return vec![Wish::Retry(slot, attempt, self.dice.within(RETRY_PAUSE))];
        };
        let guess = self.map.leader_of(region.id);
        let holders: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        let anywhere = current.replica_read || self.dice.happens(30);
        let store = match guess {
            Some(leader) if !anywhere => leader,
            Some(_) | None => *self
                .dice
                .one_of(if holders.is_empty() { &self.stores } else { &holders })
                .expect("a world has stores"),
        };
        let client = &mut self.clients[slot];
        client.attempt += 1;
        let current = client.current.as_mut().expect("looked at above");
        current.in_flight = true;
        let request = Request {
            slot,
            attempt: client.attempt,
            key: current.key,
            call: current.call,
            region,
            replica_read: current.replica_read,
        };
        vec![Wish::Send(store, request)]
    }

    /// An answer comes.
    pub fn on_response(&mut self, from: u64, response: Response) -> Vec<Wish> {
        let Response { slot, attempt, result } = response;
        let client = &mut self.clients[slot];
        if client.attempt != attempt {
            return Vec::new();
        }
        let Some(current) = &mut client.current else { return Vec::new() };
        current.in_flight = false;
        match result {
            Ok(outcome) => {
                if let Outcome::Read(value) = outcome {
                    self.registers.saw(value);
                }
                self.done += 1;
                self.end(slot, outcome)
            }
            Err(Refusal::UndeterminedResult { .. }) => self.end(slot, Outcome::Unknown),
            Err(refusal) => {
                self.map.learn_from(from, &refusal);
                vec![Wish::Retry(slot, attempt, self.dice.within(RETRY_PAUSE))]
            }
        }
    }

    /// The client's patience with a call ends.
    pub fn on_deadline(&mut self, slot: usize, call_number: u64) -> Vec<Wish> {
        let client = &self.clients[slot];
        let Some(current) = client.current.as_ref().filter(|_| client.call_number == call_number)
        else {
            return Vec::new();
        };
        let outcome = if current.in_flight { Outcome::Unknown } else { Outcome::Refused };
        // Perhaps nobody is there.
        self.map.forget_leaders();
        self.end(slot, outcome)
    }

    fn end(&mut self, slot: usize, outcome: Outcome) -> Vec<Wish> {
        let client = &mut self.clients[slot];
        let current = client.current.take().expect("a call that ends was under way");
        if outcome == Outcome::Unknown {
            client.name = self.names;
            self.names += 1;
        }
        // Answers to this call that are still on their way find another number.
        client.attempt += 1;
        self.history.end(current.operation, outcome);
        vec![Wish::Think(slot, self.dice.delay(self.think))]
    }
}
