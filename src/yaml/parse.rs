//! From the parser's events to values: anchors, aliases, merge keys and tags, within bounds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, StructureStyle, Tag};
use zeroize::Zeroizing;

use super::{EntrySpans, Kind, Mapping, Pair, Value, explain};

/// How many bytes anchors and aliases may add to a short text; to a long one, twice its length.
const MIN_COPIES: usize = 64 * 1024;

/// The most events of the parser: one for each key and each text, two for a list or a mapping. A short text of four bytes
/// takes some hundred.
const MAX_EVENTS: usize = 500_000;

/// The namespace of the tags that are written with `!!`.
const NAMESPACE: &str = "tag:yaml.org,2002:";

/// A document.
pub(crate) struct Parsed {
    pub(crate) root: Value,
    /// Where the root stands.
    pub(crate) place: Range<usize>,
    /// Whether the root stands in brackets.
    pub(crate) is_flow: bool,
}

/// Parses a text that has one document, or none. Refuses what is nested more than 255 deep.
///
/// # Errors
/// Where and why, without quoting the text.
pub(crate) fn parse(text: &str) -> Result<Parsed, String> {
    refuse_unprintable(text)?;
    let options = granit_parser::options! {
        emit_anchor_events: true,
        block_scalar_eof_without_line_feed: true,
    };
    let mut composer = Composer {
        text,
        events: Parser::new_from_str_with_options(text, options),
        next: None,
        anchored: HashMap::new(),
        copies_left: MIN_COPIES + 2 * text.len(),
        events_left: MAX_EVENTS,
    };
    composer.document()
}

/// PyYAML refuses these, or takes them for line ends where YAML 1.2 does not.
fn refuse_unprintable(text: &str) -> Result<(), String> {
    let is_refused = |c: char| match c {
        '\t' | '\n' | '\r' => false,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => true,
        _ => false,
    };
    let Some((at, c)) = text.char_indices().find(|(_, c)| is_refused(*c)) else {
        return Ok(());
    };
    let line = 1 + text[..at].matches('\n').count();
    let code = u32::from(c);
    let what = format!("write the character U+{code:04X} as `\\u{code:04x}`, in double quotes");
    Err(explain::at(text, line, &what))
}

type Spanned<'t> = (Event<'t>, Span);

struct Composer<'t> {
    text: &'t str,
    events: Parser<'t, StrInput<'t>>,
    next: Option<Spanned<'t>>,
    anchored: HashMap<usize, Value>,
    copies_left: usize,
    events_left: usize,
}

/// A value and where it stands, with its tag and its anchor.
struct Node {
    value: Value,
    place: Range<usize>,
    is_flow: bool,
}

fn bytes(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or_default()
}

impl<'t> Composer<'t> {
    fn at(&self, place: &Marker, what: &str) -> String {
        explain::at(self.text, place.line(), what)
    }

    fn next(&mut self) -> Result<Spanned<'t>, String> {
        if let Some(next) = self.next.take() {
            return Ok(next);
        }
        match self.events.next() {
            Some(Ok((_, span))) if self.events_left == 0 => {
                Err(self.at(&span.start, "there are too many values"))
            }
            Some(Ok(next)) => {
                self.events_left -= 1;
                Ok(next)
            }
            Some(Err(error)) => Err(explain::explain(self.text, &error)),
            None => Err("it ends too early".to_owned()),
        }
    }

    fn document(&mut self) -> Result<Parsed, String> {
        let mut parsed = Parsed {
            root: Value::null(),
            place: 0..0,
            is_flow: false,
        };
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(parsed),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if documents > 0 => {
                    return Err(self.at(&span.start, "another document begins here, by `---` or `...`; only one may be in the file"));
                }
                Event::DocumentStart(..) => documents += 1,
                event => {
                    let start = span.start;
                    let node = self.node((event, span))?;
                    let line = self.text[..node.place.start].rsplit(['\n', '\r']).next();
                    if !node.is_flow && line.is_some_and(|line| line.contains('\t')) {
                        return Err(self.at(&start, explain::BY_TAB));
                    }
                    parsed.root = node.value;
                    parsed.place = node.place;
                    parsed.is_flow = node.is_flow;
                }
            }
        }
    }

    /// The node that begins with this event. Recursion ends at the parser's limits for nesting.
    fn node(&mut self, (event, span): Spanned<'t>) -> Result<Node, String> {
        let mut place = bytes(&span);
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor, tag.clone()),
            _ => (0, None),
        };
        let anchor_span = match anchor {
            0 => None,
            _ => Some(self.next()?.1),
        };
        let mut is_flow = false;
        let mut value = match event {
            Event::Alias(id) => self.copy_of_anchor(id, &span)?,
            Event::Scalar(text, style, ..) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // Empty lines behind it belong to it only if `+` keeps them.
                if is_block && !text.ends_with("\n\n") {
                    place.end = place.start + self.text[place.clone()].trim_end().len();
                }
                scalar(text, style == ScalarStyle::Plain, tag.as_deref())
            }
            Event::SequenceStart(style, ..) => {
                is_flow = style == StructureStyle::Flow;
                let items = self.sequence(&mut place)?;
                collection(Value::Sequence(items), "seq", tag.as_deref())
            }
            Event::MappingStart(style, ..) => {
                is_flow = style == StructureStyle::Flow;
                let pairs = self.mapping(&mut place)?;
                collection(Value::Mapping(pairs), "map", tag.as_deref())
            }
            _ => return Err(self.at(&span.start, "this is not YAML")),
        };
        let is_empty = place.is_empty();
        for property in anchor_span.iter().chain(&span.tag_span()).map(bytes) {
            place.start = place.start.min(property.start);
            place.end = place.end.max(property.end);
        }
        if anchor != 0 {
            if let Value::Scalar(kind @ Kind::Null, _) = &mut value
                && is_empty
            {
                *kind = Kind::Anchor;
            }
            self.charge(&value, &span)?;
            self.anchored.insert(anchor, value.clone());
        }
        Ok(Node {
            value,
            place,
            is_flow,
        })
    }

    fn sequence(&mut self, place: &mut Range<usize>) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                extend_to_bracket(place, &span);
                return Ok(items);
            }
            let item = self.node((event, span))?;
            place.end = place.end.max(item.place.end);
            items.push(item.value);
        }
    }

    fn mapping(&mut self, place: &mut Range<usize>) -> Result<Mapping, String> {
        let (mut merged, mut own) = (Vec::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                extend_to_bracket(place, &span);
                return Ok(with_merged(merged, own));
            }
            let start = span.start;
            let key = self.node((event, span))?;
            let value = self.next()?;
            let value = self.node(value)?;
            place.end = place.end.max(key.place.end).max(value.place.end);
            match key.value {
                Value::Scalar(Kind::Merge, _) => {
                    let wrong = || {
                        self.at(&start, "`<<` copies the entries of another object, and this is none; put the name in quotes")
                    };
                    merge(value.value, &mut merged).ok_or_else(wrong)?;
                }
                mut name => {
                    if let Value::Scalar(kind @ Kind::Default, _) = &mut name {
                        *kind = Kind::Text;
                    }
                    own.push(Pair {
                        key: name,
                        value: value.value,
                        line: start.line(),
                        spans: Some(EntrySpans {
                            key: key.place,
                            value: value.place,
                        }),
                    });
                }
            }
        }
    }

    fn copy_of_anchor(&mut self, id: usize, span: &Span) -> Result<Value, String> {
        let Some(value) = self.anchored.get(&id) else {
            return Err(self.at(&span.start, "`*` stands inside the value that it repeats"));
        };
        let value = value.clone();
        self.charge(&value, span)?;
        Ok(value)
    }

    /// Counts a copy against the limit.
    fn charge(&mut self, value: &Value, span: &Span) -> Result<(), String> {
        let left = self.copies_left.checked_sub(value.size());
        self.copies_left =
            left.ok_or_else(|| self.at(&span.start, "aliases (`*`) copy too much"))?;
        Ok(())
    }
}

/// A collection in block style ends where its last item does, and its end has no bracket.
fn extend_to_bracket(place: &mut Range<usize>, end: &Span) {
    let end = bytes(end);
    if !end.is_empty() {
        place.end = end.end;
    }
}

/// Adds the entries of a merge key's value; of a list's mappings, the first counts most. `None`: it has none.
fn merge(value: Value, merged: &mut Mapping) -> Option<()> {
    match value {
        Value::Mapping(pairs) => merged.extend(pairs),
        Value::Sequence(items) => {
            for item in items.into_iter().rev() {
                match item {
                    Value::Mapping(pairs) => merged.extend(pairs),
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    Some(())
}

/// The entries of merge keys that nothing overrides, and the mapping's own.
fn with_merged(mut merged: Mapping, own: Mapping) -> Mapping {
    if merged.is_empty() {
        return own;
    }
    let mut seen: HashSet<&str> = own.iter().filter_map(|pair| pair.key.as_str()).collect();
    let kept: Vec<bool> = merged
        .iter()
        .rev()
        .map(|pair| pair.key.as_str().is_none_or(|key| seen.insert(key)))
        .collect();
    let mut kept = kept.into_iter().rev();
    merged.retain(|_| kept.next().unwrap_or(true));
    for pair in &mut merged {
        pair.spans = None;
    }
    merged.extend(own);
    merged
}

fn scalar(text: Cow<'_, str>, is_plain: bool, tag: Option<&Tag>) -> Value {
    let kind = match tag {
        None if !is_plain => Some(Kind::Text),
        None => Some(Kind::of_plain(&text)),
        Some(tag) if tag.handle().is_empty() && tag.suffix() == "!" => Some(Kind::of_plain(&text)),
        Some(tag) => match tag.suffix_in_namespace(NAMESPACE).as_deref() {
            Some("str") => Some(Kind::Text),
            Some("null") => Some(Kind::Null),
            Some("bool") => Some(Kind::Bool),
            Some("int") => Some(Kind::Int),
            Some("float") => Some(Kind::Float),
            Some("timestamp") => Some(Kind::Timestamp),
            _ => None,
        },
    };
    let text = Zeroizing::new(text.into_owned());
    match kind {
        Some(kind) => Value::Scalar(kind, text),
        None => Value::Tagged(Box::new(Value::Scalar(Kind::Text, text))),
    }
}

fn collection(value: Value, own_tag: &str, tag: Option<&Tag>) -> Value {
    let is_own = |tag: &Tag| {
        tag.suffix() == "!" || tag.suffix_in_namespace(NAMESPACE).as_deref() == Some(own_tag)
    };
    match tag.is_none_or(is_own) {
        true => value,
        false => Value::Tagged(Box::new(value)),
    }
}
