//! Patterns over names: `*` stands for any characters, `?` for one. Names and patterns are ASCII.

use crate::error::{Error, Result};
use crate::secret::MAX_NAME;

/// A pattern over names of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern that some name can match.
    ///
    /// # Errors
    /// [`Error::Malformed`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self> {
        let wrong = |reason: &str| {
            let shown: String = text.chars().take(300).collect();
            Err(Error::Malformed {
                what: format!("the pattern {shown:?}"),
                reason: reason.into(),
            })
        };
        if text.is_empty() {
            return wrong("it is empty");
        }
        if text.len() > MAX_NAME {
            return wrong("it is longer than 255 bytes");
        }
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-*?".contains(&b);
        if !text.bytes().all(is_allowed) {
            return wrong("only letters, digits, '.', '_', '-', '*' and '?' are allowed");
        }
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches only one name.
    pub fn is_name(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether it matches the name. Takes at most as many steps as the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if the rest does not match: behind the last `*`, which then takes one character more.
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, n));
                    p += 1;
                }
                Some(&wanted) if wanted == b'?' || wanted == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match &mut retry {
                    Some((after_star, taken)) => {
                        *taken += 1;
                        (p, n) = (*after_star, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by recursion, which may take very long.
    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((b'*', rest)), _) => {
                (0..=name.len()).any(|taken| matches_slowly(rest, &name[taken..]))
            }
            (Some((wanted, pattern)), Some((found, name))) => {
                (*wanted == b'?' || wanted == found) && matches_slowly(pattern, name)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            let slowly = matches_slowly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&name), slowly);
        }
    }

    #[test]
    fn a_pattern_with_many_stars_is_decided_at_once() {
        let pattern = Pattern::new(&"*a".repeat(127)).unwrap();
        assert!(!pattern.matches(&"b".repeat(255)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(254))));
        assert!(pattern.matches(&"a".repeat(255)));
    }

    #[test]
    fn a_pattern_that_no_name_can_match_is_refused() {
        for bad in ["", "a/b", "..\n", "é", "a b", &"a".repeat(256)] {
            assert_eq!(Pattern::new(bad).unwrap_err().errno(), libc::EINVAL);
        }
        assert!(Pattern::new("HF_TOKEN").unwrap().is_name());
        assert!(!Pattern::new("HF_*").unwrap().is_name());
    }
}
