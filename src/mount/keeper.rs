//! The keeper: mounts, holds what must survive a server, and starts another server when one ends. It fetches no secret,
//! so that little in it can fail. `begin` has its begin, `upgrading` its steps of an upgrade.

mod begin;
mod sockets;
mod upgrading;
mod views;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};

use super::channel::Channel;
use super::detach::{detach_own, end_connection};
use super::environment::Environment;
use super::handover::{HandoverState, Hello, SharedFds, ToKeeper, ToServer};
use super::idle_pages::IdlePages;
use super::poll::poll;
use super::server_process::{Exit, ServerProcess};
use super::setup::{Signals, has_terminal, set_up};
use super::{device, service};
use crate::error::{Error, Result};
use crate::files::{base_folder, reserve};
use crate::live::Restart;
use crate::process::heartbeat::HeartbeatPage;
use crate::provider::rfc3339;
pub use begin::mount_foreground;
use upgrading::{Kind, Upgrading};

/// How often the keeper checks the server's heartbeat.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// After this many servers in a row that failed to begin, the keeper pauses before the next one.
const MAX_QUICK_RESTARTS: u32 = 5;
/// The first pause between two servers; it doubles with each further failure.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// The longest pause between two servers.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// After this long without a server the keeper unmounts, so that no process waits for ever.
const NO_SERVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How many restarts `status` lists.
const MAX_RESTARTS_LISTED: usize = 20;
/// How long a server may take to finish its writes after the unmount.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(16);
/// How long a process may take to end after it has closed its channel.
const CHANNEL_CLOSED_TIMEOUT: Duration = Duration::from_millis(100);

/// Takes over the mount of a server whose keeper has ended.
///
/// # Errors
/// The server has ended as well, and no other one can be started.
pub fn take_over() -> Result<()> {
    let (Hello::Keep(mut state), shared, channel) = Channel::inherited()?.receive_hello()? else {
        return Err(Error::Settings(
            "only a server starts this part of a mount".into(),
        ));
    };
    // Before the log is opened.
    base_folder::keep(state.base_folder.clone());
    set_up(state.log_file())?;
    let signals = Signals::new()?;
    state.keeper = std::process::id();
    let heartbeat = HeartbeatPage::map(&shared.heartbeat)?;
    let dir = state.mount_point();
    tracing::info!("keeping {} from now on", dir.display());
    let server = match ServerProcess::attach(state.server, channel) {
        Some(server) => server,
        None => start_serving(&state, &shared)?,
    };
    service::notify_ready(&dir);
    Keeper::new(state, shared, heartbeat, server, signals).run()
}

/// Starts a server that begins to serve as soon as it has prepared.
fn start_serving(state: &HandoverState, shared: &SharedFds) -> Result<ServerProcess> {
    let server = ServerProcess::start(state, shared)?;
    server.begin(state);
    Ok(server)
}

struct Keeper {
    state: HandoverState,
    shared: SharedFds,
    heartbeat: HeartbeatPage,
    server: ServerProcess,
    signals: Signals,
    /// Whether it has been started at a terminal: it ends with it.
    has_terminal: bool,
    /// How many servers in a row ended before they were ready.
    failures: u32,
    failing_since: Option<Instant>,
    /// The server passed on a request to unmount while the keeper waited for another message.
    unmount_requested: bool,
    upgrade: Option<Upgrading>,
    /// The change that was asked for while another was under way.
    next_change: Option<(Kind, Option<Environment>)>,
    idle_pages: IdlePages,
}

/// Why the keeper woke up. `Next` is the server that an upgrade prepares.
enum Wakeup {
    CheckDue,
    UnmountSignal,
    UpgradeSignal,
    ReloadSignal,
    /// With the descriptors that came along.
    Message(ToKeeper, Vec<OwnedFd>),
    ServerEnded,
    /// With the descriptors that came along.
    NextMessage(ToKeeper, Vec<OwnedFd>),
    NextEnded,
}

impl Keeper {
    fn new(
        state: HandoverState,
        shared: SharedFds,
        heartbeat: HeartbeatPage,
        server: ServerProcess,
        signals: Signals,
    ) -> Self {
        Self {
            state,
            shared,
            heartbeat,
            server,
            signals,
            has_terminal: has_terminal(),
            failures: 0,
            failing_since: None,
            upgrade: None,
            next_change: None,
            unmount_requested: false,
            idle_pages: IdlePages::after_start(),
        }
    }

    /// Runs until the mount ends.
    fn run(mut self) -> Result<()> {
        reserve::keep();
        loop {
            if self.unmount_requested {
                return self.unmount();
            }
            self.begin_next_change();
            match self.wait(CHECK_INTERVAL) {
                Wakeup::CheckDue => self.check(),
                Wakeup::UnmountSignal => return self.unmount(),
                Wakeup::UpgradeSignal => self.begin_upgrade(),
                Wakeup::ReloadSignal => self.reload(),
                Wakeup::Message(message, received) => self.handle_message(message, received),
                Wakeup::ServerEnded => {
                    let exit = self.server.reap();
                    if !device::is_connected(&self.shared.device) {
                        let dir = self.state.mount_point();
                        service::notify_stopping();
                        end_connection(self.detach_views());
                        self.remove_sockets();
                        tracing::info!("{} is unmounted", dir.display());
                        return Ok(());
                    }
                    self.replace_server(exit)?;
                }
                Wakeup::NextMessage(message, received) => {
                    self.handle_next_message(message, received)
                }
                Wakeup::NextEnded => self.give_up_upgrade(),
            }
        }
    }

    /// Handles a message of the server.
    fn handle_message(&mut self, message: ToKeeper, received: Vec<OwnedFd>) {
        match message {
            ToKeeper::Unmount => self.unmount_requested = true,
            ToKeeper::Reload(None) => self.reload(),
            ToKeeper::Reload(environment) => self.begin_reload(environment),
            ToKeeper::Ready => self.server_is_ready(),
            ToKeeper::Failed(why) => self.server.reason = Some(why),
            ToKeeper::ViewsMounted(state) => self.views_changed(Some(state), received),
            ToKeeper::ViewsEnded => self.views_changed(None, Vec::new()),
            ToKeeper::Sockets(files) => self.sockets_changed(files, received),
            ToKeeper::Program | ToKeeper::Prepared(_) | ToKeeper::Quiesced => {}
        }
    }

    /// Kills a server that hangs.
    fn check(&mut self) {
        let timeout = self.state.server_timeout;
        if let Some(why) = self.server.heartbeat.check(&self.heartbeat, timeout) {
            self.server.kill(why);
        }
        self.check_upgrade();
        self.idle_pages.look(&self.heartbeat);
    }

    fn server_is_ready(&mut self) {
        self.server.is_ready = true;
        self.failures = 0;
        self.failing_since = None;
        if let Some(Upgrading::Beginning {
            kind, environment, ..
        }) = self.upgrade.take_if(|upgrade| upgrade.has_begun())
        {
            self.finish_change(kind, None);
            if kind == Kind::Upgrade || environment.is_some() {
                self.exec_new_program(environment.as_ref());
            }
        }
    }

    /// Reloads at SIGHUP, unless it says that the terminal has hung up.
    fn reload(&mut self) {
        match self.has_terminal && !has_terminal() {
            true => self.unmount_requested = true,
            false => self.begin_reload(None),
        }
    }

    /// Waits for the next event, for at most `timeout`.
    fn wait(&mut self, timeout: Duration) -> Wakeup {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let next = match &self.upgrade {
                Some(Upgrading::Preparing { next, .. }) => Some(next),
                _ => None,
            };
            let mut fds = vec![
                PollFd::new(&self.signals.end, PollFlags::IN),
                PollFd::new(&self.signals.upgrade, PollFlags::IN),
                PollFd::new(&self.server.channel, PollFlags::IN),
                PollFd::new(&self.server.exit_fd, PollFlags::IN),
                PollFd::new(&self.signals.reload, PollFlags::IN),
            ];
            if let Some(next) = next {
                fds.push(PollFd::new(&next.channel, PollFlags::IN));
                fds.push(PollFd::new(&next.exit_fd, PollFlags::IN));
            }
            if poll(&mut fds, left).is_err() {
                continue;
            }
            let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            if is_ready(1) {
                let _ = rustix::io::read(&self.signals.upgrade, &mut [0; 16]);
                return Wakeup::UpgradeSignal;
            }
            if is_ready(4) {
                let _ = rustix::io::read(&self.signals.reload, &mut [0; 16]);
                return Wakeup::ReloadSignal;
            }
            if is_ready(2)
                && let Ok(Some((message, received))) =
                    self.server.channel.receive_with_descriptors()
            {
                return Wakeup::Message(message, received);
            }
            // After the server's messages: one of them may say that it is ready. The signal is never taken from its pipe.
            if is_ready(0) {
                return Wakeup::UnmountSignal;
            }
            if is_ready(3) {
                return Wakeup::ServerEnded;
            }
            if is_ready(5)
                && let Some(next) = next
                && let Ok(Some((message, received))) = next.channel.receive_with_descriptors()
            {
                return Wakeup::NextMessage(message, received);
            }
            if is_ready(6) {
                return Wakeup::NextEnded;
            }
            if is_ready(2) || is_ready(5) {
                // A process has closed its end of the channel, and is about to end.
                let ending = match is_ready(2) {
                    true => Some(&self.server),
                    false => next,
                };
                let exit_fds = ending.map(|ending| PollFd::new(&ending.exit_fd, PollFlags::IN));
                let _ = poll(&mut Vec::from_iter(exit_fds), CHANNEL_CLOSED_TIMEOUT);
            }
            if Instant::now() >= until {
                // A store that hangs can hold one of its threads in the kernel without end.
                return match self.server.is_held_by_kernel() {
                    true => Wakeup::ServerEnded,
                    false => Wakeup::CheckDue,
                };
            }
        }
    }

    /// Logs that the server ended, and records it for `status`.
    fn record_crash(&mut self, reason: String) {
        let dir = self.state.mount_point();
        tracing::warn!("the server of {} ended: {reason}", dir.display());
        self.record_restart(reason);
    }

    /// Records for `status` why another server begins.
    fn record_restart(&mut self, reason: String) {
        let restarts = &mut self.state.restarts;
        let before = restarts.last().map_or(0, |restart| restart.number);
        restarts.push(Restart {
            at: rfc3339(SystemTime::now()),
            reason,
            number: before + 1,
        });
        let too_many = restarts.len().saturating_sub(MAX_RESTARTS_LISTED);
        restarts.drain(..too_many);
    }

    /// Starts another server after one ended.
    fn replace_server(&mut self, mut exit: Exit) -> Result<()> {
        loop {
            self.record_crash(exit.reason);
            // A server that never became ready handled no request; the slots still hold its predecessor's.
            if exit.is_crash && self.server.is_ready {
                self.heartbeat.record_crash();
            }
            self.go_back();
            if self.server.is_ready {
                self.failures = 0;
            } else {
                self.failures += 1;
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > NO_SERVER_TIMEOUT {
                    let why = "no server could be started for a minute";
                    tracing::error!("{why}: unmounting {}", self.state.mount_point().display());
                    service::notify_stopping();
                    end_connection(self.detach_views());
                    self.remove_sockets();
                    end_connection(detach_own(&self.state.mount));
                    return Err(Error::Settings(why.into()));
                }
                self.delay_restart();
            }
            match start_serving(&self.state, &self.shared) {
                Ok(server) => {
                    self.server = server;
                    return Ok(());
                }
                Err(error) => {
                    self.server.is_ready = false;
                    exit = Exit {
                        reason: error.to_string(),
                        is_crash: false,
                    };
                }
            }
        }
    }

    fn delay_restart(&self) {
        if let Some(more) = self.failures.checked_sub(MAX_QUICK_RESTARTS) {
            let delay = RESTART_DELAY * 2u32.saturating_pow(more.min(6));
            std::thread::sleep(delay.min(MAX_RESTART_DELAY));
        }
    }

    fn unmount(mut self) -> Result<()> {
        let dir = self.state.mount_point();
        tracing::info!("unmounting {}", dir.display());
        service::notify_stopping();
        let left = detach_own(&self.state.mount);
        let left_of_views = self.detach_views();
        // Open files would keep the mount alive: the server finishes the writes under way, and then exits.
        let _ = self.server.channel.send(&ToServer::Shutdown);
        if let Some(Upgrading::Preparing { mut next, .. }) = self.upgrade.take() {
            next.kill("the mount ends");
            let _ = next.reap();
        }
        if !self.server.wait_for_exit(SHUTDOWN_TIMEOUT) {
            self.server.kill("it did not end");
        }
        let _ = self.server.reap();
        self.remove_sockets();
        end_connection(left_of_views);
        match left {
            None => tracing::info!("{} is unmounted", dir.display()),
            left => end_connection(left),
        }
        Ok(())
    }
}
