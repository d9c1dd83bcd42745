//! What the kernel knows of the tree: inodes, the names they have, and open handles. Knows no provider: contents come
//! in as values.
//!
//! Three numbers are kept apart. An *entry* is a file's identity: it goes along when the file is renamed, and its
//! number is what `stat` shows. A *version* is the inode of one content of an entry, so that the kernel's pages and
//! size of an inode never change under a reader. A *private* inode is one writer's.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Caller;
use super::marks::Marks;
use super::places::{Dir, File, Place};
use super::process::Process;
use super::saved;
use super::tracked::Tracked;
use crate::secret::{SecretBuffer, SecretValue};
use crate::state::audit::Actor;

/// The root folder's inode number (FUSE_ROOT_ID).
pub(super) const ROOT: u64 = 1;
/// Where the numbers of files begin: far from those of other filesystems, because open files are recognised by them
/// in `/proc`, and within 32 bits, because of programs that have no more for them.
const FIRST: u64 = 0x5354_0000;

/// What tells one content from another, without keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) fingerprint: u64,
    pub(super) len: usize,
}

impl Identity {
    pub(super) fn of(value: &SecretValue) -> Self {
        Self {
            fingerprint: value.fingerprint(),
            len: value.len(),
        }
    }
}

/// A content, and when it became that.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Content {
    #[serde(with = "saved::value")]
    pub(super) value: SecretValue,
    pub(super) changed_at: SystemTime,
}

/// A file's identity.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its name, or the last it had.
    pub(super) place: Place,
    /// Whether the name leads to it. Else it is not there yet, removed, or replaced, and lives for who has it open.
    pub(super) named: bool,
    /// The version that lookups answered last.
    pub(super) current: Option<u64>,
    /// A modification time that was set, for as long as the content is the one it was set for.
    pub(super) mtime: Option<(Identity, SystemTime)>,
    /// A scratch file's content; `None` for all other files.
    pub(super) scratch: Option<Content>,
}

/// The inode of one content. The content itself is among [`State::kept`] while somebody has it open.
#[derive(Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) entry: u64,
    /// `None`: provisional, made while the content was not known.
    pub(super) identity: Option<Identity>,
    pub(super) changed_at: SystemTime,
    // Counted anew from the handles.
    #[serde(skip)]
    pub(super) opens: u32,
    /// A writer came without a lookup and wrote through this inode: no new reader may share its pages.
    pub(super) spoilt: bool,
}

/// The inode of one writer.
#[derive(Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) entry: u64,
    /// The name it was opened by.
    pub(super) target: Place,
    /// It was created: the name appears at the first commit.
    pub(super) is_new: bool,
    /// What is written so far, or why nothing can be.
    #[serde(with = "saved::buffer")]
    pub(super) buffer: Result<SecretBuffer, i32>,
    /// How often it was changed, and how much of that is committed.
    pub(super) changes: u64,
    pub(super) committed: u64,
    /// The last to close it was killed: what it wrote is half a value.
    pub(super) killed: bool,
    pub(super) mtime: Option<SystemTime>,
    pub(super) opener: Option<Process>,
    /// Whom the trail names for what is written.
    pub(super) actor: Option<Actor>,
    /// The last process number when it was opened: who may have inherited it began later.
    pub(super) since: Option<u32>,
    // Counted anew from the handles.
    #[serde(skip)]
    pub(super) opens: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Kind {
    Dir(Dir),
    /// A file that is made anew at each look; its entry has the same number.
    Live(File),
    Version(Version),
    Private(Private),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// How often the kernel was told of it and has not forgotten it.
    pub(super) lookups: u64,
}

impl Private {
    /// Something is to be committed.
    pub(super) fn is_touched(&self) -> bool {
        self.changes != self.committed
    }
}

impl Node {
    fn of_folder(dir: Dir) -> Self {
        Self {
            kind: Kind::Dir(dir),
            lookups: 1,
        }
    }
}

/// An open file or folder.
#[derive(Serialize, Deserialize)]
pub(super) struct Open {
    /// The request that opened it, which may come again when it was not answered.
    pub(super) by: u64,
    pub(super) handle: Handle,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Handle {
    /// One whole content, as it was at the open: that of the inode, of which the kernel may keep the pages.
    Version {
        node: u64,
    },
    /// One whole content that is no inode's.
    Read {
        node: u64,
        #[serde(with = "saved::value")]
        value: SecretValue,
    },
    Events,
    Write {
        node: u64,
        append: bool,
        /// The last write, and what was answered.
        last: Option<(u64, u32)>,
    },
    Dir {
        listing: Vec<(String, u64)>,
        dir: u64,
    },
}

/// All of it, behind one lock (`Tree::state`).
pub(super) struct State {
    pub(super) nodes: Tracked<u64, Node>,
    pub(super) entries: Tracked<u64, Entry>,
    pub(super) names: HashMap<Place, u64>,
    pub(super) handles: Tracked<u64, Open>,
    /// The contents of versions that somebody has open.
    pub(super) kept: Tracked<u64, SecretValue>,
    pub(super) marks: Marks,
    /// Names whose last writer is gone and whose commit is under way.
    pub(super) settling: HashMap<Place, u32>,
    /// The folders in a folder.
    pub(super) subdirs: HashMap<u64, Vec<(String, u64)>>,
    pub(super) next_inode: u64,
    pub(super) next_handle: u64,
}

impl State {
    /// Nothing at all.
    pub(super) fn empty() -> Self {
        Self {
            nodes: Tracked::default(),
            entries: Tracked::default(),
            names: HashMap::new(),
            handles: Tracked::default(),
            kept: Tracked::default(),
            marks: Marks::default(),
            settling: HashMap::new(),
            subdirs: HashMap::new(),
            next_inode: FIRST,
            next_handle: 1,
        }
    }

    /// The folders, with the numbers they have already where they have one; `caches` are those of `cache/`.
    pub(super) fn add_folders(&mut self, caches: &[String]) {
        if !self.nodes.contains_key(&ROOT) {
            self.nodes.insert(ROOT, Node::of_folder(Dir::Root));
        }
        for (name, dir) in [
            ("secrets", Dir::Secrets),
            ("bundle", Dir::Bundle),
            ("providers", Dir::Providers),
            ("hardware", Dir::Hardware),
            ("cache", Dir::Cache),
            ("config", Dir::Config),
        ] {
            self.add_folder(ROOT, name, dir);
        }
        let cache = self.dir_number(&Dir::Cache);
        for name in caches {
            self.add_folder(cache, name, Dir::CacheOf(name.clone()));
        }
    }

    fn add_folder(&mut self, parent: u64, name: &str, dir: Dir) {
        let ino = match self.dir_number(&dir) {
            ROOT => {
                let ino = self.number();
                self.nodes.insert(ino, Node::of_folder(dir));
                ino
            }
            ino => ino,
        };
        let siblings = self.subdirs.entry(parent).or_default();
        siblings.push((name.into(), ino));
    }

    fn number(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    /// The folder with this inode number.
    pub(super) fn dir(&self, ino: u64) -> Option<&Dir> {
        match &self.nodes.get(&ino)?.kind {
            Kind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// The folder in a folder.
    pub(super) fn subdir(&self, parent: u64, name: &str) -> Option<u64> {
        self.subdirs
            .get(&parent)?
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, ino)| *ino)
    }

    /// The number of the folder `secrets`, `bundle`, ...; the root's where there is none.
    pub(super) fn dir_number(&self, wanted: &Dir) -> u64 {
        self.nodes
            .iter()
            .find(|(_, node)| matches!(&node.kind, Kind::Dir(dir) if dir == wanted))
            .map_or(ROOT, |(&ino, _)| ino)
    }

    pub(super) fn version(&self, ino: u64) -> Option<&Version> {
        match &self.nodes.get(&ino)?.kind {
            Kind::Version(version) => Some(version),
            _ => None,
        }
    }

    pub(super) fn version_mut(&mut self, ino: u64) -> Option<&mut Version> {
        match &mut self.nodes.get_mut(&ino)?.kind {
            Kind::Version(version) => Some(version),
            _ => None,
        }
    }

    pub(super) fn private(&self, ino: u64) -> Option<&Private> {
        match &self.nodes.get(&ino)?.kind {
            Kind::Private(private) => Some(private),
            _ => None,
        }
    }

    pub(super) fn private_mut(&mut self, ino: u64) -> Option<&mut Private> {
        match &mut self.nodes.get_mut(&ino)?.kind {
            Kind::Private(private) => Some(private),
            _ => None,
        }
    }

    /// The entry of a name, made if there is none: for names that exist.
    pub(super) fn entry_at(&mut self, place: &Place) -> u64 {
        if let Some(&entry) = self.names.get(place) {
            return entry;
        }
        let entry = self.new_entry(place, true);
        self.names.insert(place.clone(), entry);
        entry
    }

    /// An entry; `named` where the caller sees to it that the name leads to it.
    pub(super) fn new_entry(&mut self, place: &Place, named: bool) -> u64 {
        let ino = self.number();
        let place = place.clone();
        self.entries.insert(
            ino,
            Entry {
                place,
                named,
                current: None,
                mtime: None,
                scratch: None,
            },
        );
        ino
    }

    /// The name that leads to an entry.
    pub(super) fn place(&self, entry: u64) -> Option<Place> {
        self.entries
            .get(&entry)
            .filter(|entry| entry.named)
            .map(|entry| entry.place.clone())
    }

    /// The scratch content of a name that has one.
    pub(super) fn scratch(&self, place: &Place) -> Option<&Content> {
        self.entries.get(self.names.get(place)?)?.scratch.as_ref()
    }

    /// The version inode of an entry for this content (`None`: provisional); the entry's first has the entry's number.
    pub(super) fn version_of(&mut self, entry: u64, content: Option<&Content>) -> u64 {
        let identity = content.map(|content| Identity::of(&content.value));
        let changed_at = content.map_or(SystemTime::UNIX_EPOCH, |content| content.changed_at);
        if let Some(current) = self.entries.get(&entry).and_then(|entry| entry.current)
            && let Some(version) = self.version_mut(current)
            && version.identity == identity
            && !version.spoilt
        {
            version.changed_at = changed_at;
            return current;
        }
        self.new_version(entry, identity, changed_at)
    }

    fn new_version(
        &mut self,
        entry: u64,
        identity: Option<Identity>,
        changed_at: SystemTime,
    ) -> u64 {
        let ino = if self.nodes.contains_key(&entry) {
            self.number()
        } else {
            entry
        };
        let version = Version {
            entry,
            identity,
            changed_at,
            opens: 0,
            spoilt: false,
        };
        self.nodes.insert(
            ino,
            Node {
                kind: Kind::Version(version),
                lookups: 0,
            },
        );
        if let Some(entry) = self.entries.get_mut(&entry) {
            entry.current = Some(ino);
        }
        ino
    }

    /// The inode of a file that is made anew at each look.
    pub(super) fn live(&mut self, place: &Place, file: File) -> u64 {
        let entry = self.entry_at(place);
        if !self.nodes.contains_key(&entry) {
            let node = Node {
                kind: Kind::Live(file),
                lookups: 0,
            };
            self.nodes.insert(entry, node);
        }
        entry
    }

    /// An inode for a writer.
    pub(super) fn add_private(&mut self, private: Private) -> u64 {
        let ino = self.number();
        self.nodes.insert(
            ino,
            Node {
                kind: Kind::Private(private),
                lookups: 0,
            },
        );
        ino
    }

    pub(super) fn add_handle(&mut self, caller: &Caller, handle: Handle) -> u64 {
        let number = self.next_handle;
        self.next_handle += 1;
        let by = caller.request;
        self.handles.insert(number, Open { by, handle });
        number
    }

    pub(super) fn handle(&self, number: u64) -> Option<&Handle> {
        self.handles.get(&number).map(|open| &open.handle)
    }

    /// The handle that a request opened which was not answered then, and comes again.
    pub(super) fn opened_before(&self, caller: &Caller) -> Option<(u64, &Handle)> {
        let is_it = |open: &Open| caller.comes_again && open.by == caller.request;
        let mut opened = self.handles.iter();
        let (number, open) = opened.find(|(_, open)| is_it(open))?;
        Some((*number, &open.handle))
    }

    /// Forgets what was touched.
    pub(super) fn untouch(&mut self) {
        self.nodes.untouch();
        self.entries.untouch();
        self.handles.untouch();
        self.kept.untouch();
        self.marks.0.untouch();
    }

    /// The kernel was told of the inode once more.
    pub(super) fn count_lookup(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel has forgotten the inode `count` times.
    pub(super) fn forget(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_if_unused(ino);
        }
    }

    /// Drops an inode that neither the kernel, nor a handle, nor a thread on its way knows.
    pub(super) fn drop_if_unused(&mut self, ino: u64) {
        let Some(node) = self.nodes.get(&ino) else {
            return;
        };
        let (entry, unused) = match &node.kind {
            Kind::Dir(_) | Kind::Live(_) => return,
            Kind::Version(version) => (version.entry, version.opens == 0),
            Kind::Private(private) => (private.entry, private.opens == 0 && !self.marks.hold(ino)),
        };
        if !unused || node.lookups > 0 {
            return;
        }
        self.nodes.remove(&ino);
        let used = |node: &Node| match &node.kind {
            Kind::Version(version) => version.entry == entry,
            Kind::Private(private) => private.entry == entry,
            _ => false,
        };
        if let Some(identity) = self.entries.get_mut(&entry) {
            if identity.current == Some(ino) {
                identity.current = None;
            }
            // Names keep their number for as long as the mount lives; what has none is gone with its last inode.
            if !identity.named && !self.nodes.values().any(used) {
                self.entries.remove(&entry);
            }
        }
    }

    /// Takes a name off its entry, which lives on for who has it open.
    pub(super) fn detach(&mut self, place: &Place) {
        if let Some(entry) = self.names.remove(place)
            && let Some(identity) = self.entries.get_mut(&entry)
        {
            identity.named = false;
            if identity.current.is_none() && !self.handles_entry(entry) {
                self.entries.remove(&entry);
            }
        }
    }

    fn handles_entry(&self, entry: u64) -> bool {
        self.nodes.values().any(|node| match &node.kind {
            Kind::Version(version) => version.entry == entry,
            Kind::Private(private) => private.entry == entry,
            _ => false,
        })
    }

    /// Moves a name onto another, as rename(2) does: the file keeps its identity, what was there loses its name.
    pub(super) fn rename(&mut self, from: &Place, to: &Place) {
        self.detach(to);
        if let Some(entry) = self.names.remove(from) {
            self.names.insert(to.clone(), entry);
            if let Some(identity) = self.entries.get_mut(&entry) {
                identity.place = to.clone();
            }
        }
    }
}
