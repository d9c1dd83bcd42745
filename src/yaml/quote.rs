//! Writes texts and keys of YAML and JSON, in quotes where they need them.

/// Writes a text in double quotes as JSON and YAML both read it. More is escaped than JSON wants: what YAML refuses in the
/// plain (control characters, U+FEFF, U+FFFE, U+FFFF) or folds into spaces (U+0085, U+2028, U+2029).
pub(crate) fn write_quoted(text: &str, out: &mut dyn FnMut(&str)) {
    out("\"");
    let mut written = 0;
    for (at, c) in text.char_indices() {
        let escape: std::borrow::Cow<'_, str> = match c {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\t' => "\\t".into(),
            '\r' => "\\r".into(),
            '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => format!("\\u{:04x}", u32::from(c)).into(),
            _ => continue,
        };
        out(&text[written..at]);
        out(&escape);
        written = at + c.len_utf8();
    }
    out(&text[written..]);
    out("\"");
}

/// Writes a secret's name as a key of YAML, in quotes if it might not be a text without.
pub(crate) fn write_key(name: &str, out: &mut dyn FnMut(&str)) {
    // `yes`, `null` or `1e3` would be no text to a YAML parser; none of those begins with a letter and has a `_`.
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.contains('_') {
        out(name);
    } else {
        write_quoted(name, out);
    }
}
