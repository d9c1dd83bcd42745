//! Who reads what: the rows of the audit trail of reads, summed up by program, place, user and file.

use std::collections::HashMap;

use serde_json::Value;

use crate::audit::{Row, short_id};
use crate::text::printable;

/// The most readers that are kept; those that have not read for longest go.
const MAX_READERS: usize = 2000;

/// A program that reads a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ReaderKey {
    pub(super) program: String,
    /// Its container or unit.
    pub(super) place: String,
    pub(super) user: String,
    pub(super) file: String,
}

/// How often it has read it.
#[derive(Clone, Debug)]
pub(super) struct ReaderRow {
    pub(super) key: ReaderKey,
    pub(super) reads: u64,
    /// When it did so last, as RFC 3339 has it.
    pub(super) last: String,
}

/// By what readers are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Reads,
    Last,
    Program,
    File,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Reads => Self::Last,
            Self::Last => Self::Program,
            Self::Program => Self::File,
            Self::File => Self::Reads,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Last => "last",
            Self::Program => "program",
            Self::File => "file",
        }
    }

    pub(super) fn sort(self, rows: &mut [ReaderRow]) {
        rows.sort_by(|a, b| {
            let latest = b.last.cmp(&a.last);
            let order = match self {
                Self::Reads => b.reads.cmp(&a.reads),
                Self::Last => latest,
                Self::Program => a.key.program.cmp(&b.key.program),
                Self::File => a.key.file.cmp(&b.key.file),
            };
            // The last criterion is never equal, so that no row jumps about.
            let names = |row: &ReaderRow| {
                let key = row.key.clone();
                (key.file, key.program, key.user, key.place)
            };
            order.then(latest).then_with(|| names(a).cmp(&names(b)))
        });
    }
}

/// The sums.
#[derive(Default)]
pub(super) struct Readers(HashMap<ReaderKey, (u64, String)>);

impl Readers {
    pub(super) fn add(&mut self, row: &Row) {
        let Ok(details) = serde_json::from_str::<Value>(&row.details) else {
            return;
        };
        // Anchors and rows about rows have no program that reads.
        if row.event_type != "credential.used" || details["count"].as_u64().is_none() {
            return;
        }
        let text = |field: &str| details[field].as_str().map(printable);
        let key = ReaderKey {
            program: text("program").unwrap_or_else(|| "?".into()),
            place: text("container_name")
                .or_else(|| Some(short_id(&text("container")?).to_owned()))
                .or_else(|| text("unit"))
                .unwrap_or_else(|| "-".into()),
            user: text("user").unwrap_or_else(|| "?".into()),
            file: text("file").or_else(|| text("key")).unwrap_or_default(),
        };
        let count = details["count"].as_u64().unwrap_or(1);
        let (reads, last) = self.0.entry(key).or_default();
        *reads += count;
        if *last < row.timestamp {
            last.clone_from(&row.timestamp);
        }
        if self.0.len() > MAX_READERS {
            let oldest = self.0.iter().min_by(|(_, (_, a)), (_, (_, b))| a.cmp(b));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.0.remove(&oldest);
            }
        }
    }

    pub(super) fn rows(&self) -> Vec<ReaderRow> {
        let rows = self.0.iter().map(|(key, (reads, last))| ReaderRow {
            key: key.clone(),
            reads: *reads,
            last: last.clone(),
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at: &str, details: &str) -> Row {
        Row {
            id: 1,
            timestamp: at.into(),
            event_type: "credential.used".into(),
            username: None,
            target: None,
            is_signed: true,
            action: String::new(),
            details: details.into(),
        }
    }

    #[test]
    fn reads_of_the_same_program_place_user_and_file_are_one_row() {
        let mut readers = Readers::default();
        let cat = r#"{"program": "cat", "user": "me", "file": "secrets/A", "count": 2}"#;
        readers.add(&row("2026-01-01T00:00:02", cat));
        readers.add(&row("2026-01-01T00:00:01", cat));
        let inside = r#"{"program": "python3", "user": "me", "file": "views/v/A", "count": 1,
            "container": "0123456789abcdef", "unit": "docker.service"}"#;
        readers.add(&row("2026-01-01T00:00:03", inside));
        readers.add(&row("2026-01-01T00:00:03", r#"{"anchor": {}}"#));
        readers.add(&row("2026-01-01T00:00:03", "no JSON"));
        let mut rows = readers.rows();
        Sort::Reads.sort(&mut rows);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].reads, &*rows[0].last), (4, "2026-01-01T00:00:02"));
        assert_eq!(rows[0].key.place, "-");
        assert_eq!(rows[1].key.place, "0123456789ab");
        for (sort, first) in [
            (Sort::Last, "python3"),
            (Sort::Program, "cat"),
            (Sort::File, "cat"),
        ] {
            sort.sort(&mut rows);
            assert_eq!(rows[0].key.program, first, "{sort:?}");
        }
    }

    #[test]
    fn there_are_never_too_many_readers() {
        let mut readers = Readers::default();
        for n in 0..MAX_READERS + 10 {
            let details = format!(r#"{{"program": "p{n}", "count": 1}}"#);
            readers.add(&row(&format!("{n:08}"), &details));
        }
        assert_eq!(readers.rows().len(), MAX_READERS);
        assert!(readers.rows().iter().all(|row| row.key.program != "p0"));
    }
}
