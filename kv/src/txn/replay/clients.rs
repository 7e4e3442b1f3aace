//! What the clients of a story do: they begin, hear answers, and give up.

use std::collections::BTreeMap;

use proto::kvrpcpb::{
    FlushRequest, KeyError, Mutation, Op, PessimisticLockRequest, PrewriteRequest,
    PrewriteResponse, prewrite_request::PessimisticAction,
};

use super::{Choices, Client, KEYS, LAST_GENERATION, Message, Style, World, value_of};

impl World {
    pub(super) fn begin(&mut self, choices: &mut Choices<'_>) {
        let style = [
            Style::TwoPhase,
            Style::TwoPhase,
            Style::Async,
            Style::OnePhase,
            Style::Pessimistic,
            Style::Pipelined,
        ][choices.below(6)];
        let mut writes = BTreeMap::new();
        for _ in 0..=choices.below(3) {
            writes.insert(choices.below(KEYS.len()), choices.below(4) == 0);
        }
        let start_ts = self.now();
        let txn = self.clients.len();
        let keys: Vec<usize> = writes.keys().copied().collect();
        self.story.push(format!("{start_ts} begins as number {txn}: {style:?} {writes:?}"));
        self.clients.push(Client {
            start_ts,
            style,
            writes,
            waits_for: keys.clone(),
            min_commit_ts: 0,
            asked: BTreeMap::new(),
            locked: BTreeMap::new(),
            gave_up: false,
            sent_commits: false,
        });
        match style {
            Style::OnePhase => {
                self.send(Message::Prewrite { txn, keys }, 1 + choices.below(3));
            }
            Style::TwoPhase | Style::Async => {
                for key in keys {
                    self.send(Message::Prewrite { txn, keys: vec![key] }, 1 + choices.below(3));
                }
            }
            Style::Pessimistic => {
                for key in keys {
                    self.ask_for_lock(txn, key, choices);
                }
            }
            Style::Pipelined => {
                for key in keys {
                    let message = Message::Flush { txn, key, generation: 1 };
                    self.send(message, 1 + choices.below(3));
                }
            }
        }
        if choices.below(4) == 0 {
            self.send(Message::Heartbeat { txn }, 1 + choices.below(3));
        }
    }

    fn ask_for_lock(&mut self, txn: usize, key: usize, choices: &mut Choices<'_>) {
        let for_update_ts = self.now();
        self.clients[txn].asked.insert(key, for_update_ts);
        self.send(Message::Lock { txn, key, for_update_ts }, 1 + choices.below(3));
    }

    pub(super) fn lock(&self, txn: usize, key: usize, for_update_ts: u64) -> Vec<KeyError> {
        let client = &self.clients[txn];
        let mutation = Mutation {
            op: Op::PessimisticLock as i32,
            key: KEYS[key].into(),
            ..Default::default()
        };
        let request = PessimisticLockRequest {
            mutations: vec![mutation],
            primary_lock: KEYS[client.primary()].into(),
            start_version: client.start_ts,
            for_update_ts,
            lock_ttl: 10,
            wait_timeout: -1,
            return_values: true,
            ..Default::default()
        };
        self.runtime.block_on(self.transactions.pessimistic_lock(request)).errors
    }

    pub(super) fn flush(&self, txn: usize, key: usize, generation: u64) -> Vec<KeyError> {
        let client = &self.clients[txn];
        // The last generation counts.
        let is_last = generation == LAST_GENERATION;
        let value = if is_last { value_of(client.start_ts) } else { value_of(client.start_ts + 1) };
        let op = if is_last && client.writes[&key] { Op::Del } else { Op::Put };
        let mutation =
            Mutation { op: op as i32, key: KEYS[key].into(), value, ..Default::default() };
        let request = FlushRequest {
            mutations: vec![mutation],
            primary_key: KEYS[client.primary()].into(),
            start_ts: client.start_ts,
            generation,
            lock_ttl: 10,
            ..Default::default()
        };
        self.runtime.block_on(self.transactions.flush(request)).errors
    }

    pub(super) fn prewrite(&self, txn: usize, keys: &[usize]) -> PrewriteResponse {
        let client = &self.clients[txn];
        let mutation = |key: &usize| Mutation {
            op: if client.writes[key] { Op::Del } else { Op::Put } as i32,
            key: KEYS[*key].into(),
            value: value_of(client.start_ts),
            ..Default::default()
        };
        let primary = client.primary();
        let request = PrewriteRequest {
            mutations: keys.iter().map(mutation).collect(),
            primary_lock: KEYS[primary].into(),
            start_version: client.start_ts,
            lock_ttl: 10,
            use_async_commit: client.style == Style::Async,
            secondaries: client
                .writes
                .keys()
                .filter(|key| client.style == Style::Async && **key != primary)
                .map(|key| KEYS[*key].into())
                .collect(),
            try_one_pc: client.style == Style::OnePhase,
            for_update_ts: client.locked.values().copied().max().unwrap_or(0),
            pessimistic_actions: keys
                .iter()
                .filter(|_| client.style == Style::Pessimistic)
                .map(|_| PessimisticAction::DoPessimisticCheck as i32)
                .collect(),
            ..Default::default()
        };
        self.runtime.block_on(self.transactions.prewrite(request))
    }

    pub(super) fn on_prewritten(
        &mut self,
        txn: usize,
        keys: &[usize],
        answer: &PrewriteResponse,
        choices: &mut Choices<'_>,
    ) {
        let client = &mut self.clients[txn];
        if client.gave_up || !client.waits_for.contains(&keys[0]) {
            return;
        }
        if !answer.errors.is_empty() {
            // A client asks again only while it has no answer. Were its request still under way, an
            // async commit could succeed behind its back.
            self.fail(
                txn,
                choices,
                |message| matches!(message, Message::Prewrite { keys: others, .. } if others == keys),
            );
            return;
        }
        client.waits_for.retain(|key| !keys.contains(key));
        client.min_commit_ts = client.min_commit_ts.max(answer.min_commit_ts);
        let (start_ts, min_commit_ts) = (client.start_ts, client.min_commit_ts);
        if client.style == Style::OnePhase {
            assert!(answer.one_pc_commit_ts > start_ts);
            self.clock = self.clock.max(answer.one_pc_commit_ts);
            self.learn(start_ts, answer.one_pc_commit_ts);
        } else if client.waits_for.is_empty() {
            if client.style == Style::Async {
                self.clock = self.clock.max(min_commit_ts);
                self.learn(start_ts, min_commit_ts);
                self.send_commits(txn, min_commit_ts, choices);
            } else {
                let commit_ts = self.now();
                let key = self.clients[txn].primary();
                self.send(Message::Commit { txn, key, commit_ts }, 1 + choices.below(3));
            }
        }
    }

    /// A request was refused: it is not sent again, and its client gives up.
    pub(super) fn fail(
        &mut self,
        txn: usize,
        choices: &mut Choices<'_>,
        is_refused: impl Fn(&Message) -> bool,
    ) {
        self.pool.retain(|(message, _)| message.txn() != Some(txn) || !is_refused(message));
        let start_ts = self.clients[txn].start_ts;
        self.learn(start_ts, 0);
        self.give_up(txn, choices);
    }

    pub(super) fn on_locked(
        &mut self,
        txn: usize,
        key: usize,
        for_update_ts: u64,
        errors: &[KeyError],
        choices: &mut Choices<'_>,
    ) {
        let client = &self.clients[txn];
        let is_awaited = client.asked.get(&key) == Some(&for_update_ts);
        if client.gave_up || client.locked.contains_key(&key) || !is_awaited {
            return;
        }
        match errors.first() {
            None => {
                self.clients[txn].locked.insert(key, for_update_ts);
                if self.clients[txn].locked.len() == self.clients[txn].writes.len() {
                    for key in self.clients[txn].writes.keys().copied().collect::<Vec<_>>() {
                        let message = Message::Prewrite { txn, keys: vec![key] };
                        self.send(message, 1 + choices.below(3));
                    }
                }
            }
            // Somebody was faster: the client looks again, a little later.
            Some(error) if error.conflict.is_some() && choices.below(3) > 0 => {
                self.ask_for_lock(txn, key, choices);
            }
            Some(_) => {
                self.fail(txn, choices, |message| matches!(message, Message::Lock { .. }));
                let for_update_ts = self.clock;
                for key in self.clients[txn].writes.keys().copied().collect::<Vec<_>>() {
                    let message = Message::Unlock { txn, key, for_update_ts };
                    self.send(message, 1 + choices.below(3));
                }
            }
        }
    }

    pub(super) fn on_flushed(
        &mut self,
        txn: usize,
        key: usize,
        generation: u64,
        errors: &[KeyError],
        choices: &mut Choices<'_>,
    ) {
        let client = &self.clients[txn];
        if client.gave_up || !client.waits_for.contains(&key) {
            return;
        }
        if !errors.is_empty() {
            self.fail(txn, choices, |message| matches!(message, Message::Flush { .. }));
            return;
        }
        if generation < LAST_GENERATION {
            let message = Message::Flush { txn, key, generation: generation + 1 };
            self.send(message, 1 + choices.below(3));
            return;
        }
        self.clients[txn].waits_for.retain(|waited| *waited != key);
        if self.clients[txn].waits_for.is_empty() {
            let (commit_ts, key) = (self.now(), self.clients[txn].primary());
            self.send(Message::Commit { txn, key, commit_ts }, 1 + choices.below(3));
        }
    }

    pub(super) fn send_commits(&mut self, txn: usize, commit_ts: u64, choices: &mut Choices<'_>) {
        let client = &mut self.clients[txn];
        if std::mem::replace(&mut client.sent_commits, true) {
            return;
        }
        let primary = client.primary();
        let is_async = client.style == Style::Async;
        for key in client.writes.keys().copied().collect::<Vec<_>>() {
            if key != primary || is_async {
                self.send(Message::Commit { txn, key, commit_ts }, 1 + choices.below(3));
            }
        }
    }

    pub(super) fn give_up(&mut self, txn: usize, choices: &mut Choices<'_>) {
        let client = &mut self.clients[txn];
        if std::mem::replace(&mut client.gave_up, true) {
            return;
        }
        for key in client.writes.keys().copied().collect::<Vec<_>>() {
            let message = match choices.below(3) {
                0 => Message::Cleanup { txn, key },
                _ => Message::Rollback { txn, key },
            };
            self.send(message, 1 + choices.below(3));
        }
    }
}
