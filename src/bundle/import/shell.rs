//! Assignments as a POSIX shell reads them: `NAME=word`, with `export` or without. Nothing is run and nothing is replaced: what a
//! shell would replace is refused.

use super::Raw;
use super::cursor::{Characters, Cursor, Fault};
use crate::secret::SecretValue;

pub(super) fn read(text: &str) -> Result<Vec<Raw>, Vec<Fault>> {
    let mut reader = Reader {
        cursor: Cursor::new(text),
        faults: Vec::new(),
    };
    let mut raw = Vec::new();
    loop {
        let is_separator = |c| matches!(c, ' ' | '\t' | '\n' | ';');
        reader.cursor.skip_while(is_separator);
        match reader.cursor.peek() {
            None => break,
            Some('#') => {
                reader.cursor.skip_line();
                continue;
            }
            Some(_) => {}
        }
        match reader.assignment() {
            Ok(one) => raw.push(one),
            Err(fault) => {
                reader.faults.push(fault);
                reader.cursor.skip_line();
            }
        }
    }
    match reader.faults.is_empty() {
        true => Ok(raw),
        false => Err(reader.faults),
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    /// What a shell would replace.
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn assignment(&mut self) -> Result<Raw, Fault> {
        let behind = self.cursor.rest().strip_prefix("export");
        if behind.is_some_and(|behind| behind.starts_with([' ', '\t'])) {
            self.cursor.skip("export".len());
            self.cursor.skip_blanks();
        }
        let line = self.cursor.line;
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = self.cursor.skip_while(is_of_name);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Fault::new(
                line,
                "there is no assignment NAME=VALUE, but a command",
            ));
        }
        if self.cursor.peek() != Some('=') {
            // Not with the word: a value may stand there alone.
            return Err(Fault::new(line, "there is no `=` behind the name"));
        }
        self.cursor.next();
        let value = self.word(name)?;
        Ok(Raw {
            name: name.to_owned(),
            value,
            line,
        })
    }

    /// The value: quoted and unquoted pieces up to a blank, a line end or a `;`.
    fn word(&mut self, name: &str) -> Result<SecretValue, Fault> {
        let line = self.cursor.line;
        let mut value = Characters::new();
        let mut before = ':';
        while let Some(c) = self.cursor.peek() {
            match c {
                ' ' | '\t' | '\n' | ';' => break,
                '\'' => self.single(&mut value)?,
                '"' => self.double(name, &mut value)?,
                '\\' => {
                    self.cursor.next();
                    match self.cursor.next() {
                        // Both are dropped, and the line goes on.
                        Some('\n') => {}
                        Some(escaped) => value.push(escaped),
                        None => return Err(Fault::new(line, "there is nothing behind the `\\`")),
                    }
                }
                '$' | '`' => self.dollar(name, &mut value, false),
                '~' if before == ':' => {
                    self.cursor.next();
                    value.push(c);
                    self.replaces(name, "~");
                }
                '\r' => {
                    let why = "a shell takes the Windows line end (CR LF) as part of the value";
                    return Err(Fault::new(self.cursor.line, why));
                }
                '&' | '|' | '<' | '>' | '(' | ')' => {
                    let why = format!(
                        "a shell takes the `{c}` in the value of {name} for its own; put it in quotes"
                    );
                    return Err(Fault::new(self.cursor.line, why));
                }
                c => {
                    self.cursor.next();
                    value.push(c);
                }
            }
            before = c;
        }
        Ok(value.value())
    }

    fn single(&mut self, value: &mut Characters) -> Result<(), Fault> {
        let line = self.cursor.line;
        self.cursor.next();
        loop {
            match self.cursor.next() {
                None => return Err(Fault::new(line, "the quote ' is not closed")),
                Some('\'') => return Ok(()),
                Some(c) => value.push(c),
            }
        }
    }

    fn double(&mut self, name: &str, value: &mut Characters) -> Result<(), Fault> {
        let line = self.cursor.line;
        self.cursor.next();
        loop {
            match self.cursor.peek() {
                None => return Err(Fault::new(line, "the quote \" is not closed")),
                Some('"') => {
                    self.cursor.next();
                    return Ok(());
                }
                Some('\\') => {
                    self.cursor.next();
                    match self.cursor.peek() {
                        Some('\n') => {
                            self.cursor.next();
                        }
                        Some(c @ ('$' | '`' | '"' | '\\')) => {
                            self.cursor.next();
                            value.push(c);
                        }
                        _ => value.push('\\'),
                    }
                }
                Some('$' | '`') => self.dollar(name, value, true),
                Some(c) => {
                    self.cursor.next();
                    value.push(c);
                }
            }
        }
    }

    /// A `$` or a backtick, and what belongs to it. A `$` alone is a character.
    fn dollar(&mut self, name: &str, value: &mut Characters, is_quoted: bool) {
        let first = self.cursor.next();
        let next = self.cursor.peek();
        let close = match (first, next) {
            (Some('`'), _) => Some('`'),
            (_, Some('{')) => Some('}'),
            (_, Some('(')) => Some(')'),
            // Behind a `$`, these begin a text with escapes of bash.
            (_, Some('\'' | '"')) if is_quoted => None,
            (_, Some(c)) if c.is_ascii_alphanumeric() || "_'\"@*#?$!-".contains(c) => Some(c),
            _ => None,
        };
        let Some(close) = close else {
            value.push('$');
            return;
        };
        self.replaces(name, if close == '`' { "`" } else { "$" });
        if matches!(close, '`' | '}' | ')') {
            self.cursor.skip_while(|c| c != close && c != '\n');
            if self.cursor.peek() == Some(close) {
                self.cursor.next();
            }
        }
    }

    fn replaces(&mut self, name: &str, what: &str) {
        let why = format!("a shell would replace what begins with `{what}` in the value of {name}");
        self.faults.push(Fault::evaluates(self.cursor.line, why));
    }
}
