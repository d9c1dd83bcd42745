//! The server: assembles the tree, answers the kernel, and starts another keeper when its own has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags};

use super::channel::{Channel, pair};
use super::detach::{detach_own, end_connection};
use super::environment::Environment;
use super::handover::{
    HandoverState, Hello, QUIESCE_TIMEOUT, SharedFds, ToKeeper, ToServer, whole_seconds,
};
use super::in_force;
use super::poll::is_ready;
use super::setup::Signals;
use crate::audit::AuditTrail;
use crate::clock;
use crate::error::{Error, Result};
use crate::files::reserve;
use crate::fuse::{Drain, Fs};
use crate::hardware::{Hardware, database_loader};
use crate::live::{Commits, Owner, Parts, Restart, Tree};
use crate::manager::SecretsManager;
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::settings::{Settings, SettingsContent};
use crate::simpletuner_db::ProviderConfigs;
use crate::sync::{self, JoinHandle, LARGE_STACK, RwLock, SMALL_STACK};

/// How often the server beats: several times within the shortest `timeout.server`, one second.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// How long the server waits before it tries again to start a keeper.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A shorter sleep makes no name too old.
const MIN_SLEEP: Duration = Duration::from_millis(100);
/// This variable makes the server act as on a kernel that cannot resend requests.
const NO_RESEND: &str = "SIMPLETUNER_LIVE_NO_RESEND";

/// Serves the mount of the keeper that started this process, until the mount ends. `load` loads the settings: from the
/// content of the settings file that is in force, or from the file if there is none yet.
///
/// # Errors
/// Why the server cannot serve. The keeper gets the same reason.
pub fn serve(load: impl FnOnce(Option<SettingsContent>) -> Result<Settings>) -> Result<()> {
    let (Hello::Serve(mut state), shared, channel) = Channel::inherited()?.receive_hello()? else {
        return Err(Error::Settings(
            "only a keeper starts this part of a mount".into(),
        ));
    };
    state.server = std::process::id();
    let settings = in_force::load(&shared.settings, state.log_file(), load)?;
    let assembled = settings.and_then(|settings| {
        let Some((manager, restarts)) = prepare(&settings, &state, &channel)? else {
            return Ok(None);
        };
        state.restarts = restarts;
        let parts = assemble(&settings, &state, &shared, manager.clone())?;
        Ok(Some((parts, manager, Signals::new()?)))
    });
    let (
        Assembled {
            session,
            heartbeat,
            drain,
            tree,
            unfinished,
        },
        manager,
        signals,
    ) = match assembled {
        Ok(Some(assembled)) => assembled,
        Ok(None) => return Ok(()),
        Err(error) => {
            // The keeper may have ended as well.
            let _ = channel.send(&ToKeeper::Failed(error.to_string()));
            return Err(error);
        }
    };
    reserve::keep();
    drain.resume(unfinished);
    let mount_point = state.mount_point();
    tracing::info!("serving {}", mount_point.display());
    let keeper_link = KeeperLink {
        channel: Arc::new(RwLock::new(channel)),
        keeper: None,
        signals,
        state,
        shared,
        heartbeat,
        drain: drain.clone(),
        tree,
        manager: manager.clone(),
        slept: clock::slept(),
    };
    keeper_link.start_thread()?;
    let result = session.run();
    drain.finish();
    manager.close();
    result.map_err(|e| Error::io(mount_point.display().to_string(), e))
}

/// Does what is possible while another server still answers, and waits until the keeper says to begin. Returns the
/// restarts so far, too. `None`: the mount has ended meanwhile.
fn prepare(
    settings: &Settings,
    state: &HandoverState,
    channel: &Channel,
) -> Result<Option<(Arc<SecretsManager>, Vec<Restart>)>> {
    crate::secret::set_fingerprint_key(state.fingerprints);
    let manager = SecretsManager::from_settings(settings)?;
    let warm = warm_up(manager.clone());
    // With `Begin` here already, readers wait: the server then begins before the key is derived.
    if !channel.is_readable()
        && let Some(warm) = warm
    {
        let _ = warm.join();
    }
    channel.send(&ToKeeper::Prepared(whole_seconds(settings.timeout.server)))?;
    loop {
        match channel.receive()? {
            Some(ToServer::Begin(restarts)) => return Ok(Some((manager, restarts))),
            Some(ToServer::Upgraded(_) | ToServer::Reloaded(_) | ToServer::Quiesce) => {}
            Some(ToServer::Shutdown) | None => return Ok(None),
        }
    }
}

struct Assembled {
    session: Session<Fs>,
    heartbeat: HeartbeatPage,
    drain: Drain,
    tree: Arc<Tree>,
    unfinished: Commits,
}

/// Builds everything that can fail before the server answers.
fn assemble(
    settings: &Settings,
    state: &HandoverState,
    shared: &SharedFds,
    manager: Arc<SecretsManager>,
) -> Result<Assembled> {
    let heartbeat = HeartbeatPage::map(&shared.heartbeat)?;
    heartbeat.beat();
    let audit = AuditTrail::from_settings(settings);
    let configs = ProviderConfigs::in_registry(manager.caches(), settings, audit.clone());
    let configs = Arc::new(configs);
    let hardware = Arc::new(Hardware::in_registry(
        manager.caches(),
        database_loader(configs.clone(), false),
    ));
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        allows_root: in_force::allows_root(settings, state.allow_root),
    };
    let file = |fd: &OwnedFd| match fd.try_clone() {
        Ok(file) => Ok(std::fs::File::from(file)),
        Err(error) => Err(Error::io("the journal", error)),
    };
    let journal = [file(&shared.journal[0])?, file(&shared.journal[1])?];
    let (tree, unfinished) = Tree::restore(
        Parts {
            manager: manager.clone(),
            hardware,
            configs: Some(configs),
            audit: Some(audit),
            processes: Arc::new(crate::process::Proc),
        },
        owner,
        journal,
        shared.key.clone(),
        state.numbers_from,
    )?;
    tree.set_mount_info(|info| {
        info.mount_point = state.mount_point().display().to_string();
        info.allow_root = owner.allows_root;
        info.settings_file = settings.config_file.display().to_string();
        info.settings = settings.content.digest();
        info.reload.clone_from(&state.reload);
        info.keeper_pid = Some(state.keeper);
        info.restarts.clone_from(&state.restarts);
        info.program = Some(state.program.to_os().to_string_lossy().into_owned());
        info.upgrade.clone_from(&state.upgrade);
    });
    let threads = |e| Error::io("threads", e);
    let fs = Fs::new(tree.clone(), Some(heartbeat)).map_err(threads)?;
    let drain = fs.drain();
    let session = attach_session(fs, state, shared, &heartbeat)?;
    if std::env::var_os(NO_RESEND).is_some() {
        tree.set_mount_info(|info| info.kernel.resend = false);
    }
    drain.set_device(shared.device.as_fd()).map_err(threads)?;
    if settings.prefetch {
        // In the background: a backend that hangs must not delay the mount.
        manager.refresh_async(Box::new(|_| {}));
    }
    if let Some(restart) = state.restarts.last() {
        tree.notify_restart(restart);
    }
    // Not earlier: if this server ends before it has the requests sent again, its successor must still know them.
    let unanswered = heartbeat.drain_unanswered();
    let last = heartbeat.get(Slot::LastRequest);
    let can_resend = tree.mount_info().kernel.resend;
    request_resend(&shared.device, &unanswered, last, can_resend)
        .map_err(|e| Error::io("the requests of the server before this one", e))?;
    Ok(Assembled {
        session,
        heartbeat,
        drain,
        tree,
        unfinished,
    })
}

/// Makes a fuser session on a device whose INIT an earlier server may have answered. The session first reads INIT from a
/// socket, and its answer goes to the kernel only if it is the first one. The device then replaces the socket under the
/// same descriptor number.
fn attach_session(
    fs: Fs,
    state: &HandoverState,
    shared: &SharedFds,
    heartbeat: &HeartbeatPage,
) -> Result<Session<Fs>> {
    let failed = |e: io::Error| Error::io("the device", e);
    let (ours, theirs) = pair().map_err(|e| failed(e.into()))?;
    rustix::io::write(&ours, &state.init).map_err(|e| failed(e.into()))?;
    // No check by fuser: the kernel admits only the owner, and root with `allow_root`, and the tree checks again. fuser
    // would also refuse the close of a process that has changed its user since the open.
    let mut config = Config::default();
    config.acl = SessionACL::All;
    let session = Session::from_fd(fs, theirs, SessionACL::All, config).map_err(failed)?;
    let mut answer = [0; 1024];
    let len = rustix::io::read(&ours, &mut answer).map_err(|e| failed(e.into()))?;
    if heartbeat.get(Slot::Initialized) == 0 {
        rustix::io::write(&shared.device, &answer[..len]).map_err(|e| failed(e.into()))?;
        heartbeat.set(Slot::Initialized, 1);
    }
    replace_fd(&session, &shared.device).map_err(failed)?;
    Ok(session)
}

/// Puts the device under the descriptor number that the session reads and writes.
fn replace_fd(session: &Session<Fs>, device: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both are open descriptors of this process. The session still owns its number, which now names the device.
    let result = unsafe {
        libc::dup3(
            device.as_raw_fd(),
            session.as_fd().as_raw_fd(),
            libc::O_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Asks the kernel to resend the requests that earlier servers read and did not answer. A kernel that cannot resend gets
/// EIO for them.
fn request_resend(
    device: &OwnedFd,
    unanswered: &[u64],
    last: u64,
    can_resend: bool,
) -> io::Result<()> {
    /// The kernel numbers requests in steps (FUSE_REQ_ID_STEP, fs/fuse/fuse_i.h).
    const STEP: usize = 2;
    /// How many numbers after the last recorded one get EIO as well.
    const MAX_UNRECORDED: u64 = 1024;
    /// A message that is only a header (`fuse_out_header`): length, error, request number.
    fn header(error: i32, unique: u64) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&16u32.to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        header
    }
    const FUSE_NOTIFY_RESEND: i32 = 7;
    if can_resend {
        rustix::io::write(device, &header(FUSE_NOTIFY_RESEND, 0))?;
        return Ok(());
    }
    // A server may have read one more request and died before it recorded it. A number that the kernel has not used yet
    // has no effect, and its request later arrives here.
    let unrecorded = (last..last + MAX_UNRECORDED * STEP as u64).step_by(STEP);
    for request in unanswered.iter().copied().chain(unrecorded.skip(1)) {
        // ENOENT: the request was answered, or its caller is gone.
        let _ = rustix::io::write(device, &header(-libc::EIO, request));
    }
    Ok(())
}

/// Derives the store's key in the background, which takes a moment, so that the first reader does not wait for it.
fn warm_up(manager: Arc<SecretsManager>) -> Option<JoinHandle<()>> {
    let warm = move || {
        let names = manager.names();
        let mut names = names.iter();
        if let Some((name, _)) = names.find(|(_, provider)| &**provider == "file") {
            let _ = manager.find(name);
        }
    };
    sync::spawn("warm-up", LARGE_STACK, warm).ok()
}

/// The server's link to its keeper: heartbeat, messages and signals, and another keeper when this one ends.
struct KeeperLink {
    /// The thread that commits writes sends on it, too.
    channel: Arc<RwLock<Channel>>,
    /// The keeper, if this server started it and must reap it.
    keeper: Option<Child>,
    signals: Signals,
    state: HandoverState,
    shared: SharedFds,
    heartbeat: HeartbeatPage,
    drain: Drain,
    tree: Arc<Tree>,
    manager: Arc<SecretsManager>,
    /// How long the machine had slept at the last look.
    slept: Duration,
}

impl KeeperLink {
    /// Starts the thread, which first reports that the server answers.
    fn start_thread(mut self) -> Result<()> {
        let channel = self.channel.clone();
        self.tree.on_reload(Box::new(move |request| {
            let environment = Environment::from_request(request)?;
            channel.read().send(&ToKeeper::Reload(environment))
        }));
        let run = move || {
            // A keeper that has ended shows in the first `poll_once`.
            let _ = self.channel.read().send(&ToKeeper::Ready);
            loop {
                self.poll_once();
            }
        };
        let spawned = sync::spawn("keeper-link", SMALL_STACK, run);
        spawned.map(drop).map_err(|e| Error::io("threads", e))
    }

    /// Beats, and handles the next signal or message that arrives before the next beat.
    fn poll_once(&mut self) {
        self.heartbeat.beat();
        self.notice_sleep();
        let channel = self.channel.clone();
        let channel = channel.read();
        let mut fds = [
            PollFd::new(&self.signals.end, PollFlags::IN),
            PollFd::new(&self.signals.reload, PollFlags::IN),
            PollFd::new(&*channel, PollFlags::IN),
        ];
        if !is_ready(&mut fds, BEAT_INTERVAL) {
            return;
        }
        let [end, reload, message] = fds.map(|fd| !fd.revents().is_empty());
        if end {
            let _ = rustix::io::read(&self.signals.end, &mut [0; 16]);
            self.unmount();
        }
        if reload {
            let _ = rustix::io::read(&self.signals.reload, &mut [0; 16]);
            let _ = channel.send(&ToKeeper::Reload(None));
        }
        if message {
            let message = channel.receive();
            drop(channel);
            match message {
                Ok(Some(ToServer::Shutdown)) => self.shut_down(),
                Ok(Some(ToServer::Upgraded(upgrade))) => {
                    self.state.upgrade = Some(upgrade.clone());
                    self.tree
                        .set_mount_info(|info| info.upgrade = Some(upgrade));
                }
                Ok(Some(ToServer::Reloaded(reload))) => {
                    self.state.reload = Some(reload.clone());
                    self.tree.set_mount_info(|info| info.reload = Some(reload));
                }
                Ok(Some(ToServer::Quiesce)) => {
                    self.tree.freeze_audit(QUIESCE_TIMEOUT);
                    let _ = self.channel.read().send(&ToKeeper::Quiesced);
                }
                Ok(Some(ToServer::Begin(_))) => {}
                Ok(None) | Err(_) => self.replace_keeper(),
            }
        }
    }

    /// The kernel's clock for the names that it keeps stands still while the machine sleeps, and values expire meanwhile.
    fn notice_sleep(&mut self) {
        let slept = clock::slept();
        if slept > self.slept + MIN_SLEEP {
            tracing::info!("the machine slept for {} s", (slept - self.slept).as_secs());
            self.tree.kernel_names().next_epoch();
        }
        self.slept = self.slept.max(slept);
    }

    /// Passes a request to unmount on to the keeper. Without a keeper, the server unmounts by itself.
    fn unmount(&self) {
        if self.channel.read().send(&ToKeeper::Unmount).is_ok() {
            return;
        }
        let left = detach_own(&self.state.mount);
        self.finish();
        end_connection(left);
        self.shut_down();
    }

    fn finish(&self) {
        self.drain.finish();
        self.manager.close();
    }

    fn shut_down(&self) -> ! {
        self.finish();
        crate::logging::flush();
        std::process::exit(0);
    }

    /// Starts another keeper after one ended.
    fn replace_keeper(&mut self) {
        if let Some(mut ended) = self.keeper.take() {
            let _ = ended.wait();
        }
        tracing::warn!("the keeper has ended; starting another");
        let started = reserve::with(|| {
            let (child, channel) = Channel::start(&self.shared, &self.state, "keeper", None)?;
            self.state.keeper = child.id();
            // A keeper that has ended meanwhile shows in the next `poll_once`.
            let _ = channel.send_hello(&Hello::Keep(self.state.clone()), &self.shared, None);
            Ok::<_, Error>((child, channel))
        });
        let (child, channel) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!("{error}; trying again in a second");
                std::thread::sleep(RETRY_DELAY);
                return;
            }
        };
        self.tree
            .set_mount_info(|info| info.keeper_pid = Some(child.id()));
        self.keeper = Some(child);
        *self.channel.write() = channel;
    }
}
