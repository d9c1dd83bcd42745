//! A document as text.

use zeroize::Zeroizing;

use super::{BundleFormat, Document};

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
        quoted(name.as_str(), out);
        out(": ");
        quoted(value.as_str(), out);
        before = ",\n  ";
    }
    out(if document.is_empty() { "{}\n" } else { "\n}\n" });
}

fn yaml(document: &Document, out: Out<'_>) {
    for (name, value) in document {
        let name = name.as_str();
        // `yes`, `null` or `1e3` would be no text to a YAML parser; none of those begins with a letter and has a `_`.
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.contains('_') {
            out(name);
        } else {
            quoted(name, out);
        }
        out(": ");
        quoted(value.as_str(), out);
        out("\n");
    }
    if document.is_empty() {
        out("{}\n");
    }
}

/// A text in double quotes as JSON and YAML both read it. More is escaped than JSON wants: what YAML refuses in the plain
/// (control characters, U+FEFF, U+FFFE, U+FFFF) or folds into spaces (U+0085, U+2028, U+2029).
fn quoted(text: &str, out: Out<'_>) {
    out("\"");
    escaped(text, out, |c| match c {
        '"' => Some("\\\"".into()),
        '\\' => Some("\\\\".into()),
        '\n' => Some("\\n".into()),
        '\t' => Some("\\t".into()),
        '\r' => Some("\\r".into()),
        '\0'..='\x1f'
        | '\x7f'..='\u{9f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{feff}'
        | '\u{fffe}'
        | '\u{ffff}' => Some(format!("\\u{:04x}", u32::from(c))),
        _ => None,
    });
    out("\"");
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
