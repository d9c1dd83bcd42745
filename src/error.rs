//! What can go wrong, in words for the person at the terminal, and the errno that the same thing is in the mount.
//! Knows no provider and no filesystem.

use std::io;
use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure this crate reports. No variant ever holds a secret's value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No provider has the key.
    #[error("no such secret: {name}")]
    NotFound {
        /// The key that was asked for.
        name: String,
    },
    /// A provider that could have the key could not be asked, and nothing usable is held of it.
    #[error("{provider} provider failed for {name}: {reason}")]
    ProviderFailed {
        /// The key that was asked for.
        name: String,
        /// The provider that failed.
        provider: String,
        /// What it said.
        reason: String,
    },
    /// A provider that is far away gave no answer, and nothing usable is held of it.
    #[error("{provider} provider: {reason}")]
    Unavailable {
        /// The provider.
        provider: String,
        /// What went wrong, which setting it is about, and what to do.
        reason: String,
    },
    /// The stored value is not readable with this key: wrong key, or damaged.
    #[error("{name} cannot be decrypted: {reason}")]
    CannotDecrypt {
        /// The key whose value it is.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The master secret itself is not usable; it is never overwritten.
    #[error("the credential key {} is not usable: {reason}", path.display())]
    KeyUnusable {
        /// The key file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The secrets file is not a flat object of texts.
    #[error("the secrets file {} is malformed: {reason}", path.display())]
    MalformedStore {
        /// The secrets file.
        path: PathBuf,
        /// Where and why, without any value.
        reason: String,
    },
    /// A name outside `[A-Za-z0-9_][A-Za-z0-9._-]{0,254}`.
    #[error("{name:?} is no valid secret name: {reason}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A value over 64 KiB (or a document over its own bound).
    #[error("{what} is too large: at most {limit} bytes")]
    TooLarge {
        /// What was written.
        what: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// A value that is not UTF-8.
    #[error("the value of {name} is not UTF-8 text")]
    NotUtf8 {
        /// The key whose value it is.
        name: String,
    },
    /// A document, price or prefix that is not what its file wants. Nothing has changed.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// Where and why, without any value.
        reason: String,
    },
    /// The key exists only in a provider that is not written to.
    #[error("{name} is held by the {provider} provider, which is read-only here; change it there")]
    ReadOnlyProvider {
        /// The key.
        name: String,
        /// The provider that has it.
        provider: String,
    },
    /// A failure whose own words do not say which key it was met at.
    #[error("{name}: {source}")]
    At {
        /// The key, or the document.
        name: String,
        /// What failed.
        source: Box<Error>,
    },
    /// One of SimpleTuner's databases, or our own, cannot be read or written.
    #[error("the database {}: {reason}", path.display())]
    Database {
        /// The database's file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
        /// What it is in the mount.
        errno: i32,
    },
    /// The settings are wrong.
    #[error("{0}")]
    Settings(String),
    /// The operating system said no.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// An [`Error::Io`] that says what was being done.
    pub fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Io {
            context: context.into(),
            source: source.into(),
        }
    }

    /// The same, with the key's name where its own words do not say it.
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

    /// The errno this is in the mount (the contract's error table).
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
            Error::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Whether the answer is "no such key", which lets a chain go on.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// Whether the value is there and cannot be read, so that no other provider's value may stand in for it.
    pub(crate) fn ends_chain(&self) -> bool {
        matches!(
            self,
            Error::CannotDecrypt { .. } | Error::KeyUnusable { .. }
        )
    }

    /// The same failure once more, for another who waited for the same answer.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Error::NotFound { name } => Error::NotFound { name: name.clone() },
            Error::ProviderFailed {
                name,
                provider,
                reason,
            } => Error::ProviderFailed {
                name: name.clone(),
                provider: provider.clone(),
                reason: reason.clone(),
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
