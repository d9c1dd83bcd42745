//! The files of python-dotenv: `NAME = value # comment`, with quotes, escapes and values of several lines. What it would replace
//! (`${NAME}`) is refused, and so is what its versions read differently: to older ones, a `#` behind `= ` begins a value, and a quote
//! behind a backslash ends none.

use zeroize::Zeroizing;

use super::Raw;
use super::cursor::{Characters, Cursor, Fault};
use crate::secret::SecretValue;

pub(super) fn read(text: &str) -> Result<Vec<Raw>, Vec<Fault>> {
    let text = with_plain_line_ends(text);
    let mut cursor = Cursor::new(&text);
    let (mut raw, mut faults) = (Vec::new(), Vec::new());
    loop {
        cursor.skip_while(is_space);
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

/// As Python opens a text file: whatever ends a line there, it is read as a newline.
fn with_plain_line_ends(text: &str) -> Zeroizing<String> {
    // At once, because a text that grows leaves copies behind.
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\r', Some('\n')) => {}
            ('\r', _) => plain.push('\n'),
            (c, _) => plain.push(c),
        }
    }
    plain
}

/// What `\s` stands for in Python.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The same without line ends.
fn is_blank(c: char) -> bool {
    is_space(c) && c != '\n'
}

fn binding(cursor: &mut Cursor<'_>, faults: &mut Vec<Fault>) -> Result<Raw, Fault> {
    let behind = cursor.rest().strip_prefix("export");
    if behind.is_some_and(|behind| behind.starts_with(is_blank)) {
        cursor.skip("export".len());
        cursor.skip_while(is_blank);
    }
    let line = cursor.line;
    let name = cursor.skip_while(|c| !(c == '=' || c == '#' || c == '\'' || is_space(c)));
    cursor.skip_while(is_blank);
    if name.is_empty() {
        return Err(Fault::new(line, "there is no name"));
    }
    if cursor.peek() != Some('=') {
        return Err(Fault::new(line, "there is no `=` behind the name"));
    }
    cursor.next();
    let has_blank = !cursor.skip_while(is_blank).is_empty();
    let value = match cursor.peek() {
        Some('#') if has_blank => {
            let why = "versions of python-dotenv differ in whether a `#` behind `= ` begins a comment; put the value in quotes";
            return Err(Fault::evaluates(line, why));
        }
        Some(quote @ ('\'' | '"')) => quoted(cursor, quote, line)?,
        _ => unquoted(cursor),
    };
    if value.as_str().contains("${") {
        faults.push(Fault::evaluates(
            line,
            format!("python-dotenv would replace the `${{` in the value of {name}"),
        ));
    }
    cursor.skip_while(is_blank);
    if cursor.peek() == Some('#') {
        cursor.skip_line();
    }
    match matches!(cursor.peek(), None | Some('\n')) {
        true => Ok(Raw {
            name: name.to_owned(),
            value,
            line,
        }),
        false => Err(Fault::new(line, "there is more behind the closing quote")),
    }
}

fn unquoted(cursor: &mut Cursor<'_>) -> SecretValue {
    let line = cursor.skip_while(|c| c != '\n');
    let is_comment = |(at, _): &(usize, &str)| line[..*at].ends_with(is_space);
    // Without a blank before it, a `#` as the first character is one of the value.
    let comment = line.match_indices('#').find(|found| is_comment(found));
    let value = comment.map_or(line, |(at, _)| &line[..at]);
    SecretValue::new(value.trim_end_matches(is_space))
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
        // To older ones, the second backslash escapes the quote, if another one can end the value.
        let mut behind = cursor.rest().chars();
        if escaped == '\\' && behind.next() == Some(quote) && behind.any(|c| c == quote) {
            let why =
                format!("versions of python-dotenv differ in whether `\\\\{quote}` ends the value");
            return Err(Fault::evaluates(line, why));
        }
    }
}
