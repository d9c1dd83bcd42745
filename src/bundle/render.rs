//! A document as text.

use zeroize::Zeroizing;

use super::{BundleFormat, Document, Out, env};
use crate::yaml::{write_key, write_quoted};

/// Renders a document. The bytes are zeroed when dropped.
pub fn render(format: BundleFormat, document: &Document) -> Zeroizing<Vec<u8>> {
    let write = match format {
        BundleFormat::Json => json,
        BundleFormat::Yaml => yaml,
        BundleFormat::Env => env::quoted,
        BundleFormat::DockerEnv => env::bare,
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
