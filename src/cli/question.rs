//! Asks at a terminal whether to go on.

use std::io::{self, IsTerminal, Write};

use super::Outcome;
use super::failure::Failure;

/// Whether a person can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a person, if there is one: whether the answer is anything but yes.
///
/// # Errors
/// Those of reading the terminal.
pub(super) fn is_refused(question: &str) -> Outcome<bool> {
    if !can_ask() {
        return Ok(false);
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    let read = read.map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    if read == 0 {
        // Ctrl-D leaves the cursor behind the question.
        let _ = writeln!(io::stderr());
    }
    let answer = answer.trim().to_ascii_lowercase();
    Ok(!matches!(answer.as_str(), "y" | "yes"))
}

/// The end of a command whose question was not answered with yes.
pub(super) fn nothing_changed() -> Failure {
    Failure::new("nothing has changed")
}
