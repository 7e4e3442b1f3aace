//! How the program ends: exit codes are a contract, and a failure is one clear line on stderr.

use std::fmt;
use std::process::ExitCode;

/// What a failed command tells the shell. 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The operation was tried and failed.
    Failed = 1,
    /// A flag, a key, or a configuration file is wrong; nothing was tried.
    Usage = 2,
    /// No scheduler answers, or nobody leads.
    Unreachable = 3,
    /// The operation is refused in the cluster's present state.
    Precondition = 4,
    /// A deadline passed.
    Timeout = 5,
    /// A signal came before there was anything to stop cleanly, or came twice.
    Interrupted = 130,
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// The operation failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Code::Failed, message)
    }

    /// The person's mistake.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Prints the one line and turns into the exit code.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("tessera: {}", self.message);
        ExitCode::from(self.code as u8)
    }
}
