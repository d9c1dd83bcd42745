//! A made-up kernel: names with validity and epochs, inodes with pages and counted lookups, the lock of a folder, and how
//! Linux walks to a name (fs/namei.c, fs/fuse/dir.c). Where another process may come between, it gives up its turn.
//! One file: the walk to a name uses all of it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use simpletuner_live::live::{Caller, LookupReply};

use crate::Broken;
use crate::processes::Table;
use crate::reference::Reference;
use crate::server::{Answer, Reply, Request, Server};

/// Names in the folder, some of which the backend may have, too.
pub const NAMES: [&str; 4] = ["A", "B", "C", "R"];

#[derive(Clone, Copy)]
struct Dentry {
    node: u64,
    is_valid: bool,
    epoch: u64,
}

#[derive(Default)]
pub struct Inode {
    lookups: u64,
    pub size: u64,
    pub attr_is_valid: bool,
    /// What `/proc/PID/fdinfo` shows of it.
    pub ino: u64,
    pub pages: HashMap<u64, Vec<u8>>,
    /// Walks and open files.
    pins: u32,
}

#[derive(Default)]
pub struct Kernel {
    epoch: u64,
    dentries: HashMap<String, Dentry>,
    in_lookup: HashSet<String>,
    pub inodes: HashMap<u64, Inode>,
    requests: u64,
    has_writer: bool,
    readers: u32,
    /// How often there was a new server, or another document of the backend.
    pub disturbances: u32,
}

/// Everything.
pub struct World {
    pub kernel: RefCell<Kernel>,
    server: RefCell<Option<Server>>,
    pub table: Arc<Table>,
    pub reference: RefCell<Reference>,
    pub dir: u64,
    broken: Broken,
    /// Requests and answers, for the report of a failure.
    pub trace: RefCell<Vec<String>>,
    /// What the reference records when a request is carried out.
    on_carried_out: RefCell<HashMap<u64, OnCarriedOut>>,
    /// Open files that are gone, with their handles: the tree may not have done all for them yet.
    releasing: RefCell<Vec<(u64, u64)>>,
}

pub type OnCarriedOut = Box<dyn FnOnce(&mut Reference)>;

/// Lets others come between.
pub async fn turn() {
    let mut has_waited = false;
    poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// An inode that is held.
pub struct Pin {
    world: Rc<World>,
    pub node: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.world.unpin(self.node);
    }
}

impl World {
    pub fn new(server: Server, table: Arc<Table>, broken: Broken) -> Rc<Self> {
        let world = Rc::new(Self {
            dir: server.secrets_dir(),
            kernel: RefCell::default(),
            server: RefCell::new(Some(server)),
            table,
            reference: RefCell::default(),
            broken,
            trace: RefCell::default(),
            on_carried_out: RefCell::default(),
            releasing: RefCell::default(),
        });
        world.look_around(true, false);
        world
    }

    /// Has the server do something, and takes in what came of it: epochs, and changes of the store.
    pub fn serve<T>(&self, work: impl FnOnce(&mut Server) -> T) -> T {
        self.serve_as(false, false, work)
    }

    fn serve_as<T>(
        &self,
        by_others: bool,
        is_deaf: bool,
        work: impl FnOnce(&mut Server) -> T,
    ) -> T {
        let given = work(self.server.borrow_mut().as_mut().unwrap());
        self.look_around(by_others, is_deaf);
        given
    }

    /// Somebody else changes the store or the backend.
    pub fn edit(&self, is_store: bool, name: &str, value: Option<&str>) {
        if !is_store {
            self.kernel.borrow_mut().disturbances += 1;
            let value = value.map(|value| value.as_bytes().to_vec());
            self.reference.borrow_mut().backend_has(name, value);
        }
        self.serve_as(true, false, |server| server.edit(is_store, name, value));
    }

    fn look_around(&self, by_others: bool, is_deaf: bool) {
        let mut server = self.server.borrow_mut();
        let server = server.as_mut().unwrap();
        let epochs = server.epochs();
        if self.broken != Broken::EpochsAreLost && !is_deaf {
            self.kernel.borrow_mut().epoch += epochs;
        }
        let mut reference = self.reference.borrow_mut();
        for mutation in server.take_mutations() {
            self.trace_line(format!("store: {mutation:?}"));
            reference.mutated(mutation);
        }
        for id in server.take_done() {
            if let Some(on_carried_out) = self.on_carried_out.borrow_mut().remove(&id) {
                on_carried_out(&mut reference);
            }
        }
        self.releasing.borrow_mut().retain(|(file, handle)| {
            let is_releasing = server.is_releasing(*handle);
            if !is_releasing {
                reference.retired(*file);
            }
            is_releasing
        });
        for name in NAMES {
            reference.holds(name, server.truth(name), by_others);
        }
    }

    pub fn replace_server(&self) {
        self.kernel.borrow_mut().disturbances += 1;
        self.reference.borrow_mut().server_is_replaced();
        let server = self.server.take();
        self.server.replace(server.map(Server::replaced));
        self.look_around(false, false);
    }

    /// Ends it; whether nothing is left of the server.
    pub fn leaves_nothing(self) -> bool {
        self.server.into_inner().is_none_or(Server::leaves_nothing)
    }

    pub fn trace_line(&self, line: String) {
        self.trace.borrow_mut().push(line);
    }

    /// Whether what only listings rely on is not there.
    fn is_deaf_to_listings(&self) -> bool {
        self.broken == Broken::ListingsAreBelieved
    }

    /// The last descriptor of an open file is gone.
    pub fn release(&self, file: u64, handle: u64) {
        self.releasing.borrow_mut().push((file, handle));
        self.serve(|server| server.release(handle));
    }

    pub fn release_dir(&self, handle: u64) {
        self.serve_as(false, self.is_deaf_to_listings(), |server| {
            server.release_dir(handle);
        });
    }

    pub fn has_second_walk(&self) -> bool {
        self.broken != Broken::NoSecondWalk
    }

    pub async fn request(&self, tid: u32, request: Request) -> Reply {
        self.request_recording(tid, request, Box::new(|_| {})).await
    }

    /// A request that the reference records at the moment at which it is carried out: of two at the same time the first
    /// may be answered last.
    pub async fn request_recording(
        &self,
        tid: u32,
        request: Request,
        on_carried_out: OnCarriedOut,
    ) -> Reply {
        let id = {
            let mut kernel = self.kernel.borrow_mut();
            // As Linux counts them.
            kernel.requests += 2;
            kernel.requests
        };
        let caller = Caller {
            uid: 0,
            tid,
            request: id,
            is_resend: false,
        };
        self.on_carried_out.borrow_mut().insert(id, on_carried_out);
        self.trace_line(format!("{tid}: {request:?}"));
        let is_listing = matches!(request, Request::ReadDirPlus(..));
        let is_deaf = is_listing && self.is_deaf_to_listings();
        self.serve_as(false, is_deaf, |server| server.send(id, caller, request));
        loop {
            if let Some(reply) = self.serve(|server| server.reply(id)) {
                self.trace_line(format!("{tid}: = {reply:?}"));
                return reply;
            }
            turn().await;
        }
    }

    // Inodes.

    pub fn pin(self: &Rc<Self>, node: u64) -> Pin {
        self.hold(node);
        Pin {
            world: self.clone(),
            node,
        }
    }

    /// As a [`Pin`], until [`World::unpin`].
    pub fn hold(&self, node: u64) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.inodes.entry(node).or_default().pins += 1;
    }

    pub fn unpin(&self, node: u64) {
        if let Some(inode) = self.kernel.borrow_mut().inodes.get_mut(&node) {
            inode.pins -= 1;
        }
        self.evict(node);
    }

    fn evict(&self, node: u64) {
        let mut kernel = self.kernel.borrow_mut();
        let is_named = kernel.dentries.values().any(|dentry| dentry.node == node);
        let is_free = kernel
            .inodes
            .get(&node)
            .is_some_and(|inode| inode.pins == 0);
        if is_named || !is_free {
            return;
        }
        let lookups = kernel.inodes.remove(&node).unwrap().lookups;
        drop(kernel);
        if lookups > 0 {
            self.serve(|server| server.forget(node, lookups));
        }
    }

    fn drop_name(&self, name: &str) {
        let dropped = self.kernel.borrow_mut().dentries.remove(name);
        if let Some(dentry) = dropped {
            self.evict(dentry.node);
        }
    }

    /// Memory is short.
    pub fn drop_caches(&self) {
        let names: Vec<String> = self.kernel.borrow().dentries.keys().cloned().collect();
        names.iter().for_each(|name| self.drop_name(name));
    }

    /// What an answer says of an inode; it counts as a lookup.
    pub fn learn(&self, found: &LookupReply) {
        let mut kernel = self.kernel.borrow_mut();
        let inode = kernel.inodes.entry(found.nodeid).or_default();
        inode.lookups += 1;
        inode.size = found.attr.size;
        inode.attr_is_valid = !found.attr.valid.is_zero();
        inode.ino = found.attr.ino;
    }

    pub fn put_name(&self, name: &str, node: u64, is_valid: bool, epoch: u64) {
        let dentry = Dentry {
            node,
            is_valid,
            epoch,
        };
        let old = self
            .kernel
            .borrow_mut()
            .dentries
            .insert(name.into(), dentry);
        if let Some(old) = old.filter(|old| old.node != node) {
            self.evict(old.node);
        }
    }

    pub fn epoch(&self) -> u64 {
        self.kernel.borrow().epoch
    }

    /// A name of a listing: it gets the epoch of now.
    pub fn link(&self, name: &str, found: &LookupReply) {
        let epoch = self.epoch();
        let known = {
            let kernel = self.kernel.borrow();
            let known = kernel
                .dentries
                .get(name)
                .map(|dentry| (dentry.node, dentry.epoch));
            known.filter(|(node, _)| *node == found.nodeid)
        };
        if self.kernel.borrow().in_lookup.contains(name) {
            return self.serve(|server| server.forget(found.nodeid, 1));
        }
        self.learn(found);
        let epoch = known.map_or(epoch, |(_, epoch)| epoch);
        // A listing shows what a backend gave last, however old, for a second. That is over at once here; for all other
        // names it never is, though they are to be right.
        let is_valid = !found.valid.is_zero() && name != "R";
        if let Some(inode) = self.kernel.borrow_mut().inodes.get_mut(&found.nodeid) {
            inode.attr_is_valid &= is_valid;
        }
        self.put_name(name, found.nodeid, is_valid, epoch);
    }

    // The folder's lock.

    pub async fn lock_dir(&self, exclusive: bool) {
        loop {
            {
                let mut kernel = self.kernel.borrow_mut();
                let is_free = !kernel.has_writer && (!exclusive || kernel.readers == 0);
                if is_free {
                    match exclusive {
                        true => kernel.has_writer = true,
                        false => kernel.readers += 1,
                    }
                    return;
                }
            }
            turn().await;
        }
    }

    pub fn unlock_dir(&self, exclusive: bool) {
        let mut kernel = self.kernel.borrow_mut();
        match exclusive {
            true => kernel.has_writer = false,
            false => kernel.readers -= 1,
        }
    }

    /// The inode that a name leads to without asking.
    pub fn known(self: &Rc<Self>, name: &str) -> Option<Pin> {
        let kernel = self.kernel.borrow();
        let dentry = kernel.dentries.get(name).copied();
        let dentry = dentry.filter(|dentry| dentry.is_valid && dentry.epoch >= kernel.epoch)?;
        drop(kernel);
        Some(self.pin(dentry.node))
    }

    /// A walk to a name. `reval`: after ESTALE, nothing that is known counts. `locked`: the caller holds the folder.
    pub async fn walk(
        self: &Rc<Self>,
        tid: u32,
        name: &str,
        reval: bool,
        locked: bool,
    ) -> Result<Option<Pin>, i32> {
        loop {
            if !reval && let Some(pin) = self.known(name) {
                return Ok(Some(pin));
            }
            if let Some(pin) = self.revalidate(tid, name).await {
                return Ok(Some(pin));
            }
            if !locked {
                self.lock_dir(false).await;
            }
            let is_known = {
                let kernel = self.kernel.borrow();
                kernel.in_lookup.contains(name) || kernel.dentries.contains_key(name)
            };
            let walked = match is_known {
                // Another's lookup is under way, or has just ended: what it found is looked at anew.
                true => None,
                false => Some(self.look_up(tid, name).await),
            };
            if !locked {
                self.unlock_dir(false);
            }
            match walked {
                Some(walked) => return walked,
                None => turn().await,
            }
        }
    }

    /// Asks whether a name still leads where it did.
    async fn revalidate(self: &Rc<Self>, tid: u32, name: &str) -> Option<Pin> {
        let dentry = self.kernel.borrow().dentries.get(name).copied()?;
        if dentry.epoch < self.epoch() {
            self.drop_name(name);
            return None;
        }
        let pin = self.pin(dentry.node);
        turn().await;
        let lookup = Request::Lookup(self.dir, name.into());
        let is_same = match self.request(tid, lookup).await {
            Ok(Answer::Entry(found)) if found.nodeid == dentry.node => {
                self.learn(&found);
                if let Some(dentry) = self.kernel.borrow_mut().dentries.get_mut(name)
                    && dentry.node == found.nodeid
                {
                    dentry.is_valid = !found.valid.is_zero();
                }
                true
            }
            Ok(Answer::Entry(found)) => {
                self.serve(|server| server.forget(found.nodeid, 1));
                false
            }
            _ => false,
        };
        if is_same {
            return Some(pin);
        }
        let now = self
            .kernel
            .borrow()
            .dentries
            .get(name)
            .map(|dentry| dentry.node);
        if now == Some(dentry.node) {
            self.drop_name(name);
        }
        None
    }

    async fn look_up(self: &Rc<Self>, tid: u32, name: &str) -> Result<Option<Pin>, i32> {
        self.kernel.borrow_mut().in_lookup.insert(name.into());
        let epoch = self.epoch();
        turn().await;
        let reply = self
            .request(tid, Request::Lookup(self.dir, name.into()))
            .await;
        // The answer is on its way.
        turn().await;
        self.kernel.borrow_mut().in_lookup.remove(name);
        match reply {
            Ok(Answer::Entry(found)) => {
                self.learn(&found);
                let pin = self.pin(found.nodeid);
                self.put_name(name, found.nodeid, !found.valid.is_zero(), epoch);
                Ok(Some(pin))
            }
            Err(libc::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
            Ok(_) => unreachable!(),
        }
    }

    /// The old name's inode has the new one.
    pub fn move_name(&self, from: &str, to: &str) {
        let moved = self.kernel.borrow_mut().dentries.remove(from);
        self.drop_name(to);
        if let Some(dentry) = moved {
            self.put_name(to, dentry.node, dentry.is_valid, dentry.epoch);
        }
    }

    pub fn unname(&self, name: &str) {
        self.drop_name(name);
    }
}
