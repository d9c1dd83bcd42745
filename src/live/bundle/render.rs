//! A document as text.

use zeroize::Zeroizing;

use super::{BundleFormat, Document};
use crate::yaml::{write_key, write_quoted};

/// Renders a document. The bytes are zeroed when dropped.
pub fn render(format: BundleFormat, document: &Document) -> Zeroizing<Vec<u8>> {
    let write = match format {
        BundleFormat::Json => json,
        BundleFormat::Yaml => yaml,
        BundleFormat::Env => env,
    };
    // Measured first, because a buffer that grows leaves copies of the values behind.
    let mut length = 0;
    write(document, &mut |text| length += text.len());
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    write(document, &mut |text| {
        bytes.extend_from_slice(text.as_bytes())
    });
    bytes
}

type Out<'a> = &'a mut dyn FnMut(&str);

fn json(document: &Document, out: Out<'_>) {
    let mut before = "{\n  ";
    for (name, value) in document {
        out(before);
        write_quoted(name.as_str(), out);
        out(": ");
        write_quoted(value.as_str(), out);
        before = ",\n  ";
    }
    out(if document.is_empty() { "{}\n" } else { "\n}\n" });
}

fn yaml(document: &Document, out: Out<'_>) {
    for (name, value) in document {
        write_key(name.as_str(), out);
        out(": ");
        write_quoted(value.as_str(), out);
        out("\n");
    }
    if document.is_empty() {
        out("{}\n");
    }
}

fn env(document: &Document, out: Out<'_>) {
    for (name, value) in document {
        let (name, value) = (name.as_str(), value.as_str());
        let bare = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
        if !is_identifier(name) {
            out("# ");
            out(name);
            out(": left out, because no variable can have this name\n");
        } else if value.contains('\0') {
            out("# ");
            out(name);
            out(": left out, because no variable can hold a NUL character\n");
        } else if value.chars().all(bare) {
            out(name);
            out("=");
            out(value);
            out("\n");
        } else {
            out(name);
            out("=\"");
            escaped(value, out, |c| {
                matches!(c, '\\' | '"' | '$' | '`').then(|| format!("\\{c}"))
            });
            out("\"\n");
        }
    }
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Writes a text in the longest pieces that need no escape, and the escapes between.
fn escaped(text: &str, out: Out<'_>, escape: impl Fn(char) -> Option<String>) {
    let mut written = 0;
    for (at, c) in text.char_indices() {
        if let Some(escape) = escape(c) {
            out(&text[written..at]);
            out(&escape);
            written = at + c.len_utf8();
        }
    }
    out(&text[written..]);
}
