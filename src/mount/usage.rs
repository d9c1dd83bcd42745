//! Finds what still uses a mount that is about to end: open files, working folders, bind mounts, other mount namespaces.
//! Only for commands, never for keeper or server: following a link in `/proc` can wait for a process that waits for the
//! mount.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};

use super::mount_point_state::{VIEWS_SOURCE, is_own};
use super::setup::PROCESS_NAME;
use crate::audit::name_or_id;
use crate::process;
use crate::process::mountinfo::{self, Mount};
use crate::sync::{self, LARGE_STACK};

/// How long the search may take. What it has found by then is reported.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(2000);
/// How long it may be at one process, which may not answer.
const PROCESS_TIMEOUT: Duration = Duration::from_millis(700);
/// What awaits who has views whose mount has ended without being unmounted.
const OLD_VALUES: &str = ", and may read old values from now on: restart it";
/// How many uses the warnings name.
const MAX_NAMED: usize = 10;

/// One use of the mount.
#[derive(Debug)]
pub(super) enum Use {
    /// The filesystem has another mount point.
    Bind(PathBuf),
    /// The filesystem is mounted in another mount namespace.
    Namespace {
        /// What is mounted: the filesystem, or a view of it.
        what: String,
        point: PathBuf,
        pid: u32,
        program: String,
        /// The name of its container, or the id.
        container: Option<String>,
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
                what,
                point,
                container: Some(container),
                ..
            } => write!(
                f,
                "the container {container} has {what} at {}",
                point.display()
            ),
            Use::Namespace {
                what,
                point,
                pid,
                program,
                container: None,
            } => write!(
                f,
                "process {pid} ({program}) has {what} at {} in a mount namespace of its own",
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

impl Use {
    /// The filesystem as this process has it mounted.
    fn in_namespace(mount: &Mount, pid: u32) -> Self {
        let view = mount.root.strip_prefix("/").unwrap_or(&mount.root);
        let container = process::control_group_of(pid).container;
        Use::Namespace {
            what: match is_own(mount, VIEWS_SOURCE) {
                true if view.as_os_str().is_empty() => "the views".into(),
                true => format!("the view {}", view.display()),
                false => "it".into(),
            },
            point: mount.point.clone(),
            pid,
            program: program_of(pid),
            container: container.map(|id| name_or_id(&id)),
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

/// The uses of the filesystem, and where else `views`, or a folder of them, are mounted, as far as this user may see both.
pub(super) fn uses_of(mount: &Mount, views: Option<&Mount>) -> (Uses, Uses) {
    let views = views.map(|views| Wanted::new(views, Kinds::Binds));
    let wanted = std::iter::once(Wanted::new(mount, Kinds::All)).chain(views);
    let mut uses = uses_within(wanted.collect(), SEARCH_TIMEOUT).into_iter();
    let mut next = || uses.next().unwrap_or_default();
    (next(), next())
}

/// Where else the filesystem, or a folder of it, is mounted, in any mount namespace that this user may see. The same mount in
/// another namespace does not count: most services have such a copy of all mounts, and did not ask for this one.
pub(super) fn binds_of(mount: &Mount) -> Uses {
    let wanted = vec![Wanted::new(mount, Kinds::Binds)];
    let mut uses = uses_within(wanted, SEARCH_TIMEOUT);
    uses.pop().unwrap_or_default()
}

/// A mount of this folder at the filesystem's root, in any mount namespace that this user may see.
pub(super) fn bind_of_folder(mount: &Mount, folder: &str) -> Option<Use> {
    let root = Path::new("/").join(folder);
    let is_bind =
        |found: &Mount| found.filesystem == mount.filesystem && found.root.starts_with(&root);
    mountinfo::of_namespaces(process::all_pids()).find_map(|(pid, table)| {
        let found = table.into_iter().find(is_bind)?;
        Some(Use::in_namespace(&found, pid))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Binds,
}

/// A filesystem whose uses are searched.
struct Wanted {
    mount: Mount,
    kinds: Kinds,
    /// The ids of the filesystem's mounts found so far, in any mount namespace.
    known_mounts: BTreeSet<u64>,
}

/// What a search tells.
enum Told {
    /// A use of the filesystem at this place in the list of those that are wanted.
    Found(usize, Use),
    /// All that follows are uses by processes.
    AllMounts,
}

/// The uses of each filesystem, in that order. All are looked for at once, because a machine may have many processes.
fn uses_within(wanted: Vec<Wanted>, timeout: Duration) -> Vec<Uses> {
    let (sender, receiver) = channel();
    let mut uses: Vec<Uses> = wanted.iter().map(|_| Uses::default()).collect();
    let kinds: Vec<Kinds> = wanted.iter().map(|wanted| wanted.kinds).collect();
    let looked_at = Arc::new(AtomicU64::new(0));
    let mut search = Search {
        wanted,
        told: sender,
        looked_at: looked_at.clone(),
    };
    let begun = sync::spawn("usage", LARGE_STACK, move || search.run());
    let mut cut_off = begun.err().map(|error| error.to_string());
    let until = Instant::now() + timeout;
    let (mut has_all_mounts, mut at) = (false, 0);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(PROCESS_TIMEOUT)) {
            Ok(Told::Found(which, used)) => uses[which].found.push(used),
            Ok(Told::AllMounts) => has_all_mounts = true,
            // The search is over.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let now_at = looked_at.load(Ordering::Relaxed);
                let goes_on = std::mem::replace(&mut at, now_at) != now_at || !has_all_mounts;
                if Instant::now() < until && goes_on {
                    continue;
                }
                let why = "this machine has many processes, or one of them does not answer";
                cut_off = Some(why.into());
                break;
            }
        }
    }
    for (uses, kinds) in uses.iter_mut().zip(kinds) {
        if kinds == Kinds::All || !has_all_mounts {
            uses.cut_off.clone_from(&cut_off);
        }
    }
    uses
}

/// Logs the uses as warnings.
pub(super) fn warn_of(uses: &Uses) {
    warn_of_each(uses, "");
}

/// Logs who has views whose mount has ended without being unmounted.
pub(super) fn warn_of_old_values(uses: &Uses) {
    warn_of_each(uses, OLD_VALUES);
}

/// `then`: what is to be said after each use.
fn warn_of_each(uses: &Uses, then: &str) {
    let Uses { found, cut_off } = uses;
    for used in found.iter().take(MAX_NAMED) {
        tracing::warn!("{used}{then}");
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
    wanted: Vec<Wanted>,
    told: Sender<Told>,
    /// How many processes it has looked at.
    looked_at: Arc<AtomicU64>,
}

impl Search {
    fn run(&mut self) {
        let me = std::process::id();
        let table = mountinfo::of_this_process().unwrap_or_default();
        for (which, wanted) in self.wanted.iter_mut().enumerate() {
            for bind in wanted.new_mounts(&table) {
                report(&self.told, which, Use::Bind(bind.point.clone()));
            }
        }
        // The command that started this process, and waits for it.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
        let parent = parent.filter(|pid| program_of(*pid) == PROCESS_NAME);
        let others = process::all_pids().filter(|pid| *pid != me && Some(*pid) != parent);
        let mut others: Vec<u32> = others.collect();
        // The youngest first: most processes that use a mount were started after it.
        others.reverse();
        // First what no process can delay: their mounts.
        for (pid, table) in mountinfo::of_namespaces(others.iter().copied()) {
            self.find_mounts(pid, &table);
        }
        let _ = self.told.send(Told::AllMounts);
        for pid in others {
            for (which, wanted) in self.wanted.iter().enumerate() {
                if wanted.kinds == Kinds::All {
                    wanted.search_process(pid, |used| report(&self.told, which, used));
                }
            }
            self.looked_at.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn find_mounts(&mut self, pid: u32, table: &[Mount]) {
        for (which, wanted) in self.wanted.iter_mut().enumerate() {
            // All mounts of a namespace are of one program, so one of them is enough, unless others are left out.
            let at_most = match wanted.kinds {
                Kinds::All => 1,
                Kinds::Binds => usize::MAX,
            };
            for mount in wanted.new_mounts(table).into_iter().take(at_most) {
                report(&self.told, which, Use::in_namespace(mount, pid));
            }
        }
    }
}

fn report(told: &Sender<Told>, which: usize, used: Use) {
    let _ = told.send(Told::Found(which, used));
}

impl Wanted {
    fn new(mount: &Mount, kinds: Kinds) -> Self {
        Self {
            mount: mount.clone(),
            kinds,
            known_mounts: BTreeSet::from([mount.id]),
        }
    }

    /// The filesystem's mounts in this table that no earlier table had.
    fn new_mounts<'a>(&mut self, table: &'a [Mount]) -> Vec<&'a Mount> {
        let mut mounts: Vec<&Mount> = table.iter().collect();
        mounts.retain(|mount| {
            let is_copy = mount.root == Path::new("/") && mount.point == self.mount.point;
            mount.filesystem == self.mount.filesystem
                && (self.kinds == Kinds::All || !is_copy)
                && self.known_mounts.insert(mount.id)
        });
        mounts
    }

    fn search_process(&self, pid: u32, report: impl Fn(Use)) {
        let report = |what, link: PathBuf| {
            let path = match may_be_in_execve(pid) {
                true => None,
                false => fs::read_link(link).ok(),
            };
            report(Use::Process {
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
        let search =
            |timeout| uses_within(vec![Wanted::new(&mount, Kinds::All)], timeout).remove(0);
        assert!(search(Duration::ZERO).cut_off.is_some());
        assert_eq!(search(Duration::from_secs(60)).cut_off, None);
    }
}
