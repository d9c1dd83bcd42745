//! What an error of the parser means to the person who wrote the file: which line, what is wrong with it, what to write instead.
//! A line is shown by its name alone, never by its value.

use granit_parser::{ErrorKind, Marker, ScanError};

/// What is wrong, and where.
pub(super) fn explain(text: &str, error: &ScanError) -> String {
    let marker = error.marker();
    let (line, what) = meaning(text, error.kind(), marker);
    at(text, line, &what)
}

/// `what`, after its line: `line 3 (vault_token: ...): what`.
pub(super) fn at(text: &str, line: usize, what: &str) -> String {
    match name_of(text, line) {
        Some(name) => format!("line {line} ({name}: ...): {what}"),
        None => format!("line {line}: {what}"),
    }
}

fn quote_it(c: char) -> String {
    match c {
        '`' => "put a value that begins with a backtick in quotes".to_owned(),
        c => format!("put a value that begins with `{c}` in quotes"),
    }
}

/// The line, and what is wrong with it.
fn meaning(text: &str, kind: &ErrorKind, marker: &Marker) -> (usize, String) {
    use ErrorKind as E;
    let number = marker.line();
    let line = line_of(text, number);
    let found = line.chars().nth(marker.col());
    let here = |what: &str| (number, what.to_owned());
    match kind {
        E::UnclosedQuotedScalar => here("the quote that begins here has no end"),
        E::DocumentIndicatorInQuotedScalar => {
            here("the quote that begins here has no end before the line `---` or `...`")
        }
        E::UnclosedFlowCollection { open } => here(&unclosed(*open)),
        E::MismatchedFlowCollectionEnd { open, close } => here(&format!(
            "a `{close}` closes a `{open}`; write `{}`",
            closing(*open)
        )),
        E::MisplacedFlowCollectionEnd => here("a closing bracket without an opening one"),
        E::ExpectedFlowMappingSeparator | E::UnexpectedEofFlowMapping => {
            here("a `,` or the closing `}` is missing before this")
        }
        E::ExpectedFlowSequenceSeparator | E::UnexpectedEofFlowSequence => {
            here("a `,` or the closing `]` is missing before this")
        }
        E::UnknownAnchor => here(
            "`*` repeats a value that `&` marks, and none has this mark; put a value that begins with `*` in quotes",
        ),
        E::MissingAnchorOrAliasName => here(&quote_it(
            found.filter(|c| matches!(c, '*' | '&')).unwrap_or('*'),
        )),
        E::ExpectedTagBang
        | E::UndeclaredTagHandle
        | E::InvalidGlobalTagCharacter
        | E::InvalidTagTerminator
        | E::MissingTagUri
        | E::UnclosedVerbatimTag
        | E::InvalidTagEscape
        | E::InvalidTagUtf8LeadingByte
        | E::InvalidTagUtf8TrailingByte
        | E::InvalidTagUtf8 => here(&quote_it('!')),
        E::UnexpectedCharacter {
            character: c @ ('@' | '`' | '%' | ',' | '?' | '|' | '>'),
        } => here(&quote_it(*c)),
        E::PlainScalarStartsWithDashFlowIndicator => here(&quote_it('-')),
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabAtBlockScalarStart
        | E::TabInIndentation
        | E::TabInPlainScalar => by_tab(text, number),
        _ if indents_by_tab(line) => by_tab(text, number),
        E::MappingValueNotAllowed | E::InvalidColonPlacement
            if line_before(line, marker.col()).contains(": ") =>
        {
            here("a second `: ` in the line; put the value in quotes")
        }
        E::InvalidColonPlacement => here("a `[` or a `{` above this has no end"),
        E::MappingValueNotAllowed if is_deeper(text, number) => {
            here("this is indented deeper than the line above, which has a value already")
        }
        E::SimpleKeyExpected | E::InvalidSimpleKey => here(
            "this is no `name: value`, with a blank behind the colon; put a value of several lines in quotes",
        ),
        E::BlockSequenceEntryNotAllowed | E::BlockEntryInFlowCollection => {
            here("a list with `- ` begins in a line of its own; in one line, write `[A, B]`")
        }
        E::InvalidTrailingSingleQuotedScalar => {
            here("text behind the closing quote; inside single quotes, write `''` for a quote")
        }
        E::InvalidTrailingDoubleQuotedScalar => {
            here("text behind the closing quote; inside double quotes, write `\\\"` for a quote")
        }
        E::UnknownQuotedScalarEscape
        | E::InvalidQuotedScalarHexEscape
        | E::InvalidLowSurrogateHexEscape
        | E::InvalidLowSurrogate
        | E::MissingLowSurrogate
        | E::UnpairedLowSurrogate
        | E::InvalidUnicodeEscape => here(
            "`\\` begins an escape that YAML does not know; use single quotes, or write `\\\\` for a backslash",
        ),
        E::InvalidBlockScalarHeader | E::ZeroBlockScalarIndent => here(
            "a value of several lines begins in the line below `|` or `>`; put any other value that begins so in quotes",
        ),
        E::BomInsideDocument => here("a byte order mark (U+FEFF) inside the file; remove it"),
        E::CommentNotSeparated | E::CommentInterceptedScalar => {
            here("a comment may not stand here; put a value with a `#` in quotes")
        }
        E::DirectiveDisallowed
        | E::MissingYamlVersionSeparator
        | E::MissingDirectiveName
        | E::InvalidDirectiveName
        | E::InvalidDirectiveTerminator
        | E::InvalidTagDirectiveTerminator
        | E::MissingDocumentEndBeforeDirective
        | E::ExpectedDocumentStart => match text.lines().position(|line| line.starts_with('%')) {
            Some(above) => (
                above + 1,
                "put a name that begins with `%` in quotes".to_owned(),
            ),
            None => here(WRONG_INDENT),
        },
        E::RecursionLimitExceeded => here("it is nested too deep"),
        E::UnexpectedEofBlockMapping | E::ExpectedBlockMappingKey if found == Some(',') => {
            here(&quote_it(','))
        }
        E::ExpectedBlockMappingKey if line_before(line, marker.col()).ends_with([']', '}']) => {
            here("text behind the closing bracket; put the value in quotes")
        }
        E::InvalidIndentation
        | E::ExpectedBlockMappingKey
        | E::ExpectedBlockSequenceEntry
        | E::InvalidFlowScalarIndent
        | E::InvalidQuotedScalarIndent
        | E::MappingKeyNotAllowed
        | E::InvalidBlockScalarIndent => here(WRONG_INDENT),
        _ => here("this is not YAML"),
    }
}

const WRONG_INDENT: &str = "the indentation does not fit the lines above";

/// The line that a tab indents; the parser may notice it a line early.
fn by_tab(text: &str, number: usize) -> (usize, String) {
    let mut lines = text.lines().enumerate().skip(number.saturating_sub(1));
    match lines.find(|(_, line)| indents_by_tab(line)) {
        Some((at, _)) => (at + 1, BY_TAB.to_owned()),
        None => (number, "a tab stands where YAML wants a space".to_owned()),
    }
}

/// What a line says that begins with a tab.
pub(super) const BY_TAB: &str = "it is indented by a tab; use spaces";

fn unclosed(open: char) -> String {
    format!("the `{open}` that begins here has no `{}`", closing(open))
}

fn closing(open: char) -> char {
    match open {
        '{' => '}',
        _ => ']',
    }
}

/// A line of the text; lines count from 1.
fn line_of(text: &str, line: usize) -> &str {
    text.lines().nth(line.saturating_sub(1)).unwrap_or_default()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn indents_by_tab(line: &str) -> bool {
    line[..indent(line)].contains('\t')
}

fn line_before(line: &str, column: usize) -> &str {
    let end = line.char_indices().nth(column);
    line[..end.map_or(line.len(), |(at, _)| at)].trim_end()
}

/// The nearest line above that is neither empty nor a comment, and is indented less than `below`.
fn line_above(text: &str, line: usize, below: usize) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(line.saturating_sub(1)).collect();
    let is_content = |line: &&&str| !matches!(line.trim_start().as_bytes(), [] | [b'#', ..]);
    let above = lines.iter().rev().filter(is_content);
    above.copied().find(|line| indent(line) < below)
}

fn is_deeper(text: &str, line: usize) -> bool {
    let above = line_above(text, line, usize::MAX);
    above.is_some_and(|above| indent(above) < indent(line_of(text, line)))
}

/// The name in a line, unless the line may be the middle of a value.
fn name_of(text: &str, line: usize) -> Option<&str> {
    let content = line_of(text, line);
    let is_open = |above: &str| {
        let above = above.trim_end();
        above.ends_with([':', '{', '[', ',']) || above.trim_start().starts_with("- ")
    };
    let is_first = line_above(text, line, usize::MAX).is_none();
    let above = line_above(text, line, indent(content));
    if indent(content) > 0 && !is_first && !above.is_some_and(is_open) {
        return None;
    }
    let (name, value) = content
        .trim_start()
        .trim_start_matches("- ")
        .split_once(':')?;
    let is_end = value.is_empty() || value.starts_with([' ', '\t']);
    let name = name.trim_matches(['"', '\'']);
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name = !name.is_empty() && name.len() <= 64 && name.chars().all(is_part);
    (is_end && is_name && !is_inside_quotes(text, line)).then_some(name)
}

/// Whether a line above has a quote that it does not close. A guess, by the number of quotes, which may hide a name and never shows a value.
fn is_inside_quotes(text: &str, line: usize) -> bool {
    let mut open = None;
    for above in text.lines().take(line.saturating_sub(1)) {
        let mut before = ' ';
        for c in above.chars() {
            match (open, c) {
                (None, '#') if before.is_whitespace() => break,
                (None, '"' | '\'') if !before.is_alphanumeric() => open = Some(c),
                (Some('"'), '"') if before == '\\' => {}
                (Some(quote), c) if quote == c => open = None,
                _ => {}
            }
            before = c;
        }
    }
    open.is_some()
}
