//! What the keys of a secrets file held before: for each key that a write changed or removed, its last values as they stood
//! in the file, in a file `NAME.previous` beside it. Nothing serves or lists them. Knows neither the file's document nor a key.
//!
//! ```json
//! {"keys": {"HF_TOKEN": {"entries": [{"at": "2026-01-02T03:04:05.678901Z", "did": "set", "before": "Z0FBQUFB..."}]}}}
//! ```
//! The newest entry comes first. `did` is `set`, `deleted`, `renamed` (with `to` or `from`) or `undone`; `before` is `null` where
//! the key did not exist. `dropped` is the time of the newest entry that is no longer kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Stored;
use super::write::{Replacement, beside, sync_folder_of};
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::provider::{parse_rfc3339, rfc3339_in_microseconds};
use crate::secret::SecretName;

/// The largest file, in bytes. Above it, the oldest entries are dropped, whatever `keep_previous` is.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// What an entry needs besides its value and a name.
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
pub(super) struct Entry {
    pub(super) at: SystemTime,
    pub(super) did: Did,
    pub(super) before: Option<Stored>,
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
pub(super) struct KeyHistory {
    /// The newest first.
    pub(super) entries: VecDeque<Entry>,
    /// When the newest change was made whose entry is no longer kept.
    pub(super) dropped: Option<SystemTime>,
}

impl KeyHistory {
    /// When the key last changed.
    pub(super) fn newest(&self) -> Option<SystemTime> {
        self.entries.front().map(|entry| entry.at)
    }

    fn truncate(&mut self, len: usize) {
        if let Some(first) = self.entries.get(len) {
            self.dropped = self.dropped.max(Some(first.at));
            self.entries.truncate(len);
        }
    }
}

/// The entries of all keys.
#[derive(Clone, Default)]
pub(super) struct Previous {
    pub(super) keys: BTreeMap<SecretName, KeyHistory>,
}

/// The path of a store's `NAME.previous`.
pub(super) fn path_for(store: &Path) -> PathBuf {
    beside(store, "", ".previous")
}

impl Previous {
    /// Reads what is kept beside a store; nothing, if there is no file.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Io`].
    pub(super) fn read(store: &Path) -> Result<Self> {
        let path = path_for(store);
        let malformed = |reason: &str| Error::Malformed {
            what: path.display().to_string(),
            reason: reason.to_owned(),
        };
        match read_file(&path, 2 * MAX_BYTES) {
            Ok(content) => Self::parse(&content.bytes).map_err(|reason| malformed(&reason)),
            Err(ReadError::Missing) => Ok(Self::default()),
            Err(ReadError::NotAFile(what)) => Err(malformed(what)),
            Err(ReadError::TooLarge) => Err(malformed("it is too large")),
            Err(ReadError::Io(error)) => {
                Err(Error::io(format!("reading {}", path.display()), error))
            }
        }
    }

    /// The same for a write. A file that is malformed is moved aside, because it must not prevent writing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn read_to_write(store: &Path) -> Result<Self> {
        let error = match Self::read(store) {
            Err(error @ Error::Malformed { .. }) => error,
            read => return read,
        };
        let (path, aside) = (path_for(store), beside(store, "", ".previous.damaged"));
        std::fs::rename(&path, &aside)
            .map_err(|error| Error::io(format!("moving {}", path.display()), error))?;
        tracing::warn!(
            "{error}; it is {} now, and a new one is begun",
            aside.display()
        );
        Ok(Self::default())
    }

    /// Adds an entry for a change that is made now.
    pub(super) fn record(&mut self, name: &SecretName, did: Did, before: Option<Stored>) {
        let history = self.keys.entry(name.clone()).or_default();
        // The time also identifies the entry, so it always advances, whatever the clock does.
        let mut at = in_microseconds(SystemTime::now());
        if let Some(newest) = history.newest().max(history.dropped)
            && at <= newest
        {
            at = newest + Duration::from_micros(1);
        }
        // The write that the last entry was for did not take place: the power failed, or the rename did.
        if before.is_some()
            && history
                .entries
                .front()
                .is_some_and(|entry| entry.before == before)
        {
            history.entries.pop_front();
        }
        history.entries.push_front(Entry { at, did, before });
    }

    /// Drops what is beyond the last `per_key` entries of a key, beyond `max_keys` keys, or beyond the largest file: the
    /// oldest first.
    pub(super) fn bound(&mut self, per_key: usize, max_keys: usize) {
        self.bound_to(per_key, max_keys, MAX_BYTES);
    }

    fn bound_to(&mut self, per_key: usize, max_keys: usize, max_bytes: usize) {
        for history in self.keys.values_mut() {
            history.truncate(per_key);
        }
        let mut by_age: Vec<(SystemTime, SecretName)> = Vec::new();
        if self.keys.len() > max_keys {
            let newest = self.keys.iter();
            by_age.extend(newest.filter_map(|(name, history)| {
                Some((history.newest().max(history.dropped)?, name.clone()))
            }));
            by_age.sort_unstable();
            for (_, name) in by_age.drain(..).take(self.keys.len() - max_keys) {
                self.keys.remove(&name);
            }
        }
        let mut size = self.size();
        if size <= max_bytes {
            return;
        }
        for (name, history) in &self.keys {
            by_age.extend(history.entries.iter().map(|entry| (entry.at, name.clone())));
        }
        by_age.sort_unstable();
        for (_, name) in by_age {
            // Somewhat more than needed, so that not each write has to drop something.
            if size <= max_bytes / 8 * 7 {
                break;
            }
            if let Some(history) = self.keys.get_mut(&name)
                && let Some(oldest) = history.entries.back()
            {
                size -= oldest.size();
                history.truncate(history.entries.len() - 1);
            }
        }
    }

    /// The values that are kept as plain text.
    pub(super) fn plain(&mut self) -> impl Iterator<Item = &mut Stored> {
        let entries = self.keys.values_mut();
        let entries = entries.flat_map(|history| &mut history.entries);
        let before = entries.filter_map(|entry| entry.before.as_mut());
        before.filter(|stored| matches!(stored, Stored::Plain(_)))
    }

    /// Writes it to the disk, to be put in place by [`Replacement::commit`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn prepare(&self, store: &Path) -> Result<Replacement> {
        Replacement::prepare(&path_for(store), &self.render(), 0o600)
    }

    fn size(&self) -> usize {
        let size = |(name, history): (&SecretName, &KeyHistory)| {
            let entries = history.entries.iter().map(Entry::size).sum::<usize>();
            entries + name.as_str().len() + ENTRY_OVERHEAD
        };
        self.keys.iter().map(size).sum()
    }

    fn render(&self) -> Zeroizing<Vec<u8>> {
        let text = rfc3339_in_microseconds;
        let keys = self.keys.iter().map(|(name, history)| {
            let entries = history.entries.iter().map(|entry| {
                let (did, to, from) = match &entry.did {
                    Did::Set => ("set", None, None),
                    Did::Deleted => ("deleted", None, None),
                    Did::RenamedTo(to) => ("renamed", Some(to), None),
                    Did::RenamedFrom(from) => ("renamed", None, Some(from)),
                    Did::Undone => ("undone", None, None),
                };
                WrittenEntry {
                    at: text(entry.at),
                    did: did.into(),
                    to: to.cloned(),
                    from: from.cloned(),
                    before: entry
                        .before
                        .as_ref()
                        .map(|stored| Text(stored.as_str().into())),
                }
            });
            let history = WrittenHistory {
                entries: entries.collect(),
                dropped: history.dropped.map(text),
            };
            (name.clone(), history)
        });
        let written = Written {
            keys: keys.collect(),
        };
        // Enough for names in entries, too: a vector that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(3 * self.size() + ENTRY_OVERHEAD));
        // Writing to a vector cannot fail.
        let _ = serde_json::to_writer_pretty(&mut *out, &written);
        out.push(b'\n');
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let written: Written<'_> = serde_json::from_slice(bytes).map_err(|error| {
            // The error's own text may quote the file.
            format!(
                "it is not what this program writes there (line {})",
                error.line()
            )
        })?;
        let time = |text: &str| parse_rfc3339(text).ok_or("a time in it is none".to_owned());
        let mut keys = BTreeMap::new();
        for (name, written) in written.keys {
            let entries = written.entries.into_iter().map(|entry| {
                Ok(Entry {
                    at: time(&entry.at)?,
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
                entries: entries.collect::<Result<_, String>>()?,
                dropped: written.dropped.as_deref().map(time).transpose()?,
            };
            keys.insert(name, history);
        }
        Ok(Self { keys })
    }
}

/// Moves what is kept beside one store to another one, whose locks the caller holds.
///
/// # Errors
/// [`Error::Io`]; nothing is lost then.
pub(crate) fn move_beside(from: &Path, to: &Path) -> Result<()> {
    if from == to || std::fs::symlink_metadata(path_for(from)).is_err() {
        return Ok(());
    }
    let (mut moved, there) = (Previous::read_to_write(from)?, Previous::read_to_write(to)?);
    for (name, history) in there.keys {
        match moved.keys.get(&name) {
            Some(other) if other.newest() >= history.newest() => {}
            _ => drop(moved.keys.insert(name, history)),
        }
    }
    moved.prepare(to)?.commit()?;
    sync_folder_of(to);
    remove(from)
}

/// Removes what is kept beside a store.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn remove(store: &Path) -> Result<()> {
    let path = path_for(store);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Times are written in microseconds.
fn in_microseconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    keys: BTreeMap<SecretName, WrittenHistory<'a>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenHistory<'a> {
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
