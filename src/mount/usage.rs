//! Who still uses a mount that is to end: open files, working folders, bind mounts, other mount namespaces. Only for a
//! command: to follow the links in `/proc` can wait for a process that waits for the mount.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};

use crate::process;
use crate::process::mountinfo::{self, Mount};

/// How long the look may take: what has been seen by then is said.
const LOOKS_FOR: Duration = Duration::from_secs(3);
/// So many are named.
const MAX_NAMED: usize = 10;

/// One who uses the mount.
#[derive(Debug)]
pub(super) enum Use {
    /// The filesystem is mounted at another place, too.
    Bind(PathBuf),
    /// It is mounted in another mount namespace.
    Namespace {
        point: PathBuf,
        pid: u32,
        program: String,
    },
    /// A process has something of it open, or works in it.
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

/// Where else the filesystem is mounted, as far as this user may see.
pub(super) fn mounts_of(mount: &Mount) -> Vec<Use> {
    look(mount, false)
}

/// Everybody who uses the filesystem, as far as this user may see.
pub(super) fn all_of(mount: &Mount) -> Vec<Use> {
    look(mount, true)
}

/// Says who they are.
pub(super) fn say(uses: &[Use]) {
    for used in uses.iter().take(MAX_NAMED) {
        tracing::warn!("{used}");
    }
    if uses.len() > MAX_NAMED {
        tracing::warn!("and {} more", uses.len() - MAX_NAMED);
    }
}

fn look(mount: &Mount, processes_too: bool) -> Vec<Use> {
    let (sender, receiver) = channel();
    let mut look = Look {
        mount: mount.clone(),
        seen: sender,
        known: BTreeSet::from([mount.id]),
    };
    std::thread::spawn(move || look.at_all(processes_too));
    let until = Instant::now() + LOOKS_FOR;
    let mut seen = Vec::new();
    while let Ok(used) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        seen.push(used);
    }
    seen
}

struct Look {
    mount: Mount,
    seen: Sender<Use>,
    /// The numbers of all its mounts that have been seen, in any mount namespace.
    known: BTreeSet<u64>,
}

impl Look {
    fn at_all(&mut self, processes_too: bool) {
        let me = std::process::id();
        for bind in self.new_mounts(mountinfo::own()) {
            self.tell(Use::Bind(bind.point));
        }
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in all.filter(|pid| *pid != me) {
            if let Some(first) = self.new_mounts(mountinfo::of(pid)).into_iter().next() {
                self.tell(Use::Namespace {
                    point: first.point,
                    pid,
                    program: program_of(pid),
                });
            }
            if processes_too {
                self.at_process(pid);
            }
        }
    }

    fn tell(&self, used: Use) {
        let _ = self.seen.send(used);
    }

    /// The mounts of the filesystem that nobody before had in his table. (The link to a process's mount namespace would
    /// tell it, too; but following it waits for a process in execve(2).)
    fn new_mounts(&mut self, table: std::io::Result<Vec<Mount>>) -> Vec<Mount> {
        let mut mounts = table.unwrap_or_default();
        mounts.retain(|mount| {
            mount.filesystem == self.mount.filesystem && self.known.insert(mount.id)
        });
        mounts
    }

    fn at_process(&self, pid: u32) {
        let tell = |what, link: PathBuf| {
            let path = match waits_for_a_mount(pid) {
                true => None,
                false => fs::read_link(link).ok(),
            };
            self.tell(Use::Process {
                pid,
                program: program_of(pid),
                what,
                path: path.unwrap_or_else(|| "(something of it)".into()),
            });
        };
        for (what, link) in [
            ("its working folder in", "cwd"),
            ("its root folder in", "root"),
        ] {
            let link = PathBuf::from(format!("/proc/{pid}/{link}"));
            if self.leads_there(&link) {
                tell(what, link);
            }
        }
        let open = fs::read_dir(format!("/proc/{pid}/fdinfo"));
        for entry in open.into_iter().flatten().flatten() {
            let info = fs::read(entry.path()).ok();
            let mount = info.and_then(|info| process::mount_of(&info));
            if mount.is_some_and(|id| self.known.contains(&id)) {
                let number = entry.file_name();
                tell("open", Path::new(&format!("/proc/{pid}/fd")).join(number));
            }
        }
    }

    /// Whether a link of `/proc` leads into the filesystem. The kernel knows that without asking there.
    fn leads_there(&self, link: &Path) -> bool {
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(rustix::fs::CWD, link, flags, StatxFlags::TYPE);
        stat.is_ok_and(|stat| {
            format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) == self.mount.filesystem
        })
    }
}

/// Whether it may be in execve(2), where it closes what it has of a mount: nobody can follow its links until that answers.
fn waits_for_a_mount(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.starts_with(b"request_wait"))
}

fn program_of(pid: u32) -> String {
    process::name_of(pid).unwrap_or_else(|| "?".into())
}
