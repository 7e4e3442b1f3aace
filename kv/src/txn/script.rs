//! Runs the golden scripts of `testscripts/`: requests to one region on one engine, answers in the
//! house's words, and the records that result.
//!
//! Mutations are written `k=v` (put), `delete/k`, `lock/k`, `insert/k=v`, `absent/k`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{Argument, Command};
use proto::kvrpcpb::{
    self, AssertionLevel, BatchGetRequest, BatchRollbackRequest, BufferBatchGetRequest,
    CheckSecondaryLocksRequest, CheckTxnStatusRequest, CleanupRequest, CommitRequest, Context,
    FlushRequest, GetRequest, IsolationLevel, KeyError, Mutation, MvccGetByStartTsRequest, Op,
    PessimisticLockRequest, PessimisticRollbackRequest, PrewriteRequest, ResolveLockRequest,
    ScanLockRequest, ScanRequest, TxnHeartBeatRequest, TxnInfo,
};
use raftstore::engine::memory::MemoryData;
use test_each_file::test_each_path;

use super::dump::{dump, dump_reserved, lock_info, show};
use super::reservations::Led;
use super::{TimestampFuture, TimestampSource, Transactions};
use crate::config::ApiVersion;
use crate::storage::local::LocalStorage;

test_each_path! { in "kv/src/txn/testscripts" as scripts => run }

fn run(path: &Path) {
    let engine = MemoryData::new();
    let storage = LocalStorage::new(engine.clone());
    let transactions = Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    goldenscript::run(&mut Runner { engine, transactions, runtime }, path).unwrap();
}

/// The first timestamp there is: scripts name all others.
struct Oracle;

impl TimestampSource for Oracle {
    fn fresh(&self) -> TimestampFuture {
        Box::pin(async { Ok(1) })
    }
}

struct Runner {
    engine: MemoryData,
    transactions: Transactions<LocalStorage<MemoryData>>,
    runtime: tokio::runtime::Runtime,
}

/// The one region, for locks in memory. Scripts say when it is led, and then there are such.
const HERE: Led = Led { region_id: 0, term: 1, version: 0 };

type Answer = Result<String, Box<dyn Error>>;

/// A command's arguments: `name=value` by name, the rest in order.
struct Arguments {
    named: BTreeMap<String, String>,
    /// `key=value` pairs whose name is none of the known, and bare words.
    rest: Vec<(String, Option<String>)>,
}

impl Arguments {
    fn of(command: &Command, known: &[&str]) -> Self {
        let (mut named, mut rest) = (BTreeMap::new(), Vec::new());
        for argument in &command.args {
            match argument {
                Argument::KeyValue(name, value) if known.contains(&name.as_str()) => {
                    named.insert(name.clone(), value.clone());
                }
                Argument::KeyValue(name, value) => rest.push((name.clone(), Some(value.clone()))),
                Argument::Positional(word) => rest.push((word.clone(), None)),
                other => panic!("unknown argument {other}"),
            }
        }
        Self { named, rest }
    }

    fn number(&self, name: &str) -> u64 {
        match self.named.get(name).map(String::as_str) {
            None => 0,
            Some("max") => u64::MAX,
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        }
    }

    fn numbers(&self, name: &str) -> Vec<u64> {
        let text = self.named.get(name).map_or("", String::as_str);
        text.split('/').filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
    }

    fn text(&self, name: &str) -> Bytes {
        self.named.get(name).cloned().unwrap_or_default().into()
    }

    fn is_set(&self, name: &str) -> bool {
        self.named.get(name).is_some_and(|value| value == "yes")
    }

    fn keys(&self) -> Vec<Bytes> {
        self.rest.iter().map(|(key, _)| key.clone().into()).collect()
    }

    fn key(&self) -> Bytes {
        self.rest.first().map(|(key, _)| key.clone().into()).unwrap_or_default()
    }

    fn mutations(&self) -> Vec<Mutation> {
        let mutation = |(word, value): &(String, Option<String>)| {
            let (op, key) = match word.split_once('/') {
                None => (Op::Put, word.as_str()),
                Some(("delete", key)) => (Op::Del, key),
                Some(("lock", key)) => (Op::Lock, key),
                Some(("insert", key)) => (Op::Insert, key),
                Some(("absent", key)) => (Op::CheckNotExists, key),
                Some((other, _)) => panic!("no mutation is called {other}"),
            };
            Mutation {
                op: op as i32,
                key: key.to_string().into(),
                value: value.clone().unwrap_or_default().into(),
                ..Default::default()
            }
        };
        self.rest.iter().map(mutation).collect()
    }

    fn context(&self) -> Option<Context> {
        let isolation = match self.named.get("isolation").map(String::as_str) {
            None => IsolationLevel::Si,
            Some("rc") => IsolationLevel::Rc,
            Some("rc-check") => IsolationLevel::RcCheckTs,
            Some(other) => panic!("no isolation is called {other}"),
        };
        Some(Context {
            isolation_level: isolation as i32,
            resolved_locks: self.numbers("resolved"),
            committed_locks: self.numbers("committed"),
            is_retry_request: self.is_set("retry"),
            ..Default::default()
        })
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &goldenscript::Context) -> Answer {
        match command.name.as_str() {
            "get" => self.get(command),
            "batch_get" => self.batch_get(command),
            "scan" => self.scan(command),
            "prewrite" => self.prewrite(command),
            "flush" => self.flush(command),
            "flushed" => self.flushed(command),
            "commit" => self.commit(command),
            "rollback" => self.rollback(command),
            "cleanup" => self.cleanup(command),
            "check_status" => self.check_status(command),
            "check_secondaries" => self.check_secondaries(command),
            "heartbeat" => self.heartbeat(command),
            "scan_lock" => self.scan_lock(command),
            "resolve" => self.resolve(command),
            "reserve" => self.reserve(command),
            "unreserve" => self.unreserve(command),
            "find" => self.find(command),
            "safe_point" => self.safe_point(command),
            "lead" => {
                self.transactions.reservations().on_leader(HERE);
                Ok(String::new())
            }
            "lose" => {
                self.transactions.reservations().on_leader_lost(HERE.region_id, HERE.term);
                Ok(String::new())
            }
            "save" => {
                let context = Context::default();
                self.runtime.block_on(self.transactions.save_reservations(&context)).unwrap();
                Ok(String::new())
            }
            "dump" => Ok(dump(&self.engine) + &dump_reserved(self.transactions.reservations())),
            other => Err(format!("no command is called {other}").into()),
        }
    }
}

const READING: [&str; 8] =
    ["ts", "isolation", "resolved", "committed", "limit", "reverse", "key_only", "sample"];

impl Runner {
    fn get(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &READING);
        let mut out = String::new();
        for key in args.keys() {
            let request = GetRequest {
                context: args.context(),
                key: key.clone(),
                version: args.number("ts"),
                need_commit_ts: true,
            };
            let answer = self.runtime.block_on(self.transactions.get(request));
            write!(out, "{}: ", show(&key))?;
            match answer.error {
                Some(error) => writeln!(out, "{}", problem(&error))?,
                None if answer.not_found => writeln!(out, "not found")?,
                None => writeln!(out, "{} @{}", show(&answer.value), answer.commit_ts)?,
            }
        }
        Ok(out)
    }

    fn batch_get(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &READING);
        let request = BatchGetRequest {
            context: args.context(),
            keys: args.keys(),
            version: args.number("ts"),
            ..Default::default()
        };
        Ok(pairs(&self.runtime.block_on(self.transactions.batch_get(request)).pairs))
    }

    fn scan(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &READING);
        let bound = |at: usize| args.keys().get(at).cloned().unwrap_or_default();
        let request = ScanRequest {
            context: args.context(),
            start_key: bound(0),
            end_key: bound(1),
            limit: if args.named.contains_key("limit") { args.number("limit") } else { 100 } as u32,
            version: args.number("ts"),
            key_only: args.is_set("key_only"),
            reverse: args.is_set("reverse"),
            sample_step: args.number("sample") as u32,
        };
        let answer = self.runtime.block_on(self.transactions.scan(request));
        // An error of the whole scan is the first pair's too.
        Ok(match answer.error {
            Some(_) => format!("stopped: {}", pairs(&answer.pairs)),
            None => pairs(&answer.pairs),
        })
    }

    fn prewrite(&self, command: &Command) -> Answer {
        let known = [
            "start",
            "primary",
            "ttl",
            "min_commit",
            "max_commit",
            "async",
            "one_pc",
            "for_update",
            "actions",
            "assert",
            "level",
            "secondaries",
            "retry",
            "skip_check",
            "expect",
        ];
        let args = Arguments::of(command, &known);
        let mut mutations = args.mutations();
        let assertion = match args.named.get("assert").map(String::as_str) {
            None => kvrpcpb::Assertion::None,
            Some("exists") => kvrpcpb::Assertion::Exist,
            Some("absent") => kvrpcpb::Assertion::NotExist,
            Some(other) => panic!("no assertion is called {other}"),
        };
        mutations.iter_mut().for_each(|mutation| mutation.assertion = assertion as i32);
        let level = match args.named.get("level").map(String::as_str) {
            None => AssertionLevel::Off,
            Some("fast") => AssertionLevel::Fast,
            Some("strict") => AssertionLevel::Strict,
            Some(other) => panic!("no level is called {other}"),
        };
        let primary = args.text("primary");
        let request = PrewriteRequest {
            context: args.context(),
            primary_lock: if primary.is_empty() { mutations[0].key.clone() } else { primary },
            mutations,
            start_version: args.number("start"),
            lock_ttl: args.number("ttl"),
            min_commit_ts: args.number("min_commit"),
            max_commit_ts: args.number("max_commit"),
            use_async_commit: args.is_set("async"),
            try_one_pc: args.is_set("one_pc"),
            for_update_ts: args.number("for_update"),
            pessimistic_actions: args.numbers("actions").iter().map(|a| *a as i32).collect(),
            secondaries: args
                .text("secondaries")
                .split(|byte| *byte == b'/')
                .filter(|key| !key.is_empty())
                .map(Bytes::copy_from_slice)
                .collect(),
            assertion_level: level as i32,
            skip_constraint_check: args.is_set("skip_check"),
            for_update_ts_constraints: args
                .named
                .get("expect")
                .map(|_| kvrpcpb::prewrite_request::ForUpdateTsConstraint {
                    index: 0,
                    expected_for_update_ts: args.number("expect"),
                })
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.prewrite(request));
        if answer.errors.is_empty() {
            return Ok(match (answer.min_commit_ts, answer.one_pc_commit_ts) {
                (0, 0) => "ok\n".into(),
                (min, 0) => format!("ok, commits at {min} or later\n"),
                (0, at) => format!("ok, committed at {at}\n"),
                (min, at) if min == at => format!("ok, committed at {at}, in both places\n"),
                both => format!("both: {both:?}\n"),
            });
        }
        Ok(answer.errors.iter().map(|error| problem(error) + "\n").collect())
    }

    fn flush(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "primary", "generation", "ttl"]);
        let request = FlushRequest {
            primary_key: args.text("primary"),
            mutations: args.mutations(),
            start_ts: args.number("start"),
            generation: args.number("generation"),
            lock_ttl: args.number("ttl"),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.flush(request));
        if answer.errors.is_empty() {
            return Ok("ok\n".into());
        }
        Ok(answer.errors.iter().map(|error| problem(error) + "\n").collect())
    }

    fn flushed(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start"]);
        let request = BufferBatchGetRequest {
            keys: args.keys(),
            version: args.number("start"),
            ..Default::default()
        };
        Ok(pairs(&self.runtime.block_on(self.transactions.buffer_batch_get(request)).pairs))
    }

    /// `find 5`: a key of the transaction that began at 5.
    fn find(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &[]);
        let start_ts = args.rest[0].0.parse()?;
        let request = MvccGetByStartTsRequest { start_ts, ..Default::default() };
        let answer = self.runtime.block_on(self.transactions.mvcc_get_by_start_ts(request));
        let info = answer.info.expect("a story, if an empty one");
        if answer.key.is_empty() {
            assert_eq!(info, kvrpcpb::MvccInfo::default(), "of no key there is nothing to tell");
            return Ok("nothing\n".into());
        }
        Ok(format!(
            "{}: lock by {:?}, records by {:?}\n",
            show(&answer.key),
            info.lock.map(|lock| lock.start_ts),
            info.writes.iter().map(|write| write.start_ts).collect::<Vec<_>>()
        ))
    }

    fn safe_point(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["txn", "gc"]);
        self.transactions.safe_points().adopt(args.number("txn"), args.number("gc"));
        Ok(String::new())
    }

    fn commit(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "at"]);
        let request = CommitRequest {
            start_version: args.number("start"),
            commit_version: args.number("at"),
            keys: args.keys(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.commit(request));
        Ok(outcome(answer.error, || format!("ok, committed at {}", answer.commit_version)))
    }

    fn rollback(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start"]);
        let request = BatchRollbackRequest {
            start_version: args.number("start"),
            keys: args.keys(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.batch_rollback(request));
        Ok(outcome(answer.error, || "ok".into()))
    }

    fn cleanup(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "now"]);
        let request = CleanupRequest {
            start_version: args.number("start"),
            current_ts: args.number("now"),
            key: args.key(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.cleanup(request));
        Ok(outcome(answer.error, || match answer.commit_version {
            0 => "ok, rolled back".into(),
            at => format!("committed at {at}"),
        }))
    }

    fn check_status(&self, command: &Command) -> Answer {
        let known = ["start", "caller", "now", "rollback", "force_sync", "resolving", "verify"];
        let args = Arguments::of(command, &known);
        let request = CheckTxnStatusRequest {
            primary_key: args.key(),
            lock_ts: args.number("start"),
            caller_start_ts: args.number("caller"),
            current_ts: args.number("now"),
            rollback_if_not_exist: args.is_set("rollback"),
            force_sync_commit: args.is_set("force_sync"),
            resolving_pessimistic_lock: args.is_set("resolving"),
            verify_is_primary: args.is_set("verify"),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.check_txn_status(request));
        let action = answer.action().as_str_name();
        Ok(outcome(answer.error, || match (answer.lock_ttl, answer.commit_version) {
            (0, 0) => format!("gone, {action}"),
            (0, at) => format!("committed at {at}, {action}"),
            (ttl, 0) => {
                let lock = lock_info(&answer.lock_info.expect("an alive transaction has a lock"));
                format!("alive for {ttl}, {action}: {lock}")
            }
            both => format!("both: {both:?}"),
        }))
    }

    fn check_secondaries(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start"]);
        let request = CheckSecondaryLocksRequest {
            start_version: args.number("start"),
            keys: args.keys(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.check_secondary_locks(request));
        Ok(outcome(answer.error, || match (answer.locks.as_slice(), answer.commit_ts) {
            ([], 0) => "rolled back".into(),
            ([], at) => format!("committed at {at}"),
            (locks, _) => locks.iter().map(lock_info).collect::<Vec<_>>().join("\n"),
        }))
    }

    fn heartbeat(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "ttl"]);
        let request = TxnHeartBeatRequest {
            primary_lock: args.key(),
            start_version: args.number("start"),
            advise_lock_ttl: args.number("ttl"),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.txn_heart_beat(request));
        Ok(outcome(answer.error, || format!("ttl {}", answer.lock_ttl)))
    }

    fn scan_lock(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["max", "limit"]);
        let bound = |at: usize| args.keys().get(at).cloned().unwrap_or_default();
        let request = ScanLockRequest {
            max_version: args.number("max"),
            start_key: bound(0),
            end_key: bound(1),
            limit: args.number("limit") as u32,
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.scan_lock(request));
        Ok(outcome(answer.error, || {
            answer.locks.iter().map(lock_info).collect::<Vec<_>>().join("\n")
        }))
    }

    /// `resolve start=5 at=9 [keys]`, or many at once: `resolve 5=9 6=0`.
    fn resolve(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "at"]);
        let fate = |(txn, at): &(String, Option<String>)| TxnInfo {
            txn: txn.parse().unwrap(),
            status: at.as_ref().unwrap().parse().unwrap(),
            ..Default::default()
        };
        let is_lite = args.named.contains_key("start");
        let request = ResolveLockRequest {
            start_version: args.number("start"),
            commit_version: args.number("at"),
            keys: if is_lite { args.keys() } else { Vec::new() },
            txn_infos: if is_lite { Vec::new() } else { args.rest.iter().map(fate).collect() },
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.resolve_lock(request));
        Ok(outcome(answer.error, || "ok".into()))
    }

    fn reserve(&self, command: &Command) -> Answer {
        let known = [
            "start",
            "for_update",
            "primary",
            "ttl",
            "values",
            "exists",
            "absent",
            "only_existing",
            "force",
            "min_commit",
        ];
        let args = Arguments::of(command, &known);
        let assertion = if args.is_set("absent") {
            kvrpcpb::Assertion::NotExist
        } else {
            kvrpcpb::Assertion::None
        };
        let mutation = |key: Bytes| Mutation {
            op: Op::PessimisticLock as i32,
            key,
            assertion: assertion as i32,
            ..Default::default()
        };
        let primary = args.text("primary");
        let request = PessimisticLockRequest {
            mutations: args.keys().into_iter().map(mutation).collect(),
            primary_lock: if primary.is_empty() { args.key() } else { primary },
            start_version: args.number("start"),
            for_update_ts: args.number("for_update"),
            lock_ttl: args.number("ttl"),
            min_commit_ts: args.number("min_commit"),
            wait_timeout: -1,
            return_values: args.is_set("values"),
            check_existence: args.is_set("exists"),
            lock_only_if_exists: args.is_set("only_existing"),
            wake_up_mode: if args.is_set("force") {
                kvrpcpb::PessimisticLockWakeUpMode::WakeUpModeForceLock
            } else {
                kvrpcpb::PessimisticLockWakeUpMode::WakeUpModeNormal
            } as i32,
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.pessimistic_lock(request));
        if let Some(error) = answer.errors.first() {
            // Also as the result of the key, when it was asked for by force.
            let results = answer.results.iter().map(|result| result.r#type().as_str_name());
            let also: String = results.map(|kind| format!(", {kind}")).collect();
            return Ok(problem(error) + &also + "\n");
        }
        let mut out = "ok".to_string();
        for (number, not_found) in answer.not_founds.iter().enumerate() {
            match (not_found, answer.values.get(number)) {
                (true, _) => out += ", not found",
                (false, None) => out += ", found",
                (false, Some(value)) => write!(out, ", {}", show(value))?,
            }
        }
        for result in &answer.results {
            let kind = result.r#type().as_str_name();
            let value = if result.existence { show(&result.value) } else { "not found".into() };
            write!(out, ", {kind} {value} @{}", result.locked_with_conflict_ts)?;
        }
        Ok(out + "\n")
    }

    fn unreserve(&self, command: &Command) -> Answer {
        let args = Arguments::of(command, &["start", "for_update"]);
        let request = PessimisticRollbackRequest {
            start_version: args.number("start"),
            for_update_ts: args.number("for_update"),
            keys: args.keys(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.transactions.pessimistic_rollback(request));
        Ok(outcome(answer.errors.into_iter().next(), || "ok".into()))
    }
}

fn outcome(error: Option<KeyError>, ok: impl FnOnce() -> String) -> String {
    let mut text = error.map_or_else(ok, |error| problem(&error));
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn pairs(pairs: &[kvrpcpb::KvPair]) -> String {
    let line = |pair: &kvrpcpb::KvPair| match &pair.error {
        Some(error) => problem(error) + "\n",
        None => format!("{}={}\n", show(&pair.key), show(&pair.value)),
    };
    pairs.iter().map(line).collect()
}

fn problem(error: &KeyError) -> String {
    if let Some(info) = &error.locked {
        return format!("locked: {}", lock_info(info));
    }
    if let Some(conflict) = &error.conflict {
        return format!(
            "conflict: {} on {} with {} committed at {}",
            conflict.reason().as_str_name(),
            show(&conflict.key),
            conflict.conflict_ts,
            conflict.conflict_commit_ts
        );
    }
    if let Some(exists) = &error.already_exist {
        return format!("already exists: {}", show(&exists.key));
    }
    if let Some(expired) = &error.commit_ts_expired {
        return format!("commit timestamp expired: {} or later", expired.min_commit_ts);
    }
    if let Some(none) = &error.txn_not_found {
        return format!("no transaction {} on {}", none.start_ts, show(&none.primary_key));
    }
    if let Some(failed) = &error.assertion_failed {
        return format!(
            "assertion {} failed: {} was written by {} at {}",
            failed.assertion().as_str_name(),
            show(&failed.key),
            failed.existing_start_ts,
            failed.existing_commit_ts
        );
    }
    if let Some(mismatch) = &error.primary_mismatch {
        let info = mismatch.lock_info.as_ref().unwrap();
        return format!("not the primary: {}", lock_info(info));
    }
    if !error.abort.is_empty() {
        return format!("abort: {}", error.abort);
    }
    format!("retry: {}", error.retryable)
}
