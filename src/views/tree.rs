//! The read-only tree of files over the definitions: names, attributes, bytes. The module `fuse` calls it for each request.
//!
//! A name leads to a version of its content until something changes; a change sends the kernel an epoch before it is acknowledged. The
//! kernel opens files by itself, so an inode holds the same bytes, owner and mode for ever. Only folders change.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use super::ROOT;
use super::answer::{Answer, Ask, Entry, Listed, ViewAttr, ViewError};
use super::files::{self, content};
use super::open_audit::Opens;
use super::owner::FileOwner;
use super::store::ViewStore;
use super::view::{Definitions, DefinitionsChange, View, is_folder};
use crate::error::{Error, Result};
use crate::manager::{ChangeSet, ChangedKey, Lookup, SecretsManager, Snapshot};
use crate::metrics::MountCounters;
use crate::secret::{SealingKey, SecretBuffer, SecretName, SecretValue};
use crate::sync::{Mutex, RwLock};
use crate::versions::{DirEntry, Inode, Journal, KernelNames, Record, State};

/// The attributes of a version never change, and those of a folder end with a notification.
const ATTR_VALID: Duration = Duration::from_secs(3600);
/// Where more views are defined at once, none is searched for patterns that match nothing, which takes long.
const MAX_WARNED: usize = 100;
/// The permission bits of the root: everybody may pass, only the user who mounts may list.
const ROOT_MODE: u16 = 0o711;
/// The permission bits of the folder of a view that was removed. Nothing is in it.
const REMOVED_MODE: u16 = 0o555;

/// The tree of views.
pub struct Views {
    manager: Arc<SecretsManager>,
    pub(super) store: Arc<ViewStore>,
    pub(super) names: KernelNames,
    pub(super) device: OnceLock<OwnedFd>,
    // Taken for each request, for moments. Listeners of the manager must not take it.
    pub(super) state: Mutex<State>,
    journal: Journal,
    /// The snapshot of the last change, to see which names a change adds or takes away.
    seen: Mutex<Arc<Snapshot>>,
    /// When the files of any view may last have come or gone.
    names_changed_at: Mutex<SystemTime>,
    /// Whether the mount has ended. Held to read while a request is answered.
    pub(super) has_ended: RwLock<bool>,
    /// The last listing, because the kernel asks for its pages one by one.
    listing: Mutex<Option<Listing>>,
    pub(super) opens: Mutex<Opens>,
    pub(super) counters: Arc<MountCounters>,
}

/// A listing, and what it was made of. It keeps no snapshot alive, because that has values.
struct Listing {
    view: Arc<View>,
    snapshot: Weak<Snapshot>,
    names: Arc<Vec<Listed>>,
}

impl Views {
    /// The tree that a server before this one left in the journal's files, over the store's definitions. What that server had in
    /// force is in force in the store, too, unless the store has read its file already. New inodes get numbers from `numbers_from` on.
    /// Opens are counted in `counters`.
    ///
    /// # Errors
    /// [`Error::Io`] if the journal cannot be read.
    pub fn restore(
        manager: Arc<SecretsManager>,
        store: Arc<ViewStore>,
        journal: [std::fs::File; 2],
        key: SealingKey,
        numbers_from: u64,
        counters: Arc<MountCounters>,
    ) -> Result<Arc<Self>> {
        let (journal, restored) = Journal::open(journal, key, numbers_from)
            .map_err(|e| Error::io("the journal of the server before this one", e))?;
        if let Some(definitions) = restored.others.last()
            && store.current().is_empty()
        {
            store.restore(definitions.as_bytes());
        }
        let views = Arc::new(Self {
            seen: Mutex::new(manager.snapshot()),
            manager,
            store,
            names: KernelNames::new(false),
            device: OnceLock::new(),
            state: Mutex::new(restored.state),
            journal,
            names_changed_at: Mutex::new(SystemTime::now()),
            has_ended: RwLock::default(),
            listing: Mutex::default(),
            opens: Mutex::default(),
            counters,
        });
        views.checkpoint(&views.state.lock());
        let listener = Arc::downgrade(&views);
        views.manager.on_change(Box::new(move |changes| {
            if let Some(views) = listener.upgrade() {
                views.secrets_changed(changes);
            }
        }));
        Ok(views)
    }

    /// The names that the kernel keeps.
    pub fn kernel_names(&self) -> &KernelNames {
        &self.names
    }

    /// Has the views' secrets fetched in the background, so that the first reader need not wait. `warns`: then warns of patterns that
    /// match none.
    pub fn prefetch(&self, views: impl Iterator<Item = Arc<View>>, warns: bool) {
        let snapshot = self.manager.snapshot();
        let views: Vec<Arc<View>> = views.collect();
        for view in &views {
            for (_, secret) in view.definition.named_secrets() {
                if matches!(snapshot.find(&secret), Lookup::Unknown | Lookup::Stale(_)) {
                    self.manager.find_async(&secret, Box::new(|_| {}));
                }
            }
        }
        let warn = move |snapshot: Arc<Snapshot>| {
            let views = views.iter().filter(|_| warns && views.len() <= MAX_WARNED);
            for view in views {
                let unmatched = files::unmatched(&view.definition, &snapshot);
                if !unmatched.is_empty() {
                    let (name, unmatched) = (&view.name, unmatched.join(", "));
                    tracing::warn!("the view {name}: no secret matches {unmatched}");
                }
            }
        };
        match snapshot.must_ask_for_names() {
            true => self.manager.refresh_async(Box::new(warn)),
            false => warn(snapshot),
        }
    }

    /// Asks for what an operation has to wait for; `done` runs on any thread.
    pub fn ask(&self, what: Ask, done: impl FnOnce(Answer) + Send + 'static) {
        match what {
            Ask::Secret(name) => {
                let done = move |lookup| done(Answer::Secret(lookup));
                self.manager.find_async(&name, Box::new(done));
            }
            Ask::All => {
                let done = move |_| done(Answer::InSnapshot);
                self.manager.refresh_async(Box::new(done));
            }
            Ask::Store => {
                let done = move || done(Answer::InSnapshot);
                self.manager.read_store_async(Box::new(done));
            }
        }
    }

    // Requests.

    /// A name in a folder.
    ///
    /// # Errors
    /// ENOENT; why the content cannot be read; what to wait for.
    pub fn lookup(
        &self,
        parent: u64,
        name: &str,
        answer: Option<Answer>,
    ) -> Result<Entry, ViewError> {
        let missing = || ViewError::Errno(libc::ENOENT);
        let definitions = self.store.current();
        if parent == ROOT {
            let view = definitions.get(name).ok_or_else(missing)?;
            return Ok(Entry {
                attr: self.folder_attr(view),
                valid: self.names.validity(),
            });
        }
        let view = definitions.at(parent).ok_or_else(missing)?;
        let content = content(&self.manager, view, name, answer)?;
        let dir_entry = view.owner.dir_entry(view.folder, name);
        let attr = self.with_state(|state| {
            let ino = state.version(&dir_entry, &content.value, content.changed_at);
            state.count_lookup(ino);
            version_attr(state, ino)
        });
        Ok(Entry {
            attr: attr.ok_or_else(missing)?,
            valid: self.names.validity().min(content.fresh_for),
        })
    }

    /// What `stat` shows of an inode.
    ///
    /// # Errors
    /// ESTALE: no server knows the inode any more.
    pub fn attr(&self, ino: u64) -> Result<ViewAttr, ViewError> {
        let definitions = self.store.current();
        match ino {
            ROOT => Ok(self.root_attr(&definitions)),
            folder if is_folder(folder) => Ok(match definitions.at(folder) {
                Some(view) => self.folder_attr(view),
                None => self.removed_attr(folder),
            }),
            ino => version_attr(&self.state.lock(), ino).ok_or(ViewError::Errno(libc::ESTALE)),
        }
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// EISDIR, ESTALE.
    pub fn read(&self, ino: u64) -> Result<SecretValue, ViewError> {
        match self.state.lock().inode(ino) {
            Some(Inode::Version(version)) => Ok(version.value.clone()),
            _ if ino == ROOT || is_folder(ino) => Err(ViewError::Errno(libc::EISDIR)),
            _ => Err(ViewError::Errno(libc::ESTALE)),
        }
    }

    /// The names in a folder, in the order of their offsets. `has_waited`: for the first read of the secrets file.
    ///
    /// # Errors
    /// ENOTDIR; what to wait for.
    pub fn list(&self, folder: u64, has_waited: bool) -> Result<Arc<Vec<Listed>>, ViewError> {
        let definitions = self.store.current();
        let Some(view) = definitions.at(folder) else {
            if folder != ROOT && !is_folder(folder) {
                return Err(ViewError::Errno(libc::ENOTDIR));
            }
            let views = definitions.all().filter(|_| folder == ROOT);
            let views = views.map(|view| (view.name.clone(), Some(view.folder)));
            return Ok(Arc::new(in_order(folder, true, views)));
        };
        if !has_waited && !self.manager.has_read_store() {
            return Err(ViewError::Ask(Ask::Store));
        }
        let snapshot = self.manager.snapshot();
        let mut last = self.listing.lock();
        let is_same = |last: &Listing| {
            Arc::ptr_eq(&last.view, view) && last.snapshot.as_ptr() == Arc::as_ptr(&snapshot)
        };
        if let Some(last) = last.as_ref().filter(|last| is_same(last)) {
            return Ok(last.names.clone());
        }
        let secrets = files::secrets_of(&view.definition, &snapshot);
        let documents = view
            .definition
            .documents
            .iter()
            .map(|format| format.file_name());
        let files = secrets.keys().map(SecretName::as_str).chain(documents);
        let state = self.state.lock();
        let files = files.map(|file| {
            let ino = state.current_version(&view.owner.dir_entry(folder, file));
            (file.to_owned(), ino)
        });
        let names = Arc::new(in_order(folder, false, files));
        *last = Some(Listing {
            view: view.clone(),
            snapshot: Arc::downgrade(&snapshot),
            names: names.clone(),
        });
        Ok(names)
    }

    /// The kernel forgets `count` lookups of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        if ino != ROOT && !is_folder(ino) {
            self.with_state(|state| state.forget(ino, count));
        }
    }

    // Changes.

    /// The manager has a new snapshot.
    fn secrets_changed(&self, changes: &ChangeSet) {
        let before = std::mem::replace(&mut *self.seen.lock(), changes.snapshot.clone());
        let names_differ =
            |changed: &ChangedKey| before.has(&changed.name) != changes.snapshot.has(&changed.name);
        if changes.any || changes.keys.iter().any(names_differ) {
            self.touch();
            self.expire_folders(self.store.current().all().map(|view| view.folder));
        }
        self.names.next_epoch();
    }

    /// The definitions have changed.
    pub fn definitions_changed(self: &Arc<Self>, change: &DefinitionsChange) {
        if !change.is_repeat {
            let state = self.state.lock();
            if self.journal.append(&[definitions_record(&change.after)]) {
                self.checkpoint(&state);
            }
            drop(state);
            self.touch();
        }
        let changed: HashSet<u64> = change.views().map(|(view, _)| view.folder).collect();
        self.expire_folders(changed.into_iter().chain([ROOT]));
        self.names.next_epoch();
        if !change.is_repeat {
            let there = change.views().filter(|(_, is_there)| *is_there);
            let there: Vec<Arc<View>> = there.map(|(view, _)| view.clone()).collect();
            self.prefetch(there.into_iter(), true);
        }
    }

    /// The names in some folder change: the kernel keeps its listing for as long as its time stays the same.
    fn touch(&self) {
        let mut at = self.names_changed_at.lock();
        *at = SystemTime::now().max(*at + Duration::from_nanos(1));
    }

    // Attributes.

    fn root_attr(&self, definitions: &Definitions) -> ViewAttr {
        let owner = FileOwner {
            mode: ROOT_MODE,
            ..self.store.mounting()
        };
        let nlink = 2 + definitions.len() as u32;
        self.dir_attr(ROOT, owner, nlink, SystemTime::UNIX_EPOCH)
    }

    fn folder_attr(&self, view: &View) -> ViewAttr {
        let owner = FileOwner {
            mode: view.owner.dir_mode(),
            ..view.owner
        };
        self.dir_attr(view.folder, owner, 2, view.changed_at)
    }

    fn removed_attr(&self, folder: u64) -> ViewAttr {
        let owner = FileOwner {
            mode: REMOVED_MODE,
            ..self.store.mounting()
        };
        self.dir_attr(folder, owner, 0, SystemTime::UNIX_EPOCH)
    }

    fn dir_attr(&self, ino: u64, owner: FileOwner, nlink: u32, changed_at: SystemTime) -> ViewAttr {
        ViewAttr {
            ino,
            is_dir: true,
            owner,
            size: 0,
            changed_at: changed_at.max(*self.names_changed_at.lock()),
            nlink,
            valid: ATTR_VALID,
        }
    }

    // The journal.

    /// Changes the state. What changes is in the journal before the request is answered.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let records = state.take_records();
        let may_be_due = self.journal.append(&records) | state.take_has_shrunk();
        if may_be_due && self.journal.is_due(|| state.size()) {
            self.checkpoint(&state);
        }
        result
    }

    /// Begins the journal anew with the whole state. The caller holds the state's lock.
    fn checkpoint(&self, state: &State) {
        let mut records = state.checkpoint();
        records.push(definitions_record(&self.store.current()));
        self.journal.checkpoint(&records);
    }
}

/// The definitions in force, for a server that begins while the file is malformed.
fn definitions_record(definitions: &Definitions) -> Record {
    Record::Other(SecretBuffer::new(definitions.to_record().as_bytes()))
}

/// The names in a folder, in the order of their offsets.
fn in_order(
    folder: u64,
    are_folders: bool,
    names: impl Iterator<Item = (String, Option<u64>)>,
) -> Vec<Listed> {
    let dots = [(".", folder), ("..", ROOT)].into_iter().zip(1..);
    let dots = dots.map(|((name, ino), offset)| Listed {
        offset,
        ino,
        is_dir: true,
        name: name.into(),
    });
    let names = names.map(|(name, ino)| {
        let offset = DirEntry::new(folder, &name).hashed_ino();
        Listed {
            offset,
            ino: ino.unwrap_or(offset),
            is_dir: are_folders,
            name,
        }
    });
    let mut listed: Vec<Listed> = dots.chain(names).collect();
    listed.sort_unstable_by_key(|listed| listed.offset);
    listed
}

fn version_attr(state: &State, ino: u64) -> Option<ViewAttr> {
    let Some(Inode::Version(version)) = state.inode(ino) else {
        return None;
    };
    Some(ViewAttr {
        ino,
        is_dir: false,
        owner: FileOwner::of_dir_entry(state.last_dir_entry(ino)?)?,
        size: version.value.len() as u64,
        changed_at: version.mtime,
        nlink: 1,
        valid: ATTR_VALID,
    })
}

#[cfg(test)]
mod tests {
    use super::super::view::folder_of;
    use super::*;

    #[test]
    fn a_folder_has_a_number_that_no_version_has() {
        assert!(is_folder(folder_of("trainer")) && folder_of("trainer") == folder_of("trainer"));
        assert_ne!(folder_of("trainer"), folder_of("trainee"));
        assert!(!is_folder(ROOT) && !is_folder(1 << 48));
    }
}
