//! How a running mount changes to another program: the new server prepares while the old one serves, the keeper then
//! replaces the old server, and at last itself. Until the new server is ready, the keeper can go back to the old program.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};

use super::{Keeper, SHUTDOWN_TIMEOUT};
use crate::files::reserve;
use crate::live::Upgrade;
use crate::mount::channel::Channel;
use crate::mount::handover::{Hello, QUIESCE_TIMEOUT, ToKeeper, ToServer};
use crate::mount::poll::is_ready;
use crate::mount::server_process::ServerProcess;
use crate::provider::rfc3339;

/// How long the new program's server may take to prepare.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// The progress of an upgrade.
pub(super) enum Upgrading {
    /// A process opens the new program, becomes its server and prepares, while the old server serves.
    Preparing {
        next: ServerProcess,
        /// Once it is open.
        program: Option<OwnedFd>,
        since: Instant,
    },
    /// The new program's server begins to serve. If it fails, the keeper starts the former program again.
    Beginning { former: OwnedFd },
}

impl Keeper {
    /// Starts the server of the program that is now at the mounted program's path.
    pub(super) fn begin_upgrade(&mut self) {
        if self.upgrade.is_some() {
            return;
        }
        tracing::info!("upgrading to {}", self.state.program().display());
        match ServerProcess::start_successor(&self.state, &self.shared) {
            Ok(next) => {
                let since = Instant::now();
                self.upgrade = Some(Upgrading::Preparing {
                    next,
                    program: None,
                    since,
                });
            }
            Err(error) => self.finish_upgrade(Some(error.to_string())),
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

    /// Keeps the old program after the new one's server has ended.
    pub(super) fn give_up_upgrade(&mut self) {
        if let Some(Upgrading::Preparing { mut next, .. }) = self.upgrade.take() {
            let exit = next.reap();
            self.finish_upgrade(Some(exit.reason));
        }
    }

    /// Handles a message of the new program's server.
    pub(super) fn handle_next_message(&mut self, message: ToKeeper, received: Vec<OwnedFd>) {
        let Some(Upgrading::Preparing { next, program, .. }) = &mut self.upgrade else {
            return;
        };
        match message {
            ToKeeper::Program => *program = received.into_iter().next(),
            ToKeeper::Prepared => self.switch_servers(),
            ToKeeper::Failed(why) => next.reason = Some(why),
            ToKeeper::Ready | ToKeeper::Unmount | ToKeeper::Quiesced => {}
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
            match self.server.channel.receive() {
                Ok(Some(ToKeeper::Quiesced)) | Ok(None) | Err(_) => return,
                Ok(Some(ToKeeper::Unmount)) => self.unmount_requested = true,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Replaces the old server by the new program's. The kernel then resends the requests that the old one worked on.
    fn switch_servers(&mut self) {
        let Some(Upgrading::Preparing {
            next,
            program: Some(program),
            ..
        }) = self.upgrade.take()
        else {
            return;
        };
        self.quiesce_server();
        self.server.kill("upgrade");
        self.server.wait_for_exit(SHUTDOWN_TIMEOUT);
        self.record_restart("upgrade".into());
        let _ = next
            .channel
            .send(&ToServer::Begin(self.state.restarts.clone()));
        let former = std::mem::replace(&mut self.shared.program, program);
        self.upgrade = Some(Upgrading::Beginning { former });
        let mut old = std::mem::replace(&mut self.server, next);
        let _ = old.reap();
    }

    /// Records the outcome of an upgrade, logs it, and sends it to the server.
    pub(super) fn finish_upgrade(&mut self, error: Option<String>) {
        match &error {
            None => tracing::info!("upgraded"),
            Some(error) => {
                tracing::error!("the upgrade failed, and the old program keeps serving: {error}")
            }
        }
        let number = self.state.upgrade.as_ref().map_or(0, |last| last.number) + 1;
        let upgrade = Upgrade {
            number,
            at: rfc3339(SystemTime::now()),
            error,
        };
        self.state.upgrade = Some(upgrade.clone());
        let _ = self.server.channel.send(&ToServer::Upgraded(upgrade));
    }

    /// Replaces this keeper by the new program's, in the same process.
    pub(super) fn exec_new_program(&mut self) {
        self.state.server = self.server.raw_pid();
        let hello = Hello::Keep(self.state.clone());
        let channel = &self.server.channel;
        crate::logging::flush();
        let exec = || Channel::exec(&self.shared, &self.state, "keeper", &hello, channel);
        let error = reserve::with(exec);
        tracing::error!("the keeper keeps running the old program: {error}");
    }
}
