//! The extended attributes of a secret: where it comes from, and for how long it is held.

use super::layout::File;
use super::{Caller, OpError, Tree};
use crate::manager::Lookup;
use crate::provider::rfc3339;
use crate::secret::SecretName;

/// The names, in the order they are listed.
const NAMES: [&str; 3] = [
    "user.simpletuner.provider",
    "user.simpletuner.expires_in",
    "user.simpletuner.fetched_at",
];

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
        self.admit(caller, name)?;
        let secret = self.secret_at(ino).ok_or(OpError::Errno(libc::ENODATA))?;
        if !NAMES.contains(&name) {
            return Err(OpError::Errno(libc::ENODATA));
        }
        match self.manager.snapshot().find(&secret) {
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
            Lookup::Missing(_) | Lookup::Unknown => Err(OpError::Errno(libc::ENODATA)),
            Lookup::Failed(error) => Err(OpError::Error(error)),
        }
    }

    /// The names of the extended attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// EACCES.
    pub fn xattr_names(&self, caller: &Caller, ino: u64) -> Result<Vec<u8>, OpError> {
        self.admit(caller, "listxattr")?;
        Ok(match self.secret_at(ino) {
            Some(_) => NAMES
                .iter()
                .flat_map(|name| name.bytes().chain([0]))
                .collect(),
            None => Vec::new(),
        })
    }

    fn secret_at(&self, ino: u64) -> Option<SecretName> {
        let mut state = self.state();
        let place = match state.last_place(ino) {
            Some(place) => place.clone(),
            None => state.promised(ino)?.place.clone(),
        };
        match self.layout.file_at(&place)? {
            File::Secret(name) => Some(name),
            _ => None,
        }
    }
}
