//! What stands between the kernel and the tree, as `fuse` does it: which call answers at once, which is parked until a
//! provider has answered, and which goes to the thread that closes or the one that writes the store. The threads are
//! queues here; a step of the test has one of them do its next job. One file, as one server.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use simpletuner_live::hardware::{ConfiguredPrices, Hardware};
use simpletuner_live::live::{
    AttrChange, AttrChanged, Caller, Commits, LookupReply, OpError, Opened, Owner, Parts, Tree,
    WaitOn,
};
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::secret::SealingKey;
use simpletuner_live::versions::DirEntry;

use crate::Broken;
use crate::processes::Table;
use crate::provider::{Memory, Shared};

/// A request of the kernel.
#[derive(Clone, Debug)]
pub enum Request {
    Lookup(u64, String),
    Getattr(u64),
    Setattr(u64, Option<u64>, AttrChange),
    Open(u64, i32),
    Create(u64, String, i32),
    Read(u64, u64, u64, u32),
    Write(u64, u64, Vec<u8>, bool),
    Flush(u64),
    Fsync(u64),
    Unlink(u64, String),
    Rename(u64, String, String),
    Opendir(u64),
    ReadDirPlus(u64, u64, u64),
}

/// What it is answered with.
#[derive(Debug)]
pub enum Answer {
    Entry(LookupReply),
    Attr(simpletuner_live::live::Attr),
    Opened(Opened),
    Created(LookupReply, Opened),
    Data(Vec<u8>),
    Written(#[allow(dead_code)] u32),
    Done,
    Dir(u64),
    Names(Vec<(String, LookupReply, u64)>),
}

pub type Reply = Result<Answer, i32>;

enum Closing {
    Close(u64, Caller, u64),
    Release(u64, Option<DirEntry>),
}

enum Storing {
    /// The request that is answered then, or the name whose readers may wait for it.
    Commit(Option<u64>, Commits, Option<DirEntry>),
    Work(u64, Caller, Request),
}

/// What outlives a server.
pub struct Keeper {
    files: [File; 2],
    key: SealingKey,
    pub store: Shared,
    pub backend: Shared,
    table: Arc<Table>,
    broken: Broken,
}

impl Keeper {
    pub fn new(store: Shared, backend: Shared, table: Arc<Table>, broken: Broken) -> Self {
        Self {
            files: [(); 2].map(|()| tempfile::tempfile().unwrap()),
            key: SealingKey::random().unwrap(),
            store,
            backend,
            table,
            broken,
        }
    }
}

pub struct Server {
    keeper: Keeper,
    tree: Arc<Tree>,
    device: UnixStream,
    pub store: Arc<Memory>,
    pub backend: Arc<Memory>,
    closing: VecDeque<Closing>,
    storing: VecDeque<Storing>,
    waiting: Vec<(u64, WaitOn)>,
    woken: Arc<Mutex<Vec<WaitOn>>>,
    /// Requests that the kernel waits for.
    in_flight: BTreeMap<u64, (Caller, Request)>,
    replies: HashMap<u64, Reply>,
    /// Requests that were carried out, in that order.
    done: Vec<u64>,
}

fn errno(error: OpError) -> i32 {
    match error {
        OpError::Error(error) => error.errno(),
        OpError::Errno(errno) => errno,
        OpError::Blocked(_) => libc::EIO,
    }
}

impl Server {
    pub fn new(keeper: Keeper) -> Self {
        let store = Memory::new("file", &keeper.store);
        let backend = Memory::new("backend", &keeper.backend);
        let manager = SecretsManager::builder()
            .with_provider(store.clone())
            .with_provider(backend.clone())
            .build();
        let hardware = Hardware::in_registry(
            manager.caches(),
            Box::new(|| ConfiguredPrices::Current(None)),
        );
        let parts = Parts {
            manager,
            hardware: Arc::new(hardware),
            configs: None,
            views: None,
            audit: None,
            processes: keeper.table.clone(),
        };
        let owner = Owner {
            uid: 0,
            gid: 0,
            allows_root: false,
        };
        let files = keeper
            .files
            .each_ref()
            .map(|file| file.try_clone().unwrap());
        let (tree, commits) = Tree::restore(parts, owner, files, keeper.key.clone(), 0).unwrap();
        let (device, ours) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        if keeper.broken.is_in_large_folder() {
            tree.set_many_names(0);
        }
        tree.kernel_names().set_protocol((7, 44));
        tree.kernel_names().set_device(OwnedFd::from(ours));
        let mut server = Self {
            keeper,
            tree,
            device,
            store,
            backend,
            closing: VecDeque::new(),
            storing: VecDeque::new(),
            waiting: Vec::new(),
            woken: Arc::default(),
            in_flight: BTreeMap::new(),
            replies: HashMap::new(),
            done: Vec::new(),
        };
        server.commit_released(commits, None);
        server
    }

    /// The server ends, whatever it is at; the next one goes on from the journal, and is sent what was not answered.
    pub fn replaced(self) -> Self {
        let Self {
            keeper,
            in_flight,
            replies,
            closing,
            ..
        } = self;
        if keeper.broken == Broken::JournalIsLost {
            keeper
                .files
                .iter()
                .for_each(|file| file.set_len(0).unwrap());
        }
        let mut next = Self::new(keeper);
        next.replies = replies;
        for (id, (mut caller, request)) in in_flight {
            caller.is_resend = true;
            next.send(id, caller, request);
        }
        // A release is answered when it is done, so the kernel sends those that were not once more.
        for closing in closing {
            if let Closing::Release(handle, _) = closing {
                next.release(handle);
            }
        }
        next
    }

    /// Ends it without another; whether nothing is left of its tree.
    pub fn leaves_nothing(self) -> bool {
        let tree = Arc::downgrade(&self.tree);
        drop(self);
        tree.upgrade().is_none()
    }

    /// Whether the tree may not have done all yet for a handle that was released.
    pub fn is_releasing(&self, handle: u64) -> bool {
        let is_its =
            |closing: &Closing| matches!(closing, Closing::Release(of, _) if *of == handle);
        let is_behind = |storing: &Storing| matches!(storing, Storing::Commit(None, ..));
        self.closing.iter().any(is_its) || self.storing.iter().any(is_behind)
    }

    /// How many epochs the tree has sent since this was last asked.
    pub fn epochs(&mut self) -> u64 {
        let mut messages = Vec::new();
        // It ends with EAGAIN.
        let _ = self.device.read_to_end(&mut messages);
        assert_eq!(messages.len() % 16, 0);
        messages.len() as u64 / 16
    }

    pub fn take_done(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.done)
    }

    pub fn reply(&mut self, id: u64) -> Option<Reply> {
        self.replies.remove(&id)
    }

    pub fn send(&mut self, id: u64, caller: Caller, request: Request) {
        self.in_flight.insert(id, (caller, request));
        self.attempt(id, false);
        self.wake();
    }

    fn answer(&mut self, id: u64, reply: Reply) {
        if self.in_flight.remove(&id).is_some() {
            if reply.is_ok() {
                self.done.push(id);
            }
            self.replies.insert(id, reply);
        }
    }

    /// What the kernel does not wait for.
    pub fn forget(&mut self, node: u64, count: u64) {
        self.tree.forget(node, count);
    }

    pub fn release(&mut self, handle: u64) {
        let releasing = self.tree.begin_release(handle);
        self.closing.push_back(Closing::Release(handle, releasing));
    }

    pub fn refuse_write(&self, handle: u64) {
        self.tree.refuse_write(handle);
    }

    pub fn release_dir(&mut self, handle: u64) {
        self.tree.release_dir(handle);
    }

    fn attempt(&mut self, id: u64, has_waited: bool) {
        let Some((caller, request)) = self.in_flight.get(&id).cloned() else {
            return;
        };
        let tree = self.tree.clone();
        let result = match request.clone() {
            Request::Lookup(dir, name) => tree
                .lookup(&caller, dir, &name, has_waited)
                .map(Answer::Entry),
            Request::Getattr(node) => tree.attr(&caller, node, has_waited).map(Answer::Attr),
            Request::Setattr(node, handle, change) => {
                match tree.set_attr(&caller, node, handle, change, has_waited) {
                    Ok(AttrChanged::Done(attr)) => Ok(Answer::Attr(attr)),
                    Ok(AttrChanged::Commit(commits, _)) => {
                        let commit = Storing::Commit(Some(id), commits, None);
                        return self.storing.push_back(commit);
                    }
                    Err(error) => Err(error),
                }
            }
            Request::Open(node, flags) => {
                let opened = tree.open(&caller, node, flags, has_waited);
                opened.map(Answer::Opened)
            }
            Request::Create(dir, name, flags) => tree
                .create(&caller, dir, &name, flags, has_waited)
                .map(|(found, opened)| Answer::Created(found, opened)),
            Request::Read(node, handle, at, size) => tree
                .read(node, handle, at, size, has_waited, <[u8]>::to_vec)
                .map(Answer::Data),
            Request::Write(handle, at, bytes, appends) => tree
                .write(&caller, handle, at, &bytes, appends, has_waited)
                .map(Answer::Written),
            Request::Flush(handle) => {
                return self.closing.push_back(Closing::Close(id, caller, handle));
            }
            Request::Fsync(handle) => {
                tree.sync(handle);
                Ok(Answer::Done)
            }
            Request::Unlink(..) | Request::Rename(..) => {
                return self.storing.push_back(Storing::Work(id, caller, request));
            }
            Request::Opendir(dir) => tree.open_dir(&caller, dir, true).map(Answer::Dir),
            Request::ReadDirPlus(dir, handle, offset) => {
                let mut names = Vec::new();
                let read = tree.read_dir_plus(&caller, dir, handle, offset, |name, found, next| {
                    // Two names are a page.
                    let has_room = names.len() < 2;
                    if has_room {
                        names.push((name.to_owned(), *found, next));
                    }
                    has_room
                });
                read.map(|()| Answer::Names(names))
            }
        };
        match result {
            Ok(answer) => self.answer(id, Ok(answer)),
            Err(OpError::Blocked(on)) => {
                self.waiting.push((id, on.clone()));
                let woken = (self.woken.clone(), on.clone());
                let wake = move || woken.0.lock().unwrap().push(woken.1);
                self.tree.when_unblocked(&on, Box::new(wake));
            }
            Err(error) => self.answer(id, Err(errno(error))),
        }
    }

    /// Continues the requests whose wait is over.
    pub fn wake(&mut self) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock().unwrap());
            if woken.is_empty() {
                return;
            }
            let (ready, waiting) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(_, on)| woken.contains(on));
            self.waiting = waiting;
            let ready: Vec<(u64, WaitOn)> = ready;
            ready.iter().for_each(|(id, _)| self.attempt(*id, true));
        }
    }

    fn end_release(&mut self, dir_entry: Option<DirEntry>) {
        if let Some(dir_entry) = dir_entry {
            self.tree.end_release(&dir_entry);
            self.woken.lock().unwrap().push(WaitOn::Write(dir_entry));
        }
    }

    fn commit_released(&mut self, commits: Commits, releasing: Option<DirEntry>) {
        let commit = Storing::Commit(None, commits, releasing);
        self.storing.push_back(commit);
    }

    /// The next job of the thread that looks at who closes; whether there was one.
    pub fn close_next(&mut self) -> bool {
        match self.closing.pop_front() {
            None => return false,
            Some(Closing::Close(id, caller, handle)) => {
                let commits = self.tree.close(&caller, handle);
                match commits.is_empty() {
                    true => self.answer(id, Ok(Answer::Done)),
                    false => self
                        .storing
                        .push_back(Storing::Commit(Some(id), commits, None)),
                }
            }
            Some(Closing::Release(handle, releasing)) => {
                let commits = self.tree.release(handle);
                self.commit_released(commits, releasing);
            }
        }
        self.wake();
        true
    }

    /// The next job of the thread that writes the store, with the commits behind it; whether there was one.
    pub fn store_next(&mut self) -> bool {
        match self.storing.pop_front() {
            None => return false,
            Some(Storing::Work(id, caller, request)) => {
                let result = match &request {
                    Request::Unlink(dir, name) => self.tree.unlink(&caller, *dir, name),
                    Request::Rename(dir, from, to) => {
                        self.tree.rename(&caller, *dir, from, *dir, to, 0)
                    }
                    _ => unreachable!(),
                };
                let reply = result.map(|()| Answer::Done).map_err(errno);
                self.answer(id, reply);
            }
            Some(Storing::Commit(id, commits, releasing)) => {
                let (mut all, mut ends) = (vec![commits], vec![(id, releasing)]);
                while let Some(Storing::Commit(..)) = self.storing.front()
                    && let Some(Storing::Commit(id, commits, releasing)) = self.storing.pop_front()
                {
                    all.push(commits);
                    ends.push((id, releasing));
                }
                let results = self.tree.commit(&all);
                for ((id, releasing), result) in ends.into_iter().zip(results) {
                    if let Some(id) = id {
                        self.answer_commit(id, result);
                    }
                    self.end_release(releasing);
                }
            }
        }
        self.wake();
        true
    }

    fn answer_commit(&mut self, id: u64, result: Result<(), OpError>) {
        // A truncation is answered with attributes, of which the kernel takes the size that it asked for.
        let reply = result.map(|()| Answer::Done).map_err(errno);
        self.answer(id, reply);
    }

    /// The backend answers what it was asked.
    pub fn backend_answers(&mut self) -> bool {
        let answered = self.backend.clone().answer();
        self.wake();
        answered
    }

    /// What the backend held is out of date.
    pub fn expire(&mut self) {
        self.tree.manager().clear_cache();
        self.wake();
    }

    /// What a reader must get who asks now.
    pub fn truth(&self, name: &str) -> Option<Vec<u8>> {
        let store = self.keeper.store.lock().unwrap().truth(name);
        store.or_else(|| self.keeper.backend.lock().unwrap().truth(name))
    }

    pub fn take_mutations(&mut self) -> Vec<crate::provider::Mutation> {
        self.keeper.store.lock().unwrap().take_mutations()
    }

    pub fn edit(&mut self, is_store: bool, name: &str, value: Option<&str>) {
        let (source, provider) = match is_store {
            true => (&self.keeper.store, self.store.clone()),
            false => (&self.keeper.backend, self.backend.clone()),
        };
        source.lock().unwrap().edit(name, value);
        match is_store {
            true => provider.notice(),
            false => self.expire(),
        }
        self.wake();
    }

    pub fn secrets_dir(&self) -> u64 {
        let caller = Caller {
            uid: 0,
            tid: 0,
            request: 0,
            is_resend: false,
        };
        let found = self
            .tree
            .lookup(&caller, simpletuner_live::live::ROOT, "secrets", false);
        found.unwrap().nodeid
    }
}
