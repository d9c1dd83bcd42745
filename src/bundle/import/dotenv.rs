//! The files of python-dotenv: `NAME = value # comment`, with quotes, escapes and values of several lines. What it would replace
//! (`${NAME}`) is refused.

use super::Raw;
use super::dialects::{Characters, Cursor, Fault};
use crate::secret::SecretValue;

pub(super) fn read(text: &str) -> Result<Vec<Raw>, Vec<Fault>> {
    let mut cursor = Cursor::new(text);
    let (mut raw, mut faults) = (Vec::new(), Vec::new());
    loop {
        cursor.skip_while(char::is_whitespace);
        match cursor.peek() {
            None => break,
            Some('#') => {
                cursor.skip_line();
                continue;
            }
            Some(_) => {}
        }
        match binding(&mut cursor, &mut faults) {
            Ok(one) => raw.push(one),
            Err(fault) => {
                faults.push(fault);
                cursor.skip_line();
            }
        }
    }
    match faults.is_empty() {
        true => Ok(raw),
        false => Err(faults),
    }
}

fn binding(cursor: &mut Cursor<'_>, faults: &mut Vec<Fault>) -> Result<Raw, Fault> {
    let behind = cursor.rest().strip_prefix("export");
    if behind.is_some_and(|behind| behind.starts_with([' ', '\t'])) {
        cursor.skip("export".len());
        cursor.skip_blanks();
    }
    let line = cursor.line;
    let name = cursor.skip_while(|c| !(c == '=' || c == '#' || c == '\'' || c.is_whitespace()));
    cursor.skip_blanks();
    if name.is_empty() {
        return Err(Fault::new(line, "there is no name"));
    }
    if cursor.peek() != Some('=') {
        return Err(Fault::new(line, "there is no `=` behind the name"));
    }
    cursor.next();
    cursor.skip_blanks();
    let value = match cursor.peek() {
        Some(quote @ ('\'' | '"')) => quoted(cursor, quote, line)?,
        _ => unquoted(cursor),
    };
    if value.as_str().contains("${") {
        faults.push(Fault::evaluates(
            line,
            format!("python-dotenv would replace the `${{` in the value of {name}"),
        ));
    }
    cursor.skip_blanks();
    if cursor.peek() == Some('#') {
        cursor.skip_line();
    }
    match cursor.rest().starts_with("\r\n") || matches!(cursor.peek(), None | Some('\n')) {
        true => Ok(Raw {
            name: name.to_owned(),
            value,
            line,
        }),
        false => Err(Fault::new(line, "there is more behind the closing quote")),
    }
}

fn unquoted(cursor: &mut Cursor<'_>) -> SecretValue {
    let line = cursor.skip_while(|c| c != '\n' && c != '\r');
    let is_comment = |(at, _): &(usize, &str)| line[..*at].ends_with(char::is_whitespace);
    // A value that is a comment from its first character is one, too: its blank is before it.
    let comment = line.match_indices('#').find(|found| is_comment(found));
    let value = comment.map_or(line, |(at, _)| &line[..at]);
    SecretValue::new(value.trim_end())
}

fn quoted(cursor: &mut Cursor<'_>, quote: char, line: usize) -> Result<SecretValue, Fault> {
    let unclosed = || Fault::new(line, format!("the quote {quote} is not closed"));
    let mut value = Characters::new();
    cursor.next();
    loop {
        let c = cursor.next().ok_or_else(unclosed)?;
        if c == quote {
            return Ok(value.value());
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let Some(escaped) = cursor.peek() else {
            return Err(unclosed());
        };
        let meant = match (escaped, quote) {
            ('\\' | '\'', _) => Some(escaped),
            (_, '\'') => None,
            ('"', _) => Some('"'),
            ('a', _) => Some('\x07'),
            ('b', _) => Some('\x08'),
            ('f', _) => Some('\x0c'),
            ('n', _) => Some('\n'),
            ('r', _) => Some('\r'),
            ('t', _) => Some('\t'),
            ('v', _) => Some('\x0b'),
            _ => None,
        };
        match meant {
            Some(meant) => {
                cursor.next();
                value.push(meant);
            }
            None => value.push('\\'),
        }
    }
}
