//! The keeper: mounts, holds what must outlive a server, and sees to it that there is one. It fetches no secret, and has
//! little in it that could fail.

mod begin;
mod upgrading;

use std::ffi::OsString;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};

use super::handover::{Brief, Channel, First, Held, ToKeeper, ToServer};
use super::process::{Signals, leave_terminal, set_up};
use super::start::READY;
use super::state::is_mounted;
use super::supervised::{End, Server, timespec};
use super::unmount::detach;
use super::{device, service};
use crate::error::{Error, Result};
use crate::live::Restart;
use crate::process::heartbeat::HeartbeatPage;
use crate::provider::rfc3339;
use crate::settings::Settings;
use begin::begin;
use upgrading::Upgrading;

/// How often the pulse is felt.
const BEAT: Duration = Duration::from_secs(1);
/// So many servers in a row may fail to begin before the next one is waited with.
const TRIES: u32 = 5;
/// The longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a server nobody is made to wait for one any more.
const GIVES_UP_AFTER: Duration = Duration::from_secs(60);
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
    let heartbeat = HeartbeatPage::map(&held.heartbeat)?;
    let dir = brief.path();
    tracing::info!("keeping {} from now on", dir.display());
    let server = match Server::adopted(brief.server, channel, &heartbeat) {
        Some(server) => server,
        // Gone already, and whoever was told how is gone, too.
        None => begin_to_serve(&brief, &held)?,
    };
    service::ready(&dir);
    Keeper::new(brief, held, heartbeat, server, signals).run()
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

struct Keeper {
    brief: Brief,
    held: Held,
    heartbeat: HeartbeatPage,
    server: Server,
    signals: Signals,
    /// How many servers in a row ended before they answered.
    failures: u32,
    failing_since: Option<Instant>,
    /// The server has passed that on while something else was asked of it.
    asked_to_end: bool,
    upgrade: Option<Upgrading>,
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
    fn new(
        brief: Brief,
        held: Held,
        heartbeat: HeartbeatPage,
        server: Server,
        signals: Signals,
    ) -> Self {
        Self {
            brief,
            held,
            heartbeat,
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
        if let Some(why) = self.server.pulse.feel(&self.heartbeat, self.brief.patience) {
            self.server.kill(why);
        }
        if let Some(upgrading) = &mut self.upgrade {
            upgrading.feel();
        }
    }

    fn server_is_ready(&mut self) {
        self.server.serves(&self.heartbeat);
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
                self.heartbeat.record_crash();
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
