//! Name patterns: `*` stands for any text, `?` for one character. Pure.

/// Whether a name matches a pattern; both are ASCII.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // After the last `*`: where the pattern goes on, and where the name does if the `*` stands for one more.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        for (pattern, name) in [
            ("*", "A"),
            ("HF_*", "HF_TOKEN"),
            ("HF_*", "HF_"),
            ("*_TOKEN", "HF_TOKEN_TOKEN"),
            ("*A*B*", "xAyBz"),
            ("A?C", "ABC"),
            ("A**", "A"),
            ("A.B", "A.B"),
            ("*?", "A"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "A"),
            ("HF_*", "xHF_TOKEN"),
            ("HF_*", "HF"),
            ("hf_*", "HF_TOKEN"),
            ("A?C", "AC"),
            ("A.B", "AxB"),
            ("A", "AB"),
            ("*B", "ABA"),
            ("?*?", "A"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
