//! The file `status`: the state of the mount, its server, its caches and its providers, as JSON.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Tree;
use crate::error::{Error, Result};
use crate::process::Filesystem;
use crate::settings::SettingsDigest;

/// How many comparisons there may be in a minute.
const MAX_COMPARISONS: usize = 10;
const COMPARISONS_WINDOW: Duration = Duration::from_secs(60);

/// Facts about the mount, which the code that mounts sets and the file `status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MountInfo {
    /// Where it is mounted.
    pub mount_point: String,
    /// Whether root has access, too.
    pub allow_root: bool,
    /// The kernel's FUSE protocol.
    pub kernel: KernelInfo,
    /// The keeper, if there is one.
    pub keeper_pid: Option<u32>,
    /// The last servers that ended.
    pub restarts: Vec<Restart>,
    /// The settings file.
    pub settings_file: String,
    /// What tells whether its content is the one in force.
    pub settings: SettingsDigest,
    /// The last attempt to reload.
    pub reload: Option<MountChange>,
    /// The program that `upgrade` changes to.
    pub program: Option<String>,
    /// The last attempt to upgrade.
    pub upgrade: Option<MountChange>,
    /// The views' mount.
    pub views: ViewsInfo,
    /// The socket for container engines.
    pub docker: Option<SocketInfo>,
    /// What is mounted, to tell its files from those of other mounts.
    #[serde(skip)]
    pub filesystem: Option<Filesystem>,
    /// The variables that the settings give to programs.
    #[serde(skip)]
    pub variables_of_programs: Vec<String>,
    /// The comparisons of the backends' variables with another process's.
    #[serde(skip)]
    pub(super) comparisons: Comparisons,
}

/// What the file `variables` shows, and when it was written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparisons {
    /// The names that differed the last time.
    pub(super) differing: Vec<String>,
    times: Vec<Instant>,
}

impl Comparisons {
    /// Counts a comparison, unless there were too many in the last minute: each says whether a value was guessed.
    pub(super) fn count(&mut self) -> bool {
        self.times.retain(|at| at.elapsed() < COMPARISONS_WINDOW);
        let may = self.times.len() < MAX_COMPARISONS;
        if may {
            self.times.push(Instant::now());
        }
        may
    }
}

/// A server that ended and was replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restart {
    /// When, as RFC 3339 has it.
    pub at: String,
    /// Why: a signal's name, or a word.
    pub reason: String,
    /// How many there have been, this one included.
    pub number: u64,
}

/// An attempt to upgrade, or to reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountChange {
    /// How many have been tried.
    pub number: u64,
    /// When, as RFC 3339 has it.
    pub at: String,
    /// Why the mount goes on as it was; `None`: the change succeeded.
    pub error: Option<String>,
}

/// The views' mount.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ViewsInfo {
    /// Where it is, or would be.
    pub dir: String,
    /// The same, while it is there.
    pub mount_point: Option<String>,
    /// Whether the kernel lets other users in.
    pub allow_other: bool,
    /// How it is recorded who reads: `fanotify`, `open` or `off`.
    pub audit: &'static str,
    /// How many views there are.
    pub count: usize,
    /// Why there is no mount, or why the definitions are not those of the file.
    pub problem: Option<String>,
}

/// A socket on which the server answers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SocketInfo {
    /// Its path.
    pub socket: String,
    /// Why nobody answers there.
    pub problem: Option<String>,
}

/// The kernel's FUSE protocol.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelInfo {
    /// Version, as `7.44`.
    pub fuse: String,
    /// Whether it can resend the requests that a dead server had read and not answered.
    pub resend: bool,
    /// Whether it keeps names until it is sent an epoch.
    pub epoch: bool,
}

/// Carries out what was written to the file `reload`.
pub type Reload = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

impl Tree {
    /// Has `reload` called for what is written to the file `reload`. Only the first one is.
    pub fn on_reload(&self, reload: Reload) {
        drop(self.reload.set(reload));
    }

    pub(super) fn reload(&self, request: &[u8]) -> Result<()> {
        match self.reload.get() {
            Some(reload) => reload(request),
            None => {
                let refused = std::io::Error::from_raw_os_error(libc::EPERM);
                Err(Error::io("this mount has no settings of its own", refused))
            }
        }
    }

    /// Changes what `status` says of the mount.
    pub fn set_mount_info(&self, change: impl FnOnce(&mut MountInfo)) {
        change(&mut self.mount.lock());
    }

    /// What `status` says of the mount.
    pub fn mount_info(&self) -> MountInfo {
        self.mount.lock().clone()
    }

    /// Adds the event `server_restarted`: this server replaced another one.
    pub fn notify_restart(&self, restart: &Restart) {
        self.add_event(&serde_json::json!({
            "at": restart.at, "event": "server_restarted", "reason": restart.reason,
        }));
    }

    pub(super) fn status(&self) -> impl Serialize + use<> {
        let mut mount = self.mount_info();
        if let Some(problem) = self.views.as_ref().and_then(|views| views.problem()) {
            mount.views.problem = Some(problem);
        }
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "keeper_pid": mount.keeper_pid,
            "server_pid": std::process::id(),
            "started_at": crate::provider::rfc3339(self.journaled.lock().started_at),
            "restarts": mount.restarts,
            "failed_write": self.failed_write(),
            "settings": { "file": mount.settings_file, "in_force": mount.settings },
            "reload": mount.reload,
            "program": mount.program,
            "upgrade": mount.upgrade,
            "mount_point": mount.mount_point,
            "allow_root": mount.allow_root,
            "kernel": mount.kernel,
            "views": mount.views,
            "docker": mount.docker,
        })
    }
}
