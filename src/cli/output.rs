//! Standard output: unbuffered bytes, because a buffer would keep a copy of a secret; tables; JSON.

use std::io::{self, IsTerminal};

use rustix::io::Errno;
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use crate::launch;

/// Refuses to go on if the caller has closed standard output (`>&-`): what is written there would be lost unnoticed.
pub(super) fn refuse_closed() -> Outcome {
    match launch::is_output_closed() {
        true => Err(Failure::unwritable(&Errno::BADF.into())),
        false => Ok(()),
    }
}

/// Writes all bytes, without a buffer.
pub(super) fn write(bytes: &[u8]) -> Outcome {
    let out = io::stdout();
    let mut rest = bytes;
    if !rest.is_empty() {
        refuse_closed()?;
    }
    while !rest.is_empty() {
        match rustix::io::write(&out, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            // Another process that shares the terminal or pipe made it non-blocking.
            Err(Errno::AGAIN) => wait_until_writable(&out),
            Err(Errno::PIPE) => return Err(Failure::OutputClosed),
            Err(errno) => return Err(Failure::unwritable(&errno.into())),
        }
    }
    Ok(())
}

fn wait_until_writable(out: &io::Stdout) {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(out, PollFlags::OUT)], None);
}

/// Writes a text and a newline.
pub(super) fn line(text: &str) -> Outcome {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value byte for byte; at a terminal with a newline after a single line, so that the prompt is on its own line.
pub(super) fn value(bytes: &[u8], no_newline: bool) -> Outcome {
    write(bytes)?;
    if !no_newline && !bytes.contains(&b'\n') && io::stdout().is_terminal() {
        write(b"\n")?;
    }
    Ok(())
}

/// Writes a document, indented by two spaces.
pub(super) fn json(document: &impl Serialize) -> Outcome {
    match serde_json::to_string_pretty(document) {
        Ok(text) => line(&text),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// Writes rows under a header, in columns as wide as their widest cell.
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
