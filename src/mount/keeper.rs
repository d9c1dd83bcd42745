//! The keeper: mounts, holds what must outlive a server, and sees to it that there is one. It fetches no secret, and has
//! little in it that could fail.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::handover::{Brief, Channel, First, GIVES_WAY_WITHIN, Held, Text, ToKeeper, ToServer};
use super::start::READY;
use super::state::{MountState, is_mounted, resolve, state};
use super::supervised::{End, Server, timespec};
use super::unmount::detach;
use super::{device, prepare, service};
use crate::error::{Error, Result};
use crate::fuse::vitals::{Vitals, Word};
use crate::ledger;
use crate::provider::rfc3339;
use crate::settings::{ReadPath, Settings};
use crate::tree::{Restart, Upgrade};

/// How often the pulse is felt.
const BEAT: Duration = Duration::from_secs(1);
/// So many servers in a row may fail to begin before the next one is waited with.
const TRIES: u32 = 5;
/// The longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a server nobody is made to wait for one any more.
const GIVES_UP_AFTER: Duration = Duration::from_secs(60);
/// How long the server of a new program may take to get ready.
const PREPARES_WITHIN: Duration = Duration::from_secs(30);
/// How many restarts are remembered.
const REMEMBERED: usize = 20;
/// How long a server may take to finish its writes, once the mount is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(16);

/// Mounts, and keeps a server there until the mount ends or SIGTERM, SIGINT or SIGHUP comes. With `in_background` it
/// leaves the terminal, logs to its file, and tells on standard output when the mount answers or why it does not.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_foreground(
    settings: &Settings,
    arguments: &[OsString],
    in_background: bool,
) -> Result<()> {
    let begun = begin(settings, arguments, in_background);
    let told = match &begun {
        _ if !in_background => None,
        Ok(_) => Some(READY.to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(told) = told {
        let mut out = std::io::stdout();
        out.write_all(told.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|e| Error::io("whoever started this is gone", e))?;
        leave_terminal()?;
        // The folder it was started in may be on a filesystem that is to be unmounted.
        let _ = std::env::set_current_dir("/");
    }
    let Some(keeper) = begun? else {
        return Ok(());
    };
    let brief = &keeper.brief;
    service::ready(&brief.path());
    // One that was revived is kept already.
    if device::can_resend(&brief.init) && brief.numbers_from == 0 {
        service::keep(&brief.path(), &keeper.held.device, &brief.init);
    }
    keeper.run()
}

/// Keeps the mount of a server whose keeper has ended.
///
/// # Errors
/// Where the server has ended as well.
pub fn adopt() -> Result<()> {
    let (First::Keep(mut brief), held, channel) = Channel::inherited()?.receive_held()? else {
        return Err(Error::Settings("this is started by its server only".into()));
    };
    set_up(brief.log())?;
    let signals = Signals::new()?;
    brief.keeper = std::process::id();
    let vitals = Vitals::of(&held.vitals)?;
    let dir = brief.path();
    tracing::info!("keeping {} from now on", dir.display());
    let server = match Server::adopted(brief.server, channel, &vitals) {
        Some(server) => server,
        // Gone already, and whoever was told how is gone, too.
        None => begin_to_serve(&brief, &held)?,
    };
    service::ready(&dir);
    Keeper::new(brief, held, vitals, server, signals).run()
}

/// A server that begins as soon as it can.
fn begin_to_serve(brief: &Brief, held: &Held) -> Result<Server> {
    let server = Server::start(brief, held)?;
    // It may have ended already, which shows by its end.
    let _ = server
        .channel
        .send(&ToServer::Begin(brief.restarts.clone()));
    Ok(server)
}

impl Brief {
    pub(super) fn path(&self) -> PathBuf {
        self.mount_point.to_os().into()
    }

    /// Where the log goes; `None`: to standard error.
    pub(super) fn log(&self) -> Option<PathBuf> {
        Some(self.log_file.as_ref()?.to_os().into())
    }
}

/// What both parts begin with; without a log file they stay at the terminal.
pub(super) fn set_up(log_file: Option<PathBuf>) -> Result<()> {
    // It was started by the number of a descriptor, which is no name to be found by.
    let _ = rustix::thread::set_name(c"simpletuner-liv");
    match log_file {
        Some(log_file) => {
            // It fails only for a leader of a group, which has left its terminal already.
            let _ = rustix::process::setsid();
            crate::logging::init_daemon(&log_file)?;
        }
        None => crate::logging::init_foreground(),
    }
    crate::secret::protect_process();
    Ok(())
}

/// What a signal asks for: a byte can be read for each.
pub(super) struct Signals {
    /// SIGTERM, SIGINT, SIGHUP.
    pub(super) end: OwnedFd,
    /// SIGUSR1.
    pub(super) upgrade: OwnedFd,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            end: pipe_of(&[SIGTERM, SIGINT, SIGHUP])?,
            upgrade: pipe_of(&[SIGUSR1])?,
        })
    }
}

fn pipe_of(signals: &[i32]) -> Result<OwnedFd> {
    let failed = |e| Error::io("signals", e);
    let (read, write) = rustix::pipe::pipe_with(
        rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
    )
    .map_err(|e| failed(e.into()))?;
    for signal in signals {
        let write = write.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(*signal, write).map_err(failed)?;
    }
    Ok(read)
}

/// All until the mount answers. `None`: it is mounted already.
fn begin(
    settings: &Settings,
    arguments: &[OsString],
    in_background: bool,
) -> Result<Option<Keeper>> {
    let log_file = in_background.then(|| settings.log_file.clone());
    set_up(log_file.clone())?;
    if settings.read_path == ReadPath::Kernel {
        return Err(Error::Settings(
            "the read path `kernel` is not there yet; leave `read_path` at `audited`".into(),
        ));
    }
    let mount_point = resolve(&settings.mount_point);
    let revived = service::revived().filter(|revived| {
        revived.mount_point == mount_point
            && is_mounted(&mount_point)
            && device::is_connected(&revived.device)
    });
    if revived.is_none() && !clear(&mount_point)? {
        return Ok(None);
    }
    // Before the mount, so that one that comes meanwhile is not lost.
    let signals = Signals::new()?;
    let (vitals, vitals_file) = Vitals::new()?;
    let mut key = zeroize::Zeroizing::new([0; ledger::KEY]);
    random(&mut *key)?;
    let mut fingerprints = [0; 16];
    random(&mut fingerprints)?;
    let (device, init, numbers_from) = match revived {
        Some(revived) => {
            tracing::info!("going on with the mount at {}", mount_point.display());
            vitals.set(Word::Initialized, 1);
            // Above all that the kernel can remember of the processes that have ended.
            let mut from = [0; 8];
            random(&mut from[2..6])?;
            (revived.device, revived.init, u64::from_le_bytes(from))
        }
        None => {
            prepare(&mount_point)?;
            let device = device::mount(&mount_point, settings.allow_other)?;
            let init = device::read_init(&device).inspect_err(|_| drop(detach(&mount_point)))?;
            (device, init, 0)
        }
    };
    let held = Held {
        device,
        vitals: vitals_file,
        ledger: [memory()?, memory()?],
        program: program(Path::new("/proc/self/exe"))?,
    };
    let own = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let brief = Brief {
        mount_point: Text::from(&mount_point),
        program: Text::from(own),
        arguments: arguments.iter().map(Text::from).collect(),
        log_file: log_file.map(Text::from),
        key,
        fingerprints,
        init,
        numbers_from,
        keeper: std::process::id(),
        server: 0,
        restarts: Vec::new(),
        upgrade: None,
        patience: settings.timeout.server.as_secs(),
    };
    let begun = begin_to_serve(&brief, &held).and_then(|server| {
        let mut keeper = Keeper::new(brief, held, vitals, server, signals);
        keeper.wait_until_ready()?;
        Ok(keeper)
    });
    if begun.is_err() {
        let _ = detach(&mount_point);
    }
    begun.map(Some)
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::io("random numbers", std::io::Error::other(e.to_string())))
}

/// Whether the mount point is free; a dead mount of ours is cleaned up.
fn clear(mount_point: &Path) -> Result<bool> {
    match state(mount_point)? {
        MountState::NotMounted => {}
        MountState::Ours { alive: true, .. } => {
            tracing::info!("{} is mounted already", mount_point.display());
            return Ok(false);
        }
        MountState::Ours { alive: false, .. } => {
            tracing::warn!("cleaning up the dead mount at {}", mount_point.display());
            detach(mount_point)?;
        }
        MountState::Foreign { fstype } => {
            let dir = mount_point.display();
            return Err(Error::Settings(format!(
                "{dir} has a mount of type {fstype} on it; choose another folder"
            )));
        }
    }
    Ok(true)
}

fn memory() -> Result<OwnedFd> {
    rustix::fs::memfd_create("simpletuner-live ledger", MemfdFlags::CLOEXEC)
        .map_err(|e| Error::io("memory to share", e))
}

fn program(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(path.display().to_string(), e))
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

struct Keeper {
    brief: Brief,
    held: Held,
    vitals: Vitals,
    server: Server,
    signals: Signals,
    /// How many servers in a row ended before they answered.
    failures: u32,
    failing_since: Option<Instant>,
    /// The server has passed that on while something else was asked of it.
    asked_to_end: bool,
    upgrade: Option<Upgrading>,
}

/// How far an upgrade is.
enum Upgrading {
    /// The new program prepares itself, while the old one serves.
    Preparing {
        next: Server,
        program: OwnedFd,
        since: Instant,
    },
    /// It is about to answer; if it does not, there is still the old one.
    Beginning { former: OwnedFd },
}

/// What woke the keeper.
enum Woken {
    Beat,
    AskedToEnd,
    AskedToUpgrade,
    Said(ToKeeper),
    Ended,
    NextSaid(ToKeeper),
    NextEnded,
}

impl Keeper {
    fn new(brief: Brief, held: Held, vitals: Vitals, server: Server, signals: Signals) -> Self {
        Self {
            brief,
            held,
            vitals,
            server,
            signals,
            failures: 0,
            failing_since: None,
            upgrade: None,
            asked_to_end: false,
        }
    }

    /// Serves until the mount ends.
    fn run(mut self) -> Result<()> {
        loop {
            if self.asked_to_end {
                return self.unmount();
            }
            match self.wait(BEAT) {
                Woken::Beat => self.feel(),
                Woken::AskedToEnd | Woken::Said(ToKeeper::Unmount) => return self.unmount(),
                Woken::AskedToUpgrade => self.begin_upgrade(),
                Woken::Said(ToKeeper::Ready) => self.server_is_ready(),
                Woken::Said(ToKeeper::Failed(why)) => self.server.reason = Some(why),
                Woken::Said(ToKeeper::Prepared | ToKeeper::GaveWay) => {}
                Woken::Ended => {
                    let end = self.server.how_it_ended();
                    if !device::is_connected(&self.held.device) {
                        let dir = self.brief.path();
                        service::stopping();
                        tracing::info!("{} is unmounted", dir.display());
                        return Ok(());
                    }
                    self.replace(end)?;
                }
                Woken::NextSaid(ToKeeper::Prepared) => self.take_over(),
                Woken::NextSaid(ToKeeper::Failed(why)) => {
                    if let Some(Upgrading::Preparing { next, .. }) = &mut self.upgrade {
                        next.reason = Some(why);
                    }
                }
                Woken::NextSaid(ToKeeper::Ready | ToKeeper::Unmount | ToKeeper::GaveWay) => {}
                Woken::NextEnded => {
                    if let Some(Upgrading::Preparing { mut next, .. }) = self.upgrade.take() {
                        let end = next.how_it_ended();
                        self.upgraded(Some(end.reason));
                    }
                }
            }
        }
    }

    /// Whether somebody hangs.
    fn feel(&mut self) {
        if let Some(why) = self.server.pulse.feel(&self.vitals, self.brief.patience) {
            self.server.kill(why);
        }
        if let Some(Upgrading::Preparing { next, since, .. }) = &mut self.upgrade
            && since.elapsed() > PREPARES_WITHIN
        {
            next.kill("it did not get ready");
        }
    }

    fn server_is_ready(&mut self) {
        self.server.serves(&self.vitals);
        self.failures = 0;
        self.failing_since = None;
        if let Some(Upgrading::Beginning { .. }) = self.upgrade {
            self.upgrade = None;
            self.upgraded(None);
            self.become_new();
        }
    }

    /// The first server has to answer, or to say why it does not.
    fn wait_until_ready(&mut self) -> Result<()> {
        loop {
            match self.wait(BEAT) {
                Woken::Said(ToKeeper::Ready) => {
                    self.server_is_ready();
                    return Ok(());
                }
                Woken::Said(ToKeeper::Failed(why)) => self.server.reason = Some(why),
                Woken::AskedToEnd | Woken::Said(ToKeeper::Unmount) => {
                    self.server.kill("it was asked to end");
                    return Err(Error::Settings("it was asked to end".into()));
                }
                Woken::Ended => return Err(Error::Settings(self.server.how_it_ended().reason)),
                _ => {}
            }
        }
    }

    /// What happens next, or that nothing does for so long.
    fn wait(&mut self, time: Duration) -> Woken {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let next = match &self.upgrade {
                Some(Upgrading::Preparing { next, .. }) => Some(next),
                _ => None,
            };
            // Where there is no telling of a thread, the process is told of twice.
            let ending = self.server.beginning_of_the_end.as_ref();
            let mut ends = vec![
                PollFd::new(&self.signals.end, PollFlags::IN),
                PollFd::new(&self.signals.upgrade, PollFlags::IN),
                PollFd::new(&self.server.channel, PollFlags::IN),
                PollFd::new(&self.server.end, PollFlags::IN),
                PollFd::new(ending.unwrap_or(&self.server.end), PollFlags::IN),
            ];
            if let Some(next) = next {
                ends.push(PollFd::new(&next.channel, PollFlags::IN));
                ends.push(PollFd::new(&next.end, PollFlags::IN));
            }
            if rustix::event::poll(&mut ends, Some(&timespec(left))).is_err() {
                continue;
            }
            let is_there =
                |place: usize| ends.get(place).is_some_and(|end| !end.revents().is_empty());
            if is_there(0) {
                return Woken::AskedToEnd;
            }
            if is_there(1) {
                let _ = rustix::io::read(&self.signals.upgrade, &mut [0; 16]);
                return Woken::AskedToUpgrade;
            }
            if is_there(2)
                && let Ok(Some(said)) = self.server.channel.receive()
            {
                return Woken::Said(said);
            }
            if is_there(3) || is_there(4) {
                return Woken::Ended;
            }
            if is_there(5)
                && let Some(next) = next
                && let Ok(Some(said)) = next.channel.receive()
            {
                return Woken::NextSaid(said);
            }
            if is_there(6) {
                return Woken::NextEnded;
            }
            if is_there(2) || is_there(5) {
                // One has closed its end of the channel, and ends itself in a moment.
                let ending = if is_there(2) {
                    Some(&self.server)
                } else {
                    next
                };
                ending.map(|ending| ending.has_ended(Duration::from_millis(100)));
            }
            if Instant::now() >= until {
                return match self.server.is_over() {
                    true => Woken::Ended,
                    false => Woken::Beat,
                };
            }
        }
    }

    /// Starts the program that now lies where this one lay; it prepares itself while the old one serves on.
    fn begin_upgrade(&mut self) {
        if self.upgrade.is_some() {
            return;
        }
        let path = PathBuf::from(self.brief.program.to_os());
        tracing::info!("upgrading to {}", path.display());
        let started = program(&path).and_then(|program| {
            let held = self.held.with_program(program)?;
            Ok((Server::start(&self.brief, &held)?, held.program))
        });
        match started {
            Ok((next, program)) => {
                let since = Instant::now();
                self.upgrade = Some(Upgrading::Preparing {
                    next,
                    program,
                    since,
                });
            }
            Err(error) => self.upgraded(Some(error.to_string())),
        }
    }

    /// What the old one has only in memory, it writes down.
    fn have_it_give_way(&mut self) {
        if self.server.channel.send(&ToServer::GiveWay).is_err() {
            return;
        }
        let until = Instant::now() + GIVES_WAY_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut ends = [
                PollFd::new(&self.server.channel, PollFlags::IN),
                PollFd::new(&self.server.end, PollFlags::IN),
            ];
            if !matches!(
                rustix::event::poll(&mut ends, Some(&timespec(left))),
                Ok(1..)
            ) {
                return;
            }
            match self.server.channel.receive() {
                Ok(Some(ToKeeper::GaveWay)) | Ok(None) | Err(_) => return,
                Ok(Some(ToKeeper::Unmount)) => self.asked_to_end = true,
                Ok(Some(_)) => {}
            }
        }
    }

    /// The new program's server in the place of the old one's. What that is at is sent again by the kernel.
    fn take_over(&mut self) {
        let Some(Upgrading::Preparing { next, program, .. }) = self.upgrade.take() else {
            return;
        };
        self.have_it_give_way();
        self.server.kill("upgrade");
        self.server.has_ended(ENDS_WITHIN);
        self.remember("upgrade".into());
        let _ = next
            .channel
            .send(&ToServer::Begin(self.brief.restarts.clone()));
        let former = std::mem::replace(&mut self.held.program, program);
        self.upgrade = Some(Upgrading::Beginning { former });
        let mut old = std::mem::replace(&mut self.server, next);
        let _ = old.how_it_ended();
    }

    /// Tells what became of an upgrade.
    fn upgraded(&mut self, error: Option<String>) {
        match &error {
            None => tracing::info!("upgraded"),
            Some(error) => tracing::error!("the program stays the one that it is: {error}"),
        }
        let number = self.brief.upgrade.as_ref().map_or(0, |last| last.number) + 1;
        let upgrade = Upgrade {
            number,
            at: rfc3339(SystemTime::now()),
            error,
        };
        self.brief.upgrade = Some(upgrade.clone());
        let _ = self.server.channel.send(&ToServer::Upgraded(upgrade));
    }

    /// This process goes on as the new program.
    fn become_new(&mut self) {
        self.brief.server = self.server.pid.as_raw_nonzero().get() as u32;
        let first = First::Keep(self.brief.clone());
        let channel = &self.server.channel;
        let error = Channel::become_part(&self.held, &self.brief, "keeper", &first, channel);
        tracing::error!("the keeper stays the one that it is: {error}");
    }

    fn remember(&mut self, reason: String) {
        let dir = self.brief.path();
        tracing::warn!("the server of {} ended: {reason}", dir.display());
        let restarts = &mut self.brief.restarts;
        restarts.push(Restart {
            at: rfc3339(SystemTime::now()),
            reason,
        });
        let superfluous = restarts.len().saturating_sub(REMEMBERED);
        restarts.drain(..superfluous);
    }

    /// Another server in the place of one that ended.
    fn replace(&mut self, mut end: End) -> Result<()> {
        loop {
            self.remember(end.reason);
            // One that had not begun was at no request: what is noted is still its predecessor's.
            if end.by_itself && self.server.is_ready {
                self.vitals.blame();
            }
            if matches!(self.upgrade, Some(Upgrading::Beginning { .. }))
                && let Some(Upgrading::Beginning { former }) = self.upgrade.take()
            {
                self.held.program = former;
                self.upgraded(Some("it ended before it answered".into()));
            }
            if self.server.is_ready {
                self.failures = 0;
            } else {
                self.failures += 1;
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > GIVES_UP_AFTER {
                    let why = "no server could be started for a minute";
                    tracing::error!("{why}: unmounting {}", self.brief.path().display());
                    service::stopping();
                    detach(&self.brief.path())?;
                    return Err(Error::Settings(why.into()));
                }
                self.pause();
            }
            match begin_to_serve(&self.brief, &self.held) {
                Ok(server) => {
                    self.server = server;
                    return Ok(());
                }
                Err(error) => {
                    self.server.is_ready = false;
                    end = End {
                        reason: error.to_string(),
                        by_itself: false,
                    };
                }
            }
        }
    }

    fn pause(&self) {
        if let Some(more) = self.failures.checked_sub(TRIES) {
            let pause = Duration::from_millis(200) * 2u32.saturating_pow(more.min(6));
            std::thread::sleep(pause.min(LONGEST_PAUSE));
        }
    }

    fn unmount(mut self) -> Result<()> {
        let dir = self.brief.path();
        tracing::info!("unmounting {}", dir.display());
        service::stopping();
        let in_use = match detach(&dir) {
            Ok(in_use) => in_use,
            Err(_) if !is_mounted(&dir) => false,
            Err(error) => {
                tracing::error!("{error}");
                true
            }
        };
        if in_use {
            // Open files would keep it alive; what is being written is finished, and that is all.
            let _ = self.server.channel.send(&ToServer::Finish);
        }
        if let Some(Upgrading::Preparing { mut next, .. }) = self.upgrade.take() {
            next.kill("the mount ends");
            let _ = next.how_it_ended();
        }
        if !self.server.has_ended(ENDS_WITHIN) {
            self.server.kill("it did not end");
        }
        let _ = self.server.how_it_ended();
        tracing::info!("{} is unmounted", dir.display());
        Ok(())
    }
}
