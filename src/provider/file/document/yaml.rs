//! A YAML file as the lines of its entries and what stands between them, so that an edit changes the lines of one entry and
//! leaves the rest byte for byte.

use std::collections::HashSet;
use std::mem::take;
use std::ops::Range;

use zeroize::Zeroizing;

use super::{Entry, Stored, Written};
use crate::secret::SecretName;
use crate::yaml::{EntrySpans, Mapping, Value, write_key, write_quoted};

const LINE_END: [char; 2] = ['\n', '\r'];

/// What a YAML file has besides its entries.
#[derive(Clone, Default)]
pub(super) struct Layout {
    pub(super) has_bom: bool,
    is_crlf: bool,
    /// Whether the entries stand in braces.
    is_flow: bool,
    has_duplicates: bool,
    indent: String,
    /// What stands before the entries, while there are none. Else it belongs to the first.
    pub(super) head: Zeroizing<String>,
    /// What stands behind the entries.
    pub(super) tail: Zeroizing<String>,
}

/// An entry.
#[derive(Clone)]
pub(super) struct Lines {
    /// What stands between the entry before it and this one: comments, empty lines; in braces, a comma.
    pub(super) before: Zeroizing<String>,
    /// Whole lines; in braces, the entry alone.
    pub(super) text: Zeroizing<String>,
    /// Where the key and the value are in the text.
    spans: EntrySpans,
    /// The value, if it is not a secret's.
    pub(super) content: Value,
}

fn owned(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

/// The texts as one, in a buffer that does not grow.
fn concat(parts: &[&str]) -> Zeroizing<String> {
    Zeroizing::new(parts.concat())
}

fn quote(value: &str) -> Zeroizing<String> {
    let mut length = 0;
    write_quoted(value, &mut |part| length += part.len());
    let mut text = Zeroizing::new(String::with_capacity(length));
    write_quoted(value, &mut |part| text.push_str(part));
    text
}

impl Lines {
    pub(super) fn new(name: &str, value: &str) -> Self {
        let mut name_text = String::new();
        write_key(name, &mut |part| name_text.push_str(part));
        let value = quote(value);
        let start = name_text.len() + 2;
        Self {
            before: Zeroizing::default(),
            spans: EntrySpans {
                key: 0..name_text.len(),
                value: start..start + value.len(),
            },
            text: concat(&[&name_text, ": ", &value]),
            content: Value::null(),
        }
    }

    /// Replaces the value, with its tag and its anchor.
    pub(super) fn set_value(&mut self, value: &str) {
        let new = quote(value);
        let EntrySpans { key, value } = self.spans.clone();
        let (before, after) = (&self.text[..value.start], &self.text[value.end..]);
        let has_own_lines = before[key.end..].contains(LINE_END);
        let (text, spans) = if has_own_lines || value.is_empty() {
            let indent = &before[..before.len() - before.trim_start_matches(' ').len()];
            let name = &before[key];
            let start = indent.len() + name.len() + 2;
            let spans = EntrySpans {
                key: indent.len()..indent.len() + name.len(),
                value: start..start + new.len(),
            };
            (concat(&[indent, name, ": ", &new, after]), spans)
        } else {
            let spans = EntrySpans {
                key,
                value: value.start..value.start + new.len(),
            };
            (concat(&[before, &new, after]), spans)
        };
        self.text = text;
        self.spans = spans;
        self.content = Value::null();
    }

    fn indent(&mut self, indent: &str) {
        if !indent.is_empty() && !self.text.starts_with(' ') {
            self.text = concat(&[indent, &self.text]);
            for range in [&mut self.spans.key, &mut self.spans.value] {
                *range = range.start + indent.len()..range.end + indent.len();
            }
        }
    }

    fn ends_in_tag(&self) -> bool {
        let last_word = self.text.rsplit(' ').next();
        last_word.is_some_and(|word| word.starts_with('!'))
    }

    fn ends_line(&self) -> bool {
        self.text.ends_with(LINE_END)
    }
}

impl Layout {
    /// Whether a key of the file as it was read stands in it more than once.
    pub(super) fn has_duplicates(&self) -> bool {
        self.has_duplicates
    }

    /// Splits a text into entries; `secret` says what a key and a value are.
    pub(super) fn split(
        text: &str,
        pairs: Mapping,
        (place, is_flow): (Range<usize>, bool),
        secret: impl Fn(&Value, &Value) -> Option<(SecretName, Stored)>,
    ) -> (Self, Vec<Entry>) {
        let first_end = text.find(LINE_END).unwrap_or_default();
        let mut layout = Layout {
            is_crlf: text[first_end..].starts_with("\r\n"),
            is_flow,
            ..Layout::default()
        };
        let mut entries = Vec::with_capacity(pairs.len());
        let mut keys = HashSet::new();
        let mut at = 0;
        for pair in pairs {
            let secret = secret(&pair.key, &pair.value);
            let key = pair.key.as_str().map(ToOwned::to_owned);
            let content = match secret {
                Some(_) => Value::null(),
                None => pair.value,
            };
            let written = match pair.spans {
                // The second entry of a line has no line of its own, either.
                Some(spans) if spans.key.start >= at => {
                    layout.has_duplicates |= key.as_ref().is_some_and(|k| !keys.insert(k.clone()));
                    let value = value_span(text, &spans);
                    let end = match spans.value.is_empty() {
                        true => value.end,
                        false => value.end.max(spans.value.end),
                    };
                    let (start, end) = match is_flow {
                        true => (spans.key.start, end),
                        false => (line_start(text, spans.key.start), line_end(text, end)),
                    };
                    let start = start.max(at);
                    let moved = |range: Range<usize>| range.start - start..range.end - start;
                    let lines = Lines {
                        before: owned(&text[at..start]),
                        text: owned(&text[start..end]),
                        spans: EntrySpans {
                            key: moved(spans.key),
                            value: moved(value),
                        },
                        content,
                    };
                    at = end;
                    Written::Yaml(lines)
                }
                _ => Written::Merged(content),
            };
            entries.push(Entry {
                key,
                secret,
                written,
            });
        }
        let first = entries.iter().find_map(Entry::lines);
        match first {
            Some(lines) if !is_flow => {
                let line = lines.text.trim_start_matches(' ');
                layout.indent = " ".repeat(lines.text.len() - line.len());
            }
            Some(_) => {}
            None => {
                at = match is_flow {
                    // Before the brace that closes.
                    true => place.end - 1,
                    false => end_marker(text),
                };
                layout.head = owned(&text[..at]);
            }
        }
        layout.tail = owned(&text[at..]);
        (layout, entries)
    }

    /// Adapts an entry to those of the file, and returns where among them it belongs: at the end.
    pub(super) fn place(&mut self, entries: &mut Vec<Entry>, entry: &mut Entry) -> usize {
        // An entry of its own overrides that of a merge key.
        if entry.key.is_some() {
            let is_merged = |old: &Entry| matches!(old.written, Written::Merged(_));
            entries.retain(|old| !is_merged(old) || old.key != entry.key);
        }
        let end = entries.len();
        let Written::Yaml(new) = &mut entry.written else {
            return end;
        };
        let line_break = if self.is_crlf { "\r\n" } else { "\n" };
        let last = entries
            .iter()
            .rposition(|entry| entry.lines().is_some())
            .unwrap_or(end);
        let is_only = !entries
            .iter()
            .take(last)
            .any(|entry| entry.lines().is_some());
        let last_lines = entries.get_mut(last).and_then(Entry::lines_mut);
        if self.is_flow {
            new.text = owned(new.text.trim_end_matches(LINE_END));
            new.before = match last_lines {
                // A comma may be part of a tag.
                Some(last) if last.ends_in_tag() => owned(" , "),
                Some(_) => owned(", "),
                None => take(&mut self.head),
            };
            return end;
        }
        new.indent(&self.indent);
        if !new.ends_line() {
            new.text = concat(&[&new.text, line_break]);
        }
        match last_lines {
            None => {
                new.before = take(&mut self.head);
                if !(new.before.is_empty() || new.before.ends_with(LINE_END)) {
                    new.before = concat(&[&new.before, line_break]);
                }
                end
            }
            Some(last_lines) if last_lines.ends_line() => end,
            // A line end would belong to the value.
            Some(last_lines) if last_lines.text.contains(LINE_END) => {
                if is_only {
                    new.before = take(&mut last_lines.before);
                }
                last
            }
            Some(last_lines) => {
                last_lines.text = concat(&[&last_lines.text, line_break]);
                end
            }
        }
    }

    /// Before entries go: keeps what stands between them, without the commas.
    pub(super) fn close_gaps(
        &mut self,
        entries: &mut [Entry],
        is_gone: impl Fn(usize, &Entry) -> bool,
    ) {
        let mut carried = take(&mut self.head);
        let mut has_kept = false;
        for (at, entry) in entries.iter_mut().enumerate() {
            let goes = is_gone(at, entry);
            let Some(lines) = entry.lines_mut() else {
                continue;
            };
            if goes && self.is_flow && carried.is_empty() {
                carried = take(&mut lines.before);
            } else if goes && !self.is_flow {
                carried = concat(&[&carried, &lines.before]);
            } else if !goes {
                if !carried.is_empty() {
                    let before = if self.is_flow { "" } else { &*lines.before };
                    lines.before = concat(&[&carried, before]);
                    carried = Zeroizing::default();
                }
                has_kept = true;
            }
        }
        match has_kept {
            true if self.is_flow => {}
            true => self.tail = concat(&[&carried, &self.tail]),
            false => self.head = carried,
        }
    }
}

/// Where the value stands without the line ends behind it; if there is none, where it would stand.
fn value_span(text: &str, spans: &EntrySpans) -> Range<usize> {
    let rest = text[spans.key.end..].trim_start_matches([' ', '\t']);
    let least = match rest.starts_with(':') {
        true => text.len() - rest.len() + 1,
        false => spans.key.end,
    };
    let end = text[..spans.value.end].trim_end().len().max(least);
    spans.value.start.clamp(least, end)..end
}

/// Where the line `...` begins, or else the text's end.
fn end_marker(text: &str) -> usize {
    let mut lines = text.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at - line.len(), line))
    });
    let marker = lines.find(|(_, line)| line.trim_end() == "...");
    marker.map_or(text.len(), |(at, _)| at)
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind(LINE_END).map_or(0, |end| end + 1)
}

/// The start of the next line, or `at` itself if a line starts there.
fn line_end(text: &str, at: usize) -> usize {
    if text[..at].ends_with(LINE_END) {
        return at;
    }
    let Some(end) = text[at..].find(LINE_END) else {
        return text.len();
    };
    let end = at + end;
    match text[end..].starts_with("\r\n") {
        true => end + 2,
        false => end + 1,
    }
}
