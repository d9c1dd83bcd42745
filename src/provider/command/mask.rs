//! The end of a program's standard error as one line for the log, with every known value masked.

use zeroize::Zeroizing;

use crate::text::printable;

/// What stands for a value.
const MASK: &str = "***";
/// Shorter values are masked only where they stand as whole words: `a` is in every text.
const MIN_LENGTH: usize = 4;
/// How much of the text is shown, in characters.
const MAX_SHOWN: usize = 500;

/// Values that must not be shown.
#[derive(Default)]
pub(super) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Adds a value, each of its lines, and the form that it has in JSON.
    pub(super) fn add(&mut self, value: &str) {
        let escaped = Zeroizing::new(serde_json::to_string(value).unwrap_or_default());
        let texts = value.lines().chain([value, escaped.trim_matches('"')]);
        let texts = texts.map(str::trim).filter(|text| !text.is_empty());
        self.0
            .extend(texts.map(|text| Zeroizing::new(text.to_owned())));
    }

    /// Adds what may be values in what a program printed, also where the document leaves them out: its lines, and what stands in
    /// quotes, unless it is a name.
    pub(super) fn add_parts(&mut self, printed: &[u8]) {
        let printed = Zeroizing::new(String::from_utf8_lossy(printed).into_owned());
        let mut add = |part: &str| {
            if part.trim().len() >= MIN_LENGTH {
                self.add(part);
            }
        };
        printed.lines().for_each(&mut add);
        let mut rest = printed.as_str();
        while let Some(from) = rest.find('"') {
            let text = &rest[from + 1..];
            let length = quoted_length(text);
            let quoted = &text[..length];
            rest = text[length..].strip_prefix('"').unwrap_or_default();
            if rest.trim_start().starts_with(':') {
                continue;
            }
            add(quoted);
            let token = Zeroizing::new(format!("\"{quoted}\""));
            if let Ok(value) = serde_json::from_str::<String>(&token) {
                add(&Zeroizing::new(value));
            }
        }
    }

    /// The end of the text in one line, its values masked and its hidden characters escaped.
    pub(super) fn masked(mut self, text: &[u8]) -> String {
        // A value that contains another one is masked first.
        self.0
            .sort_by(|a, b| (b.len(), b.as_str()).cmp(&(a.len(), a.as_str())));
        self.0.dedup();
        let mut text = Zeroizing::new(String::from_utf8_lossy(text).into_owned());
        for value in &self.0 {
            text = Zeroizing::new(match value.len() < MIN_LENGTH {
                true => mask_words(&text, value),
                false => text.replace(value.as_str(), MASK),
            });
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = printable(&lines.collect::<Vec<_>>().join("; "));
        match line.char_indices().rev().nth(MAX_SHOWN) {
            Some((from, _)) => format!("...{}", &line[from..]),
            None => line,
        }
    }
}

/// How long the text is that ends before the next quote without a backslash.
fn quoted_length(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

fn mask_words(text: &str, word: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut masked = String::new();
    let mut end = 0;
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        if !before.is_some_and(is_part) && !after.is_some_and(is_part) {
            masked += &text[end..at];
            masked += MASK;
            end = at + word.len();
        }
    }
    masked + &text[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_masked_longest_first_and_short_ones_as_whole_words() {
        let mut secrets = Secrets::default();
        for value in ["hunter2", "hunter2-long", "a", "line one\nline two", ""] {
            secrets.add(value);
        }
        let text = b"bad hunter2-long and hunter2\n\n a banana\x1b[2J; line two\n";
        let shown = secrets.masked(text);
        assert_eq!(shown, "bad *** and ***; *** banana\\u{1b}[2J; ***");
    }

    #[test]
    fn what_a_program_printed_before_it_failed_is_masked_too() {
        let mut secrets = Secrets::default();
        secrets.add_parts(b"{\"KEY\": \"hunter2\", \"N\": ");
        let shown = secrets.masked(b"cannot go on after hunter2");
        assert_eq!(shown, "cannot go on after ***");
    }

    #[test]
    fn what_the_document_leaves_out_and_what_is_escaped_in_it_is_masked_and_its_names_are_not() {
        let mut secrets = Secrets::default();
        secrets.add("q\"uo\\te");
        secrets.add_parts(br#"{"NAME" : "gr\u00fcn\"x", "deep": {"list": ["hidden"]}}"#);
        let text = r#"NAME deep: hidden q"uo\te q\"uo\\te grün"x gr\u00fcn\"x"#;
        let shown = secrets.masked(text.as_bytes());
        assert_eq!(shown, "NAME deep: *** *** *** *** ***");
    }

    #[test]
    fn a_long_text_is_cut_at_its_beginning() {
        let shown = Secrets::default().masked("ä".repeat(10_000).as_bytes());
        assert_eq!(shown.chars().count(), MAX_SHOWN + 4);
        assert!(shown.starts_with("..."));
    }
}
