//! The extended attributes of a secret: where it comes from, and for how long it is held.

use super::nodes::Kind;
use super::places::File;
use super::{Caller, Stop, Tree};
use crate::manager::Answer;
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
    pub fn xattr(&self, _caller: &Caller, ino: u64, name: &str) -> Result<String, Stop> {
        if name.starts_with("system.")
            || name.starts_with("security.")
            || name.starts_with("trusted.")
        {
            return Err(Stop::Errno(libc::EOPNOTSUPP));
        }
        let secret = self.secret_at(ino).ok_or(Stop::Errno(libc::ENODATA))?;
        if !NAMES.contains(&name) {
            return Err(Stop::Errno(libc::ENODATA));
        }
        match self.manager.held(&secret) {
            Answer::Found(found) => Ok(match name.rsplit('.').next() {
                Some("provider") => found.provider.to_string(),
                Some("expires_in") => found.expires_in.as_secs().to_string(),
                _ => rfc3339(found.fetched_at),
            }),
            Answer::Missing | Answer::Pending => Err(Stop::Errno(libc::ENODATA)),
            Answer::Failed(error) => Err(Stop::Error(error)),
        }
    }

    /// The names of the extended attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// EACCES.
    pub fn xattr_names(&self, _caller: &Caller, ino: u64) -> Result<Vec<u8>, Stop> {
        Ok(match self.secret_at(ino) {
            Some(_) => NAMES
                .iter()
                .flat_map(|name| name.bytes().chain([0]))
                .collect(),
            None => Vec::new(),
        })
    }

    fn secret_at(&self, ino: u64) -> Option<SecretName> {
        let state = self.state();
        let entry = match &state.nodes.get(&ino)?.kind {
            Kind::Version(version) => version.entry,
            Kind::Private(private) => private.entry,
            _ => return None,
        };
        let place = state.place(entry)?;
        match self.file_at(&state, &place)? {
            File::Secret(name) => Some(name),
            _ => None,
        }
    }
}
