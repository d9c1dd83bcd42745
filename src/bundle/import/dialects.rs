//! The three dialects of env files, and where they read the same text differently.

use std::collections::BTreeMap;

use super::cursor::Fault;
use super::{ImportFormat, Raw, Refusal, docker, dotenv, shell};
use crate::secret::SecretValue;

/// A dialect's reader.
pub(super) type Read = fn(&str) -> Result<Vec<Raw>, Vec<Fault>>;

const DIALECTS: [(ImportFormat, Read); 3] = [
    (ImportFormat::Env, shell::read),
    (ImportFormat::Dotenv, dotenv::read),
    (ImportFormat::Docker, docker::read),
];

/// Whether the first line that is no comment has a `=`, and no colon before it as in YAML.
pub(super) fn is_env_file(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let Some(line) = lines.find(|line| !line.is_empty() && !line.starts_with('#')) else {
        return true;
    };
    let before = line.split(['=', ':']).next().unwrap_or_default();
    line[before.len()..].starts_with('=')
}

/// Refuses NUL characters, which none of the programs that read such a file can give to anybody: a variable ends at the first.
fn refuse_nul(text: &str) -> Result<(), Refusal> {
    let lines = (1..).zip(text.split('\n'));
    let faults = lines
        .filter(|(_, line)| line.contains('\0'))
        .map(|(number, _)| {
            format!(
                "line {number}: there is a NUL character, which no environment variable can hold"
            )
        });
    let faults: Vec<String> = faults.collect();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Malformed(faults)),
    }
}

/// By one dialect.
pub(super) fn read(read: Read, text: &str) -> Result<Vec<Raw>, Refusal> {
    refuse_nul(text)?;
    let shown = |fault: Fault| format!("line {}: {}", fault.line, fault.why);
    read(text).map_err(|faults| Refusal::Malformed(faults.into_iter().map(shown).collect()))
}

/// By all dialects that can read it, if these agree.
pub(super) fn read_any(text: &str) -> Result<Vec<Raw>, Refusal> {
    refuse_nul(text)?;
    let mut readings = Vec::new();
    let (mut faults, mut evaluated) = (Vec::new(), Vec::new());
    for (format, read) in DIALECTS {
        match read(text) {
            Ok(raw) => readings.push((format, raw)),
            Err(all) if all.iter().all(|fault| fault.evaluates) => {
                let shown = |fault: Fault| format!("line {}: {}", fault.line, fault.why);
                evaluated.extend(all.into_iter().map(shown));
            }
            Err(all) => {
                let first = all.into_iter().find(|fault| !fault.evaluates);
                faults.extend(first.map(|Fault { line, why, .. }| {
                    format!("line {line}: read as {format}, {why}")
                }));
            }
        }
    }
    let mut differing = differing(&readings);
    differing.extend(evaluated);
    differing.extend(quotes_that_only_docker_reads(&readings));
    if !differing.is_empty() {
        return Err(Refusal::Ambiguous(differing));
    }
    let mut readings = readings.into_iter();
    match readings.next() {
        Some((_, raw)) => Ok(raw),
        None => Err(Refusal::Malformed(faults)),
    }
}

/// Docker takes any line, and keeps quotes: where it alone can read the text, a quote at a value's begin is rather one that somebody
/// forgot to end.
fn quotes_that_only_docker_reads(readings: &[(ImportFormat, Vec<Raw>)]) -> Vec<String> {
    let [(format @ ImportFormat::Docker, raw)] = readings else {
        return Vec::new();
    };
    let is_quoted = |raw: &&Raw| raw.value.as_str().starts_with(['"', '\'']);
    let shown = raw.iter().filter(is_quoted).map(|raw| {
        let (line, name) = (raw.line, crate::text::printable(&raw.name));
        format!("line {line}: only {format} reads a value of {name}, with its quotes")
    });
    shown.collect()
}

/// The names that two dialects read with different values, or that only one of them reads.
fn differing(readings: &[(ImportFormat, Vec<Raw>)]) -> Vec<String> {
    let mut entries: BTreeMap<(usize, &str), Vec<(ImportFormat, &SecretValue)>> = BTreeMap::new();
    for (format, raw) in readings {
        for Raw { name, value, line } in raw {
            let entry = entries.entry((*line, name)).or_default();
            entry.push((*format, value));
        }
    }
    let differ = |values: &[(ImportFormat, &SecretValue)]| {
        values.len() < readings.len() || values.windows(2).any(|pair| pair[0].1 != pair[1].1)
    };
    let lines = entries.into_iter().filter(|(_, values)| differ(values));
    let shown = lines.map(|((line, name), values)| {
        let mut groups: Vec<(Vec<String>, &SecretValue)> = Vec::new();
        for (format, value) in values {
            match groups.iter_mut().find(|(_, other)| *other == value) {
                Some((formats, _)) => formats.push(format.to_string()),
                None => groups.push((vec![format.to_string()], value)),
            }
        }
        let groups: Vec<String> = groups
            .into_iter()
            .map(|(formats, _)| formats.join(" and "))
            .collect();
        let name = crate::text::printable(name);
        match groups.as_slice() {
            [only] => format!("line {line}: only {only} reads a value of {name}"),
            several => format!(
                "line {line}: {name} has one value for {}",
                several.join(", another for ")
            ),
        }
    });
    shown.collect()
}
