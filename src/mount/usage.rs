//! Finds what still uses a mount that is about to end: open files, working folders, bind mounts, other mount namespaces.
//! Only for commands, never for keeper or server: following a link in `/proc` can wait for a process that waits for the
//! mount.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};

use super::setup::PROCESS_NAME;
use crate::process;
use crate::process::mountinfo::{self, Mount};
use crate::sync::{self, LARGE_STACK};

/// How long the search may take. What it has found by then is reported.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(700);
/// How many uses the warnings name.
const MAX_NAMED: usize = 10;

/// One use of the mount.
#[derive(Debug)]
pub(super) enum Use {
    /// The filesystem has another mount point.
    Bind(PathBuf),
    /// The filesystem is mounted in another mount namespace.
    Namespace {
        point: PathBuf,
        pid: u32,
        program: String,
    },
    /// A process has a file of it open, or works in a folder of it.
    Process {
        pid: u32,
        program: String,
        what: &'static str,
        path: PathBuf,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Bind(point) => {
                write!(f, "it is also mounted at {0} (umount {0})", point.display())
            }
            Use::Namespace {
                point,
                pid,
                program,
            } => write!(
                f,
                "process {pid} ({program}) has it at {} in a mount namespace of its own",
                point.display()
            ),
            Use::Process {
                pid,
                program,
                what,
                path,
            } => {
                write!(f, "process {pid} ({program}) has {what} {}", path.display())
            }
        }
    }
}

/// The uses that a search has found.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) found: Vec<Use>,
    /// Why there may be more.
    pub(super) cut_off: Option<String>,
}

/// The uses of the filesystem, as far as this user may see them.
pub(super) fn uses_of(mount: &Mount) -> Uses {
    uses_within(mount, SEARCH_TIMEOUT, Kinds::All)
}

/// Where else the filesystem, or a folder of it, is mounted, in any mount namespace that this user may see. The same mount in
/// another namespace does not count: most services have such a copy of all mounts, and did not ask for this one.
pub(super) fn binds_of(mount: &Mount) -> Uses {
    uses_within(mount, SEARCH_TIMEOUT, Kinds::Binds)
}

/// A mount of this folder at the filesystem's root, in any mount namespace that this user may see.
pub(super) fn bind_of_folder(mount: &Mount, folder: &str) -> Option<Use> {
    let root = Path::new("/").join(folder);
    let is_bind =
        |found: &Mount| found.filesystem == mount.filesystem && found.root.starts_with(&root);
    let tables = process::all_pids().map(|pid| (pid, mountinfo::of_process(pid)));
    tables.into_iter().find_map(|(pid, table)| {
        let found = table.unwrap_or_default().into_iter().find(is_bind)?;
        Some(Use::Namespace {
            point: found.point,
            pid,
            program: program_of(pid),
        })
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Binds,
}

fn uses_within(mount: &Mount, timeout: Duration, kinds: Kinds) -> Uses {
    let (sender, receiver) = channel();
    let mut search = Search {
        mount: mount.clone(),
        found: sender,
        known_mounts: BTreeSet::from([mount.id]),
        kinds,
    };
    let mut uses = Uses::default();
    if let Err(error) = sync::spawn("usage", LARGE_STACK, move || search.run()) {
        uses.cut_off = Some(error.to_string());
    }
    let until = Instant::now() + timeout;
    loop {
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(used) => uses.found.push(used),
            // The search is over.
            Err(RecvTimeoutError::Disconnected) => return uses,
            Err(RecvTimeoutError::Timeout) => {
                let why = "this machine has many processes, or one of them does not answer";
                uses.cut_off = Some(why.into());
                return uses;
            }
        }
    }
}

/// Logs the uses as warnings.
pub(super) fn warn_of(uses: &Uses) {
    let Uses { found, cut_off } = uses;
    for used in found.iter().take(MAX_NAMED) {
        tracing::warn!("{used}");
    }
    if found.len() > MAX_NAMED {
        tracing::warn!("and {} more", found.len() - MAX_NAMED);
    }
    if let Some(why) = cut_off {
        tracing::warn!(
            "the search for what uses the mount ended early, and may not have found all: {why}"
        );
    }
}

struct Search {
    mount: Mount,
    found: Sender<Use>,
    /// The ids of the filesystem's mounts found so far, in any mount namespace.
    known_mounts: BTreeSet<u64>,
    kinds: Kinds,
}

impl Search {
    fn run(&mut self) {
        let me = std::process::id();
        for bind in self.new_mounts(mountinfo::of_this_process()) {
            self.report(Use::Bind(bind.point));
        }
        // The command that started this process, and waits for it.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
        let parent = parent.filter(|pid| program_of(*pid) == PROCESS_NAME);
        let others = process::all_pids().filter(|pid| *pid != me && Some(*pid) != parent);
        let mut others: Vec<u32> = others.collect();
        // The youngest first: most processes that use a mount were started after it.
        others.reverse();
        for pid in others {
            // All mounts of a namespace are of one program, so one of them is enough, unless others are left out.
            let at_most = match self.kinds {
                Kinds::All => 1,
                Kinds::Binds => usize::MAX,
            };
            let mounts = self.new_mounts(mountinfo::of_process(pid));
            for mount in mounts.into_iter().take(at_most) {
                self.report(Use::Namespace {
                    point: mount.point,
                    pid,
                    program: program_of(pid),
                });
            }
            if self.kinds == Kinds::All {
                self.search_process(pid);
            }
        }
    }

    fn report(&self, used: Use) {
        let _ = self.found.send(used);
    }

    /// The filesystem's mounts in this table that no earlier table had. (The link to a process's mount namespace would
    /// identify it as well, but following it waits for a process in execve(2).)
    fn new_mounts(&mut self, table: std::io::Result<Vec<Mount>>) -> Vec<Mount> {
        let mut mounts = table.unwrap_or_default();
        let is_copy =
            |mount: &Mount| mount.root == Path::new("/") && mount.point == self.mount.point;
        let counts = |mount: &Mount| self.kinds == Kinds::All || !is_copy(mount);
        mounts.retain(|mount| {
            mount.filesystem == self.mount.filesystem
                && counts(mount)
                && self.known_mounts.insert(mount.id)
        });
        mounts
    }

    fn search_process(&self, pid: u32) {
        let report = |what, link: PathBuf| {
            let path = match may_be_in_execve(pid) {
                true => None,
                false => fs::read_link(link).ok(),
            };
            self.report(Use::Process {
                pid,
                program: program_of(pid),
                what,
                path: path.unwrap_or_else(|| "(a file of it)".into()),
            });
        };
        for (what, link) in [
            ("its working folder in", "cwd"),
            ("its root folder in", "root"),
        ] {
            let link = PathBuf::from(format!("/proc/{pid}/{link}"));
            if self.leads_into_mount(&link) {
                report(what, link);
            }
        }
        let open = fs::read_dir(format!("/proc/{pid}/fdinfo"));
        for entry in open.into_iter().flatten().flatten() {
            let info = fs::read(entry.path()).ok();
            let mount = info.and_then(|info| process::mount_of(&info));
            if mount.is_some_and(|id| self.known_mounts.contains(&id)) {
                let number = entry.file_name();
                report("open", Path::new(&format!("/proc/{pid}/fd")).join(number));
            }
        }
    }

    /// Whether a link of `/proc` leads into the filesystem. The kernel answers that without asking the filesystem, and to
    /// every user, because nothing but the device is asked for.
    fn leads_into_mount(&self, link: &Path) -> bool {
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(rustix::fs::CWD, link, flags, StatxFlags::empty());
        stat.is_ok_and(|stat| {
            format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) == self.mount.filesystem
        })
    }
}

/// Whether the process waits for a FUSE filesystem, perhaps in execve(2), where the kernel closes its files: following
/// its links would wait until that filesystem answers.
fn may_be_in_execve(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.starts_with(b"request_wait"))
}

fn program_of(pid: u32) -> String {
    process::name_of(pid).unwrap_or_else(|| "?".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_is_cut_off_says_so() {
        let mount = mountinfo::of_this_process().unwrap().remove(0);
        let uses = uses_within(&mount, Duration::ZERO, Kinds::All);
        assert!(uses.cut_off.is_some());
        let uses = uses_within(&mount, Duration::from_secs(60), Kinds::All);
        assert_eq!(uses.cut_off, None);
    }
}
