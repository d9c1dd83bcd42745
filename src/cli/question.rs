//! Asks at a terminal before something happens that the user may not mean.

use std::io::{self, IsTerminal, Write};

use super::Outcome;
use super::failure::Failure;

/// Whether a person can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks whether to go on; with `yes` it does not ask. `what` says what will happen, as a sentence without a full stop.
///
/// # Errors
/// The answer is not yes, or there is no terminal to ask at.
pub(super) fn confirm(what: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    if !can_ask() {
        return Err(Failure::with_hint(
            format!("{what}; nothing has changed, because there is no terminal to ask at"),
            "--yes does it without asking",
        ));
    }
    ask(&format!("{what}. Go on?"))
}

/// Asks a question, if a person is there to be asked.
///
/// # Errors
/// The answer is not yes.
pub(super) fn ask_if_possible(question: &str) -> Outcome {
    match can_ask() {
        true => ask(question),
        false => Ok(()),
    }
}

fn ask(question: &str) -> Outcome {
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if !matches!(read, Ok(1..)) {
        // Ctrl-D leaves the cursor behind the question.
        let _ = writeln!(io::stderr());
    }
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing has changed")),
    }
}
