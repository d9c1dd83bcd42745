//! The patterns of a definition: only those that some name can match.

use crate::error::{Error, Result};
use crate::secret::{MAX_NAME, NamePattern};

/// A pattern over names of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(NamePattern);

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
        Ok(Self(NamePattern::new(text)))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it matches only one name.
    pub fn is_name(&self) -> bool {
        !self.as_str().contains(['*', '?'])
    }

    /// Whether it matches the name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_no_name_can_match_is_refused() {
        for bad in ["", "a/b", "..\n", "é", "a b", &"a".repeat(256)] {
            assert_eq!(Pattern::new(bad).unwrap_err().errno(), libc::EINVAL);
        }
        assert!(Pattern::new("HF_TOKEN").unwrap().is_name());
        assert!(!Pattern::new("HF_*").unwrap().is_name());
    }
}
