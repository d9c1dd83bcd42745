//! The last changes of one key, and the line that they are in a file of earlier values. Knows no other key and no file.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::provider::file::Stored;
use crate::provider::{parse_rfc3339, rfc3339_in_microseconds};
use crate::secret::SecretName;

/// What an entry needs besides its value and two names.
const ENTRY_OVERHEAD: usize = 128;

/// What a write did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// It got a value.
    Set,
    /// It was removed.
    Deleted,
    /// It was renamed to this key.
    RenamedTo(SecretName),
    /// This key was renamed to it.
    RenamedFrom(SecretName),
    /// It was set back to an earlier value.
    Undone,
}

/// A change of a key, and what the key held before.
#[derive(Clone)]
pub(in crate::provider::file) struct Entry {
    pub(in crate::provider::file) at: SystemTime,
    pub(in crate::provider::file) did: Did,
    pub(in crate::provider::file) before: Option<Stored>,
}

impl Entry {
    fn size(&self) -> usize {
        let before = match &self.before {
            None => 0,
            Some(Stored::Encrypted(sealed)) => sealed.as_str().len(),
            // Escapes make a text at most six times as long.
            Some(Stored::Plain(value)) => 6 * value.len(),
        };
        before + ENTRY_OVERHEAD
    }
}

/// The last entries of a key.
#[derive(Clone, Default)]
pub(in crate::provider::file) struct KeyHistory {
    /// The newest first.
    pub(in crate::provider::file) entries: VecDeque<Entry>,
    /// When the newest change was made whose entry is no longer kept.
    pub(in crate::provider::file) dropped: Option<SystemTime>,
}

impl KeyHistory {
    /// When the key last changed.
    pub(in crate::provider::file) fn newest(&self) -> Option<SystemTime> {
        self.entries.front().map(|entry| entry.at)
    }

    /// Adds an entry for a change that is made now.
    pub(super) fn record(&mut self, did: Did, before: Option<Stored>) {
        // The time also identifies the entry, so it always advances, whatever the clock does.
        let mut at = in_microseconds(SystemTime::now());
        if let Some(newest) = self.newest().max(self.dropped)
            && at <= newest
        {
            at = in_microseconds(newest + Duration::from_micros(1));
        }
        // The write that the last entry was for did not take place: the power failed, or the rename did.
        if before.is_some()
            && self
                .entries
                .front()
                .is_some_and(|last| last.before == before)
        {
            self.entries.pop_front();
        }
        self.entries.push_front(Entry { at, did, before });
    }

    pub(super) fn truncate(&mut self, len: usize) {
        if let Some(first) = self.entries.get(len) {
            self.dropped = self.dropped.max(Some(first.at));
            self.entries.truncate(len);
        }
    }
}

/// At least the length of its line.
pub(super) fn size(name: &str, history: &KeyHistory) -> usize {
    let entries = history.entries.iter().map(Entry::size).sum::<usize>();
    entries + name.len() + ENTRY_OVERHEAD
}

pub(super) fn write_line(name: &str, history: &KeyHistory, out: &mut Vec<u8>) {
    let entries = history.entries.iter().map(|entry| {
        let (did, to, from) = match &entry.did {
            Did::Set => ("set", None, None),
            Did::Deleted => ("deleted", None, None),
            Did::RenamedTo(to) => ("renamed", Some(to), None),
            Did::RenamedFrom(from) => ("renamed", None, Some(from)),
            Did::Undone => ("undone", None, None),
        };
        WrittenEntry {
            at: rfc3339_in_microseconds(entry.at),
            did: did.into(),
            to: to.cloned(),
            from: from.cloned(),
            before: entry
                .before
                .as_ref()
                .map(|stored| Text(stored.as_str().into())),
        }
    });
    let line = Line {
        key: name.into(),
        entries: entries.collect(),
        dropped: history.dropped.map(rfc3339_in_microseconds),
    };
    // Writing to a vector cannot fail.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}

pub(super) fn parse(line: &[u8]) -> Option<(SecretName, KeyHistory)> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let entries = line.entries.into_iter().map(|entry| {
        Some(Entry {
            at: parse_rfc3339(&entry.at)?,
            did: match (&*entry.did, entry.to, entry.from) {
                ("deleted", ..) => Did::Deleted,
                ("renamed", Some(to), _) => Did::RenamedTo(to),
                ("renamed", None, Some(from)) => Did::RenamedFrom(from),
                ("undone", ..) => Did::Undone,
                _ => Did::Set,
            },
            before: entry.before.map(|text| Stored::from_text(&text.0)),
        })
    });
    let history = KeyHistory {
        entries: entries.collect::<Option<_>>()?,
        dropped: match line.dropped {
            Some(at) => Some(parse_rfc3339(&at)?),
            None => None,
        },
    };
    Some((SecretName::new(&line.key).ok()?, history))
}

/// Times are written in microseconds.
fn in_microseconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    entries: Vec<WrittenEntry<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WrittenEntry<'a> {
    at: String,
    did: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<SecretName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<SecretName>,
    #[serde(borrow)]
    before: Option<Text<'a>>,
}

/// Borrows a text without escapes, so that no copy of it is left in memory.
#[derive(Serialize, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
