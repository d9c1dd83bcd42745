//! What the keys of a secrets file held before: for each key that a write changed or removed, its last values as they stood
//! in the file, in a file `NAME.previous` beside it. Nothing serves or lists them. Knows neither the file's document nor a key.
//!
//! ```json
//! {"key":"HF_TOKEN","entries":[{"at":"2026-01-02T03:04:05.678901Z","did":"set","before":"Z0FBQUFB..."}]}
//! ```
//! One line for each key, that of the last change at the end: a write parses the lines of its keys and copies the others. The
//! newest entry comes first. `did` is `set`, `deleted`, `renamed` (with `to` or `from`) or `undone`; `before` is `null` where the
//! key did not exist. `dropped` is the time of the newest entry that is no longer kept.

mod key_history;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::write::{Replacement, sync_folder_of};
use super::{Sealed, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::files::{ReadError, beside, read_file};
use crate::secret::SecretName;
use key_history::{parse, size, write_line};

pub use key_history::Did;
pub(super) use key_history::{Entry, KeyHistory};

/// The largest file, in bytes. Above it, the keys are dropped that have not changed for longest, whatever `keep_previous` is.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How each line begins; a name has no character that JSON escapes.
const LINE_START: &[u8] = b"{\"key\":\"";

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
pub(crate) fn path_for(store: &Path) -> PathBuf {
    beside(store, "", ".previous")
}

/// Whether what is kept beside a store can be read.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Io`].
pub(crate) fn check_beside(store: &Path) -> Result<()> {
    Previous::read(store)?.all().map(drop)
}

impl Previous {
    /// Reads what is kept beside a store; nothing, if there is no file.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Io`].
    pub(super) fn read(store: &Path) -> Result<Self> {
        Self::read_at(&path_for(store))
    }

    /// The same, of a file at any path.
    pub(super) fn read_at(path: &Path) -> Result<Self> {
        let previous = match read_file(path, MAX_BYTES) {
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

    /// Each line is at least that of a key, and whole.
    fn check(&self) -> Result<()> {
        let is_wrong =
            |(name, line): (Option<&str>, &[u8])| name.is_none() || !line.ends_with(b"\n");
        match self.lines().position(is_wrong) {
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
        let size: usize = new.clone().map(|(name, history)| size(name, history)).sum();
        let size = size + kept.iter().map(|line| line.len()).sum::<usize>();
        let surplus = (kept.len() + order.len()).saturating_sub(bounds.keys);
        // Allocated at its full size, because a vector that grows leaves unzeroed copies.
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        for line in kept.iter().skip(surplus) {
            out.extend_from_slice(line);
        }
        for (name, history) in new.skip(surplus.saturating_sub(kept.len())) {
            write_line(name, history, &mut out);
        }
        Ok(Self::within_largest_size(out))
    }

    /// Without the first lines, if it is too large with them.
    fn within_largest_size(bytes: Zeroizing<Vec<u8>>) -> Self {
        let Some(over) = bytes.len().checked_sub(MAX_BYTES).filter(|over| *over > 0) else {
            return Self(bytes);
        };
        let mut rest = bytes[over..].splitn(2, |byte| *byte == b'\n');
        Self(Zeroizing::new(rest.nth(1).unwrap_or_default().to_vec()))
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
        Ok(Self::within_largest_size(out))
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

/// Checks the content of such a file that came from elsewhere.
///
/// # Errors
/// [`Error::Malformed`].
pub(crate) fn check(bytes: &[u8]) -> Result<()> {
    let previous = Previous(Zeroizing::new(bytes.to_vec()));
    previous.check()?;
    previous.all().map(drop)
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
    let (moved, there) = (read_or_set_aside(from)?, read_or_set_aside(to)?);
    // What is there already is older: nothing has written beside it since the store was moved away.
    let names: HashSet<_> = moved.lines().filter_map(|(name, _)| name).collect();
    let others = there.lines();
    let others = others.filter(|(name, _)| name.is_none_or(|name| !names.contains(name)));
    let lines = others.chain(moved.lines()).map(|(_, line)| line);
    let lines = lines.collect::<Vec<_>>().concat();
    let moved = Previous::within_largest_size(Zeroizing::new(lines));
    let moved = moved.sealed(|stored| sealed_with(cipher, stored))?;
    moved.prepare(to)?.commit()?;
    sync_folder_of(to);
    remove(from)
}

/// Keeps values that another file's replace in a store, whose lock the caller holds. With a cipher, those that are plain text are
/// encrypted. `entries` and `keys`: how much is kept.
///
/// # Errors
/// [`Error::Io`]; nothing has changed then.
pub(crate) fn keep_beside(
    store: &Path,
    replaced: &[(SecretName, Stored)],
    (entries, keys): (usize, usize),
    cipher: Option<&Arc<CredentialCipher>>,
) -> Result<()> {
    if entries == 0 || replaced.is_empty() {
        return Ok(());
    }
    let updates = replaced.iter().map(|(name, before)| Update {
        name,
        did: &Did::Set,
        before: Some(before.clone()),
    });
    let bounds = Bounds { entries, keys };
    let seal = |stored| sealed_with(cipher, stored);
    let kept = read_or_set_aside(store)?.updated(updates.collect(), &bounds, seal)?;
    kept.prepare(store)?.commit()?;
    sync_folder_of(store);
    Ok(())
}

/// Reads what is kept beside a store. A malformed file is moved aside.
pub(super) fn read_or_set_aside(store: &Path) -> Result<Previous> {
    match Previous::read(store) {
        Err(error @ Error::Malformed { .. }) => {
            Previous::set_aside(store, &error).map(|()| Previous::default())
        }
        read => read,
    }
}

fn sealed_with(cipher: Option<&Arc<CredentialCipher>>, stored: Stored) -> Stored {
    match (&stored, cipher) {
        (Stored::Plain(value), Some(cipher)) => Stored::Encrypted(Sealed::seal(value, cipher)),
        _ => stored,
    }
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

#[cfg(test)]
mod tests;
