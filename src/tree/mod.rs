//! The virtual tree: what is at which name, what a reader gets, and when a write takes effect. Knows no fuser type and
//! no mount point; the rooms around it turn the kernel's requests into its calls.
//!
//! How a reader gets one whole value in one trip: every content has an inode of its own (a *version*), whose pages the
//! kernel may keep for ever. Every open comes here and is judged: if the version is no longer its file's current
//! content, the answer is ESTALE, at which the kernel walks the path once more, and the lookup gives it the current
//! version. A writer is sent the same way to a *private* inode with a buffer of its own, which takes effect when its
//! last holder closes it. No read depends on a notification to the kernel; those only keep `stat` fresh.

mod audit;
pub mod bundle;
mod commit;
mod content;
mod events;
mod listing;
mod lookup;
mod marks;
mod names;
mod nodes;
mod open;
mod places;
pub mod process;
mod saved;
mod tracked;
mod write;
mod xattr;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use commit::Closing;
pub use content::parse_prefix;
pub use listing::Listed;
pub use open::Opened;
pub use write::{Change as AttrChange, Changed as AttrChanged};

use crate::error::Error;
use crate::hardware::Hardware;
use crate::ledger::Ledger;
use crate::manager::SecretsManager;
use crate::secret::{SealingKey, SecretName};
use crate::state::ProviderConfigs;
use crate::state::audit::AuditTrail;
use bundle::Base;
use events::EventLog;
use nodes::State;
use places::{Dir, File, Place, shown};
use process::Process;
use saved::{Item, Notes, Saved};

/// The inode number of the root folder.
pub const ROOT: u64 = nodes::ROOT;
/// How long the kernel may answer a `stat` by itself. Changes take it out earlier; this bounds what a lost
/// notification can cost. Opens are judged each time.
const VALID: Duration = Duration::from_secs(1);
/// Folders that are always there.
const DIR_VALID: Duration = Duration::from_secs(60);

/// Who asks. `pid` is the number of the thread, 0 where it is in a pid namespace out of sight.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Thread.
    pub pid: u32,
    /// The request's number.
    pub request: u64,
    /// A server that ended without an answer had taken the request already, and may have carried it out.
    pub comes_again: bool,
}

/// Why an operation has no result (yet).
#[derive(Debug)]
pub enum Stop {
    /// It failed, for a reason that is worth telling.
    Error(Error),
    /// It failed, as such operations do.
    Errno(i32),
    /// It cannot be answered yet: do it again when this is settled.
    Wait(WaitOn),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

/// What a waiting operation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOn {
    /// The answer of a provider ([`SecretsManager::fetch`]).
    Secret(SecretName),
    /// The answers of all providers ([`SecretsManager::fetch_all`]).
    Listing,
    /// The end of a write that nobody is there to be told of ([`Tree::settle`]).
    Write(SettlingName),
    /// A provider's configuration, while another program has locked the database ([`ProviderConfigs::fetch`]).
    Config(String),
}

/// Whom work that may wait waits for: what waits for another has a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The disk, and other writers of the secrets file.
    Store,
    /// Other users of SimpleTuner's database.
    Database,
}

/// What a tree shows.
pub struct Parts {
    /// The chain of providers.
    pub manager: Arc<SecretsManager>,
    /// The prices.
    pub hardware: Arc<Hardware>,
    /// The providers' configurations; without them `config/` is empty.
    pub configs: Option<Arc<ProviderConfigs>>,
    /// Where it is recorded who does what; `None`: nowhere.
    pub audit: Option<Arc<AuditTrail>>,
}

/// A name whose last writer is gone and whose commit is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettlingName(Place);

/// What kind of file a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A folder.
    Dir,
    /// A regular file.
    File,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The file's number, the same for all its versions.
    pub ino: u64,
    /// Folder or file.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// When the content became what it is.
    pub mtime: SystemTime,
    /// Names.
    pub nlink: u32,
    /// How long the kernel may keep this.
    pub valid: Duration,
}

/// A name's inode, as a lookup gives it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The inode's number for the kernel: the version's or the writer's.
    pub node: u64,
    /// What `stat` shows.
    pub attr: Attr,
    /// How long the kernel may take the name for this inode without asking.
    pub valid: Duration,
}

/// A name that the kernel should look up anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// The folder's inode number.
    pub dir: u64,
    /// The name in it.
    pub name: String,
}

/// What the rooms above tell about the mount, for the file `status`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MountInfo {
    /// Where it is mounted.
    pub mount_point: String,
    /// Whether root may use it, too.
    pub allow_root: bool,
    /// What the kernel speaks.
    pub kernel: KernelInfo,
    /// The process that sees to it that one answers, where there is one.
    pub keeper_pid: Option<u32>,
    /// The servers that ended, the last ones.
    pub restarts: Vec<Restart>,
    /// Where the program lies that `upgrade` changes to.
    pub program: Option<String>,
    /// The last upgrade that was tried.
    pub upgrade: Option<Upgrade>,
}

/// A server that ended, and had another one come after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restart {
    /// When, as RFC 3339 has it.
    pub at: String,
    /// Why: a signal's name, or a word.
    pub reason: String,
}

/// An upgrade that was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upgrade {
    /// How many have been tried.
    pub number: u64,
    /// When, as RFC 3339 has it.
    pub at: String,
    /// Why the program stayed the one that it was; `None`: it did not.
    pub error: Option<String>,
}

/// The kernel's FUSE protocol.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelInfo {
    /// Version, as `7.44`.
    pub fuse: String,
    /// Whether it can send again what a dead server had taken.
    pub resend: bool,
}

/// The tree. See the module for how it works.
pub struct Tree {
    manager: Arc<SecretsManager>,
    hardware: Arc<Hardware>,
    configs: Option<Arc<ProviderConfigs>>,
    audit: Option<Arc<AuditTrail>>,
    /// The mounting user and group.
    owner: (u32, u32),
    started_at: SystemTime,
    secrets_dir: u64,
    bundle_dir: u64,
    // Taken for each request, mostly by the one thread that reads them, and by the thread that commits. The manager's
    // locks are inside it; it calls listeners with none of its own held, and ours must not take this one.
    state: Mutex<State>,
    bases: Mutex<Bases>,
    /// Where what is done is noted for the next server. Its lock is the innermost.
    notes: Notes,
    events: Arc<EventLog>,
    /// How many entries the last invalidation dropped.
    invalidated: AtomicU64,
    mount: Mutex<MountInfo>,
    outdated: OnceLock<Box<dyn Fn(Outdated) + Send + Sync>>,
}

impl Tree {
    /// A tree over these parts, which belongs to `owner` (user, group).
    pub fn new(parts: Parts, owner: (u32, u32)) -> Arc<Self> {
        let saved = Saved::default();
        let (tree, _) = Self::go_on(parts, owner, saved, Notes::default());
        tree
    }

    /// The tree that a server before this one noted in the ledger's files, and the commits that were under way then,
    /// which are to be done and [`settled`](Self::settle). What is done in it is noted there, too. Inodes and handles
    /// besides the folders get numbers from `numbers_from` on, where the kernel may know others that are not noted.
    ///
    /// # Errors
    /// [`Error::Io`] where the files cannot be read.
    pub fn restore(
        parts: Parts,
        owner: (u32, u32),
        files: [std::fs::File; 2],
        key: SealingKey,
        numbers_from: u64,
    ) -> Result<(Arc<Self>, Vec<Closing>), Error> {
        let mut saved = Saved::with_numbers_from(numbers_from);
        let ledger = Ledger::open(files, key, |record| saved.take_in(record))
            .map_err(|e| Error::io("what the server before this one noted", e))?;
        let notes = Notes::in_ledger(ledger);
        Ok(Self::go_on(parts, owner, saved, notes))
    }

    fn go_on(
        parts: Parts,
        owner: (u32, u32),
        mut saved: Saved,
        notes: Notes,
    ) -> (Arc<Self>, Vec<Closing>) {
        let Parts {
            manager,
            hardware,
            configs,
            audit,
        } = parts;
        let events = std::mem::take(&mut saved.events);
        let events = Arc::new(EventLog::new(events, notes.clone()));
        let mut bases = Bases::default();
        for (process, base) in std::mem::take(&mut saved.bases) {
            bases.put(process, Arc::new(base));
        }
        if let Some(prices) = saved.prices.take()
            && let Err(error) = hardware.restore(&prices)
        {
            tracing::error!("the prices that were set are lost: {error}");
        }
        let started_at = saved.begun.unwrap_or_else(SystemTime::now);
        let (state, unfinished) = saved.into_state(&manager.caches().names());
        let tree = Arc::new(Self {
            manager: manager.clone(),
            hardware,
            configs,
            audit,
            owner,
            started_at,
            secrets_dir: state.dir_number(&Dir::Secrets),
            bundle_dir: state.dir_number(&Dir::Bundle),
            state: Mutex::new(state),
            bases: Mutex::new(bases),
            notes,
            events: events.clone(),
            invalidated: AtomicU64::new(0),
            mount: Mutex::default(),
            outdated: OnceLock::new(),
        });
        let listener = Arc::downgrade(&tree);
        manager.on_event(Box::new(move |event| {
            events.push(event);
            if let (Some(tree), Some(key)) = (listener.upgrade(), &event.key) {
                tree.announce(key);
            }
        }));
        let mut state = tree.state();
        tree.note_all(&state);
        state.untouch();
        drop(state);
        (tree, unfinished)
    }

    /// Sets who is told of names that the kernel should look up anew. It is called from any thread and must not wait.
    pub fn on_outdated(&self, tell: Box<dyn Fn(Outdated) + Send + Sync>) {
        // Only the first mount of a tree is told; there is only one.
        let _ = self.outdated.set(tell);
    }

    /// Sets what `status` tells of the mount.
    pub fn set_mount_info(&self, change: impl FnOnce(&mut MountInfo)) {
        change(
            &mut self
                .mount
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
    }

    /// What `status` tells of the mount.
    pub fn mount_info(&self) -> MountInfo {
        let mount = self.mount.lock();
        mount.unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Adds to the events that this server came after another.
    pub fn tell_restart(&self, restart: &Restart) {
        self.events.push(&serde_json::json!({
            "at": restart.at, "event": "server_restarted", "reason": restart.reason,
        }));
    }

    /// The providers' configurations, where it shows them.
    pub fn configs(&self) -> Option<&Arc<ProviderConfigs>> {
        self.configs.as_ref()
    }

    /// Whom a commit of the inode waits for.
    pub fn lane(&self, ino: u64) -> Lane {
        let state = self.state();
        let target = state.private(ino).map(|private| &private.target);
        self.lane_of_places(&state, target)
    }

    /// Whom a change of these names in a folder waits for.
    pub fn lane_of_names(&self, dir: u64, names: &[&str]) -> Lane {
        let place = |name: &&str| Place {
            dir,
            name: (*name).into(),
        };
        let places: Vec<Place> = names.iter().map(place).collect();
        self.lane_of_places(&self.state(), &places)
    }

    fn lane_of_places<'a>(
        &self,
        state: &State,
        places: impl IntoIterator<Item = &'a Place>,
    ) -> Lane {
        let is_config = |place: &Place| matches!(self.file_at(state, place), Some(File::Config(_)));
        match places.into_iter().any(is_config) {
            true => Lane::Database,
            false => Lane::Store,
        }
    }

    /// The chain behind the tree.
    pub fn manager(&self) -> &Arc<SecretsManager> {
        &self.manager
    }

    fn state(&self) -> StateGuard<'_> {
        let state = self.state.lock();
        StateGuard {
            state: state.unwrap_or_else(|poisoned| poisoned.into_inner()),
            tree: self,
        }
    }

    /// Notes all there is, in the place of all notes so far.
    fn note_all(&self, state: &State) {
        if !self.notes.are_kept() {
            return;
        }
        let prices = self.hardware.to_note();
        let bases = self.bases();
        self.events.with_all(|events| {
            let mut all = saved::all(state);
            all.push(Item::Begun(self.started_at));
            all.push(Item::Events(true, events));
            all.push(Item::Prices(prices.as_deref()));
            all.extend(
                bases
                    .in_order()
                    .map(|(process, base)| Item::Base(process, base)),
            );
            self.notes.renew(&all);
        });
    }

    /// Notes the prices, when they may have been set or put back.
    fn note_prices(&self) {
        if self.notes.are_kept() {
            let prices = self.hardware.to_note();
            self.notes.note(&[Item::Prices(prices.as_deref())]);
        }
    }

    fn put_base(&self, process: Process, base: Base) {
        let base = Arc::new(base);
        let mut bases = self.bases();
        self.notes.note(&[Item::Base(process, &base)]);
        bases.put(process, base);
    }

    fn bases(&self) -> MutexGuard<'_, Bases> {
        self.bases
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn tell_outdated(&self, place: &Place) {
        if let Some(tell) = self.outdated.get()
            && shown(&place.name) == place.name
        {
            tell(Outdated {
                dir: place.dir,
                name: place.name.clone(),
            });
        }
    }

    /// The value of a secret is another now: its file is, and so are the bundle's.
    fn announce(&self, key: &str) {
        let Some(tell) = self.outdated.get() else {
            return;
        };
        tell(Outdated {
            dir: self.secrets_dir,
            name: key.into(),
        });
        for name in ["secrets.json", "secrets.yaml", "secrets.env"] {
            tell(Outdated {
                dir: self.bundle_dir,
                name: name.into(),
            });
        }
    }

    /// All that the kernel has seen of the versioned files may be old.
    fn drop_kernel_caches(&self) {
        let places: Vec<Place> = self.state().names.keys().cloned().collect();
        for place in places {
            self.tell_outdated(&place);
        }
    }

    fn status(&self) -> impl Serialize + use<> {
        let mount = self.mount_info();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "keeper_pid": mount.keeper_pid,
            "server_pid": std::process::id(),
            "started_at": crate::provider::rfc3339(self.started_at),
            "restarts": mount.restarts,
            "program": mount.program,
            "upgrade": mount.upgrade,
            "mount_point": mount.mount_point,
            "allow_root": mount.allow_root,
            "kernel": mount.kernel,
        })
    }
}

/// The state while it is looked at and changed. What was changed is noted when this is dropped, before anybody is told.
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
        let notes = &self.tree.notes;
        if !notes.are_kept() {
            return self.state.untouch();
        }
        let changes = saved::changes(&mut self.state);
        if changes.is_empty() {
            return;
        }
        notes.note(&changes);
        drop(changes);
        if notes.are_long() {
            self.tree.note_all(&self.state);
        }
    }
}

/// What each process last saw of the bundle, for the most recent ones.
#[derive(Default)]
struct Bases {
    by_process: HashMap<Process, (u64, Arc<Base>)>,
    clock: u64,
}

impl Bases {
    const MOST: usize = 256;

    fn put(&mut self, process: Process, base: Arc<Base>) {
        self.clock += 1;
        if self.by_process.len() >= Self::MOST
            && let Some(oldest) = self
                .by_process
                .iter()
                .min_by_key(|(_, (at, _))| *at)
                .map(|(p, _)| *p)
        {
            self.by_process.remove(&oldest);
        }
        self.by_process.insert(process, (self.clock, base));
    }

    /// The oldest first.
    fn in_order(&self) -> impl Iterator<Item = (Process, &Base)> {
        let mut all: Vec<_> = self.by_process.iter().collect();
        all.sort_by_key(|(_, (at, _))| *at);
        all.into_iter()
            .map(|(process, (_, base))| (*process, &**base))
    }

    fn get(&self, process: Process) -> Option<Arc<Base>> {
        self.by_process.get(&process).map(|(_, base)| base.clone())
    }
}
