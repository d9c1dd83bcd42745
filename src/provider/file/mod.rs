//! The file provider: a flat object of names and texts, encrypted or plain, in JSON or YAML; the one that is written to.
//! Knows no other provider and no cache.

mod document;
mod json;
mod place;
mod state;
mod store;
mod view;
pub(crate) mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::{Held, News, Provided, Provider, ProviderReport, Refreshed, SecretStore, Standing};
use crate::credential::KeySource;
use crate::error::{Error, Result};
use crate::secret::SecretName;
use crate::settings::files::{Content, ReadError, Stamp, not_a_file, read_file};
use place::Look;
use state::{Seen, State};

pub use document::{Document, MAX_DOCUMENT, parse_document};
pub(crate) use document::{Sealed, Stored};
pub use place::StorePlace;

const TOO_LARGE: &str = "it is too large: over 16 MiB";

/// How a [`FileProvider`] works.
#[derive(Debug)]
pub struct FileOptions {
    /// Where the file lies.
    pub place: StorePlace,
    /// What its values are encrypted with.
    pub key: KeySource,
    /// Whether values are written encrypted.
    pub encrypt: bool,
    /// For how long the last good document is served when the file cannot be read.
    pub max_stale: Duration,
    /// How long a write waits for another writer.
    pub lock_timeout: Duration,
}

/// The file provider.
pub struct FileProvider {
    options: FileOptions,
    /// A leaf lock: held for a look at the document, for reading the file anew, and for the moment of a rename, so that
    /// nobody takes our own write for another's edit.
    state: Mutex<State>,
    warned: Warned,
}

/// What is said once only.
#[derive(Default)]
struct Warned {
    open_to_others: AtomicBool,
    comments: AtomicBool,
    hidden: AtomicBool,
}

impl FileProvider {
    /// The provider; reads nothing yet.
    pub fn new(options: FileOptions) -> Self {
        Self {
            options,
            state: Mutex::new(State::default()),
            warned: Warned::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reads the file if it is not as it was read last; what changed is for the next `refresh` to tell.
    fn look_now(&self) -> MutexGuard<'_, State> {
        let look = self.options.place.look();
        let mut state = self.state();
        if look.is_ok_and(|look| state.is_current(&look)) {
            state.confirm(self.options.max_stale);
        } else {
            // Looked at anew under the lock: what another thread read meanwhile is never undone by an older look.
            self.read(&mut state);
        }
        state
    }

    fn read(&self, state: &mut State) {
        let started = Instant::now();
        let (source, seen, read) = self.read_now();
        state.source = source;
        match read {
            Ok((document, at)) => {
                if state.is_failed() {
                    tracing::info!("the secrets file can be read again");
                }
                state.take_in(seen, document, at);
                state.latency = Some(started.elapsed());
            }
            Err(error) => {
                if !state.is_failed() {
                    tracing::warn!("{error}");
                }
                state.fail(seen, error, self.options.max_stale);
            }
        }
    }

    /// What the file holds now, and when it was modified.
    fn read_now(&self) -> (String, Seen, Result<(Document, SystemTime)>) {
        match self.options.place.look() {
            Ok(look) => {
                let (seen, read) = self.read_what_is_there(&look);
                (look.path().display().to_string(), seen, read)
            }
            Err(error) => (error.to_string(), Seen::Unclear, Err(error)),
        }
    }

    fn read_what_is_there(&self, look: &Look<'_>) -> (Seen, Result<(Document, SystemTime)>) {
        let yaml = place::is_yaml(look.path());
        let Some(stat) = look.stat() else {
            let path = look.path().to_owned();
            return (
                Seen::Missing(path),
                Ok((Document::empty(yaml), SystemTime::now())),
            );
        };
        // What cannot be read for what it is need not be looked at again before it changes.
        let seen = Seen::File(look.path().to_owned(), Stamp::of(stat));
        match self.read_at(look) {
            Ok(content) => {
                let seen = Seen::after(look.path(), content.stamp);
                let parsed = parse(look, &content);
                (
                    seen,
                    parsed.map(|document| (document, content.stamp.modified())),
                )
            }
            Err(error @ Error::MalformedStore { .. }) => (seen, Err(error)),
            Err(error) => (Seen::Unclear, Err(error)),
        }
    }

    fn read_at(&self, look: &Look<'_>) -> Result<Content> {
        let malformed = |reason: &str| Error::MalformedStore {
            path: look.path().to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(what) = look.stat().and_then(not_a_file) {
            return Err(malformed(what));
        }
        let content = read_file(look.path(), MAX_DOCUMENT).map_err(|error| match error {
            ReadError::NotAFile(what) => malformed(what),
            ReadError::TooLarge => malformed(TOO_LARGE),
            ReadError::Missing => self.io(look, rustix::io::Errno::NOENT.into()),
            ReadError::Io(error) => self.io(look, error),
        })?;
        if content.is_open_to_others() && !self.warned.open_to_others.swap(true, Ordering::Relaxed)
        {
            let path = look.path().display();
            tracing::warn!("{path} can be read by others; mend it with: chmod 600 {path}");
        }
        Ok(content)
    }

    fn io(&self, look: &Look<'_>, error: std::io::Error) -> Error {
        Error::io(format!("reading {}", look.path().display()), error)
    }

    fn open(&self, name: &SecretName, stored: Stored) -> Result<crate::secret::SecretValue> {
        match stored {
            Stored::Plain(value) => Ok(value),
            Stored::Encrypted(sealed) => {
                let cipher = self.options.key.cipher();
                self.state().open_with(cipher.as_ref().ok());
                sealed.open(name.as_str(), &cipher?)
            }
        }
    }
}

fn parse(look: &Look<'_>, content: &Content) -> Result<Document> {
    let parsed = parse_document(place::is_yaml(look.path()), &content.bytes);
    parsed.map_err(|error| malformed_at(look.path(), error))
}

/// The document at a path, if there is a file, and its stamp.
///
/// # Errors
/// [`Error::MalformedStore`], [`Error::Io`].
pub(crate) fn read_document(path: &Path) -> Result<Option<(Document, Stamp)>> {
    let malformed = |reason: String| Error::MalformedStore {
        path: path.to_owned(),
        reason,
    };
    let content = match read_file(path, MAX_DOCUMENT) {
        Ok(content) => content,
        Err(ReadError::Missing) => return Ok(None),
        Err(ReadError::NotAFile(what)) => return Err(malformed(what.to_owned())),
        Err(ReadError::TooLarge) => return Err(malformed(TOO_LARGE.to_owned())),
        Err(ReadError::Io(error)) => {
            return Err(Error::io(format!("reading {}", path.display()), error));
        }
    };
    let parsed = parse_document(place::is_yaml(path), &content.bytes);
    let document = parsed.map_err(|error| malformed_at(path, error))?;
    Ok(Some((document, content.stamp)))
}

/// The same with the file's path.
fn malformed_at(path: &Path, error: Error) -> Error {
    match error {
        Error::Malformed { reason, .. } => Error::MalformedStore {
            path: path.to_owned(),
            reason,
        },
        other => other,
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &str {
        "file"
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        drop(self.look_now());
        match self.held(name) {
            Held::Value(provided) => Ok(Some(provided)),
            Held::Failed(error) => Err(error),
            Held::Absent { .. } | Held::Unknown => Ok(None),
        }
    }

    fn held(&self, name: &SecretName) -> Held {
        if self.state().is_unread() {
            drop(self.look_now());
        }
        let (stored, changed_at) = match self.state().find(name, self.options.max_stale) {
            Ok(Some(found)) => found,
            Ok(None) => return Held::of(Ok(None)),
            Err(error) => return Held::Failed(error),
        };
        // Outside the lock: the first use of a key takes some hundredths of a second.
        match self.open(name, stored) {
            Ok(value) => Held::Value(Provided::now(value, changed_at)),
            Err(error) => Held::Failed(error),
        }
    }

    fn names(&self) -> Vec<SecretName> {
        self.state().names()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.state().has(name)
    }

    fn standing(&self) -> Standing {
        match self.state().failure(self.options.max_stale) {
            Some(error) => Standing::Failed(error),
            None => Standing::Whole,
        }
    }

    fn refresh(&self) -> Refreshed {
        self.look_now().take_refreshed()
    }

    fn look(&self) {
        drop(self.look_now());
    }

    fn take_news(&self) -> News {
        let mut state = self.state();
        News {
            view: Some(state.view(self.options.max_stale)),
            changes: state.take_refreshed(),
            own: state.take_own_changes(),
        }
    }

    fn keeps_documents(&self) -> bool {
        true
    }

    fn report(&self) -> ProviderReport {
        self.state().report(self.options.max_stale)
    }

    fn store(&self) -> Option<&dyn SecretStore> {
        Some(self)
    }
}

impl FileProvider {
    /// The file's path as it is now: links followed.
    fn path_now(&self) -> Result<PathBuf> {
        Ok(self.options.place.look()?.path().to_owned())
    }
}

#[cfg(test)]
mod tests;
