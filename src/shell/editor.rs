//! The line editor: history, completion, and a grey reminder of what may follow.
//!
//! Reading a line blocks, so the editor lives on a thread for blocking work and is handed back with
//! each line.

use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::session::KeysKnown;
use super::statement::{USAGES, usage_of};
use crate::exit::{Failure, Outcome};

/// How many lines are remembered from one shell to the next.
const HISTORY_MAX: usize = 2_000;
/// What may follow the first word of a statement, beside keys.
const KEYWORDS: &[(&str, &[&str])] = &[
    ("begin", &["optimistic", "pessimistic"]),
    ("timing", &["on", "off"]),
    ("get", &["for update", "at"]),
    ("scan", &["prefix", "limit", "reverse", "keys", "at"]),
    ("count", &["prefix", "at"]),
    ("cas", &["none"]),
];

/// What came of asking for a line.
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C: the line is given up.
    Interrupted,
    /// Ctrl-D: no more lines.
    End,
}

pub(super) struct Terminal {
    editor: Editor<Reminder, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    pub(super) fn open(history: Option<PathBuf>, keys_known: KeysKnown) -> Outcome<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .map_err(Failure::failed)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config)
            .map_err(|error| Failure::failed(format!("open the terminal: {error}")))?;
        editor.set_helper(Some(Reminder { keys_known }));
        if let Some(file) = &history {
            // The first shell of a person has no history yet.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor, history })
    }

    /// The next line; comes back with the terminal.
    pub(super) async fn ask(mut self, prompt: &'static str) -> Outcome<(Self, Typed)> {
        let asked = tokio::task::spawn_blocking(move || {
            let line = self.editor.readline(prompt);
            (self, line)
        });
        let (terminal, line) = asked.await.map_err(Failure::failed)?;
        let typed = match line {
            Ok(line) => Typed::Line(line),
            Err(ReadlineError::Interrupted) => Typed::Interrupted,
            Err(ReadlineError::Eof) => Typed::End,
            Err(error) => return Err(Failure::failed(format!("read a line: {error}"))),
        };
        Ok((terminal, typed))
    }

    /// Keeps the history for the next shell. Failing to is worth a word, not an error.
    pub(super) fn close(mut self) {
        if let Some(file) = &self.history
            && let Err(error) = self.editor.append_history(file)
        {
            eprintln!("the history was not kept in {}: {error}", file.display());
        }
    }
}

/// Completes words, and says in grey what may follow.
struct Reminder {
    keys_known: KeysKnown,
}

impl Reminder {
    /// What may stand where the word begins that is being typed.
    fn candidates(&self, before: &str, word: &str) -> Vec<String> {
        let statement = before.rsplit(';').next().unwrap_or("").trim_start();
        let mut words = statement.split_whitespace();
        let first = match words.next() {
            Some("raw" | "txn") => words.next(),
            first => first,
        };
        let Some(first) = first else {
            let names = USAGES.iter().map(|usage| usage.name.to_owned());
            return names.filter(|name| name.starts_with(word)).collect();
        };
        if first == "help" {
            let names = USAGES.iter().map(|usage| usage.name.to_owned());
            return names.filter(|name| name.starts_with(word)).collect();
        }
        let keywords = KEYWORDS.iter().find(|(name, _)| *name == first);
        let keywords = keywords.map_or(&[][..], |(_, keywords)| keywords);
        let keywords = keywords.iter().map(|keyword| (*keyword).to_owned());
        let mut found: Vec<_> = keywords.filter(|keyword| keyword.starts_with(word)).collect();
        if !matches!(first, "begin" | "timing" | "commit" | "rollback" | "tso" | "exit") {
            let known = self.keys_known.lock();
            // A key with blanks in it would have to be quoted: it is typed by hand.
            let keys = known.range(word.to_owned()..).take_while(|key| key.starts_with(word));
            found.extend(keys.filter(|key| !key.contains([' ', ';'])).cloned());
        }
        found
    }
}

/// Where the word begins in which the cursor stands.
fn word_start(line: &str, cursor: usize) -> usize {
    line[..cursor].rfind([' ', ';']).map_or(0, |at| at + 1)
}

impl Completer for Reminder {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = word_start(line, cursor);
        let found = self.candidates(&line[..start], &line[start..cursor]);
        let pair = |word: String| Pair { replacement: format!("{word} "), display: word };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

/// Shown behind the cursor, never taken into the line.
struct Grey(String);

impl Hint for Grey {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Reminder {
    type Hint = Grey;

    fn hint(&self, line: &str, cursor: usize, _: &Context<'_>) -> Option<Grey> {
        let statement = line.rsplit(';').next()?.trim_start();
        let name = statement.strip_suffix(' ')?;
        let usage = usage_of(name).filter(|usage| !usage.words.is_empty())?;
        (cursor == line.len()).then(|| Grey(usage.words.to_owned()))
    }
}

impl Highlighter for Reminder {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        format!("\x1b[90m{hint}\x1b[0m").into()
    }
}

impl Validator for Reminder {}
impl Helper for Reminder {}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let known = ["a key", "user:1", "user:2"].map(str::to_owned);
        let reminder =
            Reminder { keys_known: KeysKnown::new(parking_lot::Mutex::new(known.into())) };
        let start = word_start(line, line.len());
        reminder.candidates(&line[..start], &line[start..])
    }

    #[test]
    fn words_are_completed_where_they_stand() {
        assert_eq!(offered("beg"), ["begin"]);
        assert_eq!(offered("begin; ro"), ["rollback"]);
        assert_eq!(offered("raw del"), ["delete", "delete-range"]);
        assert_eq!(offered("begin p"), ["pessimistic"]);
        assert_eq!(offered("get us"), ["user:1", "user:2"]);
        assert_eq!(offered("help co"), ["count", "commit"]);
        assert!(
            offered("get a").contains(&"at".into()) && !offered("get a").contains(&"a key".into())
        );
        assert!(offered("commit ").is_empty());
    }
}
