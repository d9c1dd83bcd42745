//! The server's side towards its keeper: it beats, hears signals and messages, and starts another keeper when its own has
//! ended.

use std::process::Child;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::channel::Channel;
use super::detach::{detach_own, end_connection};
use super::environment::Environment;
use super::handover::{HandoverState, Hello, QUIESCE_TIMEOUT, SharedFds, ToKeeper, ToServer};
use super::idle_pages::IdlePages;
use super::poll::is_ready;
use super::setup::Signals;
use super::sockets::Sockets;
use super::views::ViewsMount;
use crate::clock;
use crate::error::{Error, Result};
use crate::files::reserve;
use crate::fuse::Drain;
use crate::live::Tree;
use crate::manager::SecretsManager;
use crate::process::heartbeat::HeartbeatPage;
use crate::sync::{self, RwLock, SMALL_STACK};

/// How often the server beats: several times within the shortest `timeout.server`, one second.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);
/// How long the server waits before it tries again to start a keeper.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A shorter sleep makes no name too old.
const MIN_SLEEP: Duration = Duration::from_millis(100);

/// The server's link to its keeper: heartbeat, messages and signals, and another keeper when this one ends.
pub(super) struct KeeperLink {
    /// The thread that commits writes sends on it, too.
    pub(super) channel: Arc<RwLock<Channel>>,
    /// The keeper, if this server started it and must reap it.
    pub(super) keeper: Option<Child>,
    /// Dropped once a mount's first server may answer: its keeper has reported the mount, or has ended. A keeper that cannot report it
    /// unmounts, and nobody must have seen the mount by then.
    pub(super) begin: Option<mpsc::Sender<()>>,
    pub(super) signals: Signals,
    pub(super) state: HandoverState,
    pub(super) shared: SharedFds,
    pub(super) heartbeat: HeartbeatPage,
    pub(super) drain: Drain,
    pub(super) tree: Arc<Tree>,
    pub(super) views: Arc<ViewsMount>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) manager: Arc<SecretsManager>,
    /// How long the machine had slept at the last look.
    pub(super) slept: Duration,
}

impl KeeperLink {
    /// Starts the thread, which first reports that the server is ready to answer.
    pub(super) fn start_thread(mut self) -> Result<()> {
        let channel = self.channel.clone();
        self.tree.on_reload(Box::new(move |request| {
            let environment = Environment::from_request(request)?;
            channel.read().send(&ToKeeper::Reload(environment))
        }));
        let run = move || {
            // A keeper that has ended shows in the first `poll_once`.
            let _ = self.channel.read().send(&ToKeeper::Ready);
            let mut idle_pages = IdlePages::after_start();
            loop {
                self.poll_once();
                idle_pages.look(&self.heartbeat);
            }
        };
        let spawned = sync::spawn("keeper-link", SMALL_STACK, run);
        spawned
            .map(drop)
            .map_err(|e| Error::io("a thread cannot be started", e))
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
                    self.views.leave_opens();
                    self.sockets.pause(QUIESCE_TIMEOUT / 2);
                    self.tree.freeze_audit(QUIESCE_TIMEOUT);
                    let _ = self.channel.read().send(&ToKeeper::Quiesced);
                }
                Ok(Some(ToServer::Begin(_))) => self.begin = None,
                Ok(Some(ToServer::Views(_))) => {}
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
            self.views.next_epoch();
        }
        self.slept = self.slept.max(slept);
    }

    /// Passes a request to unmount on to the keeper. Without a keeper, the server unmounts by itself.
    fn unmount(&self) {
        if self.channel.read().send(&ToKeeper::Unmount).is_ok() {
            return;
        }
        let left = detach_own(&self.state.mount);
        let left_of_views = self.views.detach();
        self.finish();
        end_connection(left_of_views);
        end_connection(left);
        self.shut_down();
    }

    fn finish(&self) {
        self.sockets.remove();
        self.views.end();
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
        self.begin = None;
        if let Some(mut ended) = self.keeper.take() {
            let _ = ended.wait();
        }
        tracing::warn!("the keeper has ended; starting another");
        // Locked until the next keeper is there, so that no message about the views' mount goes to the keeper that has ended.
        let serving = self.views.serving.lock();
        let started = reserve::with(|| {
            let views = serving.as_ref().map(|now| now.fds.try_clone()).transpose();
            self.shared.views = views.map_err(|e| Error::io("the views' mount", e))?;
            self.state.views = serving.as_ref().map(|now| now.state.clone());
            let (child, channel) = Channel::start(&self.shared, &self.state, "keeper", None)?;
            self.state.keeper = child.id();
            // A keeper that has ended meanwhile shows in the next `poll_once`.
            let _ = channel.send_hello(&Hello::Keep(self.state.clone()), &self.shared, None);
            Ok::<_, Error>((child, channel))
        });
        let (child, channel) = match started {
            Ok(started) => started,
            Err(error) => {
                drop(serving);
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
