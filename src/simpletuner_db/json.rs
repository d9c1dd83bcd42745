//! Parses JSON objects without quoting them in errors, and changes the white space of JSON text, so that every token stays
//! as it was written.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;

use crate::secret::{SecretBuffer, SecretValue};

/// The white space between tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonLayout {
    /// A line for each element, two spaces of indent, and a newline at the end: for people.
    Indented,
    /// One line, `", "` and `": "`, as Python's `json.dumps` writes it.
    OneLine,
}

/// Parses an object.
///
/// # Errors
/// Where and why it is not an object, or which name it has twice; never quotes a value.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    struct Unique(Result<Map<String, Value>, String>);
    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Object;
            impl<'de> Visitor<'de> for Object {
                type Value = Unique;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                    let mut object = Map::new();
                    let mut twice = None;
                    while let Some((name, value)) = map.next_entry::<String, Value>()? {
                        if object.insert(name.clone(), value).is_some() {
                            twice = Some(format!("an object with {name:?} twice"));
                        }
                    }
                    Ok(Unique(twice.map_or(Ok(object), Err)))
                }
            }
            deserializer.deserialize_map(Object)
        }
    }
    let parsed = serde_json::from_slice::<Unique>(bytes).map_err(|error| {
        // serde's message quotes the text.
        let problem = if error.is_data() {
            "not a JSON object"
        } else {
            "not valid JSON"
        };
        let (line, column) = (error.line(), error.column());
        format!("{problem}, at line {line} column {column}")
    });
    parsed?.0
}

/// Valid JSON in another layout, in memory that is zeroed when dropped.
pub(super) fn reformat(text: &str, layout: JsonLayout) -> SecretValue {
    let mut length = 0;
    for_each_part(text, layout, &mut |part| length += part.len());
    let mut buffer = SecretBuffer::new(b"");
    // Allocated at its final length: a buffer that grows may leave unzeroed copies.
    buffer.set_len(length);
    let mut at = 0;
    for_each_part(text, layout, &mut |part| {
        buffer.write_at(at, part.as_bytes());
        at += part.len();
    });
    buffer.to_value("").unwrap_or_else(|_| SecretValue::new(""))
}

fn for_each_part(text: &str, layout: JsonLayout, emit: &mut impl FnMut(&str)) {
    let indented = layout == JsonLayout::Indented;
    let mut depth = 0;
    let break_line = |emit: &mut dyn FnMut(&str), depth: usize| {
        if indented {
            emit("\n");
            (0..depth).for_each(|_| emit("  "));
        }
    };
    let mut rest = text.trim_ascii();
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => length_of_string(rest),
            b'{' | b'[' | b'}' | b']' | b',' | b':' => 1,
            _ => rest
                .bytes()
                .position(|b| b" \t\r\n,]}".contains(&b))
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        rest = after.trim_ascii_start();
        match first {
            b'{' | b'[' => {
                emit(token);
                if rest.starts_with(['}', ']']) {
                    emit(&rest[..1]);
                    rest = rest[1..].trim_ascii_start();
                } else {
                    depth += 1;
                    break_line(emit, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                break_line(emit, depth);
                emit(token);
            }
            b',' => {
                emit(if indented { "," } else { ", " });
                break_line(emit, depth);
            }
            b':' => emit(": "),
            _ => emit(token),
        }
    }
    if indented {
        emit("\n");
    }
}

/// The length of the string that a text begins with, quotes included.
fn length_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reformatting_changes_white_space_and_no_token() {
        let text = r#" {"a" : [ 1.10 , -0, 1e400,12345678901234567890123 ],"b\"}:,":{ },"c":[ ], "d":{"e":null,"ä":"\u00e4 , : {"} } "#;
        let one_line = r#"{"a": [1.10, -0, 1e400, 12345678901234567890123], "b\"}:,": {}, "c": [], "d": {"e": null, "ä": "\u00e4 , : {"}}"#;
        let indented = "{\n  \"a\": [\n    1.10,\n    -0,\n    1e400,\n    12345678901234567890123\n  ],\n  \"b\\\"}:,\": {},\n  \"c\": [],\n  \"d\": {\n    \"e\": null,\n    \"ä\": \"\\u00e4 , : {\"\n  }\n}\n";
        assert_eq!(reformat(text, JsonLayout::OneLine).as_str(), one_line);
        assert_eq!(reformat(text, JsonLayout::Indented).as_str(), indented);
        assert_eq!(reformat(indented, JsonLayout::OneLine).as_str(), one_line);
        assert_eq!(reformat("{}", JsonLayout::Indented).as_str(), "{}\n");
    }

    #[test]
    fn a_text_that_is_not_an_object_is_refused_without_quoting_it() {
        for bad in [
            "",
            "hunter2",
            "\"hunter2\"",
            "[\"hunter2\"]",
            "null",
            "{\"a\": hunter2}",
            "{\"a\": \"hunter2\"",
            "{\"a\": NaN}",
            "{\"a\": 1} \"hunter2\"",
            "{\"a\": 1, \"a\": \"hunter2\"}",
            "{\"a\": \"\\ud800hunter2\"}",
        ] {
            let reason = parse_object(bad.as_bytes()).unwrap_err();
            assert!(!reason.contains("hunter2"), "{bad}: {reason}");
        }
        assert!(parse_object(b"{\"a\": \"\xff\"}").is_err());
        assert_eq!(parse_object(b" {} \n").unwrap().len(), 0);
    }
}
