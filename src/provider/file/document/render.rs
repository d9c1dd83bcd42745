//! Renders a document in the format that it was read in. Leaves no copy of a value in memory.

use serde_yaml::Value as Yaml;
use zeroize::Zeroizing;

use super::super::json;
use super::{Document, Entry, Format, Raw, Stored, WipedYaml, malformed};
use crate::error::Result;

impl Document {
    /// The document's bytes, in the format that it was read in.
    ///
    /// # Errors
    /// [`Error::Malformed`] if an entry cannot be written as YAML again.
    pub(crate) fn render(&self) -> Result<Zeroizing<Vec<u8>>> {
        // Enough for escapes, which make a text at most six times as long: a vector that grows leaves copies behind.
        let capacity: usize = self.entries.iter().map(Entry::capacity).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity + 16));
        match self.format {
            Format::Json => self.render_json(&mut out),
            Format::Yaml => self.render_yaml(&mut out)?,
        }
        Ok(out)
    }

    fn render_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, entry) in self.entries.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\n  " } else { b",\n  " });
            match entry {
                Entry::Secret { name, stored } => {
                    json::quote(name.as_str(), out);
                    out.extend_from_slice(b": ");
                    json::quote(stored.as_str(), out);
                }
                Entry::Other { raw, .. } => {
                    if let Raw::Json { key, value } = raw {
                        out.extend_from_slice(key.as_bytes());
                        out.extend_from_slice(b": ");
                        out.extend_from_slice(value.as_bytes());
                    }
                }
            }
        }
        if !self.entries.is_empty() {
            out.push(b'\n');
        }
        out.extend_from_slice(b"}\n");
    }

    fn render_yaml(&self, out: &mut Vec<u8>) -> Result<()> {
        if self.entries.is_empty() {
            out.extend_from_slice(b"{}\n");
        }
        for entry in &self.entries {
            match entry {
                Entry::Secret { name, stored } => {
                    quote_yaml(name.as_str(), out);
                    out.extend_from_slice(b": ");
                    quote_yaml(stored.as_str(), out);
                    out.push(b'\n');
                }
                Entry::Other { raw, .. } => {
                    if let Raw::Yaml { key, value } = raw {
                        let mut pair = serde_yaml::Mapping::new();
                        pair.insert(key.clone(), value.0.clone());
                        let pair = WipedYaml(Yaml::Mapping(pair));
                        let text = serde_yaml::to_string(&pair.0).map(Zeroizing::new);
                        let text = text.map_err(|_| {
                            malformed("an entry cannot be written as YAML again".to_owned())
                        })?;
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Entry {
    fn capacity(&self) -> usize {
        match self {
            Entry::Secret {
                name,
                stored: Stored::Encrypted(sealed),
            } => name.as_str().len() + sealed.as_str().len() + 16,
            Entry::Secret {
                name,
                stored: Stored::Plain(value),
            } => name.as_str().len() + 6 * value.len() + 16,
            Entry::Other { raw, .. } => match raw {
                Raw::Json { key, value } => key.len() + value.len() + 16,
                Raw::Yaml { .. } => 256,
            },
        }
    }
}

/// Appends a double-quoted YAML scalar: every YAML parser reads it as a text, even `yes`, `1e3` and `12:30:45`.
fn quote_yaml(text: &str, out: &mut Vec<u8>) {
    use std::io::Write;
    out.push(b'"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_all(b"\\\""),
            '\\' => out.write_all(b"\\\\"),
            '\n' => out.write_all(b"\\n"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => write!(out, "\\x{:02x}", u32::from(c)),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                write!(out, "\\u{:04x}", u32::from(c))
            }
            c => write!(out, "{c}"),
        };
    }
    out.push(b'"');
}
