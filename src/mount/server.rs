//! The server: assembles the tree, answers the kernel, and starts another keeper when its own has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::handover::{Brief, Channel, First, GIVES_WAY_WITHIN, Held, ToKeeper, ToServer, pair};
use super::process::{Signals, set_up};
use super::unmount::detach;
use crate::error::{Error, Result};
use crate::fuse::vitals::{Vitals, Word};
use crate::fuse::{Drain, Fs};
use crate::hardware::{Hardware, configured_in};
use crate::live::{Commits, Owner, Parts, Restart, Tree};
use crate::manager::SecretsManager;
use crate::settings::Settings;
use crate::state::ProviderConfigs;
use crate::state::audit::AuditTrail;

/// How often the keeper is told that this lives; several times within the least patience it can have.
const BEAT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// Serves the mount of the keeper that started this, until it ends. Settings that could not be loaded are a reason that
/// the keeper is told.
///
/// # Errors
/// Why it cannot be served; the keeper is told, too.
pub fn serve(settings: Result<Settings>) -> Result<()> {
    let (First::Serve(mut brief), held, channel) = Channel::inherited()?.receive_held()? else {
        return Err(Error::Settings("this is started by its keeper only".into()));
    };
    brief.server = std::process::id();
    set_up(brief.log())?;
    let begun = settings.and_then(|settings| {
        let Some((manager, restarts)) = prepare(&settings, &brief, &channel)? else {
            return Ok(None);
        };
        brief.restarts = restarts;
        begin(&settings, &brief, &held, manager).map(Some)
    });
    let Begun {
        session,
        vitals,
        drain,
        tree,
        unfinished,
    } = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return Ok(()),
        Err(error) => {
            // It may have ended, too, and then there is nobody to tell.
            let _ = channel.send(&ToKeeper::Failed(error.to_string()));
            return Err(error);
        }
    };
    drain.resume(unfinished);
    let mount_point = brief.path();
    tracing::info!("serving {}", mount_point.display());
    let company = Company {
        channel,
        keeper: None,
        signals: Signals::new()?.end,
        brief,
        held,
        vitals,
        drain: drain.clone(),
        tree,
    };
    company.accompany()?;
    let result = session.run();
    drain.finish();
    result.map_err(|e| Error::io(mount_point.display().to_string(), e))
}

/// All that can be done while another server still answers; comes back with the servers that ended, when it is time to
/// begin. `None`: there is nobody to begin for.
fn prepare(
    settings: &Settings,
    brief: &Brief,
    channel: &Channel,
) -> Result<Option<(Arc<SecretsManager>, Vec<Restart>)>> {
    crate::secret::set_fingerprint_key(brief.fingerprints);
    let manager = SecretsManager::from_settings(settings)?;
    let warm = warm_up(manager.clone());
    // Where readers are waiting already, they wait less if that goes on beside.
    if !channel.has_news()
        && let Some(warm) = warm
    {
        let _ = warm.join();
    }
    channel.send(&ToKeeper::Prepared)?;
    loop {
        match channel.receive()? {
            Some(ToServer::Begin(restarts)) => return Ok(Some((manager, restarts))),
            Some(ToServer::Upgraded(_) | ToServer::GiveWay) => {}
            Some(ToServer::Finish) | None => return Ok(None),
        }
    }
}

struct Begun {
    session: Session<Fs>,
    vitals: Vitals,
    drain: Drain,
    tree: Arc<Tree>,
    unfinished: Commits,
}

/// All that can fail before it answers.
fn begin(
    settings: &Settings,
    brief: &Brief,
    held: &Held,
    manager: Arc<SecretsManager>,
) -> Result<Begun> {
    let vitals = Vitals::of(&held.vitals)?;
    let taken = vitals.drain_taken();
    vitals.beat();
    let audit = AuditTrail::from_settings(settings);
    let configs = ProviderConfigs::in_registry(manager.caches(), settings, audit.clone());
    let configs = Arc::new(configs);
    let hardware = Arc::new(Hardware::in_registry(
        manager.caches(),
        configured_in(configs.clone(), false),
    ));
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        allows_root: settings.allow_root,
    };
    let file = |held: &OwnedFd| match held.try_clone() {
        Ok(file) => Ok(std::fs::File::from(file)),
        Err(error) => Err(Error::io("what the server before this one noted", error)),
    };
    let files = [file(&held.ledger[0])?, file(&held.ledger[1])?];
    let (tree, unfinished) = Tree::restore(
        Parts {
            manager: manager.clone(),
            hardware,
            configs: Some(configs),
            audit: Some(audit),
            processes: Arc::new(crate::process::Proc),
        },
        owner,
        files,
        held.key.clone(),
        brief.numbers_from,
    )?;
    tree.set_mount_info(|info| {
        info.mount_point = brief.path().display().to_string();
        info.allow_root = settings.allow_root;
        info.keeper_pid = Some(brief.keeper);
        info.restarts.clone_from(&brief.restarts);
        info.program = Some(brief.program.to_os().to_string_lossy().into_owned());
        info.upgrade.clone_from(&brief.upgrade);
    });
    let threads = |e| Error::io("threads", e);
    let fs = Fs::new(tree.clone(), Some(vitals.clone())).map_err(threads)?;
    let drain = fs.drain();
    let session = take_over(fs, brief, held, &vitals)?;
    if std::env::var_os(NO_RESEND).is_some() {
        tree.set_mount_info(|info| info.kernel.resend = false);
    }
    drain.set_device(held.device.as_fd()).map_err(threads)?;
    if settings.prefetch {
        // Nobody waits for it: a backend that hangs is no reason not to mount.
        manager.refresh_async(Box::new(|_| {}));
    }
    if let Some(restart) = brief.restarts.last() {
        tree.notify_restart(restart);
    }
    let last = vitals.get(Word::Last);
    call_in(&held.device, &taken, last, tree.mount_info().kernel.resend)
        .map_err(|e| Error::io("what the server before this one had taken", e))?;
    Ok(Begun {
        session,
        vitals,
        drain,
        tree,
        unfinished,
    })
}

/// Set where a kernel that cannot resend is to be tried.
const NO_RESEND: &str = "SIMPLETUNER_LIVE_NO_RESEND";

/// A session on the device whose first request was answered long ago: it answers the same request once more, which is
/// on a socket of our own, and is then given the device under the socket's number.
fn take_over(fs: Fs, brief: &Brief, held: &Held, vitals: &Vitals) -> Result<Session<Fs>> {
    let failed = |e: io::Error| Error::io("the device", e);
    let (ours, theirs) = pair().map_err(|e| failed(e.into()))?;
    rustix::io::write(&ours, &brief.init).map_err(|e| failed(e.into()))?;
    // The kernel lets nobody in but the owner, and root where it may, and the tree asks once more. One who has a file
    // open and has become another user since is let close it.
    let mut config = Config::default();
    config.acl = SessionACL::All;
    let session = Session::from_fd(fs, theirs, SessionACL::All, config).map_err(failed)?;
    let mut answer = [0; 1024];
    let len = rustix::io::read(&ours, &mut answer).map_err(|e| failed(e.into()))?;
    if vitals.get(Word::Initialized) == 0 {
        rustix::io::write(&held.device, &answer[..len]).map_err(|e| failed(e.into()))?;
        vitals.set(Word::Initialized, 1);
    }
    replace(&session, &held.device).map_err(failed)?;
    Ok(session)
}

/// Puts the device under the number that the session reads and writes.
fn replace(session: &Session<Fs>, device: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both numbers are open files of this process; the session keeps its own, which is another file now.
    let put = unsafe {
        libc::dup3(
            device.as_raw_fd(),
            session.as_fd().as_raw_fd(),
            libc::O_CLOEXEC,
        )
    };
    if put < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the kernel send again what a server that ended had taken, or ends it with an error where it cannot.
fn call_in(device: &OwnedFd, taken: &[u64], last: u64, resends: bool) -> io::Result<()> {
    /// The kernel numbers requests in steps (FUSE_REQ_ID_STEP, fs/fuse/fuse_i.h).
    const STEP: usize = 2;
    /// So many that a server had not begun with can have come after the last one.
    const UNKNOWN: u64 = 1024;
    /// A message of nothing but a header (`fuse_out_header`): length, error, number.
    fn header(error: i32, unique: u64) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&16u32.to_le_bytes());
        header[4..8].copy_from_slice(&error.to_le_bytes());
        header[8..].copy_from_slice(&unique.to_le_bytes());
        header
    }
    if resends {
        // FUSE_NOTIFY_RESEND
        rustix::io::write(device, &header(7, 0))?;
        return Ok(());
    }
    // One more may have been taken by a server that ended before it could say so. Those behind it have not been: the
    // kernel knows no such number, and they come to this server.
    let unknown = (last..last + UNKNOWN * STEP as u64).step_by(STEP);
    for request in taken.iter().copied().chain(unknown.skip(1)) {
        // ENOENT: it was answered, or its caller is gone.
        let _ = rustix::io::write(device, &header(-libc::EIO, request));
    }
    Ok(())
}

/// The key takes a moment to derive: before the first reader comes, not while it waits.
fn warm_up(manager: Arc<SecretsManager>) -> Option<JoinHandle<()>> {
    let warm = move || {
        let names = manager.names();
        let mut names = names.iter();
        if let Some((name, _)) = names.find(|(_, provider)| &**provider == "file") {
            let _ = manager.find(name);
        }
    };
    let thread = std::thread::Builder::new().name("warm-up".into());
    thread.spawn(warm).ok()
}

/// The keeper, as the server has it: told of signals and of life, replaced when it ends.
struct Company {
    channel: Channel,
    /// The one that this has started, whose end is to be asked for.
    keeper: Option<Child>,
    signals: OwnedFd,
    brief: Brief,
    held: Held,
    vitals: Vitals,
    drain: Drain,
    tree: Arc<Tree>,
}

impl Company {
    /// Tells the keeper that it answers, and goes on with it on a thread of its own.
    fn accompany(mut self) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name("company".into())
            .stack_size(256 * 1024);
        let spawned = thread.spawn(move || {
            let number = rustix::thread::gettid().as_raw_nonzero().get();
            self.vitals.set(Word::Thread, number as u64);
            // If nobody hears it, that shows next.
            let _ = self.channel.send(&ToKeeper::Ready);
            loop {
                self.look();
            }
        });
        spawned.map(drop).map_err(|e| Error::io("threads", e))
    }

    /// Shows that this lives, and hears what the keeper and signals say, for as long as a beat lasts.
    fn look(&mut self) {
        self.vitals.beat();
        let mut ends = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.channel, PollFlags::IN),
        ];
        if !matches!(rustix::event::poll(&mut ends, Some(&BEAT)), Ok(1..)) {
            return;
        }
        let [signal, said] = ends.map(|end| !end.revents().is_empty());
        if signal {
            let _ = rustix::io::read(&self.signals, &mut [0; 16]);
            self.unmount();
        }
        if said {
            match self.channel.receive() {
                Ok(Some(ToServer::Finish)) => self.finish(),
                Ok(Some(ToServer::Upgraded(upgrade))) => {
                    self.brief.upgrade = Some(upgrade.clone());
                    self.tree
                        .set_mount_info(|info| info.upgrade = Some(upgrade));
                }
                Ok(Some(ToServer::GiveWay)) => {
                    self.tree.freeze_audit(GIVES_WAY_WITHIN);
                    let _ = self.channel.send(&ToKeeper::GaveWay);
                }
                Ok(Some(ToServer::Begin(_))) => {}
                Ok(None) | Err(_) => self.replace_keeper(),
            }
        }
    }

    /// Passes on that this is to end.
    fn unmount(&self) {
        if self.channel.send(&ToKeeper::Unmount).is_ok() {
            return;
        }
        // There is none just now.
        if matches!(detach(&self.brief.path()), Ok(true)) {
            self.finish();
        }
    }

    fn finish(&self) -> ! {
        self.drain.finish();
        std::process::exit(0);
    }

    /// Another keeper in the place of one that has ended.
    fn replace_keeper(&mut self) {
        if let Some(mut ended) = self.keeper.take() {
            let _ = ended.wait();
        }
        tracing::warn!("the keeper has ended; starting another");
        let started = Channel::start(&self.held, &self.brief, "keeper");
        let (child, channel) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::error!("{error}; trying again in a moment");
                std::thread::sleep(Duration::from_secs(1));
                return;
            }
        };
        self.brief.keeper = child.id();
        // If it has ended meanwhile, that shows next.
        let _ = channel.send_held(&First::Keep(self.brief.clone()), &self.held, None);
        self.tree
            .set_mount_info(|info| info.keeper_pid = Some(child.id()));
        self.keeper = Some(child);
        self.channel = channel;
    }
}
