//! Every error, with a message for the person at the terminal and the errno that the mount returns. Knows no provider and no
//! filesystem.

use std::io;
use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate. No variant contains a secret's value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No provider has the key.
    #[error("no such secret: {name}")]
    NotFound {
        /// The key that was asked for.
        name: String,
    },
    /// Providers that may have the key failed, and no usable older value is cached.
    #[error("{}", providers_failed(name, (provider, reason), others))]
    ProviderFailed {
        /// The key that was asked for.
        name: String,
        /// The first provider that failed.
        provider: String,
        /// Its error.
        reason: String,
        /// Further providers that failed, each with its error.
        others: Vec<(String, String)>,
    },
    /// A backend did not answer, and no usable older value is cached.
    #[error("the {provider} provider: {reason}")]
    Unavailable {
        /// The provider.
        provider: String,
        /// What is wrong, which setting it concerns, and what to do.
        reason: String,
    },
    /// The stored value cannot be decrypted: wrong key, or damaged.
    #[error("{name} cannot be decrypted: {reason}")]
    CannotDecrypt {
        /// The secret's name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A key itself is unusable, the credential key or that of the audit trails; it is never overwritten.
    #[error("the key {} is not usable: {reason}", path.display())]
    KeyUnusable {
        /// The key file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The secrets file is not a flat object of strings.
    #[error("the secrets file {} is malformed: {reason}", path.display())]
    MalformedStore {
        /// The secrets file.
        path: PathBuf,
        /// Where and why; never quotes a value.
        reason: String,
    },
    /// A name outside `[A-Za-z0-9_][A-Za-z0-9._-]{0,254}`.
    #[error("{name:?} is not a valid secret name: {reason}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A value above 64 KiB, or a document above its own limit.
    #[error("{what} is too large: at most {limit} bytes")]
    TooLarge {
        /// What was written.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A value that is not UTF-8.
    #[error("the value of {name} is not UTF-8 text")]
    NotUtf8 {
        /// The secret's name.
        name: String,
    },
    /// A document, price or prefix that its file does not accept. Nothing has changed.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// Where and why; never quotes a value.
        reason: String,
    },
    /// Only a read-only provider has the key.
    #[error("{name} is held by the {provider} provider, which is read-only here; change it there")]
    ReadOnlyProvider {
        /// The key.
        name: String,
        /// The provider that has it.
        provider: String,
    },
    /// An error whose own message does not name the key.
    #[error("{name}: {source}")]
    At {
        /// The key, or the document.
        name: String,
        /// The error.
        source: Box<Error>,
    },
    /// A database of SimpleTuner or of this program cannot be read or written.
    #[error("the database {}: {reason}", path.display())]
    Database {
        /// The database's file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
        /// The errno that the mount returns.
        errno: i32,
    },
    /// The settings are wrong.
    #[error("{0}")]
    Settings(String),
    /// A system call failed.
    #[error("{}", failed_call(context, source))]
    Io {
        /// The operation, with its path.
        context: String,
        /// The system's error.
        source: io::Error,
    },
}

/// The operation, and why it failed. A reason that has the operation's path in it says all by itself.
fn failed_call(context: &str, error: &io::Error) -> String {
    let words = in_words(error);
    let path = context
        .rsplit(' ')
        .next()
        .filter(|word| word.starts_with('/'));
    match path.is_some_and(|path| words.contains(path)) {
        true => words,
        false => format!("{context}: {words}"),
    }
}

/// The system's words for an error, without its number.
pub(crate) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit_once(" (os error ");
    words.map_or(&*text, |(words, _)| words).to_owned()
}

/// Each provider with its own reason.
fn providers_failed(name: &str, first: (&str, &str), others: &[(String, String)]) -> String {
    let others = others
        .iter()
        .map(|(provider, reason)| (&**provider, &**reason));
    let failures: Vec<(&str, &str)> = std::iter::once(first).chain(others).collect();
    match &failures[..] {
        [(provider, reason)] => format!("the {provider} provider failed for {name}: {reason}"),
        several => {
            let providers: Vec<&str> = several.iter().map(|(provider, _)| *provider).collect();
            let reasons = several
                .iter()
                .map(|(provider, reason)| format!("{provider}: {reason}"));
            format!(
                "the providers {} failed for {name}: {}",
                providers.join(" and "),
                reasons.collect::<Vec<_>>().join("; ")
            )
        }
    }
}

impl Error {
    /// An [`Error::Io`] that names the operation.
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Io {
            context: context.into(),
            source: source.into(),
        }
    }

    /// The same error, with the key's name if its own message does not have it.
    pub(crate) fn at(self, name: &str) -> Self {
        match self {
            Error::KeyUnusable { .. }
            | Error::MalformedStore { .. }
            | Error::Database { .. }
            | Error::Settings(_)
            | Error::Io { .. } => Error::At {
                name: name.into(),
                source: Box::new(self),
            },
            named => named,
        }
    }

    /// The key, or the document, that it is about.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Error::NotFound { name }
            | Error::ProviderFailed { name, .. }
            | Error::CannotDecrypt { name, .. }
            | Error::InvalidName { name, .. }
            | Error::NotUtf8 { name }
            | Error::ReadOnlyProvider { name, .. }
            | Error::At { name, .. } => Some(name),
            // "the value of K", "the view v"
            Error::Malformed { what, .. } | Error::TooLarge { what, .. } => what.rsplit(' ').next(),
            Error::Unavailable { .. }
            | Error::KeyUnusable { .. }
            | Error::MalformedStore { .. }
            | Error::Database { .. }
            | Error::Settings(_)
            | Error::Io { .. } => None,
        }
    }

    /// The errno that the mount returns for it (see the table of errors in `docs/operation.md`).
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound { .. } => libc::ENOENT,
            Error::ProviderFailed { .. }
            | Error::Unavailable { .. }
            | Error::MalformedStore { .. }
            | Error::Settings(_) => libc::EIO,
            Error::CannotDecrypt { .. } | Error::KeyUnusable { .. } => libc::EKEYREJECTED,
            Error::InvalidName { .. } | Error::Malformed { .. } => libc::EINVAL,
            Error::TooLarge { .. } => libc::EFBIG,
            Error::NotUtf8 { .. } => libc::EILSEQ,
            Error::ReadOnlyProvider { .. } => libc::EPERM,
            Error::Database { errno, .. } => *errno,
            Error::At { source, .. } => source.errno(),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => source.raw_os_error().unwrap_or(libc::EACCES),
                _ => source.raw_os_error().unwrap_or(libc::EIO),
            },
        }
    }

    /// Whether the place may not be written to: nobody may, or this user may not.
    pub(crate) fn is_read_only(&self) -> bool {
        let code = match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        matches!(code, Some(libc::EROFS | libc::EACCES | libc::EPERM))
    }

    /// Whether no provider has the key; the chain then asks the next provider.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// Whether the value exists and cannot be read, so that no other provider's value may replace it.
    pub(crate) fn ends_chain(&self) -> bool {
        matches!(
            self,
            Error::CannotDecrypt { .. } | Error::KeyUnusable { .. }
        )
    }

    /// Why a provider failed, without the provider's name.
    pub(crate) fn reason(&self) -> String {
        match self {
            Error::Unavailable { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    /// A copy, for another caller that waited for the same answer. `io::Error` is not `Clone`.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Error::NotFound { name } => Error::NotFound { name: name.clone() },
            Error::ProviderFailed {
                name,
                provider,
                reason,
                others,
            } => Error::ProviderFailed {
                name: name.clone(),
                provider: provider.clone(),
                reason: reason.clone(),
                others: others.clone(),
            },
            Error::Unavailable { provider, reason } => Error::Unavailable {
                provider: provider.clone(),
                reason: reason.clone(),
            },
            Error::CannotDecrypt { name, reason } => Error::CannotDecrypt {
                name: name.clone(),
                reason: reason.clone(),
            },
            Error::KeyUnusable { path, reason } => Error::KeyUnusable {
                path: path.clone(),
                reason: reason.clone(),
            },
            Error::MalformedStore { path, reason } => Error::MalformedStore {
                path: path.clone(),
                reason: reason.clone(),
            },
            Error::InvalidName { name, reason } => Error::InvalidName {
                name: name.clone(),
                reason,
            },
            Error::TooLarge { what, limit } => Error::TooLarge {
                what: what.clone(),
                limit: *limit,
            },
            Error::NotUtf8 { name } => Error::NotUtf8 { name: name.clone() },
            Error::Malformed { what, reason } => Error::Malformed {
                what: what.clone(),
                reason: reason.clone(),
            },
            Error::ReadOnlyProvider { name, provider } => Error::ReadOnlyProvider {
                name: name.clone(),
                provider: provider.clone(),
            },
            Error::Database {
                path,
                reason,
                errno,
            } => Error::Database {
                path: path.clone(),
                reason: reason.clone(),
                errno: *errno,
            },
            Error::Settings(text) => Error::Settings(text.clone()),
            Error::At { name, source } => Error::At {
                name: name.clone(),
                source: Box::new(source.duplicate()),
            },
            Error::Io { context, source } => Error::Io {
                context: context.clone(),
                source: match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_has_the_systems_words_once_and_no_number() {
        let of = |context: &str, error: io::Error| Error::io(context, error).to_string();
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(
            of("opening /a/b", denied),
            "opening /a/b: Permission denied"
        );
        let owned = io::Error::other("/a/b belongs to another user");
        assert_eq!(of("reading /a/b", owned), "/a/b belongs to another user");
    }
}
