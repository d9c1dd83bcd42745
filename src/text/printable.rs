//! Makes text safe to show that others may have chosen: the name of a program, a backend's message.

/// The text with each [hidden](is_hidden) character escaped, line ends as `\n`, so that it cannot steer a terminal or forge a
/// line of the log.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Whether the character shows nothing itself, or changes how the text around it is shown: control characters, bidirectional
/// marks, line separators, and what Unicode calls default ignorable.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

/// `Default_Ignorable_Code_Point` of Unicode's DerivedCoreProperties, and the separators and annotations beside it.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_or_turns_the_text_around_is_escaped() {
        assert_eq!(printable("cat ä 猫 -x"), "cat ä 猫 -x");
        assert_eq!(
            printable("a\u{202e}b\u{200b}\n\u{feff}\u{e0041}\u{2028}"),
            "a\\u{202e}b\\u{200b}\\n\\u{feff}\\u{e0041}\\u{2028}"
        );
    }
}
