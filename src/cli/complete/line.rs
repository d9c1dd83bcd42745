//! A command line, up to the cursor, as words. Expands nothing.

use std::ffi::OsString;

/// An argument as text. One that is not UTF-8 fits nowhere.
pub(super) fn text(argument: &OsString) -> String {
    argument.to_string_lossy().into_owned()
}

/// The words of a command of bash behind its first one, without quotes. The last one is the word at the cursor, which may be
/// empty.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut has_begun = false;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let word = words.last_mut();
        match (quote, c) {
            (None, ' ' | '\t' | '\n') => {
                if has_begun {
                    words.push(String::new());
                }
                has_begun = false;
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => {
                let escaped = chars.next();
                word.into_iter().for_each(|word| word.extend(escaped));
            }
            (_, c) => word.into_iter().for_each(|word| word.push(c)),
        }
        has_begun = true;
    }
    let is_assignment = |word: &&String| {
        let name = word.split_once('=').map(|(name, _)| name);
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
            assert_eq!(words(line), expected, "{line:?}");
        }
    }
}
