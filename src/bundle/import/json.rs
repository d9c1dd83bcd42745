//! A flat object of JSON, with the lines of its names.

use super::{Raw, Refusal, line_at, no_text};
use crate::bundle::parse::{Node, from_json};

pub(super) fn read(text: &str) -> Result<Vec<Raw>, Refusal> {
    let malformed = |reason: &str| Refusal::Malformed(vec![reason.to_owned()]);
    let entries = match from_json(text).map_err(|reason| malformed(&reason))? {
        Node::Object(entries) => entries,
        Node::Text(_) => return Err(malformed("it is a text, not an object")),
        Node::Other(what) => return Err(malformed(&format!("it is {what}, not an object"))),
    };
    let lines = lines_of_names(text);
    let (mut raw, mut faults) = (Vec::new(), Vec::new());
    for (at, (name, value)) in entries.into_iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        match value {
            Node::Text(value) => raw.push(Raw { name, value, line }),
            Node::Object(()) => faults.push(no_text(line, &name, "an object")),
            Node::Other(what) => faults.push(no_text(line, &name, what)),
        }
    }
    match faults.is_empty() {
        true => Ok(raw),
        false => Err(Refusal::Malformed(faults)),
    }
}

/// The lines of the names of the outermost object, in a text that is valid JSON.
fn lines_of_names(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let (mut lines, mut depth, mut is_name, mut at) = (Vec::new(), 0, false, 0);
    let (mut line, mut counted) = (1, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                if depth == 1 && is_name {
                    line += line_at(&bytes[counted..at]) - 1;
                    counted = at;
                    lines.push(line);
                    is_name = false;
                }
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => {
                depth += 1;
                is_name = depth == 1;
            }
            b'}' | b']' => depth -= 1,
            b',' if depth == 1 => is_name = true,
            _ => {}
        }
        at += 1;
    }
    lines
}
