//! What can be said to the shell: each statement, its words, and its line of help.

use std::time::Duration;

use client::{At, Span};

use super::words::Word;
use crate::keys;

/// How many pairs a scan shows when nothing is said about it.
pub(super) const LIMIT_DEFAULT: usize = 25;

/// A statement: its first word, what follows, what it does.
pub(super) struct Usage {
    pub(super) name: &'static str,
    pub(super) words: &'static str,
    pub(super) does: &'static str,
}

/// Everything that can be said, in the order of `help`.
pub(super) const USAGES: &[Usage] = &[
    usage("get", "KEY [for update] [at MOMENT]", "the value of a key"),
    usage("put", "KEY VALUE [ttl SECONDS]", "write a value (ttl: raw keys only)"),
    usage("insert", "KEY VALUE", "write a value where there must be none"),
    usage("delete", "KEY", "remove a key"),
    usage(
        "scan",
        "[START [END] | prefix P] [limit N] [reverse] [keys] [at MOMENT]",
        "pairs of a range",
    ),
    usage("count", "[START [END] | prefix P] [at MOMENT]", "how many keys a range has"),
    usage("begin", "[optimistic | pessimistic]", "begin a transaction"),
    usage("lock", "KEY …", "in a transaction: let nobody else write these keys"),
    usage("commit", "", "end it: all of it happens"),
    usage("rollback", "", "end it: nothing of it happens"),
    usage("mvcc", "KEY", "every version, lock and record of a key"),
    usage("cas", "KEY (OLD | none) NEW", "raw: write NEW if the value is OLD"),
    usage("ttl", "KEY", "raw: how long a value still lives"),
    usage("delete-range", "START END", "raw: remove all keys of a range"),
    usage("raw", "[STATEMENT]", "one statement about raw keys, or all from now on"),
    usage("txn", "[STATEMENT]", "one statement about transactional keys, or all from now on"),
    usage("tso", "", "a fresh timestamp"),
    usage("timing", "on | off", "say how long each statement took"),
    usage("help", "[STATEMENT]", "this list, or one line of it"),
    usage("exit", "", "leave; an open transaction is rolled back"),
];

const fn usage(name: &'static str, words: &'static str, does: &'static str) -> Usage {
    Usage { name, words, does }
}

/// The usage of a statement.
pub(super) fn usage_of(name: &str) -> Option<&'static Usage> {
    USAGES.iter().find(|usage| usage.name.eq_ignore_ascii_case(name))
}

/// Raw keys, or transactional ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Raw,
    Txn,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Statement {
    Get {
        key: Vec<u8>,
        for_update: bool,
        at: Option<At>,
    },
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    Insert {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    Scan(Scan),
    Count {
        span: Span,
        at: Option<At>,
    },
    Begin {
        is_pessimistic: bool,
    },
    Lock {
        keys: Vec<Vec<u8>>,
    },
    Commit,
    Rollback,
    Versions {
        key: Vec<u8>,
    },
    Swap {
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        new: Vec<u8>,
    },
    Ttl {
        key: Vec<u8>,
    },
    DeleteRange {
        span: Span,
    },
    /// The statement in the other mode; without one, all from now on.
    In(Mode, Option<Box<Statement>>),
    Timestamp,
    Timing(bool),
    Help(Option<String>),
    Exit,
}

/// A range to read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scan {
    pub(super) span: Span,
    pub(super) limit: usize,
    pub(super) reverse: bool,
    pub(super) keys_only: bool,
    pub(super) at: Option<At>,
}

/// The words of a statement that are still to be understood.
struct Rest<'a> {
    usage: &'static Usage,
    words: std::iter::Peekable<std::slice::Iter<'a, Word>>,
}

/// Understands a statement, or says how it should have been written.
pub(super) fn parse(words: &[Word]) -> Result<Statement, String> {
    let Some((first, rest)) = words.split_first() else { return Err("nothing is said".into()) };
    let name = match first.text.to_ascii_lowercase().as_str() {
        "del" => "delete".into(),
        "set" => "put".into(),
        "abort" => "rollback".into(),
        "quit" => "exit".into(),
        "?" => "help".into(),
        name => name.to_owned(),
    };
    let usage = usage_of(&name).ok_or_else(|| unknown(&first.text))?;
    let mut rest = Rest { usage, words: rest.iter().peekable() };
    let statement = match usage.name {
        "get" => Statement::Get {
            key: rest.key()?,
            for_update: rest.take_if("for") && rest.must("update")?,
            at: rest.moment()?,
        },
        "put" => Statement::Put { key: rest.key()?, value: rest.key()?, ttl: rest.ttl()? },
        "insert" => Statement::Insert { key: rest.key()?, value: rest.key()? },
        "delete" => Statement::Delete { key: rest.key()? },
        "scan" => Statement::Scan(rest.scan()?),
        "count" => Statement::Count { span: rest.span()?, at: rest.moment()? },
        "begin" => {
            let is_pessimistic = rest.take_if("pessimistic");
            if !is_pessimistic {
                rest.take_if("optimistic");
            }
            Statement::Begin { is_pessimistic }
        }
        "lock" => {
            let mut keys = vec![rest.key()?];
            while rest.words.peek().is_some() {
                keys.push(rest.key()?);
            }
            Statement::Lock { keys }
        }
        "commit" => Statement::Commit,
        "rollback" => Statement::Rollback,
        "mvcc" => Statement::Versions { key: rest.key()? },
        "cas" => Statement::Swap {
            key: rest.key()?,
            expected: if rest.take_if("none") { None } else { Some(rest.key()?) },
            new: rest.key()?,
        },
        "ttl" => Statement::Ttl { key: rest.key()? },
        "delete-range" => {
            let (start, end) = (rest.key()?, rest.key()?);
            Statement::DeleteRange { span: (start..end).into() }
        }
        "raw" => return inner(Mode::Raw, rest),
        "txn" => return inner(Mode::Txn, rest),
        "tso" => Statement::Timestamp,
        "timing" => Statement::Timing(rest.take_if("on") || !rest.must("off")?),
        "help" => Statement::Help(rest.words.next().map(|word| word.text.clone())),
        _ => Statement::Exit,
    };
    rest.end()?;
    Ok(statement)
}

fn inner(mode: Mode, rest: Rest<'_>) -> Result<Statement, String> {
    let words: Vec<Word> = rest.words.cloned().collect();
    let statement = match words.is_empty() {
        true => None,
        false => Some(Box::new(parse(&words)?)),
    };
    Ok(Statement::In(mode, statement))
}

fn unknown(name: &str) -> String {
    let near = USAGES.iter().find(|usage| {
        name.len() >= 2 && (usage.name.starts_with(name) || name.starts_with(usage.name))
    });
    match near {
        Some(usage) => format!("there is no \"{name}\"; did you mean {}?", usage.name),
        None => format!("there is no \"{name}\"; `help` lists what there is"),
    }
}

impl Rest<'_> {
    fn wrong(&self) -> String {
        format!("this is written: {} {}", self.usage.name, self.usage.words).trim_end().to_owned()
    }

    fn end(&mut self) -> Result<(), String> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => Err(format!("\"{}\" is too much; {}", word.text, self.wrong())),
        }
    }

    fn key(&mut self) -> Result<Vec<u8>, String> {
        let word = self.words.next().ok_or_else(|| self.wrong())?;
        keys::parse(&word.text)
    }

    fn take_if(&mut self, keyword: &str) -> bool {
        self.words.next_if(|word| word.is(keyword)).is_some()
    }

    /// The keyword must follow. Returns true, so that conditions can go on.
    fn must(&mut self, keyword: &str) -> Result<bool, String> {
        if self.take_if(keyword) { Ok(true) } else { Err(self.wrong()) }
    }

    fn number(&mut self) -> Result<u64, String> {
        let word = self.words.next().ok_or_else(|| self.wrong())?;
        word.text.parse().map_err(|_| format!("\"{}\" is no number", word.text))
    }

    fn ttl(&mut self) -> Result<Option<Duration>, String> {
        if !self.take_if("ttl") {
            return Ok(None);
        }
        self.number().map(|seconds| Some(Duration::from_secs(seconds)))
    }

    /// `at now`, `at 4482`, `at '5s ago'`, and without quotes as well.
    fn moment(&mut self) -> Result<Option<At>, String> {
        if !self.take_if("at") {
            return Ok(None);
        }
        let mut text = self.words.next().ok_or_else(|| self.wrong())?.text.clone();
        if self.take_if("ago") {
            text.push_str(" ago");
        }
        text.parse().map(Some)
    }

    /// The words of a range: they end where a keyword begins.
    fn span(&mut self) -> Result<Span, String> {
        if self.take_if("prefix") {
            return Ok(Span::prefix(self.key()?));
        }
        let is_keyword = |word: &&Word| {
            ["limit", "reverse", "keys", "at"].iter().any(|keyword| word.is(keyword))
        };
        let mut bounds = Vec::new();
        while bounds.len() < 2
            && let Some(word) = self.words.next_if(|word| !is_keyword(word))
        {
            bounds.push(keys::parse(&word.text)?);
        }
        let mut bounds = bounds.into_iter();
        Ok(match (bounds.next(), bounds.next()) {
            (Some(start), Some(end)) => (start..end).into(),
            (Some(start), None) => (start..).into(),
            (None, _) => (..).into(),
        })
    }

    fn scan(&mut self) -> Result<Scan, String> {
        let mut scan = Scan {
            span: self.span()?,
            limit: LIMIT_DEFAULT,
            reverse: false,
            keys_only: false,
            at: None,
        };
        while let Some(word) = self.words.peek() {
            if word.is("at") {
                scan.at = self.moment()?;
            } else if self.take_if("limit") {
                scan.limit = usize::try_from(self.number()?).unwrap_or(usize::MAX);
            } else if self.take_if("reverse") {
                scan.reverse = true;
            } else if self.take_if("keys") {
                scan.keys_only = true;
            } else {
                break;
            }
        }
        Ok(scan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::words::statements;

    fn parsed(line: &str) -> Result<Statement, String> {
        parse(&statements(line).unwrap()[0])
    }

    #[test]
    fn moments_follow_at() {
        let at = |line| match parsed(line) {
            Ok(Statement::Get { at, .. }) => at,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(at("get k"), None);
        assert_eq!(at("get k at '5s ago'"), Some(At::Ago(Duration::from_secs(5))));
        assert_eq!(at("get k at 5s ago"), Some(At::Ago(Duration::from_secs(5))));
        assert_eq!(at("get k at 4482"), Some(At::Timestamp(4482.into())));
        assert_eq!(at("GET 'at' AT now"), Some(At::Now));
        assert!(parsed("get k at").is_err() && parsed("get k at dawn").is_err());
    }

    #[test]
    fn keys_take_the_forms_of_ctl() {
        let put = Statement::Put { key: vec![0, 255], value: b"a\0".to_vec(), ttl: None };
        assert_eq!(parsed(r"put hex:00ff esc:a\x00"), Ok(put));
        assert!(parsed("get hex:0").is_err_and(|error| error.contains("hex:0")));
    }

    #[test]
    fn a_scan_takes_its_words_in_any_order() {
        let Ok(Statement::Scan(scan)) = parsed("scan a m keys limit 3 at 7 reverse") else {
            panic!("not a scan")
        };
        assert_eq!((scan.span, scan.limit), (Span::from("a".."m"), 3));
        assert!(scan.keys_only && scan.reverse && scan.at.is_some());
        let Ok(Statement::Scan(scan)) = parsed("scan") else { panic!("not a scan") };
        assert_eq!((scan.span, scan.limit), (Span::from(..), LIMIT_DEFAULT));
        let Ok(Statement::Scan(scan)) = parsed("scan prefix user: limit 1") else { panic!() };
        assert_eq!(scan.span, Span::prefix("user:"));
        let Ok(Statement::Scan(scan)) = parsed("scan 'limit'") else { panic!("a quoted key") };
        assert_eq!(scan.span, Span::from("limit"..));
    }

    #[test]
    fn one_statement_may_be_about_the_other_keys() {
        let get = Statement::Get { key: b"k".to_vec(), for_update: false, at: None };
        assert_eq!(parsed("raw get k"), Ok(Statement::In(Mode::Raw, Some(Box::new(get)))));
        assert_eq!(parsed("txn"), Ok(Statement::In(Mode::Txn, None)));
    }

    #[test]
    fn what_is_not_understood_is_answered_with_how_to_say_it() {
        let wrong = |line: &str| parsed(line).unwrap_err();
        assert!(wrong("get").contains("get KEY"));
        assert!(wrong("get a b").contains("\"b\" is too much"));
        assert!(wrong("get a for").contains("for update"));
        assert!(wrong("comit").contains("help"));
        assert!(wrong("begi").contains("begin"));
        assert!(wrong("scan limit many").contains("no number"));
        assert!(wrong("timing maybe").contains("on | off"));
        assert_eq!(parsed("timing off"), Ok(Statement::Timing(false)));
        assert_eq!(parsed("timing on"), Ok(Statement::Timing(true)));
    }

    #[test]
    fn every_usage_is_understood_by_its_name() {
        for usage in USAGES {
            let alone = parsed(usage.name);
            let in_full = alone.as_ref().err().is_none_or(|error| error.contains(usage.words));
            assert!(in_full, "{}: {alone:?}", usage.name);
        }
    }
}
