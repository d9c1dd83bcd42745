//! Replaces the key that the values are encrypted with. Each step leaves every value readable, whatever happens next:
//!
//! 1. The next key is put beside the key. All readers decrypt with both from then on.
//! 2. What the keys held before, and then the secrets file, are replaced by copies that the next key decrypts. Each copy was read
//!    back from the disk before, and decrypted to the same values.
//! 3. The old key is kept in a file of its own, and the next key takes its place in one rename.
//!
//! The lock of the store is held meanwhile, so writers wait. A rotation that ends at any point is finished by the next one.

mod compare;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::document::{Sealed, Stored};
use super::keep::Kept;
use super::previous::{self, Previous};
use super::reader::{ContentHash, LoadedDocument};
use super::store::NewDocument;
use super::write::{Lock, Replacement};
use super::{Document, Shared};
use crate::credential::{CredentialCipher, KeyRotation};
use crate::error::{Error, Result};
use crate::files::sync_folder;
use crate::provider::time_in_name;
use crate::secret::SecretName;
use crate::sync::on_all_processors;
use compare::{check_previous, check_store};

/// What a file needs on a disk beside its content, rounded up.
const BLOCK: u64 = 4096;
/// How many values a plan encrypts to find out how long it takes.
const SAMPLE: usize = 32;

/// What a rotation of the key would do.
#[derive(Clone, Debug)]
pub struct KeyRotationPlan {
    /// The key file.
    pub key_file: PathBuf,
    /// The secrets file.
    pub store: PathBuf,
    /// How many values would be encrypted anew.
    pub values: usize,
    /// How many values are plain text, and stay so.
    pub plain: usize,
    /// How many earlier values, which `undo` sets back, would be encrypted anew.
    pub earlier: usize,
    /// How many earlier values the key cannot decrypt. They stay as they are.
    pub earlier_undecryptable: usize,
    /// The values that cannot be decrypted, and why. As long as there are some, nothing is replaced.
    pub undecryptable: Vec<(SecretName, String)>,
    /// Whether this finishes a rotation that was interrupted.
    pub is_resumed: bool,
    /// How long it takes to derive a key; two are derived.
    pub derive_time: Duration,
    /// How long it takes to encrypt a value anew, on one processor.
    pub value_time: Duration,
    /// The processors that share the values.
    pub processors: usize,
    /// Identifies the key that is to be replaced, in this process.
    key: u64,
}

impl KeyRotationPlan {
    /// How many values are encrypted anew or compared.
    pub fn steps(&self) -> usize {
        2 * (self.values + self.earlier)
    }

    /// How long a rotation takes, about.
    pub fn estimate(&self) -> Duration {
        let values = u32::try_from(self.values + self.earlier).unwrap_or(u32::MAX);
        let processors = u32::try_from(self.processors).unwrap_or(1).max(1);
        // Each is decrypted, encrypted, and decrypted twice to compare.
        self.derive_time * 2 + self.value_time * 2 * values / processors
    }
}

/// How a rotation of the key is done, and how far it is.
#[derive(Debug, Default)]
pub struct KeyRotationRequest {
    /// Whether the old key is removed at the end.
    pub forget_old: bool,
    /// How many of the plan's [steps](KeyRotationPlan::steps) are done.
    pub done: AtomicUsize,
}

/// What a rotation of the key did.
#[derive(Clone, Debug)]
pub struct KeyRotationReport {
    /// How many values are encrypted with the new key.
    pub values: usize,
    /// How many earlier values are.
    pub earlier: usize,
    /// Where the old key is kept; `None`: it was removed.
    pub old_key: Option<PathBuf>,
    /// Whether this finished a rotation that was interrupted.
    pub is_resumed: bool,
}

/// The error of a store without a key.
pub(crate) fn no_key() -> Error {
    Error::Settings("this store has no key that could be replaced".to_owned())
}

/// All that is encrypted with the key: the secrets file, and what is kept beside it.
struct Contents {
    document: Arc<Document>,
    previous: Previous,
}

/// The new form of each encrypted text.
struct Resealed {
    by_text: HashMap<String, Option<Sealed>>,
}

impl Contents {
    /// Every encrypted text once.
    fn texts(&self) -> Result<Vec<Sealed>> {
        let mut texts: HashMap<String, Sealed> = HashMap::new();
        let earlier = self.earlier()?;
        for sealed in self.document.encrypted().chain(&earlier) {
            texts.insert(sealed.as_str().to_owned(), sealed.clone());
        }
        Ok(texts.into_values().collect())
    }

    /// The encrypted values that `undo` sets back.
    fn earlier(&self) -> Result<Vec<Sealed>> {
        let all = self.previous.all()?;
        let entries = all.into_values().flat_map(|history| history.entries);
        let sealed = entries.filter_map(|entry| match entry.before {
            Some(Stored::Encrypted(sealed)) => Some(sealed),
            _ => None,
        });
        Ok(sealed.collect())
    }

    /// The values that cannot be decrypted, and why.
    fn undecryptable(&self, cipher: &Arc<CredentialCipher>) -> Vec<(SecretName, String)> {
        let failed = |name: &SecretName| match self.document.get(name)? {
            Stored::Encrypted(sealed) => {
                let problem = sealed.problem(cipher)?;
                Some((name.clone(), problem.reason().to_owned()))
            }
            Stored::Plain(_) => None,
        };
        self.document.names().filter_map(failed).collect()
    }
}

impl Resealed {
    fn make(contents: &Contents, rotation: &KeyRotation, done: &AtomicUsize) -> Result<Self> {
        let texts = contents.texts()?;
        let reseal = |sealed: &Sealed| {
            done.fetch_add(1, Ordering::Relaxed);
            let value = sealed.reveal(&rotation.old)?;
            Some(Sealed::new(&rotation.new.encrypt(&value)))
        };
        let resealed = on_all_processors(&texts, reseal);
        let texts = texts.iter().map(|sealed| sealed.as_str().to_owned());
        Ok(Self {
            by_text: texts.zip(resealed).collect(),
        })
    }

    /// The new form. What could not be decrypted stays as it is.
    fn of(&self, stored: &Stored) -> Stored {
        let Stored::Encrypted(sealed) = stored else {
            return stored.clone();
        };
        match self.by_text.get(sealed.as_str()) {
            Some(Some(new)) => Stored::Encrypted(new.clone()),
            _ => stored.clone(),
        }
    }
}

impl Shared {
    /// What a rotation would do. Takes no lock and changes nothing.
    pub(super) fn plan_key_rotation(&self) -> Result<KeyRotationPlan> {
        let rotation = self.options.key.begin_rotation()?;
        let found = self.read_now().loaded?;
        let store = self.path_now()?;
        let previous = match Previous::read(&store) {
            // The rotation begins a new one, as each write does.
            Err(Error::Malformed { .. }) => Previous::default(),
            read => read?,
        };
        let contents = Contents {
            document: found.document,
            previous,
        };
        self.plan_for(&contents, &rotation, store)
    }

    fn plan_for(
        &self,
        contents: &Contents,
        rotation: &KeyRotation,
        store: PathBuf,
    ) -> Result<KeyRotationPlan> {
        let document = &contents.document;
        let earlier = contents.earlier()?;
        let can_open = |sealed: &Sealed| sealed.problem(&rotation.old).is_none();
        let opened = on_all_processors(&earlier, can_open);
        let opened = opened.into_iter().filter(|opened| *opened).count();
        let encrypted: Vec<Sealed> = document.encrypted().cloned().collect();
        on_all_processors(&encrypted, can_open);
        let undecryptable = contents.undecryptable(&rotation.old);
        let sample: Vec<&Sealed> = encrypted.iter().chain(&earlier).take(SAMPLE).collect();
        let begun = Instant::now();
        for sealed in &sample {
            if let Some(value) = sealed.reveal(&rotation.old) {
                drop(rotation.new.encrypt(&value));
            }
        }
        let value_time = begun.elapsed() / u32::try_from(sample.len().max(1)).unwrap_or(1);
        Ok(KeyRotationPlan {
            key_file: rotation.key_file().to_owned(),
            store,
            values: encrypted.len() - undecryptable.len(),
            plain: document.names().count() - encrypted.len(),
            earlier: opened,
            earlier_undecryptable: earlier.len() - opened,
            undecryptable,
            is_resumed: rotation.is_resumed,
            derive_time: rotation.derive_time,
            value_time,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            key: rotation.fingerprint(),
        })
    }

    /// Replaces the key as it was planned.
    pub(super) fn rotate_key(
        &self,
        plan: &KeyRotationPlan,
        request: &KeyRotationRequest,
    ) -> Result<KeyRotationReport> {
        // Other stores may have the same key: two rotations of it wait for each other.
        let _key_lock = Lock::take(&plan.key_file, self.options.lock_timeout)?;
        let (path, _lock) = self.lock()?;
        let rotation = self.options.key.begin_rotation()?;
        let found = self.read_under_lock()?;
        let contents = Contents {
            document: found.document.clone(),
            previous: previous::read_or_set_aside(&path)?,
        };
        let now = self.plan_for(&contents, &rotation, path.clone())?;
        if now.key != plan.key || now.key_file != plan.key_file || path != plan.store {
            return Err(Error::Malformed {
                what: "the credential key".to_owned(),
                reason: "it has changed meanwhile, and nothing is replaced; look at the plan again"
                    .to_owned(),
            });
        }
        if let Some((name, reason)) = now.undecryptable.first() {
            return Err(Error::CannotDecrypt {
                name: name.to_string(),
                reason: reason.clone(),
            });
        }
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let beside = size(&path) + size(&previous::path_for(&path)) + 2 * BLOCK;
        rotation.check_replaceable(beside)?;
        rotation.write_next()?;
        if let Err(error) = self.reseal(&path, found, &contents, &rotation, &request.done) {
            if !self.needs_next_key(&path, &rotation) {
                rotation.discard_next();
            }
            return Err(error);
        }
        // Before the old key goes: it must not go where power failure would bring the old file back.
        sync_folder(path.parent().unwrap_or(Path::new("/"))).map_err(|error| {
            let context = format!("writing {} to the disk", path.display());
            finish_later(Error::io(context, error))
        })?;
        let time = time_in_name(SystemTime::now());
        let kept = rotation.retire(&time).map_err(finish_later)?;
        // All watchers have the new key when this returns. Each knows by the file of the old one that it was a rotation.
        self.check_now();
        if let Some(peers) = self.peers_of(&path, false) {
            peers.announce();
            peers.wait();
        }
        if request.forget_old {
            std::fs::remove_file(&kept)
                .and_then(|()| sync_folder(kept.parent().unwrap_or(Path::new("/"))))
                .map_err(|error| Error::io(format!("removing {}", kept.display()), error))?;
        }
        Ok(KeyRotationReport {
            values: now.values,
            earlier: now.earlier,
            old_key: (!request.forget_old).then_some(kept),
            is_resumed: rotation.is_resumed,
        })
    }

    /// Replaces the secrets file, and what is kept beside it, by copies that the next key decrypts.
    fn reseal(
        &self,
        path: &Path,
        found: LoadedDocument,
        contents: &Contents,
        rotation: &KeyRotation,
        done: &AtomicUsize,
    ) -> Result<()> {
        let resealed = Resealed::make(contents, rotation, done)?;
        let mut document = (*contents.document).clone();
        document.replace_each(|_, stored| {
            let new = resealed.of(stored);
            Ok((new != *stored).then_some(new))
        })?;
        let previous = contents.previous.sealed(|stored| resealed.of(&stored))?;
        let kept = match self.options.keep_previous {
            0 => Kept::Nothing(path.to_owned()),
            _ if previous.is_empty() => Kept::Same,
            _ => {
                let replacement = previous.prepare(path)?;
                check_previous(contents, &replacement, rotation, done)?;
                Kept::New {
                    store: path.to_owned(),
                    before: Previous::read(path)?,
                    replacement,
                }
            }
        };
        // Without a file there is nothing to replace, and none is made.
        if found.size() == 0 && document.names().next().is_none() {
            return kept.put_in_place().map(drop);
        }
        let content = self.render(&document, path)?;
        let replacement = Replacement::prepare(path, &content, 0o600)?;
        check_store(&contents.document, path, &replacement, rotation, done)?;
        let new = NewDocument {
            document,
            content: ContentHash::of(path, &content),
            replacement,
            kept,
            changes: Vec::new(),
        };
        self.replace(path, found, new)
    }

    /// Whether something on the disk may be encrypted with the next key alone.
    fn needs_next_key(&self, path: &Path, rotation: &KeyRotation) -> bool {
        if rotation.is_resumed {
            return true;
        }
        let read = || -> Result<bool> {
            let previous = Previous::read(path)?;
            let document = super::reader::read_document(path)?;
            let document =
                document.map_or_else(|| Document::empty(false), |(document, _)| document);
            let contents = Contents {
                document: Arc::new(document),
                previous,
            };
            let texts = contents.texts()?;
            Ok(texts
                .iter()
                .any(|sealed| sealed.reveal(&rotation.new).is_some()))
        };
        read().unwrap_or(true)
    }
}

impl Shared {
    /// Says once that a rotation or a restore did not end: the next key is there, and no process holds the lock to use it.
    pub(super) fn warn_if_interrupted(&self) {
        let warned = &self.warned.interrupted;
        if !warned.load(Ordering::Relaxed)
            && let Ok(store) = self.path_now()
            && Lock::take(&store, Duration::ZERO).is_ok()
            && !warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "a `key rotate` or a `restore` was interrupted; every secret stays readable, and the same restore, or \
                 `simpletuner-live key rotate` finishes it"
            );
        }
    }
}

/// How many values of a secrets file this key decrypts.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn values_under_key(cipher: &Arc<CredentialCipher>, store: &Path) -> Result<usize> {
    let Some((document, _)) = super::reader::read_document(store)? else {
        return Ok(0);
    };
    let encrypted = document.encrypted();
    Ok(encrypted
        .filter(|sealed| sealed.problem(cipher).is_none())
        .count())
}

/// The error of a rotation whose values are encrypted with the next key already.
fn finish_later(error: Error) -> Error {
    Error::At {
        name: "every value is encrypted with the new key, and the old one could not be retired; both are in use until \
               `simpletuner-live key rotate` finishes this"
            .to_owned(),
        source: Box::new(error),
    }
}
