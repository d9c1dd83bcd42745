//! Reads the secrets file, and waits for the rest of one that another program is writing. Knows no state and no watch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::document::{Document, MAX_DOCUMENT, parse_document, parse_within};
use super::location::{StoreLocation, is_yaml};
use crate::error::{Error, Result};
use crate::files::place::Place;
use crate::files::{Content, ReadError, Stamp, is_mounted, read_file, read_place};
use crate::secret::{SecretName, fingerprint};
use crate::text::shell_path;

const TOO_LARGE: &str = "it is too large: over 16 MiB";
/// How long a malformed or missing file may be a half-written one: SimpleTuner truncates the file and writes it again
/// without a lock, and other programs remove and recreate it.
const PARTIAL_WRITE_TIMEOUT: Duration = Duration::from_millis(200);
/// The same for YAML that parses but lacks keys: the first part of a YAML document is a document, too.
const PARTIAL_YAML_TIMEOUT: Duration = Duration::from_millis(50);
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// The file as the last check saw it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Observed {
    /// The next check must read the file again.
    #[default]
    Unsettled,
    /// So does it here, but the file was read: a change within the same moment may have the same stamp.
    Young(PathBuf, Stamp),
    Missing(PathBuf),
    File(PathBuf, Stamp),
}

impl Observed {
    /// A file that was read. If it changed only just now, its stamp may not show the next change.
    pub(super) fn after_read(path: &Path, stamp: Stamp) -> Self {
        if stamp.may_repeat() {
            Observed::Young(path.to_owned(), stamp)
        } else {
            Observed::File(path.to_owned(), stamp)
        }
    }
}

impl Observed {
    /// Whether the file at this location is the one that was read, as far as its stamp shows.
    pub(super) fn seems_to_be(&self, located: &Place) -> bool {
        match (self, located.stat()) {
            (Observed::Missing(path), None) => path == located.path(),
            (Observed::File(path, stamp) | Observed::Young(path, stamp), Some(stat)) => {
                *stamp == Stamp::of(stat) && path == located.path()
            }
            _ => false,
        }
    }
}

/// A document, and the file that it was read from.
#[derive(Clone)]
pub(super) struct LoadedDocument {
    pub(super) document: Arc<Document>,
    /// `None`: there is no file.
    pub(super) content: Option<ContentHash>,
    pub(super) modified: SystemTime,
}

/// Identifies a file's bytes without keeping them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ContentHash {
    path: PathBuf,
    len: usize,
    hash: u64,
}

impl ContentHash {
    pub(super) fn of(path: &Path, bytes: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            len: bytes.len(),
            hash: fingerprint(bytes),
        }
    }
}

/// The outcome of reading the file.
pub(super) struct ReadOutcome {
    /// The file's path, for people.
    pub(super) source: String,
    pub(super) observed: Observed,
    pub(super) loaded: Result<LoadedDocument>,
}

/// Reads the file at one location.
pub(super) struct StoreReader {
    location: StoreLocation,
    max_keys: usize,
    /// Whether the warning that others can read the file was logged.
    mode_warned: AtomicBool,
    /// Whether the warning that the file cannot be written was logged.
    mount_warned: AtomicBool,
}

impl StoreReader {
    pub(super) fn new(location: StoreLocation, max_keys: usize) -> Self {
        Self {
            location,
            max_keys,
            mode_warned: AtomicBool::new(false),
            mount_warned: AtomicBool::new(false),
        }
    }

    /// Reads the file now; waits a moment if it seems to be half written. `before`: the document that was read last.
    pub(super) fn read(&self, before: Option<&LoadedDocument>) -> ReadOutcome {
        let started = Instant::now();
        loop {
            let located = match self.location.locate() {
                Ok(located) => located,
                Err(error) => {
                    return ReadOutcome {
                        source: error.to_string(),
                        observed: Observed::Unsettled,
                        loaded: Err(error),
                    };
                }
            };
            let (observed, loaded, is_young) = self.read_located(&located, before);
            let timeout = match &loaded {
                Err(Error::MalformedStore { .. }) if is_young => PARTIAL_WRITE_TIMEOUT,
                Ok(loaded) => loaded.partial_write_timeout(before, is_young),
                Err(_) => Duration::ZERO,
            };
            if started.elapsed() < timeout {
                std::thread::sleep(RETRY_DELAY);
                continue;
            }
            return ReadOutcome {
                source: located.path().display().to_string(),
                observed,
                loaded,
            };
        }
    }

    /// The third value: whether the file changed so recently that it may be half written.
    fn read_located(
        &self,
        located: &Place,
        before: Option<&LoadedDocument>,
    ) -> (Observed, Result<LoadedDocument>, bool) {
        let Some(stat) = located.stat() else {
            let path = located.path().to_owned();
            let nothing = LoadedDocument {
                document: Arc::new(Document::empty(is_yaml(&path))),
                content: None,
                modified: SystemTime::now(),
            };
            return (Observed::Missing(path), Ok(nothing), false);
        };
        // A file that can never be read (a folder, too large) is not read again until it changes.
        let observed = Observed::File(located.path().to_owned(), Stamp::of(stat));
        match self.read_content(located) {
            Ok(content) => {
                let is_young = content.stamp.is_younger_than(PARTIAL_WRITE_TIMEOUT);
                let observed = Observed::after_read(located.path(), content.stamp);
                (
                    observed,
                    self.parse(located.path(), &content, before),
                    is_young,
                )
            }
            Err(error @ Error::MalformedStore { .. }) => (observed, Err(error), false),
            Err(error) => (Observed::Unsettled, Err(error), false),
        }
    }

    fn read_content(&self, located: &Place) -> Result<Content> {
        let path = located.path();
        let content = read_place(located, MAX_DOCUMENT).map_err(|error| read_error(path, error))?;
        if content.is_open_to_others() && !self.mode_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} can be read by others; fix it with: chmod 600 {}",
                path.display(),
                shell_path(path)
            );
        }
        if is_mounted(path) && !self.mount_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} is mounted as a single file: its secrets can be read, and none can be written",
                path.display()
            );
        }
        Ok(content)
    }

    /// The document of this content. The same bytes as before are not parsed again.
    fn parse(
        &self,
        path: &Path,
        content: &Content,
        before: Option<&LoadedDocument>,
    ) -> Result<LoadedDocument> {
        let hash = ContentHash::of(path, &content.bytes);
        let modified = content.stamp.modified();
        if let Some(before) = before
            && before.content.as_ref() == Some(&hash)
        {
            return Ok(LoadedDocument {
                modified,
                ..before.clone()
            });
        }
        let parsed = parse_within(is_yaml(path), &content.bytes, self.max_keys);
        let mut document = parsed.map_err(|error| with_path(path, error))?;
        if let Some(before) = before {
            document.reuse_decrypted(&before.document);
        }
        Ok(LoadedDocument {
            document: Arc::new(document),
            content: Some(hash),
            modified,
        })
    }
}

impl LoadedDocument {
    /// The file's size, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.content
            .as_ref()
            .map_or(0, |content| content.len as u64)
    }

    /// How long to wait for the rest of a document that may be half written.
    fn partial_write_timeout(&self, before: Option<&LoadedDocument>, is_young: bool) -> Duration {
        let Some(before) = before.filter(|before| before.content.is_some()) else {
            return Duration::ZERO;
        };
        if self.content.is_none() {
            return PARTIAL_WRITE_TIMEOUT;
        }
        let is_gone = |name: &SecretName| !self.document.contains(name);
        match is_young && self.document.is_yaml() && before.document.names().any(is_gone) {
            true => PARTIAL_YAML_TIMEOUT,
            false => Duration::ZERO,
        }
    }
}

/// The document in the file at a path and the file's stamp; `None` if there is no file.
///
/// # Errors
/// [`Error::MalformedStore`], [`Error::Io`].
pub(crate) fn read_document(path: &Path) -> Result<Option<(Document, Stamp)>> {
    let content = match read_file(path, MAX_DOCUMENT) {
        Ok(content) => content,
        Err(ReadError::Missing) => return Ok(None),
        Err(error) => return Err(read_error(path, error)),
    };
    let parsed = parse_document(is_yaml(path), &content.bytes);
    let document = parsed.map_err(|error| with_path(path, error))?;
    Ok(Some((document, content.stamp)))
}

fn read_error(path: &Path, error: ReadError) -> Error {
    let io = |error: std::io::Error| Error::io(format!("reading {}", path.display()), error);
    match error {
        ReadError::NotAFile(what) => malformed(path, what),
        ReadError::TooLarge => malformed(path, TOO_LARGE),
        ReadError::Missing => io(rustix::io::Errno::NOENT.into()),
        ReadError::Io(error) => io(error),
    }
}

fn malformed(path: &Path, reason: &str) -> Error {
    Error::MalformedStore {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn with_path(path: &Path, error: Error) -> Error {
    match error {
        Error::Malformed { reason, .. } => malformed(path, &reason),
        other => other,
    }
}
