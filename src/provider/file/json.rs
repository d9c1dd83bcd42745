//! Splits a JSON object into its members as they were written, so that an edit of one leaves the others byte for byte.
//! `serde_json` checks the text; this scanner only finds where the members of a checked text begin and end.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

/// Checks that the text is one JSON object. The error says why not, without quoting the text.
pub(super) fn check_object(text: &str) -> Result<(), String> {
    struct Object;
    impl<'de> Visitor<'de> for Object {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_map(Object)
        .and_then(|()| deserializer.end())
        .map_err(|error| match error.classify() {
            Category::Data => "it is not an object of names and texts".to_owned(),
            Category::Eof => format!("it ends too early, at line {}", error.line()),
            _ => format!(
                "not JSON at line {} column {}",
                error.line(),
                error.column()
            ),
        })
}

/// The members of a checked object: key and value as written.
pub(super) fn members(text: &str) -> Vec<(&str, &str)> {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut members = Vec::new();
    scanner.skip(|b| b.is_ascii_whitespace() || b == b'{');
    while scanner.peek() == Some(b'"') {
        let key = scanner.value();
        scanner.skip(|b| b.is_ascii_whitespace() || b == b':');
        let value = scanner.value();
        scanner.skip(|b| b.is_ascii_whitespace() || b == b',');
        members.push((&text[key.0..key.1], &text[value.0..value.1]));
    }
    members
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, what: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&what) {
            self.at += 1;
        }
    }

    /// Skips one value; returns where it begins and ends.
    fn value(&mut self) -> (usize, usize) {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        break;
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
                b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => break,
                _ => self.at += 1,
            }
        }
        (start, self.at)
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if byte == b'"' {
                break;
            }
        }
    }
}

/// The string that a raw value stands for; `None` if it is not a string.
pub(super) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        // Fails for a lone surrogate.
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Appends a text as a JSON string.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}
