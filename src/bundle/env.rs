//! A document as lines `NAME=value`: quoted for shells, systemd and dotenv readers, bare for containers.
//! docs/env-files.md says which program reads which form.

use super::{Document, Out};

/// The most bytes of a line that Docker and Podman read; a longer one makes them refuse the whole file.
const MAX_BARE_LINE: usize = 65_535;

/// Lines for shells, systemd's `EnvironmentFile=` and dotenv readers.
pub(super) fn quoted(document: &Document, out: Out<'_>) {
    write_lines(document, out, not_a_variable, write_quoted);
}

/// Lines for `--env-file` of Docker and Podman: they take all that stands behind the `=` as it is.
pub(super) fn bare(document: &Document, out: Out<'_>) {
    write_lines(document, out, not_bare, |value, out| out(value));
}

/// Why this format cannot hold a value.
type Refusal = Option<&'static str>;

fn write_lines(
    document: &Document,
    out: Out<'_>,
    refusal: fn(&str, &str) -> Refusal,
    write: fn(&str, Out<'_>),
) {
    for (name, value) in document {
        let (name, value) = (name.as_str(), value.as_str());
        match refusal(name, value) {
            Some(reason) => {
                out("# ");
                out(name);
                out(": left out, because ");
                out(reason);
                out("\n");
            }
            None => {
                out(name);
                out("=");
                write(value, out);
                out("\n");
            }
        }
    }
}

pub(super) fn not_a_variable(name: &str, value: &str) -> Refusal {
    let is_identifier = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_identifier {
        Some("no variable can have this name")
    } else if value.contains('\0') {
        Some("no variable can hold a NUL character")
    } else {
        None
    }
}

pub(super) fn not_bare(name: &str, value: &str) -> Refusal {
    if let Some(reason) = not_a_variable(name, value) {
        Some(reason)
    } else if value.contains('\n') {
        Some("this format cannot hold a value of several lines")
    } else if value.ends_with('\r') {
        Some("this format cannot hold a carriage return at the end")
    } else if name.len() + "=".len() + value.len() > MAX_BARE_LINE {
        Some("Docker and Podman read no line over 65,535 bytes")
    } else {
        None
    }
}

/// Every shell and systemd read each form that this writes as the value. Dotenv readers differ:
/// - most of them take double quotes with an escape inside for another value;
/// - single quotes cannot hold a `'`; some readers take `\\` inside for one backslash, and a backslash before the
///   closing quote for an escaped quote, so that they read on into the next lines;
/// - more of them read several lines in double quotes.
fn write_quoted(value: &str, out: Out<'_>) {
    let unquoted = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    let special = |c: char| matches!(c, '\\' | '"' | '$' | '`');
    let fits_single = !value.contains('\'') && !value.contains("\\\\") && !value.ends_with('\\');
    let fits_double = !value.contains(special);
    if value.chars().all(unquoted) {
        out(value);
    } else if fits_single && !(value.contains('\n') && fits_double) {
        out("'");
        out(value);
        out("'");
    } else {
        out("\"");
        let mut written = 0;
        for (at, c) in value.match_indices(special) {
            out(&value[written..at]);
            out("\\");
            out(c);
            written = at + c.len();
        }
        out(&value[written..]);
        out("\"");
    }
}

#[cfg(test)]
mod tests;
