//! Why a command failed: the message, what to type next, the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::error::{Error, in_words};

const FAILED: u8 = 1;
pub(super) const WRONG_USAGE: u8 = 2;
const NO_SUCH_SECRET: u8 = 4;

/// Ends a command before it is done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The library's own error.
    Error(Error),
    /// What is wrong, and a hint what to type next.
    Message(String, Option<String>),
    /// The library's own error, and a better hint than its usual one.
    Hinted(Error, String),
    /// There is no such secret, but one of this name.
    Misspelt(Error, String),
    /// No secret's name matches this pattern.
    NoMatch(String),
    /// What is wrong, a hint, and an exit code of its own.
    Coded(u8, String, Option<String>),
    /// Ends quietly with this exit code, which is that of another program.
    Exit(u8),
    /// It has been printed why, as [`report`](Self::report) does.
    Reported,
    /// What failed of a command that did several things.
    Several(Vec<Failure>),
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

    /// Standard output takes nothing more.
    pub(super) fn unwritable(error: &io::Error) -> Self {
        Failure::new(format!("cannot write standard output: {}", in_words(error)))
    }

    /// The failures of a command that did several things; `Ok` if there are none.
    pub(super) fn of_all(mut failures: Vec<Failure>) -> Result<(), Self> {
        match (failures.pop(), failures.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                failures.push(last);
                Err(Failure::Several(failures))
            }
        }
    }

    /// What is wrong, without what to type next.
    pub(super) fn message(&self) -> String {
        match self {
            Failure::Error(error) | Failure::Hinted(error, _) | Failure::Misspelt(error, _) => {
                error.to_string()
            }
            Failure::Message(message, _) | Failure::Coded(_, message, _) => message.clone(),
            Failure::NoMatch(pattern) => format!("no secret matches {pattern:?}"),
            Failure::Several(failures) => {
                let messages: Vec<String> = failures.iter().map(Self::message).collect();
                messages.join("; ")
            }
            Failure::Reported | Failure::OutputClosed | Failure::Exit(_) => String::new(),
        }
    }

    /// The secret that does not exist, if that is all that is wrong.
    fn missing(&self) -> Option<&str> {
        match self {
            Failure::Error(Error::NotFound { name })
            | Failure::Misspelt(Error::NotFound { name }, _) => Some(name),
            _ => None,
        }
    }

    /// Prints it on standard error and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        ExitCode::from(self.print())
    }

    /// The same, with the exit code as a number. That of several failures is [`FAILED`] if one of them has it.
    fn print(&self) -> u8 {
        let (message, hint, code) = match self {
            Failure::OutputClosed => return 0,
            Failure::Reported => return FAILED,
            Failure::Exit(code) => return *code,
            Failure::Several(failures) => {
                let (missing, others): (Vec<_>, Vec<_>) = failures
                    .iter()
                    .partition(|failure| failure.missing().is_some());
                let mut codes: Vec<u8> = others.into_iter().map(Self::print).collect();
                codes.extend(print_missing(&missing));
                return match codes.contains(&FAILED) {
                    true => FAILED,
                    false => codes.into_iter().max().unwrap_or_default(),
                };
            }
            Failure::Message(message, hint) => (message.clone(), hint.clone(), FAILED),
            Failure::Coded(code, message, hint) => (message.clone(), hint.clone(), *code),
            Failure::NoMatch(_) => (self.message(), None, NO_SUCH_SECRET),
            Failure::Error(error) => (error.to_string(), hint_for(error), code_of(error)),
            Failure::Hinted(error, hint) => (error.to_string(), Some(hint.clone()), code_of(error)),
            Failure::Misspelt(error, meant) => (
                error.to_string(),
                Some(did_you_mean(&[meant])),
                code_of(error),
            ),
        };
        say("error", &message);
        if let Some(hint) = hint {
            say("hint", &hint);
        }
        code
    }
}

/// Several secrets that do not exist are one message, with one hint.
fn print_missing(missing: &[&Failure]) -> Option<u8> {
    if let [] | [_] = missing {
        return missing.first().map(|only| only.print());
    }
    let names: Vec<&str> = missing.iter().filter_map(|one| one.missing()).collect();
    say("error", &format!("no such secrets: {}", names.join(", ")));
    let meant = missing.iter().filter_map(|failure| match failure {
        Failure::Misspelt(_, meant) => Some(meant.as_str()),
        _ => None,
    });
    say("hint", &did_you_mean(&meant.collect::<Vec<_>>()));
    Some(NO_SUCH_SECRET)
}

/// The hint for secrets that do not exist, with the names that the user may have meant.
fn did_you_mean(names: &[&str]) -> String {
    match names {
        [] => "`simpletuner-live ls` shows the names".to_owned(),
        names => format!(
            "did you mean {}? `simpletuner-live ls` shows all names",
            names.join(", ")
        ),
    }
}

fn code_of(error: &Error) -> u8 {
    match error.is_not_found() {
        true => NO_SUCH_SECRET,
        false => FAILED,
    }
}

fn hint_for(error: &Error) -> Option<String> {
    match error {
        Error::NotFound { .. } => Some(did_you_mean(&[])),
        _ => None,
    }
}

/// Prints a line on standard error, after a label, whole: several commands may print there at once. A closed standard error is
/// not a failure.
pub(super) fn say(label: &str, message: &str) {
    let line = format!("{label}: {message}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

pub(super) fn warn(message: &str) {
    say("warning", message);
}
