//! Why a command failed: the message, what to type next, the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::error::Error;

const FAILED: u8 = 1;
const NO_SUCH_SECRET: u8 = 4;

/// Ends a command before it is done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The library's own error.
    Error(Error),
    /// What is wrong, and a hint what to type next.
    Message(String, Option<String>),
    /// It has been printed why, as [`report`](Self::report) does.
    Reported,
    /// The reader of standard output has exited (`| head -c1`): ends quietly.
    OutputClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Failure::Message(message.into(), None)
    }

    pub(super) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::Message(message.into(), Some(hint.into()))
    }

    /// Prints it on standard error and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let (message, hint, code) = match self {
            Failure::OutputClosed => return ExitCode::SUCCESS,
            Failure::Reported => return ExitCode::from(FAILED),
            Failure::Message(message, hint) => (message.clone(), hint.clone(), FAILED),
            Failure::Error(error) => {
                let code = match error.is_not_found() {
                    true => NO_SUCH_SECRET,
                    false => FAILED,
                };
                (error.to_string(), hint_for(error), code)
            }
        };
        say("error", &message);
        if let Some(hint) = hint {
            say("hint", &hint);
        }
        ExitCode::from(code)
    }
}

fn hint_for(error: &Error) -> Option<String> {
    match error {
        Error::NotFound { name } => Some(format!(
            "`simpletuner-live ls` shows the names; `simpletuner-live set {name}` creates it"
        )),
        _ => None,
    }
}

/// Prints a line on standard error, after a label. A closed standard error is not a failure.
pub(super) fn say(label: &str, message: &str) {
    let _ = writeln!(io::stderr(), "{label}: {message}");
}

pub(super) fn warn(message: &str) {
    say("warning", message);
}
