//! The daemon: assembles the tree, mounts it, serves it, and ends with it.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::start::READY;
use super::state::{MountState, resolve, state};
use super::unmount::detach;
use super::watch::watch;
use crate::error::{Error, Result};
use crate::fuse::{Drain, Fs};
use crate::hardware::Hardware;
use crate::manager::SecretsManager;
use crate::settings::{ReadPath, Settings};
use crate::tree::Tree;

/// Mounts and serves until the mount ends or SIGTERM, SIGINT or SIGHUP comes. With `ready_fd` (the background start)
/// it leaves the terminal, logs to its file, and tells on standard output when it serves or why it does not.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_foreground(settings: Settings, ready_fd: Option<RawFd>) -> Result<()> {
    let background = ready_fd.is_some();
    let begun = begin(&settings, background);
    if background {
        let mut out = std::io::stdout();
        let said = match &begun {
            Ok(_) => out.write_all(READY.as_bytes()),
            Err(error) => write!(out, "{error}"),
        };
        said.and_then(|()| out.flush())
            .map_err(|e| Error::io("whoever started this is gone", e))?;
        leave_terminal()?;
        // The folder it was started in may be on a filesystem that is to be unmounted.
        let _ = std::env::set_current_dir("/");
    }
    let Some(begun) = begun? else { return Ok(()) };
    serve(begun)
}

struct Begun {
    session: Session<Fs>,
    mount_point: std::path::PathBuf,
    drain: Drain,
    signals: Signals,
}

/// All that can fail before the mount answers. `None`: it is mounted already.
fn begin(settings: &Settings, background: bool) -> Result<Option<Begun>> {
    if background {
        // It fails only for a leader of a group, which has left its terminal already.
        let _ = rustix::process::setsid();
        crate::logging::init_daemon(&settings.log_file)?;
    } else {
        crate::logging::init_foreground();
    }
    crate::secret::protect_process();
    if settings.read_path == ReadPath::Kernel {
        return Err(Error::Settings(
            "the read path `kernel` is not there yet; leave `read_path` at `audited`".into(),
        ));
    }
    let mount_point = resolve(&settings.mount_point);
    match state(&mount_point)? {
        MountState::NotMounted => {}
        MountState::Ours { alive: true, .. } => {
            tracing::info!("{} is mounted already", mount_point.display());
            return Ok(None);
        }
        MountState::Ours { alive: false, .. } => {
            tracing::warn!("cleaning up the dead mount at {}", mount_point.display());
            detach(&mount_point)?;
        }
        MountState::Foreign { fstype } => {
            let dir = mount_point.display();
            return Err(Error::Settings(format!(
                "{dir} has a mount of type {fstype} on it; choose another folder"
            )));
        }
    }
    prepare(&mount_point)?;
    // Before any thread begins, so that none of them gets a signal in its own way.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| Error::io("signals", e))?;
    let manager = SecretsManager::from_settings(settings)?;
    let hardware = Arc::new(Hardware::in_registry(manager.caches(), Box::new(|| None)));
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let tree = Tree::new(manager.clone(), hardware, owner, settings.allow_other);
    tree.set_mount_info(|info| {
        info.mount_point = mount_point.display().to_string();
        info.read_path = "audited".into();
        info.allow_other = settings.allow_other;
    });
    let (fs, notices) = Fs::new(tree).map_err(|e| Error::io("threads", e))?;
    let drain = fs.drain();
    let session = mount(fs, &mount_point, settings.allow_other)?;
    notices
        .start(session.notifier())
        .map_err(|e| Error::io("threads", e))?;
    watch(manager.clone(), settings.base_dir.clone());
    if settings.prefetch {
        // Nobody waits for it: a backend that hangs is no reason not to mount.
        manager.fetch_all(Box::new(|| {}));
    }
    warm_up(manager);
    Ok(Some(Begun {
        session,
        mount_point,
        drain,
        signals,
    }))
}

/// An empty folder of the user's own.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let context = |e| Error::io(dir.display().to_string(), e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(context)?;
    if std::fs::read_dir(dir).map_err(context)?.next().is_some() {
        let dir = dir.display();
        return Err(Error::Settings(format!(
            "{dir} is not empty: a mount would hide what is in it; choose another folder"
        )));
    }
    Ok(())
}

pub(super) fn mount(fs: Fs, mount_point: &Path, allow_other: bool) -> Result<Session<Fs>> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("simpletuner-live".into()),
        MountOption::Subtype("simpletuner-live".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    Session::new(fs, mount_point, &config)
        .map_err(|error| Error::Settings(why_not(mount_point, &error)))
}

/// What to do about a mount that failed.
fn why_not(mount_point: &Path, error: &std::io::Error) -> String {
    let dir = mount_point.display();
    let said = error.to_string();
    let root = rustix::process::geteuid().is_root();
    if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse: load the kernel module (`modprobe fuse`), or give the container the device (`--device /dev/fuse`)".into()
    } else if !root && error.kind() == std::io::ErrorKind::NotFound {
        "an ordinary user mounts through `fusermount3`, which is not installed (Debian: apt install fuse3)".into()
    } else if said.contains("user_allow_other") {
        "--allow-other needs the line `user_allow_other` in /etc/fuse.conf (or root)".into()
    } else if root && error.kind() == std::io::ErrorKind::PermissionDenied {
        format!(
            "{dir} cannot be mounted: {said}; in a container, it needs the capability SYS_ADMIN"
        )
    } else {
        format!("{dir} cannot be mounted: {}", said.trim())
    }
}

/// The key takes a moment to derive: before the first reader comes, not while it waits.
fn warm_up(manager: Arc<SecretsManager>) {
    let _ = std::thread::Builder::new()
        .name("warm-up".into())
        .spawn(move || {
            if let Some((name, _)) = manager
                .names()
                .into_iter()
                .find(|(_, provider)| &**provider == "file")
            {
                let _ = manager.held(&name);
            }
        });
}

/// From here on nobody reads what this prints.
fn leave_terminal() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())
        .map_err(|e| Error::io("/dev/null", e))?;
    let result = rustix::stdio::dup2_stdin(null.as_fd())
        .and_then(|()| rustix::stdio::dup2_stdout(null.as_fd()))
        .and_then(|()| rustix::stdio::dup2_stderr(null.as_fd()));
    result.map_err(|e| Error::io("/dev/null", e))
}

fn serve(begun: Begun) -> Result<()> {
    let Begun {
        session,
        mount_point,
        drain,
        mut signals,
    } = begun;
    tracing::info!("serving {}", mount_point.display());
    let (dir, ending) = (mount_point.clone(), drain.clone());
    let ends = std::thread::Builder::new()
        .name("signals".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let Some(signal) = signals.forever().next() else {
                return;
            };
            tracing::info!("signal {signal}: unmounting {}", dir.display());
            match detach(&dir) {
                // The session ends by itself.
                Ok(false) => {}
                // Open files keep the session alive; what is being written is finished, and that is all.
                Ok(true) => {
                    ending.finish();
                    std::process::exit(0);
                }
                Err(error) => {
                    tracing::error!("{error}");
                    ending.finish();
                    std::process::exit(1);
                }
            }
        });
    ends.map_err(|e| Error::io("threads", e))?;
    let result = session.run();
    drain.finish();
    tracing::info!("{} is unmounted", mount_point.display());
    result.map_err(|e| Error::io(mount_point.display().to_string(), e))
}
