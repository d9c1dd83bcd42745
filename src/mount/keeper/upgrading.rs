//! How a running mount changes to another program, or to other settings: the next server prepares while the old one serves, the
//! keeper then replaces the old server, and at last itself. Until the next server is ready, the keeper can go back.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};

use super::{Keeper, SHUTDOWN_TIMEOUT};
use crate::error::Result;
use crate::files::reserve;
use crate::live::MountChange;
use crate::mount::channel::Channel;
use crate::mount::environment::Environment;
use crate::mount::handover::{
    HandoverState, Hello, QUIESCE_TIMEOUT, RELOADED, SharedFds, ToKeeper, ToServer,
};
use crate::mount::in_force;
use crate::mount::poll::is_ready;
use crate::mount::server_process::ServerProcess;
use crate::provider::rfc3339;

/// How long the new program's server may take to prepare.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a mount changes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The program at the mounted program's path, and what the settings file says now.
    Upgrade,
    /// What the settings file says now, and perhaps other variables.
    Reload,
}

/// The progress of an upgrade or of a reload.
pub(super) enum Upgrading {
    /// A process opens the new program or loads the settings, becomes the next server and prepares, while the old server serves.
    Preparing {
        kind: Kind,
        next: ServerProcess,
        /// Once it is open.
        program: Option<OwnedFd>,
        /// The memory into which the next server puts its settings.
        settings: OwnedFd,
        environment: Option<Environment>,
        since: Instant,
    },
    /// The next server begins to serve. If it fails, the keeper goes back to the former program and settings.
    Beginning {
        kind: Kind,
        environment: Option<Environment>,
        former: Former,
    },
}

/// What the keeper goes back to.
pub(super) struct Former {
    program: Option<OwnedFd>,
    settings: OwnedFd,
    server_timeout: u64,
}

impl Upgrading {
    pub(super) fn has_begun(&self) -> bool {
        matches!(self, Upgrading::Beginning { .. })
    }
}

impl Keeper {
    /// Begins the change that had to wait for another.
    pub(super) fn begin_next_change(&mut self) {
        if self.upgrade.is_some() {
            return;
        }
        match self.next_change.take() {
            Some((Kind::Upgrade, _)) => self.begin_upgrade(),
            Some((Kind::Reload, environment)) => self.begin_reload(environment),
            None => {}
        }
    }

    /// Starts the server of the program that is now at the mounted program's path.
    pub(super) fn begin_upgrade(&mut self) {
        tracing::info!("upgrading to {}", self.state.program().display());
        self.begin_change(Kind::Upgrade, None, ServerProcess::start_successor);
    }

    /// Starts a server that reads the settings file anew, with these variables if there are any.
    pub(super) fn begin_reload(&mut self, environment: Option<Environment>) {
        tracing::info!(
            "reloading the settings{}",
            if environment.is_some() {
                " and the variables"
            } else {
                ""
            }
        );
        let variables = environment.clone();
        self.begin_change(Kind::Reload, environment, |state, shared| {
            ServerProcess::start_with(variables.as_ref(), state, shared)
        });
    }

    fn begin_change(
        &mut self,
        kind: Kind,
        environment: Option<Environment>,
        start: impl FnOnce(&HandoverState, &SharedFds) -> Result<ServerProcess>,
    ) {
        if self.upgrade.is_some() {
            self.next_change = Some((kind, environment));
            return;
        }
        let started = in_force::create().and_then(|empty| {
            let in_force = std::mem::replace(&mut self.shared.settings, empty);
            let next = start(&self.state, &self.shared);
            let settings = std::mem::replace(&mut self.shared.settings, in_force);
            Ok((next?, settings))
        });
        match started {
            Ok((next, settings)) => {
                self.upgrade = Some(Upgrading::Preparing {
                    kind,
                    next,
                    program: None,
                    settings,
                    environment,
                    since: Instant::now(),
                });
            }
            Err(error) => self.finish_change(kind, Some(error.to_string())),
        }
    }

    /// Gives up on a new server that takes too long to prepare. A filesystem that hangs may hold it for longer.
    pub(super) fn check_upgrade(&mut self) {
        if let Some(Upgrading::Preparing { next, since, .. }) = &mut self.upgrade
            && since.elapsed() > PREPARE_TIMEOUT
        {
            next.kill("it did not get ready");
            self.give_up_upgrade();
        }
    }

    /// Keeps what was there after the next server has ended.
    pub(super) fn give_up_upgrade(&mut self) {
        if let Some(Upgrading::Preparing { kind, mut next, .. }) = self.upgrade.take() {
            let exit = next.reap();
            self.finish_change(kind, Some(exit.reason));
        }
    }

    /// Goes back to the former program and settings after the next server has ended before it was ready.
    pub(super) fn go_back(&mut self) {
        if let Some(Upgrading::Beginning { kind, former, .. }) =
            self.upgrade.take_if(|upgrade| upgrade.has_begun())
        {
            self.shared.settings = former.settings;
            self.state.server_timeout = former.server_timeout;
            if let Some(program) = former.program {
                self.shared.program = program;
            }
            self.finish_change(
                kind,
                Some("the new server ended before it was ready".into()),
            );
        }
    }

    /// Handles a message of the next server.
    pub(super) fn handle_next_message(&mut self, message: ToKeeper, received: Vec<OwnedFd>) {
        let Some(Upgrading::Preparing { next, program, .. }) = &mut self.upgrade else {
            return;
        };
        match message {
            ToKeeper::Program => *program = received.into_iter().next(),
            ToKeeper::Prepared(server_timeout) => self.switch_servers(server_timeout),
            ToKeeper::Failed(why) => next.reason = Some(why),
            // Later messages are those of a server.
            _ => {}
        }
    }

    /// Has the old server write to disk what it has only in memory.
    fn quiesce_server(&mut self) {
        if self.server.channel.send(&ToServer::Quiesce).is_err() {
            return;
        }
        let until = Instant::now() + QUIESCE_TIMEOUT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(&self.server.channel, PollFlags::IN),
                PollFd::new(&self.server.exit_fd, PollFlags::IN),
            ];
            if !is_ready(&mut fds, left) {
                return;
            }
            match self.server.channel.receive_with_descriptors() {
                Ok(Some((ToKeeper::Quiesced, _))) | Ok(None) | Err(_) => return,
                Ok(Some((ToKeeper::Unmount, _))) => self.unmount_requested = true,
                Ok(Some((ToKeeper::ViewsMounted(state), received))) => {
                    self.views_changed(Some(state), received);
                }
                Ok(Some((ToKeeper::ViewsEnded, _))) => self.views_changed(None, Vec::new()),
                Ok(Some(_)) => {}
            }
        }
    }

    /// Replaces the old server by the next one. The kernel then resends the requests that the old one worked on.
    fn switch_servers(&mut self, server_timeout: u64) {
        let Some(Upgrading::Preparing {
            kind,
            next,
            program,
            settings,
            environment,
            ..
        }) = self.upgrade.take()
        else {
            return;
        };
        let reason = match kind {
            Kind::Upgrade => "upgrade",
            Kind::Reload => RELOADED,
        };
        let (dir, pid) = (self.state.mount_point(), self.server.raw_pid());
        tracing::info!(
            "another server replaces process {pid} at {} ({reason})",
            dir.display()
        );
        self.quiesce_server();
        self.server.kill(reason);
        self.server.wait_for_exit(SHUTDOWN_TIMEOUT);
        self.record_restart(reason.into());
        self.send_views(&next);
        next.begin(&self.state);
        let former = Former {
            program: program.map(|new| std::mem::replace(&mut self.shared.program, new)),
            settings: std::mem::replace(&mut self.shared.settings, settings),
            server_timeout: std::mem::replace(&mut self.state.server_timeout, server_timeout),
        };
        self.upgrade = Some(Upgrading::Beginning {
            kind,
            environment,
            former,
        });
        let mut old = std::mem::replace(&mut self.server, next);
        let _ = old.reap();
    }

    /// Records the outcome of an upgrade or a reload, logs it, and sends it to the server.
    pub(super) fn finish_change(&mut self, kind: Kind, error: Option<String>) {
        match (kind, &error) {
            (Kind::Upgrade, None) => tracing::info!("upgraded"),
            (Kind::Upgrade, Some(error)) => {
                tracing::error!("the upgrade failed, and the old program keeps serving: {error}");
            }
            (Kind::Reload, None) => tracing::info!("the settings are reloaded"),
            (Kind::Reload, Some(error)) => {
                tracing::error!("the reload failed, and the old settings stay in force: {error}");
            }
        }
        let last = match kind {
            Kind::Upgrade => &mut self.state.upgrade,
            Kind::Reload => &mut self.state.reload,
        };
        let change = MountChange {
            number: last.as_ref().map_or(0, |last| last.number) + 1,
            at: rfc3339(SystemTime::now()),
            error,
        };
        *last = Some(change.clone());
        let _ = self.server.channel.send(&match kind {
            Kind::Upgrade => ToServer::Upgraded(change),
            Kind::Reload => ToServer::Reloaded(change),
        });
    }

    /// Replaces this keeper by another one in the same process: by the new program's, and with the variables that the next
    /// servers are to have.
    pub(super) fn exec_new_program(&mut self, environment: Option<&Environment>) {
        if let Some((kind, _)) = self.next_change.take() {
            let why = "another change was under way; try again";
            self.finish_change(kind, Some(why.into()));
        }
        self.state.server = self.server.raw_pid();
        let hello = Hello::Keep(self.state.clone());
        let channel = &self.server.channel;
        crate::logging::flush();
        let (shared, state) = (&self.shared, &self.state);
        let exec = || Channel::exec(shared, state, "keeper", environment, &hello, channel);
        let error = reserve::with(exec);
        tracing::error!("the keeper keeps running the old program with the old variables: {error}");
    }
}
