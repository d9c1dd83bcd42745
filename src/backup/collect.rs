//! Reads everything that a backup holds: the secrets file with its key under the file's lock, each database at one moment. Changes
//! nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Member;
use super::manifest::{FORM, FileInfo, KeyInfo, MAX_NAME, Manifest, Role, is_safe};
use crate::audit::{AuditOptions, last_row, names_later_row};
use crate::credential::{CredentialCipher, MAX_KEY, key_fingerprint, master_secret};
use crate::error::{Error, Result};
use crate::files::{ReadError, read_file};
use crate::manager::file_options;
use crate::provider::file::write::Lock;
use crate::provider::file::{
    Document, FileOptions, MAX_DOCUMENT, MAX_PREVIOUS, Stored, is_yaml, parse_document,
    path_of_previous,
};
use crate::provider::rfc3339;
use crate::secret::SecretName;
use crate::settings::{MAX_SETTINGS, Settings};
use crate::simpletuner_db::database_of;
use crate::sqlite::{Copy, from_sqlite};
use crate::views::{MAX_VIEWS_FILE, count_views};

/// How long a secrets file may be half written: SimpleTuner truncates it and writes it again without a lock.
const PARTIAL_WRITE_TIMEOUT: Duration = Duration::from_millis(250);
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// How often both trails are copied until they are of one moment: one names a row of the other once a minute at most.
const MAX_TRIES: usize = 5;

/// What a backup leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The credential key.
    pub without_key: bool,
    /// SimpleTuner's database and the audit trails.
    pub without_databases: bool,
}

/// All files of a backup, in memory.
pub struct Collected {
    /// What it holds.
    pub manifest: Manifest,
    /// In the order of the manifest's files.
    pub(super) members: Vec<Member>,
}

/// Reads everything. A write of the secrets file waits meanwhile, and readers do not.
///
/// # Errors
/// [`Error::Settings`] if there is nothing to back up; [`Error::KeyUnusable`] if there are encrypted values and no key; else why a
/// file cannot be read.
pub fn collect(settings: &Settings, options: Options) -> Result<Collected> {
    let file = file_options(settings);
    let (store, lock) = lock(&file)?;
    let mut found = Found {
        manifest: Manifest {
            form: FORM,
            at: rfc3339(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            folder: settings.base_dir.clone(),
            key: None,
            store: None,
            secrets: 0,
            undecryptable: Vec::new(),
            is_adopted: crate::adopt::is_adopted(settings),
            state_folder: settings.state_dir.clone(),
            files: Vec::new(),
        },
        members: Vec::new(),
    };
    let base = &settings.base_dir;
    let document = match read_store(&store)? {
        Some((bytes, document)) => {
            let name = name_of_store(&store, base);
            if let Some(earlier) = read(&path_of_previous(&store), MAX_PREVIOUS)? {
                found.add(Role::EarlierValues, format!("{name}.previous"), earlier);
            }
            found.add(Role::Store, name, bytes);
            found.manifest.store = Some(store);
            Some(document)
        }
        None => None,
    };
    let key = key_of(settings)?;
    drop(lock);
    if let Some(document) = &document {
        found.manifest.secrets = document.names().count();
        if key.is_none() && document.encrypted().next().is_some() {
            // Says so.
            file.key.cipher()?;
        }
        if let Ok(Some(cipher)) = file.key.cipher_if_present()
            && cipher.has_key_beside()
        {
            return Err(Error::Settings(
                "a `key rotate` or a `restore` is under way, or was interrupted, so the secrets may be of two keys; wait for it, or \
                 finish it with the same restore or `simpletuner-live key rotate`, and then back up"
                    .to_owned(),
            ));
        }
    }
    if let Some(key) = key {
        let text = key.text()?;
        let cipher = Arc::new(CredentialCipher::derive(&text));
        // In a file, white space at its ends would be no part of it.
        let fits_file = !key.is_from_variable || master_secret(&text) == text.as_str();
        let is_included = !options.without_key && fits_file;
        found.manifest.key = Some(KeyInfo {
            fingerprint: key_fingerprint(&text),
            is_included,
            is_from_variable: key.is_from_variable,
        });
        found.manifest.undecryptable = document.as_ref().map_or_else(Vec::new, |document| {
            let names = undecryptable(document, &cipher);
            names.map(|(name, _)| name.to_string()).collect()
        });
        if is_included {
            found.add(Role::Key, "credential.key".to_owned(), key.bytes);
        }
    }
    if let Some(bytes) = read(&settings.views_file, MAX_VIEWS_FILE)? {
        count_views(&bytes).map_err(|reason| Error::Malformed {
            what: settings.views_file.display().to_string(),
            reason,
        })?;
        found.add(Role::Views, "views.json".to_owned(), bytes);
    }
    if let Some(bytes) = read(&settings.config_file, MAX_SETTINGS)? {
        found.add(Role::Settings, "live.yaml".to_owned(), bytes);
    }
    if !options.without_databases {
        found.add_databases(settings)?;
    }
    match found.members.is_empty() {
        false => Ok(Collected {
            manifest: found.manifest,
            members: found.members,
        }),
        true => Err(Error::Settings(format!(
            "there is nothing to back up: {} has no secrets, settings or views",
            base.display()
        ))),
    }
}

struct Found {
    manifest: Manifest,
    members: Vec<Member>,
}

impl Found {
    fn add(&mut self, role: Role, name: String, bytes: Zeroizing<Vec<u8>>) {
        self.manifest.files.push(FileInfo {
            name,
            role,
            size: bytes.len(),
        });
        self.members.push(Member { role, bytes });
    }

    fn add_databases(&mut self, settings: &Settings) -> Result<()> {
        let below = match settings.state_dir == settings.base_dir {
            true => "",
            false => "state/",
        };
        if let Some(copy) = Copy::of(&database_of(settings))? {
            self.add(
                Role::Database,
                format!("{below}cloud/jobs.db"),
                copy.into_bytes(),
            );
        }
        let audit = AuditOptions::from_settings(settings);
        let (changes, reads) = trails(&audit)?;
        let key = match &settings.audit_key {
            Some(key) => Some(Zeroizing::new(key.as_bytes().to_vec())),
            None => read(&settings.state_dir.join("audit.key"), MAX_KEY)?,
        };
        if let Some(key) = key {
            self.add(Role::AuditKey, format!("{below}audit.key"), key);
        }
        for (role, name, copy) in [
            (Role::Changes, "audit.db", changes),
            (Role::Reads, "live-audit.db", reads),
        ] {
            if let Some(copy) = copy {
                self.add(role, format!("{below}{name}"), copy.into_bytes());
            }
        }
        Ok(())
    }
}

/// Both trails. Each names the last row of the other, so neither copy may name a row that the other has not: that of the reads is
/// the younger one, and both are made again if it does.
fn trails(audit: &AuditOptions) -> Result<(Option<Copy>, Option<Copy>)> {
    let (changes, reads) = (audit.change_chain(), audit.read_chain());
    let mut tries = 0;
    loop {
        let copies = (Copy::of(changes.path())?, Copy::of(reads.path())?);
        tries += 1;
        let failed = |error| from_sqlite(reads.path(), &error);
        let last = match &copies.0 {
            Some(copy) => last_row(&copy.open(changes.path())?).map_err(failed)?,
            None => None,
        };
        let is_ahead = match &copies.1 {
            Some(copy) => {
                names_later_row(&copy.open(reads.path())?, last.as_ref()).map_err(failed)?
            }
            None => false,
        };
        // What is still ahead then was cut before, which is not this program's to hide.
        if !is_ahead || tries == MAX_TRIES {
            return Ok(copies);
        }
    }
}

/// The secrets file's path, links followed, and its lock. Without a file there is none to lock; on a filesystem that is read-only,
/// nobody writes.
fn lock(options: &FileOptions) -> Result<(PathBuf, Option<Lock>)> {
    loop {
        let place = options.location.locate()?;
        let path = place.path().to_owned();
        if place.stat().is_none() {
            return Ok((path, None));
        }
        let lock = match Lock::take(&path, options.lock_timeout) {
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EROFS) => None,
            lock => Some(lock?),
        };
        // `adopt` may have moved it meanwhile.
        if options.location.locate()?.path() == path {
            return Ok((path, lock));
        }
    }
}

fn read_store(path: &Path) -> Result<Option<(Zeroizing<Vec<u8>>, Document)>> {
    let began = Instant::now();
    loop {
        let Some(bytes) = read(path, MAX_DOCUMENT)? else {
            return Ok(None);
        };
        match parse_document(is_yaml(path), &bytes) {
            Ok(document) => return Ok(Some((bytes, document))),
            Err(_) if began.elapsed() < PARTIAL_WRITE_TIMEOUT => std::thread::sleep(RETRY_DELAY),
            Err(Error::Malformed { reason, .. }) => {
                return Err(Error::MalformedStore {
                    path: path.to_owned(),
                    reason,
                });
            }
            Err(error) => return Err(error),
        }
    }
}

/// The name of the store in the archive: where it lies in the folder, else in one of its own.
fn name_of_store(store: &Path, base: &Path) -> String {
    let base = crate::settings::paths::without_links(base);
    let inside = store.strip_prefix(&base).ok().and_then(Path::to_str);
    // With room for `.previous`.
    let fits = |name: &&str| is_safe(name) && name.len() + 9 <= MAX_NAME;
    match inside.filter(fits) {
        Some(name) => name.to_owned(),
        None if is_yaml(store) => "elsewhere/secrets.yaml".to_owned(),
        None => "elsewhere/secrets.json".to_owned(),
    }
}

/// The credential key in use.
pub(super) struct KeyInUse {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) is_from_variable: bool,
    path: PathBuf,
}

/// The key of these settings; `None`: there is none.
pub(super) fn key_of(settings: &Settings) -> Result<Option<KeyInUse>> {
    let key = |bytes, is_from_variable| KeyInUse {
        bytes,
        is_from_variable,
        path: settings.key_file.clone(),
    };
    if let Some(variable) = &settings.credential_key {
        let bytes = Zeroizing::new(variable.as_bytes().to_vec());
        return Ok(Some(key(bytes, true)));
    }
    Ok(read(&settings.key_file, MAX_KEY)?.map(|bytes| key(bytes, false)))
}

impl KeyInUse {
    /// The master secret.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`]: it is empty, or not text.
    pub(super) fn text(&self) -> Result<Zeroizing<String>> {
        let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
        let text = match self.is_from_variable {
            true => text,
            false => master_secret(text),
        };
        match text.is_empty() {
            false => Ok(Zeroizing::new(text.to_owned())),
            true => Err(Error::KeyUnusable {
                path: self.path.clone(),
                reason: "it is empty, or not UTF-8 text".to_owned(),
            }),
        }
    }
}

/// The values that this key does not decrypt, each with the reason.
pub(super) fn undecryptable<'a>(
    document: &'a Document,
    cipher: &'a Arc<CredentialCipher>,
) -> impl Iterator<Item = (&'a SecretName, &'static str)> {
    document
        .names()
        .filter_map(|name| match document.get(name)? {
            Stored::Encrypted(sealed) => Some((name, sealed.problem(cipher)?.reason())),
            Stored::Plain(_) => None,
        })
}

/// A file's content; `None`: there is no file.
pub(super) fn read(path: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let failed = |error: std::io::Error| Error::io(format!("reading {}", path.display()), error);
    match read_file(path, limit) {
        Ok(content) => Ok(Some(content.bytes)),
        Err(ReadError::Missing) => Ok(None),
        Err(ReadError::NotAFile(what)) => Err(failed(std::io::Error::other(what))),
        Err(ReadError::TooLarge) => Err(failed(Errno::FBIG.into())),
        Err(ReadError::Io(error)) => Err(failed(error)),
    }
}
