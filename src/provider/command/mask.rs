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
    /// Adds a value, and each of its lines.
    pub(super) fn add(&mut self, value: &str) {
        let lines = value.lines().chain([value]).map(str::trim);
        let texts = lines.filter(|line| !line.is_empty());
        self.0
            .extend(texts.map(|text| Zeroizing::new(text.to_owned())));
    }

    /// Adds what may be values in what a program printed: its lines, and what stands in quotes.
    pub(super) fn add_parts(&mut self, printed: &[u8]) {
        let printed = Zeroizing::new(String::from_utf8_lossy(printed).into_owned());
        let lines = printed
            .lines()
            .filter(|line| line.trim().len() >= MIN_LENGTH);
        lines.for_each(|line| self.add(line));
        let parts = printed
            .split('"')
            .filter(|part| part.trim().len() >= MIN_LENGTH);
        parts.for_each(|part| self.add(part));
    }

    /// The end of the text in one line, its values masked and its hidden characters escaped.
    pub(super) fn masked(mut self, text: &[u8]) -> String {
        // A value that contains another one is masked first.
        self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
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
    fn a_long_text_is_cut_at_its_beginning() {
        let shown = Secrets::default().masked("ä".repeat(10_000).as_bytes());
        assert_eq!(shown.chars().count(), MAX_SHOWN + 4);
        assert!(shown.starts_with("..."));
    }
}
