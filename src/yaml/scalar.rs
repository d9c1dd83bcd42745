//! What a plain scalar stands for: PyYAML's rules, which are those of YAML 1.1 (<https://yaml.org/type/>) with its own
//! regular expressions.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Null,
    Bool,
    Int,
    Float,
    Timestamp,
    /// `<<`
    Merge,
    /// `=`
    Default,
    /// `&name` without a value, which a text that begins with `&` is taken for. PyYAML reads it as null.
    Anchor,
}

impl Kind {
    /// What a scalar without quotes and tag stands for.
    pub(super) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false"
            | "False" | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => Kind::Bool,
            "<<" => Kind::Merge,
            "=" => Kind::Default,
            _ if is_float(text) => Kind::Float,
            _ if is_int(text) => Kind::Int,
            _ if is_timestamp(text) => Kind::Timestamp,
            _ => Kind::Text,
        }
    }
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

/// Whether all of the text is made of these, and of underscores.
fn all(text: &str, is: impl Fn(&u8) -> bool) -> bool {
    text.bytes().all(|b| b == b'_' || is(&b))
}

/// `[0-9][0-9_]*`
fn is_digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && all(text, u8::is_ascii_digit)
}

/// `(:[0-5]?[0-9])+` behind digits: a number to the base of 60.
fn is_sexagesimal(text: &str) -> bool {
    let mut parts = text.split(':');
    let first = parts.next();
    let mut rest = parts.peekable();
    first.is_some_and(is_digits)
        && rest.peek().is_some()
        && rest.all(|part| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

fn is_int(text: &str) -> bool {
    let text = unsigned(text);
    let Some(rest) = text.strip_prefix('0') else {
        return is_digits(text) || is_sexagesimal(text);
    };
    match rest.as_bytes() {
        [] => true,
        [b'b', _, ..] => all(&rest[1..], |b| matches!(b, b'0' | b'1')),
        [b'x', _, ..] => all(&rest[1..], u8::is_ascii_hexdigit),
        _ => all(rest, |b| matches!(b, b'0'..=b'7')),
    }
}

fn is_float(text: &str) -> bool {
    let number = unsigned(text);
    if matches!(number, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, rest)) = number.split_once('.') else {
        return false;
    };
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let has_exponent = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['+', '-'])
            .is_some_and(|digits| !digits.contains('_') && is_digits(digits))
    });
    if whole.is_empty() {
        return text.starts_with('.') && is_digits(fraction) && has_exponent;
    }
    all(fraction, u8::is_ascii_digit)
        && (is_digits(whole) && has_exponent || is_sexagesimal(whole) && exponent.is_none())
}

/// A date, or a date and a time.
fn is_timestamp(text: &str) -> bool {
    /// Takes at least `least` and at most `most` digits off the front.
    fn digits<'a>(text: &mut &'a str, least: usize, most: usize) -> Option<&'a str> {
        let is_digit = |b: &u8| b.is_ascii_digit();
        let count = text.bytes().take(most).take_while(is_digit).count();
        let (digits, rest) = text.split_at_checked(count)?;
        *text = rest;
        (count >= least).then_some(digits)
    }
    fn take(text: &mut &str, what: char) -> Option<()> {
        *text = text.strip_prefix(what)?;
        Some(())
    }
    let blanks = |text: &mut &str| *text = text.trim_start_matches([' ', '\t']);
    let date_and_time = || {
        let mut rest = text;
        digits(&mut rest, 4, 4)?;
        take(&mut rest, '-')?;
        let month = digits(&mut rest, 1, 2)?;
        take(&mut rest, '-')?;
        let day = digits(&mut rest, 1, 2)?;
        if rest.is_empty() {
            return (month.len() == 2 && day.len() == 2).then_some(());
        }
        match rest.strip_prefix(['T', 't']) {
            Some(time) => rest = time,
            None => {
                rest.strip_prefix([' ', '\t'])?;
                blanks(&mut rest);
            }
        }
        digits(&mut rest, 1, 2)?;
        for _ in 0..2 {
            take(&mut rest, ':')?;
            digits(&mut rest, 2, 2)?;
        }
        if take(&mut rest, '.').is_some() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        if rest.is_empty() {
            return Some(());
        }
        blanks(&mut rest);
        if rest == "Z" {
            return Some(());
        }
        rest = rest.strip_prefix(['+', '-'])?;
        digits(&mut rest, 1, 2)?;
        if take(&mut rest, ':').is_some() {
            digits(&mut rest, 2, 2)?;
        }
        rest.is_empty().then_some(())
    };
    date_and_time().is_some()
}
