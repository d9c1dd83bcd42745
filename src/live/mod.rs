//! The tree of files that a mount shows to its owner: what each name is, what a reader gets, and when a write takes effect.
//! The module `fuse` calls it for each request. Knows no fuser type and no mount point.
//!
//! A name leads to a version of its content until something changes. A change sends the kernel one epoch before it is
//! acknowledged ([`KernelNames`]). An operation never waits for a provider: one that cannot be answered yet returns what it is
//! blocked on ([`WaitOn`]). Its caller waits for that ([`Tree::when_unblocked`]) and then calls it again.
//! [`Tree`] is one type, because each operation may change any of it; its methods stand in the file of their operation.

mod access;
mod audit;
mod close;
mod commit;
mod content;
mod create;
mod documents;
mod events;
mod failed_write;
mod files;
mod journaled;
mod kind;
mod layout;
mod listing;
mod lookup;
mod metrics;
mod open;
mod resolved;
mod set_attr;
mod status;
mod to_scratch;
mod unlink_rename;
mod views;
mod write;
mod write_check;
mod xattr;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

pub use commit::{Commit, Commits};
pub use files::parse_prefix;
pub use kind::FileType;
pub use layout::ROOT;
pub use listing::Listed;
pub use open::Opened;
pub use set_attr::{AttrChange, AttrChanged};
pub use status::{KernelInfo, MountChange, MountInfo, Restart, SocketInfo, ViewsInfo};
pub use write_check::WriteCheck;

use crate::audit::AuditTrail;
use crate::bundle::BundleFormat;
use crate::error::Error;
use crate::hardware::Hardware;
use crate::manager::{ChangeSet, ChangedKey, SecretsManager, Snapshot};
use crate::metrics::Counters;
use crate::process::Processes;
use crate::secret::SecretName;
use crate::simpletuner_db::ProviderConfigs;
use crate::sync::{Mutex, MutexGuard};
use crate::versions::{self, DirEntry, Journal, KernelNames, State};
use crate::views::ViewStore;
use documents::Documents;
use journaled::Journaled;
use kind::DirKind;
use layout::Layout;

/// The process that asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Thread; 0 if it is in a pid namespace that the daemon cannot see.
    pub tid: u32,
    /// The request's number.
    pub request: u64,
    /// A server that ended without an answer had taken the request already, and may have carried it out.
    pub is_resend: bool,
}

/// Why an operation has no result (yet).
#[derive(Debug)]
pub enum OpError {
    /// It failed, for a reason that is worth logging.
    Error(Error),
    /// It failed in an expected way that needs no log line.
    Errno(i32),
    /// It cannot be answered yet: its caller waits for this, and then repeats it.
    Blocked(WaitOn),
}

impl OpError {
    /// EIO for a state that should be impossible.
    fn unexpected(what: &str) -> Self {
        let eio = std::io::Error::from_raw_os_error(libc::EIO);
        OpError::Error(Error::io(what, eio))
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        OpError::Error(error)
    }
}

/// What an operation is blocked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOn {
    /// The answer of a provider.
    Secret(SecretName),
    /// The answers of all providers.
    Listing,
    /// The first read of the secrets file.
    Store,
    /// A provider's configuration, while another program has locked the database.
    Config(String),
    /// A large document that is being rendered.
    Document(BundleFormat),
    /// The end of a write that is committed only after its writer's close has returned.
    Write(DirEntry),
    /// Whether the file of a request can be written.
    WriteCheck(WriteCheck),
}

/// Which resource blocking work waits on. Each has its own worker thread, so that one cannot delay the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkQueue {
    /// The disk, and other writers of the secrets file.
    Store,
    /// Other users of SimpleTuner's database.
    Database,
}

/// What a tree shows as files, and what it needs for that.
pub struct Parts {
    /// The chain of providers.
    pub manager: Arc<SecretsManager>,
    /// The prices.
    pub hardware: Arc<Hardware>,
    /// The providers' configurations; without them `config/` is empty.
    pub configs: Option<Arc<ProviderConfigs>>,
    /// The audit trail; `None`: nothing is recorded.
    pub audit: Option<Arc<AuditTrail>>,
    /// The definitions of views; without them `views/` is empty.
    pub views: Option<Arc<ViewStore>>,
    /// Its callers: [`Proc`](crate::process::Proc), unless a test makes them up.
    pub processes: Arc<dyn Processes>,
}

/// The user and group that own a tree.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether root has access, too.
    pub allows_root: bool,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The file's number, the same for all its versions.
    pub ino: u64,
    /// Folder or file.
    pub file_type: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// When the content last changed, or the time that a program set.
    pub mtime: SystemTime,
    /// When any of this changed.
    pub ctime: SystemTime,
    /// How many names lead to it: 1, or 0 once it was removed.
    pub nlink: u32,
    /// How long the kernel may keep this.
    pub valid: Duration,
}

/// What a lookup gives for a name (FUSE: `fuse_entry_out`).
#[derive(Clone, Copy, Debug)]
pub struct LookupReply {
    /// The inode number by which the kernel asks for it (FUSE: nodeid); `attr.ino` is the one that users see.
    pub nodeid: u64,
    /// What `stat` shows.
    pub attr: Attr,
    /// How long the kernel may take the name for this inode without asking.
    pub valid: Duration,
}

/// The tree of files; see the [module](self).
pub struct Tree {
    manager: Arc<SecretsManager>,
    hardware: Arc<Hardware>,
    configs: Option<Arc<ProviderConfigs>>,
    audit: Option<Arc<AuditTrail>>,
    views: Option<Arc<ViewStore>>,
    processes: Arc<dyn Processes>,
    owner: Owner,
    layout: Layout,
    /// Whether `/proc` shows the callers under the numbers that requests give.
    sees_callers: bool,
    names: KernelNames,
    // The outermost lock: taken for each request, and by the threads that close and commit. The manager's locks and
    // `journaled` may be taken inside it. Listeners of the manager must not take it.
    state: Mutex<State>,
    journal: Journal,
    /// The journal may need a checkpoint at the next change of the state.
    checkpoint_is_due: AtomicBool,
    journaled: Mutex<Journaled>,
    documents: Documents,
    /// Answers of providers for the callers that waited for them.
    recent_lookups: content::RecentLookups,
    /// Names whose last writer is gone and whose commit may still be under way, with the number of such writers.
    releasing: Mutex<HashMap<DirEntry, usize>>,
    write_checks: write_check::WriteChecks,
    /// A leaf lock.
    failed_write: Mutex<Option<failed_write::FailedWrite>>,
    /// The snapshot of the last change, to see which names a change adds or takes away.
    seen: Mutex<Arc<Snapshot>>,
    /// Pages of listings that the kernel may not have processed yet.
    listings: Mutex<listing::UnprocessedListings>,
    /// How many entries the last invalidation dropped.
    invalidated: AtomicU64,
    mount: Mutex<MountInfo>,
    reload: OnceLock<status::Reload>,
    counters: Counters,
}

impl Tree {
    /// A tree over these parts that ends with its process.
    pub fn new(parts: Parts, owner: Owner) -> Arc<Self> {
        let restored = versions::Restored::new(0);
        Self::from_parts(parts, owner, Journal::default(), restored).0
    }

    /// The tree that a server before this one left in the journal's files, and the commits that were under way then.
    /// Inodes and handles besides the folders get numbers from `numbers_from` on, where the kernel may know others that
    /// are not in the journal.
    ///
    /// # Errors
    /// [`Error::Io`] where the files cannot be read.
    pub fn restore(
        parts: Parts,
        owner: Owner,
        files: [std::fs::File; 2],
        key: crate::secret::SealingKey,
        numbers_from: u64,
    ) -> Result<(Arc<Self>, Commits), Error> {
        let (journal, restored) = Journal::open(files, key, numbers_from)
            .map_err(|e| Error::io("the journal of the server before this one", e))?;
        Ok(Self::from_parts(parts, owner, journal, restored))
    }

    fn from_parts(
        parts: Parts,
        owner: Owner,
        journal: Journal,
        restored: versions::Restored,
    ) -> (Arc<Self>, Commits) {
        let Parts {
            manager,
            hardware,
            configs,
            audit,
            views,
            processes,
        } = parts;
        let (journaled, left) = Journaled::restore(&restored.others);
        if let Some(prices) = &left.prices
            && let Err(error) = hardware.restore(prices)
        {
            tracing::error!("the prices that were set are lost: {error}");
        }
        if let Some(backends) = &left.backends {
            manager.restore_backends(backends);
        }
        let providers: Vec<String> = manager.provider_names();
        let tree = Arc::new(Self {
            layout: Layout::new(&manager.caches().names(), &providers, journaled.started_at),
            manager: manager.clone(),
            hardware,
            configs,
            audit,
            views,
            owner,
            sees_callers: processes.sees_callers(),
            processes,
            names: KernelNames::new(owner.shares_mount()),
            state: Mutex::new(restored.state),
            journal,
            checkpoint_is_due: AtomicBool::new(false),
            journaled: Mutex::new(journaled),
            documents: Documents::default(),
            recent_lookups: content::RecentLookups::default(),
            releasing: Mutex::default(),
            write_checks: write_check::WriteChecks::default(),
            failed_write: Mutex::default(),
            seen: Mutex::new(manager.snapshot()),
            listings: Mutex::new(listing::UnprocessedListings::new()),
            invalidated: AtomicU64::new(0),
            mount: Mutex::default(),
            reload: OnceLock::new(),
            counters: Counters::default(),
        });
        let listener = Arc::downgrade(&tree);
        manager.on_event(Box::new(move |event| {
            if let Some(tree) = listener.upgrade() {
                tree.add_event(event);
            }
        }));
        let listener = Arc::downgrade(&tree);
        manager.on_change(Box::new(move |changes| {
            if let Some(tree) = listener.upgrade() {
                tree.secrets_changed(changes);
            }
        }));
        if let Some(views) = &tree.views {
            let listener = Arc::downgrade(&tree);
            views.on_change(Box::new(move |change| {
                if let Some(tree) = listener.upgrade().filter(|_| !change.is_repeat) {
                    tree.views_changed(change);
                }
            }));
        }
        let listener = Arc::downgrade(&tree);
        manager.on_backends_changed(move || {
            if let Some(tree) = listener.upgrade() {
                tree.journal_backends();
            }
        });
        tree.checkpoint(&tree.state.lock());
        let commits = Commits::of_buffers(restored.unfinished);
        (tree, commits)
    }

    /// Readers see something else from now on. Called after the change is in place and before it is acknowledged, from
    /// any thread.
    fn changed(&self) {
        self.recent_lookups.clear();
        self.listings_outdated();
        self.names.next_epoch();
    }

    /// The manager has a new snapshot.
    fn secrets_changed(&self, changes: &ChangeSet) {
        let before = std::mem::replace(&mut *self.seen.lock(), changes.snapshot.clone());
        let names_differ =
            |changed: &ChangedKey| before.has(&changed.name) != changes.snapshot.has(&changed.name);
        if changes.any || changes.keys.iter().any(names_differ) {
            self.layout.mark_changed(&DirKind::Secrets);
        }
        self.changed();
    }

    /// The names that the kernel holds.
    pub fn kernel_names(&self) -> &KernelNames {
        &self.names
    }

    /// The chain behind the tree.
    pub fn manager(&self) -> &Arc<SecretsManager> {
        &self.manager
    }

    /// Calls `done`, on any thread, once the operation is no longer blocked. Asks the provider, or starts the rendering, that
    /// it is blocked on.
    pub fn when_unblocked(self: &Arc<Self>, on: &WaitOn, done: crate::provider::Done) {
        match on {
            WaitOn::Secret(name) => {
                let (tree, asked) = (self.clone(), name.clone());
                let answered = move |answer| {
                    tree.recent_lookups.put(asked, answer);
                    done();
                };
                self.manager.find_async(name, Box::new(answered));
            }
            WaitOn::Listing => self.manager.refresh_async(Box::new(move |_| done())),
            WaitOn::Store => self.manager.read_store_async(done),
            WaitOn::Config(name) => match &self.configs {
                Some(configs) => configs.when_readable(name, done),
                None => done(),
            },
            WaitOn::Document(format) => self.render_in_background(*format, done),
            // The write may have ended before this caller began to wait.
            WaitOn::Write(dir_entry) if !self.is_releasing(dir_entry) => done(),
            WaitOn::Write(_) => {}
            WaitOn::WriteCheck(check) => self.begin_write_check(check, done),
        }
    }

    /// What is counted of the mount, and of that of the views.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The user and group that all files belong to.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    fn state(&self) -> StateGuard<'_> {
        StateGuard {
            state: self.state.lock(),
            tree: self,
        }
    }
}

/// The locked state. Dropping it appends the changes to the journal, before the operation is answered.
struct StateGuard<'a> {
    state: MutexGuard<'a, State>,
    tree: &'a Tree,
}

impl Deref for StateGuard<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        let records = self.state.take_records();
        let may_be_due = self.tree.journal.append(&records)
            | self.tree.checkpoint_is_due.swap(false, Ordering::Relaxed)
            | self.state.take_has_shrunk();
        if may_be_due && self.tree.journal.is_due(|| self.state.size()) {
            self.tree.checkpoint(&self.state);
        }
    }
}
