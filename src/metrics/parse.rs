//! Reads what [`Exposition`](super::Exposition) has written, for commands that show it.

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The text of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let label = self.labels.iter().find(|(label, _)| label == name);
        label.map(|(_, text)| text.as_str())
    }
}

/// The samples of a text. A line that is none is left out.
pub fn parse(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (text, after) = quoted(after)?;
            labels.push((label.to_owned(), text));
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: rest.trim().parse().ok()?,
    })
}

/// The text before the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut unescaped = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((unescaped, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => unescaped.push('\n'),
                other => unescaped.push(other),
            },
            c => unescaped.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unescaped_and_what_is_no_sample_is_left_out() {
        let samples =
            parse("# TYPE a gauge\na 1\nb{x=\"1, \\\"2\\\"}\",y=\"\\\\\\n\"} 2.5\nc{x=\"\n\nd x\n");
        assert_eq!(samples.len(), 2);
        assert_eq!((&*samples[0].name, samples[0].value), ("a", 1.0));
        assert_eq!(samples[1].label("x"), Some("1, \"2\"}"));
        assert_eq!(samples[1].label("y"), Some("\\\n"));
        assert_eq!(samples[1].label("z"), None);
        assert_eq!(samples[1].value, 2.5);
    }
}
