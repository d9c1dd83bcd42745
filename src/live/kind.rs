//! What a folder is for, what kind of file a name in it is, and what that kind says of permissions and sizes.

use super::WorkQueue;
use super::files::ControlFile;
use crate::bundle::BundleFormat;
use crate::provider::file::MAX_DOCUMENT;
use crate::secret::{SecretName, is_scratch_name};
use crate::simpletuner_db::{MAX_CONFIG, check_provider_name};
use crate::views::definition::{MAX_DEFINITION, check_name};

/// What kind of file a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A folder.
    Dir,
    /// A regular file.
    File,
}

/// What a folder is for: it decides which names it can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DirKind {
    Root,
    Secrets,
    Bundle,
    Providers,
    Hardware,
    Cache,
    /// `cache/NAME`
    CacheOf(String),
    Config,
    Views,
}

/// What a file is: it decides what reading and writing it do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Secret(SecretName),
    /// An editor's scratch file, in memory only.
    Scratch,
    Bundle(BundleFormat),
    Price(String),
    PriceTable,
    /// A provider's configuration.
    Config(String),
    /// A view's definition.
    View(String),
    /// A control file or report, and the cache or provider that it belongs to.
    Control(&'static ControlFile, Option<String>),
}

impl FileKind {
    /// The permission bits that are shown.
    pub(super) fn mode(&self) -> u16 {
        match self {
            FileKind::Secret(_)
            | FileKind::Scratch
            | FileKind::Price(_)
            | FileKind::PriceTable
            | FileKind::Config(_)
            | FileKind::View(_) => 0o600,
            FileKind::Bundle(format) if !format.is_writable() => 0o400,
            FileKind::Bundle(_) => 0o600,
            FileKind::Control(control, _) => control.mode,
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.mode() & 0o200 != 0
    }

    /// Where a write of it goes.
    pub(super) fn written_by(&self) -> WorkQueue {
        match self {
            FileKind::Config(_) => WorkQueue::Database,
            _ => WorkQueue::Store,
        }
    }

    /// The most bytes that can be written to it.
    pub(super) fn limit(&self) -> usize {
        match self {
            FileKind::Secret(_) => crate::secret::MAX_VALUE,
            FileKind::Bundle(_) | FileKind::Scratch => MAX_DOCUMENT,
            FileKind::Config(_) => MAX_CONFIG,
            FileKind::View(_) => MAX_DEFINITION,
            _ => 1024 * 1024,
        }
    }
}

impl DirKind {
    pub(super) fn mode(&self) -> u16 {
        match self {
            DirKind::Providers => 0o500,
            _ => 0o700,
        }
    }

    /// Whether scratch files may be made here: only where there are files to write beside and rename onto.
    pub(super) fn has_scratch(&self) -> bool {
        matches!(
            self,
            DirKind::Secrets
                | DirKind::Bundle
                | DirKind::Hardware
                | DirKind::Config
                | DirKind::Views
        )
    }

    /// Whether scratch of this name may be made here. vim tries `4913` to learn whether it may rename a file away and
    /// write it anew. Where that fails, vim writes in place, and there is no moment without the file.
    fn accepts_scratch(&self, name: &str) -> bool {
        let renames = !matches!(self, DirKind::Hardware | DirKind::Config | DirKind::Views);
        self.has_scratch() && is_scratch_name(name) && (renames || name != "4913")
    }

    /// The file that a name would be, whether it exists or not; `None`: no file can have this name here.
    pub(super) fn kind_of_name(&self, name: &str) -> Option<FileKind> {
        if self.accepts_scratch(name) && name != "." && name != ".." {
            return Some(FileKind::Scratch);
        }
        match self {
            DirKind::Secrets => SecretName::new(name).ok().map(FileKind::Secret),
            DirKind::Bundle => BundleFormat::of_file(name).map(FileKind::Bundle),
            DirKind::Hardware => match name.strip_suffix(".json")? {
                "all" => Some(FileKind::PriceTable),
                id => SecretName::new(id)
                    .ok()
                    .map(|id| FileKind::Price(id.as_str().into())),
            },
            DirKind::Config => {
                let name = name.strip_suffix(".json")?;
                check_provider_name(name).ok()?;
                Some(FileKind::Config(name.into()))
            }
            DirKind::Views => {
                let name = name.strip_suffix(".json")?;
                check_name(name).ok()?;
                Some(FileKind::View(name.into()))
            }
            DirKind::Root | DirKind::Providers | DirKind::Cache | DirKind::CacheOf(_) => None,
        }
    }
}

/// Whether `sed -i` gives its scratch files such names (mkostemp's `sedXXXXXX`). Only those that are created exclusively are.
pub(super) fn is_sed_name(name: &str) -> bool {
    name.len() == 9 && name.starts_with("sed") && name.bytes().all(|b| b.is_ascii_alphanumeric())
}
