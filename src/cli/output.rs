//! Standard output: bytes without a buffer that would keep a copy of a secret, tables, JSON.

use std::io::{self, IsTerminal};

use rustix::io::Errno;
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;

/// Writes all of `bytes`, straight to the descriptor.
pub(super) fn write(bytes: &[u8]) -> Outcome {
    let out = io::stdout();
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&out, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            // Somebody shares the terminal or pipe with us and made it non-blocking.
            Err(Errno::AGAIN) => wait_until_writable(&out),
            Err(Errno::PIPE) => return Err(Failure::OutputClosed),
            Err(errno) => {
                let error = io::Error::from(errno);
                return Err(Failure::new(format!(
                    "cannot write standard output: {error}"
                )));
            }
        }
    }
    Ok(())
}

fn wait_until_writable(out: &io::Stdout) {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(out, PollFlags::OUT)], None);
}

pub(super) fn line(text: &str) -> Outcome {
    write(format!("{text}\n").as_bytes())
}

/// A value to the byte, and a newline behind a single line where a person would otherwise find the prompt there.
pub(super) fn value(bytes: &[u8], no_newline: bool) -> Outcome {
    write(bytes)?;
    if !no_newline && !bytes.contains(&b'\n') && io::stdout().is_terminal() {
        write(b"\n")?;
    }
    Ok(())
}

/// A document with two spaces of indent.
pub(super) fn json(document: &impl Serialize) -> Outcome {
    match serde_json::to_string_pretty(document) {
        Ok(text) => line(&text),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// Rows under a head, in columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Outcome {
    let mut text = String::new();
    let head = head.iter().map(ToString::to_string).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &all {
        let mut shown = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            shown.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    write(text.as_bytes())
}
