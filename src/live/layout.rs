//! The layout of the tree: which folders and generated files there are, and under which numbers. Knows no content.

mod growing;

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use growing::GrowingList;

use super::files::{ControlFile, IN_CACHES, IN_ROOT, PROVIDER, ReadMode};
use super::kind::{DirKind, FileKind, FileType};
use crate::sync::Mutex;
use crate::versions::DirEntry;

/// The inode number of the root folder.
pub const ROOT: u64 = 1;
/// Folders and generated files are always there, and their numbers are the same for every server: folders from
/// [`ROOT`] on, generated files from here on.
const FIRST_GENERATED: u64 = 1 << 12;

struct Folder {
    parent: u64,
    name: String,
    dir: DirKind,
    changed_at: Mutex<SystemTime>,
}

/// A file whose content is generated at each look, and read past the kernel's cache.
pub(super) struct Generated {
    pub(super) dir_entry: DirEntry,
    pub(super) kind: FileKind,
    pub(super) read_mode: ReadMode,
    /// The fingerprint of its content at the last look, and since when it has had that content.
    seen: Mutex<Option<(u64, SystemTime)>>,
}

impl Generated {
    fn new(dir: u64, name: &str, control: &'static ControlFile, of: Option<&str>) -> Self {
        Self {
            dir_entry: DirEntry::new(dir, name),
            kind: FileKind::Control(control, of.map(Into::into)),
            read_mode: control.read_mode,
            seen: Mutex::new(None),
        }
    }

    /// Since when it has had the content with this fingerprint.
    pub(super) fn held_since(&self, fingerprint: u64) -> SystemTime {
        let mut seen = self.seen.lock();
        match *seen {
            Some((known, since)) if known == fingerprint => since,
            _ => seen.insert((fingerprint, SystemTime::now())).1,
        }
    }
}

/// The folder of a function's cache, which comes when the function is first called.
struct LateFolder {
    number: u64,
    folder: Folder,
    generated: Vec<(u64, Generated)>,
}

/// The folders, and the generated files in them.
pub(super) struct Layout {
    folders: HashMap<u64, Folder>,
    generated: HashMap<u64, Generated>,
    by_dir_entry: HashMap<DirEntry, u64>,
    /// The folder `cache`.
    cache: u64,
    /// Stays empty in a server, which has no such functions.
    late: GrowingList<LateFolder>,
    /// The handles through which generated files are open: the file's number, and the size of what it held at the open.
    open: Mutex<BTreeMap<u64, (u64, usize)>>,
}

impl Layout {
    /// The layout for these caches and providers.
    pub(super) fn new(caches: &[String], providers: &[String], started_at: SystemTime) -> Self {
        let mut layout = Self {
            folders: HashMap::new(),
            generated: HashMap::new(),
            by_dir_entry: HashMap::new(),
            cache: ROOT,
            late: GrowingList::default(),
            open: Mutex::default(),
        };
        layout.add_folder(ROOT, "", DirKind::Root, started_at);
        let mut folder = |name: &str, dir| layout.add_folder(ROOT, name, dir, started_at);
        folder("secrets", DirKind::Secrets);
        folder("bundle", DirKind::Bundle);
        let of_providers = folder("providers", DirKind::Providers);
        folder("hardware", DirKind::Hardware);
        folder("config", DirKind::Config);
        folder("views", DirKind::Views);
        let cache = folder("cache", DirKind::Cache);
        layout.cache = cache;
        layout.add_controls(ROOT, IN_ROOT, None);
        layout.add_controls(cache, IN_CACHES, None);
        for name in caches {
            let dir = layout.add_folder(cache, name, DirKind::CacheOf(name.clone()), started_at);
            layout.add_controls(dir, IN_CACHES, Some(name));
        }
        for name in providers {
            layout.add_control(of_providers, name, &PROVIDER, Some(name));
        }
        layout
    }

    fn add_folder(&mut self, parent: u64, name: &str, dir: DirKind, changed_at: SystemTime) -> u64 {
        let number = ROOT + self.folders.len() as u64;
        self.folders.insert(
            number,
            Folder {
                parent,
                name: name.into(),
                dir,
                changed_at: Mutex::new(changed_at),
            },
        );
        if number != ROOT {
            self.by_dir_entry
                .insert(DirEntry::new(parent, name), number);
        }
        number
    }

    fn add_controls(&mut self, dir: u64, controls: &'static [ControlFile], of: Option<&str>) {
        for control in controls {
            self.add_control(dir, control.name, control, of);
        }
    }

    fn add_control(
        &mut self,
        dir: u64,
        name: &str,
        control: &'static ControlFile,
        of: Option<&str>,
    ) {
        let number = FIRST_GENERATED + self.generated.len() as u64;
        let generated = Generated::new(dir, name, control, of);
        self.by_dir_entry
            .insert(generated.dir_entry.clone(), number);
        self.generated.insert(number, generated);
    }

    /// Adds a folder for each of these caches that has none yet, if `dir` is the folder of all caches.
    pub(super) fn add_caches(&self, dir: u64, names: impl FnOnce() -> Vec<String>) {
        if dir != self.cache {
            return;
        }
        for name in names() {
            self.late.push(|known| {
                // A `/` can be part of a function's prefix, but of no name in a folder.
                let shown = name.replace('/', "_");
                let number = ROOT + (self.folders.len() + known) as u64;
                let is_known = self.subfolder(&DirEntry::new(dir, &shown)).is_some();
                (number < FIRST_GENERATED && !is_known).then(|| {
                    self.mark_changed(&DirKind::Cache);
                    self.late_folder(number, shown, &name, known)
                })
            });
        }
    }

    fn late_folder(&self, number: u64, shown: String, cache: &str, known: usize) -> LateFolder {
        let first = self.generated.len() + known * IN_CACHES.len();
        let controls = (FIRST_GENERATED + first as u64..).zip(IN_CACHES);
        let file = |control: &'static ControlFile| {
            Generated::new(number, control.name, control, Some(cache))
        };
        LateFolder {
            number,
            generated: controls.map(|(at, control)| (at, file(control))).collect(),
            folder: Folder {
                parent: self.cache,
                name: shown,
                dir: DirKind::CacheOf(cache.to_owned()),
                changed_at: Mutex::new(SystemTime::now()),
            },
        }
    }

    fn folder(&self, number: u64) -> Option<&Folder> {
        let late = || self.late.iter().find(|late| late.number == number);
        self.folders
            .get(&number)
            .or_else(|| late().map(|late| &late.folder))
    }

    /// All folders with their numbers.
    fn all_folders(&self) -> impl Iterator<Item = (u64, &Folder)> {
        let folders = self
            .folders
            .iter()
            .map(|(number, folder)| (*number, folder));
        folders.chain(self.late.iter().map(|late| (late.number, &late.folder)))
    }

    /// The number of a folder or of a generated file.
    fn number_at(&self, dir_entry: &DirEntry) -> Option<u64> {
        let late = || {
            self.late.iter().find_map(|late| {
                let mut files = late.generated.iter();
                let file = files.find(|(_, file)| file.dir_entry == *dir_entry);
                let is_folder =
                    late.folder.parent == dir_entry.dir && late.folder.name == dir_entry.name;
                file.map(|(number, _)| *number)
                    .or_else(|| is_folder.then_some(late.number))
            })
        };
        self.by_dir_entry.get(dir_entry).copied().or_else(late)
    }

    /// A folder.
    pub(super) fn dir(&self, ino: u64) -> Option<&DirKind> {
        Some(&self.folder(ino)?.dir)
    }

    /// A folder's path below the mount; `/` for the mount itself.
    pub(super) fn path_of_folder(&self, ino: u64) -> Option<String> {
        let folder = self.folder(ino)?;
        if ino == ROOT {
            return Some("/".to_owned());
        }
        let parent = self.path_of_folder(folder.parent)?;
        Some(format!("{}/{}", parent.trim_end_matches('/'), folder.name))
    }

    /// The folder of a name in another one.
    pub(super) fn subfolder(&self, dir_entry: &DirEntry) -> Option<u64> {
        let number = self.number_at(dir_entry)?;
        self.folder(number).map(|_| number)
    }

    /// The folder that a folder is in.
    pub(super) fn parent(&self, ino: u64) -> u64 {
        self.folder(ino).map_or(ROOT, |folder| folder.parent)
    }

    /// A generated file.
    pub(super) fn generated(&self, ino: u64) -> Option<&Generated> {
        let late = || {
            let mut files = self.late.iter().flat_map(|late| &late.generated);
            files.find(|(number, _)| *number == ino)
        };
        self.generated
            .get(&ino)
            .or_else(|| late().map(|(_, file)| file))
    }

    /// Records that a generated file is open through this handle, with the size that it had then.
    pub(super) fn opened(&self, ino: u64, handle: u64, size: usize) {
        self.open.lock().insert(handle, (ino, size));
    }

    /// Forgets a handle, of a generated file or of any other.
    pub(super) fn released(&self, handle: u64) {
        self.open.lock().remove(&handle);
    }

    /// The size that a generated file had at its last open, while it is open.
    pub(super) fn size_at_open(&self, ino: u64) -> Option<usize> {
        let open = self.open.lock();
        let mut newest_first = open.values().rev();
        newest_first.find_map(|(of, size)| (*of == ino).then_some(*size))
    }

    /// The generated file of a name.
    pub(super) fn generated_at(&self, dir_entry: &DirEntry) -> Option<u64> {
        let number = self.number_at(dir_entry)?;
        self.generated(number).map(|_| number)
    }

    /// The folders and generated files in a folder, in the order of their numbers.
    pub(super) fn static_entries(&self, dir: u64) -> Vec<(&str, u64, FileType)> {
        let folders = self
            .all_folders()
            .filter(|(number, folder)| folder.parent == dir && *number != ROOT)
            .map(|(number, folder)| (folder.name.as_str(), number, FileType::Dir));
        let late = self.late.iter().flat_map(|late| &late.generated);
        let late = late.map(|(number, file)| (number, file));
        let files = self
            .generated
            .iter()
            .chain(late)
            .filter(|(_, file)| file.dir_entry.dir == dir);
        let files =
            files.map(|(number, file)| (file.dir_entry.name.as_str(), *number, FileType::File));
        let mut all: Vec<_> = folders.chain(files).collect();
        all.sort_by_key(|(_, number, _)| *number);
        all
    }

    /// The kind of file that a name is.
    pub(super) fn kind_at(&self, dir_entry: &DirEntry) -> Option<FileKind> {
        match self.generated_at(dir_entry) {
            Some(number) => Some(self.generated(number)?.kind.clone()),
            None => self.dir(dir_entry.dir)?.kind_of_name(&dir_entry.name),
        }
    }

    /// How many folders are in a folder.
    pub(super) fn subfolder_count(&self, dir: u64) -> u32 {
        let folders = self.all_folders();
        let inside = folders.filter(|(number, folder)| folder.parent == dir && *number != ROOT);
        inside.count() as u32
    }

    /// When the names in a folder last changed.
    pub(super) fn changed_at(&self, dir: u64) -> SystemTime {
        let folder = self.folder(dir);
        folder.map_or(SystemTime::UNIX_EPOCH, |folder| *folder.changed_at.lock())
    }

    /// Records that the names in a folder have changed.
    pub(super) fn mark_changed(&self, dir: &DirKind) {
        for folder in self.folders.values().filter(|folder| folder.dir == *dir) {
            *folder.changed_at.lock() = SystemTime::now();
        }
    }
}
