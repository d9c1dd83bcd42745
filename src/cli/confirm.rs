//! Asks before something happens that the user may not mean.

use std::io::{self, IsTerminal, Write};

use super::Outcome;
use super::failure::Failure;

/// Asks at the terminal whether to go on. `what` says what will happen, as a sentence without a full stop. With `yes` it
/// does not ask.
///
/// # Errors
/// The answer is not yes, or there is no terminal to ask at.
pub(super) fn confirm(what: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::with_hint(
            format!("{what}; nothing has changed, because there is no terminal to ask at"),
            "--yes does it without asking",
        ));
    }
    let _ = write!(io::stderr(), "{what}. Go on? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if !matches!(read, Ok(1..)) {
        let _ = writeln!(io::stderr());
    }
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing has changed")),
    }
}
