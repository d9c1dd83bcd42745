//! Renders a document in the format that it was read in. Leaves no copy of a value in memory.

use zeroize::Zeroizing;

use super::super::json;
use super::parse::parse_yaml;
use super::yaml::{Layout, Lines};
use super::{Document, Entry, Written, malformed};
use crate::error::Result;
use crate::yaml::Value;

const BOM: &str = "\u{feff}";

impl Document {
    /// The document's bytes, in the format that it was read in.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if other entries of a YAML file would change, too: those that
    /// use an anchor of one that was edited.
    pub(crate) fn render(&self) -> Result<Zeroizing<Vec<u8>>> {
        match &self.layout {
            None => Ok(self.render_json()),
            Some(layout) => self.render_yaml(layout),
        }
    }

    fn render_json(&self) -> Zeroizing<Vec<u8>> {
        // Enough for escapes, which make a text at most six times as long: a vector that grows leaves copies behind.
        let capacity: usize = self.entries.iter().map(Entry::json_capacity).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity + 16));
        out.push(b'{');
        for (index, entry) in self.entries.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\n  " } else { b",\n  " });
            match (&entry.written, &entry.secret) {
                (Written::Json { key, value }, _) => {
                    out.extend_from_slice(key.as_bytes());
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value.as_bytes());
                }
                (_, Some((name, stored))) => {
                    json::quote(name.as_str(), &mut out);
                    out.extend_from_slice(b": ");
                    json::quote(stored.as_str(), &mut out);
                }
                (_, None) => {}
            }
        }
        if !self.entries.is_empty() {
            out.push(b'\n');
        }
        out.extend_from_slice(b"}\n");
        out
    }

    fn render_yaml(&self, layout: &Layout) -> Result<Zeroizing<Vec<u8>>> {
        let lines = || self.entries.iter().filter_map(Entry::lines);
        let parts = |lines: &Lines| lines.before.len() + lines.text.len();
        let length = layout.head.len() + lines().map(parts).sum::<usize>() + layout.tail.len();
        let mut out = Zeroizing::new(String::with_capacity(length + 16));
        if layout.has_bom {
            out.push_str(BOM);
        }
        let start = out.len();
        out.push_str(&layout.head);
        for lines in lines() {
            out.push_str(&lines.before);
            out.push_str(&lines.text);
        }
        out.push_str(&layout.tail);
        if out[start..].trim().is_empty() {
            out.push_str("{}\n");
        }
        let is_same = parse_yaml(&out[start..]).is_ok_and(|again| again.has_same_content(self));
        if !is_same {
            return Err(malformed(
                "this would change other entries, too, by an anchor, a merge key or its unusual form; \
                 edit the file itself"
                    .to_owned(),
            ));
        }
        Ok(Zeroizing::new(std::mem::take(&mut *out).into_bytes()))
    }

    fn has_same_content(&self, other: &Document) -> bool {
        self.index.len() == other.index.len()
            && self.names().eq(other.names())
            && self.names().all(|name| self.get(name) == other.get(name))
            && self.other_entries().eq(other.other_entries())
    }

    fn other_entries(&self) -> impl Iterator<Item = (Option<&str>, &Value)> {
        let others = self.entries.iter().filter(|entry| entry.secret.is_none());
        others.filter_map(|entry| match &entry.written {
            Written::Yaml(Lines { content, .. }) | Written::Merged(content) => {
                Some((entry.key.as_deref(), content))
            }
            _ => None,
        })
    }
}

impl Entry {
    fn json_capacity(&self) -> usize {
        let written = match &self.written {
            Written::Json { key, value } => key.len() + value.len(),
            _ => 0,
        };
        let secret = self.secret.as_ref();
        let secret = secret.map(|(name, stored)| name.as_str().len() + 6 * stored.as_str().len());
        written + secret.unwrap_or_default() + 16
    }
}
