//! The layout of the tree: which folders there are, and what a name in one of them stands for.

use serde::{Deserialize, Serialize};

use super::bundle::BundleFormat;
use crate::provider::file::MAX_DOCUMENT;
use crate::secret::{SecretName, is_scratch_name};
use crate::state::{MAX_CONFIG, check_provider_name};

/// A folder. The order is that of its inode number ([`Dir::ino`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Dir {
    Root,
    Secrets,
    Bundle,
    Providers,
    Hardware,
    Cache,
    /// `cache/NAME`
    CacheOf(String),
    Config,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) dir: u64,
    pub(super) name: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum File {
    Secret(SecretName),
    /// An editor's scratch file, in memory only.
    Scratch,
    Bundle(BundleFormat),
    Provider(String),
    Price(String),
    PriceTable,
    /// Of one cache, or of all.
    Stats(Option<String>),
    Clear(Option<String>),
    Invalidate(Option<String>),
    Events,
    Status,
    /// A provider's configuration.
    Config(String),
}

impl File {
    /// The permission bits that are shown.
    pub(super) fn mode(&self) -> u16 {
        match self {
            File::Secret(_)
            | File::Scratch
            | File::Price(_)
            | File::PriceTable
            | File::Config(_)
            | File::Invalidate(_) => 0o600,
            File::Bundle(BundleFormat::Env) => 0o400,
            File::Bundle(_) => 0o600,
            File::Provider(_) | File::Stats(_) | File::Events | File::Status => 0o400,
            File::Clear(_) => 0o200,
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.mode() & 0o200 != 0
    }

    /// Whether readers share the kernel's pages of one inode for each version of the content. The others change with
    /// every look at them, and are read past the cache.
    pub(super) fn is_versioned(&self) -> bool {
        matches!(
            self,
            File::Secret(_)
                | File::Scratch
                | File::Bundle(_)
                | File::Price(_)
                | File::PriceTable
                | File::Config(_)
        )
    }

    /// The most bytes that can be written to it.
    pub(super) fn limit(&self) -> usize {
        match self {
            File::Secret(_) => crate::secret::MAX_VALUE,
            File::Bundle(_) => MAX_DOCUMENT,
            File::Scratch => MAX_DOCUMENT,
            File::Config(_) => MAX_CONFIG,
            _ => 1024 * 1024,
        }
    }
}

impl Dir {
    pub(super) fn mode(&self) -> u16 {
        if matches!(self, Dir::Providers) {
            0o500
        } else {
            0o700
        }
    }

    /// Whether scratch files may be made here: where there are documents to be written beside and renamed onto.
    pub(super) fn has_scratch(&self) -> bool {
        matches!(
            self,
            Dir::Secrets | Dir::Bundle | Dir::Hardware | Dir::Config
        )
    }

    /// Whether scratch of this name may be made here. vim tries `4913` to learn whether it may rename a file away and
    /// write it anew; where it may not, it writes in place, and there is no moment without the file.
    fn takes_scratch(&self, name: &str) -> bool {
        let renames = !matches!(self, Dir::Hardware | Dir::Config);
        self.has_scratch() && is_scratch_name(name) && (renames || name != "4913")
    }

    /// What a name stands for, whether it exists or not; `None`: nothing can have this name here.
    pub(super) fn file(&self, name: &str) -> Option<File> {
        if self.takes_scratch(name) && name != "." && name != ".." {
            return Some(File::Scratch);
        }
        let control = |cache: Option<&String>| match name {
            "stats" => Some(File::Stats(cache.cloned())),
            "clear" => Some(File::Clear(cache.cloned())),
            "invalidate" => Some(File::Invalidate(cache.cloned())),
            _ => None,
        };
        match self {
            Dir::Root => match name {
                "events" => Some(File::Events),
                "status" => Some(File::Status),
                _ => None,
            },
            Dir::Secrets => SecretName::new(name).ok().map(File::Secret),
            Dir::Bundle => BundleFormat::of_file(name).map(File::Bundle),
            Dir::Providers => Some(File::Provider(name.into())),
            Dir::Hardware => match name.strip_suffix(".json")? {
                "all" => Some(File::PriceTable),
                id => SecretName::new(id)
                    .ok()
                    .map(|id| File::Price(id.as_str().into())),
            },
            Dir::Config => {
                let name = name.strip_suffix(".json")?;
                check_provider_name(name).ok()?;
                Some(File::Config(name.into()))
            }
            Dir::Cache => control(None),
            Dir::CacheOf(cache) => control(Some(cache)),
        }
    }
}

/// A name as the kernel has it. What follows a `/` is ours: whose bundle it is.
pub(super) fn shown(name: &str) -> &str {
    name.split_once('/').map_or(name, |(shown, _)| shown)
}

/// Whether `sed -i` gives its scratch files such names (mkostemp's `sedXXXXXX`). Only those that are created exclusively are.
pub(super) fn is_sed_name(name: &str) -> bool {
    name.len() == 9 && name.starts_with("sed") && name.bytes().all(|b| b.is_ascii_alphanumeric())
}
