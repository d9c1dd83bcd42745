//! How a keeper begins: it mounts, or restores a mount that the service manager kept, and starts the first server.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::{CHECK_INTERVAL, Keeper, Wakeup, start_serving};
use crate::error::{Error, Result};
use crate::files::base_folder::{self, BaseFolder};
use crate::files::reserve;
use crate::mount::daemon::continue_stopped;
use crate::mount::detach::detach;
use crate::mount::handover::{
    HandoverState, OsBytes, SharedFds, ToKeeper, ViewsFds, ViewsState, journal_files, whole_seconds,
};
use crate::mount::mount_point::{MountPoint, turn_to_clear};
use crate::mount::mount_point_state::{
    MountPointState, has_ended, mount_point_state, mounted, resolve,
};
use crate::mount::service::RestoredMount;
use crate::mount::setup::{Signals, leave_terminal, set_up};
use crate::mount::start::{ALREADY, READY, warn_of_read_only};
use crate::mount::unmount::remove_dead;
use crate::mount::{device, in_force, service};
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::secret::SealingKey;
use crate::settings::Settings;
use crate::sync;

/// How long a keeper tries to get a folder on which others mount and unmount.
const FREE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a mount that has a process may take to answer before it counts as dead.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a server that is asked to end before it is ready has to become so.
const END_GRACE: Duration = Duration::from_secs(1);
/// How often the keeper looks meanwhile.
const SIGNAL_PAUSE: Duration = Duration::from_millis(5);

/// Mounts, and keeps a server running until the mount ends or SIGTERM or SIGINT arrives, or its terminal hangs up. With `in_background` it
/// leaves the terminal, logs to its file, and writes to standard output that the mount will answer, or why it does not. The mount answers
/// only after that report: a keeper whose command is gone unmounts, and no other command has seen its mount.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_foreground(
    settings: &Settings,
    arguments: &[OsString],
    in_background: bool,
) -> Result<()> {
    let begun = begin(settings, arguments, in_background);
    let report = match &begun {
        _ if !in_background => None,
        Ok(Some(_)) => Some(READY.to_owned()),
        Ok(None) => Some(ALREADY.to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let reported = match report {
        Some(report) => report_and_leave(&report),
        None => Ok(()),
    };
    let Some(keeper) = begun? else {
        return Ok(());
    };
    if let Err(error) = reported {
        // Nobody was told of this mount.
        tracing::error!(
            "{error}: unmounting {}",
            keeper.state.mount_point().display()
        );
        return keeper.unmount().and(Err(error));
    }
    keeper.server.begin(&keeper.state);
    let state = &keeper.state;
    service::notify_ready(&state.mount_point());
    // The service manager has a restored mount already.
    if device::can_resend(&state.init) && state.numbers_from == 0 {
        let device = &keeper.shared.device;
        service::store_mount(
            &service::LIVE,
            &state.mount,
            device,
            &state.init,
            false,
            false,
        );
        keeper.store_views();
    }
    keeper.run()
}

/// Reports to the command that started the daemon, and leaves its terminal.
fn report_and_leave(report: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(report.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::io("the command that started the daemon is gone", e))?;
    leave_terminal()
}

/// Mounts and waits until the first server answers. `None`: a mount that answers is there already.
fn begin(
    settings: &Settings,
    arguments: &[OsString],
    in_background: bool,
) -> Result<Option<Keeper>> {
    let log_file = in_background.then(|| settings.log_file.clone());
    set_up(log_file.clone())?;
    reserve::check_limit()?;
    if !in_background {
        warn_of_read_only(settings, false);
    }
    let mount_point = resolve(&settings.mount_point);
    let restored = service::restored();
    let lives = |restored: &RestoredMount| {
        restored.mount.find().is_some() && device::is_connected(&restored.device)
    };
    let restored_views = restored.views.filter(lives);
    let restored = restored.live.filter(|restored| {
        let mount = restored.mount.find();
        mount.is_some_and(|mount| mount.point == mount_point) && lives(restored)
    });
    let place = match restored.is_some() {
        true => None,
        false => match free_place(&settings.mount_point)? {
            Some(place) => Some(place),
            None => return Ok(None),
        },
    };
    // Set up before the mount, so that no signal is lost meanwhile.
    let signals = Signals::new()?;
    let (heartbeat, heartbeat_file) = HeartbeatPage::new()?;
    let mut fingerprints = [0; 16];
    random(&mut fingerprints)?;
    // All that can fail comes before the mount, so that none is left behind.
    let journal = journal_files()?;
    let (program, key) = (own_program()?, SealingKey::random()?);
    let settings_in_force = in_force::of(&settings.content)?;
    let program_path =
        std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let (device, mount, init, numbers_from) = match (restored, &place) {
        (Some(restored), _) => {
            tracing::info!(
                "taking over the mount at {} from the service manager",
                mount_point.display()
            );
            heartbeat.set(Slot::Initialized, 1);
            (
                restored.device,
                restored.mount,
                restored.init,
                random_start()?,
            )
        }
        (None, None) => return Ok(None),
        (None, Some(place)) => {
            let (device, mount) = device::mount(place, settings.allow_root)?;
            let init = device::read_init(&device).inspect_err(|_| drop(detach(&mount)))?;
            (device, mount.id(), init, 0)
        }
    };
    let base_folder = BaseFolder::find(&settings.base_dir);
    base_folder::keep(base_folder.clone());
    let mut shared = SharedFds {
        device,
        heartbeat: heartbeat_file,
        journal,
        settings: settings_in_force,
        program,
        key,
        views: None,
        sockets: Vec::new(),
    };
    let mut state = HandoverState {
        mount: mount.clone(),
        mount_point: OsBytes::from(&mount_point),
        program: OsBytes::from(program_path),
        arguments: arguments.iter().map(OsBytes::from).collect(),
        log_file: log_file.map(OsBytes::from),
        fingerprints,
        init,
        numbers_from,
        keeper: std::process::id(),
        server: 0,
        restarts: Vec::new(),
        upgrade: None,
        reload: None,
        base_folder: base_folder.clone(),
        allow_root: settings.allow_root,
        server_timeout: whole_seconds(settings.timeout.server),
        views: None,
        sockets: Vec::new(),
    };
    if let Some(views) = restored_views {
        heartbeat.set(Slot::ViewsInitialized, 1);
        let point = views.mount.find().map(|mount| mount.point);
        state.views = Some(ViewsState {
            mount_point: OsBytes::from(point.unwrap_or_default()),
            mount: views.mount,
            init: views.init,
            numbers_from: random_start()?,
            allow_other: views.allow_other,
            watches_opens: false,
            kernel_opens: views.kernel_opens,
        });
        shared.views = Some(ViewsFds {
            device: views.device,
            journal: journal_files()?,
            opens: None,
        });
    }
    let begun = start_serving(&state, &shared).and_then(|server| {
        let mut keeper = Keeper::new(state, shared, heartbeat, server, signals);
        keeper.wait_until_ready()?;
        Ok(keeper)
    });
    if begun.is_err()
        && let Some(mount) = mount.find()
    {
        let _ = detach(&mount);
    }
    begun.map(Some)
}

impl Keeper {
    /// Waits until the mount's first server answers; an error if it fails, because then nothing is mounted.
    fn wait_until_ready(&mut self) -> Result<()> {
        let mut end_at: Option<Instant> = None;
        loop {
            if end_at.is_some_and(|end_at| Instant::now() >= end_at) {
                let why = "the daemon was asked to end before it was ready";
                self.server.kill(why);
                return Err(Error::Settings(why.into()));
            }
            match self.wait(CHECK_INTERVAL) {
                Wakeup::Message(ToKeeper::Ready, _) => {
                    self.server_is_ready();
                    return Ok(());
                }
                Wakeup::Message(ToKeeper::Unmount, _) => end_at = Some(Instant::now()),
                Wakeup::Message(message, received) => self.handle_message(message, received),
                // The server may answer already, and its message be on the way.
                Wakeup::UnmountSignal => {
                    end_at.get_or_insert(Instant::now() + END_GRACE);
                    sync::sleep(SIGNAL_PAUSE);
                }
                Wakeup::ServerEnded => return Err(Error::Settings(self.server.reap().reason)),
                _ => {}
            }
        }
    }
}

/// Where inode numbers and handles begin if the kernel may remember those of processes that have ended. A random start keeps the new
/// ones apart from them.
fn random_start() -> Result<u64> {
    let mut from = [0; 8];
    random(&mut from[2..6])?;
    Ok(u64::from_le_bytes(from))
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::io("random numbers", std::io::Error::other(e.to_string())))
}

/// The folder to mount on, once it is this keeper's turn to do so; `None`: a mount that answers is there already.
fn free_place(dir: &Path) -> Result<Option<MountPoint>> {
    let begun = Instant::now();
    while begun.elapsed() < FREE_TIMEOUT {
        if !clear(&resolve(dir))? {
            return Ok(None);
        }
        // Not the resolved path: the folders that its links lie in count, too.
        let Some(place) = MountPoint::open(dir)? else {
            continue;
        };
        place.take_turn();
        // Another keeper may have mounted, and unmounted, since the folder was opened.
        if mounted(place.path())?.is_none() && place.is_current() {
            return Ok(Some(place));
        }
    }
    Err(Error::Settings(format!(
        "{} is being mounted and unmounted by others all the time",
        dir.display()
    )))
}

/// Returns whether nothing is mounted at the mount point. A mount of ours that does not answer is unmounted, unless its processes
/// are only stopped, or are about to answer.
fn clear(mount_point: &Path) -> Result<bool> {
    let begun = Instant::now();
    loop {
        match mount_point_state(mount_point)? {
            MountPointState::NotMounted => return Ok(true),
            MountPointState::Ours { alive: true, .. } => {
                tracing::info!("{} is mounted already", mount_point.display());
                return Ok(false);
            }
            MountPointState::Ours { alive: false, .. } => {
                let Some(mount) = mounted(mount_point)? else {
                    continue;
                };
                let is_stopped = continue_stopped(&mount);
                let had_ended = has_ended(mount_point);
                let is_beginning = begun.elapsed() < BEGIN_TIMEOUT && !had_ended;
                if is_stopped || is_beginning {
                    std::thread::sleep(LOOK_INTERVAL);
                    continue;
                }
                // `fusermount3` takes a path, at which another keeper may have mounted since.
                let _turn = turn_to_clear(mount_point);
                // The kernel gives the numbers of a mount that is gone to the next one.
                let is_another = had_ended && !has_ended(mount_point);
                if is_another || mount.id().find().is_none() {
                    continue;
                }
                tracing::warn!("cleaning up the dead mount at {}", mount_point.display());
                match remove_dead(&mount) {
                    // Another command has removed it.
                    Err(_) if mount.id().find().is_none() => {}
                    removed => removed?,
                }
            }
            MountPointState::OfAnother { uid } => {
                let what = crate::mount::belongs_to_another(mount_point, uid);
                return Err(Error::Settings(format!("{what}; choose another folder")));
            }
            MountPointState::Foreign { fstype } => {
                let dir = mount_point.display();
                return Err(Error::Settings(format!(
                    "{dir} has a mount of type {fstype} on it; choose another folder"
                )));
            }
        }
    }
}

fn own_program() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/exe", flags, Mode::empty())
        .map_err(|e| Error::io("this program's own file", e))
}
