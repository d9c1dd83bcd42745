//! Parses text as a document. Errors say where and why, and never quote the text: serde only walks it, because its own message
//! about a wrong type quotes the value.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{BundleFormat, Document};
use crate::error::{Error, Result};
use crate::secret::{MAX_VALUE, SecretName, SecretValue};
use crate::text::text_of;
use crate::yaml::{self, Kind, Pair, Value};

/// Parses a document. A YAML document may hold JSON, too: SimpleTuner writes JSON whatever the suffix.
///
/// # Errors
/// [`Error::Malformed`]: not text, not a flat object of texts, an invalid name, a name that is there twice, or
/// a format that is only for reading. [`Error::TooLarge`]: a value over 64 KiB.
pub fn parse(format: BundleFormat, bytes: &[u8]) -> Result<Document> {
    let malformed = |reason: String| Error::Malformed {
        what: format.file_name().into(),
        reason,
    };
    let text = text_of(bytes).map_err(malformed)?;
    let node = match format {
        BundleFormat::Json => from_json(text).map_err(malformed)?,
        BundleFormat::Yaml => from_json(text)
            .or_else(|_| from_yaml(text))
            .map_err(malformed)?,
        BundleFormat::Env | BundleFormat::DockerEnv => {
            return Err(malformed(
                "it is only for reading; write secrets.json or secrets.yaml".into(),
            ));
        }
    };
    let entries = match node {
        Node::Object(entries) => entries,
        Node::Text(_) => return Err(malformed("it is a text, not an object".into())),
        Node::Other(what) => return Err(malformed(format!("it is {what}, not an object"))),
    };
    let mut document = Document::new();
    for (name, value) in entries {
        let name = SecretName::new(&name).map_err(|error| malformed(error.to_string()))?;
        let value = match value {
            Node::Text(value) => value,
            Node::Object(()) => return Err(malformed(format!("{name} is an object, not a text"))),
            Node::Other(what) => return Err(malformed(format!("{name} is {what}, not a text"))),
        };
        if value.len() > MAX_VALUE {
            return Err(Error::TooLarge {
                what: format!("the value of {name}"),
                limit: MAX_VALUE,
            });
        }
        if document.contains_key(&name) {
            return Err(malformed(format!("{name} is there twice")));
        }
        document.insert(name, value);
    }
    Ok(document)
}

pub(super) type Whole = Node<Vec<(String, Node<()>)>>;

pub(super) fn from_json(text: &str) -> Result<Whole, String> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("no valid JSON at line {line} column {column}")
    })
}

fn from_yaml(text: &str) -> Result<Whole, String> {
    let pairs = match yaml::parse(text)?.root {
        Value::Mapping(pairs) => pairs,
        Value::Scalar(Kind::Text, text) => return Ok(Node::Text(SecretValue::new(&text))),
        other => return Ok(Node::Other(other.type_name())),
    };
    let entry = |pair: Pair| {
        let name = pair.key.as_str().ok_or("a name is not a text")?.to_owned();
        let value = match pair.value {
            Value::Scalar(Kind::Text, text) => Node::Text(SecretValue::new(&text)),
            Value::Mapping(_) => Node::Object(()),
            other => Node::Other(other.type_name()),
        };
        Ok((name, value))
    };
    let entries = pairs.into_iter().map(entry);
    entries.collect::<Result<_, String>>().map(Node::Object)
}

/// Any JSON, and what YAML has beyond it; of what is not wanted only the kind is kept. `O` is what is kept of an object.
pub(super) enum Node<O> {
    Text(SecretValue),
    Object(O),
    Other(&'static str),
}

/// What is kept of an object: its entries at the top, nothing below.
trait Object: Sized {
    fn collect<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl Object for Vec<(String, Node<()>)> {
    fn collect<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl Object for () {
    fn collect<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

impl<'de, O: Object> Deserialize<'de> for Node<O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor(PhantomData))
    }
}

struct NodeVisitor<O>(PhantomData<O>);

impl<'de, O: Object> Visitor<'de> for NodeVisitor<O> {
    type Value = Node<O>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON or YAML")
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(SecretValue::new(text)))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        O::collect(map).map(Node::Object)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other("a list"))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Other("null"))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Node::Other("a boolean"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }
    fn visit_i128<E>(self, _: i128) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }
    fn visit_u128<E>(self, _: u128) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }
}
