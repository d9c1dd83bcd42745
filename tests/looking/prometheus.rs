//! A strict reader of Prometheus' text format 0.0.4: what it does not expect fails the test.

use std::collections::{BTreeMap, HashSet};

/// A sample's labels.
type Labels = Vec<(String, String)>;

/// A family of samples.
#[derive(Debug, Default)]
pub struct Family {
    family_type: String,
    /// Names, labels and values, in the order of the text.
    samples: Vec<(String, Labels, f64)>,
}

/// All families, by name.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, Family>);

impl Metrics {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut current, mut seen) = (String::new(), HashSet::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect(line);
                assert!(is_name(name) && words.ends_with('.'), "{line}");
                let type_line = lines.next().expect(line);
                let of_type = type_line.strip_prefix(&format!("# TYPE {name} "));
                let family_type = of_type.unwrap_or_else(|| panic!("{type_line}"));
                let family = Family {
                    family_type: family_type.to_owned(),
                    samples: Vec::new(),
                };
                let before = families.insert(name.to_owned(), family);
                assert!(before.is_none(), "{name} is there twice");
                current = name.to_owned();
                continue;
            }
            assert!(
                seen.insert(line.rsplit_once(' ').unwrap().0),
                "twice: {line}"
            );
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).expect(line);
            let belongs = match family.family_type.as_str() {
                "histogram" => {
                    let suffix = name.strip_prefix(&current);
                    ["_bucket", "_sum", "_count"].map(Some).contains(&suffix)
                }
                "counter" => name == current && name.ends_with("_total") && value >= 0.0,
                "gauge" => name == current && !name.ends_with("_total"),
                other => panic!("the type {other}"),
            };
            assert!(belongs, "{line} in {current}");
            family.samples.push((name, labels, value));
        }
        for (name, family) in &families {
            assert!(!family.samples.is_empty(), "{name} has no sample");
            if family.family_type == "histogram" {
                check_histogram(name, family);
            }
        }
        Self(families)
    }

    /// A sample with these labels.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let families = [Some(name), base].into_iter().flatten();
        let family = families
            .filter_map(|base| self.0.get(&format!("simpletuner_live_{base}")))
            .next()?;
        let full = format!("simpletuner_live_{name}");
        let has = |found: &[(String, String)]| {
            labels
                .iter()
                .all(|(label, text)| found.iter().any(|(l, t)| l == label && t == text))
        };
        let mut samples = family.samples.iter();
        let found = samples.find(|(name, found, _)| *name == full && has(found));
        found.map(|(_, _, value)| *value)
    }

    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        found.unwrap_or_else(|| panic!("{name} {labels:?} is not among {:#?}", self.0))
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let is_first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let is_rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with("simpletuner_live_") && is_first && bytes.all(is_rest)
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let value: f64 = value.parse().expect(line);
    let (name, inside) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    let mut rest = inside;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect(line);
        assert!(
            label.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{line}"
        );
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect(line) {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect(line).1 {
                    'n' => text.push('\n'),
                    c @ ('"' | '\\') => text.push(c),
                    _ => panic!("{line}"),
                },
                (_, c) => text.push(c),
            }
        };
        labels.push((label.to_owned(), text));
        rest = &after[end + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').expect(line);
        }
    }
    (name.to_owned(), labels, value)
}

/// The buckets of each histogram grow, and the last one has all.
fn check_histogram(name: &str, family: &Family) {
    let mut last: Option<(f64, f64)> = None;
    for (sample, labels, value) in &family.samples {
        match sample.strip_prefix(name) {
            Some("_bucket") => {
                let bound = labels.iter().find(|(label, _)| label == "le").unwrap();
                let bound = match bound.1.as_str() {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().unwrap(),
                };
                if let Some((below, count)) = last {
                    assert!(bound > below && *value >= count, "{name} {labels:?}");
                }
                last = Some((bound, *value));
            }
            Some("_sum") => assert!(*value >= 0.0),
            _ => {
                let (bound, count) = last.take().unwrap();
                assert_eq!((bound, count), (f64::INFINITY, *value), "{name}");
            }
        }
    }
}
