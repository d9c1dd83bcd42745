//! The extended attributes: which provider a secret comes from, when it was fetched, and when it expires.

use super::kind::FileKind;
use super::{Caller, OpError, Tree};
use crate::manager::Lookup;
use crate::provider::rfc3339;

/// Those of secrets, in the order they are listed.
const OF_SECRETS: [&str; 3] = [
    "user.simpletuner.provider",
    "user.simpletuner.expires_in",
    "user.simpletuner.fetched_at",
];

/// Those of secrets whose value cannot be read.
const OF_UNREADABLE: [&str; 2] = ["user.simpletuner.provider", ERROR];

/// Of a secret whose value cannot be read: why.
const ERROR: &str = "user.simpletuner.error";
/// Of a secret that the secrets file has: whether its value there is `plain` or `encrypted`.
const STORED: &str = "user.simpletuner.stored";

/// Of a bundle: the providers whose secrets are missing in it, because they failed or have never answered.
const MISSING: &str = "user.simpletuner.missing";

impl Tree {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// EOPNOTSUPP for the kernel's own kinds, so that it does not ask for each file of a listing; ENODATA.
    pub fn xattr(&self, caller: &Caller, ino: u64, name: &str) -> Result<String, OpError> {
        if name.starts_with("system.")
            || name.starts_with("security.")
            || name.starts_with("trusted.")
        {
            return Err(OpError::Errno(libc::EOPNOTSUPP));
        }
        self.check_caller_of(caller, ino)?;
        let none = || OpError::Errno(libc::ENODATA);
        let secret = match self.file_with_attributes(ino).ok_or_else(none)? {
            FileKind::Secret(secret) if name == ERROR => {
                return match self.manager.snapshot().find(&secret) {
                    Lookup::Failed(error) => Ok(error.to_string()),
                    _ => Err(none()),
                };
            }
            FileKind::Secret(secret) if OF_SECRETS.contains(&name) => secret,
            FileKind::Secret(secret) if name == STORED => {
                let is_encrypted = self.manager.is_encrypted(&secret).ok_or_else(none)?;
                let form = match is_encrypted {
                    true => "encrypted",
                    false => "plain",
                };
                return Ok(form.to_owned());
            }
            FileKind::Bundle(_) if name == MISSING => {
                let missing = self.manager.snapshot().missing_sources();
                let names: Vec<&str> = missing.iter().map(|(source, _)| &**source).collect();
                return match names.is_empty() {
                    true => Err(none()),
                    false => Ok(names.join(" ")),
                };
            }
            _ => return Err(none()),
        };
        let snapshot = self.manager.snapshot();
        match snapshot.find(&secret) {
            Lookup::Fresh(version, valid_for) => Ok(match name.rsplit('.').next() {
                Some("provider") => version.provider.to_string(),
                Some("expires_in") => valid_for.as_secs().to_string(),
                _ => rfc3339(version.fetched_at()),
            }),
            Lookup::Stale(version) => Ok(match name.rsplit('.').next() {
                Some("provider") => version.provider.to_string(),
                Some("expires_in") => "0".into(),
                _ => rfc3339(version.fetched_at()),
            }),
            Lookup::Missing | Lookup::Unknown => Err(OpError::Errno(libc::ENODATA)),
            Lookup::Failed(error) => match snapshot.provider_of(&secret) {
                Some(provider) if name.ends_with(".provider") => Ok(provider.to_string()),
                _ => Err(OpError::Error(error)),
            },
        }
    }

    /// The names of the extended attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// EACCES.
    pub fn xattr_names(&self, caller: &Caller, ino: u64) -> Result<Vec<u8>, OpError> {
        self.check_caller_of(caller, ino)?;
        let names: Vec<&str> = match self.file_with_attributes(ino) {
            Some(FileKind::Secret(secret)) => {
                let stored = self.manager.is_encrypted(&secret).map(|_| STORED);
                let of_value: &[&str] = match self.manager.snapshot().find(&secret) {
                    Lookup::Failed(_) => &OF_UNREADABLE,
                    _ => &OF_SECRETS,
                };
                of_value.iter().copied().chain(stored).collect()
            }
            Some(FileKind::Bundle(_)) if !self.manager.snapshot().missing_sources().is_empty() => {
                vec![MISSING]
            }
            _ => Vec::new(),
        };
        let names = names.iter().flat_map(|name| name.bytes().chain([0]));
        Ok(names.collect())
    }

    fn file_with_attributes(&self, ino: u64) -> Option<FileKind> {
        let mut state = self.state();
        let dir_entry = match state.last_dir_entry(ino) {
            Some(dir_entry) => dir_entry.clone(),
            None => state.placeholder_at(ino)?.dir_entry.clone(),
        };
        let kind = self.layout.kind_at(&dir_entry);
        kind.filter(|kind| matches!(kind, FileKind::Secret(_) | FileKind::Bundle(_)))
    }
}
