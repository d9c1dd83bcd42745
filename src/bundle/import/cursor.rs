//! What the readers of the dialects go through a text with, and what they say of it.

use zeroize::Zeroizing;

use crate::secret::{MAX_VALUE, SecretValue};

/// Why a dialect does not give a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) why: String,
    /// The dialect has a value, but only who runs a program, knows other variables, or knows its version gets it.
    pub(super) evaluates: bool,
}

impl Fault {
    pub(super) fn new(line: usize, why: impl Into<String>) -> Self {
        Self {
            line,
            why: why.into(),
            evaluates: false,
        }
    }

    pub(super) fn evaluates(line: usize, why: impl Into<String>) -> Self {
        Self {
            evaluates: true,
            ..Self::new(line, why)
        }
    }
}

/// The characters of a value while it is read.
pub(super) struct Characters(Zeroizing<String>);

impl Characters {
    pub(super) fn new() -> Self {
        // At once, because a text that grows leaves copies behind. A longer value is refused anyway.
        Self(Zeroizing::new(String::with_capacity(MAX_VALUE + 4)))
    }

    pub(super) fn push(&mut self, c: char) {
        self.0.push(c);
    }

    pub(super) fn value(&self) -> SecretValue {
        SecretValue::new(&self.0)
    }
}

/// The characters of a text, with the number of the line.
pub(super) struct Cursor<'a> {
    rest: &'a str,
    pub(super) line: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
        }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.skip(c.len_utf8());
        Some(c)
    }

    /// Goes on by so many bytes.
    pub(super) fn skip(&mut self, bytes: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
        skipped
    }

    /// Goes on for as long as the characters are such.
    pub(super) fn skip_while(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is(c)).unwrap_or(self.rest.len());
        self.skip(end)
    }

    pub(super) fn skip_blanks(&mut self) {
        self.skip_while(|c| c == ' ' || c == '\t');
    }

    pub(super) fn skip_line(&mut self) {
        self.skip_while(|c| c != '\n');
    }
}
