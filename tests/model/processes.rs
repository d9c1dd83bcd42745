//! Made-up processes: their threads, descriptors, ends; and what a made-up `/proc` says of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use simpletuner_live::process::{ExitState, Filesystem, Process, Processes, WritableDescriptor};

use crate::Broken;

/// Above the numbers that Linux gives out, so that nothing real is met.
const FIRST_PID: u32 = 5_000_000;

/// An open file description.
#[derive(Clone, Debug)]
pub struct File {
    pub node: u64,
    pub handle: u64,
    pub is_direct: bool,
    pub has_flush: bool,
    pub writes: bool,
    pub appends: bool,
    /// The number that `/proc/PID/fdinfo` shows.
    pub ino: u64,
    /// Descriptors, and calls that are at it.
    pub refs: u32,
}

#[derive(Clone, Debug)]
pub struct Proc {
    pub pid: u32,
    started: u64,
    parent: u32,
    /// Its descriptors; the values are numbers of open files.
    pub fds: BTreeMap<u32, u64>,
    pub end: Option<ExitState>,
}

#[derive(Default)]
pub struct Inner {
    pub procs: HashMap<u32, Proc>,
    pub files: HashMap<u64, File>,
    next: u64,
}

/// The process table.
pub struct Table {
    inner: Mutex<Inner>,
    broken: Broken,
}

impl Table {
    pub fn new(broken: Broken) -> Self {
        Self {
            inner: Mutex::default(),
            broken,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Inner {
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A new process, or a child with its parent's descriptors.
    pub fn spawn(&mut self, parent: Option<u32>) -> u32 {
        let started = self.number();
        // Two threads: the second has the number behind the first's.
        let pid = FIRST_PID + 2 * started as u32;
        let fds = parent.and_then(|parent| Some(self.procs.get(&parent)?.fds.clone()));
        let fds = fds.unwrap_or_default();
        for file in fds.values() {
            self.files.get_mut(file).unwrap().refs += 1;
        }
        let parent = parent.unwrap_or(0);
        let end = None;
        self.procs.insert(
            pid,
            Proc {
                pid,
                started,
                parent,
                fds,
                end,
            },
        );
        pid
    }

    pub fn of(&self, tid: u32) -> Option<&Proc> {
        self.procs.get(&(tid & !1))
    }

    pub fn install(&mut self, pid: u32, file: u64) -> u32 {
        let fds = &mut self.procs.get_mut(&pid).unwrap().fds;
        let fd = (0..).find(|fd| !fds.contains_key(fd)).unwrap();
        fds.insert(fd, file);
        fd
    }

    /// Whether a process has the file open to write by another descriptor, or another one of the same number.
    pub fn writes(&self, pid: u32, inodes: [u64; 2]) -> bool {
        self.procs.get(&pid).is_some_and(|proc| {
            proc.end.is_none()
                && proc.fds.values().any(|file| {
                    let file = &self.files[file];
                    file.writes && inodes.contains(&file.ino)
                })
        })
    }
}

impl Processes for Table {
    fn of_thread(&self, tid: u32) -> Option<Process> {
        let inner = self.lock();
        let proc = inner.of(tid)?;
        Some(Process {
            pid: proc.pid,
            started: proc.started,
        })
    }

    fn process_of(&self, tid: u32) -> Option<u32> {
        let inner = self.lock();
        let proc = inner.of(tid)?;
        match self.broken == Broken::ChildClosesCount && proc.parent != 0 {
            true => Some(proc.parent),
            false => Some(proc.pid),
        }
    }

    fn exit_state(&self, tid: u32) -> ExitState {
        let inner = self.lock();
        let end = match inner.of(tid) {
            Some(proc) => proc.end.unwrap_or(ExitState::Running),
            None => ExitState::Gone,
        };
        match end {
            ExitState::Killed | ExitState::Gone if self.broken == Broken::KilledCountAsEnded => {
                ExitState::Exited
            }
            end => end,
        }
    }

    fn writable_descriptor(
        &self,
        tid: u32,
        inodes: [u64; 2],
        _: Option<&Filesystem>,
    ) -> WritableDescriptor {
        match self.lock().writes(tid & !1, inodes) {
            true => WritableDescriptor::Open,
            false => WritableDescriptor::None,
        }
    }

    fn is_alive(&self, pid: u32) -> bool {
        let inner = self.lock();
        inner.procs.get(&pid).is_some_and(|proc| proc.end.is_none())
    }

    fn sees_callers(&self) -> bool {
        true
    }
}
