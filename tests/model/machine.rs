//! The steps of a test, and the machine that does them: programs' calls that get their turns in any order, the server's
//! threads, changes from outside, ends of processes, new servers. One file: a step is one match over all of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;

use crate::Broken;
use crate::kernel::{NAMES, World, turn};
use crate::processes::Table;
use crate::provider::Source;
use crate::server::{Keeper, Server};

/// How many processes there are at most.
const MAX_PROCESSES: usize = 5;
/// Nothing takes so many turns: somebody waits in vain.
const MAX_TURNS: usize = 2000;

/// What a program does.
#[derive(Clone, Debug)]
pub enum Call {
    /// Opens to write; what is there stays (`false`) or goes.
    Open(usize, Opening),
    OpenToRead(usize),
    Read(usize, u8, u8),
    Write(usize, u8),
    Resize(usize, u8),
    Sync(usize),
    Chmod(usize),
    Dup(usize),
    Close(usize),
    /// Reads a name whole.
    Cat(usize),
    /// Writes a name: `echo > name`.
    Put(usize, u8),
    /// Writes beside and renames; fsyncs before, closes before or behind.
    Save(usize, u8, bool, bool),
    Stat(usize),
    Truncate(usize, u8),
    Unlink(usize),
    Rename(usize, usize),
    List,
}

#[derive(Clone, Copy, Debug)]
pub enum Opening {
    Empty,
    Append,
    Exclusive,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// A process calls; to the end, or the first turn of it only.
    Call(usize, Call, bool),
    /// A process gets turns.
    Turn(usize, u8),
    /// The thread that looks at who closes does a job.
    CloseNext,
    StoreNext,
    BackendAnswers,
    /// Another program edits the store.
    Edit(usize, Option<u8>),
    /// The backend has another value.
    Rotate(Option<u8>),
    Fork(usize),
    End(usize, bool),
    DropCaches,
    NewServer,
}

fn call() -> impl Strategy<Value = Call> {
    let name = || 0..NAMES.len();
    let len = || 0..24u8;
    let file = || 0..4usize;
    let opening = prop_oneof![
        3 => Just(Opening::Empty),
        1 => Just(Opening::Append),
        1 => Just(Opening::Exclusive),
    ];
    prop_oneof![
        6 => (name(), opening).prop_map(|(name, opening)| Call::Open(name, opening)),
        2 => name().prop_map(Call::OpenToRead),
        3 => (file(), len(), len()).prop_map(|(file, at, len)| Call::Read(file, at, len)),
        6 => (file(), len()).prop_map(|(file, len)| Call::Write(file, len)),
        1 => (file(), len()).prop_map(|(file, len)| Call::Resize(file, len)),
        2 => file().prop_map(Call::Sync),
        1 => file().prop_map(Call::Chmod),
        1 => file().prop_map(Call::Dup),
        6 => file().prop_map(Call::Close),
        8 => name().prop_map(Call::Cat),
        4 => (name(), len()).prop_map(|(name, len)| Call::Put(name, len)),
        3 => (name(), len(), any::<bool>(), any::<bool>())
            .prop_map(|(name, len, syncs, closes)| Call::Save(name, len, syncs, closes)),
        4 => name().prop_map(Call::Stat),
        1 => (name(), len()).prop_map(|(name, len)| Call::Truncate(name, len)),
        2 => name().prop_map(Call::Unlink),
        3 => (name(), name()).prop_map(|(from, to)| Call::Rename(from, to)),
        2 => Just(Call::List),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let process = || 0..MAX_PROCESSES;
    let len = || 0..24u8;
    prop_oneof![
        20 => (process(), call(), prop::bool::weighted(0.7))
            .prop_map(|(process, call, finishes)| Step::Call(process, call, finishes)),
        8 => (process(), 1..6u8).prop_map(|(process, turns)| Step::Turn(process, turns)),
        2 => Just(Step::CloseNext),
        2 => Just(Step::StoreNext),
        2 => Just(Step::BackendAnswers),
        2 => (0..NAMES.len() - 1, proptest::option::weighted(0.7, len()))
            .prop_map(|(name, value)| Step::Edit(name, value)),
        1 => proptest::option::weighted(0.7, len()).prop_map(Step::Rotate),
        2 => process().prop_map(Step::Fork),
        2 => (process(), any::<bool>()).prop_map(|(process, killed)| Step::End(process, killed)),
        1 => Just(Step::DropCaches),
        1 => Just(Step::NewServer),
    ]
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub struct Machine {
    world: Rc<World>,
    /// What each process is at.
    tasks: BTreeMap<u32, Task>,
    processes: Vec<u32>,
    values: u32,
    /// Whether several may change one name at the same time. What is right then the reference often cannot tell.
    shares_names: bool,
    /// The names that a process changes with its present call.
    claims: BTreeMap<u32, Vec<&'static str>>,
}

fn poll(task: &mut Task) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    task.as_mut().poll(&mut context).is_ready()
}

impl Machine {
    pub fn new(broken: Broken, shares_names: bool) -> Self {
        let (store, backend) = (Source::store(), Source::backend());
        store.lock().unwrap().edit("A", Some("first A"));
        store.lock().unwrap().edit("B", Some("first value of B"));
        backend.lock().unwrap().edit("R", Some("first value of R"));
        let table = Arc::new(Table::new(broken));
        let server = Server::new(Keeper::new(store, backend, table.clone(), broken));
        let processes = {
            let mut table = table.lock();
            (0..3).map(|_| table.spawn(None)).collect()
        };
        Self {
            world: World::new(server, table, broken),
            tasks: BTreeMap::new(),
            processes,
            values: 0,
            shares_names,
            claims: BTreeMap::new(),
        }
    }

    /// A text that was never written before, and that no part of another one equals for long.
    fn text(&mut self, len: u8) -> String {
        self.values += 1;
        let mark = format!("{}:", self.values);
        mark.chars().cycle().take(usize::from(len) + 4).collect()
    }

    /// Ends all; whether nothing of it is left, with its descriptors.
    pub fn leaves_nothing(self) -> bool {
        let Self { world, tasks, .. } = self;
        drop(tasks);
        Rc::into_inner(world).is_some_and(World::leaves_nothing)
    }

    /// The last of what was asked and answered.
    pub fn trace(&self) -> String {
        let trace = self.world.trace.borrow();
        trace[trace.len().saturating_sub(150)..].join("\n")
    }

    fn check(&self) -> Result<(), String> {
        match self.world.reference.borrow().violation.clone() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    pub fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.world.trace_line(format!("{step:?}"));
            self.step(step);
            self.check()?;
        }
        self.come_to_rest()?;
        self.look_at_all()?;
        for pid in std::mem::take(&mut self.processes) {
            let world = self.world.clone();
            self.start(pid, async move { world.end(pid, false).await });
            self.finish(pid);
        }
        self.come_to_rest()?;
        self.world.reference.borrow_mut().is_quiet();
        self.look_at_all()
    }

    /// A new process now finds what is right.
    fn look_at_all(&mut self) -> Result<(), String> {
        let pid = self.world.table.lock().spawn(None);
        for name in (0..NAMES.len()).chain(0..NAMES.len()) {
            self.call(pid, &Call::Cat(name));
            self.finish(pid);
            self.call(pid, &Call::Stat(name));
            self.finish(pid);
            self.check()?;
        }
        self.world.table.lock().procs.remove(&pid);
        Ok(())
    }

    fn work(&self) -> bool {
        self.world
            .serve(|server| server.close_next() | server.store_next() | server.backend_answers())
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        for _ in 0..MAX_TURNS {
            let is_busy = self.work();
            self.tasks.retain(|_, task| !poll(task));
            self.check()?;
            if !is_busy && self.tasks.is_empty() {
                return Ok(());
            }
        }
        Err("somebody waits in vain".into())
    }

    fn start(&mut self, pid: u32, call: impl Future<Output = ()> + 'static) {
        self.tasks.insert(pid, Box::pin(call));
        self.turn(pid);
    }

    fn turn(&mut self, pid: u32) {
        if let Some(task) = self.tasks.get_mut(&pid)
            && poll(task)
        {
            self.tasks.remove(&pid);
        }
    }

    /// Lets a process come to the end of its call, and others only where it waits for them.
    fn finish(&mut self, pid: u32) {
        for turns in 0..MAX_TURNS {
            if !self.tasks.contains_key(&pid) || self.check().is_err() {
                return;
            }
            self.turn(pid);
            if turns % 8 == 7 && !self.work() && turns > 100 {
                self.tasks.retain(|_, task| !poll(task));
            }
        }
        let wrong = format!("process {pid} waits in vain");
        self.world.reference.borrow_mut().wrong(wrong);
    }

    fn process(&self, which: usize) -> u32 {
        self.processes[which % self.processes.len()]
    }

    fn step(&mut self, step: &Step) {
        let world = self.world.clone();
        match step {
            Step::Call(process, call, finishes) => {
                let pid = self.process(*process);
                if self.tasks.contains_key(&pid) {
                    return self.finish(pid);
                }
                self.call(pid, call);
                if *finishes {
                    self.finish(pid);
                }
            }
            Step::Turn(process, turns) => {
                let pid = self.process(*process);
                (0..*turns).for_each(|_| self.turn(pid));
            }
            Step::CloseNext => _ = world.serve(Server::close_next),
            Step::StoreNext => _ = world.serve(Server::store_next),
            Step::BackendAnswers => _ = world.serve(Server::backend_answers),
            Step::Edit(name, value) => {
                let value = value.map(|len| self.text(len));
                if self.claim(0, &[NAMES[*name]]) {
                    world.edit(true, NAMES[*name], value.as_deref());
                }
            }
            Step::Rotate(value) => {
                let value = value.map(|len| self.text(len));
                if self.claim(0, &["R"]) {
                    world.edit(false, "R", value.as_deref());
                }
            }
            Step::Fork(process) => {
                let pid = self.process(*process);
                if self.processes.len() < MAX_PROCESSES && !self.tasks.contains_key(&pid) {
                    let child = world.table.lock().spawn(Some(pid));
                    self.processes.push(child);
                }
            }
            Step::End(process, killed) => {
                let pid = self.process(*process);
                if self.tasks.contains_key(&pid) {
                    return;
                }
                self.processes.retain(|other| *other != pid);
                let killed = *killed;
                self.start(pid, async move { world.end(pid, killed).await });
                if self.processes.len() < 2 {
                    let new = self.world.table.lock().spawn(None);
                    self.processes.push(new);
                }
            }
            Step::DropCaches => world.drop_caches(),
            Step::NewServer => world.replace_server(),
        }
    }

    /// Whether a process may change these names now.
    fn claim(&mut self, pid: u32, names: &[&'static str]) -> bool {
        let is_free = |name: &&'static str| {
            let mut claims = self.claims.iter();
            let is_claimed = claims.any(|(other, claimed)| {
                *other != pid && self.tasks.contains_key(other) && claimed.contains(name)
            });
            !is_claimed
                && !self
                    .world
                    .reference
                    .borrow()
                    .is_written_by_others(pid, name)
        };
        let is_free = self.shares_names || names.iter().all(is_free);
        if is_free {
            self.claims.insert(pid, names.to_vec());
        }
        is_free
    }

    /// The open file that a call is about: one of those that it can be of.
    fn file(&self, pid: u32, which: usize, writes: Option<bool>) -> Option<(u32, u64)> {
        let table = self.world.table.lock();
        let fds = &table.procs[&pid].fds;
        let fits = |file: &u64| writes.is_none_or(|writes| table.files[file].writes == writes);
        let fits: Vec<(u32, u64)> = fds
            .iter()
            .filter(|(_, file)| fits(file))
            .map(|(fd, file)| (*fd, *file))
            .collect();
        (!fits.is_empty()).then(|| fits[which % fits.len()])
    }

    fn call(&mut self, pid: u32, call: &Call) {
        let world = self.world.clone();
        let text = |machine: &mut Self, len: &u8| machine.text(*len).into_bytes();
        match call {
            Call::Open(name, opening) => {
                let (name, flags) = (NAMES[*name], flags_of(*opening, *name));
                if !world.reference.borrow().has_open(pid, name) && self.claim(pid, &[name]) {
                    self.start(pid, async move { _ = world.open(pid, name, flags).await });
                }
            }
            Call::OpenToRead(name) => {
                let name = NAMES[*name];
                self.start(pid, async move {
                    let _ = world.open(pid, name, libc::O_RDONLY).await;
                });
            }
            Call::Read(which, at, len) => {
                let (at, len) = (u64::from(*at), u64::from(*len) + 1);
                if let Some((_, file)) = self.file(pid, *which, Some(false)) {
                    self.start(
                        pid,
                        async move { drop(world.read(pid, file, at, len).await) },
                    );
                }
            }
            Call::Write(which, len) => {
                let text = text(self, len);
                if let Some((_, file)) = self.file(pid, *which, Some(true)) {
                    self.start(pid, async move { world.write(pid, file, 0, &text).await });
                }
            }
            Call::Resize(which, len) => {
                let len = u64::from(*len);
                if let Some((_, file)) = self.file(pid, *which, Some(true)) {
                    self.start(pid, async move { world.resize(pid, file, len).await });
                }
            }
            Call::Sync(which) => {
                if let Some((_, file)) = self.file(pid, *which, Some(true)) {
                    self.start(pid, async move { world.fsync(pid, file).await });
                }
            }
            Call::Chmod(which) => {
                if let Some((_, file)) = self.file(pid, *which, Some(true)) {
                    self.start(pid, async move { world.chmod(pid, file).await });
                }
            }
            Call::Dup(which) => {
                if let Some((_, file)) = self.file(pid, *which, None) {
                    let mut table = world.table.lock();
                    table.files.get_mut(&file).unwrap().refs += 1;
                    table.install(pid, file);
                }
            }
            Call::Close(which) => {
                if let Some((fd, _)) = self.file(pid, *which, None) {
                    self.start(pid, async move { world.close(pid, fd).await });
                }
            }
            Call::Cat(name) => {
                let name = NAMES[*name];
                self.start(pid, cat(world, pid, name));
            }
            Call::Put(name, len) => {
                let (index, name, text) = (*name, NAMES[*name], text(self, len));
                if !world.reference.borrow().has_open(pid, name) && self.claim(pid, &[name]) {
                    self.start(
                        pid,
                        put(world, pid, name, flags_of(Opening::Empty, index), text),
                    );
                }
            }
            Call::Save(name, len, syncs, closes) => {
                let (to, text) = (NAMES[*name], text(self, len));
                let how = (*syncs, *closes);
                if !world.reference.borrow().has_open(pid, to) && self.claim(pid, &[to]) {
                    let beside = format!(".{}", self.values);
                    self.start(pid, save(world, pid, beside, to, text, how));
                }
            }
            Call::Stat(name) => {
                let name = NAMES[*name];
                self.start(pid, async move { world.stat(pid, name).await });
            }
            Call::Truncate(name, len) => {
                let (name, len) = (NAMES[*name], u64::from(*len));
                if !world.reference.borrow().has_open(pid, name) && self.claim(pid, &[name]) {
                    self.start(pid, async move { world.truncate(pid, name, len).await });
                }
            }
            Call::Unlink(name) => {
                let name = NAMES[*name];
                if self.claim(pid, &[name]) {
                    self.start(pid, async move { world.unlink(pid, name).await });
                }
            }
            Call::Rename(from, to) => {
                let (from, to) = (NAMES[*from], NAMES[*to]);
                let is_open = world.reference.borrow().has_open(pid, to);
                if from != to && !is_open && self.claim(pid, &[from, to]) {
                    self.start(pid, async move { world.rename(pid, from, to).await });
                }
            }
            Call::List => self.start(pid, async move { world.list(pid).await }),
        }
    }
}

fn flags_of(opening: Opening, name: usize) -> i32 {
    let flags = libc::O_WRONLY | libc::O_CREAT;
    match opening {
        // What it begins on is the store's.
        Opening::Append if NAMES[name] != "R" => flags | libc::O_APPEND,
        Opening::Exclusive => flags | libc::O_EXCL,
        Opening::Empty | Opening::Append => flags | libc::O_TRUNC,
    }
}

async fn cat(world: Rc<World>, pid: u32, name: &'static str) {
    let Ok(fd) = world.open(pid, name, libc::O_RDONLY).await else {
        return;
    };
    let file = world.table.lock().procs[&pid].fds[&fd];
    let mut at = 0;
    loop {
        turn().await;
        let bytes = world.read(pid, file, at, 7).await;
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
    world.close(pid, fd).await;
}

async fn put(world: Rc<World>, pid: u32, name: &'static str, flags: i32, text: Vec<u8>) {
    let Ok(fd) = world.open(pid, name, flags).await else {
        return;
    };
    let file = world.table.lock().procs[&pid].fds[&fd];
    let (first, second) = text.split_at(text.len() / 2);
    world.write(pid, file, 0, first).await;
    turn().await;
    world.write(pid, file, first.len() as u64, second).await;
    world.close(pid, fd).await;
}

async fn save(
    world: Rc<World>,
    pid: u32,
    beside: String,
    to: &'static str,
    text: Vec<u8>,
    (syncs, closes): (bool, bool),
) {
    let flags = flags_of(Opening::Exclusive, 0);
    let Ok(fd) = world.open(pid, &beside, flags).await else {
        return;
    };
    let file = world.table.lock().procs[&pid].fds[&fd];
    world.write(pid, file, 0, &text).await;
    if syncs {
        world.fsync(pid, file).await;
    }
    if closes {
        world.close(pid, fd).await;
    }
    turn().await;
    world.rename(pid, &beside, to).await;
    if !closes {
        turn().await;
        world.close(pid, fd).await;
    }
}
