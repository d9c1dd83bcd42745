//! How a running mount changes to another program: the new server prepares itself while the old one serves, takes its
//! place, and then the keeper follows. Until then the old one can go on.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags};

use super::begin::program;
use super::{ENDS_WITHIN, Keeper};
use crate::live::Upgrade;
use crate::mount::handover::{Channel, First, GIVES_WAY_WITHIN, ToKeeper, ToServer};
use crate::mount::supervised::{Server, timespec};
use crate::provider::rfc3339;

/// How long the server of a new program may take to get ready.
const PREPARES_WITHIN: Duration = Duration::from_secs(30);

/// How far an upgrade is.
pub(super) enum Upgrading {
    /// The new program prepares itself, while the old one serves.
    Preparing {
        next: Server,
        program: OwnedFd,
        since: Instant,
    },
    /// It is about to answer; if it does not, there is still the old one.
    Beginning { former: OwnedFd },
}

impl Upgrading {
    /// Gives up on a program that does not get ready.
    pub(super) fn feel(&mut self) {
        if let Self::Preparing { next, since, .. } = self
            && since.elapsed() > PREPARES_WITHIN
        {
            next.kill("it did not get ready");
        }
    }
}

impl Keeper {
    /// Starts the program that now lies where this one lay; it prepares itself while the old one serves on.
    pub(super) fn begin_upgrade(&mut self) {
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
    pub(super) fn have_it_give_way(&mut self) {
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
    pub(super) fn take_over(&mut self) {
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
    pub(super) fn upgraded(&mut self, error: Option<String>) {
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
    pub(super) fn become_new(&mut self) {
        self.brief.server = self.server.pid.as_raw_nonzero().get() as u32;
        let first = First::Keep(self.brief.clone());
        let channel = &self.server.channel;
        let error = Channel::become_part(&self.held, &self.brief, "keeper", &first, channel);
        tracing::error!("the keeper stays the one that it is: {error}");
    }
}
