//! A command line, up to the cursor, as words. Expands nothing.

use std::ffi::OsString;

/// An argument as text. One that is not UTF-8 fits nowhere.
pub(super) fn text(argument: &OsString) -> String {
    argument.to_string_lossy().into_owned()
}

/// A word without quotes, and the number of characters before it in the line.
#[derive(Default)]
pub(in crate::cli) struct Word {
    pub(in crate::cli) text: String,
    pub(super) start: usize,
}

/// The words of a command of bash behind its first one. The last one is the word at the cursor, which may be empty.
pub(in crate::cli) fn words(line: &str) -> Vec<Word> {
    let mut words = vec![Word::default()];
    let mut has_begun = false;
    let mut quote = None;
    let mut chars = line.chars().zip(1..);
    while let Some((c, behind)) = chars.next() {
        let word = words.last_mut().map(|word| &mut word.text);
        match (quote, c) {
            (None, ' ' | '\t' | '\n') => {
                if has_begun {
                    words.push(Word::default());
                }
                if let Some(word) = words.last_mut() {
                    word.start = behind;
                }
                has_begun = false;
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => {
                let escaped = chars.next().map(|(c, _)| c);
                word.into_iter().for_each(|word| word.extend(escaped));
            }
            (_, c) => word.into_iter().for_each(|word| word.push(c)),
        }
        has_begun = true;
    }
    let is_assignment = |word: &&Word| {
        let name = word.text.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    let before = words.iter().take_while(is_assignment).count() + 1;
    words.split_off(before.min(words.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_words_as_a_shell_cuts_it() {
        for (line, expected) in [
            ("st ", &[""][..]),
            ("st ge", &["ge"]),
            ("st get  HF_", &["get", "HF_"]),
            ("st get HF_ ", &["get", "HF_", ""]),
            ("A=1 B='2 3' st get ", &["get", ""]),
            (
                "st --config='my file' get \"HF",
                &["--config=my file", "get", "HF"],
            ),
            ("st a\\ b c\\", &["a b", "c"]),
            ("st \"a\\\"b\" 'c\\'", &["a\"b", "c\\"]),
            ("st '' x", &["", "x"]),
            (
                "st cache invalidate secret:HF",
                &["cache", "invalidate", "secret:HF"],
            ),
            ("st", &[]),
            ("", &[]),
        ] {
            let words = words(line).into_iter().map(|word| word.text);
            assert_eq!(words.collect::<Vec<_>>(), expected, "{line:?}");
        }
    }

    #[test]
    fn each_word_has_its_place_in_the_line() {
        for (line, expected) in [
            ("st run  -- py", &[3, 8, 11][..]),
            ("Ä='b c'  st 'é' \"x\" ", &[12, 16, 20]),
            ("st ", &[3]),
        ] {
            let starts = words(line).into_iter().map(|word| word.start);
            assert_eq!(starts.collect::<Vec<_>>(), expected, "{line:?}");
        }
    }
}
