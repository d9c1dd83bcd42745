//! YAML as PyYAML reads it, with the byte offsets of its entries. Errors say where and why, and never quote the text.
//! Knows no setting and no secret.

mod explain;
mod parse;
mod quote;
mod scalar;

use std::ops::Range;

use zeroize::Zeroizing;

pub(crate) use parse::parse;
pub(crate) use quote::{write_key, write_quoted};
pub(crate) use scalar::Kind;

/// A value. Its texts are wiped when it is dropped.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    /// A scalar's text as it stands, without quotes and escapes.
    Scalar(Kind, Zeroizing<String>),
    Sequence(Vec<Value>),
    Mapping(Mapping),
    /// A value with a tag that PyYAML's `safe_load` does not take for a text, number, boolean, null or date.
    Tagged(Box<Value>),
}

/// The entries of a mapping: first those of its merge keys, then its own. The last of duplicate keys counts.
pub(crate) type Mapping = Vec<Pair>;

/// An entry of a mapping. Two are equal wherever they stand.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) key: Value,
    pub(crate) value: Value,
    /// The line of its key, from 1.
    pub(crate) line: usize,
    /// Where the entry stands; `None` for one of a merge key.
    pub(crate) spans: Option<EntrySpans>,
}

/// Byte offsets of an entry's key and value, with their tags and anchors.
#[derive(Clone)]
pub(crate) struct EntrySpans {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::null()
    }
}

impl Value {
    pub(crate) fn null() -> Self {
        Value::Scalar(Kind::Null, Zeroizing::default())
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Scalar(Kind::Text, text) => Some(text),
            _ => None,
        }
    }

    /// A text, and a number, boolean or date as it stands.
    pub(crate) fn as_written(&self) -> Option<&str> {
        match self {
            Value::Scalar(
                Kind::Text | Kind::Bool | Kind::Int | Kind::Float | Kind::Timestamp,
                text,
            ) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Scalar(Kind::Bool, text) => {
                let is_true = |word| text.eq_ignore_ascii_case(word);
                Some(["yes", "true", "on"].into_iter().any(is_true))
            }
            _ => None,
        }
    }

    /// A number in plain decimal digits.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            // What begins with 0 is octal, hexadecimal or binary.
            Value::Scalar(Kind::Int, text) if text.len() > 1 && text.starts_with('0') => None,
            Value::Scalar(Kind::Int | Kind::Float, text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether this is a text that would be something else without its quotes.
    pub(crate) fn needs_its_quotes(&self) -> bool {
        self.as_str()
            .is_some_and(|text| Kind::of_plain(text) != Kind::Text)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Value::Scalar(Kind::Null, _))
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self, Value::Mapping(_))
    }

    /// The entry of a name, in a mapping.
    pub(crate) fn entry(&self, name: &str) -> Option<&Pair> {
        let Value::Mapping(pairs) = self else {
            return None;
        };
        let mut pairs = pairs.iter().rev();
        pairs.find(|pair| pair.key.as_str() == Some(name))
    }

    /// The value under a name, in a mapping.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// The word for its type, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Scalar(Kind::Text, _) => "a text",
            Value::Scalar(Kind::Null, _) => "null",
            Value::Scalar(Kind::Bool, _) => "a boolean",
            Value::Scalar(Kind::Int | Kind::Float, _) => "a number",
            Value::Scalar(Kind::Timestamp, _) => "a date",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "an object",
            Value::Scalar(Kind::Anchor, _) => "an anchor (`&`)",
            Value::Scalar(Kind::Merge, _) => "a merge key (`<<`)",
            Value::Scalar(Kind::Default, _) => "a default (`=`)",
            Value::Tagged(_) => "a value with a tag (`!`)",
        }
    }

    /// About how many bytes a copy takes.
    fn size(&self) -> usize {
        match self {
            Value::Scalar(_, text) => 1 + text.len(),
            Value::Sequence(items) => 1 + items.iter().map(Value::size).sum::<usize>(),
            Value::Mapping(pairs) => {
                let size = |pair: &Pair| pair.key.size() + pair.value.size();
                1 + pairs.iter().map(size).sum::<usize>()
            }
            Value::Tagged(value) => 1 + value.size(),
        }
    }
}

#[cfg(test)]
mod tests;
