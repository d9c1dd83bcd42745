//! What the keys of a secrets file held before: for each key that a write changed or removed, its last values as they stood
//! in the file, in a file `NAME.previous` beside it. Nothing serves or lists them. Knows neither the file's document nor a key.
//!
//! ```json
//! {"key":"HF_TOKEN","entries":[{"at":"2026-01-02T03:04:05.678901Z","did":"set","before":"Z0FBQUFB..."}]}
//! ```
//! One line for each key, that of the last change at the end: a write parses the lines of its keys and copies the others. The
//! newest entry comes first. `did` is `set`, `deleted`, `renamed` (with `to` or `from`) or `undone`; `before` is `null` where the
//! key did not exist. `dropped` is the time of the newest entry that is no longer kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::write::{Replacement, beside, sync_folder_of};
use super::{Sealed, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::provider::{parse_rfc3339, rfc3339_in_microseconds};
use crate::secret::SecretName;

/// The largest file, in bytes. Above it, the keys are dropped that have not changed for longest, whatever `keep_previous` is.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// What an entry needs besides its value and two names.
const ENTRY_OVERHEAD: usize = 128;
/// How each line begins; a name has no character that JSON escapes.
const LINE_START: &[u8] = b"{\"key\":\"";

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

    /// Adds an entry for a change that is made now.
    fn record(&mut self, did: Did, before: Option<Stored>) {
        // The time also identifies the entry, so it always advances, whatever the clock does.
        let mut at = in_microseconds(SystemTime::now());
        if let Some(newest) = self.newest().max(self.dropped)
            && at <= newest
        {
            at = newest + Duration::from_micros(1);
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

    fn truncate(&mut self, len: usize) {
        if let Some(first) = self.entries.get(len) {
            self.dropped = self.dropped.max(Some(first.at));
            self.entries.truncate(len);
        }
    }
}

/// What the file holds.
#[derive(Default)]
pub(super) struct Previous(Zeroizing<Vec<u8>>);

/// What a write does to a key, for [`Previous::updated`].
pub(super) struct Update<'a> {
    pub(super) name: &'a SecretName,
    pub(super) did: &'a Did,
    pub(super) before: Option<Stored>,
}

/// How much is kept.
pub(super) struct Bounds {
    /// The entries of a key.
    pub(super) entries: usize,
    /// The keys.
    pub(super) keys: usize,
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
        let previous = match read_file(&path, MAX_BYTES) {
            Ok(content) => Self(content.bytes),
            Err(ReadError::Missing) => Self::default(),
            Err(ReadError::NotAFile(what)) => return Err(malformed(what.to_owned())),
            Err(ReadError::TooLarge) => return Err(malformed("it is too large".to_owned())),
            Err(ReadError::Io(error)) => {
                return Err(Error::io(format!("reading {}", path.display()), error));
            }
        };
        previous.check().map(|()| previous)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each line is at least that of a key.
    fn check(&self) -> Result<()> {
        match self.lines().position(|(name, _)| name.is_none()) {
            None => Ok(()),
            Some(index) => Err(malformed_line(index)),
        }
    }

    /// Each line with its key.
    fn lines(&self) -> impl Iterator<Item = (Option<&str>, &[u8])> {
        let lines = self.0.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| {
            let rest = line.strip_prefix(LINE_START);
            let name = rest.and_then(|rest| rest.split(|byte| *byte == b'"').next());
            (name.and_then(|name| std::str::from_utf8(name).ok()), line)
        })
    }

    /// The entries of all keys, by name.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn all(&self) -> Result<BTreeMap<SecretName, KeyHistory>> {
        let lines = self.lines().enumerate();
        let parsed =
            lines.map(|(index, (_, line))| parse(line).ok_or_else(|| malformed_line(index)));
        parsed.collect()
    }

    /// The file's new content after these changes, which are made now, in this order. `seal` gives the form in which values of the
    /// changed keys are kept.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn updated(
        &self,
        updates: Vec<Update<'_>>,
        bounds: &Bounds,
        seal: impl Fn(Stored) -> Stored,
    ) -> Result<Self> {
        let mut changed: HashMap<&str, KeyHistory> = HashMap::new();
        for update in &updates {
            changed.insert(update.name.as_str(), KeyHistory::default());
        }
        let mut kept: Vec<&[u8]> = Vec::new();
        for (index, (name, line)) in self.lines().enumerate() {
            match name.and_then(|name| changed.get_mut(name)) {
                Some(history) => *history = parse(line).ok_or_else(|| malformed_line(index))?.1,
                None => kept.push(line),
            }
        }
        // By the last change of each.
        let mut order: Vec<&SecretName> = Vec::new();
        let mut is_listed = HashSet::new();
        for update in updates.iter().rev() {
            if is_listed.insert(update.name) {
                order.push(update.name);
            }
        }
        order.reverse();
        for update in updates {
            if let Some(history) = changed.get_mut(update.name.as_str()) {
                history.record(update.did.clone(), update.before);
            }
        }
        for history in changed.values_mut() {
            history.truncate(bounds.entries);
            for entry in &mut history.entries {
                entry.before = entry.before.take().map(&seal);
            }
        }
        let new = order
            .iter()
            .filter_map(|name| changed.get_key_value(name.as_str()));
        let new_size: usize = new.clone().map(|(name, history)| size(name, history)).sum();
        let mut size = new_size + kept.iter().map(|line| line.len()).sum::<usize>();
        let mut surplus = (kept.len() + order.len()).saturating_sub(bounds.keys);
        let mut kept = kept.into_iter();
        let mut new = new;
        let mut first = kept.next();
        while let Some(line) = first
            && (size > MAX_BYTES || surplus > 0)
        {
            size -= line.len();
            surplus = surplus.saturating_sub(1);
            first = kept.next();
        }
        while first.is_none()
            && (size > MAX_BYTES || surplus > 0)
            && let Some((name, history)) = new.next()
        {
            size -= self::size(name, history);
            surplus = surplus.saturating_sub(1);
        }
        // Allocated at its full size, because a vector that grows leaves unzeroed copies.
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        for line in first.into_iter().chain(kept) {
            out.extend_from_slice(line);
        }
        for (name, history) in new {
            write_line(name, history, &mut out);
        }
        Ok(Self(out))
    }

    /// The same with every value in this form.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn sealed(&self, seal: impl Fn(Stored) -> Stored) -> Result<Self> {
        let mut out = Zeroizing::new(Vec::with_capacity(3 * self.0.len()));
        for (index, (_, line)) in self.lines().enumerate() {
            let (name, mut history) = parse(line).ok_or_else(|| malformed_line(index))?;
            for entry in &mut history.entries {
                entry.before = entry.before.take().map(&seal);
            }
            write_line(name.as_str(), &history, &mut out);
        }
        Ok(Self(out))
    }

    /// Moves a malformed file aside, because it must not prevent writing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn set_aside(store: &Path, why: &Error) -> Result<()> {
        let (path, aside) = (path_for(store), beside(store, "", ".previous.damaged"));
        std::fs::rename(&path, &aside)
            .map_err(|error| Error::io(format!("moving {}", path.display()), error))?;
        tracing::warn!(
            "{why}; {} is {} now, and a new one is begun",
            path.display(),
            aside.display()
        );
        Ok(())
    }

    /// Writes it to the disk, to be put in place by [`Replacement::commit`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn prepare(&self, store: &Path) -> Result<Replacement> {
        Replacement::prepare(&path_for(store), &self.0, 0o600)
    }
}

fn malformed(reason: String) -> Error {
    Error::Malformed {
        what: "the earlier values".to_owned(),
        reason,
    }
}

/// Never quotes the file.
fn malformed_line(index: usize) -> Error {
    malformed(format!(
        "line {} is not what this program writes there",
        index + 1
    ))
}

/// At least the length of its line.
fn size(name: &str, history: &KeyHistory) -> usize {
    let entries = history.entries.iter().map(Entry::size).sum::<usize>();
    entries + name.len() + ENTRY_OVERHEAD
}

fn write_line(name: &str, history: &KeyHistory, out: &mut Vec<u8>) {
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

fn parse(line: &[u8]) -> Option<(SecretName, KeyHistory)> {
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

/// Moves what is kept beside one store to another one, whose locks the caller holds. With a cipher, values that are kept as plain
/// text are encrypted.
///
/// # Errors
/// [`Error::Io`]; nothing is lost then.
pub(crate) fn move_beside(
    from: &Path,
    to: &Path,
    cipher: Option<&Arc<CredentialCipher>>,
) -> Result<()> {
    if from == to || std::fs::symlink_metadata(path_for(from)).is_err() {
        return Ok(());
    }
    let read = |store: &Path| match Previous::read(store) {
        Err(error @ Error::Malformed { .. }) => {
            Previous::set_aside(store, &error).map(|()| Previous::default())
        }
        read => read,
    };
    let (moved, there) = (read(from)?, read(to)?);
    // What is there already is older: nothing has written beside it since the store was moved away.
    let names: HashSet<_> = moved.lines().filter_map(|(name, _)| name).collect();
    let others = there.lines();
    let others = others.filter(|(name, _)| name.is_none_or(|name| !names.contains(name)));
    let lines = others.chain(moved.lines()).map(|(_, line)| line);
    let mut moved = Previous(Zeroizing::new(lines.collect::<Vec<_>>().concat()));
    if let Some(cipher) = cipher {
        moved = moved.sealed(|stored| match &stored {
            Stored::Plain(value) => Stored::Encrypted(Sealed::seal(value, cipher)),
            Stored::Encrypted(_) => stored,
        })?;
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

#[cfg(test)]
mod tests;
