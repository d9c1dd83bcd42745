//! `--help`, `--version` and wrong usage: paragraphs as wide as the terminal, and printed or failed as any other output.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use super::Cli;
use super::failure::Failure;
use super::output;

/// The most columns of a help text: longer lines are hard to read.
const MAX_WIDTH: usize = 100;

/// All commands, with texts that clap wraps where the terminal ends.
pub(super) fn command() -> clap::Command {
    with_paragraphs(Cli::command().max_term_width(MAX_WIDTH))
}

fn with_paragraphs(mut command: clap::Command) -> clap::Command {
    type Text = clap::builder::StyledStr;
    let paragraphs = |text: Option<&Text>| text.map(|text| unwrapped(&text.to_string()));
    let long_about = paragraphs(command.get_long_about());
    let after_help = paragraphs(command.get_after_help());
    let after_long_help = paragraphs(command.get_after_long_help());
    if let Some(text) = long_about {
        command = command.long_about(text);
    }
    if let Some(text) = after_help {
        command = command.after_help(text);
    }
    if let Some(text) = after_long_help {
        command = command.after_long_help(text);
    }
    command.mut_subcommands(with_paragraphs)
}

/// The text with one line for each paragraph. Indented lines, and those around them, stay as they are.
fn unwrapped(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut before = "";
    for line in text.lines() {
        let is_of_paragraph = |line: &str| !line.is_empty() && !line.starts_with(' ');
        if !joined.is_empty() {
            let goes_on = is_of_paragraph(before) && is_of_paragraph(line);
            joined.push(if goes_on { ' ' } else { '\n' });
        }
        joined.push_str(line);
        before = line;
    }
    joined
}

/// Prints help, the version, or what is wrong with the arguments. Returns the exit code.
pub(super) fn print(error: &clap::Error) -> ExitCode {
    if !error.use_stderr()
        && let Err(closed) = output::refuse_closed()
    {
        return closed.report();
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        // A reader of a pipe may exit before its end (`--help | head`).
        Err(e) if !error.use_stderr() && e.kind() != ErrorKind::BrokenPipe => {
            Failure::unwritable(&e).report()
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_paragraph_are_joined_and_examples_stay() {
        let text = "One\ntwo.\n\nThree\nfour.\n\nExamples:\n  a\n  b  # c\n\nLast.";
        assert_eq!(
            unwrapped(text),
            "One two.\n\nThree four.\n\nExamples:\n  a\n  b  # c\n\nLast."
        );
        assert_eq!(unwrapped(""), "");
    }

    #[test]
    fn no_example_is_so_wide_that_it_is_wrapped() {
        fn check(command: &clap::Command) {
            let text = command.get_after_help().map(ToString::to_string);
            for line in text.iter().flat_map(|text| text.lines()) {
                let is_wide = line.starts_with(' ') && line.chars().count() > MAX_WIDTH;
                assert!(!is_wide, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn no_line_of_any_help_is_wider_than_its_terminal() {
        fn check(command: &clap::Command, width: usize) {
            let mut command = command.clone().term_width(width);
            for text in [command.render_help(), command.render_long_help()] {
                let text = text.to_string();
                // clap wraps no usage, and a word that is wider than the terminal stays whole.
                let fits = |line: &&str| {
                    line.chars().count() <= width
                        || !line.trim_start().contains(' ')
                        || line.starts_with("Usage: ")
                };
                let wide: Vec<&str> = text.lines().filter(|line| !fits(line)).collect();
                assert!(wide.is_empty(), "{} {wide:#?}", command.get_name());
            }
            for command in command.get_subcommands() {
                check(command, width);
            }
        }
        for width in [40, 80, 100] {
            check(&command(), width);
        }
    }
}
