//! `tessera shell`: keys, one statement at a time.
//!
//! At a terminal it is a conversation, with history and completion; with `-e`, or with something else
//! than a terminal on stdin, it is a script, which stops at its first failure and says in which line
//! that was. A statement outside of a transaction is a transaction of its own; `begin` opens one that
//! lasts until `commit` or `rollback`. Data goes to stdout, everything else to stderr. Keys and values
//! take the forms of [`crate::keys`], and what is printed can be typed in again.
//!
//! | file | what |
//! |---|---|
//! | `words.rs` | a line taken apart into statements and words |
//! | `statement.rs` | what can be said, and its help |
//! | `session.rs` | what is remembered, and done for each statement |
//! | `print.rs` | what it gave |
//! | `editor.rs` | the terminal |
//!
//! Left out: variables and conditions (a script that needs them is a program, and has the client
//! crate), and commands about the cluster: `tessera ctl`.

mod editor;
mod flags;
mod print;
mod session;
mod statement;
mod words;

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::ErrorKind;

use crate::ctl::keyspace;
use crate::exit::{Code, Failure, Outcome};
use crate::output::Format;
use editor::{Terminal, Typed};
pub(crate) use flags::ShellFlags;
use session::{Session, Trouble};
use statement::{Mode, Statement, USAGES, usage_of};
use words::Word;

/// How long the second half of the last commit is waited for when the shell ends.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// Whether to go on after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

/// How a statement went wrong.
enum Wrong {
    /// Not understood, or not here.
    Mistake(String),
    Refused(&'static str),
    Failed(client::Error),
    Interrupted,
}

struct Shell {
    session: Session,
    format: Format,
    timing: bool,
    to_a_person: bool,
}

/// Runs a shell until its end.
pub(crate) async fn run(flags: ShellFlags) -> Outcome {
    let (client, api_version) = keyspace::find(&flags.pd, &flags.keyspace).await?;
    let stdin = std::io::stdin();
    let to_a_person = flags.execute.is_empty() && stdin.is_terminal();
    let mode = if flags.raw { Mode::Raw } else { Mode::Txn };
    let cluster_id = client.cluster_id();
    let timeout = Duration::from_secs(u64::from(flags.timeout));
    let session = Session::new(client, mode, timeout);
    let timing = flags.timing || to_a_person;
    let mut shell = Shell { session, format: flags.output, timing, to_a_person };
    let outcome = if to_a_person {
        eprintln!("cluster {cluster_id}, API {api_version:?}; `help` lists what can be said");
        shell.converse(history_file(flags.history)).await
    } else if flags.execute.is_empty() {
        shell.script(stdin.lock().lines()).await
    } else {
        shell.script(flags.execute.into_iter().map(Ok)).await
    };
    let is_left_open = shell.session.give_up().await;
    shell.session.settle(SETTLE_MAX).await;
    match outcome {
        Ok(()) if is_left_open && !to_a_person => {
            Err(Failure::failed("shell: the script ended inside a transaction; it was rolled back"))
        }
        outcome => outcome,
    }
}

/// Where lines are remembered: in the person's home, unless told otherwise. An empty name is nowhere.
fn history_file(told: Option<PathBuf>) -> Option<PathBuf> {
    match told {
        Some(file) if file.as_os_str().is_empty() => None,
        Some(file) => Some(file),
        None => std::env::home_dir().map(|home| home.join(".tessera_history")),
    }
}

impl Shell {
    async fn converse(&mut self, history: Option<PathBuf>) -> Outcome {
        let mut terminal = Terminal::open(history, self.session.keys_known.clone())?;
        loop {
            let (back, typed) = terminal.ask(self.session.prompt()).await?;
            terminal = back;
            let line = match typed {
                Typed::Line(line) => line,
                Typed::Interrupted => continue,
                Typed::End => break,
            };
            let next = match self.line(&line).await {
                Ok(next) => next,
                Err(wrong) => {
                    let (_, words) = told(wrong);
                    eprintln!("error: {words}");
                    Next::GoOn
                }
            };
            if next == Next::Leave {
                break;
            }
        }
        terminal.close();
        if self.session.is_in_transaction() {
            eprintln!("the open transaction is rolled back");
        }
        Ok(())
    }

    async fn script(&mut self, lines: impl Iterator<Item = std::io::Result<String>>) -> Outcome {
        for (number, line) in lines.enumerate() {
            let line =
                line.map_err(|error| Failure::failed(format!("read the script: {error}")))?;
            match self.line(&line).await {
                Ok(Next::GoOn) => {}
                Ok(Next::Leave) => break,
                Err(wrong) => {
                    let (code, words) = told(wrong);
                    return Err(Failure::new(code, format!("shell: line {}: {words}", number + 1)));
                }
            }
        }
        Ok(())
    }

    /// All statements of a line, up to the first that goes wrong.
    async fn line(&mut self, line: &str) -> Result<Next, Wrong> {
        for statement in words::statements(line).map_err(Wrong::Mistake)? {
            if self.statement(&statement).await? == Next::Leave {
                return Ok(Next::Leave);
            }
        }
        Ok(Next::GoOn)
    }

    async fn statement(&mut self, words: &[Word]) -> Result<Next, Wrong> {
        let statement = statement::parse(words).map_err(Wrong::Mistake)?;
        if let Statement::Exit = statement {
            return Ok(Next::Leave);
        }
        if let Statement::Help(about) = &statement {
            help(about.as_deref()).map_err(Wrong::Mistake)?;
            return Ok(Next::GoOn);
        }
        if let Statement::Timing(timing) = statement {
            self.timing = timing;
            return Ok(Next::GoOn);
        }
        let began = Instant::now();
        let said = tokio::select! {
            said = self.session.perform(statement) => said,
            _ = tokio::signal::ctrl_c() => return Err(Wrong::Interrupted),
        };
        let took = began.elapsed();
        match said {
            Ok(said) => said.print(self.format, self.to_a_person),
            Err(Trouble::Mistake(words)) => return Err(Wrong::Mistake(words)),
            Err(Trouble::Refused(words)) => return Err(Wrong::Refused(words)),
            Err(Trouble::Failed(error)) => return Err(Wrong::Failed(error)),
        }
        if self.timing {
            eprintln!("{:.1} ms", took.as_secs_f64() * 1_000.0);
        }
        Ok(Next::GoOn)
    }
}

/// What went wrong, for the program that called and for the person.
fn told(wrong: Wrong) -> (Code, String) {
    match wrong {
        Wrong::Mistake(words) => (Code::Usage, words),
        Wrong::Refused(words) => (Code::Failed, words.into()),
        Wrong::Interrupted => (Code::Interrupted, "interrupted; what it did is not known".into()),
        Wrong::Failed(error) => {
            let code = keyspace::failure(&error).code;
            let advice = if matches!(error.kind(), ErrorKind::Deadlock { .. }) {
                "; rollback, and begin again"
            } else if matches!(error.kind(), ErrorKind::WriteConflict { .. }) {
                "; begin again"
            } else {
                ""
            };
            (code, format!("{error}{advice}"))
        }
    }
}

fn help(about: Option<&str>) -> Result<(), String> {
    let show = |usage: &statement::Usage| {
        let form = format!("{} {}", usage.name, usage.words);
        print::line(&format!("  {form:<72} {}", usage.does));
    };
    match about {
        None => USAGES.iter().for_each(show),
        Some(name) => show(usage_of(name).ok_or_else(|| format!("there is no \"{name}\""))?),
    }
    if about.is_none() {
        print::line(
            "  MOMENT: now, '5s ago', or a timestamp. KEY, VALUE: text, hex:…, esc:…, enc:…",
        );
    }
    Ok(())
}
