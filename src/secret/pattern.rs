//! Patterns over names: `*` stands for any characters, `?` for one. Knows no list of names.

use std::fmt;

/// A pattern over secrets' names. One without `*` and `?` is a name.
#[derive(Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// The pattern of this text. Any text is one; a text that no name can have matches none.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches the whole name. Upper and lower case differ.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Behind the last `*`, and where in the name it stops for now: a longer match is tried only of the last one.
        let mut last_star = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    last_star = Some((at, read));
                }
                Some(b'?') => (at, read) = (at + 1, read + 1),
                Some(byte) if *byte == name[read] => (at, read) = (at + 1, read + 1),
                _ => match &mut last_star {
                    Some((behind, until)) => {
                        *until += 1;
                        (at, read) = (*behind, *until);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl std::str::FromStr for NamePattern {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, matching, others) in [
            (
                "HF_*",
                &["HF_", "HF_TOKEN"][..],
                &["HF", "XHF_", "hf_token"][..],
            ),
            ("*", &["", "A"], &[]),
            ("A?C", &["ABC", "A-C"], &["AC", "ABBC"]),
            ("*_KEY", &["_KEY", "A_KEY", "A_KEY_KEY"], &["A_KEYS"]),
            ("*A*B*", &["AB", "xAxBx", "BAB"], &["BA"]),
            ("EXACT", &["EXACT"], &["EXACT2", "", "exact"]),
            ("", &[""], &["A"]),
            ("a.b-c", &["a.b-c"], &["aXb-c"]),
        ] {
            let pattern = NamePattern::new(pattern);
            for name in matching {
                assert!(pattern.matches(name), "{pattern} {name}");
            }
            for name in others {
                assert!(!pattern.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_at_once() {
        let pattern = NamePattern::new(&"*A".repeat(100));
        assert!(!pattern.matches(&"A".repeat(99)));
        assert!(pattern.matches(&"A".repeat(255)));
        assert!(!NamePattern::new(&"*A".repeat(100)).matches(&format!("{}B", "A".repeat(254))));
    }

    proptest! {
        #[test]
        fn it_matches_as_the_plain_definition_does(pattern in "[AB*?]{0,8}", name in "[AB]{0,8}") {
            fn plain(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], _) => name.is_empty(),
                    ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| plain(rest, &name[at..])),
                    ([_, ..], []) => false,
                    ([first, rest @ ..], [byte, behind @ ..]) => {
                        (*first == b'?' || first == byte) && plain(rest, behind)
                    }
                }
            }
            let expected = plain(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(NamePattern::new(&pattern).matches(&name), expected);
        }
    }
}
